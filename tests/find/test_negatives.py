"""Wrong answers that are near: of another label, nearest first; and pairs in which each right one stands once."""
import numpy as np
import pytest

from finetune_book.checks import InputError
from finetune_book.data.retrieval import Retrieval
from finetune_book.find.negatives import near_wrong, wrong_pairs
from finetune_book.find.searcher import Searcher

TEXTS = ["my card is lost", "my card is broken", "lost my card again", "hello", "the card", "my card is lost"]
LABELS = ["lost", "broken", "lost", "talk", "broken", "lost"]


@pytest.mark.parametrize("words", [True, False])
def test_the_nearest_of_other_labels_by_any_search(words, tiny_base, monkeypatch):
    searcher = Searcher(tiny_base, words=words, max_length=16, device="cpu")
    near = near_wrong(searcher, TEXTS, LABELS, k=3)
    scores, labels = searcher.scores(TEXTS), np.array(LABELS)
    for i, row in enumerate(near):
        there = row[row >= 0]
        assert (labels[there] != labels[i]).all() and (np.diff(scores[i, there]) <= 0).all()
        left = np.setdiff1d(np.flatnonzero((labels != labels[i]) & (scores[i] > -np.inf)), there)
        assert not len(left) or len(there) == 3 and scores[i, left].max() <= scores[i, there].min()
    monkeypatch.setattr("finetune_book.find.negatives.AT_ONCE", 2)
    assert np.array_equal(near, near_wrong(searcher, TEXTS, LABELS, k=3))


def test_what_cannot_be_is_one_line():
    for call, says in ((lambda: near_wrong(Searcher(words=True), TEXTS, LABELS[:2]), "6 texts and 2 labels"), (lambda: near_wrong(Searcher(words=True), TEXTS, LABELS, 0), "k=0")):
        with pytest.raises(InputError, match=says): call()


def test_each_right_pair_once_and_the_first_wrong_ones():
    docs = {"a": "card lost", "b": "card broken", "c": "card colour card", "d": "hello"}
    task = Retrieval(docs, {"x": "lost card", "y": "hello"}, {"x": {"a": 1, "b": 0}, "y": {"d": 2}})
    searcher = Searcher(words=True).fit(docs)
    pairs, answers = wrong_pairs(searcher, task, wrong=2)
    found = [d for d in searcher.search(["lost card"], 4)[0][0] if d not in ("a", None)][:2]
    assert pairs == [("lost card", docs["a"]), *[("lost card", docs[d]) for d in found], ("hello", "hello")]
    assert answers.tolist() == [1, 0, 0, 1]
