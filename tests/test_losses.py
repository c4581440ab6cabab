"""What lesson 11 (losses) cannot check on itself: odd inputs, refusals, invariances, and that `losses` stays light."""
import subprocess
import sys
import warnings

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from finetune_book import losses as L

rng = np.random.default_rng(0)
Z, Y, U = rng.normal(size=(6, 4)) * 3, np.array([0, 3, 1, -100, 2, 3]), np.array([.5, 1, 2, 4])
IDS = rng.integers(0, 4, (3, 5))
ZT = rng.normal(size=(3, 5, 4))


@pytest.fixture(autouse=True)
def warnings_are_errors():
    "An overflow inside a loss is a fault even when the result looks right."
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        yield


def test_import_is_light():
    code = "import sys, finetune_book.losses; print(sorted({'torch', 'transformers', 'pandas', 'matplotlib', 'scipy', 'sklearn'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# ---- numbers -------------------------------------------------------------------------------------------------------

def test_log_sigmoid_and_sigmoid_to_the_last_digits():
    with mpmath.workdps(60):
        for z in np.r_[np.linspace(-700, 700, 141), 1e-12, -1e-12, 36.7, -36.7]:
            exact = -mpmath.log1p(mpmath.exp(-mpmath.mpf(float(z))))
            assert abs(L.log_sigmoid(z) / float(exact) - 1) < 4e-16
            assert abs(L.sigmoid(z) / float(1 / (1 + mpmath.exp(-mpmath.mpf(float(z))))) - 1) < 4e-16


@pytest.mark.parametrize("size", [0., 1., 30., 1e3, 1e4, 1e100])
def test_extreme_logits_stay_finite(size):
    z = np.array([[size, -size, 0.], [-size, size, size]])
    for y in ([0, 0], [1, 1], [2, 0]):
        assert np.isfinite(L.cross_entropy(z, np.array(y), label_smoothing=.1))
        assert np.isfinite(L.cross_entropy_grad(z, np.array(y), label_smoothing=.1)).all()
    for y in (0, 1):
        assert np.isfinite(L.binary_cross_entropy(z, np.full(z.shape, y)))
        assert np.isfinite(L.binary_cross_entropy_grad(z, np.full(z.shape, y))).all()
    assert np.allclose(L.softmax(z).sum(-1), 1, rtol=1e-15)


@pytest.mark.parametrize("eps", [0., .1, 1.])
@pytest.mark.parametrize("weight", [None, U, np.array([0., 1, 0, 2])])
@pytest.mark.parametrize("shape", [(6,), (1,), (2, 3), (1, 1, 6)])
def test_cross_entropy_equals_torch_in_every_shape(eps, weight, shape):
    n = int(np.prod(shape))
    z, y = Z[-n:].reshape(*shape, 4), Y[-n:].reshape(shape)
    t = torch.tensor(z, requires_grad=True)
    ref = F.cross_entropy(t.reshape(-1, 4), torch.tensor(y).reshape(-1), label_smoothing=eps, weight=None if weight is None else torch.tensor(weight))
    ref.backward()
    assert L.cross_entropy(z, y, eps, weight) == pytest.approx(ref.item(), rel=1e-13)
    grad = L.cross_entropy_grad(z, y, eps, weight)
    assert grad.shape == z.shape and grad.dtype == np.float64
    np.testing.assert_allclose(grad, t.grad.numpy(), rtol=1e-11, atol=1e-15)


def test_binary_and_squared_gradients_equal_torch():
    z, y, w = Z[:, 0], (Z[:, 1] > 0) * 1., np.abs(Z[:, 2])
    for ours, ref in ((L.binary_cross_entropy_grad(z, y, w), lambda t: F.binary_cross_entropy_with_logits(t, torch.tensor(y), weight=torch.tensor(w))),
                      (L.squared_error_grad(z, y), lambda t: F.mse_loss(t, torch.tensor(y)))):
        t = torch.tensor(z, requires_grad=True); ref(t).backward()
        assert ours.shape == z.shape and ours.dtype == np.float64
        np.testing.assert_allclose(ours, t.grad.numpy(), rtol=1e-13)


