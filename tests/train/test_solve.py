"""The best linear head: the same as scikit-learn finds, its penalty chosen on rows held back, folded into a plain layer."""
import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from torch import nn

from finetune_book.checks import InputError
from finetune_book.tasks.losses import CrossEntropy, SquaredError
from finetune_book.train.solve import PENALTIES, choose_penalty, folds, solve_head


def classes(n=200, c=3, seed=0):
    x, y = make_classification(n, 12, n_informative=6, n_classes=c, random_state=seed)
    return torch.from_numpy(x).float(), torch.from_numpy(y)

def accuracy(out, y): return (out.argmax(1) == y).double().mean()


@pytest.mark.parametrize("c", [2, 3, 5])
@pytest.mark.parametrize("C", [.3, 10.])
def test_it_is_the_minimum_that_scikit_learn_finds(c, C):
    x, y = classes(c=c)
    head = nn.Linear(12, c)
    assert solve_head(head, x, y, CrossEntropy(), accuracy, C=C) == C
    a = x.double().numpy()
    scaled = (a - a.mean(0)) / np.sqrt(((a - a.mean(0))**2).sum(1).mean())
    # of two outputs each has half of what scikit-learn's one weight for two classes has: the penalty is half as strong
    theirs = LogisticRegression(C=2 * C if c == 2 else C, tol=1e-8, max_iter=10_000).fit(scaled, y.numpy())
    ours = torch.softmax(head(x), 1).detach().numpy()
    assert np.abs(ours - theirs.predict_proba(scaled)).max() < 2e-3


def test_no_scale_or_shift_of_the_features_changes_the_answers():
    x, y = classes()
    outs = []
    for seen in (x, 1000 * x, x + 50):
        head = nn.Linear(12, 3)
        solve_head(head, seen, y, CrossEntropy(), accuracy, C=1.)
        outs.append(torch.softmax(head(seen), 1))
    assert torch.allclose(outs[0], outs[1], atol=1e-3) and torch.allclose(outs[0], outs[2], atol=1e-3)


def test_the_start_of_the_head_and_the_global_random_state_do_not_matter():
    x, y = classes()
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        head = nn.Linear(12, 3)
        solve_head(head, x, y, CrossEntropy(), accuracy)
        found.append(head.weight.detach().clone())
    assert torch.equal(*found)


def test_class_weights_and_smoothing_count():
    x, y = classes()
    def weights(loss):
        head = nn.Linear(12, 3)
        solve_head(head, x, y, loss, accuracy, C=3.)
        return head.weight.detach().clone()
    plain = weights(CrossEntropy())
    assert not torch.allclose(plain, weights(CrossEntropy(torch.tensor([1., 1., 9.]))), atol=1e-2)
    assert not torch.allclose(plain, weights(CrossEntropy(label_smoothing=.2)), atol=1e-2)


def test_a_number_is_ridge_regression_and_a_constant_feature_harms_nothing():
    x, _ = classes()
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    y = x[:, :1].double()[:, 0] * 2 + 1
    head = nn.Linear(13, 1)
    solve_head(head, x, y, SquaredError(), lambda out, t: -SquaredError()(out, t).item())
    assert torch.allclose(head(x)[:, 0].double(), y, atol=.2) and bool(torch.isfinite(head.weight).all())


def test_equal_features_leave_the_share_of_each_class():
    y = torch.tensor([0] * 30 + [1] * 10)
    head = nn.Linear(4, 2)
    solve_head(head, torch.ones(40, 4), y, CrossEntropy(), accuracy)
    assert torch.allclose(torch.softmax(head(torch.ones(1, 4)), 1), torch.tensor([[.75, .25]]), atol=1e-3)


def test_parts_hold_each_class_alike_and_no_row_twice():
    y = np.repeat([0, 1, 2], [30, 9, 3])
    part = folds(y, 3)
    assert [np.bincount(part[y == c], minlength=3).tolist() for c in range(3)] == [[10] * 3, [3] * 3, [1] * 3]
    assert np.bincount(folds(np.zeros(11), 4)).tolist() == [3, 3, 3, 2]


def test_of_equal_penalties_the_strongest_wins():
    x, y = classes()
    C, ranks = choose_penalty(x.double(), y, CrossEntropy(), 3, lambda out, t: 1.)
    assert C == PENALTIES[0] and np.allclose(ranks, 1)


@pytest.mark.parametrize("C", [0, -1, float("nan"), "strong"])
def test_a_penalty_that_is_none_is_refused(C):
    with pytest.raises(InputError, match="C="): solve_head(nn.Linear(12, 3), *classes(), CrossEntropy(), accuracy, C=C)
