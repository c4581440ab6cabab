"""Small pictures with several labels each and a number, and the table that lists them."""
import numpy as np
import pandas as pd
from PIL import Image

SIDES = {"left": np.s_[:, :8], "right": np.s_[:, 8:], "top": np.s_[:8]}


def marked_pictures(folder, n=60, seed=0):
    """Noise of 16 by 16 pixels, brighter on some of its sides; the table of path, label (such as `left;top`, empty for
    none), shade (a number) and roll (two pictures of each), saved as `folder/table.csv`."""
    rng, rows = np.random.default_rng(seed), []
    (folder / "shots").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        given, shade = [side for side in SIDES if rng.random() < .5], int(rng.integers(0, 90))
        picture = rng.integers(0, 60, (16, 16, 3)) + shade
        for side in given: picture[SIDES[side]] += 35
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"shots/{i:03d}.png")
        rows.append((f"shots/{i:03d}.png", ";".join(given), shade + .5, f"r{i // 2}"))
    table = pd.DataFrame(rows, columns=["path", "label", "shade", "roll"])
    table.to_csv(folder / "table.csv", index=False)
    return table
