"""The script that makes book-resnet: the teacher looks once, what is there is not made again, and what is carried fits its card."""
import argparse
import json

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

from finetune_book.data.tables import carried
from finetune_book.vision.seen import SEEN, were_seen
from finetune_book.vision.bases import load_image_base
from finetune_book.vision.resnet import resnet18


@pytest.fixture(scope="module")
def script(load_script):
    "The script, made small: pictures of 8 pixels, enlarged to 32 for the teacher."
    module = load_script("make_book_resnet")
    module.SIDE, module.BATCH, module.RECALIBRATED, module.MAPS = 32, 16, 64, {"third.npy": (256, 2, 2), "fourth.npy": (512, 1, 1)}
    return module


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    "A random teacher, 64 random pictures, and folders."
    tmp = tmp_path_factory.mktemp("made")
    save_file({k: v for k, v in resnet18(2, seed=1).state_dict().items()}, tmp / "teacher.safetensors")
    pictures = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp / "train.npz", pictures=pictures)       # no labels: none is read
    (tmp / "out").mkdir()
    return argparse.Namespace(teacher=tmp / "teacher.safetensors", cifar=tmp, work=tmp / "work", out=tmp / "out", epochs=2)


def test_it_makes_a_base_and_the_teacher_looks_once(script, told, monkeypatch):
    script.train(told)
    made = {p.name for p in told.out.iterdir()}
    assert made == {"config.json", "model.safetensors", "preprocessor_config.json", "result.json", "seen.npy", "training_log.csv"}
    model, prep = load_image_base(str(told.out), 3)
    assert model.fc.out_features == 3 and prep.size == 32 and len(pd.read_csv(told.out / "training_log.csv")) == 2
    assert not list(told.work.glob("*.part")) and all(np.isfinite(np.load(told.work / name)).all() for name in script.MAPS)
    monkeypatch.setattr(script, "open_teacher", lambda *given: pytest.fail("the maps are there"))
    weights = (told.out / "model.safetensors").read_bytes()
    script.train(told)                                   # finished: the state says so, and nothing is trained again
    assert (told.out / "model.safetensors").read_bytes() == weights and len(pd.read_csv(told.out / "training_log.csv")) == 2


def test_what_is_carried_fits_its_card(repo):
    folder = carried("book-resnet")
    result, log, card = json.loads((folder / "result.json").read_text()), pd.read_csv(folder / "training_log.csv"), (folder / "README.md").read_text()
    assert len(log) == result["epochs"] == log.epoch.max() and log.train_loss.iloc[-1] == pytest.approx(result["loss"], abs=1e-3)
    assert f"{result['epochs']} passes in batches of {result['batch']}" in card and f"{result['n_train']:,} training pictures" in card
    assert sum(f.stat().st_size for f in folder.iterdir()) < 12e6
    noise = np.random.default_rng(0).integers(0, 256, (3000, 32, 32, 3), dtype=np.uint8)
    assert were_seen(np.load(folder / SEEN, allow_pickle=False), noise).mean() < .002


def test_the_help_says_what_is_needed(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["make_book_resnet.py", "--teacher", "x"])
    with pytest.raises(SystemExit) as caught: script.main()
    assert caught.value.code == 2 and "--cifar" in capsys.readouterr().err
