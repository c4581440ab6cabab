"""What lesson 13 (optim) cannot check on itself: resume at every step, frozen parameters, groups, and each refused setting."""
import copy
import io
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from finetune_book.optim import SGDW, AdamW, constant, cosine, linear, make_schedule, step_decay

MAKERS = {
    "sgd": lambda ps: SGDW(ps, lr=.05, weight_decay=.1),
    "momentum": lambda ps: SGDW(ps, lr=.05, momentum=.9, weight_decay=.1),
    "adamw": lambda ps: AdamW(ps, lr=.01, weight_decay=.1),
}


def net(dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).to(dtype)


def batch(i, dtype=torch.float32, rows=5):
    g = torch.Generator().manual_seed(i)
    return torch.randn(rows, 4, generator=g, dtype=dtype), torch.randint(0, 3, (rows,), generator=g)


def train(model, opt, start, stop, schedule=None, **kw):
    for i in range(start, stop):
        xb, yb = batch(i, next(model.parameters()).dtype, **kw)
        opt.zero_grad()
        torch.nn.functional.cross_entropy(model(xb), yb).backward()
        opt.step()
        if schedule is not None: schedule.step()


def same(a, b): return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def through_disk(state):
    buffer = io.BytesIO(); torch.save(state, buffer); buffer.seek(0)
    return torch.load(buffer, weights_only=True)


# ---- equal to a reference ------------------------------------------------------------------------------------------

def groups(model): return [{"params": model[0].parameters(), "lr": 3e-3, "weight_decay": 0.}, {"params": model[2].parameters()}]


