"""Measure whether what makes a text training fast costs accuracy: ours in each precision and by each shortcut beside
transformers' Trainer, on real sets, one training a row, written to a CSV file as soon as it is done.

    python scripts/measure/measure_speed_accuracy.py            # measures what is missing, then the table
    python scripts/measure/measure_speed_accuracy.py --table    # the table of the rows that are there

The sets lie below the folder FINETUNE_BOOK_REAL_DATA (or --texts), one folder a set with train.csv and test.csv of
text,label; the medical abstracts are read to 32 tokens, and twice, for time. The carried clinic_notes, which are made up,
stand beside them with the rows, epochs, rate and length of the text report, ours alone; they are not among `all sets`.
The seed draws the training texts, the first weights of the head, the order of the batches and the dropout;
all ways of one seed begin with the same texts and the same weights. The test texts are drawn once. Epochs, rate, batch
and length are the same for all; what else there is to set each leaves at its own default: ours decays weights by .01
and warms up for a tenth of the steps, the Trainer does neither. The Trainer is the contestant of `make bench` and needs
accelerate. `right` holds a 1 for each test text answered rightly and a 0 for each other.
"""
import argparse
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from finetune_book import TextClassifier
from finetune_book.data.tables import carried, read_table
from finetune_book.judge.bootstrap import compare, seed_interval
from finetune_book.text.bases import load_text_base

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from against import prepare  # noqa: E402
from against.text import HFTrainer  # noqa: E402

SETS = {"uci_sentences": dict(epochs=3, max_length=64), "sst2": dict(epochs=3, max_length=64),
        "medical_abstracts": dict(epochs=2, max_length=32)}
BESIDE = {"clinic_notes": dict(epochs=3, max_length=96, lr=2e-4)}                        # carried, by three ways of ours
N_TRAIN, N_TEST, SEEDS, ROWS = 320, 1000, (0, 1, 2, 3, 4), {"clinic_notes": 640}
BASE, SAME = "book-bert", dict(lr=3e-4, batch_size=16)
COLUMNS = ["set", "way", "seed", "n_train", "n_test", "accuracy", "seconds", "settings", "right"]
PLACE = ROOT / "data" / "base_models" / "speed_accuracy.csv"


# --- the ways: name -> (who, settings) --------------------------------------------------------------------------------

OURS = {"ours, float32": dict(precision="float32", shortcuts="table"),
        "ours, float32, all shortcuts": dict(precision="float32", shortcuts="all"),
        "ours, bfloat16": dict(precision="bfloat16", shortcuts="table"),
        "ours, bfloat16, all shortcuts": dict(precision="bfloat16", shortcuts="all")}
THEIRS = {"HF Trainer": {}, "HF Trainer, group_by_length, bf16": dict(best=True)}
WAYS = (*OURS, *THEIRS)
WAYS_BESIDE = ("ours, float32", "ours, bfloat16", "ours, bfloat16, all shortcuts")
# What is compared, the first taken from the second.
AGAINST = [*itertools.product(OURS, THEIRS), ("ours, float32, all shortcuts", "ours, float32"),
           ("ours, bfloat16", "ours, float32"), ("ours, bfloat16, all shortcuts", "ours, float32")]


def answers_of_ours(train, texts, seed, settings):
    model = TextClassifier(base=BASE, tune="full", seed=seed, verbose=0, **settings)
    return model.fit(list(train.text), train.label.to_numpy(str)).predict(texts)


def answers_of_theirs(train, texts, seed, settings):
    "The base with the head that ours begins with, as a folder; then as the benchmark trains it."
    with tempfile.TemporaryDirectory() as folder:
        work, classes = Path(folder), sorted(set(train.label))
        for part in load_text_base(BASE, len(classes), labels=classes, seed=seed): part.save_pretrained(work / prepare.BASE)
        prepare.write(work / "train.json", dict(texts=list(train.text), labels=list(train.label)))
        prepare.write(work / "held.json", dict(texts=[], labels=[]))
        model = HFTrainer(dict(work=folder, n=len(train), seed=seed, **settings))
        model.round()
        return model.predict(texts)


# --- rows ---------------------------------------------------------------------------------------------------------------

def drawn(frame, n, seed):
    "n rows of a table, or all of a shorter one."
    return frame.iloc[np.random.default_rng(seed).permutation(len(frame))[:n]]


