"What lesson 51 (trainer) cannot check on itself: signals, threads, state, modes, devices, and each bad input."
import ast
import copy
import inspect
import os
import random
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finetune_book.train import trainer as module
from finetune_book.checks import InputError
from finetune_book.optim import AdamW as BookAdamW
from finetune_book.optim import SGDW, make_schedule
from finetune_book.train.trainer import Callback, Trainer, TrainingDiverged, enough_epochs, shuffled_batches, train_mode, uninterrupted

N, SIZE = 50, 8
X = torch.from_numpy(np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32))
Y = (X[:, 0] > 0).long()


def fetch(idx): return X[idx], Y[idx]


def make_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(.5), nn.Linear(8, 2))


def make(model=None, optimizer=torch.optim.AdamW, loss_fn=F.cross_entropy, lr=.01, **options):
    model = model or make_model()
    return Trainer(model, optimizer(model.parameters(), lr=lr), loss_fn, **options)


def fit(trainer, epochs=2, **options): return trainer.fit(shuffled_batches(N, SIZE), fetch, epochs, **options)


def bits(trainer): return torch.cat([t.double().flatten() for t in trainer.model.state_dict().values()])


class Do(Callback):
    def __init__(self, when, action, order=0):
        self.order = order
        setattr(self, when, action)


# --- the same, and nobody notices -----------------------------------------------------------------------------------

@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, BookAdamW, SGDW])
def test_two_fits_are_one(optimizer):
    assert torch.equal(bits(fit(make(optimizer=optimizer))), bits(fit(make(optimizer=optimizer))))


def test_seed_matters_and_global_random_state_does_not():
    first = bits(fit(make(seed=3)))
    torch.rand(7)
    assert torch.equal(first, bits(fit(make(seed=3)))) and not torch.equal(first, bits(fit(make(seed=4))))


@pytest.mark.parametrize("failing", [False, True])
def test_global_random_state_is_untouched(failing):
    def validate(model):
        torch.rand(3)
        if failing: raise OSError("no")
        return {}
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    if failing:
        with pytest.raises(OSError): fit(make(), validate=validate)
    else: fit(make(), validate=validate)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]


def test_a_validation_that_draws_does_not_change_training():
    assert torch.equal(bits(fit(make())), bits(fit(make(), validate=lambda model: {"val_draw": torch.rand(1).item()})))


def test_callbacks_that_draw_do_not_change_training():
    drawing = Do("on_batch_end", lambda trainer: torch.rand(5))
    assert torch.equal(bits(fit(make())), bits(fit(make(callbacks=[drawing]))))


# --- modes ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("training", [True, False])
def test_modes_are_restored_each_module_for_itself(training):
    model = make_model().train(training)
    model[3].train(not training)
    modes = [m.training for m in model.modules()]
    fit(make(model), validate=lambda m: {})
    assert [m.training for m in model.modules()] == modes
    with pytest.raises(TrainingDiverged): fit(make(model, loss_fn=lambda out, y: out.sum() * float("nan")))
    assert [m.training for m in model.modules()] == modes


def test_validate_sees_eval_mode_and_no_graph_and_training_goes_on_in_training_mode():
    seen = []
    def validate(model):
        seen.append((model.training, model[3].training, torch.is_grad_enabled()))
        model.train()                                  # a rude validate
        return {"val_x": 1}
    modes = Do("on_batch_end", lambda trainer: seen.append(trainer.model[3].training))
    fit(make(callbacks=[modes]), validate=validate)
    assert seen == ([True] * 7 + [(False, False, False)]) * 2


def test_frozen_body_keeps_every_bit_and_its_dropout_stays_off():
    body = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(.5))
    model = nn.Sequential(body, nn.Linear(8, 2))
    for p in body.parameters(): p.requires_grad_(False)
    before, modes = copy.deepcopy(body.state_dict()), []
    watch = Do("on_batch_end", lambda trainer: modes.append([m.training for m in body]))
    fit(make(model, callbacks=[watch]))
    assert all(torch.equal(before[k], v) for k, v in body.state_dict().items())
    assert modes and all(mode == [False] * 3 for mode in modes)


def test_train_mode_leaves_dropout_of_a_trained_part_on():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(.1), nn.Linear(2, 2))
    for p in model[0].parameters(): p.requires_grad_(False)
    train_mode(model.eval())
    assert [m.training for m in model] == [False, True, True] and model.training