@pytest.mark.parametrize("fused", [False, True])      # the estimators train with the fused one
@pytest.mark.parametrize("dtype, tol", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_adamw_equals_torch_with_groups_and_a_schedule(dtype, tol, fused):
    models, rates = [net(dtype), net(dtype)], []
    for model, cls in zip(models, (AdamW, partial(torch.optim.AdamW, fused=fused))):
        opt = cls(groups(model), lr=1e-2, weight_decay=.1)
        schedule = LambdaLR(opt, make_schedule("cosine", 50, .1))
        train(model, opt, 0, 50, schedule)
        rates.append([g["lr"] for g in opt.param_groups])
    assert rates[0] == rates[1] == [0, 0]
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert p.shape == q.shape and ((p - q).abs().max() / q.abs().max()).item() <= tol
    assert not same(models[0], net(dtype))


def test_sgdw_equals_its_equation_in_numpy():
    rng = np.random.default_rng(0)
    theta, v = rng.normal(size=7), np.zeros(7)
    p = torch.tensor(theta, requires_grad=True)
    opt = SGDW([p], lr=.1, momentum=.8, weight_decay=.2)
    for g in rng.normal(size=(50, 7)):
        v = .8 * v + g
        theta = theta - .1 * v - .1 * .2 * theta
        p.grad = torch.tensor(g)
        opt.step()
    np.testing.assert_allclose(p.detach().numpy(), theta, rtol=1e-12)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_batch_of_one_and_a_parameter_without_axes(maker):
    model = net()
    train(model, MAKERS[maker](model.parameters()), 0, 3, rows=1)
    assert all(p.isfinite().all() for p in model.parameters()) and not same(model, net())
    p = torch.tensor(1., requires_grad=True); p.grad = torch.tensor(2.)
    MAKERS[maker]([p]).step()
    assert p.shape == () and p < 1


def test_memory_has_the_type_of_the_weights():
    p = torch.ones(3, dtype=torch.bfloat16, requires_grad=True); p.grad = torch.ones_like(p)
    opt = AdamW([p]); opt.step()
    assert p.dtype == opt.state[p]["mean"].dtype == opt.state[p]["square"].dtype == torch.bfloat16


# ---- resume --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("maker", MAKERS)
def test_resumed_at_any_step_is_bit_identical(maker):
    whole = net(); train(whole, MAKERS[maker](whole.parameters()), 0, 12)
    for stop in range(13):
        model = net(); opt = MAKERS[maker](model.parameters())
        train(model, opt, 0, stop)
        saved = through_disk({"model": model.state_dict(), "opt": opt.state_dict()})
        train(model, opt, stop, stop + 2)                   # the run that goes on must not touch what was saved
        again = net(); opt = MAKERS[maker](again.parameters())
        again.load_state_dict(saved["model"]); opt.load_state_dict(saved["opt"])
        train(again, opt, stop, 12)
        assert same(again, whole), stop


def test_resume_with_groups_and_schedule():
    def start():
        model = net(); opt = AdamW(groups(model), lr=1e-2)
        return model, opt, LambdaLR(opt, make_schedule("linear", 12, .25))
    whole, *rest = start(); train(whole, rest[0], 0, 12, rest[1])
    model, opt, schedule = start(); train(model, opt, 0, 5, schedule)
    saved = through_disk([x.state_dict() for x in (model, opt, schedule)])
    again = start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x, state in zip(again, saved): x.load_state_dict(state)
        train(again[0], again[1], 5, 12, again[2])
    assert same(again[0], whole)


def test_resume_needs_the_memory():
    "The test above would pass for an optimizer without memory; this one shows that it has one."
    whole = net(); train(whole, MAKERS["adamw"](whole.parameters()), 0, 12)
    model = net(); train(model, MAKERS["adamw"](model.parameters()), 0, 6)
    train(model, MAKERS["adamw"](model.parameters()), 6, 12)
    assert not same(model, whole)


def test_loading_settings_restores_them():
    model = net(); opt = SGDW(model.parameters(), lr=.3, momentum=.5, weight_decay=.2)
    other = SGDW(net().parameters(), lr=.1)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert {k: v for k, v in other.param_groups[0].items() if k in ("lr", "momentum", "weight_decay")} == dict(lr=.3, momentum=.5, weight_decay=.2)


# ---- frozen --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("maker", MAKERS)
def test_frozen_parameters_keep_every_bit_and_get_no_memory(maker):
    model = net(); before = copy.deepcopy(model)
    for p in model[0].parameters(): p.requires_grad_(False)
    opt = MAKERS[maker](model.parameters())
    train(model, opt, 0, 30)
    assert same(model[0], before[0]) and not same(model[2], before[2])
    assert not any(p in opt.state for p in model[0].parameters())


@pytest.mark.parametrize("maker", MAKERS)
def test_a_gradient_left_over_from_before_freezing_is_not_applied(maker):
    model = net(); opt = MAKERS[maker](model.parameters())
    torch.nn.functional.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    for p in model[0].parameters(): p.requires_grad_(False)
    before = copy.deepcopy(model)
    opt.step()
    assert same(model[0], before[0]) and not same(model[2], before[2])


def test_a_parameter_unfrozen_late_starts_its_own_count():
    models = [net(torch.float64), net(torch.float64)]
    for model, cls in zip(models, (AdamW, torch.optim.AdamW)):
        opt = cls(model.parameters(), lr=.01)
        for p in model[0].parameters(): p.requires_grad_(False)
        train(model, opt, 0, 10)
        for p in model[0].parameters(): p.requires_grad_(True)
        train(model, opt, 10, 20)
        assert opt.state[model[0].weight]["step"] == 10 and opt.state[model[2].weight]["step"] == 20
    for p, q in zip(*(m.parameters() for m in models)): torch.testing.assert_close(p, q, rtol=1e-12, atol=0)


# ---- conduct -------------------------------------------------------------------------------------------------------

def test_closure_is_evaluated_with_gradients_and_its_loss_returned():
    p = torch.tensor([2.], requires_grad=True); opt = SGDW([p], lr=.1)
    def closure():
        opt.zero_grad(); loss = (p**2).sum(); loss.backward()
        return loss
    assert opt.step(closure).item() == 4 and p.item() == pytest.approx(1.6)


def test_no_random_state_is_touched():
    before = torch.random.get_rng_state()
    with torch.random.fork_rng():
        model = net()
    train(model, AdamW(model.parameters()), 0, 2)
    assert torch.equal(before, torch.random.get_rng_state())


def one(): return torch.ones(1, requires_grad=True)


nan, inf = float("nan"), float("inf")
REFUSED = {
    "lr zero": (lambda: SGDW([one()], lr=0), "lr=0: must be a number above 0"),
    "lr negative": (lambda: AdamW([one()], lr=-1e-3), "lr=-0.001: must be a number above 0"),
    "lr nan": (lambda: AdamW([one()], lr=nan), "lr=nan"),
    "lr inf": (lambda: SGDW([one()], lr=inf), "lr=inf: must be a number above 0"),
    "lr of a group": (lambda: AdamW([{"params": [one()], "lr": 0.}]), "lr=0.0"),
    "decay": (lambda: AdamW([one()], weight_decay=-.1), "weight_decay=-0.1: must be a number, at least 0"),
    "decay of a group": (lambda: SGDW([{"params": [one()], "weight_decay": nan}], lr=.1), "weight_decay=nan"),
    "momentum": (lambda: SGDW([one()], lr=.1, momentum=1.), "momentum=1.0: must be a number at least 0 and below 1"),
    "first beta": (lambda: AdamW([one()], betas=(1., .9)), r"betas\[0\]=1.0: must be a number at least 0 and below 1"),
    "second beta": (lambda: AdamW([one()], betas=(.9, -.1)), r"betas\[1\]=-0.1"),
    "one beta": (lambda: AdamW([one()], betas=(.9,)), r"betas=\(0.9,\): two numbers"),
    "eps": (lambda: AdamW([one()], eps=0.), "eps=0.0: must be a number above 0"),
    "no parameters": (lambda: AdamW([]), "empty parameter list"),
    "unknown schedule": (lambda: make_schedule("linera", 10), "schedule='linera': must be one of constant, cosine, linear, step. Did you mean 'linear'?"),
    "capitals": (lambda: make_schedule("Cosine", 10), "Did you mean 'cosine'"),
    "no schedule": (lambda: make_schedule(None, 10), "schedule=None: must be one of"),
    "no steps": (lambda: make_schedule("linear", 0), "total_steps=0: must be a whole number of steps, at least 1"),
    "half steps": (lambda: make_schedule("linear", 2.5), "total_steps=2.5"),
    "nan steps": (lambda: make_schedule("linear", nan), "total_steps=nan"),
    "steps as a float": (lambda: make_schedule("linear", 10.), "total_steps=10.0"),
    "steps as a flag": (lambda: linear(True), "total=True"),
    "steps in words": (lambda: make_schedule("linear", "ten"), "total_steps='ten'"),
    "warm-up of all": (lambda: make_schedule("linear", 10, 1.), "warmup_frac=1.0: must be a number at least 0 and below 1"),
    "warm-up negative": (lambda: make_schedule("constant", 10, -.1), "warmup_frac=-0.1"),
    "warm-up nan": (lambda: make_schedule("constant", 10, nan), "warmup_frac=nan"),
    "warm-up too long": (lambda: cosine(5, warmup=5), "warmup=5: must be a whole number of steps from 0 to 4"),
    "total": (lambda: linear(0), "total=0: must be a whole number of steps, at least 1"),
    "every": (lambda: step_decay(0, .1), "every=0: must be a whole number of steps, at least 1"),
    "gamma": (lambda: step_decay(3, 1.5), "gamma=1.5: must be a number above 0 and at most 1"),
    "before the start": (lambda: constant()(-1), "step=-1: steps count from 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_clear_line(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_sparse_gradients_are_refused():
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"sparse gradient for parameter \(4, 2\)"):
        AdamW(table.parameters()).step()


# ---- schedules -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "step"])
def test_schedules_keep_their_promises_for_every_length(name):
    for total in (*range(1, 40), 1000):
        for frac in (0., .06, .1, .5, .99):
            f = make_schedule(name, total, frac)
            factors = [f(s) for s in range(total)]
            peak = factors.index(max(factors))
            assert all(0 < x <= 1 for x in factors), "no batch of the run is wasted"
            assert factors[:peak + 1] == sorted(factors[:peak + 1])
            assert factors[peak:] == sorted(factors[peak:], reverse=True)
            if frac == 0: assert factors[0] == 1
            if name in ("cosine", "linear"): assert f(total) == f(total + 5) == 0
            assert factors == [f(np.int64(s)) for s in range(total)], "a function of the step alone"


def test_named_schedule_is_the_function_of_that_name():
    f = make_schedule("step", 9, 0.)
    np.testing.assert_allclose([f(s) for s in range(9)], np.repeat([1, .1, .01], 3))
    assert [make_schedule("linear", 10, .2)(s) for s in range(12)] == [linear(10, 2)(s) for s in range(12)]
    assert make_schedule("cosine", np.int64(10))(3) == cosine(10)(3)
