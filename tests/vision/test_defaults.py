"""What `ImageClassifier` decides where nothing is given: head and everything are tried on pictures held back."""
import warnings

import numpy as np
import pytest

from finetune_book import ImageClassifier
from finetune_book.adapt.freeze import weights_hash
from finetune_book.finetuner import thirds_held_back
from finetune_book.tasks.classify import Classify
from finetune_book.vision.rows import ImageRows
from examples import X, Y


@pytest.fixture(scope="module")
def open_settings(tiny_picture_base): return dict(base=tiny_picture_base, batch_size=8, epochs=2, verbose=0)


def test_both_are_tried_on_a_third_and_the_better_learns_from_all(open_settings):
    clf = ImageClassifier(**open_settings).fit(X, Y)
    assert set(clf.tried_) == {"head", "full"} and clf.tune_ == max(clf.tried_, key=clf.tried_.get)
    assert clf.n_train_ == len(X) and clf.get_params()["tune"] is None
    alone = ImageClassifier(tune=clf.tune_, **open_settings).fit(X, Y)
    assert weights_hash(clf.model_.parameters()) == weights_hash(alone.model_.parameters())
    assert np.array_equal(clf.predict_proba(X), alone.predict_proba(X)) and alone.tried_ == {}


def test_validation_pictures_are_the_judge_where_there_are_some(open_settings):
    clf = ImageClassifier(**open_settings).fit(X, Y, validation=(X[:6], Y[:6]))
    assert clf.tried_[clf.tune_] == max(clf.tried_.values()) == clf.score(X[:6], Y[:6])
    assert "val_loss" in clf.history_[0]


def test_a_rate_or_a_method_that_was_given_is_taken(open_settings):
    assert ImageClassifier(lr=.01, **open_settings).fit(X, Y).tune_ == "full"
    assert ImageClassifier(tune="top-1", **open_settings).fit(X, Y).tune_ == "top(k=1)"


def test_a_saved_model_knows_what_was_decided(open_settings, tmp_path):
    clf = ImageClassifier(**open_settings).fit(X, Y)
    again = ImageClassifier.load(clf.save(tmp_path / "m"), device="cpu")
    assert (again.tune_, again.lr_, again.epochs_) == (clf.tune_, clf.lr_, clf.epochs_)


def test_checkpoints_of_the_tries_lie_apart(open_settings, tmp_path):
    clf = ImageClassifier(checkpoint_dir=tmp_path / "state", **open_settings).fit(X, Y)
    again = ImageClassifier(checkpoint_dir=tmp_path / "state", **open_settings).fit(X, Y)
    assert weights_hash(clf.model_.parameters()) == weights_hash(again.model_.parameters())


@pytest.mark.parametrize("labels, enough, sizes", [
    (list("aab"), 150, []),                                           # too few rows to hold any back
    (list("aaaaaabbbc"), 150, [(7, 3), (7, 3)]),                        # the third turn would hold back the only c
    (list("aaabbbccc"), 150, [(6, 3)] * 3), (list("aaabbbccc"), 3, [(6, 3)])])
def test_as_many_thirds_are_held_back_as_it_takes_and_no_class_whole(labels, enough, sizes):
    targets = Classify().learn(np.array(labels))
    found = thirds_held_back(targets, 0, enough)
    assert [(len(learn), len(judged)) for learn, judged in found] == sizes
    for learn, judged in found: assert not set(learn) & set(judged) and set(targets[judged].tolist()) <= set(targets[learn].tolist())


def test_a_choice_among_few_pictures_is_made_on_all_of_them(open_settings, monkeypatch):
    judged = []
    monkeypatch.setattr(ImageClassifier, "score", lambda self, X, y: judged.append(len(y)) or 0.)
    clf = ImageClassifier(**open_settings).fit(X, Y)
    assert sum(judged) == 2 * len(X) and clf.tune_ == "head"              # each picture once for each of two methods


def test_settings_of_steps_are_named_where_no_step_is_taken(tiny_picture_base):
    open_settings = dict(base=tiny_picture_base, tune="head", verbose=0)
    with pytest.warns(UserWarning, match=r"patience=3, clip_norm=2\.0: not used.*give epochs"):
        ImageClassifier(patience=3, clip_norm=2., **open_settings).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solved = ImageClassifier(**open_settings).fit(X, Y)
        stepped = ImageClassifier(patience=3, epochs=1, **open_settings).fit(X, Y)
    assert solved.lr_ is None and stepped.lr_ > 0


def test_what_a_fit_warns_of_is_said_once_however_many_are_tried(open_settings, monkeypatch):
    monkeypatch.setattr(ImageRows, "inspect", lambda self, X, device: warnings.warn("seen before", stacklevel=2))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ImageClassifier(**open_settings).fit(X, Y)
    assert [str(w.message) for w in told].count("seen before") == 1
