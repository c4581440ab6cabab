"""Measure the steps of lessons 54 (text_classifier) and 55 (vision_classifier): from the published settings on, one change
a step, several seeds, and the controls that tell which change it was.

    python scripts/measure/measure_pipeline_steps.py            # the validation rows of every step that are missing
    python scripts/measure/measure_pipeline_steps.py --test     # the test rows of two steps, see `tested`
    python scripts/measure/measure_pipeline_steps.py --table    # the table of the rows that are there

One training a line, written to a CSV file as soon as it is done. The rows are drawn once; the seed decides the head's first
weights, the order of the batches and the dropout. At a constant rate a training of 10 epochs passes through those of fewer, so
one training gives the lines of all ("5 epochs"), and that of the epoch which other validation rows than the judging ones would
have kept, and where they would have stopped it ("watched"). `right` holds a 1 for each row answered rightly and a 0 for each
other, in the order drawn.
"""
import argparse
import copy
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from finetune_book import ImageClassifier, TextClassifier
from finetune_book.data.sets import surface_defects
from finetune_book.data.tables import read_splits
from finetune_book.judge.ladder import majority_floor, pixels_floor, tfidf_floor
from finetune_book.judge.metrics import log_loss
from finetune_book.vision.bases import load_image_base, save_image_model
from finetune_book.train.trainer import Callback
from finetune_book.vision.preprocessing import IMAGENET

COLUMNS = ["set", "step", "seed", "part", "n", "accuracy", "loss", "epochs_done", "epoch_kept", "seconds", "settings", "right"]
PLACE = Path(__file__).parents[2] / "data" / "base_models" / "pipeline_steps.csv"


# --- the steps: name -> settings, each one change away from another --------------------------------------------------

NOTES = dict(tune="head", lr=1e-5, epochs=10, schedule="constant", warmup_frac=0.)      # as published
MOVING = NOTES | dict(tune="full", lr=5e-4)
GLIDE = dict(schedule="linear", warmup_frac=.1)
TEXT_STEPS = {
    "as published": NOTES, "head at 1e-2": NOTES | dict(lr=1e-2), "all layers": NOTES | dict(tune="full"),
    "all layers at 5e-4": MOVING, "linear, 5 epochs": MOVING | GLIDE | dict(epochs=5),
    "linear, 2 epochs": MOVING | GLIDE | dict(epochs=2),
}
PICTURES = dict(tune="head", lr=1e-3, epochs=8, schedule="constant", warmup_frac=0., size=32, augment="none",
                norm="imagenet")
OWN = PICTURES | dict(norm="own")
FULL = OWN | dict(tune="full")
FAST = FULL | dict(lr=3e-3)
VARIED = FAST | dict(augment="crop+flip")
LAST = VARIED | GLIDE
PICTURE_STEPS = {
    "as published": PICTURES, "/255 forgotten": PICTURES | dict(norm="forgotten"), "own normalisation": OWN,
    "head at 3e-2": OWN | dict(lr=3e-2), "all layers": FULL,
    "3 epochs, 48 pixels": FULL | dict(epochs=3, size=48), "all layers at 3e-3": FAST, "shifts and mirrors": VARIED,
    "linear": LAST, "48 pixels": LAST | dict(size=48), "BatchNorm kept": LAST | dict(freeze_norm=True),
    "from random weights": LAST | dict(base="scratch"),
}
STEPS = {"clinic_notes": TEXT_STEPS, "surface_defects": PICTURE_STEPS}
# Trainings at a constant rate that are looked at on their way: after which epochs.
LOOKS = {("clinic_notes", "all layers at 5e-4"): (2, 5), ("surface_defects", "all layers"): (3,)}
WATCHED, PATIENCE = "clinic_notes", 2
UNSET = "no settings"       # of notes, measured last: what the library decides by itself; defaults.csv has it for pictures


def settings_of(name, step):
    "The settings of a step, of one that is looked at on the way too."
    for (of, long), looks in LOOKS.items():
        shorter = {f"{epochs} epochs": dict(epochs=epochs) for epochs in looks} | {"watched": dict(patience=PATIENCE)}
        if of == name and step in shorter: return STEPS[name][long] | shorter[step]
    return STEPS[name].get(step, {})


