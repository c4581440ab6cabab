"""Reports that several test files look at, each made once."""
import shutil
from pathlib import Path

import pytest
from reports import HOSTILE_TEXTS, START, TINY, write_template

from finetune_book.report import publish
from finetune_book.report.publish import run_report

GAIN = '''
import numpy as np
from finetune_book.judge.bootstrap import paired_difference
from finetune_book.losses import binary_cross_entropy
from finetune_book.judge.metrics import accuracy
rng = np.random.default_rng(seed)
right = (rng.random((2, 200)) < [[.70], [.74]]).astype(int)
gain = paired_difference(accuracy, np.ones(200, int), *right, names=("old", "new"))
loss = binary_cross_entropy(rng.normal(size=200), right[0])
print(gain.sentence)
'''


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    "The tiny report twice with the same parameters."
    folder = tmp_path_factory.mktemp("runs")
    values = {"epochs": 5, "lr": 1, "note": "\n".join(HOSTILE_TEXTS), "ks": [3], "shuffle": False, "group": "pa$ti$ent", "seed": 7}
    return [run_report(TINY, values, folder / name, progress=False) for name in "ab"]


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    "(folder of reports, template, parameters): a report over two functions of the library, with a file as its data."
    home = tmp_path_factory.mktemp("made")
    notes = home / "notes.csv"
    notes.write_text("text,label\nfever,flu\n")
    path = write_template(home / "gain.ipynb", "seed = 1  # draws the rows [0..]\ndata = 'none'  # a file\nwork_dir = None  # a folder to write in",
                          START + "parameters = require()", GAIN,
                          "import os\nfound = os.listdir(work_dir) if work_dir and os.path.isdir(work_dir) else []\n"
                          "if work_dir: os.makedirs(work_dir, exist_ok=True); open(os.path.join(work_dir, 'state'), 'w').close()",
                          "record(metrics={'gain': gain, 'loss': loss, 'found': found})")
    values = {"data": str(notes), "work_dir": str(home / "work")}
    run_report(path, values, home / "reports", progress=False)
    return home / "reports", path, values


@pytest.fixture
def folder(made, tmp_path):
    "A copy of the published files, to spoil."
    return Path(shutil.copytree(made[0], tmp_path / "reports", ignore=shutil.ignore_patterns(".*")))


@pytest.fixture
def no_run(monkeypatch):
    def refuse(*args, **kw): raise AssertionError("a kernel was started")
    monkeypatch.setattr(publish, "run_cells", refuse)
