"""Measure what the estimators reach with no settings at all, beside their settings of before, hand-picked ones and the
floor: one training a row, written to a CSV file as soon as it is done.

    python scripts/measure/measure_defaults.py --texts FOLDER --cifar FOLDER   # measures what is missing, then the table
    python scripts/measure/measure_defaults.py --table                         # the table of the rows that are there

FOLDER of texts holds one folder a set, each with train.csv and test.csv of text,label; FOLDER of CIFAR-10 holds train and
test, each with one folder of pictures a class. The carried clinic_notes, surface_defects and scikit-learn's digits are
always measured. k rows a class are drawn from the training file by the seed; nothing but the test file is scored, and it
decides nothing: the rules of the defaults were found on other draws and on held-out rows of training files.

Ways. "default": `TextClassifier()` or `ImageClassifier()`. "default, head": the same with tune="head". "before" and
"before, head": the defaults that these classes had (5 epochs, lr 5e-5 or 1e-3). "hand-picked" and "hand-picked, head":
the best settings known from data/base_models. "floor": words counted, or pixels, and logistic regression.
"""
import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd

from finetune_book import ImageClassifier, TextClassifier
from finetune_book.data.images import as_batch, read_pictures
from finetune_book.data.picture_tables import digits, read_picture_source
from finetune_book.data.sets import surface_defects
from finetune_book.data.splits import few_per_class
from finetune_book.data.tables import carried, read_table
from finetune_book.judge.ladder import pixels_floor, tfidf_floor

TEXTS = ("uci_sentences", "sst2", "banking77", "medical_abstracts")
COLUMNS = ["set", "labels_per_class", "seed", "way", "accuracy", "n_test", "tune", "lr", "epochs", "seconds"]
LABELS, SEEDS = (16, 64), (0, 1, 2)


# --- the sets: name -> ((examples, labels) to draw from, (examples, labels) to score) -------------------------------

def text_sets(folder, names=TEXTS):
    places = {"clinic_notes": carried("clinic_notes")}
    if folder: places |= {name: Path(folder) / name for name in names}
    def part(place, name):
        frame = read_table(place / f"{name}.csv")
        return frame.text.to_numpy(object), frame.label.to_numpy(str)
    return {name: (part(place, "train"), part(place, "test")) for name, place in places.items()}


def picture_sets(cifar):
    def surfaces(split):
        pictures, table = surface_defects.load(split)
        return pictures, table.label.to_numpy(str)
    x, y = digits()
    order = np.random.default_rng(0).permutation(len(x))
    some, rest = order[:1200], order[1200:]
    found = {"digits": ((as_batch(x[some]), y[some]), (as_batch(x[rest]), y[rest])),
             "surface_defects": (surfaces("train"), surfaces("test"))}
    if cifar:
        parts = read_picture_source(cifar)
        found["cifar10"] = tuple((read_pictures(parts[name][0], 32)[0], parts[name][1].label.to_numpy(str))
                                 for name in ("train", "test"))
    return found


def drawn(labels, k, seed):
    "Row numbers of k rows a class; of a class with fewer all."
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    small = np.flatnonzero(counts[codes] < k)
    big = np.setdiff1d(np.arange(len(labels)), small)
    return np.sort(np.r_[small, big[few_per_class(labels[big], k, seed)]]) if len(big) else small


# --- the ways: (examples, labels, seed) -> a fitted model ---------------------------------------------------------------

def text_ways(n):
    seen = int(np.clip(round(800 / n), 2, 20))
    own = {"default": {}, "default, head": dict(tune="head"),
           "before": dict(tune="full", lr=5e-5, epochs=5), "before, head": dict(tune="head", lr=5e-5, epochs=5),
           "hand-picked": dict(tune="full", lr=3e-4, epochs=seen), "hand-picked, head": dict(tune="head", lr=1e-2, epochs=30)}
    return {"floor": lambda x, y, seed: tfidf_floor(list(x), y)} | {
        way: lambda x, y, seed, s=s: TextClassifier(seed=seed, verbose=0, **s).fit(list(x), y) for way, s in own.items()}


