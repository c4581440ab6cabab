"""load(save(x)) equals x, for every estimator and every way it can be asked: weights, settings, classes, answers, a clone, a second fit."""
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.utils.class_weight import compute_class_weight

from examples import LABELS, TEXTS, everything, pictures
from finetune_book import ImageClassifier, ImageRegressor, TextClassifier, TextRegressor
from finetune_book.adapt.freeze import TopK
from finetune_book.checks import InputError
from finetune_book.commands import predict
from finetune_book.text.quick import QuickClassifier
from finetune_book.vision.augment import Augment

X, Y = pictures(12)
NUMBERS = np.array([7, 8, 9] * 4)
BALANCED = dict(zip(np.unique(NUMBERS), compute_class_weight("balanced", classes=np.unique(NUMBERS), y=NUMBERS)))
PICTURED = ImageClassifier, ImageRegressor
WAYS = {                                     # name → estimator, settings, targets
    "words": (TextClassifier, {}, LABELS),
    "a head": (TextClassifier, dict(tune="head"), LABELS),
    "a method as an object": (TextClassifier, dict(tune=TopK(1)), LABELS),
    "a method with settings in words": (TextClassifier, dict(tune="top(k=1)"), LABELS),
    "whole numbers, weights by NumPy's keys": (TextClassifier, dict(class_weight=BALANCED), NUMBERS),
    "whole numbers, weights by Python's keys": (TextClassifier, dict(class_weight={7: 3, 9: .5}), NUMBERS.astype("int8")),
    "weights by words": (TextClassifier, dict(class_weight={"yes": 3.}), np.array(LABELS, dtype=object)),
    "weights by truth": (TextClassifier, dict(class_weight={True: 3.}), [label == "yes" for label in LABELS]),
    "weights as an array": (TextClassifier, dict(class_weight=np.array([1., 2.], dtype="float32")), pd.Series(LABELS, dtype="category")),
    "weights as a tuple": (TextClassifier, dict(class_weight=(1, 2)), pd.Series(LABELS, dtype="string")),
    "balanced, whole floats": (TextClassifier, dict(class_weight="balanced"), NUMBERS.astype("float32")),
    "NumPy's scalars": (TextClassifier, dict(lr=np.float32(.005), epochs=np.int64(1), seed=np.uint8(3), label_smoothing=np.float64(.1)), np.array(LABELS, dtype="<U20")),
    "a base as a Path": (TextClassifier, dict(base=Path), LABELS),
    "labels of many scripts": (TextClassifier, {}, ["naïve\nline", "正常", "LABEL_1", " x "] * 3),
    "labels that look like defaults": (TextClassifier, {}, ["LABEL_1", "LABEL_0"] * 6),
    "pandas' whole numbers": (TextClassifier, dict(class_weight={7: 2.}), pd.Series(NUMBERS, dtype="Int64")),
    "objects that are whole numbers": (TextClassifier, {}, pd.Series(NUMBERS, dtype=object)),
    "a number": (TextRegressor, {}, np.linspace(-3, 900, 12)),
    "a number of pandas": (TextRegressor, dict(tune="head"), pd.Series(NUMBERS, dtype="Int64")),
    "a student of fewer layers": (TextClassifier, dict(base="student"), LABELS),
    "pictures": (ImageClassifier, {}, Y),
    "pictures, augmented by an object": (ImageClassifier, dict(augment=Augment(crop=1, flip=False, mixup=.4), class_weight={1: 2.}), np.array([0, 1] * 6)),
    "pictures, by words": (ImageClassifier, dict(augment="crop+flip", size=np.int64(12), freeze_norm=np.bool_(True), tune=TopK(2)), list(Y)),
    "pictures, another network": (ImageClassifier, dict(base="hugging face"), list(Y)),
    "a number of pictures": (ImageRegressor, {}, np.linspace(-3, 900, 12)),
    "a number of pictures, another network": (ImageRegressor, dict(base="hugging face", tune="head", augment="none"), pd.Series(NUMBERS, dtype="Int64")),
}