def test_one_row_without_a_batch_axis():
    assert L.cross_entropy(Z[0], np.array(2)) == L.cross_entropy(Z[:1], Y[:1] + 2)
    assert L.cross_entropy_grad(Z[0], np.array(2)).shape == (4,)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8])
def test_every_number_type_is_computed_in_float64(dtype):
    z = np.array([[0, 4, 9], [200, 3, 1]], dtype=dtype)
    expect = L.cross_entropy(z.astype(np.float64), np.array([1, 2]))
    assert L.cross_entropy(z, np.array([1, 2], dtype=np.uint8)) == expect
    assert L.cross_entropy(torch.tensor(z), torch.tensor([1, 2])) == expect
    assert L.cross_entropy_grad(z, [1, 2]).dtype == np.float64
    assert L.squared_error(z, np.zeros(z.shape, dtype=np.int8)) == (z.astype(float)**2).mean()     # no uint8 wrap-around


def test_python_lists_and_soft_or_boolean_binary_labels():
    assert L.binary_cross_entropy([0.], [True]) == pytest.approx(np.log(2))
    assert L.binary_cross_entropy([0.], [.3]) == pytest.approx(np.log(2))
    assert L.binary_cross_entropy_grad([0.], [.5]) == [0]
    assert type(L.binary_cross_entropy([0.], [1])) is float and type(L.cross_entropy(Z, Y)) is float


def test_inputs_are_left_as_they_were():
    z, y, u, ids, mask = Z.copy(), Y.copy(), U.copy(), IDS.copy(), np.ones_like(IDS)
    for a in (z, y, u, ids, mask): a.flags.writeable = False
    L.cross_entropy(z, y, .1, u), L.cross_entropy_grad(z, y, .1, u), L.next_token_nll_grad(ZT, ids, mask)
    L.numeric_gradient(lambda v: (v**2).sum(), z), L.squared_error_grad(z, z), L.softmax(z), L.log_softmax(z), L.logsumexp(z)
    np.testing.assert_array_equal(z, Z)


# ---- invariances ---------------------------------------------------------------------------------------------------

def test_a_common_shift_changes_nothing():
    for shift in (-50., 1e4):
        assert L.cross_entropy(Z + shift, Y, .1, U) == pytest.approx(L.cross_entropy(Z, Y, .1, U), rel=1e-11)
        np.testing.assert_allclose(L.cross_entropy_grad(Z + shift, Y, .1, U), L.cross_entropy_grad(Z, Y, .1, U), atol=1e-11)


def test_gradient_rows_sum_to_zero_and_ignored_rows_are_exactly_zero():
    grad = L.cross_entropy_grad(Z, Y, .1, U)
    np.testing.assert_allclose(grad.sum(-1), 0, atol=1e-16)
    assert not grad[Y == -100].any() and grad[Y != -100].all()


def test_ignored_rows_may_hold_anything():
    z = Z.copy(); z[3] = [np.nan, np.inf, -np.inf, 0]
    assert L.cross_entropy(z, Y) == L.cross_entropy(Z, Y) == pytest.approx(L.cross_entropy(Z[Y >= 0], Y[Y >= 0]), rel=1e-15)
    assert np.array_equal(L.cross_entropy_grad(z, Y), L.cross_entropy_grad(Z, Y))


def test_ignore_index_may_be_a_real_class():
    assert L.cross_entropy(Z, np.abs(Y) % 4, ignore_index=0) == pytest.approx(L.cross_entropy(Z[[1, 2, 4, 5]], [3, 1, 2, 3]), rel=1e-15)


def test_only_the_ratio_of_class_weights_counts():
    assert L.cross_entropy(Z, Y, .1, U) == pytest.approx(L.cross_entropy(Z, Y, .1, 1000 * U), rel=1e-14)
    assert L.cross_entropy(Z, Y, .1, np.full(4, 3.)) == pytest.approx(L.cross_entropy(Z, Y, .1), rel=1e-14)


def test_a_weight_of_two_is_a_row_twice():
    w = L.binary_cross_entropy(Z[:3, 0], [0, 1, 1], weight=[1, 2, 1]) * 3
    twice = L.binary_cross_entropy(Z[[0, 1, 1, 2], 0], [0, 1, 1, 1]) * 4
    assert w == pytest.approx(twice, rel=1e-14)


