"""Measure what a base model for pictures is worth with few labels: one training a row, written to a CSV file as it is finished.

    python scripts/measure/measure_pictures.py [--fashion FOLDER] [--cifar FOLDER] [--base NAME=FOLDER ...] [--out data/base_models/results_image.csv]
    python scripts/measure/measure_pictures.py --choose ...        # the settings, on validation pictures only, into choices_image.csv beside it

Every (set, base, method, labels a class, seed) is one row; rows that are there already are not measured again, so a killed run goes on.
FOLDER of Fashion-MNIST holds the four idx files, gzipped, of Xiao et al. (2017): Debian's package dataset-fashion-mnist has them in
usr/share/datasets/fashion-mnist. FOLDER of CIFAR-10 holds train.npz and test.npz as scripts/measure/train_cifar10.py reads them. Without them
those sets are left out, and said so. A base that has seen CIFAR-10's labels is not judged on CIFAR-10.

Splits. The few labelled pictures come from the training part, by the seed; the settings below were tried on
pictures of the training part that are never drawn from; the test pictures (2,000 of the official test part, 597 digits, all 600 test
surfaces, whose light is another than in training) decide nothing.
"""
import argparse
import gzip
import itertools
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from finetune_book.data.sets import surface_defects
from finetune_book.judge.ladder import pixels_floor
from finetune_book.data.splits import few_per_class
from finetune_book.data.picture_tables import digits
from finetune_book.data.images import as_batch
from finetune_book.tasks.classify import Classify
from finetune_book.vision.classifier import ImageClassifier
from finetune_book.vision.rows import ImageRows

sys.path.insert(0, str(Path(__file__).parent))
from stored import Stored  # noqa: E402

COLUMNS = "modality,set,base,method,labels_per_class,seed,metric,value,n_test,seconds".split(",")
TESTED, HELD = 2000, 1000          # test pictures at most; pictures held back to choose settings
LABELS_SEEN = {"labels": {"cifar10"}}

# of 1e-3, 3e-3 and 1e-2, tried on validation pictures of all four sets (one draw of 20 labels a class, choices_image.csv), 3e-3 is best or
# near it with a base and without; steps of 16 pictures
SETTINGS = {"scratch": dict(steps=200, lr=3e-3), "pretrained": dict(steps=200, lr=3e-3)}
SIZE = {"surface_defects": 48}     # pixels a side as they come; 32 for all others


# --- the sets: (pictures, labels) of pool, validation and test -----------------------------------------------------

