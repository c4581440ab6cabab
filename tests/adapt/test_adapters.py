"""Bottlenecks, (IA)³ and BitFit: where they come, what they refuse, and their files, PEFT's among them."""
import copy
import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from examples import LABELS, TEXTS, pictures
from finetune_book import ImageClassifier, TextClassifier
from finetune_book.adapt import as_method
from finetune_book.adapt.adapters import IA3, BitFit, Bottlenecks, Moved, Scales, places_for, read_adapter, scaled_layers
from finetune_book.adapt.files import Adapter
from finetune_book.checks import InputError
from finetune_book.text.bases import load_text_base
from finetune_book.vision.bases import load_image_base

X, Y = pictures(12)
WORDS = ["adapter", "adapter(place='block')", "adapter(size=3)", "ia3", "bitfit"]


@pytest.fixture
def text(tiny_base): return load_text_base(tiny_base, 3, seed=0)[0]


@pytest.fixture
def picture(tiny_picture_base): return load_image_base(tiny_picture_base, 3, seed=0)[0]


@pytest.fixture
def peft(): return pytest.importorskip("peft", reason="peft is not installed (pip install peft): what our files say to it stays untested")


def hub_model(kind):
    "A small classifier of another architecture."
    from transformers import AutoModelForSequenceClassification, DistilBertConfig, RobertaConfig, ViTConfig, ViTForImageClassification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "ViT": return ViTForImageClassification(ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=8, num_labels=3))
        config = dict(Roberta=RobertaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3),
                      DistilBert=DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=3))[kind]
        return AutoModelForSequenceClassification.from_config(config)


def model_of(kind, request): return request.getfixturevalue(kind) if kind in ("text", "picture") else hub_model(kind)


def inputs_of(model):
    g = torch.Generator().manual_seed(0)
    if hasattr(model.config, "vocab_size"): return dict(input_ids=torch.randint(5, 40, (6, 7), generator=g))
    side = getattr(model.config, "image_size", 8)
    return dict(pixel_values=torch.randn(6, 3, side, side, generator=g))


@torch.no_grad()
def said(model, inputs):
    out = model.eval()(**inputs)
    return getattr(out, "logits", out).clone()


def shaken(model, seed=0):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad: p += .1 * torch.randn(p.shape, generator=g)
    return model


def near(a, b, limit=1e-5): assert (a - b).abs().max() <= limit * max(1., float(b.abs().max())), float((a - b).abs().max())


# --- what is put where ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, both", [("text", ["attention.output.dense", "output.dense"]), ("Roberta", ["attention.output.dense", "output.dense"]),
                                        ("DistilBert", ["attention.out_lin", "ffn.lin2"])])
def test_bottlenecks_come_behind_attention_and_feed_forward_network(kind, both, request):
    model = model_of(kind, request)
    found = places_for(model)
    assert len(found) == 4 and all(any(n.endswith("." + end) for end in both) for n in found)
    assert set(found.values()) == {(16, True)} and len(places_for(model, "block")) == 2


def test_in_a_resnet_they_come_behind_the_blocks(picture):
    assert places_for(picture) == places_for(picture, "block") and len(places_for(picture)) == 4
    assert all(not flat for _, flat in places_for(picture).values())


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("kind", ["text", "picture", "Roberta", "DistilBert", "ViT"])
def test_step_zero_changes_nothing_and_files_bring_it_back(kind, word, request, tmp_path):
    model, method = model_of(kind, request), as_method(word)
    plain, inputs = copy.deepcopy(model), inputs_of(model)
    before = said(model, inputs)
    assert method.attach(model, 1) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert torch.equal(said(model, inputs), before)
    learned = said(shaken(model), inputs)
    assert (learned - before).abs().max() > 1e-3
    adapter = method.adapter(model, "a base")
    again = read_adapter(adapter.write(tmp_path / "a"))
    assert type(again) is type(adapter) and again.base == "a base" and again.body == adapter.body
    near(said(again.put(copy.deepcopy(plain)), inputs), learned)
    near(said(method.merge(model), inputs), learned)
    twice = read_adapter(again.write(tmp_path / "b"))
    near(said(twice.put(plain), inputs), learned)


def test_factors_stand_where_the_paper_has_them(text, picture):
    ends = {n.removeprefix("bert.encoder.layer."): on_input for n, on_input in scaled_layers(text).items()}
    assert ends == {f"{i}.{n}": on for i in (0, 1) for n, on in (("attention.self.key", False), ("attention.self.value", False), ("output.dense", True))}
    assert all(not on_input for on_input in scaled_layers(picture).values())
    assert scaled_layers(text, "query", "none").keys() == {f"bert.encoder.layer.{i}.attention.self.query" for i in (0, 1)}


def test_bitfit_moves_the_biases_and_the_head_alone(text, picture):
    for model in (text, picture):
        BitFit().attach(model)
        moved = {n for n, p in model.named_parameters() if p.requires_grad}
        head = {n for n in moved if n.startswith(("classifier", "fc."))}
        assert head and all(n.endswith(".bias") for n in moved - head) and len(moved) > 2
        assert all(p.requires_grad for n, p in model.named_parameters() if n.endswith("bias"))


