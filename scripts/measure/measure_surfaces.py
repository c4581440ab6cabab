"""What stands between the picture report's score on surface_defects and a higher one: one thing changed at a time.

    python scripts/measure/measure_surfaces.py [--resnet18 FOLDER]     # measures what is missing, then the table
    python scripts/measure/measure_surfaces.py --table                 # the table of the rows that are there

"as the report": book-resnet, everything moves, 48 pixels, crops, mirrors, turns and colours, batches of 32, as many epochs as make
400 steps on the 1,200 carried training pictures, predictions averaged over eight guises. "one guise": not averaged. "without
turns": that, and no quarter turns. "3,600 pictures": other pictures of the same law, as many steps, so no more time.
"lit as the test": 1,200 other pictures whose lamps, camera and texture are drawn as the test's are: what is missing from 1
there is not the shift. "three times the steps". "plain crops": crops alone. "32 pixels".
"ResNet-18, 96 pixels": the network of FOLDER in the place of book-resnet.
Each way is trained with three seeds, keeps its last epoch, and is judged on the 300 validation pictures (the training's
light) and the 600 test pictures (another light). A (way, seed) is one row; rows that are there are not measured again.
"""
import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

from finetune_book import ImageClassifier
from finetune_book.data.sets import surface_defects

COLUMNS = "way,seed,validation,test,n_train,steps,seconds".split(",")
REPORT = dict(tune="full", batch_size=32, size=48, augment="crop+flip+turn+color", guises="flip+turn", verbose=0)
ONE = dict(guises="none")


def pictures(split):
    x, table = surface_defects.load(split)
    return x, table.label.to_numpy(str)


def made(split, sessions):
    x, rows, _ = surface_defects.make_surface_defects(seed=1, sessions={split: sessions})[split]
    return x, np.array([row["label"] for row in rows])


def ways(resnet18):
    "way -> (function that gives the training pictures, steps, settings)."
    def carried(): return pictures("train")
    found = {"as the report": (carried, 400, {}), "one guise": (carried, 400, ONE),
             "without turns": (carried, 400, ONE | dict(augment="crop+flip+color")),
             "lit as the test": (lambda: made("test", 100), 400, {}),
             "3,600 pictures": (lambda: made("train", 300), 400, {}), "three times the steps": (carried, 1200, {}),
             "plain crops": (carried, 400, dict(augment="crop")), "32 pixels": (carried, 400, dict(size=32))}
    return found | ({"ResNet-18, 96 pixels": (carried, 400, dict(base=resnet18, size=96, lr=1e-3))} if resnet18 else {})


def read_rows(path): return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)


def measure(told):
    held, test = pictures("validation"), pictures("test")
    for seed in told.seeds:
        for way, (training, steps, own) in ways(told.resnet18).items():
            done = read_rows(told.out)
            if ((done.way == way) & (done.seed == seed)).any() or told.only and way not in told.only: continue
            begun, (x, y) = time.process_time(), training()
            model = ImageClassifier(seed=seed, epochs=max(1, round(steps * 32 / len(x))), **REPORT | own).fit(x, y)
            row = [way, seed, f"{model.score(*held):.4f}", f"{model.score(*test):.4f}", len(x), steps, f"{time.process_time() - begun:.0f}"]
            new = not told.out.exists()
            with open(told.out, "a", encoding="utf-8") as file:
                if new: file.write(",".join(COLUMNS) + "\n")
                file.write(",".join(f'"{v}"' if "," in str(v) else str(v) for v in row) + "\n")
            print(*row, flush=True)


def table(rows):
    "Mean over seeds and two standard errors to each side."
    def told(v): return f"{v.mean():.3f} ± {2 * v.std(ddof=1) / len(v)**.5:.3f} ({len(v)})"
    return rows.groupby("way", sort=False)[["validation", "test"]].agg(told)


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--resnet18"); ask.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2)); ask.add_argument("--only", nargs="+")
    ask.add_argument("--out", type=Path, default=Path("data/base_models/surfaces.csv")); ask.add_argument("--table", action="store_true")
    told = ask.parse_args()
    if not told.table: measure(told)
    print(table(read_rows(told.out)).to_string())


if __name__ == "__main__":
    main()
