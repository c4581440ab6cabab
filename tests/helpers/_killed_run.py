"""A training run that gets killed in every way we could think of, each in a process of its own; called by test_callbacks.py.

    python _killed_run.py DIR      writes DIR/results.json: scenario -> {"signal": int, "bits": str, "history": [...], ...}

The parent does no torch arithmetic before it forks, so a fork is safe and costs no second import of torch.
"""
import gc
import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # torch's optimizers import it at their first use: once here instead of once in each child
import torch.nn.functional as F
from torch import nn

from finetune_book.train.callbacks import Checkpoint, EarlyStopping, KeepBest
from finetune_book.train.trainer import Callback, Trainer, shuffled_batches

N, SIZE, ACCUMULATE, EPOCHS = 70, 8, 2, 12               # 9 batches an epoch, the last one short, the last group incomplete
PER_EPOCH = -(-N // SIZE)


def kill(): os.kill(os.getpid(), signal.SIGKILL)


class Witness(Callback):
    "Writes down each row that was trained on, in the order it was, so that a repeated or skipped batch shows."
    def __init__(self): self.seen = []
    def on_fit_start(self, trainer): self.seen = []
    def on_batch_end(self, trainer): self.seen.append([trainer.epoch, trainer.batch, trainer.step])
    def state_dict(self): return {"seen": [list(s) for s in self.seen]}
    def load_state_dict(self, state): self.seen = state["seen"]


class At(Callback):
    "Do something at one moment: `when` is the hook's name, `where` = (epoch, batch) as the trainer's counters stand."
    def __init__(self, when, where, action, order=0):
        self.where, self.action, self.order = where, action, order
        setattr(self, when, self.check)
    def check(self, trainer):
        if (trainer.epoch, trainer.batch) == self.where: self.action()


def train(folder, optimizer="adamw", extra=(), kill_forward=None, pause=0., report=None):
    "The run under test, resumed from `folder` when there is something; writes what came out to `report`."
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(N, 6)).astype(np.float32))
    y = torch.from_numpy((X[:, 0] * X[:, 1] > 0).numpy().astype(np.int64))
    X_va = torch.from_numpy(rng.normal(size=(40, 6)).astype(np.float32))
    y_va = torch.from_numpy(((X_va[:, 0] * X_va[:, 1] > 0).numpy() ^ (rng.random(40) < .3)).astype(np.int64))   # noisy: it gets worse again
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(.4), nn.Linear(16, 2))
    opt = torch.optim.AdamW(net.parameters(), lr=.02) if optimizer == "adamw" else torch.optim.SGD(net.parameters(), lr=.1, momentum=.9)
    torch.manual_seed(int(time.time() * 1e6) % 2**31)      # a resumed process starts with other global dice; they must not matter
    calls = [0]

    def loss_fn(out, target):
        calls[0] += 1
        if calls[0] == kill_forward: kill()
        if pause: time.sleep(pause)
        return F.cross_entropy(out, target)

    def validate(model):
        torch.rand(3)                                      # validation that draws random numbers must not disturb training
        return {"val_loss": F.cross_entropy(model(X_va), y_va).item()}

    witness = Witness()
    callbacks = [EarlyStopping(patience=3, min_delta=.005), KeepBest(), witness, Checkpoint(folder, every_steps=2), *extra]
    trainer = Trainer(net, opt, loss_fn, lambda step: 1 / (1 + step / 20), callbacks=callbacks, seed=5, clip_norm=.8, accumulate=ACCUMULATE)
    state = Checkpoint.latest(folder)
    began = [state["epoch"], state["batch"]] if state else [0, 0]
    trainer.fit(shuffled_batches(N, SIZE, seed=2), lambda idx: (X[idx], y[idx]), EPOCHS, validate, resume=state)
    bits = hashlib.sha256(b"".join(t.numpy().tobytes() for t in net.state_dict().values())).hexdigest()
    moments = hashlib.sha256(b"".join(t.numpy().tobytes() for s in opt.state.values() for t in s.values() if torch.is_tensor(t))).hexdigest()
    out = dict(bits=bits, moments=moments, history=trainer.history_, step=trainer.step, seen=witness.seen, began=began,
               waited=callbacks[0].waited_, lr=trainer.lr_)
    if report: Path(report).write_text(json.dumps(out))
    return out


def child(function):
    "Run `function` in a forked process; returns the signal that ended it (0: none) and its exit code."
    pid = os.fork()
    if pid == 0:
        try: function(); os._exit(0)
        except BaseException: traceback.print_exc(); os._exit(1)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1


def half_written_then_killed(content, file, whole=torch.save):
    file.write(b"PK\x03\x04 half of a checkpoint")
    file.flush()
    kill()


def arm(name, replacement):
    "Replace torch.save, os.replace or os.fsync from now on."
    module, attribute = {"save": (torch, "save"), "replace": (os, "replace"), "fsync": (os, "fsync")}[name]
    return lambda: setattr(module, attribute, replacement)


