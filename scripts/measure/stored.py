"""What the scripts of measurements share: a CSV file that grows by one row at a time and knows which it has.

A killed run goes on where it was: a row that is there is not measured again, and a line that a kill cut off is taken away
when the file is opened. Two processes may add to one file.
"""
import argparse
import csv
from io import StringIO
from pathlib import Path

import pandas as pd

from finetune_book.checks import InputError

BASE_MODELS = Path(__file__).parents[2] / "data" / "base_models"


class Stored:
    """A CSV file of measured rows; `key` are those of its columns that tell one row from another.

    Raises InputError for a file with other columns."""
    def __init__(self, path, columns, key):
        self.path, self.columns, self.key = Path(path), list(columns), list(key)
        content, header = self.content(), ",".join(self.columns)
        whole = content[:content.rfind("\n") + 1] or header + "\n"
        if whole.split("\n")[0] != header: raise InputError(f"{path}: its columns are not {header}; name another --out")
        if whole != content: self.write(whole)

    def content(self): return self.path.read_text(encoding="utf-8") if self.path.exists() else ",".join(self.columns) + "\n"
    def rows(self, **told): return pd.read_csv(StringIO(self.content()), **(told or dict(dtype=dict(right=str, ten=str))))

    def write(self, text, mode="w"):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, mode, encoding="utf-8") as file: file.write(text)

    def has(self, *key):
        "Whether a row is there; read anew, for another process may work on the same file."
        return tuple(map(str, key)) in {tuple(row[c] for c in self.key) for row in csv.DictReader(StringIO(self.content()))}

    def add(self, *cells, told=None):
        "One more row; what is printed are the first `told` cells of it, or all."
        self.add_all([cells], told)

    def add_all(self, rows, told=None):
        "More rows, in one piece: of a training that gives several, a kill leaves all or none."
        lines = StringIO()
        for cells in rows:
            if len(cells) != len(self.columns): raise ValueError(f"{len(cells)} cells for {len(self.columns)} columns")
            csv.writer(lines, lineterminator="\n").writerow(cells)
        self.write(lines.getvalue() if self.path.exists() else self.content() + lines.getvalue(), "a")
        for cells in rows: print(*cells[:told], flush=True)


def asking(doc, place, seeds):
    "A parser of what all of them take: --seeds, --only, --out (a file of data/base_models) and --table."
    ask = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--seeds", type=int, nargs="+", default=seeds); ask.add_argument("--only", nargs="+", help="names of sets")
    ask.add_argument("--out", type=Path, default=BASE_MODELS / place)
    ask.add_argument("--table", action="store_true", help="measure nothing, show the rows that are there")
    return ask
