"""Train the carried `book-resnet`: a ResNet-18 of width 16 with the 32-pixel stem, from random weights, on CIFAR-10's labels.

    python scripts/make_book_resnet.py --data FOLDER --out data/book-resnet [--epochs 40] [--state FOLDER]
    python scripts/make_book_resnet.py --out data/book-resnet --card     # no training: probe the weights there and write their card
    python scripts/make_book_resnet.py --data FOLDER --out data/book-resnet --seen      # no training: only seen.npy, which knows CIFAR-10's pictures

FOLDER holds CIFAR-10 as torchvision unpacks it (`cifar-10-batches-py`), or as two files train.npz and test.npz with the arrays
`pictures` uint8 (n, 32, 32, 3) and `labels` int64 (n,). 2,000 training pictures are held back to watch the training; the test
pictures are looked at once, at the end. With --state a killed run goes on where it was. Seed 0 throughout. The card is written after it.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from finetune_book.ladder import pixels_floor
from finetune_book.splits import few_per_class
from finetune_book.trainer import Callback
from finetune_book.vision.bases import SEEN, save_image_model, seen_filter
from finetune_book.vision.images import as_batch, digits
from finetune_book.vision.pipeline import ImageClassifier

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
HELD_BACK = 2000


def read(folder, split):
    "Pictures uint8 (n, 32, 32, 3) and class names (n,) of one split."
    path = Path(folder) / f"{split}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as held: return held["pictures"], np.array(CLASSES)[held["labels"]]
    from finetune_book.vision.images import cifar10
    pictures, labels = cifar10(folder, train=split == "train")
    return pictures, np.asarray(labels).astype(str)


def write_seen(data, out):
    "The Bloom filter of all 60,000 pictures, training and test, by which a base warns of its own collection (lesson 19)."
    np.save(out / SEEN, seen_filter(np.concatenate([read(data, split)[0] for split in ("train", "test")])))


class Log(Callback):
    "One line an epoch, in a CSV file that survives a kill; seconds are those of this process."
    def __init__(self, path): self.path, self.begun = Path(path), time.monotonic()

    def on_epoch_end(self, trainer):
        row = trainer.history_[-1] | dict(seconds=round(time.monotonic() - self.begun, 1))
        if not self.path.exists(): self.path.write_text(",".join(row) + "\n", encoding="utf-8")
        with open(self.path, "a", encoding="utf-8") as file: file.write(",".join(f"{v:.6g}" for v in row.values()) + "\n")
        print({k: round(float(v), 4) for k, v in row.items()}, flush=True)
        self.begun = time.monotonic()


def probe(base, labels_a_class=20, seeds=(0, 1, 2)):
    """Test accuracy on scikit-learn's digits, never seen by the base: learn from `labels_a_class` digits of each class, judge on all others.

    Returns a DataFrame, one column a way of learning, one row a seed.
    """
    pictures, labels = digits()
    pictures, rows = as_batch(pictures), []
    for seed in seeds:
        few = few_per_class(labels, labels_a_class, seed=seed)
        rest = np.setdiff1d(np.arange(len(labels)), few)
        learn = lambda **told: ImageClassifier(**{"batch_size": 16, "augment": "crop", "seed": seed, "verbose": 0, **told}).fit(pictures[few], labels[few])
        judged = lambda model: float(np.mean(model.predict(pictures[rest]) == labels[rest]))
        moving = dict(epochs=30, lr=3e-3)
        rows.append({"pixels + logistic regression": judged(pixels_floor(pictures[few], labels[few])),
                     "frozen body": judged(learn(base=base, tune="head", epochs=60, lr=1e-2)),
                     "fine-tuned": judged(learn(base=base, **moving)), "same training, random weights": judged(learn(base="scratch", **moving))})
    return pd.DataFrame(rows)


CARD = """# book-resnet

Licence: Apache-2.0
Source: trained by scripts/make_book_resnet.py on CIFAR-10's labels (Krizhevsky 2009); the pictures are not carried

A small ResNet-18 that this book carries so that every lesson and report runs without a download. **It has seen CIFAR-10**: a result on
CIFAR-10 with this base says nothing about fine-tuning. It is a first version, trained on labels alone: features of its last layer are made
for ten classes of animals and vehicles, and a frozen body of that kind is often little better than pixels. Let it move.

