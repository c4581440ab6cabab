"""LoRA: the sum, what it refuses, PEFT's files in both directions, and many adapters on one body."""
import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from examples import LABELS, TEXTS, pictures
from finetune_book import ImageClassifier, TextClassifier, TextRegressor
from finetune_book.adapt import as_method
from finetune_book.adapt.files import Adapter, find_adapter
from finetune_book.adapt.freeze import weights_hash
from finetune_book.adapt.lora import Adapters, Lora, adapter_of, add_lora, lora_layers, merge_lora, put_adapter, unmerge_lora
from finetune_book.checks import InputError
from finetune_book.text.bases import load_text_base
from finetune_book.train.trainer import Callback
from finetune_book.vision.bases import load_image_base

X, Y = pictures(12)


@pytest.fixture
def text(tiny_base): return load_text_base(tiny_base, 3, seed=0)[0]


@pytest.fixture
def picture(tiny_picture_base): return load_image_base(tiny_picture_base, 3, seed=0)[0]


def inputs_of(model):
    g = torch.Generator().manual_seed(0)
    if hasattr(model.config, "vocab_size"): return dict(input_ids=torch.randint(5, 40, (6, 7), generator=g))
    side = getattr(model.config, "image_size", 8)
    return dict(pixel_values=torch.randn(6, 3, side, side, generator=g))


@torch.no_grad()
def said(model, **inputs):
    out = model.eval()(**(inputs or inputs_of(getattr(model, "base_model", model) if hasattr(model, "peft_config") else model)))
    return getattr(out, "logits", out).clone()


def shaken(model, method=None, seed=0):
    "A model with a low rank that has learned something: every parameter that moves is changed."
    method = method or Lora()
    method.attach(model, seed)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad: p += .05 * torch.randn(p.shape, generator=g)
    return model


def near(a, b, limit=1e-5):
    a, b = a.detach(), b.detach()
    assert (a - b).abs().max() <= limit * max(1., float(b.abs().max())), float((a - b).abs().max())


# --- the sum -------------------------------------------------------------------------------------------------------

def draw(*shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()


LAYERS = {"linear": (lambda: nn.Linear(6, 5), draw(4, 6)), "linear of sequences": (lambda: nn.Linear(6, 5, bias=False), draw(2, 3, 6)),
          "convolution": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), draw(2, 4, 9, 9)),
          "dilated": (lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, padding_mode="reflect"), draw(2, 4, 9, 9)),
          "a point": (lambda: nn.Conv2d(4, 6, 1, stride=2, bias=False), draw(2, 4, 9, 9)),
          "an oblong": (lambda: nn.Conv2d(4, 6, (1, 3), padding="same"), draw(2, 4, 9, 9))}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rslora", [False, True])
def test_attached_merged_and_unmerged_say_the_same(name, rslora):
    make, x = LAYERS[name]
    model = nn.Sequential(make()).double()
    layer, before = model[0], model(x)
    weight = layer.weight.detach().clone()
    method = Lora(r=3, alpha=6., rslora=rslora)
    method.attach(model)
    assert torch.equal(model(x), before)
    with torch.no_grad(): layer.lora_B += 1.
    attached, adapter = model(x), adapter_of(model)
    assert (attached - before).abs().max() > .01
    near(merge_lora(model)(x), attached, 1e-12)
    assert not list(layer._forward_hooks) and {n for n, _ in layer.named_parameters()} <= {"weight", "bias"}
    near(unmerge_lora(model, adapter)(x), attached, 1e-12)
    near(layer.weight, weight, 1e-14)


def test_gradients_are_those_that_the_lesson_derives():
    model = nn.Sequential(nn.Linear(6, 5)).double()
    Lora(r=2, alpha=6.).attach(model)
    layer, x = model[0], draw(9, 6)
    with torch.no_grad(): layer.lora_B += draw(5, 2)
    out = model(x)
    out.retain_grad()
    out.square().sum().backward()
    G, A, B, s = out.grad, layer.lora_A, layer.lora_B, 3.
    near(B.grad, s * G.T @ x @ A.T, 1e-12)
    near(A.grad, s * B.T @ G.T @ x, 1e-12)
    assert layer.weight.grad is None


def test_the_seed_decides_and_no_global_state_moves(tiny_base):
    def a(seed): return weights_hash([layer.lora_A for layer in add_lora(load_text_base(tiny_base, 3, seed=0)[0], seed=seed).values()])
    before = torch.get_rng_state()
    assert a(0) == a(0) != a(1) and torch.equal(before, torch.get_rng_state())


