"""Lesson 34 (ladder) beyond the lesson: both tests of a step, two kinds of interval with their names, a temperature that never sees the test."""
import matplotlib
import numpy as np
import pytest

from finetune_book.judge.bootstrap import bootstrap_interval, mcnemar, paired_difference, seed_interval
from finetune_book.judge.ladder import (abstention_gain, answer_table, both_tests, calibrate, draw_calibration, ladder_table, right_rows, row_losses, steps_table,
                                  two_intervals, verdict_on)
from finetune_book.losses import softmax
from finetune_book.judge.metrics import accuracy, log_loss

matplotlib.use("agg")
RNG = np.random.default_rng(0)
Y = RNG.choice(list("abc"), 240)
SAID = {name: np.where(RNG.random(240) < right, Y, "a") for name, right in (("low", .4), ("middle", .6), ("high", .65))}
GROUPS = np.arange(240) // 4


def scored(n, sharp, seed):
    rng = np.random.default_rng(seed)
    z = 1.5 * rng.normal(size=(n, 3))
    return np.array(list("abc"))[(rng.random((n, 1)) > softmax(z).cumsum(1)).sum(1).clip(max=2)], softmax(sharp * z)


# --- steps ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("groups", [None, GROUPS])
def test_the_fast_way_gives_lesson_07s_numbers(groups):
    "Right or wrong rows in place of labels: the same intervals and p-values to the last bit."
    table, steps = ladder_table(Y, SAID, groups=groups, n_boot=200), steps_table(Y, SAID, groups=groups, n_boot=200)
    for name, pred in SAID.items():
        assert tuple(table.loc[name, ["accuracy", "low", "high"]]) == bootstrap_interval(accuracy, Y, pred, n_boot=200, groups=groups)[:3]
    for a, b in (("low", "middle"), ("middle", "high")):
        ref, got = paired_difference(accuracy, Y, SAID[a], SAID[b], n_boot=200, groups=groups, names=(a, b)), steps.loc[f"{a} → {b}"]
        assert np.allclose([got.gain, got.low, got.high], ref.difference[:3], rtol=0, atol=1e-15) and got.p_value == ref.p_value
        if groups is None: assert got.mcnemar_p == mcnemar(Y, SAID[a], SAID[b]).p_value
    assert ("mcnemar_p" in steps) == (groups is None)


def test_pairs_are_chosen_and_unknown_rungs_are_not_hidden():
    assert list(steps_table(Y, SAID, n_boot=20, pairs=[("low", "high")]).index) == ["low → high"]
    with pytest.raises(KeyError): steps_table(Y, SAID, n_boot=20, pairs=[("low", "none")])
    with pytest.raises(ValueError, match="'short' predicts"): right_rows(Y, {"short": Y[:3]})


def test_tests_that_disagree_are_not_a_clear_difference():
    one = np.ones(40)
    clear, unclear = mcnemar(one, np.arange(40) < 20, one), mcnemar(one, np.arange(40) < 38, one)
    paired = paired_difference(accuracy, one, one * 0, one, n_boot=50)
    assert "clearly" in both_tests(paired, clear) and "disagree" not in both_tests(paired, clear)
    assert both_tests(paired, unclear).endswith("take it as no clear difference.") and both_tests(paired, None) == paired.sentence


# --- rows and seeds -------------------------------------------------------------------------------------------------

def test_intervals_are_named_and_come_from_what_they_name():
    runs = {name: [np.where(np.random.default_rng(s).random(240) < right, Y, "a") for s in range(4)] for name, right in (("frozen", .5), ("tuned", .8))}
    table, told = two_intervals(Y, runs, groups=GROUPS, n_boot=100)
    assert list(table.index) == [f"{w}, over {o}" for w in ("frozen", "tuned", "tuned minus frozen") for o in ("test rows", "seeds")]
    assert np.allclose(table.loc["tuned, over seeds", ["value", "low", "high"]].astype(float), seed_interval([accuracy(Y, p) for p in runs["tuned"]])[:3])
    assert tuple(table.loc["tuned, over test rows", ["value", "low", "high"]]) == bootstrap_interval(accuracy, Y, runs["tuned"][0], groups=GROUPS, n_boot=100)[:3]
    assert table.n.tolist() == [240, 4] * 3 and told.count("tuned is clearly higher") == 2 and "over 240 test rows in 60 groups" in told and "over 4 seeds" in told


