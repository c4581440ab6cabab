"""What text augmentation does to labels and to accuracy: lesson 65 (text_augment).

    python scripts/measure/measure_text_augment.py            # measures what is missing, then the tables
    python scripts/measure/measure_text_augment.py --table    # the tables of the rows that are there

`text_augment_labels.csv`: book-bert tuned on 2,000 carried training notes without augmentation is the judge. Each way makes a copy of each
of 600 validation notes, three times with other random numbers (`seed`); kept has a 1 where the judge answers the copy as the note itself, a 0
where it does not, and a - for notes that it answers wrongly; changed is the mean share of words that are not where they were.
"deletion, no word kept" and the like touch any word, at a rate that changes as many words as the way with kept words does. "negations
deleted" takes away all words of negation of a note, "words that turn deleted" all of `KEPT`, and "as many free words" the same number of
others, drawn at random; notes without such words have a - as well.

`text_augment.csv`: `rows` notes a class are drawn for each seed; book-bert, the highest layer and the head move, else default settings, each way alike; accuracy on the
first 600 carried test notes, and a 1 or 0 for each of them in `right`. A (rows, way, seed) is one row of the file; rows that are there are not
measured again; with 32 notes a class synonyms and deletion alone are there so far. Nothing was chosen on these numbers: the strengths are those that the words have. All in bfloat16 with all shortcuts, for speed.
"""
import argparse
import difflib
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from finetune_book import TextClassifier
from finetune_book.data.splits import few_per_class
from finetune_book.data.tables import carried, read_table
from finetune_book.text.augment import KEPT, NEGATIONS, Guesser, TextAugment, cut_words, delete_words, free_places
from finetune_book.text.bases import load_text_base

LENGTH, FAST = 64, dict(precision="bfloat16", shortcuts="all", verbose=0)
WAYS = {"none": "none", "synonyms": "synonyms", "masking": "masking", "deletion": "deletion", "mixup": "mixup"}
JUDGED = ("synonyms", "insertion", "masking", "swap", "deletion")
TARGETS = {"negations": NEGATIONS, "words that turn": KEPT}


def notes(part): return read_table(carried("clinic_notes") / f"{part}.csv")


def append(path, columns, row):
    new = not path.exists()
    with open(path, "a", encoding="utf-8") as file:
        if new: file.write(",".join(columns) + "\n")
        file.write(",".join(f'"{v}"' if "," in str(v) else str(v) for v in row) + "\n")
    print(*(str(v)[:40] for v in row), flush=True)


def read_rows(path): return pd.read_csv(path, dtype={"right": str, "kept": str}) if path.exists() else pd.DataFrame(columns=["way", "seed", "rows", "rate"])


def bits(values): return "".join(str(int(v)) for v in values)


# --- does the label stay? ---------------------------------------------------------------------------------------------

def changed(texts, copies):
    "Mean share of a note's words that are not where they were, or another."
    def apart(a, b): return 1 - difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
    return float(np.mean([apart(cut_words(a)[1], cut_words(b)[1]) for a, b in zip(texts, copies)]))


def copies_of(way, rate, protect, texts, seed, guesser):
    return TextAugment(**{way: rate}, protect=protect)(texts, np.random.default_rng([seed, 65]), guesser)


def matched_rate(way, texts, target, guesser):
    "The rate at which a way that may touch any word changes as much as `target`."
    low, high = 0., .3
    for _ in range(7):
        rate = (low + high) / 2
        if changed(texts, copies_of(way, rate, False, texts, 0, guesser)) < target: low = rate
        else: high = rate
    return round(rate, 4)


def without(texts, target, instead, rng):
    "Texts without their words of `target`; or without as many free words instead. None for a text without such words."
    copies = []
    for text in texts:
        words = cut_words(text)[1]
        places, free = [i for i, w in enumerate(words) if w.lower() in target], free_places(words)
        if instead: places = rng.choice(free, min(len(places), len(free)), replace=False).tolist()
        copies.append(delete_words(text, places) if places else None)
    return copies


