"""Measure what a base model for texts is worth with few labels: one training a row, written to a CSV file as soon as it is done.

    python scripts/measure/measure_bases.py [--data FOLDER] [--base NAME=FOLDER ...] [--out data/base_models/results_text.csv]
    python scripts/measure/measure_bases.py --choose --data FOLDER      # the settings, on rows of training files only, into choices_text.csv beside it

FOLDER holds one folder a set, each with train.csv and test.csv of text,label; the carried clinic_notes is measured as well. A row is one
(set, base, method, labels a class, seed). Rows that are there already are not measured again, so a killed run goes on where it was, and
two runs may share a file. A row holds the first 12 digits of the SHA-256 of its base's weights; a file that has a base in another version
is refused, until --replace drops those rows.

Methods. "TF-IDF + LR": words of two letters or more and pairs of them, sublinear, logistic regression with C = 10, no base; the ladder's
floor (`finetune_book.judge.ladder.tfidf_floor`) differs in that it takes words of one letter too. "probe": the frozen body's mean over the token states of a text, made
once a base and set and kept in --work as half precision; each vector brought to length one; logistic regression. "fine-tuned":
`TextClassifier(tune="full")`, the same settings for every set, base and size. "random-bert" is book-bert's architecture and vocabulary
with weights from a random generator: what it reaches owes nothing to pretraining.

Splits. The k rows a class come from the training file, drawn by the seed; a class with fewer rows gives all it has. The settings below were
chosen with seeds 100 and 101 on 500 rows held out of each training file. The test file decides nothing.
"""
import argparse
import hashlib
import itertools
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from finetune_book import TextClassifier
from finetune_book.checks import InputError, did_you_mean, listed
from finetune_book.data.tables import carried, carried_names, read_table
from finetune_book.finetuner import forward_all
from finetune_book.data.packed import WEIGHTS
from finetune_book.data.hub import resolve_base
from finetune_book.tasks.pretrained import quiet
from finetune_book.text.bases import load_text_base
from finetune_book.data.splits import few_per_class
from finetune_book.text.rows import encode
from finetune_book.text.tokens import length_buckets, pad_batch

sys.path.insert(0, str(Path(__file__).parent))
from stored import Stored  # noqa: E402

COLUMNS = "modality,set,base,method,labels_per_class,seed,metric,value,n_test,seconds,base_sha".split(",")
KEY = COLUMNS[1:7]
FLOOR, PROBE, TUNED = METHODS = "TF-IDF + LR", "probe", "fine-tuned"
ALL_TUNED = {"uci_sentences"}         # sets small enough to fine-tune on all their rows
TOO_MANY = {("banking77", "64")}      # 4,800 rows a training: left out of fine-tuning unless --labels names it alone
HELD, CHOOSING_SEEDS = 500, (100, 101)

# chosen on held-out rows of training files, see choices_text.csv
C = 10.                               # of the probe's logistic regression; 10, 30 and 100 lie within .004, so the strongest penalty of them
LR, SEEN, EPOCHS = 3e-4, 800, (2, 20)  # epochs: as many as make SEEN rows, within these ends
MAX_LENGTH = 128


# --- sets and draws ------------------------------------------------------------------------------------------------

def read_sets(folder=None, only=None):
    "Name -> (train, test) frames of every set in the folder, clinic_notes first."
    places = {"clinic_notes": carried("clinic_notes")}
    if folder: places |= {p.parent.name: p.parent for p in sorted(Path(folder).glob("*/test.csv"))}
    for name in only or ():
        if name not in places: raise InputError(f"set {name!r}: not in {folder or 'the book'}, which has {listed(places)}.{did_you_mean(name, places)}")
    return {name: tuple(read_table(place / f"{part}.csv") for part in ("train", "test")) for name, place in places.items() if not only or name in only}


def drawn(labels, k, seed):
    "Row numbers of k rows a class, ascending; of a class with fewer all, and all rows for 'all'."
    labels = np.asarray(labels, str)
    if k == "all": return np.arange(len(labels))
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    small = np.flatnonzero(counts[codes] < int(k))
    big = np.setdiff1d(np.arange(len(labels)), small)
    return np.sort(np.r_[small, big[few_per_class(labels[big], int(k), seed)] if len(big) else small[:0]])