def picture_ways(n):
    steps = max(1, round(200 * 16 / n))
    own = {"default": {}, "default, head": dict(tune="head"),
           "before": dict(tune="full", lr=1e-3, epochs=5), "before, head": dict(tune="head", lr=1e-3, epochs=5),
           "hand-picked": dict(tune="full", lr=3e-3, epochs=steps, batch_size=16),
           "hand-picked, head": dict(tune="head", lr=1e-2, epochs=100, batch_size=16)}
    return {"floor": lambda x, y, seed: pixels_floor(x, y)} | {
        way: lambda x, y, seed, s=s: ImageClassifier(seed=seed, verbose=0, **s).fit(x, y) for way, s in own.items()}


# --- rows -------------------------------------------------------------------------------------------------------------

def read_rows(path):
    return pd.read_csv(path, dtype={"tune": str}, keep_default_na=False) if path.exists() else pd.DataFrame(columns=COLUMNS)


def measure_one(out, key, fit, test):
    begun = time.process_time()
    model = fit()
    right = float(np.mean(np.asarray(model.predict(test[0] if isinstance(test[0], np.ndarray) and test[0].ndim > 1
                                                   else list(test[0]))) == test[1]))
    told = [getattr(model, name, "") for name in ("tune_", "lr_", "epochs_")]
    row = [*key, f"{right:.5f}", len(test[1]), *("" if t is None else t for t in told), f"{time.process_time() - begun:.1f}"]
    new = not out.exists()
    with open(out, "a", encoding="utf-8") as file:
        if new: file.write(",".join(COLUMNS) + "\n")
        file.write(",".join(f'"{v}"' if "," in str(v) else str(v) for v in row) + "\n")
    print(*row, flush=True)


def measure(told):
    groups = [(text_sets(told.texts), text_ways), (picture_sets(told.cifar), picture_ways)]
    for seed, k, (sets, ways) in itertools.product(told.seeds, told.labels, groups):
        for name, ((x, y), test) in sets.items():
            if told.only and name not in told.only: continue
            rows = drawn(y, k, seed)
            for way, fit in ways(len(rows)).items():
                if told.ways and way not in told.ways: continue
                done = read_rows(told.out)
                same = (done["set"] == name) & (done.labels_per_class == k) & (done.seed == seed) & (done.way == way)
                if same.any(): continue
                measure_one(told.out, (name, k, seed, way), lambda: fit(x[rows], y[rows], seed), test)


# --- the table ----------------------------------------------------------------------------------------------------------

def interval(values):
    "mean [low, high] over seeds: the mean and two standard errors to each side."
    half = 2 * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.3f} [{np.mean(values) - half:.3f}, {np.mean(values) + half:.3f}] ({len(values)})"


def table(rows):
    "Ways in columns, a set and a number of labels a line; the last column compares the default with the best known."
    ways = ["floor", "before", "default", "hand-picked", "before, head", "default, head", "hand-picked, head"]
    cells = rows.groupby(["set", "labels_per_class", "way"]).accuracy.agg(lambda v: interval(list(v))).unstack()
    means = rows.groupby(["set", "labels_per_class", "way"]).accuracy.mean().unstack()
    best = means[[w for w in means if w.startswith("hand-picked")]].max(axis=1)
    default = means.get("default", pd.Series(float("nan"), means.index))
    return cells.reindex(columns=ways).assign(**{"default - best hand-picked": (default - best).round(3)})


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--texts"); ask.add_argument("--cifar"); ask.add_argument("--only", nargs="+"); ask.add_argument("--ways", nargs="+")
    ask.add_argument("--labels", type=int, nargs="+", default=LABELS); ask.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    ask.add_argument("--out", type=Path, default=Path("data/base_models/defaults.csv")); ask.add_argument("--table", action="store_true")
    told = ask.parse_args()
    if not told.table: measure(told)
    print(table(read_rows(told.out)).to_string())


if __name__ == "__main__":
    main()
