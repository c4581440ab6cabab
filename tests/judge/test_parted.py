"How well scores part two kinds: by hand, like scikit-learn, whole groups, and both kinds in every draw."
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from finetune_book.judge.parted import auroc, auroc_interval, drawn_apart


@pytest.mark.parametrize("scores, area", [([3, 2, 1, 0], 1), ([0, 1, 2, 3], 0), ([1, 1, 1, 1], .5), ([3, 1, 2, -np.inf], .75), ([-np.inf, 2, -np.inf, 1], (.5 + 2) / 4)])
def test_by_hand(scores, area): assert auroc(np.array([True, True, False, False]), np.array(scores, float)) == area


def test_like_scikit_learn_and_the_mean_over_trainings():
    rng = np.random.default_rng(1)
    known, scores = rng.random(90) < .4, rng.integers(0, 5, (90, 3)).astype(float)
    each = [roc_auc_score(known, column) for column in scores.T]
    assert auroc(known, scores) == pytest.approx(np.mean(each)) and auroc(known, scores[:, 1]) == pytest.approx(each[1])


def test_one_kind_alone_is_refused():
    for known in (np.ones(4, bool), np.zeros(4, bool)):
        with pytest.raises(ValueError, match="nothing to part"): auroc_interval(known, np.arange(4.))


def test_every_draw_has_both_kinds_and_whole_groups():
    known, groups = np.array([True] * 12 + [False] * 4), np.array(list("aabbccddeeff" "xxyy"))
    for rows, _ in zip(drawn_apart(known, groups, np.random.default_rng(0)), range(200)):
        assert known[rows].sum() == 12 and len(rows) == 16 and all((groups[rows] == g).sum() % 2 == 0 for g in groups)
    mixed = np.array(list("aabb" "aabb"))                     # both groups hold both kinds: they are drawn whole
    known = np.arange(8) < 4
    for rows, _ in zip(drawn_apart(known, mixed, np.random.default_rng(0)), range(50)): assert known[rows].sum() == 4


def test_the_interval_is_repeatable_and_holds_its_value():
    rng = np.random.default_rng(2)
    known = rng.random(60) < .5
    scores = rng.normal(size=60) + known
    one, again = (auroc_interval(known, scores, np.arange(60) // 3, n_boot=200, seed=4) for _ in range(2))
    assert one == again and one.low < one.value < one.high and one.n_groups == 20
