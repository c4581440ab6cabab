"""Lesson 33 (calibration) beyond the lesson: exact distributions, what must not matter, ties, types, and each refusal."""
import itertools
import re
import subprocess
import sys
import time
from functools import partial

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from finetune_book.judge.bootstrap import paired_difference
from finetune_book.judge.calibration import (AbstentionArea, CalibrationError, abstention_alt, abstention_area, abstention_curve, apply_temperature,
                                       draw_abstention, draw_reliability, expected_calibration_error, fit_temperature, log_probabilities,
                                       reliability, reliability_alt, temperature_slope)
from finetune_book.checks import InputError
from finetune_book.losses import cross_entropy, numeric_gradient, softmax
from finetune_book.judge.metrics import log_loss

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402


def scored(seed=0, n=300, c=4, sharp=1.):
    "Labels drawn from softmax(z), and the probabilities of softmax(sharp * z): calibrated when sharp is 1."
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, c))
    y = (rng.random(n)[:, None] > softmax(z).cumsum(1)).sum(1).clip(max=c - 1)
    return y, softmax(sharp * z), sharp * z


Y, P, Z = scored()
C = range(4)


# --- reliability ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("equal_mass", [False, True])
@pytest.mark.parametrize("bins", [1, 7, 15, 1000])
def test_the_table_accounts_for_every_row(bins, equal_mass):
    t = reliability(Y, P, C, bins=bins, equal_mass=equal_mass)
    q, h = P.max(1), P.argmax(1) == Y
    assert t.n.sum() == 300 and (t.n > 0).all() and len(t) <= bins and t.n.dtype.kind == "i"
    assert (t.n * t.confidence).sum() == pytest.approx(q.sum()) and (t.n * t.accuracy).sum() == pytest.approx(h.sum())
    assert ((t.low - 1e-12 <= t.confidence) & (t.confidence <= t.high + 1e-12)).all()
    assert ((t.accuracy_low <= t.accuracy + 1e-12) & (t.accuracy <= t.accuracy_high + 1e-12)).all() and t.accuracy_low.min() >= 0 and t.accuracy_high.max() <= 1
    ece = expected_calibration_error(Y, P, C, bins=bins, equal_mass=equal_mass, n_sim=5).value
    assert ece == pytest.approx((t.n / 300 * (t.accuracy - t.confidence).abs()).sum(), abs=1e-12)


def test_a_bin_owns_its_upper_edge():
    t = reliability([1, 1, 1], [[.4, .6], [.39, .61], [0, 1]], [0, 1], bins=5)
    assert t.n.tolist() == [1, 1, 1] and t.high.round(12).tolist() == [.6, .8, 1.]


def test_equal_mass_never_parts_equal_confidences():
    p = np.array([[.2, .8]] * 7 + [[.4, .6]] * 3)
    y = np.ones(10, int)
    t = reliability(y, p, [0, 1], bins=5, equal_mass=True)
    assert sorted(t.n.tolist()) == [3, 7]
    one = reliability(y[:7], p[:7], [0, 1], bins=5, equal_mass=True)
    assert one.n.tolist() == [7] and one.confidence.tolist() == [pytest.approx(.8)]


@pytest.mark.parametrize("level", [.5, .95])
def test_intervals_are_wilsons(level):
    t = reliability(Y, P, C, bins=10, level=level)
    ref = [stats.binomtest(round(r.accuracy * r.n), r.n).proportion_ci(level, "wilson") for r in t.itertuples()]
    np.testing.assert_allclose(t[["accuracy_low", "accuracy_high"]], ref, atol=1e-12)


@pytest.mark.parametrize("equal_mass", [False, True])
def test_order_of_rows_and_of_classes_does_not_matter(equal_mass):
    rows, columns = np.random.default_rng(1).permutation(300), [2, 0, 3, 1]
    t, s = reliability(Y, P, C, equal_mass=equal_mass), reliability(Y[rows], P[rows][:, columns], columns, equal_mass=equal_mass)
    pd.testing.assert_frame_equal(t, s, rtol=1e-12)
    e, f = (expected_calibration_error(y, p, k, n_sim=5).value for y, p, k in ((Y, P, C), (Y[rows], P[rows][:, columns], columns)))
    assert e == pytest.approx(f, abs=1e-12)