| | |
|---|---|
| network | ResNet-18 with torchvision's names, width 16, 3 x 3 stem for small pictures |
| pictures | 32 pixels a side by default; mean and standard deviation in preprocessor_config.json |
| parameters | {parameters:,}, stored in half precision, opened in single precision |
| seen | {n_train:,} training pictures of CIFAR-10, {epochs} epochs, random shifts and mirrors, seed 0 |
| held back | 2,000 training pictures; they chose epoch {best_epoch}; accuracy {validation_accuracy:.4f} |
| CIFAR-10 test | accuracy {test_accuracy:.4f} on {n_test:,} pictures (bfloat16), {test_accuracy_float32:.4f} (float32), looked at once |

`seen.npy` is a Bloom filter of CIFAR-10's 60,000 pictures (lesson 19): `ImageClassifier.fit` warns when it is given them.
`training_log.csv` has every epoch, with the seconds it took on two busy cores; `result.json` the last row of this table.

## What it is worth elsewhere

scikit-learn's handwritten digits, 20 labels a class, judged on the other {n_digits:,}; mean and range over 3 seeds, one setting each:

| | test accuracy |
|---|---|
{probes}

More sets, 5 and 20 labels a class, floors and other ways to pretrain beside: lesson 23 and `../base_models/results_image.csv`, measured by
scripts/measure_pictures.py. In short: let it move; frozen, it is no better than random weights; for digits, and with 5 labels a class, no clear gain was shown.

    python scripts/make_book_resnet.py --data FOLDER --out data/book-resnet --epochs {epochs}
"""


def write_card(out):
    "Probe the weights in `out`, print what came out, and write README.md from it."
    found = probe(str(out))
    told = "\n".join(f"| {name} | {column.mean():.3f} ({column.min():.3f} to {column.max():.3f}) |" for name, column in found.items())
    print(told, flush=True)
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    (out / "README.md").write_text(CARD.format(**result, n_digits=1797 - 200, probes=told), encoding="utf-8")


def train(data, out, epochs, state):
    "Train, test, and save weights, log and result in `out`."
    x, y = read(data, "train")
    order = np.random.default_rng(0).permutation(len(x))
    held, kept = order[:HELD_BACK], order[HELD_BACK:]
    clf = ImageClassifier(base="scratch", epochs=epochs, lr=4e-3, batch_size=128, weight_decay=.05, schedule="cosine", warmup_frac=.1,
                          label_smoothing=.1, augment="crop+flip", precision="bfloat16", patience=epochs, seed=0,
                          checkpoint_dir=state, checkpoint_every=200, callbacks=[Log(out / "training_log.csv")])
    clf.fit(x[kept], y[kept], validation=(x[held], y[held]))
    pictures, labels = read(data, "test")
    right = clf.predict(pictures) == labels
    clf.precision = "float32"
    result = dict(test_accuracy=float(np.mean(right)), test_accuracy_float32=float(np.mean(clf.predict(pictures) == labels)), n_test=len(labels),
                  n_train=len(kept), best_epoch=clf.best_epoch_ + 1, epochs=epochs, parameters=clf.n_parameters_,
                  validation_accuracy=clf.history_[clf.best_epoch_]["val_accuracy"])
    print(json.dumps(result), flush=True)
    (out / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    save_image_model(out, clf.model_.to(memory_format=torch.contiguous_format).half(), clf.preprocessing_)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data"); ask.add_argument("--out", required=True, type=Path); ask.add_argument("--state")
    ask.add_argument("--epochs", type=int, default=40); ask.add_argument("--card", action="store_true"); ask.add_argument("--seen", action="store_true")
    told = ask.parse_args()
    if not told.card and not told.data: ask.error("--data is needed to train; --card alone writes the card of what is there")
    told.out.mkdir(parents=True, exist_ok=True)
    if told.data: write_seen(told.data, told.out)
    if told.seen: return
    if not told.card: train(told.data, told.out, told.epochs, told.state)
    write_card(told.out)


if __name__ == "__main__":
    main()
