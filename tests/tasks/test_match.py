"""The loss of matching against that of lesson 11 (losses), by hand and by differences; batches with partners; the task's answers and refusals."""
import numpy as np
import pytest
import torch

from finetune_book.checks import InputError
from finetune_book.losses import cross_entropy, numeric_gradient
from finetune_book.tasks.match import InfoNCE, Match, centred, crowding, hard_batches, hubness, paired_batches, unit_rows


def vectors(n=6, d=4, seed=0): return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    corner = torch.tensor([[1., 0.], [2., 0.], [0., 1.], [0., 3.]], dtype=torch.float64)
    assert abs(InfoNCE(1.)(corner, torch.tensor([0, 0, 1, 1])).item() - np.log((np.e + 2) / np.e)) < 1e-12


@pytest.mark.parametrize("temperature", [.05, .3, 1.])
def test_with_one_partner_each_it_is_the_cross_entropy_of_lesson_11(temperature):
    h, partner = vectors(), [1, 0, 3, 2, 5, 4]
    z = unit_rows(h) @ unit_rows(h).T / temperature
    others = np.array([[z[i, j] for j in range(6) if j != i] for i in range(6)])
    wanted = cross_entropy(others, np.array([p - (p > i) for i, p in enumerate(partner)]))
    assert abs(InfoNCE(temperature)(h, torch.tensor([0, 0, 1, 1, 2, 2])).item() - wanted) < 1e-9


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1], [0, 0, 1, 2, 3, 4], [0] * 6])
def test_the_gradient_is_that_of_differences(labels):
    h, y = vectors(), torch.tensor(labels)
    x = h.clone().requires_grad_()
    InfoNCE(.5)(x, y).backward()
    wanted = numeric_gradient(lambda a: InfoNCE(.5)(torch.tensor(a), y).item(), h.numpy())
    assert np.linalg.norm(x.grad.numpy() - wanted) <= 1e-6 * max(np.linalg.norm(wanted), 1e-3)


def test_what_shares_a_label_is_no_wrong_answer():
    h, y = vectors(), torch.tensor([0, 0, 0, 0, 1, 1])
    def loss(a, T=.5): return InfoNCE(T)(a, y)
    nearer = h.clone()
    nearer[2] = h[0]                                                      # another of the same label comes close
    assert loss(nearer) < loss(h)
    alone = vectors().requires_grad_()
    InfoNCE()(alone, torch.arange(6)).backward()                          # nobody has a partner: nothing is asked
    assert (alone.grad == 0).all() and InfoNCE().mass(torch.arange(6)) == 1


def test_a_piece_of_a_batch_is_refused_while_learning():
    loss = InfoNCE()
    loss.whole = 8
    with pytest.raises(InputError, match="pieces of 6"): loss(vectors(), torch.tensor([0, 0, 1, 1, 2, 2]))
    with torch.no_grad(): loss(vectors(), torch.tensor([0, 0, 1, 1, 2, 2]))


@pytest.mark.parametrize("temperature", [0, -1, "x", float("nan"), True])
def test_temperatures_that_are_none(temperature):
    with pytest.raises(InputError, match="temperature"): InfoNCE(temperature)


@pytest.mark.parametrize("size", [4, 7, 100])
def test_batches_hold_partners(size):
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(9), [2, 3, 4, 5, 2, 2, 7, 1, 6]))
    for epoch in range(5):
        batches = paired_batches(groups, size, seed=1, epoch=epoch)
        assert sorted(sum(batches, [])) == list(range(len(groups))) and max(map(len, batches)) <= size
        assert {groups[i] for b in batches for i in b if (groups[b] == groups[i]).sum() < 2} == {7}
    assert paired_batches(groups, size) == paired_batches(groups, size) != paired_batches(groups, size, epoch=1)


def test_the_order_of_batches_is_what_it_was():
    assert paired_batches([0, 0, 1, 1, 1, 2, 2, 2, 2], 4, seed=3, epoch=2) == [[1, 0, 8, 6], [4, 2, 3], [7, 5]]