def test_softmax_along_another_axis_and_impossible_classes():
    np.testing.assert_allclose(L.softmax(Z, axis=0), L.softmax(Z.T).T, rtol=1e-15)
    np.testing.assert_allclose(L.log_softmax(Z, axis=0), L.log_softmax(Z.T).T, rtol=1e-13)
    np.testing.assert_allclose(L.logsumexp(Z, axis=0), L.logsumexp(Z.T), rtol=1e-15)
    assert L.logsumexp([-np.inf, 0., 0.]) == np.log(2) and L.logsumexp([-np.inf, -np.inf]) == -np.inf and L.logsumexp([np.inf, 0.]) == np.inf
    assert np.array_equal(L.softmax([-np.inf, 0.]), [0, 1])
    assert np.isnan(L.sigmoid(np.nan)) and np.isnan(L.log_sigmoid(np.nan))


# ---- next token ----------------------------------------------------------------------------------------------------

def test_padding_left_or_right_changes_nothing():
    alone = L.next_token_nll(ZT[:1, :3], IDS[:1, :3])
    junk = np.full((1, 2, 4), np.nan)
    right = np.concatenate([ZT[:1, :3], junk], 1), np.c_[IDS[:1, :3], [[0, 0]]], np.array([[1, 1, 1, 0, 0]])
    left = np.concatenate([junk, ZT[:1, :3]], 1), np.c_[[[0, 0]], IDS[:1, :3]], np.array([[0, 0, 1, 1, 1]], dtype=bool)
    assert L.next_token_nll(*right) == L.next_token_nll(*left) == alone


def test_last_position_is_never_judged():
    z = ZT.copy(); z[:, -1] = np.nan
    assert L.next_token_nll(z, IDS) == L.next_token_nll(ZT, IDS)
    assert not L.next_token_nll_grad(ZT, IDS)[:, -1].any()


def test_a_long_text_counts_by_its_tokens():
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    parts = [L.next_token_nll(ZT[:1], IDS[:1]), L.next_token_nll(ZT[1:2, :2], IDS[1:2, :2])]
    assert L.next_token_nll(ZT[:2], IDS[:2], mask) == pytest.approx((4 * parts[0] + parts[1]) / 5, rel=1e-14)


def test_a_large_vocabulary_needs_no_square_table():
    z = np.zeros((2, 3, 30_000), dtype=np.float32)
    assert L.next_token_nll(z, np.zeros((2, 3), int)) == pytest.approx(np.log(30_000))
    assert L.next_token_nll_grad(z, np.zeros((2, 3), int)).shape == z.shape


# ---- refusals: each names the value and the limit ------------------------------------------------------------------

