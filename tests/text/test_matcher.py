"""Texts that match: pairs become groups, training brings them together, and a search takes the matcher as its base."""
import numpy as np
import pytest

from examples import LABELS, TEXTS
from finetune_book import TextMatcher
from finetune_book.checks import InputError
from finetune_book.find.searcher import Searcher


@pytest.fixture(scope="module")
def settings(tiny_base): return dict(base=tiny_base, epochs=40, lr=.02, batch_size=12, max_length=16, verbose=0, device="cpu", precision="float32", temperature=1.)


@pytest.fixture(scope="module")
def fitted(settings): return TextMatcher(**settings).fit(TEXTS, LABELS)


def test_it_brings_together_what_belongs_together(fitted, settings):
    before = TextMatcher(**settings | dict(epochs=1, lr=1e-9)).fit(TEXTS, LABELS)
    assert fitted.score(TEXTS, LABELS) == 1 > before.score(TEXTS, LABELS) - 1e-9
    u, same = fitted.transform(TEXTS), np.equal.outer(LABELS, LABELS)
    assert (u @ u.T)[same].mean() > (u @ u.T)[~same].mean() + .3


def test_before_the_first_step_it_is_the_base(settings, tiny_base):
    untrained = TextMatcher(**settings | dict(epochs=1, lr=1e-12)).fit(TEXTS, LABELS)
    base = Searcher(tiny_base, words=False, max_length=16, device="cpu").fit(TEXTS).vectors_
    assert np.allclose(untrained.transform(TEXTS), base, atol=1e-5)


def test_symmetric_and_of_one_length(fitted):
    a, b = TEXTS[:6], TEXTS[6:]
    assert np.array_equal(fitted.similarity(a, b), fitted.similarity(b, a)) and np.allclose(np.linalg.norm(fitted.transform(a), axis=1), 1)


def test_saved_and_loaded_it_is_the_same_base_of_a_search(fitted, tmp_path):
    again = TextMatcher.load(fitted.save(tmp_path / "m"), device="cpu")
    assert np.array_equal(again.transform(TEXTS), fitted.transform(TEXTS))
    one, two = (Searcher(base, words=False, device="cpu").fit(TEXTS) for base in (fitted, str(tmp_path / "m")))
    (a, s), (b, t) = one.search(["clean good room"], 3), two.search(["clean good room"], 3)
    assert np.array_equal(a, b) and np.array_equal(s, t) and one.made_by_ == two.made_by_
    assert {LABELS[i] for i in a[0]} == {"yes"}
    two.save(tmp_path / "index")
    assert np.array_equal(Searcher.open(tmp_path / "index", device="cpu").search(["clean good room"], 3)[0], a)


def test_pairs_that_share_a_text_are_one_group(settings):
    pairs = [(TEXTS[i], TEXTS[i + 1]) for i in (0, 2, 4, 6, 8, 10)]
    est = TextMatcher(**settings).fit(pairs, validation=pairs[:2])
    assert "val_neighbour" in est.history_[0] and est.score(pairs) >= 0
    assert set(est.fit(pairs, ["x", "x", "x", "y", "y", "y"]).task_.groups) == {0, 1}


def test_hard_negatives_change_the_batches_and_leave_no_trace(settings):
    near = np.array([[j for j in range(12) if LABELS[j] != LABELS[i]][:3] for i in range(12)])
    plain, hard, nobody = (TextMatcher(**settings | dict(epochs=2, batch_size=4)).fit(TEXTS, LABELS, near=n) for n in (None, near, np.full((12, 2), -1)))
    assert not np.array_equal(hard.transform(TEXTS), plain.transform(TEXTS)) and np.array_equal(nobody.transform(TEXTS), plain.transform(TEXTS))
    again = TextMatcher(**settings | dict(epochs=2, batch_size=4)).fit(TEXTS, LABELS, near=near)
    assert np.array_equal(again.transform(TEXTS), hard.transform(TEXTS)) and np.array_equal(again.fit(TEXTS, LABELS).transform(TEXTS), plain.transform(TEXTS))


@pytest.mark.parametrize("near, says", [([[0]], "a row for each of the 12"), ([0] * 12, "shape (12,)"), ([[12]] * 12, "0 to 11"), ([[-2]] * 12, "-2 to -2"), ([[.5]] * 12, "float64")])
def test_hard_negatives_that_fit_no_text_are_one_line(settings, near, says):
    with pytest.raises(InputError) as error: TextMatcher(**settings).fit(TEXTS, LABELS, near=near)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("args, more, says", [
    ((TEXTS,), {}, "give labels, or pairs"), (([("a", "b", "c")],), {}, "pair 0 has 3 texts"), (([("a", " ")],), {}, "text 1 is empty"),
    (([("a", "b"), ("c", "d")], [1, 0]), {}, "only the pairs that match"), (([("a", "b")], ["x", "y"]), {}, "must agree"), (([("a", "b")],), {}, "only one label"),
    ((TEXTS, range(12)), {}, "no two training rows"), ((TEXTS, LABELS), dict(tune="head"), "moves the body"), ((TEXTS, LABELS), dict(batch_size=3), "batch_size=3"),
    ((TEXTS, LABELS), dict(temperature=0), "temperature"), ((TEXTS, LABELS), dict(augment="mixup"), "mixup")])
def test_what_cannot_be_is_one_line(settings, args, more, says):
    with pytest.raises(InputError) as error: TextMatcher(**settings | more).fit(*args)
    assert says in str(error.value) and "\n" not in str(error.value)