# --- which layers --------------------------------------------------------------------------------------------------

def test_all_the_layers_of_the_body_and_the_head_whole(text, picture):
    names = list(lora_layers(text))
    assert len(names) == 2 * 6 + 1 and names[-1] == "bert.pooler.dense" and all(n.startswith("bert.encoder") for n in names[:-1])
    Lora().attach(text)
    moved = {n for n, p in text.named_parameters() if p.requires_grad and ".lora_" not in n}
    assert moved == {n for n, _ in text.named_parameters() if n.startswith("classifier") or n in text.fresh}
    assert len(lora_layers(picture)) == 12 and "fc" not in lora_layers(picture)
    assert set(lora_layers(picture, "layer2.0.conv1+downsample.0")) == {"layer2.0.conv1", "layer2.0.downsample.0", "layer3.0.downsample.0", "layer4.0.downsample.0"}


def test_what_the_base_did_not_give_moves_whole_and_is_kept(tiny_base, tmp_path):
    "A pooler of random numbers belongs to no base: an adapter without it could not be put on again."
    from safetensors.torch import load_file, save_file
    bare = tmp_path / "bare"
    shutil.copytree(tiny_base, bare)
    state = {n: t for n, t in load_file(bare / "model.safetensors").items() if "pooler" not in n}
    save_file(state, bare / "model.safetensors", metadata={"format": "pt"})
    model = shaken(load_text_base(bare, 3, seed=0)[0])
    adapter = adapter_of(model, bare)
    assert adapter.modules == ["bert.pooler", "classifier"]
    other = load_text_base(bare, 3, seed=7)[0]                      # another draw of the pooler
    near(said(put_adapter(other, adapter)), said(model), 1e-6)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.grouped, self.plain, self.tied = nn.Conv2d(4, 4, 3, groups=2), nn.Linear(4, 4), nn.Linear(4, 4)
        self.mate, self.attention = nn.Linear(4, 4), nn.MultiheadAttention(4, 2)
        self.mate.weight = self.tied.weight


@pytest.mark.parametrize("word, said", [
    ("grouped", "convolution in groups"), ("tied", "shares its weight"), ("out_proj", "is a NonDynamicallyQuantizableLinear"),
    ("nothing", "no layer is called so; there are plain"), ("lain", "no layer is called so"), ("plain+", "no layer is called so")])
def test_targets_that_cannot_be(word, said):
    with pytest.raises(InputError, match=said): Lora(targets=word).attach(Odd())
    assert list(lora_layers(Odd())) == ["plain"]


def test_a_layer_used_twice_is_one_layer():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    x = draw(3, 4).float()
    Lora(r=2).attach(model)
    with torch.no_grad(): layer.lora_B += 1.
    attached = model(x)
    near(merge_lora(model)(x), attached)


def test_the_fast_path_of_torchs_encoder_does_not_pass_by():
    "In eval mode torch's own encoder layer takes the weights of its parts and calls none of them."
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval().requires_grad_(False)
    x = draw(2, 5, 16).float()
    with torch.no_grad():
        before = model(x)
        layers = add_lora(model, r=2)
        for layer in layers.values(): layer.lora_B += 1.
        assert set(layers) == {"linear1", "linear2"} and (model(x) - before).abs().max() > .01


@pytest.mark.parametrize("word, said", [
    ("lora(r=0)", "r=0: must be a whole number, at least 1"), ("lora(r=-2)", "r=-2"), ("lora(r=1.5)", "r=1.5"), ("lora(alpha=0)", "alpha=0: must be a number above 0"),
    ("lora(alpha=-1)", "alpha=-1"), ("lora(targets=3)", "targets=3: must be 'all'"), ("lora(targets=[])", "targets="), ("lora(rslora='yes')", "must be True or False"),
    ("lora(rank=4)", "lora has no such setting; it has r, alpha, targets, rslora"), ("lora-4", "must be 'full'"), ("lorra", "Did you mean 'lora'")])
def test_settings_that_cannot_work(word, said):
    with pytest.raises(InputError, match=said): as_method(word)


