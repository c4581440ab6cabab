"""Measure what lesson 77 (answer) says of answering: the carried clinic_questions, three seeds, one row for each training and part.

    python scripts/measure/measure_answers.py                          # measures what is missing, some minutes
    python scripts/measure/measure_answers.py --bases all-MiniLM-L6-v2=FOLDER --epochs 6 --lr 2e-4     # another base
    python scripts/measure/measure_answers.py --table                  # the table of the rows that are there

Trained on all training rows for a fixed number of epochs, at a fixed rate; no row stops a training or chooses a state. Thresholds are chosen by who reads the file, on the validation rows. Parts: validation; test; "own words", 40 new passages and
their questions in the wordings of the training rows, from the same generator with seed 1; "exchanged", the test passages, each
asked the question of another, its own drug's name put in. Ways without training: "sentence by words" (TF-IDF), "sentence by
vectors" (cosines of the base as it came). A row holds, for each question in the order of the file, the log-odds of the best span
(or the likeness of the sentence) and in hundredths the exact match and the F1 that its text has.
"""
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from finetune_book.data.sets.clinic_questions import make_clinic_questions, read_clinic_questions
from finetune_book.find.reader import reader_of
from finetune_book.report.questions import nearest_sentences
from finetune_book.tasks.answer import SentenceFloor, answer_scores
from finetune_book.text.answerer import QuestionAnswerer

sys.path.insert(0, str(Path(__file__).parent))
from stored import Stored, asking  # noqa: E402

KEY = ["base", "way", "epochs", "seed", "part"]
COLUMNS = [*KEY, "lr", "seconds", "odds", "exact", "f1"]
SEEDS = [0, 1, 2]
EPOCHS, LR = 12, 4e-4
SETTINGS = dict(tune="full", batch_size=16, max_length=128, stride=32, precision="bfloat16", device="cpu", verbose=0)


def exchanged(rows, seed=0):
    "Each passage with the question of another row, about its own drug."
    order = np.random.default_rng(seed).permutation(len(rows))
    return [replace(row, question=rows[i].question.replace(rows[i].title, row.title)) for row, i in zip(rows, order)]


def parts_of():
    parts = {part: read_clinic_questions(part) for part in ("validation", "test")}
    return parts | {"own words": make_clinic_questions(1, {"train": 40})["train"], "exchanged": exchanged(parts["test"])}


def cells(rows, found):
    "The last three cells of a row; `found` are pairs of text and log-odds."
    texts, odds = zip(*found)
    scores = (" ".join(f"{100 * v:.0f}" for v in values) for values in answer_scores(rows, list(texts)))
    return [" ".join(f"{o:.2f}" for o in odds), *scores]


def by_words(parts):
    floor = SentenceFloor().fit(sorted({r.passage for r in read_clinic_questions("train")}))
    return {part: [floor.best(r.question, r.passage) for r in rows] for part, rows in parts.items()}


def by_vectors(parts, base):
    read = reader_of(base, SETTINGS["max_length"], "cpu")
    return {part: nearest_sentences(read, [r.question for r in rows], [r.passage for r in rows]) for part, rows in parts.items()}


def trained(parts, base, epochs, lr, seed):
    est = QuestionAnswerer(base=base, epochs=epochs, lr=lr, seed=seed, **SETTINGS).fit(read_clinic_questions("train"))
    found = {part: est.spans([r.question for r in rows], [r.passage for r in rows]) for part, rows in parts.items()}
    return {part: [(a.text, a.score) for a in said] for part, said in found.items()}, est.budget_.measured_s


def measure(stored, parts, name, base, told):
    "All ways of a base that are missing."
    def add(of, way, epochs, seed, found, lr="", seconds=0.):
        rows = [[of, way, epochs, seed, part, lr, round(seconds, 1), *cells(parts[part], found[part])] for part in parts]
        stored.add_all(rows, 7)
    if not stored.has("none", "sentence by words", 0, 0, "test"): add("none", "sentence by words", 0, 0, by_words(parts))
    if not stored.has(name, "sentence by vectors", 0, 0, "test"): add(name, "sentence by vectors", 0, 0, by_vectors(parts, base))
    for seed in told.seeds:
        if stored.has(name, "fine-tuned", told.epochs, seed, "test"): continue
        found, seconds = trained(parts, base, told.epochs, told.lr, seed)
        add(name, "fine-tuned", told.epochs, seed, found, told.lr, seconds)


def show(stored):
    "Exact match of the pointed spans on questions that have an answer, and how log-odds part those from the others."
    silent = {part: np.array([not r.answers for r in rows]) for part, rows in parts_of().items()}
    rows = []
    for r in stored.rows().itertuples():
        odds, exact = (np.array(cell.split(), float) for cell in (r.odds, r.exact))
        none = silent[r.part]
        rows.append(dict(base=r.base, way=r.way, epochs=r.epochs, part=r.part, pointed=exact[~none].mean() / 100, knows=roc_auc_score(~none, odds)))
    print(pd.DataFrame(rows).groupby(["base", "way", "epochs", "part"], sort=False).agg(["mean", "min", "max"]).round(3).to_string())


def main():
    ask = asking(__doc__, "answers.csv", SEEDS)
    ask.add_argument("--bases", nargs="+", default=["book-bert"], help="carried names, or NAME=FOLDER")
    ask.add_argument("--epochs", type=int, default=EPOCHS)
    ask.add_argument("--lr", type=float, default=LR)
    told = ask.parse_args()
    stored = Stored(told.out, COLUMNS, KEY)
    for given in () if told.table else told.bases:
        name, _, folder = given.partition("=")
        measure(stored, parts_of(), name, folder or name, told)
    show(stored)


if __name__ == "__main__": main()