def kept_by(judge, said, labels, copies):
    "For each note 1 or 0, whether the judge answers its copy as the note; - where it answers the note wrongly, or there is no copy."
    now = judge.predict([c or "-" for c in copies])
    return "".join("-" if c is None or s != y else str(int(n == s)) for c, s, y, n in zip(copies, said, labels, now))


def judge_targets(out, judge, said, labels, texts, columns):
    for name, target in TARGETS.items():
        for seed in range(3):
            for instead, way in ((False, f"{name} deleted"), (True, f"as many free words as {name}")):
                done = read_rows(out)
                if ((done.way == way) & (done.seed == seed)).any(): continue
                copies = without(texts, target, instead, np.random.default_rng([seed, 66]))
                share = changed(*zip(*[(t, c) for t, c in zip(texts, copies) if c]))
                append(out, columns, [way, 1, seed, f"{share:.4f}", kept_by(judge, said, labels, copies)])


def judge_labels(out):
    train, texts = notes("train"), notes("validation").text.tolist()[:600]
    labels, guesser = notes("validation").label.to_numpy(str)[:600], None
    columns = "way,rate,seed,changed,kept".split(",")
    judge = TextClassifier(max_length=LENGTH, epochs=2, seed=0, **FAST).fit(train.text.tolist()[:2000], train.label.to_numpy(str)[:2000])
    said = judge.predict(texts)
    judge_targets(out, judge, said, labels, texts, columns)
    guesser = Guesser(*load_text_base("book-bert", 10), train.text.tolist()[:500], max_length=LENGTH)
    for seed in range(3):
        for way in JUDGED:
            rate, done = .1, read_rows(out)
            if sum(w.partition(",")[0] == way for w in done[done.seed == seed].way) == 2: continue
            for protect in (True, False):
                name = way + ("" if protect else ", no word kept")
                if not protect: rate = matched_rate(way, texts, target, guesser)
                copies = copies_of(way, rate, protect, texts, seed, guesser)
                share = changed(texts, copies)
                if protect: target = share
                if not ((done.way == name) & (done.seed == seed)).any(): append(out, columns, [name, rate, seed, f"{share:.4f}", kept_by(judge, said, labels, copies)])


# --- does it pay? -----------------------------------------------------------------------------------------------------

def measure(out, told):
    train, test = notes("train"), notes("test").iloc[:600]
    for rows in told.rows:
        for seed in told.seeds:
            few = train.iloc[few_per_class(train.label, rows, seed=seed)]
            for way, spec in WAYS.items():
                done = read_rows(out)
                if ((done.way == way) & (done.seed == seed) & (done.rows == rows)).any() or told.only and way not in told.only: continue
                begun = time.process_time()
                model = TextClassifier(max_length=LENGTH, tune="top-1", seed=seed, augment=spec, **FAST).fit(few.text.tolist(), few.label.to_numpy(str))
                right = model.predict(test.text.tolist()) == test.label.to_numpy(str)
                append(out, "rows,way,seed,accuracy,seconds,right".split(","),
                       [rows, way, seed, f"{right.mean():.4f}", f"{time.process_time() - begun:.0f}", bits(right)])


def tables(labels, gains):
    labels["share"] = [np.mean([c == "1" for c in kept if c != "-"]) for kept in labels.kept]
    print(labels.groupby("way", sort=False)[["rate", "changed", "share"]].mean().to_string(), "\n")
    print(gains.pivot_table(index="way", columns="rows", values="accuracy", sort=False).to_string(float_format="{:.3f}".format))


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2)); ask.add_argument("--rows", type=int, nargs="+", default=(8, 32))
    ask.add_argument("--only", nargs="+"); ask.add_argument("--table", action="store_true")
    ask.add_argument("--out", type=Path, default=Path("data/base_models"))
    told = ask.parse_args()
    labels, gains = told.out / "text_augment_labels.csv", told.out / "text_augment.csv"
    warnings.filterwarnings("ignore")
    if not told.table:
        measure(gains, told)
        judge_labels(labels)
    tables(read_rows(labels), read_rows(gains))


if __name__ == "__main__":
    main()