# --- accumulation ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [4, 1, 7, 2], [5, 5, 3]])
def test_accumulation_is_the_large_batch(sizes):
    def build(): return copy.deepcopy(nn.Sequential(make_model()[0], nn.Tanh(), make_model()[4])).double()
    fetch64 = lambda idx: (X[idx].double(), Y[idx])
    rows = np.arange(sum(sizes))
    pieces = np.split(rows, np.cumsum(sizes)[:-1])
    small = Trainer(model := build(), torch.optim.SGD(model.parameters(), lr=.5), F.cross_entropy, accumulate=len(sizes))
    large = Trainer(model := build(), torch.optim.SGD(model.parameters(), lr=.5), F.cross_entropy)
    small.fit(lambda epoch: pieces, fetch64, 3); large.fit(lambda epoch: [rows], fetch64, 3)
    assert small.step == large.step == 3
    assert (bits(small) - bits(large)).abs().max() < 1e-13
    assert abs(small.history_[-1]["train_loss"] - large.history_[-1]["train_loss"]) < 1e-13


def test_incomplete_last_group_steps_and_leaves_nothing_behind():
    steps = []
    trainer = fit(make(accumulate=3, callbacks=[Do("on_batch_end", lambda t: steps.append(t.step))]), epochs=2)
    assert steps == [0, 0, 1, 1, 1, 2, 3, 3, 3, 4, 4, 4, 5, 6]           # 7 batches: groups of 3, 3 and 1
    assert all(p.grad is None for p in trainer.model.parameters())


# --- schedule, clipping ---------------------------------------------------------------------------------------------

def test_rates_are_lambdalr_s_and_the_optimizer_gets_its_own_back():
    factor, seen = make_schedule("linear", total_steps=14, warmup_frac=.3), []
    model = make_model()
    groups = [{"params": model[:2].parameters(), "lr": .1}, {"params": model[4].parameters(), "lr": .3}]
    optimizer = torch.optim.SGD(groups, lr=1.)
    watch = Do("on_batch_end", lambda t: seen.append([g["lr"] for g in optimizer.param_groups]))
    fit(Trainer(model, optimizer, F.cross_entropy, factor, callbacks=[watch]))
    other = make_model()
    reference = torch.optim.SGD([{"params": other[:2].parameters(), "lr": .1}, {"params": other[4].parameters(), "lr": .3}], lr=1.)
    scheduler, expected = torch.optim.lr_scheduler.LambdaLR(reference, factor), []
    for _ in range(14):
        expected.append([g["lr"] for g in reference.param_groups])
        reference.step(); scheduler.step()
    assert seen == expected and [g["lr"] for g in optimizer.param_groups] == [.1, .3]


def test_clip_bounds_the_step():
    model = nn.Linear(5, 2)
    old = copy.deepcopy(model.state_dict())
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=1.), lambda out, y: 1e6 * F.cross_entropy(out, y), clip_norm=.5)
    trainer.fit(lambda epoch: [np.arange(N)], fetch, 1)
    moved = torch.cat([(v - old[k]).flatten() for k, v in model.state_dict().items()]).norm()
    assert trainer.grad_norm_ > 1e3 and abs(moved - .5) < 1e-5


# --- the model's way of being called --------------------------------------------------------------------------------

def test_dict_inputs_are_keywords_and_targets_may_be_a_dict():
    class Net(nn.Module):
        def __init__(self): super().__init__(); self.layer = nn.Linear(5, 2)
        def forward(self, *, x, scale): return {"logits": self.layer(x) * scale}
    trainer = make(Net(), loss_fn=lambda out, target: F.cross_entropy(out["logits"], target["y"]))
    trainer.fit(shuffled_batches(N, SIZE), lambda idx: ({"x": X[idx], "scale": torch.tensor(2.)}, {"y": Y[idx]}), 1)
    assert trainer.step == 7


# --- float16 and a GPU's memory --------------------------------------------------------------------------------------

@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, BookAdamW, lambda p, lr: torch.optim.AdamW(p, lr=lr, fused=True)])
def test_a_scaled_loss_is_the_same_training(optimizer):
    "The scale is a power of two: nothing is rounded otherwise."
    options = dict(optimizer=optimizer, accumulate=2, clip_norm=.5)
    assert torch.equal(bits(fit(make(scaled=True, **options))), bits(fit(make(**options))))


