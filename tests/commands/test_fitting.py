"""What `finetune-book train` decides, asked without the command line."""
import ast
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import finetune_book
from finetune_book.checks import InputError
from finetune_book.commands.fitting import (fit_model, judge, labels_of, make_model, parts_to_train,
                                            split_for_training)
from finetune_book.train.trainer import TrainingDiverged

COMMANDS = Path(finetune_book.__file__).parent / "commands"


def part(n, classes=("a", "b"), **columns):
    "n examples that have nothing in common, their classes in turn."
    frame = pd.DataFrame({"label": [classes[i % len(classes)] for i in range(n)], **columns})
    return [f"text {i}" for i in range(n)], frame


def alone(X, frame): return np.arange(len(X))


@pytest.mark.parametrize("module", ["fitting", "sources"])
def test_what_is_decided_knows_of_no_command_line(module):
    tree = ast.parse((COMMANDS / f"{module}.py").read_text(encoding="utf-8"))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {"typer", "sys", "options", "finetune_book.commands.options"} & names


def test_a_share_is_held_back_and_nothing_is_lost():
    train, held = split_for_training({"all": part(40)}, alone, False, .25, 0)
    assert len(held[0]) == 10 and sorted(train[0] + held[0]) == sorted(part(40)[0])
    assert set(held[1]["label"]) == {"a", "b"} and list(held[1].index) == [int(t.split()[1]) for t in held[0]]
    again = split_for_training({"all": part(40)}, alone, False, .25, 0)
    other = split_for_training({"all": part(40)}, alone, False, .25, 1)
    assert again[1][0] == held[0] != other[1][0]


def test_a_validation_part_of_its_own_is_kept():
    parts = {"train": part(20), "validation": part(6), "test": part(8)}
    train, held = split_for_training(parts, alone, False, .5, 0)
    assert train is parts["train"] and held is parts["validation"]


def test_nothing_is_held_back_for_a_share_of_nothing():
    parts = {"all": part(20)}
    assert split_for_training(parts, alone, False, 0, 0) == (parts["all"], None)


def test_a_group_stays_together():
    X, frame = part(40, group=[f"p{i // 4}" for i in range(40)])
    train, held = split_for_training({"all": (X, frame)}, alone, False, .3, 0)
    assert held[0] and not set(held[1]["group"]) & set(train[1]["group"])


@pytest.mark.parametrize("parts, numeric, says", [
    ({"test": part(8)}, False, "nothing to train on: found only test"),
    ({"all": part(8, ("a",))}, False, "only 1 class"),
    ({"train": part(8), "validation": part(8, ("a", "c"))}, False, "c"),
])
def test_what_cannot_be_trained_on(parts, numeric, says):
    with pytest.raises(InputError, match=says): split_for_training(parts, alone, numeric, .2, 0)


@pytest.mark.parametrize("share", [1, -.1, float("nan"), True])
def test_a_share_that_is_none(share):
    with pytest.raises(InputError, match="validation="): split_for_training({"all": part(8)}, alone, False, share, 0)


def test_bad_pictures_are_out_before_the_split(tmp_path):
    "Of twelve pictures one is broken: refused, or left out with a warning; the test part is not looked at."
    rng, paths = np.random.default_rng(0), [tmp_path / f"{i}.png" for i in range(12)]
    for p in paths: Image.fromarray(rng.integers(0, 255, (9, 9, 3)).astype(np.uint8)).save(p)
    paths[3].write_bytes(b"no picture")
    frame = pd.DataFrame({"label": ["a", "b"] * 6})
    def parts(): return {"train": ([str(p) for p in paths], frame), "test": (["gone.png"], frame[:1])}
    with pytest.raises(InputError, match="3.png"): parts_to_train(parts(), True, False, .25, 0, False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, held = parts_to_train(parts(), True, False, .25, 0, True)
    assert sum("left out" in str(w.message) for w in caught) == 1
    assert len(train[0]) + len(held[0]) == 11 and str(paths[3]) not in train[0] + held[0]


def test_the_estimator_has_what_was_chosen():
    model = make_model(False, {"tune": "full", "max_length": 64, "skip_bad": True, "out": "model"})
    assert (model.lr, model.epochs, model.max_length, model.verbose) == (None, None, 64, 1)
    assert make_model(False, {}).tune is None and make_model(True, {"lr": .01}).lr == .01
    assert type(make_model(True, {"tune": "full", "quiet": True})).__name__ == "ImageClassifier"
    assert type(make_model(False, {"tune": "head", "regression": True})).__name__ == "TextRegressor"
    with pytest.raises(InputError, match="epochs=0"): make_model(False, {"tune": "full", "epochs": 0})
    with pytest.raises(InputError, match="spin"): make_model(True, {"tune": "full", "augment": "spin"})


class Recorder:
    "An estimator that keeps what it was fitted with."
    def fit(self, X, y, validation): self.seen = X, list(y), validation
    def predict(self, X): return np.array(["a"] * len(X))


def test_the_rows_held_back_watch_the_fit():
    alone, watched = Recorder(), Recorder()
    fit_model(alone, part(32), None)
    fit_model(watched, part(40), part(4))
    assert alone.seen[2] is None and alone.seen[1][:2] == ["a", "b"] and list(watched.seen[2][1]) == ["a", "b", "a", "b"]


def test_a_training_that_diverges_is_a_mistake():
    class Diverging(Recorder):
        def fit(self, X, y, validation): raise TrainingDiverged("the loss is nan")
    with pytest.raises(InputError, match="training diverged: the loss is nan"): fit_model(Diverging(), part(8), None)


def test_the_line_of_the_result():
    held = (list("wxyz"), pd.DataFrame({"label": ["a", "a", "a", "b"]}))
    line = judge(Recorder(), held, part(3), False)
    assert line.startswith("accuracy on the rows held back: 0.750 [") and "4 test rows" in line
    assert line.endswith("; always 'a': 0.750")
    class Mean(Recorder):
        def predict(self, X): return np.full(len(X), 2.)
    numbers = (list("xy"), pd.DataFrame({"label": [1., 3.]}))
    line = judge(Mean(), numbers, (list("ab"), pd.DataFrame({"label": [0., 2.]})), True)
    assert line.startswith("mean squared error on the rows held back: 1.000 [") and line.endswith("; always the mean: 2")


def test_labels_become_arrays():
    assert labels_of(pd.DataFrame({"label": [1., 2.]})).dtype == np.float64
    assert labels_of(pd.DataFrame({"label": ["a", "b"]})).dtype.kind == "U"
