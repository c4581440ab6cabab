"""Measure what lesson 78 (two_stage) says of the help desk: one way and seed a row, written to two_stage.csv as soon as it is done.

    python scripts/measure/measure_two_stage.py               # measures what is missing, some nine minutes on one core, then the table
    python scripts/measure/measure_two_stage.py --table       # the table of the rows that are there

The first stage is the base as it came. The judge learned from the training questions, each with its article and with two wrong ones: those
that the first stage brings first, or such as chance draws; or, balanced, each article has its questions and twice as many others, so that the article
alone says nothing. Asked are the test questions. The balanced way and the column by_article were thought of when the first rows were there.
"""
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from finetune_book.data.retrieval import read_help_desk
from finetune_book.data.tables import carried
from finetune_book.find.negatives import wrong_pairs
from finetune_book.find.searcher import Searcher
from finetune_book.find.two_stage import TwoStage
from finetune_book.judge.bootstrap import compare
from finetune_book.judge.ranking import hit_at, recall_at, reciprocal_rank
from finetune_book.text.pairs import PairClassifier

sys.path.insert(0, str(Path(__file__).parent))
from stored import Stored, asking  # noqa: E402

COLUMNS = ["way", "seed", "recall@1", "recall@10", "mrr", "by_article", "seconds", "right"]
WAYS, SEEDS, EPOCHS, WRONG, AMONG = ("one stage", "two stages", "two stages, chance", "two stages, balanced"), (0, 1, 2), 3, 2, 20


def first_stage(docs): return Searcher(words=False, device="cpu").fit(docs)


class Chance:
    "In the place of a search: documents in an order that the seed draws for each query."
    def __init__(self, ids, seed): self.ids, self.rng = list(ids), np.random.default_rng(seed)
    def search(self, queries, k): return np.array([self.rng.permutation(self.ids)[:k] for _ in queries], dtype=object), None


def balanced_pairs(searcher, task, wrong):
    "Pairs as of wrong_pairs, but for each article that is ever right: its questions and, `wrong` times as many, those others that bring it furthest up."
    ids, _ = searcher.search(list(task.queries.values()), len(task.docs))
    places = {q: {d: place for place, d in enumerate(row)} for q, row in zip(task.queries, ids)}
    pairs, answers = [], []
    for d in task.docs:
        own = [q for q in task.queries if d in task.qrels[q]]
        others = sorted((q for q in task.queries if q not in own), key=lambda q: places[q].get(d, len(task.docs)))[:wrong * len(own)]
        pairs += [(task.queries[q], task.docs[d]) for q in own + others]
        answers += [1] * len(own) + [0] * len(others)
    return pairs, np.array(answers)


def judge(way, seed):
    "The PairClassifier of a way."
    train = read_help_desk("train")
    search = Chance(train.docs, seed) if way.endswith("chance") else first_stage(train.docs)
    pairs = (balanced_pairs if way.endswith("balanced") else wrong_pairs)(search, train, WRONG)
    return PairClassifier(epochs=EPOCHS, seed=seed, verbose=0, device="cpu", precision="float32").fit(*pairs)


def by_article(ids, scores):
    "The share of the variance of scores that their articles explain: 1 where a score does not depend on what is asked."
    told = pd.DataFrame(dict(id=ids.ravel(), score=scores.ravel())).dropna()
    return told.groupby("id").score.transform("mean").var() / told.score.var()


def row_of(finder, desk, k):
    "What a finder does with the questions: recall@1, recall@10, mrr of the first ten, by_article of k, and who is answered rightly."
    ids, scores = finder.search(list(desk.queries.values()), k)
    found = dict(zip(desk.queries, ids[:, :10]))
    one = recall_at(found, desk.qrels, 1)
    means = [v.mean() for v in (one, hit_at(found, desk.qrels, 10), reciprocal_rank(found, desk.qrels))]
    return [*(round(float(v), 4) for v in (*means, by_article(ids, scores)))], "".join("01"[int(v)] for v in one)


def wordings(desk):
    "Of each question its wording: questions of one wording belong together."
    return pd.read_csv(carried("help_desk") / "test.csv").set_index("id").wording.reindex(list(desk.queries)).to_numpy()


def main():
    options = asking(__doc__, "two_stage.csv", SEEDS).parse_args()
    stored, desk = Stored(options.out, COLUMNS, ["way", "seed"]), read_help_desk("test")
    for way in () if options.table else WAYS:
        for seed in options.seeds:
            if stored.has(way, seed): continue
            finder, begun = first_stage(desk.docs), time.perf_counter()
            if way != "one stage": finder = TwoStage(finder, judge(way, seed), AMONG)
            seconds = round(time.perf_counter() - begun, 1)
            values, right = row_of(finder, desk, AMONG)
            stored.add(way, seed, *values, seconds, right, told=7)
    rows = stored.rows()
    print(rows.groupby("way", sort=False)[COLUMNS[2:7]].mean().round(3).to_string())
    hits = {way: {s: np.array(list(r), dtype=float) for s, r in zip(part.seed, part.right)} for way, part in rows.groupby("way")}
    for a, b in (("one stage", "two stages"), ("two stages, chance", "two stages"), ("two stages", "two stages, balanced"), ("one stage", "two stages, balanced")):
        if {a, b} <= hits.keys(): print(compare(hits, a, b, rows="questions", groups=wordings(desk), what="recall@1"))


if __name__ == "__main__": main()
