"""Several labels at once through the estimators: every form of target, thresholds, what others open, and what is refused in one line."""
import json

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.metrics import accuracy_score

from examples import LABELS, TEXTS, pictures
from finetune_book import ImageClassifier, TextClassifier, TextRegressor
from finetune_book.checks import InputError
from finetune_book.judge.label_sets import label_f1

SETS = [[label, "long"] if " " in text else [label] for text, label in zip(TEXTS, LABELS)]
NAMES = ["long", "no", "yes"]
MATRIX = np.array([[int(name in labels) for name in NAMES] for labels in SETS])


@pytest.fixture(scope="module")
def small(tiny_base): return dict(base=tiny_base, epochs=60, lr=.02, batch_size=12, max_length=16, verbose=0, device="cpu")


@pytest.fixture(scope="module")
def fitted(small): return TextClassifier(**small).fit(TEXTS, SETS)


FORMS = {"lists": SETS, "tuples": [tuple(s) for s in SETS], "sets": [set(s) for s in SETS], "arrays": [np.array(s) for s in SETS],
         "series": pd.Series(SETS), "objects": np.array([*SETS, None], dtype=object)[:-1],
         "matrix": MATRIX, "bool": MATRIX > 0, "float": MATRIX.astype(float), "nested": MATRIX.tolist(), "sparse": sparse.csr_matrix(MATRIX),
         "frame": pd.DataFrame(MATRIX, columns=NAMES)}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_targets_gives_the_same_model_and_its_own_form_of_answers(small, fitted, form):
    clf = TextClassifier(**small).fit(TEXTS, FORMS[form])
    assert np.array_equal(clf.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    said = clf.predict(TEXTS)
    if isinstance(fitted, TextClassifier) and form in ("matrix", "bool", "float", "nested", "sparse", "frame"):
        assert said.shape == (12, 3) and set(np.unique(said)) <= {0, 1}
        assert clf.classes_.tolist() == (NAMES if form == "frame" else [0, 1, 2])
    else: assert all(isinstance(s, list) for s in said) and clf.classes_.tolist() == NAMES
    assert clf.score(TEXTS, FORMS[form]) == fitted.score(TEXTS, SETS) == 1.


def test_probabilities_are_each_labels_own_and_score_is_subset_accuracy(small):
    clf = TextClassifier(**small).set_params(epochs=3).fit(TEXTS, MATRIX)
    proba, said = clf.predict_proba(TEXTS), clf.predict(TEXTS)
    assert proba.shape == (12, 3) and np.abs(proba.sum(1) - 1).max() > .05 and np.array_equal(said, proba >= .5)
    assert clf.score(TEXTS, MATRIX) == accuracy_score(MATRIX, said)
    weight = np.arange(12.)
    assert clf.score(TEXTS, MATRIX, sample_weight=weight) == pytest.approx(accuracy_score(MATRIX, said, sample_weight=weight))
    assert "val_loss" not in clf.history_[0] and label_f1(MATRIX > 0, said > 0) <= 1


def test_saved_and_loaded_answers_the_same_and_transformers_opens_it(fitted, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    folder = fitted.save(tmp_path / "model")
    again = TextClassifier.load(folder, device="cpu")
    assert again.predict(TEXTS) == fitted.predict(TEXTS) == [sorted(s) for s in SETS]
    assert again.classes_.tolist() == NAMES and again.thresholds_.tolist() == [.5] * 3
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and list(config["id2label"].values()) == NAMES
    theirs, tokens = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad(): probs = torch.sigmoid(theirs(**tokens(TEXTS, padding=True, return_tensors="pt")).logits)
    assert np.abs(probs.numpy() - fitted.predict_proba(TEXTS)).max() < 1e-5
    assert "Labels" in (folder / "README.md").read_text() and again.score(TEXTS, SETS) == 1


def test_thresholds_given_or_fitted_decide_what_is_answered(small, fitted, tmp_path):
    proba = fitted.predict_proba(TEXTS)
    clf = TextClassifier(**small, thresholds={"yes": .999999}).fit(TEXTS, SETS)
    assert np.array_equal([["yes" in s for s in clf.predict(TEXTS)]], [proba[:, 2] >= .999999]) and clf.thresholds_.tolist() == [.5, .5, .999999]
    tuned = TextClassifier(**small, thresholds="f1").set_params(epochs=2).fit(TEXTS, SETS, validation=(TEXTS, SETS))
    plain = TextClassifier(**small).set_params(epochs=2).fit(TEXTS, SETS, validation=(TEXTS, SETS))
    assert np.array_equal(tuned.predict_proba(TEXTS), plain.predict_proba(TEXTS)) and tuned.thresholds_.tolist() != [.5] * 3
    assert label_f1(SETS, tuned.predict(TEXTS), "macro") > label_f1(SETS, plain.predict(TEXTS), "macro")
    assert TextClassifier.load(tuned.save(tmp_path / "m"), device="cpu").thresholds_.tolist() == tuned.thresholds_.tolist()
    assert {"val_loss", "val_f1", "val_accuracy"} <= tuned.history_[0].keys() and clone(tuned).thresholds == "f1"


def test_a_row_without_labels_is_an_example_of_none(small):
    sets = [[] if label == "no" else ["yes"] for label in LABELS]
    clf = TextClassifier(**small, patience=60).fit(TEXTS, sets, validation=(TEXTS, sets))
    assert clf.predict(TEXTS) == sets and clf.classes_.tolist() == ["yes"] and clf.predict_proba(TEXTS).shape == (12, 1)


@pytest.mark.parametrize("y, said", [
    ([*SETS[:-1], "no"], "labels of row 11 are 'no'"), ([*SETS[:-1], None], "labels of row 11 are missing"), ([*SETS[:-1], [""]], "empty name"),
    ([*SETS[:-1], [None]], "empty name"), ([*SETS[:-1], [1]], "partly words and partly numbers"), ([["yes"]] * 12, "every row has the same"),
    (SETS[:-1], "12 examples and targets for 11"), ([[] for _ in SETS], "no row has a label"), (np.zeros((12, 2)), "label 0 has no training row"),
    (np.full((12, 2), 3), "must hold 0 and 1"), (np.full((12, 2), np.nan), "must hold 0 and 1"), (MATRIX[:, :1], "shape"), (np.zeros((12, 2, 2)), "shape"),
    ([{"yes": 1}] * 12, "labels|classes|label")])
def test_targets_that_cannot_be_meant_are_refused_in_one_line(small, y, said):
    with pytest.raises(ValueError, match=said) as told: TextClassifier(**small).fit(TEXTS, y)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("settings, said", [
    (dict(thresholds="best"), "thresholds='best'"), (dict(thresholds=1.), "thresholds"), (dict(thresholds=[.5, .5]), "2 numbers for 3 labels"),
    (dict(thresholds="f1"), "validation"), (dict(class_weight="even"), "class_weight"), (dict(class_weight=[1, 2]), "3 positive numbers")])
def test_settings_that_do_not_fit_are_refused(small, settings, said):
    with pytest.raises(InputError, match=said): TextClassifier(**small, **settings).fit(TEXTS, SETS)


def test_thresholds_belong_to_several_labels_only(small):
    with pytest.raises(InputError, match="several labels"): TextClassifier(**small, thresholds=.4).fit(TEXTS, LABELS)
    with pytest.raises(InputError, match="several labels"): TextRegressor(**small, thresholds="f1").fit(TEXTS, np.arange(12.))
    assert not hasattr(TextClassifier(**small).set_params(epochs=1).fit(TEXTS, LABELS), "thresholds_")
    for y in (SETS, MATRIX):
        with pytest.raises(InputError, match="one (per example|value)"): TextRegressor(**small).fit(TEXTS, y)


@pytest.mark.parametrize("y, said", [([*SETS[:-1], ["new"]], "validation label 'new' was never seen in training"),
                                     (MATRIX[:, :2], "2 columns, training had 3"), (pd.DataFrame(MATRIX, columns=["a", "b", "c"]), "3 columns")])
def test_labels_that_training_never_showed_are_refused_in_validation_and_never_right_in_a_score(small, fitted, y, said):
    with pytest.raises(InputError, match=said): TextClassifier(**small).fit(TEXTS, SETS, validation=(TEXTS, y))
    if isinstance(y, list): assert fitted.score(TEXTS, y) == pytest.approx(11 / 12)


def test_weights_of_yes_move_the_answers_of_their_label_up(small, fitted):
    few = TextClassifier(**small).set_params(epochs=8)
    plain, heavy = few.fit(TEXTS, SETS).predict_proba(TEXTS), clone(few).set_params(class_weight={"no": 50.}).fit(TEXTS, SETS).predict_proba(TEXTS)
    assert heavy[:, 1].mean() > plain[:, 1].mean() + .1
    clone(few).set_params(class_weight="balanced", label_smoothing=.1).fit(TEXTS, SETS)


def test_pictures_take_several_labels_too_and_leave_out_what_cannot_be_read(tiny_picture_base, tmp_path):
    from PIL import Image
    X, y = pictures(12)
    sets = [[label, "third"] if i % 3 == 0 else [label] for i, label in enumerate(y)]
    paths = [str(tmp_path / f"{i}.png") for i in range(12)]
    for path, pixels in zip(paths, X): Image.fromarray(pixels).save(path)
    (tmp_path / "5.png").write_bytes(b"no picture")
    clf = ImageClassifier(tiny_picture_base, epochs=2, augment="mixup", skip_bad=True, verbose=0, device="cpu").fit(paths, sets)
    assert [row for row, _ in clf.skipped_] == [5] and clf.classes_.tolist() == ["dark", "lit", "third"] and len(clf.predict(X)) == 12
    again = ImageClassifier.load(clf.save(tmp_path / "model"), device="cpu")
    assert again.predict(X) == clf.predict(X) and again.predict_proba(X).shape == (12, 3)


def test_the_quick_reader_leaves_sets_to_the_full_one(fitted, tmp_path):
    from finetune_book.text.quick import QuickClassifier
    with pytest.raises(InputError, match="several labels at once"): QuickClassifier(fitted.save(tmp_path / "m"))
