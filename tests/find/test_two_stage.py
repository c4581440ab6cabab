"""Two stages: what the judge says decides among what the finder brought, and nothing else is found."""
import numpy as np
import pytest

from examples import TEXTS
from finetune_book.checks import InputError
from finetune_book.find.searcher import Searcher
from finetune_book.find.two_stage import TwoStage
from finetune_book.text.answerer import found_pairs

DOCS = {"a": "pain in the chest", "b": "no fever", "c": "pain and cough", "d": "cough for two days", "e": "the head with pain"}


class Says:
    def __init__(self, of): self.of = of
    def predict_proba(self, pairs):
        p = np.array([self.of(q, d) for q, d in pairs], dtype=float)
        return np.stack([1 - p, p], 1)


@pytest.fixture(scope="module")
def finder(): return Searcher(words=True).fit(DOCS)


def test_the_judge_decides_among_what_was_brought(finder):
    ids, odds = TwoStage(finder, Says(lambda q, d: 1 / len(d)), among=2).search(["pain cough", "fever"], 2)
    brought = finder.search(["pain cough", "fever"], 2)[0]
    assert set(ids[0]) == set(brought[0]) and ids[1].tolist() == ["b", None]
    assert len(DOCS[ids[0, 0]]) <= len(DOCS[ids[0, 1]]) and odds[1, 1] == -np.inf and np.isclose(odds[1, 0], np.log(1 / 7), atol=1e-5)


def test_equal_odds_leave_the_first_stage_as_it_is(finder):
    asked = ["pain cough", "pain", "nothing known"]
    for p in (0., .4, 1.):
        ids, odds = TwoStage(finder, Says(lambda q, d: p), among=5).search(asked, 4)
        assert np.array_equal(ids, finder.search(asked, 4)[0]) and np.isfinite(odds[0][ids[0] != None]).all()  # noqa: E711


def test_it_is_a_finder_for_answers_as_well(finder):
    ids, _ = TwoStage(finder, Says(lambda q, d: .5)).search(["pain"], 3)
    assert all(name in DOCS for _, name in found_pairs(ids, DOCS))


class Three:
    def predict_proba(self, pairs): return np.full((len(pairs), 3), 1 / 3)


@pytest.mark.parametrize("settings, args, says", [
    (dict(among=3), (["pain"], 4), "k=4"), (dict(among=0), (["pain"], 1), "among=0"), (dict(judge=Three()), (["pain"], 2), "judge: says 3 classes"),
    ({}, ([], 2), "no queries"), ({}, (["pain", " "], 2), "query 1 is empty"), ({}, ("pain", 2), "one string")])
def test_what_cannot_be_is_one_line(finder, settings, args, says):
    with pytest.raises(InputError) as error: TwoStage(**dict(finder=finder, judge=Says(lambda q, d: .5)) | settings).search(*args)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_fitted_judge_goes_in(tiny_base):
    from finetune_book.text.pairs import PairClassifier
    docs = {i: t for i, t in enumerate(TEXTS)}
    judge = PairClassifier(tiny_base, tune="full", epochs=1, lr=.01, max_length=24, verbose=0, device="cpu", precision="float32").fit([(t, t) for t in TEXTS] + [(TEXTS[0], t) for t in TEXTS[1:]], [1] * 12 + [0] * 11)
    ids, odds = TwoStage(Searcher(tiny_base, words=False, max_length=16, device="cpu").fit(docs), judge, among=6).search(TEXTS[:2], 6)
    assert (np.diff(odds) <= 0).all() and all(len(set(row)) == 6 for row in ids)