def idx(path):
    "Array of a gzipped idx file: four bytes that end in the number of axes, the lengths, the bytes."
    raw = gzip.decompress(Path(path).read_bytes())
    shape = np.frombuffer(raw, ">i4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def parts(x, y, test_x, test_y):
    "Hold pictures back from the training part, and take at most TESTED of the test part."
    order, chosen = np.random.default_rng(0).permutation(len(x)), np.random.default_rng(1).permutation(len(test_x))[:TESTED]
    held, pool = order[:HELD], order[HELD:]
    return (x[pool], y[pool]), (x[held], y[held]), (test_x[chosen], test_y[chosen])


def some_digits():
    x, y = digits()
    order = np.random.default_rng(0).permutation(len(x))
    cut = lambda rows: (as_batch(x[rows]), y[rows])
    return cut(order[:900]), cut(order[900:1200]), cut(order[1200:])


def surfaces():
    got = {split: surface_defects.load(split) for split in ("train", "validation", "test")}
    return tuple((pictures, table.label.to_numpy(str)) for pictures, table in got.values())


def fashion(folder):
    read = lambda name: (as_batch(idx(Path(folder) / f"{name}-images-idx3-ubyte.gz")), idx(Path(folder) / f"{name}-labels-idx1-ubyte.gz").astype(str))
    return parts(*read("train"), *read("t10k"))


def cifar(folder):
    both = []
    for split in ("train", "test"):
        with np.load(Path(folder) / f"{split}.npz", allow_pickle=False) as held: both += [held["pictures"], held["labels"].astype(str)]
    return parts(*both)


# --- the ways of learning: a fitted model with predict ---------------------------------------------------------------

def flat(x): return x.mean(-1).reshape(len(x), -1) / 255 if (x[..., 0] == x[..., 1]).all() else x.reshape(len(x), -1) / 255

class Flat:
    "A scikit-learn model on all pixels, grey ones once."
    def __init__(self, model): self.model = model
    def fit(self, x, y): self.model.fit(flat(x), y); return self
    def predict(self, x): return self.model.predict(flat(x))


def moving(base, told, k_rows, size, seed):
    epochs = max(1, round(told["steps"] * 16 / k_rows))
    return ImageClassifier(base=base, tune="full", epochs=epochs, lr=told["lr"], batch_size=16, size=size, augment="crop", precision="bfloat16", seed=seed, verbose=0)


class Stages:
    "Logistic regression on the mean of every stage's feature map of a frozen body."
    def __init__(self, base, size, C=.1): self.base, self.size, self.C = base, size, C

    @torch.no_grad()
    def features(self, x):
        m, rows, out = self.body, self.rows, []
        for part in rows.prepare(x).split(128):
            z = rows.normalised(part.float() / 255)["pixel_values"].contiguous(memory_format=torch.channels_last)
            found = []
            z = m.maxpool(m.relu(m.bn1(m.conv1(z))))
            for stage in (m.layer1, m.layer2, m.layer3, m.layer4):
                z = stage(z)
                found.append(z.mean((2, 3)))
            out.append(torch.cat(found, 1))
        return torch.cat(out).numpy()

    def fit(self, x, y):
        task, self.rows = Classify(), ImageRows(self.size)
        task.learn(np.array(["one", "two"]))                # the body is looked at, not the head
        self.body = self.rows.open(self.base, task, seed=0).eval()
        self.model = make_pipeline(StandardScaler(), LogisticRegression(C=self.C, max_iter=2000)).fit(self.features(x), y)
        return self

    def predict(self, x): return self.model.predict(self.features(x))


class Pixels:
    def fit(self, x, y): self.model = pixels_floor(x, y); return self
    def predict(self, x): return self.model.predict(x)


def ways(bases, k_rows, size, seed):
    "(base, method) -> an unfitted model."
    found = {("none", "pixels + LR"): Pixels(), ("none", "pixels + SVC"): Flat(SVC(C=10.)),
             ("scratch", "fine-tuned"): moving("scratch", SETTINGS["scratch"], k_rows, size, seed)}
    for name, folder in bases.items():
        found[name, "frozen, last layer"] = ImageClassifier(base=folder, tune="head", epochs=100, lr=1e-2, batch_size=16, size=size, seed=seed, verbose=0)
        found[name, "frozen, all stages"] = Stages(folder, size)
        found[name, "fine-tuned"] = moving(folder, SETTINGS["pretrained"], k_rows, size, seed)
    return found


# --- rows --------------------------------------------------------------------------------------------------------------

class Table(Stored):
    "Rows of pictures."
    def __init__(self, path): super().__init__(path, COLUMNS, COLUMNS[1:7])

    def measure(self, key, work):
        "Call `work` -> (value, n_test) unless the row (set, base, method, labels, seed, metric) is there."
        if self.has(*key): return
        begun = time.process_time()
        value, n = work()
        self.add("image", *key, f"{value:.4f}", n, f"{time.process_time() - begun:.1f}")


def accuracy_of(model, few, judged):
    def work():
        predicted = model.fit(*few).predict(judged[0])
        return float(np.mean(predicted == judged[1])), len(judged[1])
    return work


def drawn(pool, k, seed):
    rows = few_per_class(pool[1], k, seed=seed)
    return pool[0][rows], pool[1][rows]


def measure(sets, bases, labels, seeds, methods, out):
    table = Table(out)
    for seed in range(seeds):
        for name, (pool, _, test) in sets.items():
            for k in labels:
                few = drawn(pool, k, seed)
                for (base, method), model in ways(bases, len(few[1]), SIZE.get(name), seed).items():
                    if name not in LABELS_SEEN.get(base, ()) and (not methods or method in methods): table.measure((name, base, method, k, seed, "accuracy"), accuracy_of(model, few, test))


def choose(sets, bases, labels, out):
    "Validation accuracy of each setting worth a try."
    table = Table(out)
    for name, (pool, held, _) in sets.items():
        size, told = SIZE.get(name), {base: folder for base, folder in bases.items() if name not in LABELS_SEEN.get(base, ())}
        for k, seed in itertools.product(labels, (100, 101)):
            few = drawn(pool, k, seed)
            def tried(base, method, model): table.measure((name, base, method, k, seed, "validation accuracy"), accuracy_of(model, few, held))
            for C in (1., 10., 100.): tried("none", f"pixels + SVC; C {C:g}", Flat(SVC(C=C)))
            for C, (base, folder) in itertools.product((.001, .01, .1), told.items()): tried(base, f"frozen, all stages; C {C:g}", Stages(folder, size, C))
            if (k, seed) != (max(labels), 100): continue      # trainings cost more: one draw, the larger one
            for lr, (base, folder) in itertools.product((1e-3, 3e-3, 1e-2), {"scratch": "scratch", **told}.items()):
                tried(base, f"fine-tuned; lr {lr:g}", moving(folder, SETTINGS["scratch"] | dict(lr=lr), len(few[1]), size, seed))


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--fashion"); ask.add_argument("--cifar"); ask.add_argument("--base", action="append", default=[], metavar="NAME=FOLDER")
    ask.add_argument("--out", type=Path, default=Path("data/base_models/results_image.csv"))
    ask.add_argument("--seeds", type=int, default=5); ask.add_argument("--labels", type=int, nargs="+", default=[5, 20])
    ask.add_argument("--only", nargs="+", help="names of sets"); ask.add_argument("--methods", nargs="+"); ask.add_argument("--choose", action="store_true")
    told = ask.parse_args()
    readers = {"digits": some_digits, "surface_defects": surfaces}
    for name, reader, folder in (("fashion_mnist", fashion, told.fashion), ("cifar10", cifar, told.cifar)):
        if folder: readers[name] = lambda reader=reader, folder=folder: reader(folder)
        else: print(f"{name}: left out, no folder was given")
    sets = {name: reader() for name, reader in readers.items() if not told.only or name in told.only}
    bases = {"book-resnet": "book-resnet"} | dict(item.split("=", 1) for item in told.base)
    if told.choose: choose(sets, bases, told.labels, told.out.with_name("choices_image.csv"))
    else: measure(sets, bases, told.labels, told.seeds, told.methods, told.out)


if __name__ == "__main__":
    main()