class Small(torch.autograd.Function):
    "Lets gradients through as float16 would hold them: none beyond 65,504."
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, grad): return grad.half().to(grad.dtype)


def overflowing(out, y): return Small.apply(F.cross_entropy(out, y) * torch.ones(1)).sum() * 4


def test_a_step_whose_scale_was_too_large_is_left_out():
    "A scale of 65,536 times 4 is infinite in float16, half of it and a quarter, too; then it fits."
    seen = []
    def look(trainer): seen.append((trainer.scaler.get_scale(), bits(trainer).clone(), len(trainer.optimizer.state)))
    trainer = fit(make(nn.Linear(5, 2), loss_fn=overflowing, scaled=True, callbacks=[Do("on_batch_end", look)]), epochs=1)
    scales, weights, states = zip(*seen)
    assert scales[:5] == (2.**15, 2.**14, 2.**13, 2.**13, 2.**13) and trainer.step == 7
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2]) and states[:3] == (0, 0, 0)
    assert not torch.equal(weights[2], weights[3]) and all(torch.isfinite(w).all() for w in weights)


def test_what_no_scale_can_mend_is_the_trainings_fault():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x): return x.clone()
        @staticmethod
        def backward(ctx, grad): return grad * float("inf")
    trainer = make(nn.Linear(5, 2), loss_fn=lambda out, y: Broken.apply(F.cross_entropy(out, y)), scaled=True)
    before = bits(trainer).clone()
    with pytest.raises(TrainingDiverged, match="gradient norm is nan|gradient norm is inf"): fit(trainer, epochs=9)
    assert trainer.step == 16 and torch.equal(bits(trainer), before)


def test_the_scale_survives_a_kill_and_a_new_fit_begins_anew():
    states = []
    keep = Do("on_batch_end", lambda trainer: states.append(copy.deepcopy(trainer.state_dict())))
    def new(**more): return make(nn.Linear(5, 2), loss_fn=overflowing, scaled=True, accumulate=2, **more)
    torch.manual_seed(0)
    uncut = new(callbacks=[keep])
    fit(uncut)
    for cut in (2, 5, 9):
        torch.manual_seed(0)
        resumed = fit(new(), resume=states[cut])
        assert torch.equal(bits(resumed), bits(uncut)) and resumed.scaler.state_dict() == uncut.scaler.state_dict()
    assert states[2]["scaler"]["scale"] == 2.**15 and "scaler" not in fit(make()).state_dict()
    uncut.restart()
    assert uncut.scaler.get_scale() == 2.**16


class Travelling(torch.Tensor):
    "A tensor that writes down how it is moved."
    @staticmethod
    def __new__(cls, data, seen): return torch.Tensor._make_subclass(cls, data)
    def __init__(self, data, seen): self.seen = seen
    def pin_memory(self): return self.seen.append("pinned") or self
    def to(self, device, **how): return self.seen.append((str(device), how)) or self


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda", 0)])
def test_to_a_gpu_tensors_go_by_pinned_memory_and_nobody_waits(device):
    seen = []
    module.to_device({"ids": [Travelling(torch.ones(2), seen)]}, device)
    assert seen == ["pinned", (str(device), {"non_blocking": True})]


