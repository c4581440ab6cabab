"""The measurement of a large ResNet with drifted statistics: it goes on where it was, and what it stored is whole."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from finetune_book.vision.recalibrate import batch_norms
from finetune_book.vision.bases import load_image_base


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("measure_drifted_resnet")


@pytest.fixture
def pictures(tmp_path):
    "Six pictures a class and split, as files."
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, grey in (("dark", 60), ("light", 190)):
            (tmp_path / "pictures" / split / label).mkdir(parents=True)
            for i in range(6): Image.fromarray(rng.integers(grey - 50, grey + 50, (9, 9, 3), dtype=np.uint8)).save(tmp_path / "pictures" / split / label / f"{i}.png")
    return tmp_path / "pictures"


def test_rows_are_measured_once(script, pictures, tiny_picture_base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "SIZE", 8)
    short = dict(epochs=1, lr=.01, verbose=0)
    for name, told in (("HEAD", dict(tune="head", size=8)), ("WHOLE", dict(size=8)), ("SMALL", {})): monkeypatch.setattr(script, name, told | short)
    out = tmp_path / "rows.csv"
    script.measure(pictures, tiny_picture_base, 1, "cpu", out, ["pixels", "frozen, recalibrated"])
    assert list(pd.read_csv(out).rung) == ["pixels", "frozen, recalibrated"]
    for _ in range(2): script.measure(pictures, tiny_picture_base, 2, "cpu", out, None)
    rows = pd.read_csv(out)
    assert list(rows) == script.COLUMNS and len(rows) == 1 + 5 * 2 and not rows.duplicated(["rung", "seed", "device"]).any()
    assert set(rows.n_train) == set(rows.n_test) == {12}


def test_only_the_statistics_are_taken_anew(script, pictures, tiny_picture_base, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SIZE", 8)
    script.recalibrated(tiny_picture_base, script.read(pictures, 8)["train"][0], tmp_path / "mended")
    before, after = (load_image_base(str(folder), 2)[0] for folder in (tiny_picture_base, tmp_path / "mended"))
    moved = {n for n, t in before.state_dict().items() if not torch.equal(t, after.state_dict()[n]) and not n.startswith("fc.")}
    assert moved and all("running" in n or "num_batches" in n for n in moved) and len(batch_norms(after)) > 1


def test_stored_rows_are_whole(repo, script):
    rows = pd.read_csv(repo / "data/base_models/drifted_resnet.csv")
    assert list(rows) == script.COLUMNS and not rows.duplicated(["rung", "seed", "device"]).any()
    assert set(rows.n_train) == {2000} and set(rows.n_test) == {1000} and ((rows.accuracy * 1000).round(6) % 1 == 0).all()
    of = rows.groupby("rung").accuracy.mean()
    assert of["frozen, recalibrated"] >= .70 and of["fine-tuned"] >= .80 and of["frozen, as it came"] < .5
