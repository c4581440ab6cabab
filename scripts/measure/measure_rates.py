"""Measure which learning rate suits the methods that move little, on a larger base for pictures: one training a row, judged on
600 pictures of the training file that are not drawn, written to a CSV file as soon as it is done.

    FINETUNE_BOOK_REAL_DATA=FOLDER OMP_NUM_THREADS=1 python scripts/measure/measure_rates.py --base resnet18=FILE
    python scripts/measure/measure_rates.py --table        # the table of the rows that are there

FILE is the .pth of PyPI's exposuremodelf, a ResNet-18 of ImageNet, its running averages taken anew as measure_drifted_resnet.py
does; CIFAR-10 below the folder or with --cifar; 64 pictures per class, brought to 64 pixels, batches of 32, about 100 steps.
`ImageRows.rates_for` is chosen by it: body 1e-3 and head 1e-2, of which LoRA takes 2.5e-3, AdaLoRA 5e-3, adapters 2.5e-3 and BitFit
1e-2. Before, the head's was 3e-2 for every base, and LoRA, at 7.5e-3, was left near chance.
"""
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import measure_drifted_resnet as drifted  # noqa: E402
from measure_bases import drawn  # noqa: E402
from measure_defaults import picture_sets  # noqa: E402
from measure_which_method import in_fresh_process, settings_of  # noqa: E402
from stored import Stored, asking  # noqa: E402

from finetune_book import ImageClassifier  # noqa: E402

KEY = ["base", "method", "lr", "seed"]
COLUMNS = [*KEY, "n_train", "n_held", "accuracy"]
TRIED = {"full": (1e-3,), "lora": (1.25e-3, 2.5e-3, 5e-3), "adalora": (2.5e-3, 5e-3, 1.5e-2),
         "adapter": (2.5e-3, 5e-3, 7.5e-3), "bitfit": (2.5e-3, 1e-2, 2.5e-2)}
DRAWN, HELD, SIZE, SEEDS = 64, 600, 64, (0, 1)


def trained(settings, few, held):
    "Accuracy on pictures held back."
    return float((ImageClassifier(**settings).fit(*few).predict(held[0]) == held[1]).mean())


def measure(asked, name, place):
    stored, (x, y) = Stored(asked.out, COLUMNS, KEY), picture_sets(asked.cifar)["cifar10"][0]
    for seed in asked.seeds:
        rows = drawn(y, DRAWN, seed)
        held = np.random.default_rng(9).permutation(np.setdiff1d(np.arange(len(y)), rows))[:HELD]
        for method, lr in ((m, lr) for m in asked.methods for lr in TRIED[m]):
            if stored.has(name, method, f"{lr:g}", seed): continue
            settings = settings_of("pictures", place, method, seed, len(rows), SIZE) | dict(lr=lr)
            found = in_fresh_process(trained, settings, (x[rows], y[rows]), (x[held], y[held]))
            stored.add(name, method, f"{lr:g}", seed, len(rows), len(held), f"{found:.5f}")


def table(rows): return rows.groupby(["base", "method", "lr"], sort=False).accuracy.agg(["mean", "min", "max", "count"]).round(4)


def main(argv=None):
    real = os.environ.get("FINETUNE_BOOK_REAL_DATA")
    ask = asking(__doc__, "rates.csv", SEEDS)
    ask.add_argument("--cifar", default=real and f"{real}/images/cifar10", help="folder with train and test of CIFAR-10")
    ask.add_argument("--base", metavar="NAME=FILE", help="the base that is measured"); ask.add_argument("--methods", nargs="+", choices=TRIED, default=list(TRIED))
    asked = ask.parse_args(argv)
    if not asked.table and not (asked.base and asked.cifar): ask.error("--base NAME=FILE and --cifar FOLDER are needed")
    if not asked.table:
        name, file = asked.base.split("=", 1)
        with tempfile.TemporaryDirectory() as work:
            seen = drifted.read(asked.cifar, SIZE)["train"][0]
            measure(asked, name, str(drifted.recalibrated(file, seen, Path(work) / "recalibrated", SIZE)))
    print(table(Stored(asked.out, COLUMNS, KEY).rows(dtype=None)).to_string())


if __name__ == "__main__":
    main()
