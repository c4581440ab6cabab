"""Lesson 31 (metrics) beyond the lesson: the types labels come in, each refusal, equality with scikit-learn on many random cases."""
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from finetune_book.judge.metrics import (accuracy, confusion_matrix, draw_confusion, log_loss, macro_f1, mean_squared_error,
                                   precision_recall_f1, r2, top_confusions)

LABELS = {"int": np.arange(5), "negative": np.arange(5) - 2, "text": np.array(["心悸", "b", "a b", "", "Z"]),
          "object": np.array(["x", "yy", "z", "w", "v"], dtype=object), "bool": np.array([False, True])}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("seed", range(5))
def test_equal_to_sklearn_on_random_labels(kind, seed):
    rng, names = np.random.default_rng(seed), LABELS[kind]
    n = int(rng.integers(1, 60))
    y, pred = (names[rng.integers(rng.integers(1, len(names) + 1), size=n)] for _ in range(2))
    assert accuracy(y, pred) == sk.accuracy_score(y, pred)
    for classes in (None, names, names[::-1]):
        seen = np.unique(np.concatenate([y, pred]))
        cm = confusion_matrix(y, pred, classes)
        # scikit-learn warns about a 1 x 1 matrix
        ref = np.array([[n]]) if classes is None and len(seen) == 1 else sk.confusion_matrix(y, pred, labels=classes)
        assert cm.shape == ref.shape and (cm == ref).all() and cm.sum() == n and cm.dtype == np.int64
        table = precision_recall_f1(y, pred, classes)
        for column, r in zip(table, sk.precision_recall_fscore_support(y, pred, labels=classes, zero_division=0)):
            assert table[column].shape == r.shape
            np.testing.assert_allclose(table[column], r, rtol=1e-14, atol=0)
        assert abs(macro_f1(y, pred, classes) - sk.f1_score(y, pred, labels=classes, average="macro", zero_division=0)) < 1e-14
        assert list(table.index) == list(seen if classes is None else classes)


@pytest.mark.parametrize("wrap", [list, tuple, pd.Series, pd.Categorical, lambda x: pd.Series(x, index=range(9, 13)),
                                  lambda x: np.array(x, dtype=object)])
def test_containers_of_labels_score_alike(wrap):
    y, pred = ["a", "b", "b", "c"], ["a", "b", "c", "c"]
    assert accuracy(wrap(y), wrap(pred)) == .75
    assert confusion_matrix(wrap(y), wrap(pred)).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_text_of_different_widths_keeps_every_letter():
    assert accuracy(np.array(["a", "b"]), np.array(["a", "bbbb"])) == .5
    assert confusion_matrix(np.array(["a"]), np.array(["abc"])).tolist() == [[0, 1], [0, 0]]


def test_order_of_classes_permutes_and_no_more():
    rng = np.random.default_rng(0)
    y, pred, order = rng.integers(4, size=50), rng.integers(4, size=50), np.array([2, 0, 3, 1])
    cm = confusion_matrix(y, pred, range(4))
    assert (confusion_matrix(y, pred, order) == cm[np.ix_(order, order)]).all()
    assert macro_f1(y, pred, order) == pytest.approx(macro_f1(y, pred), rel=1e-14)
    proba = rng.dirichlet(np.ones(4), size=50)
    assert log_loss(y, proba[:, order], order) == pytest.approx(log_loss(y, proba, range(4)), rel=1e-14)


@pytest.mark.parametrize("dtype,tol", [(np.float64, 1e-13), (np.float32, 1e-5), (np.float16, 5e-2)])
def test_log_loss_in_every_precision(dtype, tol):
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(10), size=200)
    y = rng.integers(10, size=200)
    assert log_loss(y, proba.astype(dtype), range(10)) == pytest.approx(sk.log_loss(y, proba, labels=range(10)), rel=tol)


def test_log_loss_of_a_certain_mistake_is_finite_and_of_certain_truth_is_zero():
    assert log_loss([1], [[1., 0.]], [0, 1]) == pytest.approx(-np.log(np.finfo(float).eps))
    assert 0 <= log_loss([0], [[1, 0]], [0, 1]) < 1e-15  # integer probabilities are read as floats