def hugging_face_base(folder):
    import torch
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=5)).save_pretrained(folder)
    ConvNextImageProcessor(size=dict(shortest_edge=8), crop_pct=1., image_mean=[.5] * 3, image_std=[.25] * 3).save_pretrained(folder)
    return folder


def student_base(tiny_base, folder):
    "The tiny base without its second layer."
    from finetune_book.compress.distill import keep_layers
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "config.json").read_text()) | dict(num_hidden_layers=1)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in keep_layers(load_file(folder / "model.safetensors"), [0]).items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def asked(tiny_base, tiny_picture_base, tmp_path_factory):
    "Function from the name of a way to its unfitted estimator, examples and targets."
    folder = tmp_path_factory.mktemp("bases")
    bases = {Path: Path(tiny_base), "hugging face": str(hugging_face_base(folder / "theirs")), "student": str(student_base(tiny_base, folder / "student"))}
    small = dict(epochs=1, lr=5e-3, batch_size=6, verbose=0, device="cpu")
    def ask(way):
        kind, settings, y = WAYS[way]
        usual = dict(base=tiny_picture_base, augment="crop") if kind in PICTURED else dict(base=tiny_base, max_length=16)
        chosen = {**small, **usual, **settings}
        return kind(**chosen | dict(base=bases.get(chosen["base"], chosen["base"]))), X if kind in PICTURED else TEXTS, y
    return ask


def same(a, b):
    "Settings that mean the same and are of the same kind; NumPy's scalars count as Python's."
    if isinstance(a, np.generic): a = a.item()
    if isinstance(a, np.ndarray): return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tolist() == b.tolist()
    return a == b and type(a) is type(b)


@pytest.mark.parametrize("way", WAYS)
def test_what_was_saved_is_what_is_loaded(asked, way, tmp_path):
    est, data, y = asked(way)
    est.fit(data, y)
    folder = est.save(tmp_path / "model")
    again = type(est).load(folder, device="cpu")
    assert everything(again.model_) == everything(est.model_)
    mine, theirs = est.get_params(), again.get_params()
    assert mine.keys() == theirs.keys() and [k for k in mine if not same(mine[k], theirs[k])] == []
    assert np.array_equal(again.outputs(data), est.outputs(data)) and np.array_equal(again.predict(data), est.predict(data))
    assert again.predict(data).dtype == est.predict(data).dtype
    if hasattr(est, "classes_"): assert again.classes_.dtype == est.classes_.dtype and again.classes_.tolist() == est.classes_.tolist() == np.unique(np.asarray(y)).tolist()
    if isinstance(est, TextClassifier):
        quick = QuickClassifier(folder)
        assert quick.classes_.dtype == est.classes_.dtype and quick.predict(data).tolist() == est.predict(data).tolist()
    refitted = clone(again).set_params(verbose=0, device="cpu").fit(data, y)
    assert everything(refitted.model_) == everything(est.model_)
    second = type(est).load(again.save(folder), device="cpu")            # where it came from
    assert everything(second.model_) == everything(est.model_) and second.history_ == est.history_


# --- config.json says something else ---------------------------------------------------------------------------------

