"""What a caller of the estimators may get wrong in Python: one line before any work. What is right in another type is taken as it is."""
import datetime

import numpy as np
import pandas as pd
import pytest

from examples import LABELS, TEXTS, pictures
from finetune_book import ImageClassifier, TextClassifier, TextRegressor
from finetune_book.checks import InputError
from finetune_book.tasks.classify import Classify
from finetune_book.tasks.regress import Regress
from finetune_book.tasks.task import one_each
from finetune_book.train.callbacks import KeepBest

NUMBERS = np.array([7, 8, 9] * 4)


@pytest.fixture
def no_work(monkeypatch):
    "Nothing slow may begin: a base that is opened is an error of the test."
    from finetune_book.text.rows import TextRows
    from finetune_book.vision.rows import ImageRows
    def begun(*a, **k): raise AssertionError("work has begun")
    monkeypatch.setattr(TextRows, "open", begun); monkeypatch.setattr(ImageRows, "open", begun)


def told(call, *words):
    with pytest.raises(InputError) as caught: call()
    assert "\n" not in str(caught.value) and all(w in str(caught.value) for w in words), str(caught.value)


TAKEN = {
    "pandas, whole numbers as objects": (pd.Series(NUMBERS, dtype=object), NUMBERS, "i"),
    "pandas, whole numbers of 8 bits": (pd.Series(NUMBERS, dtype="Int8"), NUMBERS, "i"),
    "pandas, text": (pd.Series(LABELS, dtype="string"), LABELS, "O"),
    "pandas, text of Arrow's kind": (pd.Series(LABELS), LABELS, "O"),
    "pandas, categories": (pd.Series(LABELS, dtype="category"), LABELS, "O"),
    "pandas, categories that are numbers": (pd.Series(NUMBERS, dtype="category"), NUMBERS, "i"),
    "pandas, truth": (pd.Series([True, False] * 6, dtype="boolean"), [True, False] * 6, "b"),
    "NumPy's scalars in a list": ([np.int32(v) for v in NUMBERS], NUMBERS, "i"),
    "NumPy's new text": (np.array(LABELS, dtype=np.dtypes.StringDType()), LABELS, "O"),
    "a tuple of text": (tuple(LABELS), LABELS, "U"),
    "whole floats": (NUMBERS.astype(float), NUMBERS, "f"),
    "a range": (range(12), list(range(12)), "i"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_labels_that_are_taken(case):
    y, says, kind = TAKEN[case]
    task, column = Classify(), one_each(y, 12)
    numbers = task.learn(column)
    assert task.classes[numbers.numpy()].tolist() == list(says) and task.classes.dtype.kind == kind
    assert task.targets(one_each(list(says), 12)).tolist() == numbers.tolist()


REFUSED = {
    "pandas' NA": (pd.Series(["a", None] * 6, dtype="string"), ["label 1 is missing"]),
    "NA among whole numbers": (pd.Series([1, 2, None] * 4, dtype="Int64"), ["label 2 is missing"]),
    "NaN among text": (["a", "b", float("nan")] * 4, ["label 2 is missing"]),
    "nothing among text": (["a", "b", ""] * 4, ["label 2 is missing"]),
    "blanks among NumPy's text": (np.array(["a", " ", "b"] * 4), ["label 1 is missing"]),
    "None among text": (np.array(["a", "b", None] * 4, dtype=object), ["label 2 is missing"]),
    "a category that is missing": (pd.Series(["a", "b", None] * 4, dtype="category"), ["label 2 is missing"]),
    "NaT": (pd.Series([pd.NaT, "a", "b"] * 4, dtype=object), ["label 0 is missing"]),
    "masked": (np.ma.masked_equal(NUMBERS, 9), ["target 2 is masked"]),
    "dates": (pd.date_range("2024-01-01", periods=12), ["target 0 is a date", "as text"]),
    "NumPy's dates": (np.array(["2024-01-01"] * 12, dtype="datetime64[ns]"), ["target 0 is a date"]),
    "days": ([datetime.date(2024, 1, 1)] * 12, ["target 0 is a date"]),
    "spans of time": (pd.to_timedelta(range(12), unit="D"), ["target 0 is a date"]),
    "lists that are all alike": ([np.array([1, 2])] * 12, ["every row has the same labels (1, 2)"]),
    "lists and text": ([["a"], "b"] * 6, ["row 1"]),
    "a column of zeros": (np.c_[np.zeros(12), [0, 1] * 6], ["label 0 has no training row"]),
    "a frame of text": (pd.DataFrame({"a": LABELS, "b": LABELS}), ["row 0, column 0", "must hold 0 and 1"]),
    "text and numbers": (["a", 1, "b"] * 4, ["target 0 is the text 'a' and target 1 the number 1"]),
    "bytes": ([b"a", b"b"] * 6, ["target 0 is b'a' of type bytes"]),
    "NumPy's bytes": (np.array([b"a", b"b"] * 6), ["target 0", "bytes"]),
    "complex numbers": ([1j, 2j] * 6, ["target 0 is 1j"]),
    "measurements": (np.linspace(0, 1, 12), ["label 1 is 0.09", "Unknown label type: continuous", "regressor"]),
    "numbers without end": ([10**30, 1] * 6, ["beyond 64 bits"]),
    "half a character": (["\ud83d", "b"] * 6, ["label 0 is '\\ud83d'", "half a character"]),
    "one word": ("abcdefghijkl", ["targets are 'abcdefghijkl'"]),
    "a share": (.5, ["targets are 0.5"]),
    "nothing": (None, ["no targets"]),
    "a dict": (dict.fromkeys(TEXTS, "a"), ["give a list or an array"]),
    "too few": (LABELS[1:], ["12 examples and 11 targets"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_are_refused_before_any_work(case, no_work):
    y, says = REFUSED[case]
    told(lambda: TextClassifier(verbose=0, device="cpu").fit(TEXTS, y), *says)


@pytest.mark.parametrize("y, says", [(pd.date_range("2024-01-01", periods=12), "is a date"), (np.arange(12).astype("timedelta64[D]"), "is a date"), (pd.Series([1, None] * 6, dtype="Int64"), "target 1 is nan"),
                                     (LABELS, "needs numbers"), ([1e300, 2.] * 6, "divide them"), ([1j] * 12, "target 0"), (np.zeros((12, 1)), "shape (12, 1)")])
def test_numbers_that_are_refused_before_any_work(y, says, no_work): told(lambda: TextRegressor(verbose=0, device="cpu").fit(TEXTS, y), says)


def test_numbers_that_are_taken():
    for y in (pd.Series(NUMBERS, dtype=object), pd.Series(NUMBERS, dtype="Float64"), [True, 2.5] * 6, pd.Series(NUMBERS.astype(str)).map(__import__("decimal").Decimal)):
        assert Regress().learn(one_each(y, 12)).shape == (12,)


@pytest.mark.parametrize("texts, says", [(dict.fromkeys(TEXTS, 1), "texts are {"), (5, "texts are 5"), (set(TEXTS), "texts are {"), (None, "texts are None")])
def test_what_is_no_column_of_texts_is_refused_before_any_work(texts, says, no_work):
    told(lambda: TextClassifier(verbose=0, device="cpu").fit(texts, LABELS), says, "give a list or an array of text")


@pytest.fixture(scope="module")
def doors(tmp_path_factory):
    "Every call of an estimator that takes examples: (texts or pictures, the call), by its name."
    from finetune_book import ImageRegressor
    from finetune_book.text.quick import QuickClassifier
    from tiny import save_tiny_base
    home, numbers = tmp_path_factory.mktemp("doors"), np.arange(12.)
    quick = dict(epochs=1, verbose=0, device="cpu")
    X, Y = pictures(12)
    kinds = {"texts": (TEXTS, LABELS, dict(base=save_tiny_base(home / "tiny"), max_length=16), (TextClassifier, TextRegressor)), "pictures": (X, Y, dict(size=8), (ImageClassifier, ImageRegressor))}
    found = {}
    for kind, (examples, labels, more, classes) in kinds.items():
        for cls, y in zip(classes, (labels, numbers)):      # validation with nothing else said: each method that is tried reads it
            model = cls(**quick, **more, tune="head").fit(examples, y)
            fit = lambda v, cls=cls, y=y, more=more: cls(**quick, **more, tune="head").fit(v, y)
            held = lambda v, cls=cls, y=y, more=more, examples=examples: cls(**quick, **more).fit(examples, y, validation=(v, y))
            calls = dict(fit=fit, validation=held, predict=model.predict, score=lambda v, model=model, y=y: model.score(v, y))
            if hasattr(model, "predict_proba"): calls["predict_proba"] = model.predict_proba
            found |= {f"{cls.__name__}.{name}": (kind, call) for name, call in calls.items()}
            if cls is TextClassifier: model.save(home / "saved")
    opened = QuickClassifier(home / "saved")
    return found | {f"QuickClassifier.{name}": ("texts", getattr(opened, name)) for name in ("predict", "predict_proba")}


NO_COLUMN = {"a dict": lambda items: dict.fromkeys(map(str, range(12)), 1), "a dict of rows": lambda items: dict(enumerate(items)), "a set": lambda items: set(map(str, range(12))), "a number": lambda items: 5,
             "one text": lambda items: "good", "bytes": lambda items: b"good clean room"[:12], "nothing": lambda items: None, "two columns": lambda items: pd.DataFrame({"a": list(items), "b": list(items)}),
             "a frame of one": lambda items: pd.DataFrame({"a": list(items)}), "two dimensions of text": lambda items: np.array([["a", "b"]] * 12), "two dimensions of numbers": lambda items: np.zeros((12, 2)),
             "no dimension": lambda items: np.array("good"), "a class": lambda items: list, "an empty list": lambda items: [], "rows that are None": lambda items: [None] * 12, "rows that are lists": lambda items: [["a"]] * 12}
DOORS = [f"{name}.{call}" for name in ("TextClassifier", "TextRegressor", "ImageClassifier", "ImageRegressor") for call in ("fit", "validation", "predict", "score", "predict_proba") if call != "predict_proba" or "Classifier" in name]
DOORS += ["QuickClassifier.predict", "QuickClassifier.predict_proba"]


@pytest.mark.parametrize("door", DOORS)
def test_no_column_of_examples_at_any_door(door, doors):
    assert set(doors) == set(DOORS)
    kind, call = doors[door]
    items = TEXTS if kind == "texts" else list(pictures(12)[0])
    for what, made in NO_COLUMN.items():
        try: call(made(items))
        except InputError as e: said = str(e)
        except Exception as e: pytest.fail(f"{door} of {what}: {type(e).__name__}: {e}")
        else: pytest.fail(f"{door} takes {what}")
        assert "\n" not in said and len(said) < 400 and "skip_bad" not in said.partition(";")[0], said
    call(items if door.endswith("score") else iter(items))                          # an iterator is a column, read once
    answers = call(pd.Series(items)) if "predict" in door else None
    if answers is not None: assert np.array_equal(answers, call(tuple(items))) and np.array_equal(answers, call(v for v in items))


def test_a_picture_that_is_none_is_named_by_its_own_row(no_work):
    "Where methods are tried on thirds of the rows, too: row 11 is not the third of its third."
    X, Y = pictures(12)
    told(lambda: ImageClassifier(verbose=0, device="cpu").fit([*X[:11], None], Y), "picture 11: an object of type NoneType")
    told(lambda: ImageClassifier(verbose=0, device="cpu").fit([*X[:10], X[10] / 255., "no/such.png"], Y), "picture 10: an array of float64", "1 more of 12")


@pytest.mark.parametrize("source", [None, 5, {1: 2}, ["m"], b"m", np.zeros((2, 2))])
def test_what_is_no_place_of_a_saved_classifier(source):
    from finetune_book.text.quick import QuickClassifier
    told(lambda: QuickClassifier(source), "source=", "must be the path of a saved classifier")


@pytest.mark.parametrize("classes, says", [("ab", "classes='ab'"), (5, "classes=5"), ({"a", "b"}, "must be a list"), ({"a": 1, "b": 2}, "must be a list"), (iter(["a"]), "at least 2"), (["a", "a"], "once")])
def test_classes_that_are_no_list_of_names(classes, says, tiny_base):
    from finetune_book.text.quick import QuickClassifier
    told(lambda: QuickClassifier(tiny_base, classes), says)


def test_a_base_that_reads_less_than_is_asked_for_says_what_it_reads(tiny_base):
    told(lambda: TextClassifier(tiny_base, verbose=0, device="cpu").fit(TEXTS, LABELS), "max_length=128", "at most 64 tokens; set max_length=64 or less")
    assert TextClassifier(tiny_base, max_length=64, epochs=1, verbose=0, device="cpu").fit(TEXTS, LABELS).predict(TEXTS[:1]).shape == (1,)


def test_positions_that_begin_after_padding_are_not_counted():
    "RoBERTa's table of 514 positions holds 512 tokens: the 513th would lie past its end."
    from types import SimpleNamespace
    from finetune_book.text.rows import encode
    body = SimpleNamespace(config=SimpleNamespace(model_type="roberta", max_position_embeddings=514, pad_token_id=1))
    told(lambda: encode(body, None, ["a"], 513), "at most 512 tokens")


WRONG = [("device", None, "device=None"), ("device", True, "device=True"), ("device", "abacus", "abacus"), ("device", "meta", "device='meta'"), ("callbacks", None, "callbacks=None"), ("callbacks", KeepBest("val_loss"), "must be a list"),
         ("callbacks", [KeepBest], "make an object of it"), ("callbacks", ["bar"], "is no Callback"), ("checkpoint_dir", 3, "must be the path"), ("checkpoint_dir", "", "must be the path"),
         ("checkpoint_dir", __file__, "is a file"), ("checkpoint_dir", __file__ + "/deep", "is a file"), ("checkpoint_dir", "a\0b", "checkpoint_dir"), ("class_weight", {1, 2}, "class_weight: {1, 2} of type set"),
         ("class_weight", {"neo": 2.}, "'neo' is no class"), ("class_weight", {"yes": -1}, "class_weight=-1"), ("class_weight", {"yes": float("nan")}, "class_weight=nan"), ("class_weight", {"yes": "2"}, "class_weight='2'"),
         ("class_weight", {"yes": float("inf")}, "class_weight=inf"), ("class_weight", {"yes": 1e-60}, "class_weight=1e-60"), ("class_weight", 2., "class_weight=2.0"), ("class_weight", [1, 2, 3], "2 positive numbers"),
         ("class_weight", {"yes": True}, "class_weight=True")]


@pytest.mark.parametrize("name, value, says", WRONG)
def test_settings_that_are_refused_before_any_work(name, value, says, no_work):
    told(lambda: TextClassifier(**{name: value, "verbose": 0}).fit(TEXTS, LABELS), says)
    X, Y = pictures(12)
    labels = ["yes" if y == "lit" else "no" for y in Y]
    told(lambda: ImageClassifier(**{name: value, "verbose": 0}).fit(X, labels), says)


@pytest.mark.parametrize("given", [.2, True, "held back", (TEXTS,), (TEXTS, LABELS, 1), {"X": TEXTS, "y": LABELS}, pd.DataFrame({"a": TEXTS, "b": LABELS}), 3])
def test_a_validation_that_is_no_pair(given, no_work):
    told(lambda: TextClassifier(verbose=0).fit(TEXTS, LABELS, validation=given), "validation=", "pair (examples, targets)", *["train_test_split"] * (given is not True and isinstance(given, float)))
    if not isinstance(given, str): told(lambda: ImageClassifier(verbose=0).fit(*pictures(12), validation=given), "validation=", "pair")


@pytest.mark.parametrize("given, says", [(([], []), "no texts"), ((TEXTS, LABELS[1:]), "12 examples and 11 targets"), ((TEXTS, None), "no targets"), ((TEXTS, [["yes"]] * 12), "one per example"),
                                         ((TEXTS, [*LABELS[1:], None]), "validation label 11 is missing"), (("good", "yes"), "one string"), ((LABELS, TEXTS), "never seen")])
def test_validation_pairs_that_do_not_fit(given, says, no_work): told(lambda: TextClassifier(verbose=0).fit(TEXTS, LABELS, validation=given), says)


def weights(given, y):
    task = Classify(class_weight=given)
    task.learn(one_each(y, len(y)))
    return task.loss.weight.tolist()


def test_class_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight
    y = np.array([7] * 6 + [8] * 2 + [9] * 4)
    classes = np.unique(y)
    for given in ("balanced", {7: 2.}, {7: 1, 8: 2, 9: 3, 10: 500}, dict(zip(classes, [1., 2., 3.])), {np.float64(7): np.float32(.5)}, {}):
        assert np.allclose(weights(given, y), compute_class_weight(given, classes=classes, y=y))
    assert np.allclose(weights(dict(zip(classes, compute_class_weight("balanced", classes=classes, y=y))), y), weights("balanced", y))
    assert weights(pd.Series([3., 1.], index=[9, 7]), y) == [1., 1., 3.] and weights(np.array([1., 2., 3.]), y) == weights((1, 2, 3), y) == [1, 2, 3]
    assert weights({True: 2.}, [True, False] * 3) == [1, 2]
    told(lambda: weights({"7": 500}, y), "'7' is no class of the training rows", "7, 8, 9", "write 7, not '7'")
    told(lambda: weights({np.int64(6): 500}, y), "class_weight: 6 is no class")


# --- the report's functions: paths, names and settings of another kind ---------------------------------------------------

NO_PATH = {"a number": 5, "bytes": b"x", "a list": ["a"], "a dict": {1: 2}, "a table": np.zeros((2, 2)), "blank": " ", "a NUL": "a\0b"}


def report_doors(folder):
    from finetune_book.report.fresh import render_report, report_once
    from finetune_book.report.gallery import publish_gallery
    from finetune_book.report.own import new_report
    from finetune_book.report.publish import run_report
    from finetune_book.report.sweep import run_sweep
    from finetune_book.report.verify import verify_report
    here = dict(out_dir=folder, progress=False)
    return {"template": lambda bad: run_report(bad, **here), "template once": lambda bad: report_once(bad, **here),
            "out_dir": lambda bad: run_report("finetune_text", out_dir=bad, progress=False), "out_dir once": lambda bad: report_once("finetune_text", out_dir=bad, progress=False),
            "name": lambda bad: run_report("finetune_text", name=bad, **here), "name once": lambda bad: report_once("finetune_text", name=bad, **here),
            "sweep's template": lambda bad: run_sweep(bad, {"epochs": 1}, **here), "sweep's out_dir": lambda bad: run_sweep("finetune_text", {"epochs": 1}, out_dir=bad, progress=False),
            "sweep's name": lambda bad: run_sweep("finetune_text", {"epochs": 1}, name=bad, **here),
            "render": lambda bad: render_report(bad, folder), "render from": lambda bad: render_report("r", bad), "verify": lambda bad: verify_report(bad, folder, progress=False),
            "verify from": lambda bad: verify_report("r", bad, progress=False), "new": new_report, "gallery": publish_gallery}


@pytest.fixture
def nothing_runs(monkeypatch):
    def ran(*a, **k): raise AssertionError("a report has begun")
    for name in ("publish.run_cells", "sweep.plan"): monkeypatch.setattr(f"finetune_book.report.{name}", ran)


@pytest.mark.parametrize("bad", NO_PATH.values(), ids=NO_PATH.keys())
@pytest.mark.parametrize("door", report_doors(None))
def test_a_report_refuses_what_is_no_path(door, bad, tmp_path, nothing_runs):
    told(lambda: report_doors(tmp_path)[door](bad), "must be the path")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [5, "epochs=3", ["epochs"], [], np.zeros(2)], ids=repr)
def test_a_report_refuses_values_that_are_no_dict(bad, tmp_path, nothing_runs):
    from finetune_book.report.publish import run_report
    from finetune_book.report.sweep import run_sweep
    told(lambda: run_report("finetune_text", bad, out_dir=tmp_path, progress=False), "values=", "must be a dict")
    told(lambda: run_sweep("finetune_text", bad, out_dir=tmp_path, progress=False), "grid=", "must be a dict")
