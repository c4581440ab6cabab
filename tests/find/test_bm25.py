"""Scores by words: equal to the formula written out, and to a library's where that is there; additions and deletions leave no trace."""
import numpy as np
import pytest

from finetune_book.checks import InputError
from finetune_book.find.bm25 import BM25, words_of

DOCS = ["the card is lost, the card is gone", "where is my refund", "?!", "卡丢了 card", "refund refund refund of a card", "ساعات العمل 😀"]
QUERIES = ["lost card", "refund refund", "卡 😀", "nothing known here", "the the card is", "ساعات"]


def by_formula(query, docs, k1, b):
    lists = [words_of(d) for d in docs]
    mean, scores = sum(map(len, lists)) / len(lists), []
    for d in lists:
        total = 0.
        for t in words_of(query):
            holders = sum(t in other for other in lists)
            total += np.log(1 + (len(docs) - holders + .5) / (holders + .5)) * d.count(t) * (k1 + 1) / (d.count(t) + k1 * (1 - b + b * len(d) / mean) or 1)
        scores.append(total)
    return scores


@pytest.mark.parametrize("k1, b", [(1.2, .75), (0, .75), (2., 0), (.5, 1)])
def test_it_is_the_formula(k1, b):
    wanted = np.array([by_formula(q, DOCS, k1, b) for q in QUERIES])
    assert np.abs(BM25(k1, b).add(DOCS).scores(QUERIES) - wanted).max() < 1e-12


def test_it_is_the_librarys():
    library = pytest.importorskip("rank_bm25", reason="rank-bm25 is not installed: it is a comparison for this test alone")
    theirs = library.BM25Okapi([words_of(d) for d in DOCS], k1=1.2, b=.75)
    n = len(DOCS)
    holders = {w: sum(w in words_of(d) for d in DOCS) for w in theirs.idf}
    theirs.idf = {w: np.log(1 + (n - h + .5) / (h + .5)) for w, h in holders.items()}           # Lucene's, which is never negative
    wanted = np.array([theirs.get_scores(words_of(q)) for q in QUERIES])
    assert np.abs(BM25(1.2, .75).add(DOCS).scores(QUERIES) - wanted).max() < 1e-12


def test_added_in_pieces_and_deleted_from_it_is_the_same_to_the_last_bit():
    whole = BM25().add(DOCS)
    piecewise = BM25().add(["zebra zoo", DOCS[0]]).add(DOCS[1:4]).add(["card aardvark"]).add(DOCS[4:]).keep([1, 2, 3, 4, 6, 7])
    assert piecewise.words == whole.words and np.array_equal(piecewise.scores(QUERIES), whole.scores(QUERIES))


@pytest.mark.parametrize("text, words", [
    ("Refund, please: 3 EUR!", ["refund", "please", "3", "eur"]), ("我的卡丢了", list("我的卡丢了")), ("lost😀😀", ["lost", "😀", "😀"]),
    ("ＦＵＬＬ Straße", ["full", "strasse"]), ("كلمة المرور", ["كلمة", "المرور"]), ("?! …", []), ("don't", ["don", "t"])])
def test_words(text, words): assert words_of(text) == words


def test_nothing_shared_scores_nothing_and_an_empty_index_has_no_scores():
    assert BM25().add(DOCS).scores(["xylophone", "…"]).tolist() == [[0] * len(DOCS)] * 2
    assert BM25().scores(["card"]).shape == (1, 0) and len(BM25()) == 0
    assert BM25().add(["?!"]).scores(["card"]).tolist() == [[0.]]


@pytest.mark.parametrize("settings", [dict(k1=-1), dict(b=1.1), dict(b="x"), dict(k1=float("nan"))])
def test_settings_that_cannot_be(settings):
    with pytest.raises(InputError, match=next(iter(settings))): BM25(**settings)