def edited(folder, target, name="config.json", **changes):
    "A copy of a model one of whose JSON files is changed; None takes a field out."
    shutil.copytree(folder, target)
    content = json.loads((target / name).read_text()) | changes
    (target / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return target


@pytest.fixture(scope="module")
def text(asked, tmp_path_factory):
    est, data, y = asked("words")
    return est.fit(data, y), est.save(tmp_path_factory.mktemp("text") / "model")


@pytest.fixture(scope="module")
def numbered(asked, tmp_path_factory):
    est, data, y = asked("whole numbers, weights by Python's keys")
    return est.fit(data, y), est.save(tmp_path_factory.mktemp("numbered") / "model")


RENAMED = [({"0": "negative", "1": "positive"}, ["negative", "positive"]), ({"0": "yes", "1": "no"}, ["yes", "no"]), ({"0": 0, "1": 1}, ["0", "1"])]


@pytest.mark.parametrize("names, classes", RENAMED)
def test_new_names_are_taken_and_no_weight_is_touched(text, tmp_path, names, classes):
    est, folder = text
    folder = edited(folder, tmp_path / "m", id2label=names)
    full, quick = TextClassifier.load(folder, device="cpu"), QuickClassifier(folder)
    assert full.classes_.tolist() == quick.classes_.tolist() == classes and full.classes_.dtype == quick.classes_.dtype
    assert everything(full.model_) == everything(est.model_) and np.array_equal(full.outputs(TEXTS), est.outputs(TEXTS))
    assert full.predict(TEXTS).tolist() == quick.predict(TEXTS).tolist() == np.array(classes)[est.outputs(TEXTS).argmax(1)].tolist()
    again = TextClassifier.load(full.save(tmp_path / "again"), device="cpu")
    assert again.classes_.tolist() == classes and everything(again.model_) == everything(est.model_)
    few, many = (predict.predictions(predict.opened(folder, "TextClassifier", n), TEXTS, "text") for n in (1, 65))
    assert few.prediction.tolist() == many.prediction.tolist()


def test_names_of_numbers_stay_numbers_where_they_are_some(numbered, tmp_path):
    _, folder = numbered
    for k, (names, kind) in enumerate([((1, 2, 3), "i"), (("low", "8", "high"), "U"), ((1, 2, 300), "i"), (("7", "8", "9.0"), "U")]):
        copy = edited(folder, tmp_path / str(k), id2label=dict(enumerate(names)))
        for classes in (TextClassifier.load(copy, device="cpu").classes_, QuickClassifier(copy).classes_):
            assert classes.dtype.kind == kind and list(map(str, classes)) == list(map(str, names))


def test_names_edited_in_the_settings_are_taken_too(text, tmp_path):
    copy = edited(text[1], tmp_path / "m", "finetune_book.json", classes=["negative", "positive"])
    full, quick = TextClassifier.load(copy, device="cpu"), QuickClassifier(copy)
    assert full.classes_.tolist() == quick.classes_.tolist() == ["negative", "positive"]
    assert everything(full.model_) == everything(text[0].model_)


CONTRADICTIONS = {
    "three names": (dict(id2label={"0": "a", "1": "b", "2": "c"}), "names 3 classes, and the model was trained on 2"),
    "one name": (dict(id2label={"0": "a"}), "names 1 classes"),
    "one name twice": (dict(id2label={"0": "a", "1": "a"}), "two outputs alike"),
    "odd numbers": (dict(id2label={"1": "a", "2": "b"}), 'must name the outputs "0", "1"'),
    "no names": (dict(id2label=["a", "b"]), "must name the outputs"),
    "another count": (dict(num_labels=3), "num_labels is 3"),
    "another count, no names": (dict(num_labels=3, id2label=None, label2id=None), "names 3 classes"),
    "fewer layers": (dict(num_hidden_layers=1), "not those of its config"),
    "more layers": (dict(num_hidden_layers=3), "not those of its config"),
    "a wider body": (dict(hidden_size=32), "not those of its config"),
    "fewer pieces": (dict(vocab_size=110), "not those of its config"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_what_cannot_be_true_is_refused_by_both_ways(text, tmp_path, case):
    change, says = CONTRADICTIONS[case]
    copy = edited(text[1], tmp_path / "m", **change)
    for way in (lambda: QuickClassifier(copy), lambda: TextClassifier.load(copy, device="cpu"),
                lambda: predict.opened(copy, "TextClassifier", 1), lambda: predict.opened(copy, "TextClassifier", 65)):
        with pytest.raises(InputError, match=says) as caught: way()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("from_list", [True, False])
def test_weights_of_another_model_are_refused(text, asked, tmp_path, from_list):
    "Of the same shapes: the list of files tells. With a tensor too few or too many: also where there is no list."
    other, data, y = asked("words")
    other.set_params(seed=5).fit(data, y)
    copy = edited(text[1], tmp_path / "m", "finetune_book.json", **{} if from_list else dict(files=None))
    state = other.model_.state_dict() if from_list else {k: v for k, v in text[0].model_.state_dict().items() if not k.startswith("classifier")}
    save_file({k: v.contiguous() for k, v in state.items()}, copy / "model.safetensors", metadata={"format": "pt"})
    says = "not the file that was saved" if from_list else "not those of its config"
    for way in (lambda: QuickClassifier(copy), lambda: TextClassifier.load(copy, device="cpu")):
        with pytest.raises(InputError, match=says): way()


@pytest.mark.parametrize("way", ["pictures", "pictures, another network"])
def test_pictures_alike(asked, tmp_path, way):
    est, data, y = asked(way)
    folder = est.fit(data, y).save(tmp_path / "model")
    renamed = ImageClassifier.load(edited(folder, tmp_path / "renamed", id2label={"0": "night", "1": "day"}), device="cpu")
    assert renamed.classes_.tolist() == ["night", "day"] and everything(renamed.model_) == everything(est.model_)
    assert list(renamed.model_.config.id2label.values()) == ["night", "day"]
    for k, change in enumerate([dict(id2label={"0": "a", "1": "b", "2": "c"}), dict(num_labels=3), dict(num_labels=3, id2label={"0": "a", "1": "b", "2": "c"})]):
        with pytest.raises(InputError): ImageClassifier.load(edited(folder, tmp_path / str(k), **change))
    sized, X2, _ = asked("pictures, by words")
    folder = sized.fit(X2, y).save(tmp_path / "sized")
    said = json.loads((folder / "preprocessor_config.json").read_text())["crop_size"]
    with pytest.raises(InputError, match="trained on pictures of 12 pixels"):
        ImageClassifier.load(edited(folder, tmp_path / "other size", "preprocessor_config.json", crop_size={k: 8 for k in said}))


def test_a_regressor_has_one_output_whatever_its_config_says(asked, tmp_path):
    est, data, y = asked("a number")
    folder = est.fit(data, y).save(tmp_path / "model")
    again = TextRegressor.load(edited(folder, tmp_path / "two", num_labels=2, id2label=None, label2id=None), device="cpu")
    assert everything(again.model_) == everything(est.model_) and np.array_equal(again.predict(data), est.predict(data))


def test_weights_by_class_of_an_earlier_version_find_their_classes(numbered, tmp_path):
    "It wrote the keys as text."
    params = json.loads((numbered[1] / "finetune_book.json").read_text())["params"] | dict(class_weight={"7": 3, "9": .5})
    copy = edited(numbered[1], tmp_path / "m", "finetune_book.json", files=None, params=params)
    again = TextClassifier.load(copy, device="cpu")
    assert again.class_weight == {7: 3, 9: .5} and everything(again.set_params(verbose=0, device="cpu").fit(TEXTS, NUMBERS).model_) == everything(numbered[0].model_)


@pytest.mark.parametrize("content", ["[]", "3", '{"estimator": "TextClassifier"}', '{"estimator": "TextClassifier", "params": 3}', '{"estimator": "TextClassifier", "params": {"seed": {"#": "code"}}}', "{"])
def test_settings_that_are_not_whole(text, tmp_path, content):
    shutil.copytree(text[1], tmp_path / "m")
    (tmp_path / "m/finetune_book.json").write_text(content)
    for way in (QuickClassifier, TextClassifier.load):
        with pytest.raises(InputError, match="save the model again|no saved|this version"): way(tmp_path / "m")


# --- the card --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("way", ["words", "a number", "pictures", "pictures, another network", "a number of pictures"])
def test_a_card_says_what_is_true(asked, tmp_path, way, monkeypatch, capsys):
    import transformers
    est, data, y = asked(way)
    folder = est.fit(data, y).save(tmp_path / "model")
    card = (folder / "README.md").read_text(encoding="utf-8")
    auto = transformers.AutoModelForImageClassification if isinstance(est, PICTURED) else transformers.AutoModelForSequenceClassification
    try: auto.from_pretrained(folder); opens = True
    except Exception: opens = False
    assert ("library_name: transformers" in card) == opens == (way not in ("pictures", "a number of pictures"))
    assert "base_model" not in card and "val_" not in card and "No validation set" in card and f"{len(data)} examples" in card
    monkeypatch.chdir(folder)
    code = card.partition("~~~python\n")[2].partition("~~~")[0]
    exec(compile(code, "card", "exec"), {})                               # what the card says to type
    assert capsys.readouterr().out.startswith("[")