def test_a_rank_above_the_matrix_is_refused_by_name_and_size(text, picture):
    with pytest.raises(InputError, match=r"r=17: the matrix of bert.encoder.layer.0.attention.self.query is 16 × 16, so its rank is at most 16"): Lora(r=17).attach(text)
    with pytest.raises(InputError, match="conv1 is 8 × 27"): Lora(r=9).attach(picture)
    assert not any(hasattr(m, "lora_A") for m in picture.modules())
    with pytest.raises(InputError, match="has a low rank already"): Lora().attach(shaken(text))


def test_without_a_rank_small_layers_get_what_they_can_have():
    model = nn.Sequential(nn.Linear(3, 20), nn.Linear(20, 20))
    assert [layer.lora_A.shape[0] for layer in add_lora(model).values()] == [3, 8]


@pytest.mark.parametrize("word", ["lora", "lora(r=4)", "lora(alpha=8.0, targets='query+value', rslora=True)"])
def test_a_method_is_written_as_the_word_that_makes_it(word): assert str(as_method(word)) == word and as_method(str(as_method(word))) == as_method(word)


def test_names_in_a_list_are_names(): assert as_method("lora(targets=['query', 'value'])") == Lora(targets="query+value")


# --- training ------------------------------------------------------------------------------------------------------

class Memory(Callback):
    "Which parameters have a gradient, and which the optimizer remembers."
    def on_fit_start(self, trainer):
        self.grads, names = set(), {id(p): n for n, p in trainer.model.named_parameters()}
        self.names = names
        trainer.optimizer.register_step_pre_hook(lambda *_: self.grads.update(names[id(p)] for p in trainer.model.parameters() if p.grad is not None))
    def on_batch_end(self, trainer): self.kept = {self.names[id(p)] for p in trainer.optimizer.state}


@pytest.mark.parametrize("kind", ["text", "picture"])
def test_frozen_parts_have_no_gradient_and_no_moments(kind, tiny_base, tiny_picture_base):
    memory = Memory()
    settings = dict(tune="lora(r=2)", epochs=2, batch_size=6, verbose=0, callbacks=[memory])
    if kind == "text": est = TextClassifier(base=tiny_base, max_length=16, **settings).fit(TEXTS, LABELS)
    else: est = ImageClassifier(base=tiny_picture_base, **settings).fit(X, Y)
    assert memory.kept == memory.grads and sum(".lora_" in n for n in memory.grads) == (26 if kind == "text" else 24)
    assert all(".lora_" in n or n.startswith(("classifier", "fc")) for n in memory.grads)
    assert est.n_trainable_ == sum(t.numel() for t in est.adapter_.tensors().values())


def test_statistics_of_batchnorm_stay(tiny_picture_base):
    est = ImageClassifier(base=tiny_picture_base, tune="lora", epochs=2, batch_size=6, verbose=0).fit(X, Y)
    base = load_image_base(tiny_picture_base, 2)[0].state_dict()
    assert all(torch.equal(t, base[n]) for n, t in est.model_.state_dict().items() if ".bn" in n or n.startswith("bn"))


def test_a_rate_that_falls_with_depth_holds_for_the_low_ranks(text):
    Lora().attach(text)
    rates = {g["name"]: g["lr"] for g in Lora().groups(text, 1., layer_decay=.5)}
    assert rates["head weights"] == 1. and rates["layer 1 weights"] == .5 and rates["layer 0 weights"] == .25 and "embeddings weights" not in rates


# --- files ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def fitted(tiny_base):
    return TextClassifier(base=tiny_base, tune="lora(r=4)", lr=.02, epochs=2, batch_size=6, max_length=16, verbose=0, device="cpu").fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def seeing(tiny_picture_base):
    return ImageClassifier(base=tiny_picture_base, tune="lora", lr=.02, epochs=2, batch_size=6, verbose=0, device="cpu").fit(X, Y)


def size(folder): return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_a_saved_model_holds_the_whole_and_the_adapter_and_both_open(fitted, seeing, tmp_path):
    from transformers import AutoModelForSequenceClassification
    for est, data in ((fitted, TEXTS), (seeing, X)):
        folder = est.save(tmp_path / type(est).__name__)
        alone = tmp_path / f"{type(est).__name__}-adapter"
        shutil.copytree(folder / "adapter", alone)                                # an adapter can travel alone
        for again in (type(est).load(folder, device="cpu"), type(est).load(alone, device="cpu"), type(est).load(folder / "adapter", device="cpu")):
            assert np.abs(again.outputs(data) - est.outputs(data)).max() < 1e-5
            assert list(again.classes_) == list(est.classes_) and again.tune_ == est.tune_ and again.n_trainable_ == est.n_trainable_
            twice = type(est).load(again.save(tmp_path / "again"), device="cpu")
            assert np.abs(twice.outputs(data) - est.outputs(data)).max() < 1e-5 and twice.adapter_.body == est.adapter_.body
        assert "adapter/" in (folder / "README.md").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "TextClassifier")
    assert not hasattr(model, "peft_config") or not model.peft_config
    ids = fitted.tokenizer_(TEXTS, padding=True, return_tensors="pt")
    near(said(model, **ids).double(), torch.from_numpy(fitted.outputs(TEXTS)))