def test_factors_and_biases_do_not_decay(text):
    for method in (IA3(), BitFit()):
        model = copy.deepcopy(text)
        method.attach(model)
        head = {id(p) for n, p in model.named_parameters() if n.startswith("classifier")}
        decaying = [p for g in method.groups(model, .1, .01) if g["weight_decay"] for p in g["params"] if id(p) not in head]
        assert not decaying


# --- saved ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("word", ["adapter(size=3)", "ia3", "bitfit"])
@pytest.mark.parametrize("kind", ["text", "picture"])
def test_a_saved_model_and_its_adapter_alone_say_the_same(kind, word, tiny_base, tiny_picture_base, tmp_path):
    usual = dict(tune=word, lr=.02, epochs=2, batch_size=6, verbose=0, device="cpu")
    if kind == "text": est, data = TextClassifier(base=tiny_base, max_length=16, **usual).fit(TEXTS, LABELS), TEXTS
    else: est, data = ImageClassifier(base=tiny_picture_base, **usual).fit(X, Y), X
    folder = est.save(tmp_path / "m")
    shutil.copytree(folder / "adapter", tmp_path / "alone")
    for where in (folder, folder / "adapter", tmp_path / "alone"):
        again = type(est).load(where, device="cpu")
        assert np.abs(again.outputs(data) - est.outputs(data)).max() < 1e-5 and again.tune_ == word and again.n_trainable_ == est.n_trainable_
        twice = type(est).load(again.save(tmp_path / "again"), device="cpu")
        assert np.abs(twice.outputs(data) - est.outputs(data)).max() < 1e-5
    card = (folder / "README.md").read_text()
    assert ("answers only with it" in card) == word.startswith("adapter") and "adapter/" in card
    from safetensors.torch import load_file
    assert not [n for n in load_file(folder / "model.safetensors") if "bottleneck" in n or "ia3" in n]


def test_the_model_still_answers_after_it_was_saved(tiny_base, tmp_path):
    est = TextClassifier(base=tiny_base, tune="adapter", lr=.02, epochs=1, max_length=16, verbose=0).fit(TEXTS, LABELS)
    before = est.outputs(TEXTS)
    est.save(tmp_path / "m")
    assert np.array_equal(est.outputs(TEXTS), before) and any("bottleneck" in n for n in est.model_.state_dict())


@pytest.mark.parametrize("word", ["adapter", "ia3", "bitfit"])
def test_another_base_is_refused(word, text, tiny_base, tmp_path):
    other = copy.deepcopy(text)
    with torch.no_grad(): other.bert.embeddings.word_embeddings.weight[3] += 1e-3
    method = as_method(word)
    method.attach(text)
    adapter = method.adapter(shaken(text), "a base")
    with pytest.raises(InputError, match="trained on another base"): adapter.put(other)
    with pytest.raises(InputError): adapter.put(nn.Sequential(nn.Linear(3, 3)))


@pytest.mark.parametrize("word", ["adapter", "ia3", "bitfit"])
def test_files_that_lack_something_are_refused(word, text, tmp_path):
    from safetensors.torch import load_file, save_file
    plain, method = copy.deepcopy(text), as_method(word)
    method.attach(text)
    folder = method.adapter(text, "a base").write(tmp_path / "a")
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    for change in (lambda t: {n: v for i, (n, v) in enumerate(sorted(t.items())) if i}, lambda t: t | {"base_model.model.nose.ia3_l": torch.ones(3, 1), "base_model.model.nose": torch.ones(3)}):
        save_file(change(tensors), path)
        if word == "ia3" and len(change(tensors)) < len(tensors): continue                           # fewer layers are an adapter, too
        with pytest.raises(InputError, match="for another model"): read_adapter(folder).put(copy.deepcopy(plain))
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | dict(peft_type="LOHA")))
    with pytest.raises(InputError, match="kind LOHA; only LORA, ADALORA, IA3"): read_adapter(folder)


# --- PEFT ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["text", "picture", "Roberta", "DistilBert", "ViT"])
def test_peft_opens_our_factors(peft, kind, request, tmp_path):
    model, method = model_of(kind, request), IA3()
    plain, inputs = copy.deepcopy(model), inputs_of(model)
    method.attach(model)
    ours = said(shaken(model), inputs)
    theirs = peft.PeftModel.from_pretrained(plain, method.adapter(model, "a base").write(tmp_path / "a"))
    near(said(theirs, inputs), ours)
    if kind != "Roberta": near(said(theirs.merge_and_unload(), inputs), ours)      # PEFT 0.21's own merge stumbles over a head of several layers


