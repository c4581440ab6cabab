"""QuickClassifier: what `library/quick` cannot check on itself, and how `finetune-book predict` chooses between it and the full model."""
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from examples import LABELS, TEXTS, save_other

from finetune_book import TextClassifier, TextRegressor
from finetune_book.commands import predict
from finetune_book.checks import InputError
from finetune_book.text.bases import load_text_base
from finetune_book.text.quick import QuickClassifier, other_than_bert


@pytest.fixture(scope="module")
def saved(tiny_base, tmp_path_factory):
    "A classifier with three classes that are numbers."
    clf = TextClassifier(base=tiny_base, epochs=4, lr=.02, batch_size=4, max_length=16, verbose=0, precision="float32").fit(TEXTS, [7, 8, 9] * 4)
    return clf.save(tmp_path_factory.mktemp("saved") / "model")


def copy(saved, folder, **changes):
    "A copy of the model whose config.json is changed."
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_same_answers_as_the_full_model(saved):
    full, quick = TextClassifier.load(saved, device="cpu"), QuickClassifier(saved)
    texts = [*TEXTS, "x" * 100_000, "👩‍⚕️ 🤒", "ألم في الصدر", "头痛", "[MASK] [SEP] good", "good\x00bad\n", "q z ###"] * 8
    assert np.abs(quick.predict_proba(texts) - full.predict_proba(texts)).max() < 1e-5
    assert quick.predict(texts).tolist() == full.predict(texts).tolist() and quick.classes_.dtype == full.classes_.dtype


def test_alone_and_among_others(saved):
    quick = QuickClassifier(saved)
    together = quick.predict_proba([*TEXTS, "good " * 40])
    assert np.abs(np.concatenate([quick.predict_proba([t]) for t in TEXTS]) - together[:-1]).max() < 1e-6


def test_a_base_gets_the_same_head_as_elsewhere(tiny_base):
    before = torch.random.get_rng_state()
    quick, (theirs, tokenizer) = QuickClassifier(tiny_base, classes=["a", "b", "c"], seed=3), load_text_base(tiny_base, 3, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(quick.model_.classifier.weight, theirs.classifier.weight) and quick.predict(["good"])[0] in "abc"
    with torch.no_grad(): logits = theirs(**tokenizer(["very good room"], return_tensors="pt")).logits
    assert np.abs(quick.predict_proba(["very good room"]) - logits.double().softmax(1).numpy()).max() < 1e-5


def test_the_packed_base_is_read_without_a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_BOOK_CACHE", str(tmp_path / "cache"))
    packed = QuickClassifier("book-bert", classes=["no", "yes"])
    assert not (tmp_path / "cache").exists()
    theirs, tokenizer = load_text_base("book-bert", 2)
    with torch.no_grad(): logits = theirs(**tokenizer(["It works."], return_tensors="pt")).logits
    assert np.abs(packed.predict_proba(["It works."]) - logits.double().softmax(1).numpy()).max() < 1e-5


def test_a_text_is_cut_on_the_side_that_the_tokenizer_says(saved, tmp_path):
    folder = copy(saved, tmp_path / "left")
    told_to = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told_to | {"truncation_side": "left"}))
    text = ["good clean room " * 10 + "bad loud"]
    full, quick = TextClassifier.load(folder, device="cpu"), QuickClassifier(folder)
    assert full.tokenizer_.truncation_side == "left" and np.abs(quick.predict_proba(text) - full.predict_proba(text)).max() < 1e-5
    assert np.abs(quick.predict_proba(text) - QuickClassifier(saved).predict_proba(text)).max() > 1e-3


def test_a_base_with_a_head_of_another_kind(tiny_base, tmp_path):
    from transformers import BertConfig, BertForPreTraining
    folder = tmp_path / "pretrained"
    shutil.copytree(tiny_base, folder)
    with torch.random.fork_rng(devices=[]): BertForPreTraining(BertConfig.from_pretrained(tiny_base)).save_pretrained(folder)
    theirs, tokenizer = load_text_base(folder, 2, seed=1)
    with torch.no_grad(): logits = theirs(**tokenizer(["good"], return_tensors="pt")).logits
    assert np.abs(QuickClassifier(folder, classes=["a", "b"], seed=1).predict_proba(["good"]) - logits.double().softmax(1).numpy()).max() < 1e-5