def held_out(n):
    "(the rest, HELD) row numbers of n rows."
    order, held = np.random.default_rng(0).permutation(n), min(HELD, n // 2)
    return np.sort(order[held:]), np.sort(order[:held])


# --- bases ---------------------------------------------------------------------------------------------------------

def sha_of(base):
    "First 12 digits of the SHA-256 of a base's weights, as the files hold them."
    home = carried(base) if base in carried_names() else resolve_base(base)
    return hashlib.sha256(b"".join(f.read_bytes() for f in sorted(home.glob("*.safetensors")))).hexdigest()[:12]


def random_twin(base, work):
    "A folder with the base's architecture and tokenizer and random weights, always the same ones."
    from transformers import AutoConfig, AutoModel
    folder = Path(work) / f"random-{sha_of(base)}"
    if (folder / WEIGHTS).is_file(): return folder
    _, tokenizer = load_text_base(base, 2)
    tokenizer.save_pretrained(folder)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.from_pretrained(resolve_base(base))).save_pretrained(folder)
    return folder


def mean_features(base, texts, max_length=MAX_LENGTH):
    """The mean over a text's token states in the last layer of a frozen body, (n, d) float16."""
    model, tokenizer = load_text_base(base, 2)
    rows = encode(model, tokenizer, list(texts), max_length)
    def collate(idx): return dict(zip(("input_ids", "attention_mask"), pad_batch([rows[i] for i in idx], tokenizer.pad_token_id)))
    def mean(model, x):
        weight = x["attention_mask"][..., None].float()
        return (model.base_model(**x).last_hidden_state * weight).sum(1) / weight.sum(1)
    return forward_all(model, length_buckets([len(r) for r in rows], 64, shuffle=False), collate, len(rows), fn=mean).numpy().astype(np.float16)


def stored_features(work, base, name, texts, wanted):
    "`mean_features` of the wanted rows, (n, d) with NaN in rows nobody asked for yet; made once for these weights and texts."
    key = hashlib.sha256("\0".join([*texts, str(MAX_LENGTH)]).encode()).hexdigest()[:8]
    path = Path(work) / f"{sha_of(base)}-{name}-{key}.npy"
    held = np.load(path) if path.is_file() else None
    missing = wanted if held is None else wanted[np.isnan(held[wanted, 0])]
    if len(missing):
        made = mean_features(base, [texts[i] for i in missing])
        if held is None: held = np.full((len(texts), made.shape[1]), np.nan, np.float16)
        held[missing] = made
        part = path.with_suffix(".part.npy")
        np.save(part, held)
        part.replace(path)
    return held


# --- the ways of learning ------------------------------------------------------------------------------------------

def inputs(method, base, name, part, wanted, work):
    "What a way sees of the wanted rows of a part: vectors for the probe, else texts."
    if method == PROBE: return stored_features(work, base, name, part.text.tolist(), wanted)[wanted]
    return part.text.to_numpy(object)[wanted]


def learn(method, base, x, y, judged, seed, c=C, lr=LR, seen=SEEN):
    "Predictions for `judged` of a model that learned from x and y."
    if method == FLOOR: model = make_pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=2000))
    elif method == PROBE: model = make_pipeline(Normalizer(), LogisticRegression(C=c, max_iter=2000))
    else: model = TextClassifier(base=base, tune="full", epochs=int(np.clip(round(seen / len(x)), *EPOCHS)), lr=lr, batch_size=16, max_length=MAX_LENGTH, seed=seed, verbose=0)
    if method == PROBE: x, judged = x.astype(float), judged.astype(float)
    return model.fit(x, y).predict(judged)


# --- rows ----------------------------------------------------------------------------------------------------------

class Table(Stored):
    "Rows that know the version of their base."
    def __init__(self, path): super().__init__(path, COLUMNS, KEY)

    def check_versions(self, bases, replace=False):
        "Refuse, or with `replace` drop, rows of these bases (name -> sha) in another version."
        rows = self.rows(dtype=str, na_filter=False)
        other = rows.base.isin(bases) & (rows.base_sha != rows.base.map(bases))
        if not other.any(): return
        named = listed(f"{b} {s}" for b, s in sorted(set(zip(rows.base[other], rows.base_sha[other]))))
        if not replace: raise InputError(f"{self.path}: {other.sum()} rows are of {named}, and the base is another now: --replace drops them, --out names another file")
        rows[~other].to_csv(self.path, index=False, lineterminator="\n")

    def measure(self, key, sha, work):
        "Call `work` -> (value, n_test) unless the row (set, base, method, labels, seed, metric) is there."
        if self.has(*key): return
        begun = time.process_time()
        value, n = work()
        if self.has(*key): return             # another run was faster
        self.add("text", *key, f"{value:.5f}", n, f"{time.process_time() - begun:.1f}", sha)