def test_elsewhere_they_are_moved_as_they_are():
    seen = []
    module.to_device((Travelling(torch.ones(2), seen),), torch.device("cpu"))
    assert seen == [("cpu", {})]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_tensors_arrive_whole_and_stay_where_they_are():
    x = torch.arange(100_000.)
    there = module.to_device([x, x], "cuda")
    assert all(torch.equal(t.cpu(), x) for t in there) and module.to_device(there[0], "cuda") is there[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_resumes_to_the_same_bits_and_leaves_its_random_state_alone():
    torch.backends.cudnn.deterministic = True
    before, states = torch.cuda.get_rng_state(), []
    keep = Do("on_batch_end", lambda t: states.append(copy.deepcopy(t.state_dict())))
    uncut = fit(make(device="cuda", callbacks=[keep]))
    assert torch.equal(bits(uncut), bits(fit(make(device="cuda"), resume=states[4])))
    assert torch.equal(torch.cuda.get_rng_state(), before)


# --- resume ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("optimizer,accumulate", [(torch.optim.AdamW, 3), (BookAdamW, 2), (torch.optim.SGD, 1), (SGDW, 4)])
def test_resume_after_every_batch_gives_the_same_bits(optimizer, accumulate):
    momentum = dict(momentum=.9) if optimizer in (torch.optim.SGD, SGDW) else {}
    build = lambda **options: make(optimizer=lambda p, lr: optimizer(p, lr=lr, **momentum), schedule=make_schedule("cosine", 30, .1),
                                   clip_norm=.3, accumulate=accumulate, **options)
    states, rows = [], []
    def spy(idx): rows.append(tuple(idx)); return fetch(idx)
    keep = lambda t: states.append(copy.deepcopy(t.state_dict()))
    uncut = build(callbacks=[Do("on_batch_end", keep), Do("on_epoch_end", keep)])
    uncut.fit(shuffled_batches(N, SIZE), spy, 3, lambda m: {"val_loss": 1.})
    all_rows = list(rows)
    for state in states:
        rows.clear()
        again = build().fit(shuffled_batches(N, SIZE), spy, 3, lambda m: {"val_loss": 1.}, resume=state)
        done = state["epoch"] * 7 + state["batch"]
        assert rows == all_rows[done:], "a batch was repeated or skipped"
        assert torch.equal(bits(again), bits(uncut)) and again.history_ == uncut.history_ and again.step == uncut.step


def test_resuming_does_not_change_the_state_it_was_given():
    states = []
    fit(make(callbacks=[Do("on_batch_end", lambda t: states.append(copy.deepcopy(t.state_dict())))]))
    untouched = copy.deepcopy(states[3])
    fit(make(), resume=states[3])
    assert repr(untouched) == repr(states[3])
    assert all(torch.equal(untouched["model"][k], states[3]["model"][k]) for k in untouched["model"])


def test_a_finished_run_resumes_to_itself_and_can_be_prolonged():
    state = copy.deepcopy(fit(make()).state_dict())
    assert torch.equal(bits(fit(make(), resume=state)), bits(fit(make())))
    assert torch.equal(bits(fit(make(), epochs=4, resume=state)), bits(fit(make(), epochs=4)))


def test_stop_leaves_inside_an_epoch_and_resumes_as_stopped():
    def stop(trainer): trainer.stop = trainer.step == 9
    trainer = fit(make(callbacks=[Do("on_batch_end", stop)]), epochs=4)
    assert (trainer.epoch, trainer.batch, trainer.step, len(trainer.history_)) == (1, 2, 9, 1)
    assert fit(make(callbacks=[Do("on_batch_end", stop)]), epochs=4, resume=copy.deepcopy(trainer.state_dict())).step == 9


def test_fit_again_begins_counting_at_zero():
    trainer = fit(make())
    first = bits(trainer)
    fit(trainer)
    assert trainer.step == 14 and len(trainer.history_) == 2 and not torch.equal(first, bits(trainer))


@pytest.mark.parametrize("change,named", [
    (dict(seed=1), "seed"), (dict(lr=.02), "learning_rates"), (dict(clip_norm=1.), "clip_norm"), (dict(accumulate=2), "accumulate"),
    (dict(optimizer=torch.optim.SGD), "optimizer"), (dict(schedule=lambda step: .5), "schedule"), (dict(model=nn.Linear(5, 2)), "model")])
def test_the_state_of_another_run_is_refused_and_what_differs_is_named(change, named):
    state = copy.deepcopy(fit(make()).state_dict())
    trainer = make(**change)
    before = bits(trainer).clone()
    with pytest.raises(InputError, match=f"another run: its {named} is"): fit(trainer, resume=state)
    assert torch.equal(before, bits(trainer))


def test_other_rows_are_refused():
    state = copy.deepcopy(fit(make()).state_dict())
    with pytest.raises(InputError, match="rows_and_order"): make().fit(shuffled_batches(N, SIZE, seed=9), fetch, 2, resume=state)


def test_an_order_that_changed_is_refused():
    states = []
    fit(make(callbacks=[Do("on_batch_end", lambda t: states.append(copy.deepcopy(t.state_dict())))]))
    usual = shuffled_batches(N, SIZE)
    with pytest.raises(InputError, match=r"batches\(1\) is not what it was"):
        make().fit(lambda epoch: usual(0) if epoch == 0 else usual(5), fetch, 2, resume=states[-2])


@pytest.mark.parametrize("resume,message", [("checkpoint.pt", "resume is a str"), ({"model": {}}, "not the state of a Trainer")])
def test_a_resume_that_is_no_state_is_refused(resume, message):
    with pytest.raises(InputError, match=message): fit(make(), resume=resume)


def test_a_lost_callback_is_refused():
    class Remembers(Callback):
        def state_dict(self): return {"x": 1}
    state = copy.deepcopy(fit(make(callbacks=[Remembers()])).state_dict())
    with pytest.raises(InputError, match="Remembers"): fit(make(), resume=state)


# --- bad input ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options,message", [
    (dict(lr=0.), "lr=0.0"), (dict(optimizer=lambda p, lr: torch.optim.SGD([{"params": p, "lr": float("nan")}], lr=.1)), "lr=nan"),
    (dict(seed=-1), "seed=-1"), (dict(seed=1.5), "seed=1.5"), (dict(accumulate=0), "accumulate=0"), (dict(accumulate=True), "accumulate=True"),
    (dict(clip_norm=0), "clip_norm=0"), (dict(clip_norm=float("inf")), "clip_norm=inf"), (dict(clip_norm=float("nan")), "clip_norm=nan")])