def scenarios():
    "Name -> arguments of `train` for the process that dies."
    rng = random.Random(2024)
    total = PER_EPOCH * 4
    found = {f"random batch {k}": dict(kill_forward=k) for k in rng.sample(range(3, total), 3)}
    found |= {
        "SGD, random batch": dict(kill_forward=rng.randrange(3, total), optimizer="sgd"),
        "first batch, nothing written yet": dict(kill_forward=1),
        "inside an accumulation group": dict(extra=[At("on_batch_end", (1, 5), kill, order=200)]),
        "after an epoch's last batch": dict(extra=[At("on_batch_end", (1, PER_EPOCH), kill, order=200)]),
        "at an epoch's end, before the checkpoint": dict(extra=[At("on_epoch_end", (2, 0), kill, order=99)]),
        "at an epoch's end, after the checkpoint": dict(extra=[At("on_epoch_end", (2, 0), kill, order=200)]),
        "while early stopping waits": dict(extra=[At("on_batch_end", (7, 4), kill, order=200)]),
        "checkpoint half written": dict(extra=[At("on_batch_end", (1, 3), arm("save", half_written_then_killed))]),
        "checkpoint written, not yet renamed": dict(extra=[At("on_batch_end", (1, 3), arm("replace", lambda a, b: kill()))]),
        "checkpoint not yet on the disk": dict(extra=[At("on_batch_end", (1, 3), arm("fsync", lambda handle: kill()))]),
    }
    return found


def kill_from_outside(folder, wait):
    "Start the run in a child, kill it `wait` seconds after its first checkpoint, wherever it is."
    pid = os.fork()
    if pid == 0:
        try: train(folder, pause=.004); os._exit(0)
        except BaseException: traceback.print_exc(); os._exit(1)
    while not (folder / "checkpoint.pt").exists(): time.sleep(.002)
    time.sleep(wait)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def interrupted(folder, note):
    "A real SIGINT in the middle of a batch; note what was raised and what the checkpoint says."
    def loss_action(): os.kill(os.getpid(), signal.SIGINT)
    raised = "nothing"
    try: train(folder, extra=[InTheMiddle((1, 4), loss_action)])
    except KeyboardInterrupt: raised = "KeyboardInterrupt"
    state = Checkpoint.latest(folder)
    note.write_text(json.dumps(dict(raised=raised, epoch=state["epoch"], batch=state["batch"])))


class InTheMiddle(Callback):
    "Act inside the forward pass of the batch after (epoch, batch)."
    def __init__(self, where, action): self.where, self.action = where, action
    def on_batch_end(self, trainer):
        if (trainer.epoch, trainer.batch) != self.where: return
        handle = trainer.model[2].register_forward_pre_hook(lambda *_: (handle.remove(), self.action())[0])


def disk_full(folder, note):
    "The operating system refuses files larger than 1 kB from epoch 1 on, as a full disk would; note the error and the old file."
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    path, told = folder / "checkpoint.pt", {}
    def remember(): told["before"] = hashlib.sha256(path.read_bytes()).hexdigest()
    try: train(folder, extra=[At("on_batch_end", (1, 3), lambda: (remember(), limit()))])
    except ValueError as error: told |= dict(error=str(error), kind=type(error).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    told |= dict(after=hashlib.sha256(path.read_bytes()).hexdigest(), files=sorted(p.name for p in folder.iterdir()))
    note.write_text(json.dumps(told))


def main(root):
    torch.set_num_threads(1)
    gc.freeze()                                            # no child looks through what was imported, and so copies it
    results = {}
    for kind in ("adamw", "sgd"):
        child(lambda: train(root / f"uncut {kind}", optimizer=kind, report=root / f"{kind}.json"))
        results[f"uncut {kind}"] = json.loads((root / f"{kind}.json").read_text())
    jobs = {name: (lambda folder, how=how: child(lambda: train(folder, **how))[0], how.get("optimizer", "adamw")) for name, how in scenarios().items()}
    rng = random.Random(7)
    for i in range(3):
        wait = rng.uniform(0, .12)
        jobs[f"from outside, {wait * 1000:.0f} ms after the first checkpoint"] = (lambda folder, wait=wait: kill_from_outside(folder, wait), "adamw")
    jobs["Ctrl-C inside a batch"] = (lambda folder: child(lambda: interrupted(folder, root / "interrupted.json"))[0], "adamw")
    jobs["disk full"] = (lambda folder: child(lambda: disk_full(folder, root / "full.json"))[0], "adamw")
    for name, (start, kind) in jobs.items():
        folder, report = root / name, root / "again.json"
        report.unlink(missing_ok=True)
        ended_by = start(folder)
        survivors = [len(p.read_bytes()) > 0 for p in [folder / "checkpoint.pt"] if p.exists()]
        code = child(lambda: train(folder, optimizer=kind, report=report))
        results[name] = dict(signal=ended_by, uncut=kind, code=code, survivors=survivors) | (json.loads(report.read_text()) if report.exists() else {})
    results["interrupted"] = json.loads((root / "interrupted.json").read_text())
    results["full"] = json.loads((root / "full.json").read_text())
    (root / "results.json").write_text(json.dumps(results))
    gc.unfreeze()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
