"""Lesson 32 (bootstrap) beyond the lesson: refusals, seeds, groups, the words of the verdict, and speed."""
import itertools
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from finetune_book.judge.bootstrap import Interval, bootstrap_interval, compare, mcnemar, paired_difference, seed_interval
from finetune_book.checks import InputError
from finetune_book.judge.metrics import accuracy, log_loss, macro_f1

RNG = np.random.default_rng(0)
Y = RNG.integers(5, size=200)
PRED = np.where(RNG.random(200) < .7, Y, (Y + 1) % 5)
BETTER = np.where(RNG.random(200) < .6, Y, PRED)


def test_interval_holds_the_value_and_reads_well():
    i = bootstrap_interval(accuracy, Y, PRED)
    assert i.low <= i.value <= i.high and i.value == accuracy(Y, PRED) and i.n == 200 and i.n_groups is None
    assert str(Interval(.8731, .85, .9, 1200, .95)) == "0.873 [0.850, 0.900] (95% interval over 1,200 test rows)"
    assert str(Interval(.5, 0, 1, 20, .9, 4)) == "0.500 [0.000, 1.000] (90% interval over 20 test rows in 4 groups)"


def test_every_interval_names_what_was_varied():
    rows, paired, seeds = bootstrap_interval(accuracy, Y, PRED, n_boot=20), paired_difference(accuracy, Y, PRED, BETTER, n_boot=20), seed_interval([.8, .82, .81])
    assert rows.over == paired.difference.over == "test rows" and seeds.over == "seeds" and seeds.n == 3 and seeds.n_groups is None
    assert "(95% interval over 200 test rows)" in str(rows) and "95% interval over 200 test rows, p = " in paired.sentence
    assert str(seeds) == "0.810 [0.785, 0.835] (95% interval over 3 seeds)"


def test_exact_distribution_of_three_rows():
    # all 27 resamples of three rows, by enumeration, against 20,000 drawn ones
    x = np.array([0., 1., 5.])
    means = np.sort([np.mean(r) for r in itertools.product(x, repeat=3)])
    i = bootstrap_interval(np.mean, x, n_boot=20_000, level=.8)
    assert i.low == pytest.approx(np.quantile(means, .1, method="inverted_cdf")) and i.high == pytest.approx(np.quantile(means, .9, method="inverted_cdf"))


def test_seed_fixes_everything_and_global_state_is_untouched():
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    a, b, c = (paired_difference(accuracy, Y, PRED, BETTER, n_boot=50, seed=s) for s in (1, 1, 2))
    assert a == b and a.difference != c.difference
    assert (np.random.get_state()[1] == before).all()
    assert bootstrap_interval(accuracy, Y, PRED, n_boot=50, seed=np.random.default_rng(4)) == bootstrap_interval(accuracy, Y, PRED, n_boot=50, seed=4)


def test_wider_level_wider_interval():
    narrow, wide = (bootstrap_interval(accuracy, Y, PRED, n_boot=500, level=v) for v in (.5, .99))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("wrap", [list, pd.Series, lambda x: pd.Series(x, index=range(500, 700)), lambda x: np.array([f"class {i}" for i in x]),
                                  lambda x: [f"{'x' * int(i)}" for i in x]])
def test_containers_of_labels_score_alike(wrap):
    plain, wrapped = (paired_difference(accuracy, *(w(x) for x in (Y, PRED, BETTER)), n_boot=100) for w in (np.asarray, wrap))
    assert plain == wrapped


def test_probabilities_are_swapped_row_by_row():
    seen = []
    def metric(y, proba):
        seen.append(proba); return log_loss(y, proba, [0, 1])
    p = np.linspace(.1, .4, 20)
    a, b = np.c_[p, 1 - p], np.c_[1 - p, p]
    assert paired_difference(metric, np.zeros(20), a, b, n_boot=20).difference.value < 0
    for proba in seen: assert np.allclose(proba.sum(1), 1)  # a row is taken whole from one model or the other


