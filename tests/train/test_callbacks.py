"What lesson 52 (callbacks) cannot check on itself: real kills, a full disk, hostile files, notebooks without ipywidgets, trackers."
import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from finetune_book.train import callbacks as module
from finetune_book.adapt.freeze import GradualUnfreeze
from finetune_book.train.callbacks import (Checkpoint, EarlyStopping, KeepBest, ProgressBar, TensorBoardLogger,
                                           WandbLogger, only_params, read_state, storable, write_state)
from finetune_book.checks import InputError
from finetune_book.train.trainer import Callback, Trainer, shuffled_batches

N, SIZE = 48, 8
X = torch.from_numpy(np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32))
Y = (X[:, 0] > 0).long()
REPO = Path(module.__file__).resolve().parent.parent


def make(*callbacks, lr=.01, loss_fn=F.cross_entropy, seed=0, **more):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(.5), nn.Linear(8, 2))
    return Trainer(model, torch.optim.AdamW(model.parameters(), lr=lr), loss_fn, callbacks=callbacks, seed=seed, **more)


def validate(model): return {"val_loss": F.cross_entropy(model(X), Y).item(), "val_accuracy": .5}


def fit(trainer, epochs=2, **options):
    return trainer.fit(shuffled_batches(N, SIZE), lambda idx: (X[idx], Y[idx]), epochs, validate, **options)


def bits(trainer): return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


class Raise(Callback):
    def __init__(self, error, when="on_batch_end", at=3, order=0):
        self.error, self.at, self.order = error, at, order
        setattr(self, when, self.act)
    def act(self, trainer):
        if trainer.step == self.at: raise self.error


# --- killed, in processes of their own ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if not hasattr(os, "fork"): pytest.skip("needs fork and SIGKILL")
    folder = tmp_path_factory.mktemp("killed")
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    script = Path(__file__).parents[1] / "helpers/_killed_run.py"
    done = subprocess.run([sys.executable, str(script), str(folder)], env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "results.json").read_text())


def resumed_as_uncut(results, name):
    got = results[name]
    uncut = results[f"uncut {got['uncut']}"]
    assert got["code"] == [0, 0], "the resumed run failed"
    for part in ("bits", "moments", "history", "seen", "step", "waited", "lr"): assert got[part] == uncut[part], part
    return got


def test_the_uncut_run_is_worth_resuming(results):
    uncut = results["uncut adamw"]
    losses = [row["val_loss"] for row in uncut["history"]]
    assert len(losses) < 12 and uncut["waited"] == 3, "early stopping has something to count"
    assert min(losses) < losses[-1], "and the best weights are not the last"
    assert [s[:2] for s in uncut["seen"][:10]] == [[0, b + 1] for b in range(9)] + [[1, 1]]


KILLED = ["random batch 33", "random batch 14", "random batch 22", "SGD, random batch", "first batch, nothing written yet",
          "inside an accumulation group", "after an epoch's last batch", "at an epoch's end, before the checkpoint",
          "at an epoch's end, after the checkpoint", "while early stopping waits", "checkpoint half written",
          "checkpoint written, not yet renamed", "checkpoint not yet on the disk"]


@pytest.mark.parametrize("name", KILLED)
def test_killed_and_resumed_has_the_same_bits(results, name):
    assert results[name]["signal"] == signal.SIGKILL
    resumed_as_uncut(results, name)


def test_each_kind_of_kill_is_tested(results):
    assert set(KILLED) == {name for name, r in results.items() if r.get("signal") == 9 and not name.startswith("from outside")}


def test_where_the_killed_runs_went_on(results):
    began = {name: tuple(results[name]["began"]) for name in KILLED}
    assert began["first batch, nothing written yet"] == (0, 0)
    assert began["after an epoch's last batch"] == (1, 9), "all batches done, validation not yet"
    assert began["at an epoch's end, after the checkpoint"] == (2, 0)
    assert all(began[name] == (1, 2) for name in KILLED if name.startswith("checkpoint")), "the old checkpoint survived"