def test_bad_settings(options, message):
    with pytest.raises(InputError, match=message): make(**options)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True, None])
def test_bad_epochs(epochs):
    with pytest.raises(InputError, match="epochs="): fit(make(), epochs=epochs)


def test_negative_rate_set_between_two_fits():
    trainer = fit(make())
    trainer.optimizer.param_groups[0]["lr"] = -.1
    with pytest.raises(InputError, match="lr=-0.1"): fit(trainer)


def test_optimizer_of_another_model():
    with pytest.raises(InputError, match="parameters that the model does not have"):
        Trainer(make_model(), torch.optim.SGD(make_model().parameters(), lr=.1), F.cross_entropy)


@pytest.mark.parametrize("batches,message", [
    ([np.arange(3)], "must be a function of the epoch"), (lambda e: [], "no batches"), (lambda e: [np.arange(3), np.arange(0)], "without rows")])
def test_bad_batches(batches, message):
    with pytest.raises(InputError, match=message): make().fit(batches, fetch, 1)


def test_loss_of_wrong_shape():
    with pytest.raises(InputError, match=r"shape \(8,\)"): fit(make(loss_fn=nn.CrossEntropyLoss(reduction="none")))


def test_validate_without_a_dict():
    with pytest.raises(InputError, match="validate gave a float"): fit(make(), validate=lambda model: .5)


def test_nothing_to_train():
    model = make_model().requires_grad_(False)
    with pytest.raises(InputError, match="nothing to train"): fit(make(model))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_names_step_and_rate_and_keeps_the_last_good_weights(bad):
    kept = []
    def loss_fn(out, y): return F.cross_entropy(out, y) * (bad if len(kept) == 3 else 1)
    trainer = make(nn.Linear(5, 2), loss_fn=loss_fn, callbacks=[Do("on_batch_end", lambda t: kept.append(bits(t).clone()))])
    with pytest.raises(TrainingDiverged, match=r"loss is (nan|inf) at step 3 \(epoch 0, batch 3\), lr 0.01"): fit(trainer)
    assert torch.equal(bits(trainer), kept[-1])


def test_infinite_gradient_of_a_finite_loss_is_caught_before_the_step():
    model = nn.Linear(5, 2)
    with torch.no_grad(): model.weight.zero_(); model.bias.zero_()
    trainer = make(model, loss_fn=lambda out, y: out.sum().abs().sqrt())     # sqrt'(0) is infinite
    with pytest.raises(TrainingDiverged, match="gradient norm is (nan|inf) at step 0"): fit(trainer)
    assert (bits(trainer) == 0).all()


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------

def press(): os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_waits_for_the_batch_to_be_whole():
    def loss_fn(out, y):
        if trainer.step == 4: press()
        return F.cross_entropy(out, y)
    trainer = make(loss_fn=loss_fn)
    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt): fit(trainer)
    assert (trainer.step, trainer.batch, trainer.settled) == (5, 5, True) and signal.getsignal(signal.SIGINT) is usual
    assert torch.equal(bits(fit(make(), resume=copy.deepcopy(trainer.state_dict()))), bits(fit(make())))


def test_a_second_ctrl_c_goes_through_at_once_and_the_state_says_so():
    reached = []
    def loss_fn(out, y):
        press(); press(); reached.append("after both")
        return F.cross_entropy(out, y)
    trainer = make(loss_fn=loss_fn)
    with pytest.raises(KeyboardInterrupt): fit(trainer)
    assert not reached and not trainer.settled


