"""Measure what lesson 67 (adversarial) says of training against small changes: one training a row, written to a CSV file as
soon as it is done.

    python scripts/measure/measure_adversarial.py             # measures what is missing, then the table
    python scripts/measure/measure_adversarial.py --table     # the table of the rows that are there

Texts: 5 clinic notes a class from the training rows, 5 passes of 10 at once, judged on 60 of the validation rows; `virtual` also
reads 100 training notes without their labels. Pictures: 16 of scikit-learn's digits a class, 6 passes of 16 at once, judged on 100
others. All moves. A row holds the accuracy on what is judged as it is (clean), with random changes of the training's radius
(noise), under a gradient attack of more steps than any training used, with 2 restarts (strong; far: at half as much again, of
pictures), and for texts with the worst of 4 tries of 2 typing errors or 2 exchanged pairs of words. No test row is read.
"""
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from finetune_book import ImageClassifier, TextClassifier
from finetune_book.adapt.adversarial import robust_score, worst_texts
from finetune_book.data.tables import read_splits

sys.path.insert(0, str(Path(__file__).parent))
from stored import Stored, asking  # noqa: E402

COLUMNS = ["set", "seed", "way", "attack", "accuracy", "seconds"]
TEXT_EPS, PICTURE_EPS = .1, "16/255"
TEXT_WAYS = {"plain": None, "noise": f"noise(eps={TEXT_EPS})", "fgm": f"fgm(eps={TEXT_EPS})", "pgd": f"pgd(eps={TEXT_EPS}, steps=2)",
             "free": f"free(eps={TEXT_EPS}, replays=2)", "virtual": f"virtual(eps={TEXT_EPS})"}
PICTURE_WAYS = {"plain": None, "noise": f"noise(eps={PICTURE_EPS})", "fgsm": f"fgsm(eps={PICTURE_EPS})",
                "pgd": f"pgd(eps={PICTURE_EPS}, steps=2)", "free": f"free(eps={PICTURE_EPS}, replays=2)"}


def drawn(labels, seed, each):
    "Numbers of `each` rows of each class."
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:each] for c in sorted(set(labels))])


def texts(seed):
    splits = read_splits("clinic_notes", group="patient")
    train, held = splits["train"], splits["validation"].iloc[:60]
    rows = drawn(train.label.to_numpy(), seed, 5)
    rest = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(train)), rows))[:100]
    return (train.text.iloc[rows].tolist(), train.label.iloc[rows].to_numpy()), (held.text.tolist(), held.label.to_numpy()), \
        train.text.iloc[rest].tolist()


def pictures(seed):
    x, y = load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    rows = drawn(y, seed, 16)
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(y)), rows))[:100]
    return (x[rows], y[rows]), (x[others], y[others]), None


SETS = {"clinic_notes": (texts, TextClassifier, TEXT_WAYS, TEXT_EPS, dict(epochs=5, batch_size=10, max_length=32, precision="float32")),
        "digits": (pictures, ImageClassifier, PICTURE_WAYS, PICTURE_EPS, dict(epochs=6, batch_size=16))}


def attacks(name, eps):
    "Attack → function of an estimator, examples and labels, that gives the accuracy left."
    def by(word, restarts=1): return lambda est, X, y: robust_score(est, X, y, word, restarts)
    found = {"clean": lambda est, X, y: est.score(X, y), "noise": by(f"noise(eps={eps})"), "strong": by(f"pgd(eps={eps}, steps=5)", 2)}
    if name != "clinic_notes": return found | {"far": by("pgd(eps=24/255, steps=8)", 2)}
    def mistaken(change): return lambda est, X, y: est.score(worst_texts(est, X, y, change, edits=2, tries=4), y)
    return found | {change: mistaken(change) for change in ("typo", "swap")}


def fitted(name, seed, way):
    "(estimator, what is judged, seconds) of one training."
    read, estimator, ways, _, settings = SETS[name]
    (x, y), held, rest = read(seed)
    own = settings | (dict(epochs=max(1, settings["epochs"] // 2)) if way == "free" else {})      # as many steps as the others
    begun = time.process_time()
    est = estimator(tune="full", seed=seed, verbose=0, adversarial=ways[way], **own)
    est.fit(x, y, unlabelled=rest if way == "virtual" else None)
    return est, held, time.process_time() - begun


def measure(told, stored):
    for seed in told.seeds:
        for name, (_, _, ways, eps, _) in SETS.items():
            for way in ways:
                if told.only and name not in told.only or told.ways and way not in told.ways: continue
                if stored.has(name, seed, way): continue
                est, held, took = fitted(name, seed, way)
                left = {attack: of(est, *held) for attack, of in attacks(name, eps).items()}
                stored.add_all([(name, seed, way, attack, f"{accuracy:.4f}", f"{took:.1f}") for attack, accuracy in left.items()])


def table(rows):
    "A line a way and set, a column an attack: the mean accuracy over seeds."
    return rows.pivot_table("accuracy", ["set", "way"], "attack", sort=False).round(3)


def main():
    ask = asking(__doc__, "adversarial.csv", (20, 21, 22))
    ask.add_argument("--ways", nargs="+")
    told = ask.parse_args()
    stored = Stored(told.out, COLUMNS, COLUMNS[:3])
    if not told.table: measure(told, stored)
    print(table(stored.rows()))


if __name__ == "__main__": main()