def test_killed_from_outside_at_any_moment(results):
    names = [name for name in results if name.startswith("from outside")]
    assert len(names) == 3
    for name in names:
        assert results[name]["signal"] == signal.SIGKILL
        resumed_as_uncut(results, name)


def test_real_ctrl_c_inside_a_batch(results):
    assert results["interrupted"] == {"raised": "KeyboardInterrupt", "epoch": 1, "batch": 5}, "the batch was finished, the interrupt went on"
    assert resumed_as_uncut(results, "Ctrl-C inside a batch")["began"] == [1, 5]


def test_disk_full_is_told_and_the_old_checkpoint_is_intact(results):
    full = results["full"]
    assert full["kind"] == "InputError" and "cannot be written (File too large)" in full["error"] and "\n" not in full["error"]
    assert full["before"] == full["after"] and full["files"] == ["checkpoint.pt"]
    assert resumed_as_uncut(results, "disk full")["began"] == [1, 2]


# --- Ctrl-C, in this process ----------------------------------------------------------------------------------------

def test_ctrl_c_writes_a_last_checkpoint_and_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt): fit(make(Checkpoint(tmp_path, every_steps=1000), Raise(KeyboardInterrupt(), at=4)))
    state = Checkpoint.latest(tmp_path)
    assert (state["epoch"], state["batch"], state["step"]) == (0, 4, 4)
    assert torch.equal(bits(fit(make(), resume=state)), bits(fit(make())))


def test_other_errors_write_none(tmp_path):
    with pytest.raises(LookupError): fit(make(Checkpoint(tmp_path, every_steps=1000), Raise(LookupError(), at=4)))
    assert Checkpoint.latest(tmp_path) is None


def test_an_interrupt_inside_a_batch_never_writes_a_torn_state(tmp_path):
    def build(interrupted, *callbacks):
        def loss_fn(out, y):
            if interrupted and trainer.step == 5: raise KeyboardInterrupt     # as a second Ctrl-C would; BatchNorm has moved already
            return F.cross_entropy(out, y)
        model = make().model
        model[1] = nn.BatchNorm1d(8)
        trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=.1), loss_fn, callbacks=callbacks)
        return trainer
    with pytest.raises(KeyboardInterrupt): fit(build(True, Checkpoint(tmp_path, every_steps=2)))
    state = Checkpoint.latest(tmp_path)
    assert state["step"] == 4, "the last whole one"
    again, uncut = fit(build(False), resume=state).model.state_dict(), fit(build(False)).model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in uncut.items())


def test_an_interrupt_after_the_best_weights_are_back_leaves_the_checkpoint_alone(tmp_path):
    late = Raise(KeyboardInterrupt(), when="on_fit_end", at=12, order=9)
    with pytest.raises(KeyboardInterrupt): fit(make(KeepBest("val_accuracy", mode="max"), Checkpoint(tmp_path), late))
    longer = fit(make(KeepBest("val_accuracy", mode="max")), epochs=3, resume=Checkpoint.latest(tmp_path))
    assert longer.history_[-1] == fit(make(), epochs=3).history_[-1], "the run went on from its last weights, not from its best"


def test_interrupted_on_a_full_disk_still_interrupts(tmp_path, monkeypatch):
    def full(content, file): raise OSError(28, "No space left on device")
    checkpoint = Checkpoint(tmp_path, every_steps=1000)
    stop = Raise(KeyboardInterrupt(), at=4)
    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match="no last checkpoint.*No space left"), pytest.raises(KeyboardInterrupt): fit(make(checkpoint, stop))


# --- writing and reading --------------------------------------------------------------------------------------------

