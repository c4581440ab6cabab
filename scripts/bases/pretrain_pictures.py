"""Pretrain the small ResNet of lesson 73 (vision_pretrain) on one task, for a given number of pictures shown, and save it as a base.

    python scripts/bases/pretrain_pictures.py --task rotation --cifar FOLDER --out BASES/rotation [--shown 100000]
    python scripts/measure/measure_pictures.py --base rotation=BASES/rotation ...       # what it is worth with few labels

Tasks: labels, rotation, contrastive (CIFAR-10's 50,000 training pictures, the labels used by `labels` alone) and fractals (classes of
lesson 72 (fractals), no camera). Every task sees the same number of pictures, views counted one by one, in batches of 128, with the same network
and the same optimizer, seed 0. FOLDER holds train.npz as scripts/measure/train_cifar10.py reads it. One line about the run is added to
--log, data/base_models/pretraining_image.csv: its losses in nats, what a guess costs, and the seconds of one core that it took.
"""
import argparse
import csv
import math
import time
from pathlib import Path

import numpy as np

from finetune_book.vision.fractals import fractal_set
from finetune_book.vision.pretrain import contrastive_task, label_task, pretrain_pictures, rotation_task, save_body

FORMULAS = 250
COLUMNS = "base,shown,pictures,epochs,batch,seed,first_loss,last_loss,guess,seconds".split(",")


def material(task, cifar, n, seed):
    "Pictures, labels or None, and the PretextTask."
    if task == "fractals":
        pictures, labels = fractal_set(FORMULAS, n // FORMULAS, seed=seed)
        return pictures, labels, label_task(FORMULAS)
    with np.load(Path(cifar) / "train.npz", allow_pickle=False) as held: pictures, labels = held["pictures"][:n], held["labels"][:n]
    if task == "labels": return pictures, labels, label_task(10)
    return pictures, None, {"rotation": rotation_task, "contrastive": contrastive_task}[task]()


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--task", required=True, choices=["labels", "rotation", "contrastive", "fractals"]); ask.add_argument("--cifar")
    ask.add_argument("--out", required=True, type=Path); ask.add_argument("--shown", type=int, default=100_000); ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--log", type=Path, default=Path("data/base_models/pretraining_image.csv"))
    told = ask.parse_args()
    if told.task != "fractals" and not told.cifar: ask.error(f"--task {told.task} needs --cifar FOLDER")
    views, begun = 2 if told.task == "contrastive" else 1, time.process_time()
    n = min(50_000, told.shown // views)
    epochs = max(1, round(told.shown / views / n))
    pictures, labels, task = material(told.task, told.cifar, n, told.seed)
    model, history = pretrain_pictures(pictures, task, labels, epochs, 128 // views, seed=told.seed, precision="bfloat16")
    save_body(told.out, model.half(), told.seed)
    guess = math.log({"contrastive": 127}.get(told.task, task.n_out))
    row = [told.task, n * epochs * views, n, epochs, 128, told.seed, *(f"{h['train_loss']:.4f}" for h in (history[0], history[-1])), f"{guess:.4f}", f"{time.process_time() - begun:.0f}"]
    told.log.parent.mkdir(parents=True, exist_ok=True)
    if not told.log.exists(): told.log.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with open(told.log, "a", newline="", encoding="utf-8") as file: csv.writer(file, lineterminator="\n").writerow(row)
    print(dict(zip(COLUMNS, row)))


if __name__ == "__main__":
    main()
