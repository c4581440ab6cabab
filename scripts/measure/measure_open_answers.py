"""Measure what lesson 77 (answer) says of passages that must be found first: clinic_questions, three seeds, a row for each passage read.

    python scripts/measure/measure_open_answers.py                    # measures what is missing: nine trainings, an hour
    python scripts/measure/measure_open_answers.py --table            # the table of the rows that are there, and paired differences

Settings, epochs and rate are those of measure_answers.py; no row stops a training or chooses a state. Ways: trained on the "right passages" alone,
"with wrong ones" (`with_wrong_passages`, found by words among the training passages), and "right ones longer", which takes as many steps as these.
The passages of all parts are searched by words, for the questions of validation and test. A row holds one place: "given", the question's own
passage, or 1 to 5, that found first to fifth. In it, for each question in the order of the file, the log-odds of the passage's best span, in
hundredths the F1 that its text has, and whether the passage is the question's own.
"""
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from finetune_book.data.sets.clinic_questions import PASSAGES, read_clinic_questions
from finetune_book.find.searcher import Searcher
from finetune_book.judge.bootstrap import compare
from finetune_book.tasks.answer import answer_scores, choose_threshold
from finetune_book.text.answerer import QuestionAnswerer, read_found, with_wrong_passages

sys.path.insert(0, str(Path(__file__).parent))
from measure_answers import EPOCHS, LR, SEEDS, SETTINGS  # noqa: E402
from stored import Stored, asking  # noqa: E402

KEY = ["way", "seed", "part", "place"]
COLUMNS = [*KEY, "rows", "epochs", "seconds", "odds", "f1", "own"]
RIGHT, WRONG, LONGER = "right passages", "with wrong ones", "right ones longer"
MOST, PARTS = 5, ("validation", "test")


def shelf_of_all(): return {r.title: r.passage for part in PASSAGES for r in read_clinic_questions(part)}


def of_way(way):
    "Training rows and epochs of a way."
    rows = read_clinic_questions("train")
    more = with_wrong_passages(rows, Searcher(words=True))
    return {RIGHT: (rows, EPOCHS), WRONG: (more, EPOCHS), LONGER: (rows, round(EPOCHS * len(more) / len(rows)))}[way]


def cells(rows, spans):
    "The last three cells of a row; a span is None where nothing was left to find."
    f1 = answer_scores(rows, [a.text if a else "" for a in spans])[1]
    own = [bool(a) and a.source == row.title for row, a in zip(rows, spans)]
    return [" ".join(f"{a.score if a else -np.inf:.2f}" for a in spans), " ".join(f"{100 * v:.0f}" for v in f1), " ".join(f"{v:d}" for v in own)]


def measure(stored, way, seed):
    "One training, read at all places."
    rows, epochs = of_way(way)
    est = QuestionAnswerer(epochs=epochs, lr=LR, seed=seed, **SETTINGS).fit(rows)
    shelf, lines = shelf_of_all(), []
    finder = Searcher(words=True).fit(shelf)
    for part in PARTS:
        asked = read_clinic_questions(part)
        questions = [r.question for r in asked]
        found = read_found(est, questions, shelf, finder.search(questions, MOST)[0])
        places = {"given": [a[0] for a in read_found(est, questions, shelf, [[r.title] for r in asked])]}
        places |= {str(k + 1): [a[k] if len(a) > k else None for a in found] for k in range(MOST)}
        for place, spans in places.items():
            lines.append([way, seed, part, place, len(rows), epochs, round(est.budget_.measured_s, 1), *cells(asked, spans)])
    stored.add_all(lines, 7)


def numbers(cells): return np.array([cell.split() for cell in cells], dtype=float)


def best(rows, way, seed, part, k):
    "(log-odds, F1, in its own passage) of the best span of the first k passages, (n,) each; of the one given for k=\"given\"."
    places = ["given"] if k == "given" else [str(i + 1) for i in range(k)]
    of = rows[(rows.way == way) & (rows.seed == seed) & (rows.part == part)].set_index("place").loc[places]
    odds, f1, own = (numbers(of[name]) for name in ("odds", "f1", "own"))
    first = odds.argmax(0), np.arange(odds.shape[1])
    return odds[first], f1[first] / 100, own[first] > 0


def judged(rows, way, seed, k, none):
    "Scores of the validation and the test questions at the threshold of validation: F1, given (n,), and what is right of the best spans."
    cut, told = None, {}
    for part in PARTS:
        odds, f1, own = best(rows, way, seed, part, k)
        if cut is None: cut = choose_threshold(odds, f1, none[part].astype(float))
        told[part] = dict(f1=np.where(odds > cut, f1, none[part]), given=odds > cut, own=own, pointed=f1)
    return told


def show(rows):
    asked = {part: read_clinic_questions(part) for part in PARTS}
    none = {part: np.array([not r.answers for r in asked[part]]) for part in PARTS}
    lines, scores = [], {}
    for way in dict.fromkeys(rows.way):
        for k in ("given", 1, 2, 3, 5):
            for seed in dict.fromkeys(rows[rows.way == way].seed):
                for part, s in judged(rows, way, seed, k, none).items():
                    empty = none[part]
                    lines.append(dict(part=part, way=way, read=str(k), f1=s["f1"].mean(), false=s["given"][empty].mean(), missed=(~s["given"])[~empty].mean(),
                                      own=s["own"][~empty].mean(), pointed=s["pointed"][~empty].mean()))
                    scores.setdefault(part, {}).setdefault(f"{way}, {k} read", {})[seed] = s["f1"]
    print(pd.DataFrame(lines).groupby(["part", "way", "read"], sort=False).mean().round(3).to_string())
    groups = {part: np.array([r.title for r in asked[part]]) for part in PARTS}
    for part in PARTS:
        for a, b in ((f"{RIGHT}, 1 read", f"{RIGHT}, 3 read"), (f"{RIGHT}, 3 read", f"{WRONG}, 3 read"), (f"{RIGHT}, 1 read", f"{WRONG}, 3 read"),
                     (f"{RIGHT}, 1 read", f"{WRONG}, 1 read"), (f"{WRONG}, 1 read", f"{WRONG}, 3 read"), (f"{LONGER}, 3 read", f"{WRONG}, 3 read")):
            if {a, b} <= scores[part].keys() and len(scores[part][a]) == len(scores[part][b]):
                print(f"{part}:", compare(scores[part], a, b, groups=groups[part], rows=f"{part} questions", what="F1"))


def main():
    ask = asking(__doc__, "open_answers.csv", SEEDS)
    told = ask.parse_args()
    stored = Stored(told.out, COLUMNS, KEY)
    if not told.table:
        for way in told.only or (RIGHT, WRONG, LONGER):
            for seed in told.seeds:
                if not stored.has(way, seed, "test", "given"): measure(stored, way, seed)
    rows = stored.rows(dtype=dict(place=str))
    if len(rows): show(rows)


if __name__ == "__main__": main()
