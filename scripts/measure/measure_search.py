"""Measure what lesson 76 (match) says of real text and of cost; writes search.csv and search_cost.csv.

    python scripts/measure/measure_search.py --real DIR            # DIR has text/banking77/train.csv and test.csv; five minutes of one core
    python scripts/measure/measure_search.py --real DIR --local F  # a stronger base in the folder F as well
    python scripts/measure/measure_search.py --held DIR            # batches of 32 and 64 texts on questions that training held back; writes search_held.csv
    python scripts/measure/measure_search.py --cost                # build and search time over made-up vectors, a minute
    python scripts/measure/measure_search.py --table               # measures nothing, shows the means and the paired differences

banking77 as search: 16 training questions of each of 77 intents are the documents, drawn by the seed; the queries are 10 test questions
of each intent, the same for all seeds. A document of the query's intent is relevant. The fine-tuned base has learned from those documents,
with no setting given. Its batches of 64 are the default since questions that training held back asked for them (--held): nothing was
chosen by the test questions, and their seeds are others. `centred` and `less crowded`
are the two remedies of that lesson against hubs.
"""
import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from finetune_book import TextMatcher
from finetune_book.data.tables import read_splits
from finetune_book.find.index import read_index, write_index
from finetune_book.find.ranked import cosines, first_of, lots_of
from finetune_book.find.reader import reader_of
from finetune_book.find.searcher import Searcher, standardised
from finetune_book.judge.bootstrap import compare
from finetune_book.tasks.match import centred, crowding, hubness

sys.path.insert(0, str(Path(__file__).parent))
from stored import BASE_MODELS, Stored  # noqa: E402

PER_CLASS, ASKED, SEEDS = 16, 10, (10, 11, 12, 13, 14)
COLUMNS = ["way", "seed", "recall@1", "hit@10", "hubness", "right", "ten"]
WAYS = ("words (BM25)", "base as it came", "fine-tuned")
PAIRS = [("words (BM25)", "fine-tuned"), ("base as it came", "fine-tuned"), ("fine-tuned", "fine-tuned + words"), ("base as it came", "base as it came + words"),
         ("base as it came", "base as it came, centred"), ("base as it came", "base as it came, less crowded"), ("fine-tuned", "fine-tuned, less crowded"),
         ("stronger base as it came", "stronger base, fine-tuned"), ("fine-tuned", "stronger base, fine-tuned")]
HELD = {"base as it came": None, "batches of 32": dict(batch_size=32), "batches of 32, as many passes as of 64": dict(batch_size=32, epochs=10),
        "batches of 64": dict(batch_size=64)}
HELD_SEEDS, HELD_PAIRS = (100, 101, 102), [("batches of 32", "batches of 64"), ("batches of 32, as many passes as of 64", "batches of 64"), ("base as it came", "batches of 64")]


def some_of(frame, most, seed):
    "So many rows of each label."
    return frame.loc[[i for _, g in frame.groupby("label") for i in g.sample(most, random_state=seed).index]]


def banking(real, part): return read_splits(str(real / "text" / "banking77" / f"{part}.csv"))["all"]


def row_of(scores, wanted, labels):
    "What is stored of a way: shares, the skewness of how often documents are found; of each query whether the first, or one of ten, is right."
    found = first_of(scores, lots_of(range(len(labels))), 10)[0]
    right = (labels[found] == wanted[:, None]) & (found >= 0)
    hubs = hubness(found, len(labels)) if (found >= 0).all() else ""
    return [round(float(right[:, 0].mean()), 4), round(float(right.any(1).mean()), 4), hubs and round(hubs, 2), *("".join("01"[int(r)] for r in hit) for hit in (right[:, 0], right.any(1)))]