def test_a_folder_that_cannot_be_made_is_told_before_the_first_batch(tmp_path):
    (tmp_path / "file").write_text("x")
    trainer = make(Checkpoint(tmp_path / "file" / "run"))
    with pytest.raises(InputError, match="cannot be written"): fit(trainer)
    assert trainer.step == 0


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs a file system that is read-only even for root")
def test_a_read_only_file_system_is_told():
    with pytest.raises(InputError, match="/proc/finetune_book_run cannot be written"): fit(make(Checkpoint("/proc/finetune_book_run")))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_keeps_its_checkpoint(tmp_path):
    fit(make(Checkpoint(tmp_path)), epochs=1)
    old = (tmp_path / "checkpoint.pt").read_bytes()
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="Permission denied"): fit(make(Checkpoint(tmp_path)), epochs=1)
        assert (tmp_path / "checkpoint.pt").read_bytes() == old
    finally: tmp_path.chmod(0o700)


@pytest.mark.parametrize("step", ["save", "fsync", "replace"])
def test_whatever_fails_while_writing_the_old_file_stays(tmp_path, monkeypatch, step):
    path = tmp_path / "checkpoint.pt"
    write_state(path, {"n": 1})
    def fail(*args): raise (RuntimeError("PytorchStreamWriter failed writing file") if step == "save" else OSError(5, "Input/output error"))
    monkeypatch.setattr(torch if step == "save" else os, step, fail)
    with pytest.raises(InputError, match=r"cannot be written \((PytorchStreamWriter|Input/output)"): write_state(path, {"n": 2})
    monkeypatch.undo()
    assert read_state(path) == {"n": 1} and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_readers_see_old_or_new_while_it_is_being_written(tmp_path):
    path, seen, stop = tmp_path / "checkpoint.pt", set(), threading.Event()
    def read():
        while not stop.is_set(): seen.add(read_state(path)["n"])
    write_state(path, {"n": 0, "w": torch.zeros(20_000)})
    thread = threading.Thread(target=read)
    thread.start()
    for n in range(1, 30): write_state(path, {"n": n, "w": torch.zeros(20_000)})
    deadline = time.monotonic() + 5
    while 29 not in seen and thread.is_alive() and time.monotonic() < deadline: time.sleep(.01)
    stop.set(); thread.join()
    assert 29 in seen, "a read failed, or never saw the last one"


class Hostile:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [lambda value, path: torch.save({"epoch": value}, path), lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_hostile_file_is_refused_and_does_nothing(tmp_path, write):
    write(Hostile(str(tmp_path / "victim")), tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="refused"): Checkpoint.latest(tmp_path)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04", b"\x80\x02}"])
def test_a_damaged_file_is_told_in_one_line(tmp_path, content):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(InputError, match="checkpoint.pt") as caught: Checkpoint.latest(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [.1, .5, .9, .999])
def test_a_truncated_file_is_told(tmp_path, share):
    write_state(tmp_path / "checkpoint.pt", {"w": torch.zeros(5000)})
    whole = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(whole[:int(share * len(whole))])
    with pytest.raises(InputError): Checkpoint.latest(tmp_path)