def plan(sets, bases, methods, labels, seeds):
    "(method, base, set, k, seed), cheap ones first and the sizes of most interest before the others."
    first = {"16": 0, "64": 1, "all": 3}
    for method in (m for m in METHODS if m in methods):
        for k in sorted(labels, key=lambda k: first.get(k, 2)):
            for base in ["none"] if method == FLOOR else bases:
                for name in sets:
                    if method == TUNED and (k == "all" and name not in ALL_TUNED or (name, k) in TOO_MANY and labels != [k]): continue
                    for seed in (seeds[:1] if k == "all" and method != TUNED else seeds): yield method, base, name, k, seed


def measure(told, sets, bases):
    shas, table = {name: sha_of(folder) for name, folder in bases.items()}, Table(told.out)
    table.check_versions(shas, told.replace)
    for method, base, name, k, seed in plan(sets, bases, told.methods, told.labels, told.seeds):
        def work():
            train, test = sets[name]
            labels, truth = train.label.to_numpy(str), test.label.to_numpy(str)
            rows = drawn(labels, k, seed)
            x, judged = (inputs(method, bases.get(base), name, part, wanted, told.work) for part, wanted in ((train, rows), (test, np.arange(len(test)))))
            return np.mean(learn(method, bases.get(base), x, labels[rows], judged, seed) == truth), len(truth)
        table.measure((name, base, method, k, seed, "accuracy"), shas.get(base, ""), work)


def choose(told, sets, bases):
    "Accuracy on held-out training rows of each setting worth a try."
    table = Table(told.out.with_name("choices_text.csv"))
    tries = [(PROBE, f"C {c:g}", dict(c=c)) for c in (1., 3., 10., 30., 100.)]
    tries += [(TUNED, f"lr {lr:g}; {SEEN} rows seen", dict(lr=lr)) for lr in (3e-4, 1e-3, 1e-4)]
    tries = [t for t in tries if t[0] in told.methods]
    for (method, said, setting), base, name, k, seed in itertools.product(tries, bases, sets, [k for k in told.labels if k != "all"], CHOOSING_SEEDS):
        def work():
            train, (rest, held) = sets[name][0], held_out(len(sets[name][0]))
            labels = train.label.to_numpy(str)
            rows = rest[drawn(labels[rest], k, seed)]
            x, judged = (inputs(method, bases[base], name, train, wanted, told.work) for wanted in (rows, held))
            return np.mean(learn(method, bases[base], x, labels[rows], judged, seed, **setting) == labels[held]), len(held)
        table.measure((name, base, f"{method}; {said}", k, seed, "held-out accuracy"), sha_of(bases[base]), work)


def main(argv=None):
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", type=Path, help="folder with a folder a set"); ask.add_argument("--only", nargs="+", help="names of sets")
    ask.add_argument("--leave", nargs="+", default=["zh_chnsenticorp_hotel"], help="names of sets to leave out (default: the Chinese one)")
    ask.add_argument("--base", action="append", default=[], metavar="NAME=FOLDER", help="measured beside book-bert and its random twin")
    ask.add_argument("--bases", nargs="+", help="measure these of the bases only")
    ask.add_argument("--out", type=Path, default=Path("data/base_models/results_text.csv"))
    ask.add_argument("--work", type=Path, default=Path("runs/base_models"), help="folder for stored features")
    ask.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD")
    ask.add_argument("--labels", nargs="+", default=["5", "16", "64", "all"]); ask.add_argument("--seeds", nargs="+", type=int, default=[*range(5)])
    ask.add_argument("--replace", action="store_true", help="drop rows of other versions of the bases"); ask.add_argument("--choose", action="store_true")
    told = ask.parse_args(argv)
    told.work.mkdir(parents=True, exist_ok=True)
    try:
        sets = {name: parts for name, parts in read_sets(told.data, told.only).items() if told.only or name not in told.leave}
        bases = {"book-bert": "book-bert"} | dict(item.split("=", 1) for item in told.base)
        twin = not told.choose and "random-bert" in (told.bases or ["random-bert"]) and set(told.methods) != {FLOOR}
        if twin: bases["random-bert"] = random_twin("book-bert", told.work)
        bases = {name: folder for name, folder in bases.items() if not told.bases or name in told.bases}
        (choose if told.choose else measure)(told, sets, bases)
    except InputError as e: raise SystemExit(str(e)) from None


if __name__ == "__main__":
    main()
