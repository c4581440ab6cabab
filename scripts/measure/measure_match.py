"""Measure what lesson 76 (match) says of the help desk: one way and seed a row, written to a CSV file as soon as it is done.

    python scripts/measure/measure_match.py                   # measures what is missing, about ten minutes, then the table
    python scripts/measure/measure_match.py --table           # the table of the rows that are there

Trained on the training questions that have an article and on the articles, an intent a label; asked are the test questions.
Every way but the first three differs from `trained` in what its name says. Nothing is chosen by the test questions.
"""
import argparse
import time
from pathlib import Path

import pandas as pd

from finetune_book import TextMatcher
from finetune_book.data.retrieval import read_help_desk
from finetune_book.find.searcher import Searcher
from finetune_book.judge.ranking import hit_at, recall_at, reciprocal_rank
from finetune_book.tasks.match import InfoNCE

COLUMNS = ["way", "seed", "recall@1", "recall@10", "mrr", "seconds"]
SEEDS = (0, 1, 2)
EPOCHS = 3
UNTRAINED = {"words": True, "base": False, "base + words": "both"}
TRAINED = {"trained": {}, "batch 8": dict(batch_size=8), "batch 128": dict(batch_size=128), "temperature .2": dict(temperature=.2), "no mask": {}}


class Unmasked(InfoNCE):
    "Each row's partner is the next of its label in the batch; all others of the label are taken as wrong."
    def __call__(self, vectors, labels):
        import torch
        u = torch.nn.functional.normalize(vectors, dim=1)
        z = (u @ u.T / self.temperature).masked_fill(torch.eye(len(u), dtype=torch.bool), -torch.inf)
        same = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
        asks = same.any(1)
        return torch.nn.functional.cross_entropy(z[asks], same[asks].int().argmax(1)) if asks.any() else vectors.sum() * 0


def scores(searcher, desk):
    found = dict(zip(desk.queries, searcher.search(list(desk.queries.values()), 10)[0]))
    values = recall_at(found, desk.qrels, 1), hit_at(found, desk.qrels, 10), reciprocal_rank(found, desk.qrels)
    return [round(float(v.mean()), 4) for v in values]


def matcher(way, seed):
    "A TextMatcher trained on questions and articles."
    desk = read_help_desk("train")
    texts, labels = list(desk.queries.values()), [d for gains in desk.qrels.values() for d in gains]
    answering = sorted(set(labels))
    est = TextMatcher(**dict(epochs=EPOCHS, batch_size=32, seed=seed, verbose=0, device="cpu", precision="float32") | TRAINED[way])
    if way == "no mask":
        make = est._task
        def unmasked(kind=None):
            task = make(kind)
            task.loss = Unmasked(est.temperature)
            return task
        est._task = unmasked
    return est.fit(texts + [desk.docs[d] for d in answering], labels + answering)


def rows_of(way, seed):
    "(way, scores, seconds) of one training, alone and with words; or of a way without training."
    desk, begun = read_help_desk("test"), time.perf_counter()
    if way in UNTRAINED: yield way, scores(Searcher(words=UNTRAINED[way], device="cpu").fit(desk.docs), desk), time.perf_counter() - begun
    else:
        est = matcher(way, seed)
        yield way, scores(Searcher(est, words=False).fit(desk.docs), desk), time.perf_counter() - begun
        if way == "trained": yield "trained + words", scores(Searcher(est, words="both").fit(desk.docs), desk), time.perf_counter() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("data/base_models/match.csv"))
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    done = pd.read_csv(options.out) if options.out.is_file() else pd.DataFrame(columns=COLUMNS)
    for way in () if options.table else (*UNTRAINED, *TRAINED):
        for seed in SEEDS:
            if ((done.way == way) & (done.seed == seed)).any(): continue
            for name, values, seconds in rows_of(way, seed):
                done.loc[len(done)] = [name, seed, *values, round(seconds, 1)]
                print(done.iloc[-1].to_dict(), flush=True)
            done.to_csv(options.out, index=False)
    print(done.groupby("way", sort=False)[COLUMNS[2:]].mean().round(3).to_string())


if __name__ == "__main__": main()
