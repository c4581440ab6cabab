"""Measure whether products in bfloat16 cost a picture model accuracy: the same training in both precisions, several
seeds, on three sets, one training a row, written to a CSV file as soon as it is done.

    python scripts/measure/measure_picture_precision.py            # measures what is missing, then the table
    python scripts/measure/measure_picture_precision.py --table    # the table of the rows that are there

The sets are those of measure_defaults.py: scikit-learn's digits, the carried surface_defects, and, with --cifar or below the
folder FINETUNE_BOOK_REAL_DATA, CIFAR-10. book-resnet, everything moves, five epochs, all else as ImageClassifier comes.
The seed draws the head's first weights, the order of the batches and the augmentation, the same in both precisions.
`right` holds a 1 for each test picture answered rightly and a 0 for each other.
"""
import itertools
import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from finetune_book import ImageClassifier
from finetune_book.judge.bootstrap import compare, seed_interval

sys.path.insert(0, str(Path(__file__).parent))
from measure_defaults import picture_sets  # noqa: E402
from stored import BASE_MODELS, Stored, asking  # noqa: E402

PLACE = BASE_MODELS / "picture_precision.csv"
COLUMNS = ["set", "precision", "seed", "n_train", "n_test", "accuracy", "seconds", "right"]
SETTINGS, PRECISIONS, SEEDS = dict(tune="full", epochs=5), ("float32", "bfloat16"), (0, 1, 2, 3, 4)


def known(out): return Stored(out, COLUMNS, COLUMNS[:3]).rows()


def measure_one(stored, name, parts, precision, seed):
    if stored.has(name, precision, seed): return
    (x, y), (test, labels) = parts
    begun = time.process_time()
    right = ImageClassifier(seed=seed, precision=precision, verbose=0, **SETTINGS).fit(x, y).predict(test) == labels
    seconds, answers = round(time.process_time() - begun, 1), "".join("01"[int(r)] for r in right)
    stored.add(name, precision, seed, len(y), len(labels), round(right.mean(), 5), seconds, answers, told=-1)


def by_seed(rows):
    "{precision: {seed: (n,) ones and zeros}} of a set's rows, of the seeds that both have."
    found = {p: {row.seed: np.array(list(row.right), dtype=float) for row in some.itertuples()} for p, some in rows.groupby("precision")}
    shared = set.intersection(*(set(of) for of in found.values()))
    return {p: {seed: of[seed] for seed in sorted(shared)} for p, of in found.items()}


def results(rows):
    "{set, or 'all sets': what by_seed gives}, of the sets measured in both precisions."
    found = {name: by_seed(some) for name, some in rows.groupby("set", sort=False) if set(some.precision) == set(PRECISIONS)}
    seeds = set.intersection(*(set(of["float32"]) for of in found.values())) if found else ()
    together = {p: {seed: np.concatenate([of[p][seed] for of in found.values()]) for seed in sorted(seeds)} for p in PRECISIONS}
    return found | ({"all sets": together} if len(found) > 1 else {})


def table(rows):
    "Mean accuracy with its interval over seeds, and the mean processor seconds: a precision a line, a set a column."
    def cell(of): return str(seed_interval([right.mean() for right in of.values()])) if len(of) > 1 else ""
    found = pd.DataFrame({name: {p: cell(of[p]) for p in PRECISIONS} for name, of in results(rows).items()})
    return found.assign(seconds=rows.groupby("precision").seconds.mean().round(1))


def compared(rows):
    return [compare(of, "float32", "bfloat16", what=f"accuracy on {name}") for name, of in results(rows).items() if of["float32"]]


def main():
    real = os.environ.get("FINETUNE_BOOK_REAL_DATA")
    ask = asking(__doc__, PLACE.name, SEEDS)
    ask.add_argument("--cifar", default=real and f"{real}/images/cifar10", help="folder with train and test of CIFAR-10")
    asked = ask.parse_args()
    stored = Stored(asked.out, COLUMNS, COLUMNS[:3])
    if not asked.table:
        for seed, (name, parts), precision in itertools.product(asked.seeds, picture_sets(asked.cifar).items(), PRECISIONS):
            if not asked.only or name in asked.only: measure_one(stored, name, parts, precision, seed)
    rows = stored.rows()
    print(table(rows).to_string(), *compared(rows), sep="\n")


if __name__ == "__main__":
    main()