def rows_of(folder, name, seed):
    "(training rows of a seed, test rows), tables of text and label."
    place = carried(name) if name in BESIDE else Path(folder) / name
    train, test = (read_table(place / f"{part}.csv") for part in ("train", "test"))
    return drawn(train, ROWS.get(name, N_TRAIN), seed), drawn(test, N_TEST, 0)


def known(out): return pd.read_csv(out, dtype=dict(right=str)) if out.exists() else pd.DataFrame(columns=COLUMNS)


def told(settings): return " ".join(f"{k}={v}" for k, v in settings.items())


def measure_one(out, folder, name, way, seed):
    rows = known(out)
    if ((rows["set"] == name) & (rows.way == way) & (rows.seed == seed)).any(): return
    train, test = rows_of(folder, name, seed)
    begun, settings = time.process_time(), SAME | (SETS | BESIDE)[name] | (OURS | THEIRS)[way]
    answers = (answers_of_ours if way in OURS else answers_of_theirs)(train, list(test.text), seed, settings)
    seconds, right = time.process_time() - begun, np.asarray(answers, dtype=str) == test.label.to_numpy(str)
    line = [name, way, seed, len(train), len(test), round(right.mean(), 5), round(seconds, 1), told(settings), "".join("01"[int(r)] for r in right)]
    pd.DataFrame([line], columns=COLUMNS).to_csv(out, mode="a", header=not out.exists(), index=False, lineterminator="\n")
    print(*line[:-1], flush=True)


# --- the table ----------------------------------------------------------------------------------------------------------

def by_seed(rows):
    "{way: {seed: (n,) ones and zeros}} of a set's rows, of the seeds that every way has."
    found = {way: {row.seed: np.array(list(row.right), dtype=float) for row in some.itertuples()} for way, some in rows.groupby("way")}
    shared = set.intersection(*(set(of) for of in found.values())) if found else set()
    return {way: {seed: of[seed] for seed in sorted(shared)} for way, of in found.items()}


def together(sets):
    "The same of all sets: of each seed the test rows of one set after those of another."
    ways = [way for way in WAYS if all(way in of for of in sets)]
    seeds = sorted(set.intersection(*(set(of[way]) for of in sets for way in ways))) if ways else []
    return {way: {seed: np.concatenate([of[way][seed] for of in sets]) for seed in seeds} for way in ways}


def results(rows):
    "{set, or 'all sets': {way: {seed: (n,)}}}"
    found = {name: by_seed(rows[rows["set"] == name]) for name in SETS | BESIDE if (rows["set"] == name).any()}
    real = [of for name, of in found.items() if name in SETS]
    return found | ({"all sets": together(real)} if len(real) > 1 else {})


def table(rows):
    "Mean accuracy with its interval over seeds: a way a line, a set a column."
    def cell(of): return str(seed_interval([right.mean() for right in of.values()])) if len(of) > 1 else ""
    return pd.DataFrame({name: {way: cell(of[way]) for way in WAYS if way in of} for name, of in results(rows).items()})


def compared(rows):
    "(set, way, other way, what `compare` finds) of each set and each pair of AGAINST that was measured."
    return [(name, a, b, compare(of, b, a, what=f"accuracy on {name}")) for name, of in results(rows).items()
            for a, b in AGAINST if {a, b} <= of.keys() and of[a]]


def below(rows):
    "(set, way of ours, way of the Trainer) wherever ours is below, outside both intervals."
    def clear(found): return all(i is not None and i.high < 0 for i in found[:2])
    return [(name, a, b) for name, a, b, found in compared(rows) if b in THEIRS and clear(found)]


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--texts", default=f"{os.environ.get('FINETUNE_BOOK_REAL_DATA', '.')}/text")
    ask.add_argument("--sets", nargs="+", choices=SETS | BESIDE, default=list(SETS | BESIDE)); ask.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    ask.add_argument("--seeds", type=int, nargs="+", default=SEEDS); ask.add_argument("--out", type=Path, default=PLACE)
    ask.add_argument("--table", action="store_true")
    asked = ask.parse_args()
    if not asked.table:
        for seed, name, way in itertools.product(asked.seeds, asked.sets, asked.ways):
            if name in SETS or way in WAYS_BESIDE: measure_one(asked.out, asked.texts, name, way, seed)
    rows = known(asked.out)
    print(table(rows).to_string(), *(found for *_, found in compared(rows)), f"clearly below the Trainer: {below(rows) or 'none'}", sep="\n")


if __name__ == "__main__":
    main()
