"""Measure what lesson 76 (match) says of real text and of cost; writes search.csv and search_cost.csv.

    python scripts/measure/measure_search.py --real DIR       # DIR has text/banking77/train.csv and test.csv; some ten minutes
    python scripts/measure/measure_search.py --cost           # build and search time over made-up vectors, a minute

banking77 as search: 16 training questions of each of 77 intents are the documents, test questions the queries; a document of the
query's intent is relevant. The fine-tuned base learned from the same 16 questions of each intent. Intervals are over queries.
"""
import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from finetune_book import TextMatcher
from finetune_book.data.tables import read_splits
from finetune_book.find.reader import cosines, first_of
from finetune_book.find.index import read_index, write_index
from finetune_book.find.searcher import Searcher
from finetune_book.judge.bootstrap import bootstrap_interval, paired_difference

PER_CLASS, ASKED, EPOCHS = 16, 500, 2


def drawn(frame, seed):
    "PER_CLASS rows of each label."
    return frame.loc[[i for _, g in frame.groupby("label") for i in g.sample(PER_CLASS, random_state=seed).index]]


def hits(searcher, queries, labels, of):
    "Whether the first, and one of the first ten, is of the query's label: two (q,) arrays."
    ids, _ = searcher.search(queries, 10)
    right = np.array([[i is not None and of[i] == label for i in row] for row, label in zip(ids, labels)])
    return right[:, 0].astype(float), right.any(1).astype(float)


def banking(real, seed=0):
    parts = {name: read_splits(str(real / "text" / "banking77" / f"{name}.csv"))["all"] for name in ("train", "test")}
    docs, asked = drawn(parts["train"], seed), parts["test"].sample(ASKED, random_state=seed)
    texts, labels, queries, wanted = docs.text.tolist(), docs.label.tolist(), asked.text.tolist(), asked.label.tolist()
    begun = time.perf_counter()
    est = TextMatcher(epochs=EPOCHS, batch_size=64, seed=seed, verbose=0, device="cpu", precision="float32").fit(texts, labels)
    print(f"trained in {time.perf_counter() - begun:.0f} s", flush=True)
    ways = {"words (BM25)": Searcher(words=True), "base as it came": Searcher(words=False), "base + words": Searcher(words="both"),
            "fine-tuned": Searcher(est, words=False), "fine-tuned + words": Searcher(est, words="both")}
    found = {way: hits(searcher.fit(texts), queries, wanted, labels) for way, searcher in ways.items()}
    rows = []
    for way, (one, ten) in found.items():
        a, b = (bootstrap_interval(np.mean, v, n_boot=1000) for v in (one, ten))
        rows.append({"way": way, "recall@1": f"{a.value:.3f} [{a.low:.3f}, {a.high:.3f}]", "hit@10": f"{b.value:.3f} [{b.low:.3f}, {b.high:.3f}]", "queries": a.n})
        print(rows[-1], flush=True)
    for pair in (("words (BM25)", "fine-tuned"), ("base as it came", "fine-tuned"), ("fine-tuned", "fine-tuned + words"), ("base as it came", "base + words")):
        print(paired_difference(lambda _, v: v.mean(), np.zeros(ASKED), *(found[w][0] for w in pair), n_boot=1000, names=pair))
    return pd.DataFrame(rows)


def cost():
    "Milliseconds a query and MB over vectors of width 384, mapped from the disk."
    rows = []
    for n in (1_000, 10_000, 100_000, 300_000):
        rng = np.random.default_rng(0)
        table = rng.normal(size=(n, 384)).astype(np.float32)
        asked, lots = rng.normal(size=(200, 384)).astype(np.float32), rng.permutation(n).astype(np.uint64)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter(); write_index(folder, dict(vectors=table), {}); write_s = time.perf_counter() - begun
            begun = time.perf_counter(); mapped = read_index(folder)[0]["vectors"]; open_s = time.perf_counter() - begun
            begun = time.perf_counter(); first_of(cosines(asked, mapped), lots, 10); many = time.perf_counter() - begun
            begun = time.perf_counter(); first_of(cosines(asked[:1], mapped), lots, 10); one = time.perf_counter() - begun
        rows.append(dict(documents=n, mb=round(table.nbytes / 1e6, 1), write_s=round(write_s, 2), open_s=round(open_s, 2), ms_a_query_of_200=round(5 * many, 2), ms_one_query=round(1000 * one, 1)))
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--real", type=Path, help="folder with text/banking77")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("data/base_models"))
    options = parser.parse_args()
    if options.real: banking(options.real).to_csv(options.out / "search.csv", index=False)
    if options.cost: cost().to_csv(options.out / "search_cost.csv", index=False)


if __name__ == "__main__": main()
