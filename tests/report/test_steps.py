"""The steps that the carried templates share, called as a template of one's own would call them."""
import numpy as np
import pandas as pd
import pytest
from reports import START, write_template

from finetune_book.checks import InputError
from finetune_book.report.publish import run_report
from finetune_book.report.exam import Exam, mistakes_of
from finetune_book.report.steps import drawn_splits, train_again

PROBA = np.array([[.9, .1], [.2, .8], [.4, .6], [.7, .3]])
CLASSES = np.array(["a", "b"])


def frame(n, seed=0): return pd.DataFrame({"label": np.random.default_rng(seed).choice(["a", "b"], n)})


def test_an_exam_knows_which_rows_belong_together():
    test = pd.DataFrame({"label": ["a", "b"], "group": ["p", "q"]})
    assert list(Exam.of(test, 3, "texts").draws["groups"]) == ["p", "q"] and Exam.of(test[["label"]], 3, "texts").draws == dict(groups=None, seed=3)


@pytest.mark.parametrize("most, rows, checks", [(0, 100, 60), (40, 40, 20), (1000, 100, 60), (1, 2, 1)])
def test_a_draw_keeps_every_class_and_half_as_many_to_validate(most, rows, checks):
    splits = {"train": frame(100), "validation": frame(60, 1), "test": frame(30, 2)}
    if most == 1:                           # one row cannot hold two classes, and one of them would be a guess
        with pytest.raises(InputError): drawn_splits(splits, most, 0)
        return
    train, val, test = drawn_splits(splits, most, 0)
    assert (len(train), len(val), len(test)) == (rows, checks, 30) and set(train.label) == {"a", "b"}
    assert drawn_splits(splits, most, 0)[0].index.equals(train.index)


def test_the_first_training_is_not_done_again():
    runs = train_again({"frozen": 1, "other": 2}, {"frozen": lambda seed: 10 * seed}, range(5, 7))
    assert runs == {"frozen": [1, 50, 60]}


def test_the_surest_mistake_comes_first():
    table, caption = mistakes_of(Exam(np.array(["b", "b", "a", "a"]), None, 0, "texts"), PROBA, CLASSES)
    assert list(table.row) == [0, 2] and caption == "2 of 2 mistakes on 4 test rows"


def test_a_template_of_ones_own(tmp_path):
    "Everything below the training is a handful of calls; what they show stands on the page."
    own = write_template(tmp_path / "own.ipynb", "seed = 0  # [0..]", START + "parameters = require()", """
import numpy as np, pandas as pd
from finetune_book.report.exam import (Exam, show_abstention, show_calibration, show_classes, show_intervals,
                                       show_ladder, show_steps)
from finetune_book.report.steps import train_again
rng = np.random.default_rng(seed)
test, check = (pd.DataFrame({"label": rng.choice(["a", "b"], 60)}) for _ in range(2))
classes = np.array(["a", "b"])
def guess(labels, right): return np.where(rng.random(60) < right, labels, rng.choice(classes, 60))
def sure(labels): return np.stack([.2 + .6 * (labels == c) for c in classes], 1)
exam, said = Exam.of(test, seed, "letters"), {"majority": np.repeat("a", 60), "guess": guess(test.label, .3)}
proba = sure(guess(test.label, .8))
said["model"] = classes[proba.argmax(1)]
rungs, steps = show_ladder(exam, said), show_steps(exam, said)
intervals = show_intervals(exam, train_again(said, {name: lambda seed: guess(test.label, .8) for name in ("guess", "model")}, [1]))
calibrated = show_calibration(exam, check.label.to_numpy(str), sure(guess(check.label, .8)), proba, classes)
answers, gain = show_abstention(exam, calibrated.proba, classes)
per_class = show_classes(exam, said["model"], classes)""", "record({'ladder': rungs, 'gain': gain})")
    done = run_report(own, {}, tmp_path / "out", progress=False)
    page = done.html.read_text()
    assert list(done.record["metrics"]["ladder"]) == ["majority", "guess", "model"] and page.count("<img alt=") == 4
    assert "Accuracy when only the surest letters are answered" in page and "95% intervals of the accuracy, 2 trainings" in page