def test_nothing_heavy_is_loaded(saved):
    code = f"""import sys
from finetune_book.text.quick import QuickClassifier
QuickClassifier({str(saved)!r}).predict(["good"])
print(sorted({{"transformers", "sklearn", "scipy", "pandas", "matplotlib", "torch._dynamo"}} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


# --- what it refuses -----------------------------------------------------------------------------------------------

def told(call, *words):
    with pytest.raises(InputError) as caught: call()
    assert "\n" not in str(caught.value) and all(w in str(caught.value) for w in words), str(caught.value)


@pytest.mark.parametrize("change, says", [(dict(model_type="roberta"), "model_type is roberta, not bert"), (dict(hidden_act="relu"), "hidden_act is relu"),
                                          (dict(position_embedding_type="relative_key"), "position_embedding_type"), (dict(is_decoder=True), "is_decoder")])
def test_another_network_is_named_and_not_read(saved, tmp_path, change, says):
    told(lambda: QuickClassifier(copy(saved, tmp_path / "m", **change)), says, "TextClassifier.load")


def test_broken_folders(saved, tmp_path, tiny_base):
    told(lambda: QuickClassifier(tmp_path / "none"), "no such folder")
    told(lambda: QuickClassifier("book-bert"), "classes=[…]")
    told(lambda: QuickClassifier(tiny_base), "no finetune_book.json")
    for name, says in (("model.safetensors", "no model.safetensors"), ("tokenizer.json", "no tokenizer.json"), ("config.json", "config.json")):
        folder = copy(saved, tmp_path / f"without {name}")
        (folder / name).unlink()
        told(lambda: QuickClassifier(folder), says)
    for name, says in (("model.safetensors", "cannot be read"), ("tokenizer.json", "cannot be read"), ("config.json", "not readable as JSON")):
        folder = copy(saved, tmp_path / f"broken {name}")
        (folder / name).write_bytes((folder / name).read_bytes()[:50])
        told(lambda: QuickClassifier(folder), says)
    told(lambda: QuickClassifier(copy(saved, tmp_path / "wide", hidden_size=32)), "its weights are not those of its config")
    folder = copy(saved, tmp_path / "unsaid")
    (folder / "finetune_book.json").write_text('{"estimator": "TextClassifier"}')
    told(lambda: QuickClassifier(folder), "is not whole; save the model again")


@pytest.mark.parametrize("told_to, says", [(dict(classes=["a"]), "at least 2"), (dict(classes=["a", "b"], max_length=2), "max_length=2"), (dict(classes=["a", "b"], seed=-1), "seed=-1"),
                                           (dict(classes=["a", "b"], max_length=65), "max_length=65: must be a whole number of tokens from 3 to 64")])
def test_arguments(tiny_base, told_to, says): told(lambda: QuickClassifier(tiny_base, **told_to), says)


@pytest.mark.parametrize("texts, says", [("good", "one string"), ([], "no texts"), (["good", float("nan")], "text 1 is nan"), ([" "], "text 0 is empty")])
def test_texts(saved, texts, says): told(lambda: QuickClassifier(saved).predict(texts), says)


# --- the command ---------------------------------------------------------------------------------------------------

def test_few_texts_are_read_the_quick_way_and_many_are_not(saved):
    assert type(predict.opened(saved, "TextClassifier", predict.FEW)) is QuickClassifier
    assert type(predict.opened(saved, "TextClassifier", predict.FEW + 1)) is TextClassifier


def test_what_the_quick_way_refuses_is_opened_in_full(tiny_base, tmp_path):
    base = save_other("distilbert", tmp_path / "base", tiny_base)
    small = dict(base=str(base), tune="head", epochs=1, max_length=16, verbose=0)
    folder = TextClassifier(**small).fit(TEXTS, LABELS).save(tmp_path / "other")
    assert type(predict.opened(folder, "TextClassifier", 1)) is TextClassifier
    number = TextRegressor(**small).fit(TEXTS, range(12)).save(tmp_path / "number")
    assert type(predict.opened(number, "TextRegressor", 1)) is TextRegressor
    with pytest.raises(InputError, match="config.json"): predict.opened(copy_without(folder, tmp_path / "broken"), "TextClassifier", 1)


def copy_without(folder, target):
    shutil.copytree(folder, target)
    (target / "config.json").unlink()
    return target


def test_every_reason_can_be_absent(): assert not other_than_bert({"model_type": "bert", "hidden_act": "gelu_new", "is_decoder": False})