def test_a_number_can_be_predicted_from_an_adapter(tiny_base, tmp_path):
    y = [len(t) for t in TEXTS]
    est = TextRegressor(base=tiny_base, tune="lora", lr=.02, epochs=2, batch_size=6, max_length=16, verbose=0, device="cpu").fit(TEXTS, y)
    again = TextRegressor.load(est.save(tmp_path / "m") / "adapter", device="cpu")
    assert np.abs(again.predict(TEXTS) - est.predict(TEXTS)).max() < 1e-3


def test_the_epoch_kept_is_the_one_that_is_saved(tiny_base, tmp_path):
    est = TextClassifier(base=tiny_base, tune="lora", epochs=4, batch_size=6, max_length=16, verbose=0, precision="bfloat16").fit(TEXTS, LABELS, validation=(TEXTS[::2], LABELS[::2]))
    again = TextClassifier.load(est.save(tmp_path / "m") / "adapter")
    assert len(est.history_) > 1 and np.abs(again.outputs(TEXTS) - est.outputs(TEXTS)).max() < .1 * np.abs(est.outputs(TEXTS)).max()


def test_other_methods_keep_no_adapter(tiny_base, tmp_path):
    est = TextClassifier(base=tiny_base, tune="full", epochs=1, verbose=0, max_length=16).fit(TEXTS, LABELS)
    folder = est.save(tmp_path / "m")
    assert est.adapter_ is None and not (folder / "adapter").exists() and TextClassifier.load(folder).adapter_ is None


def test_a_model_saved_over_another_leaves_no_adapter_of_it(fitted, tiny_base, tmp_path):
    folder = fitted.save(tmp_path / "m")
    TextClassifier(base=tiny_base, tune="head", verbose=0, max_length=16).fit(TEXTS, LABELS).save(folder)
    assert find_adapter(folder) is None and TextClassifier.load(folder).adapter_ is None


def edited(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_adapter_of_another_base_is_refused(fitted, tiny_base, tmp_path):
    from safetensors.torch import load_file, save_file
    other = tmp_path / "other"
    shutil.copytree(tiny_base, other)
    state = load_file(other / "model.safetensors")
    state["embeddings.word_embeddings.weight"][3] += 1e-3
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    folder = fitted.save(tmp_path / "m") / "adapter"
    path = folder / "finetune_book.json"
    path.write_text(json.dumps((s := json.loads(path.read_text())) | dict(params=s["params"] | dict(base=str(other)))))
    with pytest.raises(InputError, match="trained on another base .*other weights") as e: TextClassifier.load(folder)
    assert "\n" not in str(e.value)
    path.write_text(json.dumps(s | dict(params=s["params"] | dict(base=str(tmp_path / "gone")))))
    with pytest.raises(InputError, match="is an adapter, and its base does not open: base .*: no such folder"): TextClassifier.load(folder)


@pytest.mark.parametrize("change, said", [
    (dict(peft_type="LOHA"), "of the kind LOHA; only LORA"), (dict(peft_type="ADALORA"), "has only half of"), (dict(use_dora=True), "use_dora makes it another sum"), (dict(init_lora_weights="pissa_niter_4"), "changed the base itself"),
    (dict(lora_alpha=0), "lora_alpha=0"), (dict(lora_alpha="x"), "lora_alpha='x'")])
def test_kinds_of_adapters_that_cannot_be_opened(fitted, tmp_path, change, said):
    folder = fitted.save(tmp_path / "m") / "adapter"
    edited(folder, **change)
    with pytest.raises(InputError, match=said): TextClassifier.load(folder)


def test_an_adapter_that_is_not_whole_is_refused(fitted, text, tmp_path):
    folder = fitted.adapter_.write(tmp_path / "a")
    from safetensors.torch import load_file, save_file
    path, cut = folder / "adapter_model.safetensors", "layer.0.attention.self.query.lora_B.weight"
    save_file({n: t for n, t in load_file(path).items() if not n.endswith(cut)}, path)
    with pytest.raises(InputError, match="has only half of bert.encoder.layer.0.attention.self.query"): Adapter.read(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(InputError, match="not whole"): Adapter.read(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match="pickle"): Adapter.read(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(InputError): TextClassifier.load(folder)
    with pytest.raises(InputError, match="no adapter_config.json"): Adapter.read(tmp_path)
    with pytest.raises(InputError, match="for another model: here is no"): put_adapter(nn.Sequential(nn.Linear(4, 4)), fitted.adapter_)
    with pytest.raises(InputError, match="no fit"): put_adapter(text, fitted.adapter_)               # three classes, not two


# --- PEFT ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def peft(): return pytest.importorskip("peft", reason="peft is not installed (pip install peft): what our files say to it stays untested")


def hub_models():
    "Small classifiers of other architectures, their heads in other places."
    from transformers import AutoModelForSequenceClassification, DistilBertConfig, RobertaConfig, ViTConfig, ViTForImageClassification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {"Roberta": AutoModelForSequenceClassification.from_config(RobertaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3)),
                "DistilBert": AutoModelForSequenceClassification.from_config(DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=3)),
                "ViT": ViTForImageClassification(ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8, num_labels=3))}