@pytest.mark.parametrize("size", [4, 7, 100])
def test_hard_batches_hold_each_row_once_and_near_ones_together(size):
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(9), [2, 3, 4, 5, 2, 2, 7, 1, 6]))
    near = np.array([[j for j in rng.permutation(32) if groups[j] // 3 == groups[i] // 3][:6] for i in range(32)])   # some of the row's own group
    near[5] = -1
    for epoch in range(5):
        batches = hard_batches(groups, size, near, seed=1, epoch=epoch)
        assert sorted(sum(batches, [])) == list(range(32)) and max(map(len, batches)) <= size
        assert {groups[i] for b in batches for i in b if (groups[b] == groups[i]).sum() < 2} == {7}
    assert hard_batches(groups, size, near) == hard_batches(groups, size, near) != hard_batches(groups, size, near, epoch=1)


def test_a_pair_brings_the_nearest_that_is_free():
    groups, near = np.repeat(np.arange(20), 2), np.full((40, 2), -1)
    for i in range(40): near[i] = (i // 2 ^ 1) * 2, (i // 2 + 2) % 20 * 2                     # 0 and 1, 2 and 3, … are each other's nearest
    for batch in hard_batches(groups, 4, near): assert len({g // 2 for g in groups[batch]}) == 1 and len(set(groups[batch])) == 2
    assert hard_batches(groups, 4, np.full((40, 2), -1)) == paired_batches(groups, 4)
    own = np.arange(40)[:, None] ^ 1                                                         # its partner is no wrong answer
    assert hard_batches(groups, 4, own) == paired_batches(groups, 4)


def test_hubs_by_hand_and_both_remedies():
    found = np.array([3., 1., 0., 0.]) - 1                                                   # document 0 three times, 1 once
    assert np.isclose(hubness([[0], [0], [0], [1]], 4), (found ** 3).mean() / (found ** 2).mean() ** 1.5)
    assert hubness([[0, 1], [2, 3]], 4) == 0                                                 # all equally often
    corner = np.array([[1., 0.], [0., 1.], [0., 2.], [3., 0.]])
    assert np.allclose(crowding(corner, 1), 1) and np.allclose(crowding(corner, 3), 1 / 3) and np.allclose(crowding(corner, 99), 1 / 3)
    docs, asked = centred(corner, [[1., 1.]])
    assert np.allclose(docs.sum(0), 0) and np.allclose(np.linalg.norm(docs, axis=1), 1) and np.allclose(np.linalg.norm(asked), 1)
    rng = np.random.default_rng(0)
    d, q = (unit_rows(rng.normal(size=(300, 200)) + 1) for _ in range(2))
    def skewness(z): return hubness(np.argsort(-z, axis=1)[:, :10], 300)
    u, v = centred(d, q)
    assert skewness(q @ d.T) > skewness(q @ d.T - crowding(d) / 2) > skewness(v @ u.T) and skewness(q @ d.T) > 2 * skewness(v @ u.T)


def test_the_task_is_judged_by_neighbours():
    line = unit_rows([[1, 0], [1, .1], [0, 1], [.1, 1], [1, 1.]])
    assert Match().score([0, 0, 1, 1, 2], line) == 1 and Match().score([0, 1, 0, 1, 2], line) == 0
    assert Match().score([0, 0, 1], unit_rows([[1, 0]] * 3)) == 0         # a tie does not count
    with pytest.raises(InputError, match="no two rows"): Match().score([0, 1, 2, 3, 4], line)


def test_neighbours_in_blocks_are_the_same():
    from finetune_book.tasks.match import neighbour_hits
    rng = np.random.default_rng(0)
    y, u = rng.integers(0, 6, 50), unit_rows(rng.normal(size=(50, 8)))
    assert np.array_equal(neighbour_hits(y, u, block=7), neighbour_hits(y, u))


@pytest.mark.parametrize("labels, says", [(["a", "b", "c"], "no two training rows"), (["a", "a"], "only one label"), (["a", None], "label 1 is missing")])
def test_targets_that_cannot_be(labels, says):
    with pytest.raises(InputError, match=says): Match().learn(np.array(labels, dtype=object))


def test_judged_and_restored():
    task = Match()
    y = task.learn(np.array(["a", "b", "a", "b"]))
    task.width = 3
    seen = task.judge(torch.eye(4)[[0, 1, 0, 1]], y)
    assert seen["val_neighbour"] == 1 == task.rank(torch.eye(4)[[0, 1, 0, 1]], y) and seen["val_loss"] < 1e-6
    again = Match()
    again.restore(task.settings())
    assert again.n_out == 3 and task.targets(np.array(["z", "q", "z"])).tolist() == [1, 0, 1]
