"""The source's case on the whole of CIFAR-10: a ResNet-18 of width 16 with the 32-pixel stem, from random weights, on all labels.

    python scripts/measure/train_cifar10.py --data FOLDER --out FOLDER [--epochs 40] [--state FOLDER]

FOLDER of --data holds CIFAR-10 as torchvision unpacks it (`cifar-10-batches-py`), or as two files train.npz and test.npz with the arrays
`pictures` uint8 (n, 32, 32, 3) and `labels` int64 (n,). 2,000 training pictures are held back to watch the training; the test
pictures are looked at once, at the end. With --state a killed run goes on where it was. Seed 0 throughout. --out gets the model, as a
base that `ImageClassifier(base=FOLDER)` opens, cifar10_log.csv and cifar10.json; the last two are kept in data/base_models (lesson 55, vision_classifier).
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from finetune_book.train.trainer import Callback
from finetune_book.vision.seen import SEEN, seen_filter
from finetune_book.vision.bases import save_image_model
from finetune_book.vision.classifier import ImageClassifier

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
HELD_BACK = 2000


def read(folder, split):
    "Pictures uint8 (n, 32, 32, 3) and class names (n,) of one split."
    path = Path(folder) / f"{split}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as held: return held["pictures"], np.array(CLASSES)[held["labels"]]
    from finetune_book.data.picture_tables import cifar10
    pictures, labels = cifar10(folder, train=split == "train")
    return pictures, np.asarray(labels).astype(str)


class Log(Callback):
    "One line an epoch, in a CSV file that survives a kill; seconds are those of this process."
    def __init__(self, path): self.path, self.begun = Path(path), time.monotonic()

    def on_epoch_end(self, trainer):
        row = trainer.history_[-1] | dict(seconds=round(time.monotonic() - self.begun, 1))
        if not self.path.exists(): self.path.write_text(",".join(row) + "\n", encoding="utf-8")
        with open(self.path, "a", encoding="utf-8") as file: file.write(",".join(f"{v:.6g}" for v in row.values()) + "\n")
        print({k: round(float(v), 4) for k, v in row.items()}, flush=True)
        self.begun = time.monotonic()


def train(data, out, epochs, state):
    "Train, test, and save weights, log and result in `out`."
    x, y = read(data, "train")
    order = np.random.default_rng(0).permutation(len(x))
    held, kept = order[:HELD_BACK], order[HELD_BACK:]
    clf = ImageClassifier(base="scratch", epochs=epochs, lr=4e-3, batch_size=128, weight_decay=.05, schedule="cosine", warmup_frac=.1,
                          label_smoothing=.1, augment="crop+flip", precision="bfloat16", patience=epochs, seed=0,
                          checkpoint_dir=state, checkpoint_every=200, callbacks=[Log(out / "cifar10_log.csv")])
    clf.fit(x[kept], y[kept], validation=(x[held], y[held]))
    pictures, labels = read(data, "test")
    right = clf.predict(pictures) == labels
    clf.precision = "float32"
    result = dict(test_accuracy=float(np.mean(right)), test_accuracy_float32=float(np.mean(clf.predict(pictures) == labels)), n_test=len(labels),
                  n_train=len(kept), best_epoch=clf.best_epoch_ + 1, epochs=epochs, parameters=clf.n_parameters_,
                  validation_accuracy=clf.history_[clf.best_epoch_]["val_accuracy"])
    print(json.dumps(result), flush=True)
    (out / "cifar10.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    save_image_model(out, clf.model_.to(memory_format=torch.contiguous_format).half(), clf.preprocessing_)
    np.save(out / SEEN, seen_filter(np.concatenate([x, pictures])))      # by which this base warns of its own collection (`library/vision_seen`)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", required=True); ask.add_argument("--out", required=True, type=Path)
    ask.add_argument("--epochs", type=int, default=40); ask.add_argument("--state")
    told = ask.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    train(told.data, told.out, told.epochs, told.state)


if __name__ == "__main__":
    main()