nan_at = Z.copy(); nan_at[2, 1] = np.nan
REFUSED = {
    "nan logit": (lambda: L.cross_entropy(nan_at, Y), r"logits at \[2, 1\] is nan.*1 of 24"),
    "inf logit": (lambda: L.binary_cross_entropy([0, np.inf], [0, 1]), r"logits at \[1\] is inf"),
    "nan label": (lambda: L.binary_cross_entropy([0., 0.], [0, np.nan]), r"y at \[1\] is nan"),
    "nan target": (lambda: L.squared_error([0.], [np.nan]), r"y at \[0\] is nan"),
    "words": (lambda: L.cross_entropy([["a", "b"]], [0]), "dtype <U1"),
    "complex": (lambda: L.squared_error([1j], [0]), "dtype complex"),
    "empty binary": (lambda: L.binary_cross_entropy([], []), r"shape \(0,\)"),
    "empty softmax": (lambda: L.cross_entropy(np.zeros((0, 3)), np.zeros(0, int)), "no label counts: all 0"),
    "empty squared": (lambda: L.squared_error_grad([], []), r"shape \(0,\)"),
    "all ignored": (lambda: L.cross_entropy(Z, np.full(6, -100)), "all 6 are ignore_index=-100"),
    "label too large": (lambda: L.cross_entropy(Z, np.full(6, 4)), "y holds 4: labels run from 0 to 3"),
    "label negative": (lambda: L.cross_entropy_grad(Z, np.full(6, -1)), "y holds -1"),
    "binary label": (lambda: L.binary_cross_entropy([0.], [1.5]), r"y holds 1.5: .*\[0, 1\]"),
    "float labels": (lambda: L.cross_entropy(Z, Y.astype(float)), "dtype float64: labels must be integers"),
    "one-hot labels": (lambda: L.cross_entropy(Z, np.eye(6, 4, dtype=int)), r"y \(6, 4\) and logits \(6, 4\)"),
    "too few labels": (lambda: L.cross_entropy(Z, Y[:5]), r"y \(5,\) and logits \(6, 4\)"),
    "one class": (lambda: L.cross_entropy(Z[:, :1], Y), r"logits \(6, 1\)"),
    "no axis": (lambda: L.cross_entropy(1., 0), r"logits \(\)"),
    "broadcast": (lambda: L.squared_error(np.zeros((3, 1)), np.zeros(3)), r"pred \(3, 1\) and y \(3,\)"),
    "binary broadcast": (lambda: L.binary_cross_entropy_grad(np.zeros((3, 1)), np.zeros(3)), r"logits \(3, 1\) and y \(3,\)"),
    "weight shape": (lambda: L.binary_cross_entropy([0., 0.], [0, 1], weight=[1.]), r"weight \(1,\)"),
    "weight sign": (lambda: L.binary_cross_entropy([0.], [0], weight=[-2.]), "weight holds -2"),
    "class weights": (lambda: L.cross_entropy(Z, Y, class_weight=[1, 2]), r"shape \(2,\): 4 classes"),
    "class weight sign": (lambda: L.cross_entropy(Z, Y, class_weight=[1, 2, 3, -4]), "class_weight holds -4"),
    "class weight nan": (lambda: L.cross_entropy(Z, Y, class_weight=[1, 2, 3, np.nan]), r"class_weight at \[3\] is nan"),
    "no weight left": (lambda: L.cross_entropy(Z[:1], [0], class_weight=[0, 1, 1, 1]), "class_weight is 0"),
    "smoothing high": (lambda: L.cross_entropy(Z, Y, label_smoothing=1.1), "label_smoothing=1.1: must be a number from 0 to 1"),
    "smoothing low": (lambda: L.cross_entropy(Z, Y, label_smoothing=-.1), "label_smoothing=-0.1"),
    "smoothing nan": (lambda: L.cross_entropy_grad(Z, Y, label_smoothing=np.nan), "label_smoothing=nan"),
    "one token": (lambda: L.next_token_nll(np.zeros((1, 1, 4)), [[2]]), r"ids \(1, 1\): .*t >= 2"),
    "flat ids": (lambda: L.next_token_nll(np.zeros((3, 4)), [0, 1, 2]), r"ids \(3,\)"),
    "float ids": (lambda: L.next_token_nll(ZT, IDS * 1.), "dtype float64"),
    "id too large": (lambda: L.next_token_nll(ZT, np.full((3, 5), 9)), "y holds 9"),
    "mask shape": (lambda: L.next_token_nll(ZT, IDS, np.ones((3, 4))), r"mask \(3, 4\) and ids \(3, 5\)"),
    "mask values": (lambda: L.next_token_nll(ZT, IDS, np.full((3, 5), 2)), "mask holds 2"),
    "mask empty": (lambda: L.next_token_nll(ZT, IDS, np.zeros((3, 5))), "no label counts"),
    "ids do not fit": (lambda: L.next_token_nll(ZT[:, :4], IDS), r"y \(3, 5\) and logits \(3, 4, 4\)"),
    "step": (lambda: L.numeric_gradient(lambda v: 0., Z, h=0), "h=0: must be a number above 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_clear_line(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_next_token_refuses_a_negative_id_that_looks_like_the_ignore_label():
    ids = IDS.copy(); ids[0, 2] = -100
    with pytest.raises(ValueError, match="-100"):
        L.next_token_nll(ZT, ids)


def test_numeric_gradient_finds_a_wrong_gradient():
    wrong = L.cross_entropy_grad(Z, Y) * 1.001
    right = L.numeric_gradient(lambda z: L.cross_entropy(z, Y), Z)
    assert np.abs(L.cross_entropy_grad(Z, Y) - right).max() < 1e-9 < np.abs(wrong - right).max()
