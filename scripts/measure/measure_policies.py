"""Measure whether RandAugment or AugMix, as torchvision has them, adds to crops and mirrors: the same training with each,
several seeds, one training a row, written to a CSV file as soon as it is done.

    FINETUNE_BOOK_REAL_DATA=FOLDER OMP_NUM_THREADS=1 python scripts/measure/measure_policies.py
    python scripts/measure/measure_policies.py --table    # the table and the sentences of the rows that are there

The sets: the carried surface_defects and, with --cifar or below the folder FINETUNE_BOOK_REAL_DATA, CIFAR-10. book-resnet,
everything moves, all else as ImageClassifier comes: about 400 steps of 32 pictures. Each policy gets each picture by itself,
in 8 bits, after the crop and the mirror; its strength is torchvision's own. `seconds` are of one core's time, of `fit` alone;
`right` holds a 1 for each test picture answered rightly and a 0 for each other.
"""
import os
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torchvision.transforms import v2

from finetune_book import ImageClassifier
from finetune_book.judge.bootstrap import compare, seed_interval
from finetune_book.vision.augment import Augment

sys.path.insert(0, str(Path(__file__).parent))
from measure_defaults import picture_sets  # noqa: E402
from measure_which_method import TOGETHER  # noqa: E402
from stored import Stored, asking  # noqa: E402

KEY = ["set", "way", "seed"]
COLUMNS = [*KEY, "n_train", "n_test", "accuracy", "seconds", "right"]
SETS, SEEDS = ("surface_defects", "cifar10"), (0, 1, 2)
POLICIES = {"crop and mirror": None, "and RandAugment": "RandAugment", "and AugMix": "AugMix"}


@dataclass(frozen=True)
class WithPolicy(Augment):
    "An Augment after which a policy of torchvision's, by its name, changes each picture by itself."
    policy: str = "RandAugment"

    def __call__(self, xb, yb, n_classes, g):
        xb, yb = super().__call__(xb, yb, n_classes, g)
        change, bytes_ = getattr(v2, self.policy)(), (xb * 255).round().to(torch.uint8)
        return torch.stack([change(x) for x in bytes_]).to(xb.dtype) / 255, yb


def augment(way, size):
    policy = POLICIES[way]
    return Augment(crop=size // 8) if policy is None else WithPolicy(crop=size // 8, policy=policy)


def trained(parts, way, seed):
    "Cells of one training, after its key."
    (x, y), (test, labels) = parts
    model = ImageClassifier(tune="full", seed=seed, augment=augment(way, x.shape[1]), verbose=0)
    begun = time.process_time()
    model.fit(x, y)
    seconds, right = time.process_time() - begun, model.predict(test) == labels
    return len(y), len(labels), f"{right.mean():.5f}", f"{seconds:.1f}", "".join("01"[int(r)] for r in right)


def by_way(rows):
    "{way: {seed: (n,) ones and zeros}} of a set's rows."
    return {way: {row.seed: np.array(list(row.right), dtype=float) for row in some.itertuples()} for way, some in rows.groupby("way", sort=False)}


def told(values): return str(seed_interval(values)) if len(values) > 1 else f"{values[0]:.3f}, one seed"


def table(rows):
    "Mean accuracy with its interval over seeds, a way a line, a set a column; mean processor seconds."
    found = {name: {way: told([r.mean() for r in of.values()]) for way, of in by_way(some).items()} for name, some in rows.groupby("set", sort=False)}
    return pd.DataFrame(found).assign(seconds=rows.groupby("way").seconds.mean().round(1))


def compared(rows):
    "A sentence for each set and policy, against crops and mirrors alone; pictures of one session belong together."
    said, (first, *others) = [], POLICIES
    for name, some in rows.groupby("set", sort=False):
        of, sessions = by_way(some), np.arange(some.n_test.iloc[0]) // TOGETHER.get(name, 1)
        more = dict(groups=sessions, what=f"accuracy on {name}")
        said += [compare(of, first, way, **more) for way in others if len(of.get(way, ())) > 1]
    return said


def main(argv=None):
    real = os.environ.get("FINETUNE_BOOK_REAL_DATA")
    ask = asking(__doc__, "policies.csv", SEEDS)
    ask.add_argument("--cifar", default=real and f"{real}/images/cifar10", help="folder with train and test of CIFAR-10")
    asked = ask.parse_args(argv)
    stored = Stored(asked.out, COLUMNS, KEY)
    sets = {} if asked.table else picture_sets(asked.cifar)
    for seed, name, way in product(asked.seeds, asked.only or SETS, POLICIES):
        if name in sets and not stored.has(name, way, seed): stored.add(name, way, seed, *trained(sets[name], way, seed), told=-1)
    rows = stored.rows()
    print(table(rows).to_string(), *compared(rows), sep="\n")


if __name__ == "__main__":
    main()