# --- the rows: set -> part -> (examples, labels) -----------------------------------------------------------------------

def notes():
    "128 training notes, 200 validation notes, 100 more that watch, and 600 test notes."
    splits, rng = read_splits("clinic_notes", group="patient"), np.random.default_rng(0)
    order = {name: rng.permutation(len(splits[name])) for name in ("train", "validation", "test")}
    cut = dict(train=("train", 0, 128), validation=("validation", 0, 200), watch=("validation", 200, 300),
               test=("test", 0, 600))
    found = {part: splits[name].iloc[order[name][a:b]] for part, (name, a, b) in cut.items()}
    return {part: (list(frame.text), frame.label.to_numpy(str)) for part, frame in found.items()}


def surfaces():
    "300 training, 240 validation and 600 test pictures."
    def some(name, n):
        x, table = surface_defects.load(name)
        rows = np.random.default_rng(0).permutation(len(x))[:n]
        return x[rows], table.label.to_numpy(str)[rows]
    return dict(train=some("train", 300), validation=some("validation", 240), test=some("test", 600))


ROWS = {"clinic_notes": notes, "surface_defects": surfaces}
ESTIMATORS = {"clinic_notes": TextClassifier, "surface_defects": ImageClassifier}


# --- a step: rows, settings, seed -> a fitted model ---------------------------------------------------------------------

def with_numbers(folder, norm):
    "The carried picture base with the numbers of another normalisation beside it; returns the folder as text."
    mean, std = IMAGENET if norm == "imagenet" else ((0., 0., 0.), (1 / 255,) * 3)
    model, prep = load_image_base("book-resnet", n_out=2, seed=0)
    return str(save_image_model(folder, model, replace(prep, mean=mean, std=std)))


class Snapshots(Callback):
    "Keeps the weights after each epoch."
    def on_fit_start(self, trainer): self.weights = []
    def on_epoch_end(self, trainer): self.weights.append(copy.deepcopy(trainer.model.state_dict()))


def fitted(name, rows, settings, seed, folder, callbacks=()):
    common = dict(settings, seed=seed, verbose=0, callbacks=callbacks)
    if name == "clinic_notes":
        watch = rows["watch"] if "patience" in settings else None
        own = dict(max_length=96, batch_size=16) if settings else {}
        return TextClassifier(**own, **common).fit(*rows["train"], validation=watch)
    norm = common.pop("norm", "own")
    if norm != "own": common["base"] = with_numbers(f"{folder}/{norm}", norm)
    return ImageClassifier(**(dict(batch_size=32) if settings else {}), **common).fit(*rows["train"])


def scored(model, x, y):
    "(accuracy, loss in nats, string of 0 and 1) on rows."
    proba = model.predict_proba(x)
    right = model.classes_[proba.argmax(1)] == y
    return right.mean(), log_loss(y, proba, model.classes_), "".join("01"[int(r)] for r in right)


def stopped(losses, patience):
    "(epochs done, epoch kept, both from 1) of a training that ends after `patience` epochs without a lower loss."
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]: best = epoch
        if epoch - best >= patience: break
    return epoch + 1, best + 1


def floors(name, rows):
    "The rungs without a seed: name -> predictor of labels."
    x, y = rows["train"]
    words = tfidf_floor(x, y) if name == "clinic_notes" else pixels_floor(x, y)
    return {"largest class": lambda x: majority_floor(y, len(x)),
            "words counted" if name == "clinic_notes" else "pixels": words.predict}


# --- lines of the table -------------------------------------------------------------------------------------------------

def told(settings): return " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in settings.items())


def known(out): return pd.read_csv(out, dtype=dict(right=str), keep_default_na=False) if out.exists() else pd.DataFrame(columns=COLUMNS)


def is_known(out, key): return (known(out)[COLUMNS[:4]].astype(str) == [str(k) for k in key]).all(axis=1).any()