@pytest.mark.parametrize("wrap", [list, pd.Series, lambda y: [f"class {i}" for i in y], lambda y: np.array([f"{'x' * int(i)}" for i in y], dtype=object)])
def test_kinds_of_labels_score_alike(wrap):
    names = list(wrap(np.arange(4)))
    pd.testing.assert_frame_equal(reliability(wrap(Y), P, names), reliability(Y, P, C))
    pd.testing.assert_frame_equal(abstention_curve(wrap(Y), pd.DataFrame(P), np.array(names)), abstention_curve(Y, P, C))
    assert fit_temperature(Z, wrap(Y), names) == fit_temperature(Z, Y)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_narrow_floats_are_distributions_too(dtype):
    p = softmax(Z).astype(dtype)
    assert reliability(Y, p, C).n.sum() == 300 and np.allclose(apply_temperature(p, 1), P, atol=2e-3)
    saturated = np.array([[0, 1], [1, 0]], dtype=dtype)
    assert np.isfinite(log_probabilities(saturated)).all() and reliability([1, 0], saturated, [0, 1]).accuracy.tolist() == [1.]


# --- ECE -----------------------------------------------------------------------------------------------------------

def test_the_reference_is_exact_on_three_rows():
    # all 8 outcomes of three calibrated rows, with their chances, by hand
    p, q = np.array([[.1, .9], [.2, .8], [.4, .6]]), np.array([.9, .8, .6])
    outcomes = np.array(list(itertools.product((0, 1), repeat=3)))
    chance = np.where(outcomes == 1, q, 1 - q).prod(1)
    ece = np.abs((outcomes - q)[:, :2].sum(1)) / 3 + np.abs((outcomes - q)[:, 2]) / 3  # bins (.5, 1] of two: .9 and .8 with .6
    two_bins = np.abs((outcomes - q).sum(1)) / 3
    for bins, exact in ((2, two_bins), (4, ece)):
        found = expected_calibration_error([1, 0, 1], p, [0, 1], bins=bins, n_sim=20_000)
        seen = exact[(outcomes == [1, 0, 1]).all(1)][0]
        assert found.value == pytest.approx(seen) and found.expected == pytest.approx((chance * exact).sum(), abs=.005)
        assert found.p_value == pytest.approx(chance[exact >= seen - 1e-12].sum(), abs=.015)


def test_p_value_keeps_its_level_and_has_power():
    alarms = np.mean([expected_calibration_error(*scored(s)[:2], C, n_sim=100, seed=s).p_value <= .05 for s in range(150)])
    seen = np.mean([expected_calibration_error(*scored(s, sharp=2)[:2], C, n_sim=100, seed=s).p_value <= .05 for s in range(50)])
    assert alarms < .1 and seen > .9


def test_p_value_is_never_zero():
    assert expected_calibration_error(np.zeros(50, int), [[.01, .99]] * 50, [0, 1], n_sim=99).p_value == 1 / 100


def test_the_bias_falls_with_rows_and_grows_with_bins():
    at = lambda n, bins: expected_calibration_error(*scored(0, n=n)[:2], C, bins=bins, n_sim=100, equal_mass=True).expected
    assert at(200, 10) / at(3200, 10) == pytest.approx(4, rel=.25) and at(800, 40) / at(800, 10) == pytest.approx(2, rel=.25)


def test_the_sentence_follows_the_numbers():
    calm, loud, timid = (expected_calibration_error(*scored(1, n=1000, sharp=s)[:2], C) for s in (1, 3, .4))
    assert calm.sentence.endswith("no clear miscalibration.") and str(calm) == calm.sentence
    assert re.search(r"clearly miscalibrated, overconfident by 0\.\d+ on average\.$", loud.sentence) and loud.excess > 0
    assert re.search(r"clearly miscalibrated, underconfident by 0\.\d+ on average\.$", timid.sentence) and timid.excess < 0
    assert f"ECE {loud.value:.3f}" in loud.sentence and f"{loud.expected:.3f}" in loud.sentence and "n = 1,000" in loud.sentence
    assert isinstance(loud, CalibrationError) and loud.expected < loud.high and 0 < loud.p_value <= 1