def test_ctrl_c_during_validation_comes_at_once_and_the_epoch_is_resumable():
    calls = []
    def validate(model):
        calls.append(1)
        if len(calls) == 1: press(); calls.append("went on")
        return {"val_loss": 1.}
    trainer = make()
    with pytest.raises(KeyboardInterrupt): fit(trainer, validate=validate)
    assert calls == [1] and (trainer.epoch, trainer.batch, trainer.history_) == (0, 7, [])
    again = fit(make(), validate=validate, resume=copy.deepcopy(trainer.state_dict()))
    assert [row["epoch"] for row in again.history_] == [0, 1] and torch.equal(bits(again), bits(fit(make())))


def test_an_error_inside_the_block_is_not_hidden():
    with pytest.raises(ZeroDivisionError), uninterrupted(): 1 / 0


def test_other_threads_can_train():
    result = []
    thread = threading.Thread(target=lambda: result.append(bits(fit(make()))))
    thread.start(); thread.join()
    assert torch.equal(result[0], bits(fit(make())))


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        fit(make(callbacks=[Do("on_batch_end", lambda t: press())]))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally: signal.signal(signal.SIGINT, before)


# --- callbacks ------------------------------------------------------------------------------------------------------

def test_moments_and_counters():
    log = []
    class Log(Callback):
        def on_fit_start(self, t): log.append(("fit start", t.epoch, t.batch))
        def on_epoch_start(self, t): log.append(("epoch start", t.epoch, t.batch))
        def on_batch_end(self, t): log.append(("batch", t.epoch, t.batch))
        def on_epoch_end(self, t): log.append(("epoch end", t.epoch, t.batch, t.history_[-1]["epoch"]))
        def on_fit_end(self, t): log.append(("fit end", t.epoch, t.batch))
    make(callbacks=[Log()]).fit(lambda epoch: [np.arange(4), np.arange(4, 9)], fetch, 2)
    assert log == [("fit start", 0, 0)] + [event for e in (0, 1) for event in (
        ("epoch start", e, 0), ("batch", e, 1), ("batch", e, 2), ("epoch end", e + 1, 0, e))] + [("fit end", 2, 0)]


def test_order_and_errors():
    log = []
    late, early = Do("on_batch_end", lambda t: log.append("late"), order=9), Do("on_batch_end", lambda t: log.append("early"))
    told = Do("on_error", lambda t, e: log.append(type(e).__name__))
    def loss_fn(out, y): raise LookupError("stop")
    fit(make(callbacks=[late, early]), epochs=1)
    assert log == ["early", "late"] * 7
    log.clear()
    with pytest.raises(LookupError): fit(make(loss_fn=loss_fn, callbacks=[told]))
    assert log == ["LookupError"]


def test_train_loss_is_the_mean_over_rows():
    losses = []
    trainer = make(nn.Linear(5, 2), callbacks=[Do("on_batch_end", lambda t: losses.append(t.loss_))])
    fit(trainer, epochs=1)
    sizes = [8] * 6 + [2]
    assert abs(trainer.history_[0]["train_loss"] - np.dot(losses, sizes) / N) < 1e-12


# --- house rules ----------------------------------------------------------------------------------------------------

def test_every_function_is_short():
    "The trainer is what students read most."
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.FunctionDef): assert node.end_lineno - node.lineno < 40, node.name


def test_imports_alone_and_quietly():
    code = "import finetune_book.train.trainer, finetune_book.train.callbacks, sys; print([m for m in ('wandb', 'tensorboard', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=module.__file__.rsplit("/", 2)[0])
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 100, 799, 4000, 10**6])
@pytest.mark.parametrize("batch_size", [1, 16, 64])
def test_enough_epochs_come_nearest_without_passing(n, batch_size):
    a_pass = len(range(0, n, batch_size))
    free, bound = enough_epochs(n, batch_size, 100, most=10**9), enough_epochs(n, batch_size, 100, least=2, most=30)
    assert free * a_pass <= 100 < (free + 1) * a_pass or free == 1 and a_pass > 100
    assert bound == min(30, max(2, free))


@pytest.mark.parametrize("given", [dict(n=0), dict(batch_size=0), dict(steps=0), dict(least=0), dict(most=1.5)])
def test_enough_epochs_refuses(given):
    with pytest.raises(InputError, match=f"{next(iter(given))}="): enough_epochs(**dict(n=10, batch_size=4, steps=100) | given)