MISS = float("nan")
@pytest.mark.parametrize("call,words", [
    (lambda: accuracy([0, 1], [0]), "(2,)"),
    (lambda: accuracy([[0], [1]], [[0], [1]]), "(n,)"),
    (lambda: accuracy([0, 1], np.array([[0], [1]])), "(2, 1)"),
    (lambda: accuracy([], []), "no examples"),
    (lambda: accuracy([1., MISS], [1., 1.]), "y has 1 missing"),
    (lambda: accuracy(np.array(["a", None], dtype=object), ["a", "b"]), "y has 1 missing"),
    (lambda: accuracy(["a"], ["a", "b"][:1] * 2), "(2,)"),
    (lambda: accuracy(["1"], [1]), "text and numbers"),
    (lambda: confusion_matrix(["a"], ["b"], ["a"]), "'b'"),
    (lambda: confusion_matrix(["a"], ["a"], ["a", "a"]), "different"),
    (lambda: confusion_matrix(["a"], ["a"], []), "different"),
    (lambda: precision_recall_f1([0], [5], [0, 1]), "5"),
    (lambda: macro_f1([], []), "no examples"),
    (lambda: log_loss([0, 1], [[.5, .5]], [0, 1]), "(1, 2)"),
    (lambda: log_loss([0], [[.2, .3, .5]], [0, 1]), "(1, 3)"),
    (lambda: log_loss([0], [.5], [0, 1]), "(1,)"),
    (lambda: log_loss([0], [[.6, .6]], [0, 1]), "1.2"),
    (lambda: log_loss([0], [[1.2, -.2]], [0, 1]), "-0.2"),
    (lambda: log_loss([0], [[MISS, .5]], [0, 1]), "nan"),
    (lambda: log_loss([7], [[.5, .5]], [0, 1]), "7"),
    (lambda: mean_squared_error([1.], [[1.]]), "(1, 1)"),
    (lambda: mean_squared_error(["a"], ["a"]), "numbers"),
    (lambda: mean_squared_error([np.inf], [1.]), "inf"),
    (lambda: r2([1.], [1.]), "n=1"),
    (lambda: r2([1., MISS], [1., 2.]), "missing"),
    (lambda: draw_confusion(None, np.eye(3), ["a"]), "(3, 3)"),
])
def test_refusals_name_the_value(call, words):
    with pytest.raises(ValueError) as e: call()
    assert words in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("seed", range(5))
def test_regression_scores_equal_sklearn(seed):
    t, p = np.random.default_rng(seed).normal(size=(2, 40)) * 10.**(3 * seed - 6)
    assert mean_squared_error(t, p) == pytest.approx(sk.mean_squared_error(t, p), rel=1e-12)
    assert r2(t, p) == pytest.approx(sk.r2_score(t, p), rel=1e-12)
    assert r2(np.ones(4), np.ones(4)) == sk.r2_score(np.ones(4), np.ones(4)) == 1
    assert r2(np.ones(4), p[:4]) == sk.r2_score(np.ones(4), p[:4]) == 0


def test_confusion_picture_shows_counts_and_no_formula():
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots()
    draw_confusion(ax, [[3, 1], [0, 1000]], ["$x$", "a" * 60])
    fig.canvas.draw()
    assert {t.get_text() for t in ax.texts} == {"3", "1", "1,000"}
    assert ax.get_xticklabels()[0].get_text() == r"\$x\$" and len(ax.get_xticklabels()[1].get_text()) == 24
    plt.close(fig)


def test_arrays_only():
    code = "import sys, finetune_book.judge.metrics; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'sklearn', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_largest_confusions_are_the_cells_off_the_diagonal(seed):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(6, size=80), rng.integers(6, size=80)
    names = np.array(list("uvwxyz"))
    cm = confusion_matrix(y, p, classes=range(6))
    top = top_confusions(cm, names, k=12)
    cells = sorted((-cm[j, k], j, k) for j in range(6) for k in range(6) if j != k and cm[j, k])[:12]
    assert list(zip(-top.n, top.true, top.predicted)) == [(n, names[j], names[k]) for n, j, k in cells]
    assert np.allclose(top.share, [-n / cm[j].sum() for n, j, _ in cells])