def test_a_file_with_something_else_in_it(tmp_path):
    torch.save([1, 2], tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="holds a list"): Checkpoint.latest(tmp_path)
    torch.save({"weights": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="not the state of a Trainer"): fit(make(), resume=Checkpoint.latest(tmp_path))
    assert Checkpoint.latest(tmp_path / "nowhere") is None


def test_storable_keeps_values_and_refuses_objects():
    got = storable({"a": np.float64(.1), "b": [np.int64(3), (np.bool_(True), None)], "c": np.arange(3), "d": {"e": "text"}})
    assert got["a"] == .1 and type(got["a"]) is float and got["b"] == [3, (True, None)] and torch.equal(got["c"], torch.arange(3))
    with pytest.raises(InputError, match=r"state\['x'\]\[1\] is a Path|PosixPath"): storable({"x": [1, Path("y")]})


def test_numpy_rates_survive(tmp_path):
    trainer = make(Checkpoint(tmp_path), lr=np.logspace(-3, -1, 3)[1])
    fit(trainer, epochs=1)
    assert torch.equal(bits(fit(make(lr=np.logspace(-3, -1, 3)[1]), resume=Checkpoint.latest(tmp_path))), bits(fit(make(lr=.01))))


def test_written_when_it_should_be(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(module, "write_state", lambda path, state: steps.append((state["step"], state["epoch"], state["batch"])))
    fit(make(Checkpoint(tmp_path, every_steps=4)))
    assert steps == [(4, 0, 4), (6, 1, 0), (8, 1, 2), (12, 1, 6), (12, 2, 0)]


@pytest.mark.parametrize("every", [0, -5, 2.5])
def test_bad_every_steps(tmp_path, every):
    with pytest.raises(InputError, match="every_steps="): Checkpoint(tmp_path, every_steps=every)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    def named(data, **more): return make(Checkpoint(tmp_path), identity=dict(data=data), **more)
    fit(named("a"), epochs=1)
    with pytest.raises(InputError, match="its seed is 0, here it is 1"): fit(named("a", seed=1), resume=Checkpoint.latest(tmp_path))
    for trainer, says in ((named("b"), "its data is a, here it is b"), (make(Checkpoint(tmp_path)), "its data is a, here it is not there")):
        before = bits(trainer).clone()
        with pytest.raises(InputError, match=says): fit(trainer, resume=Checkpoint.latest(tmp_path))
        assert torch.equal(before, bits(trainer))


# --- watching a metric ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make_bad,message", [
    (lambda: EarlyStopping(patience=0), "patience=0"), (lambda: EarlyStopping(patience=1.5), "patience=1.5"),
    (lambda: EarlyStopping(mode="up"), "mode='up'"), (lambda: EarlyStopping(min_delta=-1), "min_delta=-1"),
    (lambda: EarlyStopping(min_delta=float("nan")), "min_delta=nan"), (lambda: KeepBest(mode="best"), "mode='best'")])
def test_bad_watchers(make_bad, message):
    with pytest.raises(InputError, match=message): make_bad()


@pytest.mark.parametrize("callback", [EarlyStopping("val_los"), KeepBest("val_los")])
def test_a_metric_that_is_not_there_names_those_that_are(callback):
    with pytest.raises(InputError, match="watches 'val_los', the history has epoch, train_loss, lr, val_loss, val_accuracy.*Did you mean 'val_loss'"):
        fit(make(callback))


def test_a_callback_forgets_an_earlier_fit():
    stopper, keeper = EarlyStopping("train_loss", patience=1), KeepBest("train_loss")
    first = fit(make(stopper, keeper), epochs=6)
    kept = bits(first).clone()
    again = fit(make(stopper, keeper), epochs=6)
    assert torch.equal(kept, bits(again)) and first.history_ == again.history_


def test_keep_best_restores_buffers_too():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    values, kept = iter([3., 1., 2.]), []
    class Copy(Callback):
        def on_epoch_end(self, trainer): kept.append(copy.deepcopy(trainer.model.state_dict()))
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=.1), F.cross_entropy, callbacks=[KeepBest(), Copy()])
    trainer.fit(shuffled_batches(N, SIZE), lambda idx: (X[idx], Y[idx]), 3, lambda m: {"val_loss": next(values)})
    assert all(torch.equal(v, kept[1][k]) for k, v in model.state_dict().items())
    assert not torch.equal(kept[1]["1.running_mean"], kept[2]["1.running_mean"])


def test_keep_best_with_nothing_but_nan_leaves_the_last_weights():
    keeper, trainer = KeepBest(), make()
    plain_run = bits(fit(make()))
    trainer = make(keeper)
    trainer.fit(shuffled_batches(N, SIZE), lambda idx: (X[idx], Y[idx]), 2, lambda m: {"val_loss": float("nan")})
    assert keeper.best_ is None and torch.equal(bits(trainer), plain_run)


