"""Measure what the defaults of `TextClassifier` and `ImageClassifier` were chosen among: one training a row, written to a
CSV file as soon as it is done.

    python scripts/measure/choose_defaults.py --texts FOLDER --cifar FOLDER    # measures what is missing, then the table
    python scripts/measure/choose_defaults.py --table                          # the table of the rows that are there

The sets, and how k rows a class are drawn from a training file, are those of measure_defaults.py; the seeds are others.
Every training is judged on 400 other rows of the same training file: no test row is read.

Ways. "head": the head solved, the body still. "full, N steps": everything moves for N steps from the solved head. "fresh
head, N steps": the same from a head of random numbers, the control of the solved start.
"""
import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from measure_defaults import drawn, measure_one, picture_sets, read_rows, text_sets

from finetune_book import ImageClassifier, TextClassifier
from finetune_book.train.trainer import enough_epochs

JUDGED = 400


def ways(estimator, n, seed, steps, rate, longest):
    "way -> an estimator to fit on n rows."
    def epochs(count): return enough_epochs(n, 16, count, 1, longest)
    found = {"head": dict(tune="head")}
    for count in steps:
        found |= {f"full, {count} steps": dict(tune="full", epochs=epochs(count)),
                  f"fresh head, {count} steps": dict(tune="full", epochs=epochs(count), lr=rate)}
    return {way: estimator(seed=seed, verbose=0, batch_size=16, **own) for way, own in found.items()}


def text_ways(n, seed): return ways(TextClassifier, n, seed, (100, 300), 2e-4, 50)
def picture_ways(n, seed): return ways(ImageClassifier, n, seed, (200, 400), 3e-3, 60)


def measure(told):
    groups = [(text_sets(told.texts), text_ways), (picture_sets(told.cifar), picture_ways)]
    for seed, k, (sets, ways_of) in itertools.product(told.seeds, told.labels, groups):
        for name, ((x, y), _) in sets.items():
            if told.only and name not in told.only: continue
            rows = drawn(y, k, seed)
            others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(y)), rows))[:JUDGED]
            for way, model in ways_of(len(rows), seed).items():
                done = read_rows(told.out)
                same = (done["set"] == name) & (done.labels_per_class == k) & (done.seed == seed) & (done.way == way)
                if same.any() or told.ways and way not in told.ways: continue
                texts = [x[i] for i in rows] if x.dtype == object else x[rows]
                measure_one(told.out, (name, k, seed, way), lambda: model.fit(texts, y[rows]), (x[others], y[others]))


def table(rows):
    "Ways in columns, a set and a number of labels a line: the mean over seeds and how many there are."
    cells = rows.groupby(["set", "labels_per_class", "way"]).accuracy.agg(lambda v: f"{np.mean(v):.3f} ({len(v)})")
    return cells.unstack().fillna("")


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--texts"); ask.add_argument("--cifar"); ask.add_argument("--only", nargs="+"); ask.add_argument("--ways", nargs="+")
    ask.add_argument("--labels", type=int, nargs="+", default=(16, 64))
    ask.add_argument("--seeds", type=int, nargs="+", default=(10, 11, 12))
    ask.add_argument("--out", type=Path, default=Path("data/base_models/choices_defaults.csv"))
    ask.add_argument("--table", action="store_true")
    told = ask.parse_args()
    if not told.table: measure(told)
    with pd.option_context("display.width", 250, "display.max_columns", 20): print(table(read_rows(told.out)))


if __name__ == "__main__":
    main()