def test_seed_fixes_everything_and_global_state_is_untouched():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    a, b, c = (expected_calibration_error(Y, P, C, n_sim=50, seed=s) for s in (1, np.random.default_rng(1), 2))
    assert a == b and a.expected != c.expected and a.value == c.value
    assert (np.random.get_state()[1] == before).all()


# --- temperature ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(5))
def test_slope_is_the_derivative(seed):
    y, _, z = scored(seed, n=40)
    for beta in (.2, 1., 2.5):
        slope, bend = temperature_slope(beta, z, y)
        assert abs(slope - numeric_gradient(lambda b: cross_entropy(float(b) * z, y), beta)) < 1e-8
        assert abs(bend - numeric_gradient(lambda b: temperature_slope(float(b), z, y)[0], beta)) < 1e-7 and bend > 0


@pytest.mark.parametrize("seed", range(10))
def test_no_temperature_of_a_grid_is_better(seed):
    y, _, z = scored(seed, n=int(np.random.default_rng(seed).integers(20, 300)), sharp=10**np.random.default_rng(seed).uniform(-2, 2))
    T = fit_temperature(z, y)
    best = cross_entropy(z / T, y)
    assert all(cross_entropy(z / (T * f), y) >= best - 1e-12 for f in np.geomspace(.1, 10, 101))
    assert cross_entropy(z / (T * 1.02), y) > best < cross_entropy(z / (T / 1.02), y)


def test_the_true_temperature_is_found():
    y, _, z = scored(0, n=20_000, sharp=3.)
    assert fit_temperature(z, y) == pytest.approx(3, rel=.03)


@pytest.mark.parametrize("factor", [1e-200, 1e-3, 40., 1e6, 1e200])
def test_units_of_the_logits_pass_through(factor):
    assert fit_temperature(Z * factor, Y) / factor == pytest.approx(fit_temperature(Z, Y), rel=1e-9)


def test_a_shift_of_a_row_changes_nothing():
    assert fit_temperature(Z + np.arange(300)[:, None], Y) == pytest.approx(fit_temperature(Z, Y), rel=1e-9)
    assert fit_temperature(log_probabilities(P), Y) == pytest.approx(fit_temperature(Z, Y), rel=1e-9)


def test_one_wrong_row_among_many_is_enough():
    z = np.tile([0., 1.], (500, 1))
    y = np.r_[0, np.ones(499, int)]
    assert fit_temperature(z, y) == pytest.approx(1 / np.log(499), rel=1e-9)  # sigmoid(1/T) = 499/500


@pytest.mark.parametrize("T", [1e-3, .3, 1, 4, 1e3])
def test_apply_temperature_is_the_softmax_of_cooler_logits_and_keeps_the_answer(T):
    q = apply_temperature(P, T)
    assert np.allclose(q, softmax(Z / T), atol=1e-12) and np.allclose(q.sum(1), 1, atol=1e-12) and (q.argmax(1) == P.argmax(1)).all()


def test_there_and_back(): assert np.allclose(apply_temperature(apply_temperature(P, 3), 1 / 3), P, atol=1e-12)


def test_rounded_to_zero_is_not_infinite():
    p = np.array([[0., 1.], [1., 0.], [.3, .7]])
    assert np.isfinite(apply_temperature(p, 50)).all() and apply_temperature(p, 50)[0, 1] < 1
    assert fit_temperature(log_probabilities(p), [0, 0, 1]) > 100  # the first row was wrong and certain of it


def test_the_gain_is_a_paired_difference():
    y, p, z = scored(2, n=400, sharp=4)
    q = apply_temperature(p, fit_temperature(z[:200], y[:200]))
    r = paired_difference(partial(log_loss, classes=C), y[200:], p[200:], q[200:], n_boot=300, names=("as fitted", "cooled"))
    rows = np.log(p[np.arange(400), y])[200:] - np.log(q[np.arange(400), y])[200:]
    assert r.difference.value == pytest.approx(rows.mean(), abs=1e-9) and r.sentence.endswith("cooled is clearly lower.")
    same = paired_difference(partial(log_loss, classes=C), y[200:], q[200:], apply_temperature(q[200:], 1.), n_boot=50)
    assert same.sentence.endswith("no clear difference.")