SETTINGS = {"text": dict(task_type="SEQ_CLS", target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"]),
            "text of a pattern": dict(task_type="SEQ_CLS", target_modules=r".*layer\.1.*(key|intermediate\.dense)", feedforward_modules=r".*intermediate\.dense"),
            "picture": dict(target_modules=["conv1", "conv2"], feedforward_modules=["conv2"], modules_to_save=["fc"])}


@pytest.mark.parametrize("kind", SETTINGS)
def test_we_open_pefts_factors(peft, kind, request, tmp_path):
    model = request.getfixturevalue(kind.split()[0])
    plain, inputs = copy.deepcopy(model), inputs_of(model)
    theirs = shaken(peft.get_peft_model(model, peft.IA3Config(**SETTINGS[kind])))
    told = said(theirs, inputs)
    theirs.save_pretrained(tmp_path / "a")
    scales = read_adapter(tmp_path / "a")
    near(said(scales.put(copy.deepcopy(plain)), inputs), told)
    near(said(read_adapter(scales.write(tmp_path / "b")).put(plain), inputs), told)


def test_the_same_gradients_as_pefts(peft, text):
    theirs = peft.get_peft_model(copy.deepcopy(text), peft.IA3Config(task_type="SEQ_CLS", target_modules=["key", "value", "layer.0.output.dense", "layer.1.output.dense"], feedforward_modules=["layer.0.output.dense", "layer.1.output.dense"]))
    inputs, y = inputs_of(text), torch.arange(6) % 3
    IA3().attach(text)
    text.eval(); theirs.eval()
    nn.functional.cross_entropy(text(**inputs).logits, y).backward()
    nn.functional.cross_entropy(theirs(**inputs).logits, y).backward()
    found = {n: p.grad for n, p in theirs.base_model.model.named_parameters() if "ia3_l" in n}
    ours = {n: p.grad for n, p in text.named_parameters() if "ia3_l" in n}
    assert len(ours) == len(found) == 6
    for name, grad in ours.items(): near(grad, found[name + ".default"].flatten(), 1e-5)


def test_an_estimator_opens_pefts_factors(peft, tiny_base, tmp_path):
    model, tokenizer = load_text_base(tiny_base, 3, seed=4)
    theirs = shaken(peft.get_peft_model(model, peft.IA3Config(**SETTINGS["text"])))
    theirs.save_pretrained(tmp_path / "a")
    path = tmp_path / "a/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(base_model_name_or_path=tiny_base)))
    clf = TextClassifier.load(tmp_path / "a", device="cpu")
    near(torch.from_numpy(clf.outputs(TEXTS)), said(theirs, tokenizer(TEXTS, padding=True, return_tensors="pt")).double())
    assert clf.tune_ == "ia3"


def test_peft_refuses_what_is_not_in_its_format(peft, text, tmp_path):
    plain, method = copy.deepcopy(text), Bottlenecks()
    method.attach(text)
    method.adapter(text, "a base").write(tmp_path / "a")
    with pytest.raises(KeyError, match="FINETUNE_BOOK"): peft.PeftModel.from_pretrained(plain, tmp_path / "a")


# --- refusals ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("word, told", [
    ("adapter(size=0)", "size=0: must be a whole number, at least 1"), ("adapter(size=-2)", "size=-2"), ("adapter(place='top')", "place='top'"), ("adapter(r=4)", "adapter has no such setting; it has size, place"),
    ("ia3(targets=3)", "targets=3"), ("ia3(inputs=[])", "targets="), ("ia3(alpha=2)", "ia3 has no such setting; it has targets, inputs"), ("bitfit(k=1)", "bitfit has no such setting; it has none"), ("bitfitt", "Did you mean 'bitfit'")])
def test_settings_that_cannot_work(word, told):
    with pytest.raises(InputError, match=told): as_method(word)


def test_what_does_not_fit_the_model_is_refused(text, picture):
    with pytest.raises(InputError, match=r"size=16: bert.encoder.layer.0.attention.output.dense is 16 wide"): Bottlenecks(size=16).attach(text)
    with pytest.raises(InputError, match="no layer is called so"): IA3(targets="nose").attach(text)
    with pytest.raises(InputError, match="one of the targets, too"): IA3(targets="key", inputs="key").attach(text)
    with pytest.raises(InputError, match="no layer is left"): IA3(targets="none", inputs="none").attach(text)
    bare = nn.Sequential(nn.Linear(3, 3, bias=False))
    with pytest.raises(InputError, match="has no bias"): BitFit().attach(bare)
    with pytest.raises(InputError, match="no stack of layers"): Bottlenecks().attach(bare)
    for method in (Bottlenecks(), IA3()):
        model = copy.deepcopy(text)
        method.attach(model)
        with pytest.raises(InputError, match="already"): method.attach(model)


@pytest.mark.parametrize("word", WORDS + ["ia3(targets='key+value')", "ia3(inputs='none')"])
def test_a_method_is_written_as_the_word_that_makes_it(word): assert str(as_method(word)) == word


def test_what_is_read_is_of_the_right_kind(text, tmp_path):
    kinds = {}
    for word in ("lora", "adalora", "ia3", "bitfit", "adapter"):
        model, method = copy.deepcopy(text), as_method(word)
        method.attach(model)
        kinds[word] = type(read_adapter(method.adapter(model).write(tmp_path / word)))
    assert kinds == dict(lora=Adapter, adalora=Adapter, ia3=Scales, bitfit=Moved, adapter=Moved)
