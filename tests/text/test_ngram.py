"The n-gram with backoff: a distribution after any history, right by hand; its order is chosen on what it has not counted."
import math

import pytest

from finetune_book.checks import InputError
from finetune_book.text.ngram import NGram, best_ngram


def test_it_is_a_distribution_and_right_by_hand():
    gram = NGram([[0, 1, 2, 0], [0, 1, 1, 0]], 2, pieces=4)
    for history in ([], [0], [1], [0, 1], [3]): assert sum(gram.p(history, w) for w in range(4)) == pytest.approx(1)
    # one piece: 1 three times, 0 twice, 2 once, three kinds; (3 + 3/4) / 9. After 0: 1 twice, one kind; (2 + that) / 3
    assert gram.p([], 1) == pytest.approx(3.75 / 9) and gram.p([0], 1) == pytest.approx((2 + 3.75 / 9) / 3)
    assert gram.nats([0, 1, 2, 0]) == pytest.approx(-sum(math.log(gram.p([a], b)) for a, b in ((0, 1), (1, 2), (2, 0))))


def test_the_order_is_that_of_the_held_out_rows():
    chain = [[0, *(1, 2, 3) * 4, 0]] * 3
    assert best_ngram(chain, chain, 4).order > 1 and best_ngram([[0, 1, 0], [0, 2, 0]], [[0, 3, 0]], 4).order == 1
    assert best_ngram(chain, chain, 4, orders=[2]).order == 2
    with pytest.raises(InputError, match="order=0"): NGram(chain, 0, 4)
