"""Measure what lesson 62 (lora) says of rank, α, targets and rate: one training a row, written to a CSV file as soon as it is
done.

    python scripts/measure/measure_lora.py                    # measures what is missing, about half an hour, then the table
    python scripts/measure/measure_lora.py --table            # the table of the rows that are there

Texts: 16 clinic notes a class from the training rows, judged on 400 of the validation rows; 100 steps of 8. Pictures: 16 of
scikit-learn's digits a class, judged on 400 others; 100 steps of 16. In all but the first two ways the head begins solved, and
only what the way's name says differs from `tune="lora"`. No test row is read.
"""
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from finetune_book import ImageClassifier, TextClassifier
from finetune_book.adapt.lora import Lora
from finetune_book.data.tables import read_splits
from finetune_book.text.rows import TextRows
from finetune_book.vision.rows import ImageRows

sys.path.insert(0, str(Path(__file__).parent))
from stored import Stored, asking  # noqa: E402

COLUMNS = ["set", "seed", "way", "accuracy", "trained", "seconds"]
PER_CLASS, JUDGED = 16, 400
TEXT_WAYS = {
    "head": "head", "full": "full", "lora": Lora(), "r 1": Lora(r=1), "r 32": Lora(r=32), "r 32, rslora": Lora(r=32, rslora=True),
    "alpha 4": Lora(alpha=4.), "query+value, r 32, alpha 64": Lora(32, 64., "query+value")}
FACTORS = {"rate / 4": .25, "rate * 4": 4.}                  # on the learning rates, of the ways that have another
PICTURE_WAYS = {"head": "head", "full": "full", "lora": Lora(), "rate / 4": Lora(), "rate * 4": Lora()}


def texts(seed):
    splits = read_splits("clinic_notes", group="patient")
    train, held = splits["train"], splits["validation"].iloc[:JUDGED]
    rows = drawn(train.label.to_numpy(), seed)
    return (train.text.iloc[rows].tolist(), train.label.iloc[rows].to_numpy()), (held.text.tolist(), held.label.to_numpy())


def pictures(seed):
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    rows = drawn(y, seed)
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(y)), rows))[:JUDGED]
    return (x[rows], y[rows]), (x[others], y[others])


def drawn(labels, seed):
    "Numbers of PER_CLASS rows of each class."
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:PER_CLASS] for c in sorted(set(labels))])


SETS = {"clinic_notes": (texts, TextClassifier, TextRows, TEXT_WAYS, dict(epochs=5, batch_size=8)),
        "digits": (pictures, ImageClassifier, ImageRows, PICTURE_WAYS, dict(epochs=10, batch_size=16))}


def fitted(name, seed, way):
    "(accuracy, parameters moved, seconds) of one training."
    read, estimator, rows, ways, settings = SETS[name]
    (x, y), (held, theirs) = read(seed)
    own = {} if way == "head" else settings
    usual = rows.rates_for
    factor = FACTORS.get(way, 1.)
    rows.rates_for = classmethod(lambda cls, base: {k: v * factor for k, v in usual(base).items()})
    begun = time.perf_counter()
    try: est = estimator(tune=ways[way], seed=seed, verbose=0, **own).fit(x, y)
    finally: rows.rates_for = usual
    took = time.perf_counter() - begun
    return est.score(held, theirs), est.n_trainable_, took


def measure(told, stored):
    for seed in told.seeds:
        for name, (*_, ways, _) in SETS.items():
            for way in ways:
                if told.only and name not in told.only or told.ways and way not in told.ways: continue
                if stored.has(name, seed, way): continue
                accuracy, moved, took = fitted(name, seed, way)
                stored.add(name, seed, way, f"{accuracy:.4f}", moved, f"{took:.1f}")


def table(rows):
    "A line a way: the mean accuracy over seeds, how many there are, and the parameters that moved."
    found = rows.groupby(["set", "way"], sort=False).agg(accuracy=("accuracy", "mean"), seeds=("seed", "count"), trained=("trained", "first"))
    return found.round(4)


def main(doc=__doc__, place="lora.csv", choose=lambda told: None):
    "`choose` may change SETS by what was told."
    ask = asking(doc, place, (20, 21, 22))
    ask.add_argument("--ways", nargs="+")
    told = ask.parse_args()
    choose(told)
    stored = Stored(told.out, COLUMNS, COLUMNS[:3])
    if not told.table: measure(told, stored)
    print(table(stored.rows()))


if __name__ == "__main__": main()