def write(out, *line):
    new = not out.exists()
    with open(out, "a", encoding="utf-8") as file:
        if new: file.write(",".join(COLUMNS) + "\n")
        file.write(",".join(f'"{v}"' if "," in str(v) else str(v) for v in line) + "\n")
    print(*line[:-1], flush=True)


def measure_floors(out, name, rows, part):
    for step, predict in floors(name, rows).items():
        if is_known(out, (name, step, 0, part)): continue
        x, y = rows[part]
        right = predict(x) == y
        write(out, name, step, 0, part, len(y), f"{right.mean():.5f}", "", "", "", "", "", "".join("01"[int(r)] for r in right))


def write_step(out, key, model, rows, done, kept, settings, begun):
    right, loss, each = scored(model, *rows)
    write(out, *key, len(each), f"{right:.5f}", f"{loss:.5f}", done, kept, f"{time.process_time() - begun:.1f}", told(settings), each)


def write_looks(out, name, rows, step, seed, model, snapshots, begun):
    "Lines of a training at a constant rate, as if it had been shorter, and as if it had been watched."
    def line(as_if, done, kept):
        model.model_.load_state_dict(snapshots.weights[kept - 1])
        write_step(out, (name, as_if, seed, "validation"), model, rows["validation"], done, kept, settings_of(name, as_if), begun)
    for epoch in LOOKS[name, step]: line(f"{epoch} epochs", epoch, epoch)
    if name != WATCHED: return
    losses = []
    for weights in snapshots.weights:
        model.model_.load_state_dict(weights)
        losses.append(scored(model, *rows["watch"])[1])
    line("watched", *stopped(losses, PATIENCE))


def measure_step(out, name, rows, step, seed, part, models=None):
    key = (name, step, seed, part)
    if is_known(out, key): return
    begun, settings, snapshots = time.process_time(), settings_of(name, step), Snapshots()
    looked = part == "validation" and (name, step) in LOOKS
    kept = models and Path(models) / f"{name}, {step}, {seed}".replace("/", "")
    if kept and kept.exists(): model = ESTIMATORS[name].load(kept)
    else:
        with tempfile.TemporaryDirectory() as folder:
            model = fitted(name, rows, settings, seed, folder, [snapshots] if looked else ())
            if kept: model.save(kept)
    write_step(out, key, model, rows[part], len(model.history_), model.best_epoch_ + 1, settings, begun)
    if looked: write_looks(out, name, rows, step, seed, model, snapshots, begun)


def tested(out, name):
    "What is scored on test rows: the published step, and the one with the highest mean on validation rows, of equals the first."
    rows = known(out).query("part == 'validation' and settings != ''")
    means = rows[rows["set"] == name].astype(dict(accuracy=float)).groupby("step", sort=False).accuracy.mean()
    return ["as published", means.round(6).idxmax()]


def measure(asked, names):
    rows = {name: ROWS[name]() for name in names}
    part = "test" if asked.test else "validation"
    for name in names: measure_floors(asked.out, name, rows[name], part)
    plan = [(name, seed, step) for name, seed in itertools.product(names, asked.seeds)
            for step in (tested(asked.out, name) if asked.test else STEPS[name])]
    if not asked.test and WATCHED in names: plan += [(WATCHED, seed, UNSET) for seed in asked.seeds]
    for name, seed, step in plan:
        if step in (asked.steps or [step]): measure_step(asked.out, name, rows[name], step, seed, part, asked.models)


def table(out):
    rows = known(out).query("part == 'validation'")
    rows = rows.assign(accuracy=rows.accuracy.astype(float))
    return rows.groupby(["set", "step"], sort=False).accuracy.agg(lambda v: " ".join(f"{a:.3f}" for a in v))


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--sets", nargs="+", choices=STEPS, default=list(STEPS))
    ask.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    ask.add_argument("--out", type=Path, default=PLACE)
    ask.add_argument("--steps", nargs="+", help="only these")
    ask.add_argument("--models", help="folder where the models are kept, so that --test need not train again")
    ask.add_argument("--test", action="store_true"); ask.add_argument("--table", action="store_true")
    asked = ask.parse_args()
    if not asked.table: measure(asked, asked.sets)
    print(table(asked.out).to_string())


if __name__ == "__main__":
    main()
