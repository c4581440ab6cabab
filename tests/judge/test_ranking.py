"""Scores of rankings: by hand, equal to scikit-learn's, and what cannot be judged is refused."""
import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from finetune_book.checks import InputError
from finetune_book.judge.bootstrap import bootstrap_interval
from finetune_book.judge.ranking import hit_at, ndcg_at, recall_at, reciprocal_rank

QRELS = {"q": {"a": 1, "b": 2, "z": 0}, "r": {"c": 1}}


def test_by_hand():
    ranking = {"q": ["z", "a", None], "r": ["c"]}
    assert recall_at(ranking, QRELS, 3).tolist() == [.5, 1] and recall_at(ranking, QRELS, 1).tolist() == [0, 1]
    assert reciprocal_rank(ranking, QRELS).tolist() == [.5, 1] and hit_at(ranking, QRELS, 1).tolist() == [0, 1]
    assert np.allclose(ndcg_at(ranking, QRELS, 3), [(1 / np.log2(3)) / (2 + 1 / np.log2(3)), 1])
    assert reciprocal_rank({"q": ["z", "x", "a"]}, QRELS, k=2).tolist() == [0]


def test_more_relevant_ones_than_places():
    many = {"q": dict.fromkeys("abcdefgh", 1)}
    assert recall_at({"q": ["a", "b", "x"]}, many, 2).tolist() == [1] and recall_at({"q": ["a", "x"]}, many, 4).tolist() == [.25]
    assert ndcg_at({"q": ["a", "b"]}, many, 2).tolist() == [1]


@pytest.mark.parametrize("seed", range(5))
def test_ndcg_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(3, 30)), int(rng.integers(1, 12))
    gains, scores = rng.integers(0, 4, n), rng.permutation(n).astype(float)
    gains[0] = 1
    ours = ndcg_at({"q": np.argsort(-scores).tolist()}, {"q": dict(enumerate(gains.tolist()))}, k)
    assert abs(ours[0] - ndcg_score([gains], [scores], k=min(k, n))) < 1e-12


def test_the_interval_is_over_queries():
    found = bootstrap_interval(np.mean, reciprocal_rank({"q": ["a"], "r": ["x"]}, QRELS), n_boot=50)
    assert found.n == 2 and found.low <= .5 <= found.high


@pytest.mark.parametrize("call, says", [
    (lambda: ndcg_at({"q": ["a", "a"]}, QRELS), "'a' twice|a twice"), (lambda: recall_at({"unknown": ["a"]}, QRELS, 1), "no qrels"),
    (lambda: recall_at({"q": ["a"]}, QRELS, 0), "k=0")])
def test_what_cannot_be_judged(call, says):
    with pytest.raises(InputError, match=says): call()