def test_whole_groups_are_drawn():
    groups = np.repeat([f"P{i}" for i in range(30)], np.arange(1, 31))
    order = np.random.default_rng(0).permutation(len(groups))
    sizes, rows = dict(zip(*np.unique(groups, return_counts=True))), []
    def metric(g):
        rows.append(len(g))
        names, counts = np.unique(g, return_counts=True)
        assert all(c % sizes[k] == 0 for k, c in zip(names, counts))  # never a part of a group
        return 0.
    i = bootstrap_interval(metric, groups[order], groups=groups[order], n_boot=50)
    assert i.n == 465 and i.n_groups == 30 and len(set(rows)) > 5


def test_groups_count_in_the_test_as_well():
    # two patients decide everything: 50 notes each, B right on one patient's, A on none. By note p is tiny, by patient it cannot be.
    y, groups = np.ones(100), np.repeat([0, 1], 50)
    a, b = np.zeros(100), np.repeat([1., 0.], 50)
    by_note, by_patient = paired_difference(accuracy, y, a, b, n_boot=400), paired_difference(accuracy, y, a, b, n_boot=400, groups=groups)
    assert by_note.p_value < .01 and "clearly higher" in by_note.sentence
    assert by_patient.p_value == 1 and "no clear difference" in by_patient.sentence and "in 2 groups" in by_patient.sentence


def test_sentence_follows_the_numbers():
    y = np.ones(300)
    good, bad = np.r_[np.ones(250), np.zeros(50)], np.r_[np.ones(150), np.zeros(150)]
    say = lambda a, b: paired_difference(accuracy, y, a, b, n_boot=300, names=("floor", "fine-tuned")).sentence
    assert say(bad, good).startswith("fine-tuned minus floor is +0.333 [") and say(bad, good).endswith("fine-tuned is clearly higher.")
    assert say(good, bad).endswith("fine-tuned is clearly lower.")
    assert say(good, good).endswith("no clear difference.")
    one_better = good.copy(); one_better[260] = 1
    assert say(good, one_better).endswith("no clear difference.")  # the interval touches zero


def test_sentence_needs_interval_and_test_to_agree():
    # five rows repaired, none broken, n = 60: the interval leaves zero out, the exact p-value is 2/32
    a, b = np.r_[np.zeros(5), np.ones(55)], np.ones(60)
    r = paired_difference(accuracy, b, a, b, n_boot=4000)
    assert r.difference.low > 0 and abs(r.p_value - 2 / 32) < .015 and "no clear difference" in r.sentence


def test_p_value_is_never_zero_and_symmetric():
    y = np.ones(100)
    r = paired_difference(accuracy, y, np.zeros(100), y, n_boot=99)
    assert r.p_value == 1 / 100
    there, back = paired_difference(accuracy, Y, PRED, BETTER, n_boot=300), paired_difference(accuracy, Y, BETTER, PRED, n_boot=300)
    assert there.difference.value == -back.difference.value and there.p_value == back.p_value


def test_numpy_scalars_are_numbers_too():
    how = dict(n_boot=np.int64(50), level=np.float32(.5))
    assert bootstrap_interval(accuracy, Y, PRED, **how)[:3] == bootstrap_interval(accuracy, Y, PRED, n_boot=50, level=.5)[:3]


@pytest.mark.parametrize("how,words", [
    (dict(n_boot=0), "n_boot=0"), (dict(n_boot=-5), "n_boot=-5"), (dict(n_boot=1.5), "n_boot=1.5"), (dict(n_boot=True), "n_boot=True"), (dict(n_boot=50.), "n_boot=50.0"),
    (dict(level=0), "level=0"), (dict(level=1), "level=1"), (dict(level=95), "level=95"), (dict(level=float("nan")), "level=nan")])
@pytest.mark.parametrize("call", [lambda **k: bootstrap_interval(accuracy, Y, PRED, **k), lambda **k: paired_difference(accuracy, Y, PRED, BETTER, **k)])
def test_bad_parameters_are_the_users_mistake(call, how, words):
    with pytest.raises(InputError) as e: call(**how)
    assert words in str(e.value)


