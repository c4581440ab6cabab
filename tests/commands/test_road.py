"The precision and the shortcuts of a training, at the command `train`, in a report and in what is kept: the same words, the same refusals."
import html
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from examples import LABELS, TEXTS
from finetune_book.cli import main
from finetune_book.commands import train
from finetune_book.report.params import parameters_of
from finetune_book.train import fast
from finetune_book.train.fast import PRECISIONS, SHORTCUTS


@pytest.fixture
def notes(tmp_path):
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(tmp_path / "notes.csv", index=False)
    return tmp_path / "notes.csv"


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for label, grey in (("dark", 60), ("light", 190)):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(6): Image.fromarray(rng.integers(grey - 50, grey + 50, (9, 9, 3), dtype=np.uint8)).save(tmp_path / "pictures" / label / f"{i}.png")
    return tmp_path / "pictures"


@pytest.fixture
def faster(monkeypatch):
    "A machine that is faster in bfloat16, whatever this one is."
    monkeypatch.delenv(fast.PINNED)
    monkeypatch.setattr(fast, "knows_bfloat16", lambda device: True)
    monkeypatch.setattr(fast, "product_gain", lambda: 2.)


def test_train_takes_them_and_the_saved_model_and_its_card_say_them(notes, tiny_base, tmp_path, faster):
    code = main(["train", "--data", str(notes), "--base", tiny_base, "--epochs", "1", "--max-length", "16", "--validation", "0", "--quiet",
                 "--precision", "auto", "--shortcuts", "dropout+table", "--out", str(tmp_path / "m")])
    kept = json.loads((tmp_path / "m/finetune_book.json").read_text())
    card = (tmp_path / "m/README.md").read_text()
    assert code == 0 and kept["params"]["precision"] == "auto" and kept["params"]["shortcuts"] == "dropout+table"
    assert kept["precision"] == "bfloat16" and re.search(r"precision\W+bfloat16", card) and re.search(r"shortcuts\W+dropout\+table", card)


def test_train_of_pictures_takes_a_precision(pictures, tiny_picture_base, tmp_path):
    code = main(["train", "--data", str(pictures), "--base", tiny_picture_base, "--size", "8", "--epochs", "1", "--tune", "full", "--quiet",
                 "--validation", "0", "--precision", "bfloat16", "--out", str(tmp_path / "m")])
    assert code == 0 and json.loads((tmp_path / "m/finetune_book.json").read_text())["params"]["precision"] == "bfloat16"


def test_what_is_not_given_is_what_it_was(notes, tiny_base, tmp_path):
    assert main(["train", "--data", str(notes), "--base", tiny_base, "--epochs", "1", "--max-length", "16", "--validation", "0", "--quiet", "--out", str(tmp_path / "m")]) == 0
    params = json.loads((tmp_path / "m/finetune_book.json").read_text())["params"]
    assert (params["precision"], params["shortcuts"]) == ("auto", "auto")


@pytest.mark.parametrize("words, says", [
    (["--precision", "bf16"], "precision='bf16'"), (["--precision", ""], "precision=''"), (["--shortcuts", "luck"], "shortcuts='luck'"),
    (["--shortcuts", "dropout,table"], "shortcuts='dropout,table'"), (["--shortcuts", ""], "shortcuts=''"),
])
def test_train_refuses_other_words_in_one_line(notes, tmp_path, capsys, words, says):
    assert main(["train", "--data", str(notes), *words, "--out", str(tmp_path / "m")]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.splitlines()) == 1 and not (tmp_path / "m").exists()


def test_shortcuts_are_for_texts(pictures, tmp_path, capsys):
    assert main(["train", "--data", str(pictures), "--shortcuts", "all", "--out", str(tmp_path / "m")]) == 2
    assert "--shortcuts is for texts, but these are pictures" in capsys.readouterr().err


def test_the_help_knows_every_word():
    told = {name: train.train.__annotations__[name].__metadata__[0].help for name in ("precision", "shortcuts")}
    assert all(word in told["precision"] for word in PRECISIONS) and all(word in told["shortcuts"] for word in SHORTCUTS)


# --- reports ---------------------------------------------------------------------------------------------------------

def test_reports_declare_them():
    for template in ("finetune_text", "finetune_image"):
        declared = {p.name: p for p in parameters_of(template)}
        assert declared["precision"].choices == PRECISIONS and declared["precision"].default == "auto"
    words = {p.name: p for p in parameters_of("finetune_text")}["shortcuts"]
    assert words.default == "auto" and all(word in words.help for word in SHORTCUTS)


def report(tmp_path, template, **values):
    pairs = [word for name, value in values.items() for word in ("-p", f"{name}={value}")]
    return main(["report", template, "-q", *pairs, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("template", ["finetune_text", "finetune_image"])
def test_a_report_refuses_another_precision_before_it_runs(tmp_path, template, capsys):
    assert report(tmp_path, template, precision="bf16") == 2
    said = capsys.readouterr().err
    assert "precision=" in said and "one of auto, float32, bfloat16, float16, tf32" in said and len(said.splitlines()) == 1


@pytest.mark.usefixtures("warm_kernels")
def test_a_report_refuses_other_shortcuts(tmp_path, notes, tiny_base, capsys):
    assert report(tmp_path, "finetune_text", data=notes, base=tiny_base, shortcuts="luck", max_length=16, allow_leakage="true") == 2
    said = capsys.readouterr().err
    assert "shortcuts='luck'" in said.splitlines()[0] and "Traceback" not in said


@pytest.mark.usefixtures("warm_kernels")
def test_a_report_says_what_it_used(tmp_path, tiny_base):
    rng = np.random.default_rng(0)
    rows = [(f"the {rng.choice(['film', 'room', 'plot'])} was {word} number {rng.integers(10**6)}", label) for _ in range(15)
            for word, label in (("fine", "good"), ("dull", "bad"), ("warm", "good"), ("cold", "bad"))]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "rows.csv", index=False)
    assert report(tmp_path, "finetune_text", data=tmp_path / "rows.csv", base=tiny_base, epochs=1, max_length=24, batch_size=8, precision="bfloat16", shortcuts="all") == 0
    kept = json.loads((tmp_path / "out/finetune_text.json").read_text())
    page = html.unescape(re.sub(r"<[^>]+>", "", (tmp_path / "out/finetune_text.html").read_text()))
    assert kept["metrics"]["precision"] == "bfloat16" and kept["parameters"]["shortcuts"] == "all" and "tune='full', in bfloat16, at a" in page
