"""What `ImageClassifier` decides where nothing is given: head and everything are tried on pictures held back."""
import numpy as np
import pytest

from finetune_book import ImageClassifier
from finetune_book.adapt.freeze import weights_hash
from finetune_book.finetuner import third_held_back
from finetune_book.tasks.classify import Classify
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


@pytest.mark.parametrize("labels, parts", [(list("aab"), None), (list("aaaaaabbbc"), None), (list("aaabbbccc"), (6, 3))])
def test_no_class_is_held_back_whole(labels, parts):
    targets = Classify().learn(np.array(labels))
    found = third_held_back(targets, 0)
    assert found is None if parts is None else (len(found[0]), len(found[1])) == parts