# --- gradual unfreezing ---------------------------------------------------------------------------------------------

def test_gradual_unfreezing_resumes_inside_an_epoch_and_frozen_parts_stay():
    def run(resume=None, states=None):
        trainer = make()
        groups = [("first", list(trainer.model[0].parameters())), ("head", list(trainer.model[3].parameters()))]
        start = trainer.model[0].weight.detach().clone()
        class Keep(Callback):
            def on_batch_end(self, t):
                if states is not None: states.append(copy.deepcopy(t.state_dict()))
                if t.epoch < 2 and resume is None: assert torch.equal(t.model[0].weight, start)
        trainer.callbacks = [GradualUnfreeze(groups, every=2), Keep()]
        return fit(trainer, epochs=4, resume=resume)
    states = []
    uncut = run(states=states)
    for state in states[::5]: assert torch.equal(bits(run(resume=state)), bits(uncut))


def test_gradual_unfreezing_refuses_groups_the_optimizer_does_not_have():
    with pytest.raises(InputError, match="group 'body' is not in the optimizer"): fit(make(GradualUnfreeze([("body", list(nn.Linear(2, 2).parameters()))])))
    with pytest.raises(InputError, match=r"groups=\[\]"): GradualUnfreeze([])
    with pytest.raises(InputError, match="every=0"): GradualUnfreeze([("a", [])], every=0)


# --- the bar --------------------------------------------------------------------------------------------------------

def test_the_bar_in_a_terminal(capsys):
    fit(make(ProgressBar()), epochs=2)
    captured = capsys.readouterr()
    last = captured.err.split("\r")[-1]
    assert captured.out == "" and last.startswith("epoch 2/2: 100%") and "12/12" in last
    assert all(word in last for word in ("step=12", "loss=", "val_loss=", "val_accuracy=0.500", "batch/s"))


def test_the_bar_of_a_resumed_run_begins_where_it_was(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt): fit(make(Checkpoint(tmp_path), ProgressBar(), Raise(KeyboardInterrupt(), at=8)))
    capsys.readouterr()
    fit(make(Checkpoint(tmp_path), ProgressBar()), resume=Checkpoint.latest(tmp_path))
    err = capsys.readouterr().err
    assert "8/12" in err.split("\r")[1] + err.split("\r")[2] and "12/12" in err.split("\r")[-1]


def test_no_bar_nothing_printed(capsys):
    fit(make())
    assert capsys.readouterr() == ("", "")