@pytest.mark.parametrize("call,words", [
    (lambda: bootstrap_interval(accuracy, Y, PRED[:-1]), "(199,)"),
    (lambda: bootstrap_interval(accuracy), "[]"),
    (lambda: bootstrap_interval(np.mean, 3.), "()"),
    (lambda: bootstrap_interval(np.mean, [1.]), "n=1"),
    (lambda: bootstrap_interval(accuracy, Y, PRED, groups=[1, 2]), "(2,)"),
    (lambda: bootstrap_interval(accuracy, Y, PRED, groups=np.ones(200)), "1 group"),
    (lambda: bootstrap_interval(accuracy, Y, PRED, groups=["a"] * 199 + [None]), "1 missing"),
    (lambda: bootstrap_interval(lambda x: np.nan, Y, n_boot=3), "3 of 3"),
    (lambda: paired_difference(accuracy, Y, PRED, BETTER[:, None]), "(200, 1)"),
    (lambda: paired_difference(accuracy, Y[:1], PRED[:1], PRED[:1]), "n=1"),
])
def test_refusals_name_the_value(call, words):
    with pytest.raises(ValueError) as e: call()
    assert words in str(e.value)


# --- McNemar -------------------------------------------------------------------------------------------------------

def split(only_a, only_b, both=3, neither=2):
    "y, a, b with these counts, in a shuffled order."
    right_a = np.repeat([1, 0, 1, 0], [only_a, only_b, both, neither])
    right_b = np.repeat([0, 1, 1, 0], [only_a, only_b, both, neither])
    order = np.random.default_rng(0).permutation(len(right_a))
    return np.ones(len(order)), right_a[order], right_b[order]


@pytest.mark.parametrize("only_a,only_b", [(0, 0), (0, 1), (1, 0), (0, 6), (1, 7), (5, 5), (3, 12), (40, 61), (300, 420), (0, 2000), (900, 1100)])
def test_mcnemar_equals_scipy(only_a, only_b):
    t, m = mcnemar(*split(only_a, only_b)), only_a + only_b
    assert (t.only_a, t.only_b, t.n) == (only_a, only_b, m + 5)
    exact = stats.binomtest(only_b, m).pvalue if m else 1
    assert t.p_value == pytest.approx(exact, rel=1e-9)
    k = min(only_a, only_b)
    assert t.mid_p == pytest.approx(min(1, 2 * stats.binom.cdf(k - 1, m, .5) + stats.binom.pmf(k, m, .5)) if m else 1, rel=1e-9)
    assert t.mid_p <= t.p_value


def test_mcnemar_by_enumeration_of_all_tosses():
    for only_a, only_b in ((1, 5), (2, 4), (3, 3), (0, 6)):
        far = [abs(2 * sum(toss) - 6) >= abs(only_a - only_b) for toss in itertools.product((0, 1), repeat=6)]
        assert mcnemar(*split(only_a, only_b)).p_value == np.mean(far)


def test_mcnemar_says_which_and_when():
    assert mcnemar(*split(1, 12), names=("floor", "new")).sentence == (
        "new alone is right on 12 rows, floor alone on 1 (n = 18 test rows, exact McNemar p = 0.0034): new is clearly higher.")
    assert mcnemar(*split(12, 1), names=("floor", "new")).sentence.endswith("floor is clearly higher.")
    assert mcnemar(*split(4, 4)).sentence.endswith("no clear difference.") and mcnemar(*split(0, 0)).sentence.endswith("no clear difference.")
    assert mcnemar(*split(1, 7)).sentence.endswith("no clear difference.")  # mid-p is 0.039, and the exact p 0.070 decides
    assert mcnemar(*split(1, 7), level=.9).sentence.endswith("B is clearly higher.")


def test_mcnemar_agrees_with_the_permutation_test_on_labels():
    drawn, counted = paired_difference(accuracy, Y, PRED, BETTER, n_boot=4000), mcnemar(Y, PRED, BETTER)
    assert abs(drawn.p_value - counted.p_value) < .01
    assert drawn.difference.value == pytest.approx((counted.only_b - counted.only_a) / counted.n, abs=1e-12)
    text = lambda x: [f"class {i}" for i in x]
    assert mcnemar(text(Y), text(PRED), pd.Series(text(BETTER)))[:5] == counted[:5]


