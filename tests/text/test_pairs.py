"""Pairs of texts: one row with a seam, learned as any row is, saved and loaded without loss."""
import numpy as np
import pytest

from examples import LABELS, TEXTS
from finetune_book.checks import InputError
from finetune_book.text.pairs import PairClassifier

PAIRS = [(a, b) for a, b in zip(TEXTS, TEXTS[1:] + TEXTS[:1])]


@pytest.fixture(scope="module")
def settings(tiny_base): return dict(base=tiny_base, tune="full", epochs=60, lr=.01, batch_size=6, max_length=24, verbose=0, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def fitted(settings): return PairClassifier(**settings).fit(PAIRS, LABELS)


def test_it_learns_and_batch_mates_change_nothing(fitted):
    assert fitted.score(PAIRS, LABELS) == 1
    together = fitted.predict_proba(PAIRS)
    assert max(abs(fitted.predict_proba([p]) - together[i]).max() for i, p in enumerate(PAIRS)) < 1e-5
    assert np.allclose(fitted.predict_proba(PAIRS[::-1])[::-1], together, atol=1e-5)


def test_a_row_is_what_the_tokenizer_makes_of_two_texts(fitted):
    rows, read = fitted.rows_.prepare(PAIRS), fitted.tokenizer_
    for (a, b), row in zip(PAIRS, rows):
        whole = read(a, b, return_token_type_ids=True)
        assert list(row) == whole["input_ids"] and row.types == whole["token_type_ids"] and 0 < sum(row.types) < len(row)
    inputs = fitted.rows_.collate(rows, [0, 5])
    assert inputs["token_type_ids"].shape == inputs["input_ids"].shape
    long = fitted.rows_.prepare([("pain " * 50, "fever"), ("fever", "pain " * 50)])
    assert [len(r) for r in long] == [24, 24] and sum(long[0].types) == 2 and long[1].types.count(0) == 3  # the longer one is cut


def test_types_and_order_are_heard(fitted):
    import torch
    inputs = fitted.rows_.collate(fitted.rows_.prepare(PAIRS), range(12))
    with torch.no_grad():
        said = fitted.model_.eval()(**inputs).logits
        deaf = fitted.model_(**inputs | dict(token_type_ids=torch.zeros_like(inputs["token_type_ids"]))).logits
    assert np.allclose(said.numpy(), fitted.outputs(PAIRS), atol=1e-5) and (said - deaf).abs().max() > 1e-4
    assert abs(fitted.outputs([(b, a) for a, b in PAIRS]) - fitted.outputs(PAIRS)).max() > 1e-4


def test_saved_and_loaded_it_says_the_same(fitted, tmp_path):
    again = PairClassifier.load(fitted.save(tmp_path / "m"), device="cpu")
    assert np.array_equal(again.predict_proba(PAIRS), fitted.predict_proba(PAIRS))


def test_a_head_alone_is_solved_on_what_it_sees_of_pairs(settings):
    est = PairClassifier(**settings | dict(tune="head", epochs=None, lr=None)).fit(PAIRS, LABELS)
    assert est.score(PAIRS, LABELS) > .6


@pytest.mark.parametrize("pairs, more, says", [
    ("a text", {}, "give a list of pairs"), ([("a", "b", "c")], {}, "pair 0 is ('a', 'b', 'c'): a pair has two texts"), ([("a", "b"), ("a", " ")], {}, "pair 1: text 1 is empty"),
    (["ab"], {}, "pair 0 is 'ab'"), ([], {}, "no pairs"), ([3], {}, "pair 0 is 3"), ({"a": "b"}, {}, "give a list of pairs"), (PAIRS, dict(augment="deletion"), "augment=")])
def test_what_cannot_be_is_one_line(settings, pairs, more, says):
    with pytest.raises(InputError) as error: PairClassifier(**settings | more).fit(pairs, LABELS[:len(pairs)])
    assert says in str(error.value) and "\n" not in str(error.value)