def test_without_tqdm_no_bar_and_no_word(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert module.find_tqdm() is None
    fit(make(ProgressBar()))
    assert capsys.readouterr() == ("", "")


def test_a_notebook_without_ipywidgets_is_not_warned():
    code = """
import sys, types, warnings
sys.modules["ipywidgets"] = None
sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")     # how tqdm knows a notebook
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace())
from finetune_book.train.callbacks import find_tqdm
assert not any(name.startswith("tqdm.auto") for name in sys.modules), "too late to see the warning"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    bar = find_tqdm()
assert not caught, caught
assert "notebook" not in str(bar.__mro__), "without widgets the terminal's bar is the right one"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for name in [m for m in sys.modules if m.startswith("tqdm")]: del sys.modules[name]
    import tqdm.auto
assert any("IProgress not found" in str(w.message) for w in caught), "this test would not see a warning"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, env=os.environ | {"PYTHONPATH": str(REPO)})
    assert (done.returncode, done.stderr) == (0, "")


# --- trackers -------------------------------------------------------------------------------------------------------

def events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_tensorboard_gets_the_history_and_each_step_once_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard")
    keep, board = tmp_path / "keep", tmp_path / "board"
    with pytest.raises(LookupError): fit(make(TensorBoardLogger(board), Checkpoint(keep, every_steps=4), Raise(LookupError(), at=11, order=60)))
    resumed = fit(make(TensorBoardLogger(board)), resume=Checkpoint.latest(keep))
    seen = events(board)
    assert [step for step, _ in seen["batch_loss"]] == list(range(1, 13)) == [step for step, _ in seen["lr"]]
    assert [step for step, _ in seen["val_loss"]] == [6, 12]
    assert np.allclose([value for _, value in seen["train_loss"]], [row["train_loss"] for row in resumed.history_])


@pytest.mark.parametrize("logger,package", [(lambda d: TensorBoardLogger(d), "torch.utils.tensorboard"), (lambda d: WandbLogger("p", dir=d), "wandb")])
def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch, logger, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"needs \w+: pip install"): fit(make(logger(tmp_path)))


@pytest.mark.parametrize("params", [{"texts": ["a note"]}, {"note": "x" * 101}, {"note": "two\nlines"}, {"nested": {"text": "x"}}])
def test_wandb_refuses_what_could_be_data(params):
    with pytest.raises(InputError, match="only numbers and one-line names"): WandbLogger("p", params=params)
    assert only_params({"lr": .1, "n": 3, "base": "book-bert", "none": None}) == {"lr": .1, "n": 3, "base": "book-bert", "none": None}


def test_wandb_refuses_an_unknown_mode():
    with pytest.raises(InputError, match="mode='dryrun'"): WandbLogger("p", mode="dryrun")


WANDB = """
import json, os, socket, sys
def refuse(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"): raise AssertionError(f"network: {address}")
    return connect(self, address)
connect, socket.socket.connect = socket.socket.connect, refuse
import torch
from torch import nn
from finetune_book.train.callbacks import WandbLogger
from finetune_book.train.trainer import Trainer, shuffled_batches
folder = sys.argv[1]
print("the patient denies chest pain")                        # console text must not be collected
model = nn.Linear(3, 2); X, y = torch.randn(12, 3), torch.zeros(12).long()
logger = WandbLogger("secret-free", dir=folder, params={"base": "book-bert"})
Trainer(model, torch.optim.SGD(model.parameters(), lr=.1), nn.functional.cross_entropy, callbacks=[logger]).fit(
    shuffled_batches(12, 4), lambda i: (X[i], y[i]), 2, lambda m: {"val_loss": .25})
print("the patient denies chest pain")
"""


def test_wandb_offline_writes_metrics_and_params_and_no_text(tmp_path):
    pytest.importorskip("wandb")
    script, folder = tmp_path / "denies_in_the_source.py", tmp_path / "runs"
    script.write_text(WANDB)
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {"PYTHONPATH": str(REPO), "HOME": str(tmp_path), "WANDB_MODE": "offline"}
    done = subprocess.run([sys.executable, str(script), str(folder)], env=env, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 2
    files = [path for path in folder.rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() for path in files)
    assert any(path.suffix == ".wandb" for path in files)
    for wanted in (b"val_loss", b"batch_loss", b"book-bert"): assert wanted in written, wanted
    for private in (b"patient", b"chest pain"): assert private not in written, private
    assert not [path for path in files if path.name in ("output.log", "requirements.txt", "wandb-metadata.json") or path.suffix == ".py"]


def test_wandb_never_goes_online_by_itself(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    import wandb
    asked = {}
    def init(**options):
        asked.update(options)
        raise LookupError("far enough")
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(LookupError): fit(make(WandbLogger("p", dir=tmp_path)))
    assert asked["mode"] == "offline" and asked["settings"].console == "off"


# --- together -------------------------------------------------------------------------------------------------------

def test_looking_on_changes_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watched = make(ProgressBar(disable=True), TensorBoardLogger(tmp_path / "b"), Checkpoint(tmp_path / "c", every_steps=1), EarlyStopping(patience=9))
        assert torch.equal(bits(fit(watched)), bits(fit(make())))