def ways_of(name, docs, asked, by_words):
    "Scores (q, n) of vectors: as they are, with words, and with each remedy against hubs."
    def cos(a, b): return cosines(a.astype(np.float32), b.astype(np.float32))
    plain, (u, v) = cos(asked, docs), centred(docs, asked)
    yield name, plain
    yield name + " + words", standardised(by_words) + standardised(plain)
    yield name + ", centred", cos(v, u)
    yield name + ", less crowded", plain - crowding(docs) / 2


def measured(base, settings, docs, asked, seed):
    "Vectors of documents and of queries, of a base as it came (settings None) or fine-tuned."
    model = base
    if settings is not None: model = TextMatcher(base, seed=seed, verbose=0, device="cpu", **settings).fit(docs.text.tolist(), docs.label.tolist())
    read = reader_of(model, device="cpu")
    return read(docs.text.tolist()), read(asked.text.tolist())


def search(stored, real, local, seeds):
    "Measure what is missing of banking77."
    train, asked = banking(real, "train"), some_of(banking(real, "test"), ASKED, 0)
    bases = {"base as it came": ("book-bert", None), "fine-tuned": ("book-bert", {})}
    if local: bases |= {"stronger base as it came": (local, None), "stronger base, fine-tuned": (local, {})}
    for seed in seeds:
        docs = some_of(train, PER_CLASS, seed)
        labels, wanted = docs.label.to_numpy(), asked.label.to_numpy()
        if all(stored.has(name, seed) for name in ("words (BM25)", *bases)): continue
        by_words = Searcher(words=True).fit(docs.text.tolist()).scores(asked.text.tolist())
        if not stored.has("words (BM25)", seed): stored.add("words (BM25)", seed, *row_of(by_words, wanted, labels), told=5)
        by_words = np.maximum(by_words, 0)
        for name, (base, settings) in bases.items():
            if stored.has(name, seed): continue
            u, v = measured(base, settings, docs, asked, seed)
            stored.add_all([[way, seed, *row_of(scores, wanted, labels)] for way, scores in ways_of(name, u, v, by_words)], told=5)


def held_back(stored, real):
    "Measure what is missing of the batches: queries are 10 training questions of each intent that are no documents."
    train = banking(real, "train")
    for seed in HELD_SEEDS:
        docs = some_of(train, PER_CLASS, seed)
        asked = some_of(train.drop(docs.index), ASKED, 1000)
        for name, settings in HELD.items():
            if stored.has(name, seed): continue
            u, v = measured("book-bert", settings, docs, asked, seed)
            stored.add(name, seed, *row_of(cosines(v.astype(np.float32), u.astype(np.float32)), asked.label.to_numpy(), docs.label.to_numpy()), told=5)


def table(stored, pairs=PAIRS):
    rows = stored.rows()
    print(rows.groupby("way", sort=False)[["recall@1", "hit@10", "hubness"]].mean().round(3).to_string())
    for what, column in (("recall@1", "right"), ("one of ten", "ten")):
        hits = {way: {s: np.array(list(r), dtype=float) for s, r in zip(part.seed, part[column])} for way, part in rows.groupby("way")}
        for a, b in pairs:
            if not {a, b} <= hits.keys(): continue
            both = hits[a].keys() & hits[b].keys()
            print(compare({way: {s: hits[way][s] for s in sorted(both)} for way in (a, b)}, a, b, rows="queries", what=what))


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
    parser.add_argument("--held", type=Path, help="the same folder: compare batches on questions that training held back")
    parser.add_argument("--local", help="folder of a stronger base")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=BASE_MODELS)
    options = parser.parse_args()
    stored = Stored(options.out / "search.csv", COLUMNS, ["way", "seed"])
    if options.real: search(stored, options.real, options.local, options.seeds)
    if options.real or options.table: table(stored)
    held = Stored(options.out / "search_held.csv", COLUMNS, ["way", "seed"])
    if options.held: held_back(held, options.held)
    if options.held or options.table: table(held, HELD_PAIRS)
    if options.cost: cost().to_csv(options.out / "search_cost.csv", index=False)


if __name__ == "__main__": main()
