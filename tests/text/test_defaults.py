"""What `TextClassifier` decides where nothing is given, what it says of it, and that given settings stay as they are."""
import json

import numpy as np
import pytest
import torch

from finetune_book import TextClassifier, TextRegressor
from finetune_book.adapt.freeze import weights_hash
from finetune_book.text.rows import FEW_TEXTS as FEW
from finetune_book.train.callbacks import Checkpoint
from finetune_book.train.trainer import Callback
from examples import LABELS, TEXTS

MANY, THEIRS = [f"{t} {i}" for i in range(4) for t in TEXTS], list(LABELS) * 4      # FEW texts, not fewer


@pytest.fixture
def small(tiny_base): return dict(base=tiny_base, max_length=16, batch_size=8, verbose=0)


def test_few_texts_get_the_head_and_more_get_everything(small):
    assert len(TEXTS) < FEW <= len(MANY)
    few, many = TextClassifier(**small).fit(TEXTS, LABELS), TextClassifier(**small).fit(MANY, THEIRS)
    assert (few.tune_, few.lr_, few.epochs_) == ("head", None, 1) and many.tune_ == "full"
    assert many.lr_ == 5e-5 and many.epochs_ == 16                   # a base that is not the book's; 100 steps of 8 of 48
    assert few.get_params()["lr"] is few.get_params()["tune"] is None


def test_settings_that_were_given_stay(small):
    clf = TextClassifier(tune="full", lr=1e-3, epochs=2, **small).fit(TEXTS, LABELS)
    assert (clf.tune_, clf.lr_, clf.epochs_) == ("full", 1e-3, 2) and len(clf.history_) == 2
    assert TextClassifier(lr=1e-3, epochs=1, **small).fit(TEXTS, LABELS).tune_ == "full"
    head = TextClassifier(tune="head", epochs=3, **small).fit(TEXTS, LABELS)
    assert (head.lr_, head.epochs_, len(head.history_)) == (1e-2, 3, 3)


def test_a_head_with_nothing_given_is_at_its_best(small):
    "No further step downhill is left, whatever the seed, and the penalty chosen is told."
    first, second = (TextClassifier(tune="head", seed=s, class_weight=None, **small).fit(MANY, THEIRS) for s in (0, 0))
    assert weights_hash(first.model_.parameters()) == weights_hash(second.model_.parameters())
    row, = first.history_
    assert row["penalty"] > 0 and row["train_loss"] < np.log(2)
    assert first.score(MANY, THEIRS) >= .85


def test_callbacks_and_epochs_want_steps(small):
    class Count(Callback):
        steps = 0
        def on_batch_end(self, trainer): self.steps += 1
    counting = Count()
    clf = TextClassifier(tune="head", callbacks=[counting], **small).fit(TEXTS, LABELS)
    assert counting.steps == clf.epochs_ * 2 > 10 and clf.lr_ == 1e-2


def test_the_body_moves_from_the_best_head(small):
    "Before its first step the whole model answers as the solved head does: a tiny rate leaves it there."
    head = TextClassifier(tune="head", **small).fit(MANY, THEIRS)
    clf = TextClassifier(tune="full", epochs=1, schedule="constant", warmup_frac=0., **small)
    def start(trainer): start.seen = trainer.model.classifier.weight.detach().clone()
    class Look(Callback):
        def on_fit_start(self, trainer): start(trainer)
    clf.set_params(callbacks=[Look()]).fit(MANY, THEIRS)
    assert torch.equal(start.seen, head.model_.classifier.weight)


def test_a_regressor_without_settings_learns(small):
    y = [len(t) for t in MANY]
    assert TextRegressor(tune="head", **small).fit(MANY, y).score(MANY, y) > .5


def test_what_was_decided_is_saved_and_on_the_card(small, tmp_path):
    clf = TextClassifier(**small).fit(MANY, THEIRS)
    again = TextClassifier.load(clf.save(tmp_path / "m"), device="cpu")
    assert (again.tune_, again.lr_, again.epochs_) == (clf.tune_, clf.lr_, clf.epochs_)
    assert again.get_params()["lr"] is None and np.array_equal(again.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    card = (tmp_path / "m/README.md").read_text(encoding="utf-8")
    told = json.loads(card.split("~~~json")[1].split("~~~")[0])
    assert (told["tune"], told["lr"], told["epochs"]) == ("full", 5e-5, 16)


def test_a_killed_training_goes_on_from_its_checkpoint_not_from_the_best_head(small, tmp_path):
    class Stop(Callback):
        def on_batch_end(self, trainer):
            if trainer.step == 20: raise KeyboardInterrupt
    whole = TextClassifier(**small).fit(MANY, THEIRS)
    settings = small | dict(checkpoint_dir=tmp_path / "state", checkpoint_every=5)
    with pytest.raises(KeyboardInterrupt): TextClassifier(callbacks=[Stop()], **settings).fit(MANY, THEIRS)
    assert Checkpoint.latest(tmp_path / "state")["step"] in (15, 20)
    again = TextClassifier(**settings).fit(MANY, THEIRS)
    assert weights_hash(again.model_.parameters()) == weights_hash(whole.model_.parameters())
