"""Measure what each setting of matching does, for lesson 76 (match): one change at a time, three seeds; writes match_controls.csv.

    python scripts/measure/measure_negatives.py --real DIR    # DIR has text/banking77/train.csv; two minutes on one core
    python scripts/measure/measure_negatives.py --table       # measures nothing, shows the means and the paired differences

Drawn from banking77's training questions, its test questions are not read: 10 of each of 77 intents are the queries, the same for all seeds; of
the others each seed draws 16 of each to be learned from and searched. The base stays as it is and is read once: what learns is a linear map of
its vectors, from the identity on, with the lesson's loss and batches, which takes a second. Every way but `base` differs from `trained` in what
its name says; all see the same texts equally often.
"""
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch

from finetune_book.find.negatives import nearest_others, near_wrong
from finetune_book.find.ranked import cosines
from finetune_book.find.reader import reader_of
from finetune_book.find.searcher import Searcher
from finetune_book.judge.bootstrap import compare
from finetune_book.tasks.match import InfoNCE, hard_batches, paired_batches, unit_rows

sys.path.insert(0, str(Path(__file__).parent))
from measure_match import Unmasked  # noqa: E402
from measure_search import banking, row_of, some_of  # noqa: E402
from stored import Stored, asking  # noqa: E402

COLUMNS = ["way", "seed", "recall@1", "hit@10", "hubness", "seconds", "right"]
PER_CLASS, ASKED, EPOCHS, RATE, SEEDS = 16, 10, 5, 1e-3, (0, 1, 2)
USUAL = dict(size=32, temperature=.05, loss=InfoNCE)


CHANGES = {"trained": {}, "batch 8": dict(size=8), "batch 128": dict(size=128), "batch 512": dict(size=512), "temperature .01": dict(temperature=.01),
           "temperature .2": dict(temperature=.2), "temperature 1": dict(temperature=1.), "no mask": dict(loss=Unmasked), "no mask, batch 128": dict(loss=Unmasked, size=128),
           "hard, by words": {}, "hard, by the base": {}, "hard, by the trained": {}}
WAYS = ("base", *CHANGES)


def learned(u, y, seed, size, temperature, loss, near=None):
    "The linear map (a function of vectors) that has learned from vectors (n, d) and groups (n,)."
    linear, ask, X, groups = torch.nn.Linear(u.shape[1], u.shape[1]), loss(temperature), torch.tensor(u), torch.tensor(y)
    torch.nn.init.eye_(linear.weight), torch.nn.init.zeros_(linear.bias)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=RATE)
    for epoch in range(EPOCHS):
        for rows in paired_batches(y, size, seed, epoch) if near is None else hard_batches(y, size, near, seed, epoch):
            optimizer.zero_grad()
            ask(linear(X[rows]), groups[rows]).backward()
            optimizer.step()
    return lambda v: unit_rows(linear(torch.tensor(v)).detach().numpy()).astype(np.float32)


def hard(way, u, y, texts, seed):
    "The rows near each text, by what the way's name says; None for a way without."
    if way == "hard, by words": return near_wrong(Searcher(words=True), texts, y)
    if not way.startswith("hard"): return None
    v = learned(u, y, seed, **USUAL)(u) if way.endswith("trained") else u
    return nearest_others(cosines(v, v), y, y, 5)


def measure(stored, real, seeds):
    train, reader = banking(Path(real), "train"), reader_of("book-bert", device="cpu")
    read = cache(lambda texts: reader(list(texts)))
    asked = some_of(train, ASKED, 0)
    for seed in seeds:
        docs = some_of(train.drop(asked.index), PER_CLASS, seed)
        texts, labels, y = docs.text.tolist(), docs.label.to_numpy(), np.unique(docs.label, return_inverse=True)[1]
        for way in WAYS:
            if stored.has(way, seed): continue
            u, v, begun = read(tuple(texts)), read(tuple(asked.text)), time.perf_counter()
            change = lambda x: x
            if way != "base": change = learned(u, y, seed, **USUAL | CHANGES[way], near=hard(way, u, y, texts, seed))
            seconds = time.perf_counter() - begun
            found = row_of(cosines(change(v), change(u)), asked.label.to_numpy(), labels)[:4]
            stored.add(way, seed, *found[:3], round(seconds, 1), found[3], told=6)


def table(rows):
    print(rows.groupby("way", sort=False)[["recall@1", "hit@10", "hubness", "seconds"]].mean().round(3).to_string())
    hits = {way: {s: np.array(list(r), dtype=float) for s, r in zip(part.seed, part.right)} for way, part in rows.groupby("way", sort=False)}
    for way in hits.keys() - {"trained"}: print(compare(hits, "trained", way, rows="queries", what="recall@1"))


def main():
    ask = asking(__doc__, "match_controls.csv", SEEDS)
    ask.add_argument("--real", help="folder with text/banking77")
    options = ask.parse_args()
    stored = Stored(options.out, COLUMNS, ["way", "seed"])
    if options.real and not options.table: measure(stored, options.real, options.seeds)
    table(stored.rows())


if __name__ == "__main__": main()