def test_mcnemar_keeps_its_level():
    # two equally good models, many test sets: the exact p alarms in at most 5%, and mid-p no less often
    rng = np.random.default_rng(0)
    found = [mcnemar(np.ones(60), *(rng.random((2, 60)) < .8)) for _ in range(600)]
    exact, mid = np.mean([t.p_value <= .05 for t in found]), np.mean([t.mid_p <= .05 for t in found])
    assert exact <= mid and .005 < exact < .06 and .02 < mid < .08


@pytest.mark.parametrize("call,words", [
    (lambda: mcnemar(Y, PRED, BETTER[:-1]), "(199,)"), (lambda: mcnemar([], [], []), "no examples"),
    (lambda: mcnemar([1, 0], [1, np.nan], [1, 0]), "1 missing"), (lambda: mcnemar(["a", "b"], ["a", "b"], [0, 1]), "text and numbers"),
    (lambda: mcnemar(Y[:, None], PRED[:, None], BETTER[:, None]), "(200, 1)"), (lambda: mcnemar(Y, PRED, BETTER, level=95), "level=95"),
])
def test_mcnemar_refusals(call, words):
    with pytest.raises(ValueError) as e: call()
    assert words in str(e.value) and "\n" not in str(e.value)


# --- over seeds ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("m", [2, 3, 5, 30])
@pytest.mark.parametrize("level", [.5, .95, .99])
def test_seed_interval_equals_scipy(m, level):
    v = np.random.default_rng(m).normal(.8, .03, size=m)
    i, (low, high) = seed_interval(v, level), stats.t.interval(level, m - 1, v.mean(), stats.sem(v))
    assert (i.low, i.high, i.value) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12), v.mean())
    assert seed_interval(list(v), level) == i and i.n == m and i.level == level


def test_seed_interval_covers_with_few_seeds():
    held = [i.low <= .8 <= i.high for i in (seed_interval(np.random.default_rng(s).normal(.8, .02, size=3)) for s in range(1000))]
    assert .93 < np.mean(held) < .97


def test_equal_scores_have_no_width(): assert seed_interval([.75] * 4)[:3] == (.75, .75, .75)


@pytest.mark.parametrize("call,words", [
    (lambda: seed_interval([.8]), "(1,)"), (lambda: seed_interval([]), "(0,)"), (lambda: seed_interval(.8), "()"),
    (lambda: seed_interval([[.8, .9]]), "(1, 2)"), (lambda: seed_interval([.8, np.nan]), "nan"), (lambda: seed_interval([.8, np.inf]), "inf"),
    (lambda: seed_interval([.8, .9], level=1), "level=1"),
])
def test_seed_interval_refusals(call, words):
    with pytest.raises(ValueError) as e: call()
    assert words in str(e.value) and "\n" not in str(e.value)


def test_speed_of_the_reports_job():
    rng = np.random.default_rng(0)
    names = np.array([f"condition {i}" for i in range(10)])
    y, a, b = names[rng.integers(10, size=(3, 1200))]
    spent = time.process_time()
    bootstrap_interval(accuracy, y, a)
    assert time.process_time() - spent < 1  # 2,000 resamples of 1,200 rows
    spent = time.process_time()
    paired_difference(partial(macro_f1, classes=names), y, a, b, n_boot=500, groups=np.repeat(np.arange(400), 3))
    assert time.process_time() - spent < 5


def test_arrays_only():
    code = "import sys, finetune_book.judge.bootstrap; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'scipy', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_chance_is_zero():
    one = np.ones(3000)
    got = mcnemar(one, one * 0, one)
    assert got.p_value == got.mid_p == 1e-300 and "p < 1e-300" in str(got) and "B is clearly higher" in str(got)


# --- compare: two ways, by seed and by row -------------------------------------------------------------------------

def two_ways(m=4, n=60, better=.1):
    rng = np.random.default_rng(0)
    return {"a": (rng.random((m, n)) < .6).astype(float), "b": (rng.random((m, n)) < .6 + better).astype(float)}