def test_one_training_has_no_interval_over_seeds():
    table, told = two_intervals(Y, {"low": [SAID["low"]], "same": [SAID["low"]]}, n_boot=50)
    assert len(table) == 3 and not table.index.str.contains("seeds").any() and "no clear difference" in told and "no interval over seeds" in told


@pytest.mark.parametrize("low, high, says", [(-.1, .2, "no clear difference"), (0, .2, "no clear difference"), (.1, .2, "x is clearly higher"), (-.2, -.1, "x is clearly lower")])
def test_verdicts(low, high, says): assert verdict_on(seed_interval([0., 0.])._replace(value=(low + high) / 2, low=low, high=high), "x") == says


# --- temperature and abstention -------------------------------------------------------------------------------------

def test_the_temperature_does_not_depend_on_the_test():
    val, (y, p) = scored(300, 2, 0), scored(300, 2, 1)
    one, two = calibrate(*val, y, p, list("abc"), n_boot=50), calibrate(*val, np.roll(y, 7), p, list("abc"), n_boot=50)
    assert one.T == two.T and np.array_equal(one.proba, two.proba) and one.table.log_loss.tolist() != two.table.log_loss.tolist()


@pytest.mark.parametrize("sharp, says", [(3, "after temperature is clearly lower"), (1, "no clear difference")])
def test_the_verdict_on_the_log_loss(sharp, says):
    got = calibrate(*scored(1500, sharp, 2), *scored(1500, sharp, 3), list("abc"))
    assert says in got.sentences[1] and (got.table.p_value.iloc[0] < .05) == (sharp > 1) and abs(got.T / sharp - 1) < .2
    assert len(got.sentences) == 4 and got.sentences[2].startswith("As trained: ECE")


def test_row_losses_average_to_the_log_loss():
    y, p = scored(100, 2, 4)
    assert abs(row_losses(y, p, list("abc")).mean() - log_loss(y, p, list("abc"))) < 1e-14


def test_a_validation_set_without_a_mistake_changes_nothing():
    y, p = scored(50, 2, 5)
    got = calibrate(list("abc"), np.eye(3) * .7 + .1, y, p, list("abc"), n_boot=50)
    assert got.T == 1 and np.allclose(got.proba, p) and "T stays 1" in got.sentences[0] and "no clear difference" in got.sentences[1]


def test_the_figure_has_two_panels_and_words_for_both():
    import matplotlib.pyplot as plt
    y, p = scored(80, 2, 6)
    figure, alt = draw_calibration(y, p, p, list("abc"))
    assert len(figure.axes) == 2 and alt.startswith("As trained.") and "After temperature." in alt
    plt.close(figure)


def test_the_surest_rows_are_answered_first():
    y, p = np.array(["a"] * 8 + ["b"] * 2), np.c_[np.linspace(.95, .55, 10), 1 - np.linspace(.95, .55, 10)]
    table = answer_table(y, p, ["a", "b"])
    assert table.n.tolist() == [10, 10, 9, 8, 5] and table.accuracy.tolist() == [.8, .8, 8 / 9, 1, 1] and (np.diff(table.threshold) >= 0).all()
    gain, told = abstention_gain(y, p, ["a", "b"], n_boot=100)
    assert abs(gain.value - .2) < 1e-12 and "surest rows adds" in told
    same = np.tile([.6, .4], (10, 1))                     # equal confidences cannot be parted
    assert answer_table(y, same, ["a", "b"]).n.tolist() == [10] * 5 and abstention_gain(y, same, ["a", "b"], n_boot=20)[0].value == 0