# --- abstention ----------------------------------------------------------------------------------------------------

def as_proba(q): return np.c_[1 - np.asarray(q), q]
def area(h, q): return abstention_area(abstention_curve(h, as_proba(q), [0, 1]))


def test_area_is_the_mean_over_all_orders_of_equal_confidences():
    h, q = np.array([1, 0, 1, 1, 0, 1]), np.array([.9, .9, .9, .7, .7, .6])
    want = []
    for first in itertools.permutations(range(3)):
        for second in itertools.permutations((3, 4)):
            order = [*first, *second, 5]
            want.append((np.cumsum(h[order]) / np.arange(1, 7)).mean())
    assert area(h, q).value == pytest.approx(np.mean(want), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_bounds_of_the_area(seed):
    y, p, _ = scored(seed, n=80)
    t = abstention_curve(y, p, C)
    a, h = abstention_area(t), p.argmax(1) == y
    assert a.value <= a.oracle + 1e-12 and a.flat == h.mean() and a.n == 80 and isinstance(a, AbstentionArea)
    assert (t.accuracy <= t.oracle + 1e-12).all() and t.threshold.is_monotonic_decreasing and t.coverage.iloc[-1] == 1
    perfect = area(h.astype(int), np.where(h, .9, .6))
    assert perfect.value == pytest.approx(perfect.oracle, abs=1e-12) == a.oracle
    assert area(h.astype(int), np.full(80, .8)).value == pytest.approx(a.flat, abs=1e-12)
    for r in t.itertuples(): assert r.accuracy == pytest.approx(h[p.max(1) >= r.threshold].mean()) and r.n == (p.max(1) >= r.threshold).sum()


@pytest.mark.parametrize("h,value", [(1, 1.), (0, 0.)])
def test_all_right_and_all_wrong(h, value):
    a = area(np.full(5, h), np.linspace(.6, .9, 5))
    assert a[:3] == (value, value, value) and area([h], [.7]).value == value


# --- pictures ------------------------------------------------------------------------------------------------------

def test_pictures_and_their_words():
    t, curve = reliability(Y, P, C), abstention_curve(Y, P, C)
    for draw, table in ((draw_reliability, t), (draw_abstention, curve), (draw_reliability, reliability([1], [[0, 1.]], [0, 1])),
                        (draw_abstention, abstention_curve([1], [[0, 1.]], [0, 1]))):
        ax = plt.figure().gca()
        assert draw(ax, table) is ax and ax.get_xlabel() and ax.get_ylabel() and ax.get_legend()
        plt.close(ax.figure)
    assert reliability_alt(t).count("said") == len(t) and f"of {len(t)} bins" in reliability_alt(t)
    sure = reliability(np.zeros(100, int), as_proba(np.full(100, .9)), [0, 1])
    assert "misses the diagonal in 1 of 1 bins" in reliability_alt(sure)
    assert "coverage 1.00" in abstention_alt(curve) and f"{curve.accuracy.iloc[-1]:.3f}" in abstention_alt(curve) and "Area" in abstention_alt(curve)


# --- refusals ------------------------------------------------------------------------------------------------------

GAP = P.copy(); GAP[7, 2] = np.nan
MINUS = P.copy(); MINUS[0] = [1.5, -.5, 0, 0]
SHORT = P.copy(); SHORT[5] *= .9

BAD = [
    ((Y, 2 * P, C), "sums to 2, not 1"), ((Y, SHORT, C), "row 5 sums to 0.9"), ((Y, Z, C), "proba"), ((Y, GAP, C), "nan in row 7"), ((Y, MINUS, C), "-0.5"),
    ((Y, np.where(P == P.max(), np.inf, P), C), "inf"), ((Y, P[:-1], C), "(299, 4)"), ((Y, P[:, :3], C), "(300, 3)"), ((Y, P[:, 0], C), "(300,)"),
    ((Y[:, None], P, C), "(300, 1)"), ((Y + 1, P, C), "label 4"), (([f"c{i}" for i in Y], P, C), "'c"), ((np.where(Y == 1, np.nan, Y), P, C), "label nan"),
    ((Y, P, [0, 1, 2, 2]), "[0, 1, 2, 2]"), (([0, 0], [[1.], [1.]], [0]), "classes=[0]"), ((Y, P, []), "classes=[]"), (([], np.zeros((0, 4)), C), "no examples"),
    ((Y, P.astype(str), C), "<U"), ((Y, P, [0, 1]), "is not among"),
]


@pytest.mark.parametrize("args,words", BAD, ids=[w for _, w in BAD])
@pytest.mark.parametrize("call", [reliability, partial(expected_calibration_error, n_sim=1), abstention_curve])
def test_refusals_name_the_value(call, args, words):
    with pytest.raises(ValueError) as e: call(*args)
    assert words in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("call,words", [
    (lambda: reliability(Y, P, C, bins=0), "bins=0"), (lambda: reliability(Y, P, C, bins=2.5), "bins=2.5"), (lambda: reliability(Y, P, C, bins=True), "bins=True"),
    (lambda: reliability(Y, P, C, level=95), "level=95"), (lambda: expected_calibration_error(Y, P, C, n_sim=0), "n_sim=0"),
    (lambda: expected_calibration_error(Y, P, C, n_sim=1.5), "n_sim=1.5"), (lambda: apply_temperature(P, 0), "T=0"), (lambda: apply_temperature(P, -1), "T=-1"),
    (lambda: apply_temperature(P, np.nan), "T=nan"), (lambda: apply_temperature(P, np.inf), "T=inf"),
    (lambda: fit_temperature(Z, Z.argmax(1)), "all 300 rows are right"), (lambda: fit_temperature(Z, Z.argmin(1)), "do not favour"),
    (lambda: fit_temperature(np.ones((5, 3)), [0, 1, 2, 0, 1]), "the same for all classes"),
])
def test_bad_parameters_are_the_users_mistake(call, words):
    with pytest.raises(InputError) as e: call()
    assert words in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("call,words", [
    (lambda: fit_temperature(GAP, Y), "nan in row 7"), (lambda: fit_temperature(np.where(Z == Z.min(), -np.inf, Z), Y), "-inf"), (lambda: fit_temperature(Z[:9], Y), "(9, 4)"),
    (lambda: fit_temperature(Z, Y, [0, 1, 2]), "is not among"), (lambda: fit_temperature(Z, Y, range(5)), "(300, 4)"), (lambda: fit_temperature(Z[:, 0], Y), "(300,)"),
    (lambda: fit_temperature(Z, Y + 1), "label 4"), (lambda: fit_temperature(np.zeros((0, 4)), []), "no examples"), (lambda: apply_temperature(2 * P, 2), "sums to 2"),
    (lambda: apply_temperature(GAP, 2), "nan"), (lambda: log_probabilities(Z), "proba"), (lambda: log_probabilities(np.zeros((0, 3))), "no examples"),
])
def test_temperature_refusals(call, words):
    with pytest.raises(ValueError) as e: call()
    assert words in str(e.value) and "\n" not in str(e.value)


def test_what_is_given_stays_as_it_is():
    y, p, z = Y.copy(), P.copy(), Z.copy()
    reliability(y, p, C); expected_calibration_error(y, p, C, n_sim=3); abstention_curve(y, p, C); fit_temperature(z, y); apply_temperature(p, 2)
    assert (y == Y).all() and (p == P).all() and (z == Z).all()


def test_speed_of_the_reports_job():
    y, p, z = scored(0, n=5000, c=20)
    spent = time.process_time()
    reliability(y, p, range(20)); expected_calibration_error(y, p, range(20)); fit_temperature(z, y); abstention_area(abstention_curve(y, p, range(20)))
    assert time.process_time() - spent < 2


def test_arrays_only():
    code = "import sys, finetune_book.judge.calibration; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'scipy', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