METHODS = [Lora(), Lora(r=3, alpha=5., rslora=True)]


@pytest.mark.parametrize("kind", ["text", "picture", "Roberta", "DistilBert", "ViT"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_peft_opens_ours(peft, request, tmp_path, kind, method):
    import copy
    model = request.getfixturevalue(kind) if kind in ("text", "picture") else hub_models()[kind]
    plain, inputs = copy.deepcopy(model), inputs_of(model)
    ours = said(shaken(model, method), **inputs)
    adapter_of(model, "a base").write(tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "a")
    near(said(theirs, **inputs), ours, 1e-6)
    near(said(theirs.merge_and_unload(), **inputs), ours)


def test_peft_finds_some_layers_of_many_that_end_alike(peft, picture, tmp_path):
    import copy
    plain, inputs = copy.deepcopy(picture), inputs_of(picture)
    method = Lora(r=2)
    layers = {"conv1": dict(picture.named_modules())["conv1"]}                     # layer1.0.conv1 ends in conv1, too
    from finetune_book.adapt import lora
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora, "lora_layers", lambda model, targets: layers)
        ours = said(shaken(picture, method), **inputs)
    adapter = adapter_of(picture)
    assert adapter.targets == "conv1"
    near(said(peft.PeftModel.from_pretrained(plain, adapter.write(tmp_path / "a")), **inputs), ours, 1e-6)


SETTINGS = {
    "text": dict(task_type="SEQ_CLS", r=4, lora_alpha=12, target_modules=["query", "output.dense"], rank_pattern={"layer.0.attention.self.query": 2}, alpha_pattern={"query": 3}),
    "text of a pattern": dict(task_type="SEQ_CLS", r=3, lora_alpha=5, use_rslora=True, target_modules=r".*layer\.1.*(key|value)", lora_dropout=.1),
    "text with biases": dict(task_type="SEQ_CLS", r=3, lora_alpha=5, target_modules="all-linear", bias="lora_only"),
    "picture": dict(r=2, lora_alpha=7, target_modules=["conv1", "downsample.0"], modules_to_save=["fc"])}


@pytest.mark.parametrize("kind", SETTINGS)
def test_we_open_pefts(peft, request, tmp_path, kind):
    import copy
    model = request.getfixturevalue(kind.split()[0])
    plain, inputs = copy.deepcopy(model), inputs_of(model)
    theirs = peft.get_peft_model(model, peft.LoraConfig(**SETTINGS[kind]))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in theirs.parameters():
            if p.requires_grad: p += .05 * torch.randn(p.shape, generator=g)
    theirs.save_pretrained(tmp_path / "a")
    ours = put_adapter(plain, Adapter.read(tmp_path / "a"))
    near(said(ours, **inputs), said(theirs, **inputs), 1e-6)
    near(said(merge_lora(ours), **inputs), said(theirs, **inputs))


def test_an_estimator_opens_what_peft_saved(peft, tiny_base, tmp_path):
    model, tokenizer = load_text_base(tiny_base, 3, seed=4)
    theirs = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"]))
    with torch.no_grad():
        for n, p in theirs.named_parameters():
            if "lora_B" in n: p += .1
    theirs.save_pretrained(tmp_path / "a")
    edited(tmp_path / "a", base_model_name_or_path=tiny_base)
    clf = TextClassifier.load(tmp_path / "a", device="cpu")
    near(torch.from_numpy(clf.outputs(TEXTS)), said(theirs, **tokenizer(TEXTS, padding=True, return_tensors="pt")).double())
    assert list(clf.classes_) == ["LABEL_0", "LABEL_1", "LABEL_2"] and clf.predict(TEXTS[:1])[0] in clf.classes_
    again = TextClassifier.load(clf.save(tmp_path / "ours"), device="cpu")
    assert np.abs(again.outputs(TEXTS) - clf.outputs(TEXTS)).max() < 1e-5
    from safetensors.torch import load_file, save_file
    path = tmp_path / "a/adapter_model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if "classifier" not in n}, path)
    with pytest.raises(InputError, match="holds no head .classifier.weight."): TextClassifier.load(tmp_path / "a")
    edited(tmp_path / "a", base_model_name_or_path="")
    with pytest.raises(InputError, match="names no base"): TextClassifier.load(tmp_path / "a")


# --- many adapters -------------------------------------------------------------------------------------------------

def bank(model, sizes, seeds=(1, 2, 3)):
    "(Adapters, name → the model with that adapter merged)."
    import copy
    from finetune_book.tasks.heads import head_of
    shelf, merged = Adapters(copy.deepcopy(model)), {}
    for (name, n), seed in zip(sizes.items(), seeds):
        own = copy.deepcopy(model)
        head = head_of(own)
        g = torch.Generator().manual_seed(seed)
        head.weight, head.bias = nn.Parameter(torch.randn(n, head.in_features, generator=g)), nn.Parameter(torch.randn(n, generator=g))
        shaken(own, Lora(r=1 + seed), seed)
        shelf.add(name, adapter_of(own))
        merged[name] = merge_lora(own)
    return shelf, merged


@pytest.mark.parametrize("kind", ["text", "picture", "Roberta", "ViT"])
def test_a_mixed_batch_gives_what_each_alone_gives(request, kind):
    model = request.getfixturevalue(kind) if kind in ("text", "picture") else hub_models()[kind]
    before = weights_hash(model.state_dict())
    shelf, merged = bank(model, {"a": 3, "b": 5, "c": 1})
    inputs, names = inputs_of(model), ["a", "b", "a", "c", "b", "a"]
    mixed = shelf(names, **inputs)
    assert [len(row) for row in mixed] == [3, 5, 3, 1, 5, 3]
    for i, name in enumerate(names):
        near(mixed[i], said(merged[name], **inputs)[i])
        near(shelf(name, **inputs)[i], mixed[i])
    assert weights_hash({n: t for n, t in shelf.model.state_dict().items()}) == before


def test_one_body_is_in_memory(text):
    shelf, _ = bank(text, {"a": 3, "b": 5, "c": 2})
    body = sum(p.numel() for p in text.parameters())
    assert sum(p.numel() for p in shelf.model.parameters()) == body
    assert all(sum(t.numel() for t in a.tensors().values()) < .5 * body for a in shelf.known.values())


def test_what_was_put_on_can_be_taken_again(text):
    import copy
    plain = copy.deepcopy(text)
    adapter = adapter_of(shaken(text, Lora(r=3, alpha=5., rslora=True)), "a base")
    again = adapter_of(put_adapter(plain, adapter), "a base")
    assert again.config() == adapter.config() and again.body == adapter.body
    with pytest.raises(InputError, match="no low rank"): adapter_of(nn.Sequential(nn.Linear(2, 2)))


def test_what_a_shelf_refuses(text, picture):
    shelf, _ = bank(text, {"a": 3})
    inputs = inputs_of(text)
    with pytest.raises(InputError, match="Did you mean 'a'|no adapter of this name"): shelf("aa", **inputs)
    with pytest.raises(InputError, match="2 names for 6 rows"): shelf(["a", "a"], **inputs)
    with pytest.raises(InputError, match="an adapter of this name"): shelf.add("a", shelf.known["a"])
    with pytest.raises(InputError, match="for another model"): shelf.add("p", adapter_of(shaken(picture)))
    with pytest.raises(InputError, match="already"): Adapters(shaken(text))
    from dataclasses import replace
    with pytest.raises(InputError, match="another base"): shelf.add("b", replace(shelf.known["a"], body="0" * 64))