def test_compare_is_the_paired_t_interval_over_seeds_and_the_paired_bootstrap_over_rows():
    ways, groups = two_ways(), np.arange(60) // 3
    got = compare(ways, "a", "b", groups=groups, rows="validation rows")
    reference = stats.ttest_rel(ways["b"].mean(1), ways["a"].mean(1)).confidence_interval(.95)
    assert np.allclose(got.seeds[1:3], reference, rtol=0, atol=1e-12) and got.seeds.n == 4
    over_rows = paired_difference(lambda _, v: v.mean(), np.zeros(60), ways["a"].mean(0), ways["b"].mean(0), groups=groups)
    assert got.rows[:3] == over_rows.difference[:3]
    assert "over 4 seeds" in str(got) and "over 60 validation rows in 20 groups" in str(got)


@pytest.mark.parametrize("a, b, verdict", [
    ([.5, .5, .5], [.8, .81, .79], "b is clearly higher"), ([.8, .81, .79], [.5, .5, .5], "b is clearly lower"),
    ([.5, .6, .7], [.6, .6, .75], "no clear difference over seeds"), ([.5, .5], [.6, .6], "moved nothing"),
    ([.5, .6], [.5, .6], "no clear difference")])
def test_compare_says_what_the_interval_over_seeds_allows(a, b, verdict):
    got = compare({"a": a, "b": b}, "a", "b")
    assert verdict in got.sentence and got.rows is None and ("clearly" in verdict) == ("clearly" in got.sentence)


def test_one_doubt_is_enough_for_no_clear_difference():
    rows = np.zeros((3, 40))
    sure = rows.copy(); sure[:, :30] = 1
    assert compare({"a": rows, "b": sure}, "a", "b").sentence.endswith("b is clearly higher.")
    uneven = rows.copy(); uneven[0] = 1; uneven[1, :4] = 1                     # all rows agree, the seeds do not
    assert "no clear difference over seeds." in compare({"a": rows, "b": uneven}, "a", "b").sentence
    one = rows.copy(); one[:, 0] = 1                                           # all seeds agree, on one row
    assert "no clear difference over test rows." in compare({"a": rows, "b": one}, "a", "b").sentence


def test_an_interval_that_the_test_does_not_confirm_is_no_clear_difference():
    few = np.zeros((3, 5))
    sure = few.copy(); sure[:, :4] = 1                                         # four swaps of five rows: p = 1/8
    told = compare({"a": few, "b": sure}, "a", "b")
    assert told.rows.low > 0 and told.sentence.endswith("no clear difference over test rows, where the test does not confirm the interval.")


def test_seeds_are_paired_by_name_and_one_training_is_judged_over_rows():
    by_name = {"a": {1: .1, 2: .5}, "b": {2: .6, 1: .3}}
    assert abs(compare(by_name, "a", "b").seeds.value - .15) < 1e-12
    got = compare({way: hits[:1] for way, hits in two_ways(better=.3).items()}, "a", "b", what="accuracy")
    assert got.seeds is None and got.sentence.startswith("accuracy: ") and "by one training of each" in got.sentence


def test_small_numbers_are_not_rounded_away():
    assert "+0.00015" in compare({"a": [.0001, .0002, .0001], "b": [.00025, .00035, .00025]}, "a", "b").sentence


@pytest.mark.parametrize("ways, b, says", [
    ({"a": [1, 2], "b": [1, 2]}, "c", "must be one of a, b"), ({"a": [1, 2], "b": [1]}, "b", "a pair needs both"),
    ({"a": {0: 1, 1: 2}, "b": {0: 1, 2: 2}}, "b", "a pair needs both"), ({"a": [1], "b": [2]}, "b", "at least 2 seeds"),
    ({"a": [[1, 2]], "b": [[1, 2, 3]]}, "b", "the same rows"), ({"a": [[1, 2], [1]], "b": [[1, 2], [1]]}, "b", "the same rows"),
    ({"a": [1, np.nan], "b": [1, 2]}, "b", "finite"), ({"a": [[[1.]]] * 2, "b": [[[1.]]] * 2}, "b", "one number")])
def test_compare_refuses_what_is_no_pair(ways, b, says):
    with pytest.raises(ValueError, match=says): compare(ways, "a", b)
