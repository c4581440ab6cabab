"""Measure a search for pictures of the same class, for lesson 76 (match): floors, the base as it came, a base tuned on few pictures; writes image_search.csv.

    python scripts/measure/measure_image_search.py            # measures what is missing, five minutes of one core, then the table
    python scripts/measure/measure_image_search.py --table    # measures nothing, shows the means and the paired differences

The sets are the carried surface_defects and, with --cifar or below the folder FINETUNE_BOOK_REAL_DATA, CIFAR-10. Of the training pictures each seed
draws 32 of each class to learn from, and of the others up to 60 of each class to be searched; the queries are up to 40 test pictures of each class,
the same for all seeds. A picture of the query's class is right. book-resnet has learned from CIFAR-10's pictures, so there "as it came" is no base
that never saw them. `pixels` is the cosine of the pictures as rows of numbers, `colours` that of
histograms of 4 x 4 x 4 colours, both without training. `fine-tuned` is an ImageClassifier whose whole body learned (tune="full"; with "head" the
vectors would stay those of the base), all else as it comes. Nothing was chosen by the test pictures.
`right` holds for each query a 1 if its first picture is right, and `ten` how many of its first ten are, X for all of them;
`nearest` holds the row numbers, among the training pictures, of the first five for the first query of each class in alphabetical order.
"""
import itertools
import os
import sys
import time
from pathlib import Path

import numpy as np

from finetune_book import ImageClassifier
from finetune_book.data.sets import surface_defects
from finetune_book.find.ranked import cosines, first_of, lots_of
from finetune_book.find.reader import reader_of, unit
from finetune_book.judge.bootstrap import compare

sys.path.insert(0, str(Path(__file__).parent))
from measure_defaults import drawn, picture_sets  # noqa: E402
from stored import BASE_MODELS, Stored, asking  # noqa: E402

PLACE = BASE_MODELS / "image_search.csv"
COLUMNS, KEY = ["set", "way", "seed", "n_docs", "n_queries", "recall@1", "precision@10", "seconds", "right", "ten", "nearest"], ["set", "way", "seed"]
SETS, SEEDS = ("surface_defects", "cifar10"), (0, 1, 2)
LEARNED, SEARCHED, ASKED, TALLY = 32, 60, 40, "0123456789X"


def pixels(x): return unit(np.reshape(x, (len(x), -1)).astype(np.float32))


def colours(x):
    "Histograms of 64 colours, (n, 64) float32 of length 1."
    cells = (x // 64).astype(int) @ [16, 4, 1]
    return unit(np.stack([np.bincount(one.ravel(), minlength=64) for one in cells]).astype(np.float32))


def tuned(seed): return lambda x, y: reader_of(ImageClassifier(tune="full", seed=seed, verbose=0, device="cpu", precision="float32").fit(x, y))


# the ways: seed -> (pictures, labels to learn from) -> what makes unit vectors of pictures
WAYS = {"pixels": lambda seed: lambda x, y: pixels, "colours": lambda seed: lambda x, y: colours,
        "base as it came": lambda seed: lambda x, y: reader_of("book-resnet", device="cpu"), "fine-tuned": tuned}
PAIRS = [("pixels", "base as it came"), ("colours", "base as it came"), ("base as it came", "fine-tuned"), ("colours", "fine-tuned")]


def shares(labels, seed):
    "Row numbers to learn from, and of the others those to be searched."
    few = drawn(labels, LEARNED, seed)
    others = np.setdiff1d(np.arange(len(labels)), few)
    return few, others[drawn(labels[others], SEARCHED, seed)]


def row_of(scores, wanted, labels, rows):
    "What is stored of a way: means over the queries, whether the first is right, how many of ten, and which the first five are; rows are the searched ones."
    found = first_of(scores, lots_of(range(len(labels))), 10)[0]
    right, shown = labels[found] == wanted[:, None], rows[found[np.unique(wanted, return_index=True)[1], :5]]
    texts = "".join("01"[int(r)] for r in right[:, 0]), "".join(TALLY[n] for n in right.sum(1)), ";".join(" ".join(map(str, five)) for five in shown)
    return [round(float(right[:, 0].mean()), 4), round(float(right.mean()), 4), *texts]


def measure_one(stored, name, parts, way, seed):
    if stored.has(name, way, seed): return
    (x, y), (test, wanted) = parts
    few, searched = shares(y, seed)
    asked, begun = drawn(wanted, ASKED, 0), time.process_time()
    read = WAYS[way](seed)(x[few], y[few])
    seconds = round(time.process_time() - begun, 1)
    one, ten, *texts = row_of(cosines(read(test[asked]), read(x[searched])), wanted[asked], y[searched], searched)
    stored.add(name, way, seed, len(searched), len(asked), one, ten, seconds, *texts, told=8)


def by_seed(rows, measure):
    "{way: {seed: (n,) values of the queries}} of a set's rows; measure is a column, recall@1 or precision@10."
    def values(row): return np.array([int(c) for c in row.right], float) if measure == "recall@1" else np.array([TALLY.index(c) / 10 for c in row.ten])
    return {way: {row.seed: values(row) for row in some.itertuples()} for way, some in rows.groupby("way", sort=False)}


def sessions(name):
    "The session of each query of surface_defects, whose pictures have their light in common; None for another set."
    if name != "surface_defects": return None
    table = surface_defects.load("test")[1]
    return table.session.to_numpy(str)[drawn(table.label.to_numpy(str), ASKED, 0)]


def compared(rows):
    "The sentences on each set."
    found = [(name, measure, by_seed(some, measure)) for name, some in rows.groupby("set", sort=False) for measure in ("recall@1", "precision@10")]
    return [compare(of, *pair, rows="queries", groups=sessions(name), what=f"{measure} on {name}")
            for name, measure, of in found for pair in PAIRS if set(pair) <= of.keys()]


def main(argv=None):
    real = os.environ.get("FINETUNE_BOOK_REAL_DATA")
    ask = asking(__doc__, PLACE.name, SEEDS)
    ask.add_argument("--cifar", default=real and f"{real}/images/cifar10", help="folder with train and test of CIFAR-10")
    asked = ask.parse_args(argv)
    stored = Stored(asked.out, COLUMNS, KEY)
    if not asked.table:
        sets = {name: parts for name, parts in picture_sets(asked.cifar).items() if name in (asked.only or SETS)}
        for seed, (name, parts), way in itertools.product(asked.seeds, sets.items(), WAYS): measure_one(stored, name, parts, way, seed)
    rows = stored.rows(dtype=dict(right=str, ten=str))
    print(rows.groupby(["set", "way"], sort=False)[COLUMNS[5:8]].mean().round(3).to_string(), *compared(rows), sep="\n")


if __name__ == "__main__":
    main()
