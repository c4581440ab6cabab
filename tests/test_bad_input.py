"""Every bad input a person is likely to give, through the command: one line, exit code 2, nothing written."""
import os
import pickle
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from commands import START, refused

pytestmark = pytest.mark.usefixtures("warm_kernels")
#: sixteen texts that share few words: copies of each other would have to stay on one side of a split
THINGS = "the room,a breakfast of eggs,our balcony upstairs,every waiter,that small pool,his bathroom tap,their garden,this lift".split(",")
GOOD = [(f"{thing} {verdict}", label) for thing in THINGS for verdict, label in [("was good and clean", "yes"), ("sounded loud, smelled bad", "no")]]


def csv(folder, rows, name="notes.csv", columns=("text", "label")):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False)
    return str(path)


def splits(folder, train, test):
    csv(folder / "set", train, "train.csv"); csv(folder / "set", test, "test.csv")
    return str(folder / "set")


def written(folder, content):
    (folder / "notes.csv").write_bytes(content)
    return str(folder / "notes.csv")


def base_folder(folder, **files):
    base = folder / "base"
    base.mkdir()
    for name, content in files.items(): (base / name.replace("__", ".")).write_bytes(content)
    return str(base)


TABLES = {
    "missing file": (lambda f: str(f / "gone.csv"), ["gone.csv", "no such file"]),
    "empty file": (lambda f: written(f, b""), ["notes.csv", "empty"]),
    "wrong column": (lambda f: csv(f, GOOD, columns=("note", "said")), ["'text'", "'note', 'said'"]),
    "not UTF-8": (lambda f: written(f, "text,label\ncafé,a\n".encode("latin-1")), ["UTF-8", "line 2"]),
    "NaN text": (lambda f: csv(f, [*GOOD, (None, "yes")]), ["row 17", "empty text"]),
    "blank text": (lambda f: csv(f, [*GOOD, ("   ", "yes")]), ["row 17", "empty text"]),
    "one class only": (lambda f: csv(f, [(t, "yes") for t, _ in GOOD]), ["only 1 class", "yes"]),
    "a class with one row": (lambda f: csv(f, [*GOOD, ("so so", "maybe")]), ["maybe", "1"]),
    "label in test never seen in train": (lambda f: splits(f, GOOD, [("so so", "maybe"), ("fair", "yes")]), ["maybe", "never in train"]),
}
#: only the report compares splits; `train` takes the training rows of a folder
REPORT_ONLY = {"label in test never seen in train", "duplicate rows across splits"}
SETTINGS = [(name, value) for name in ("epochs", "lr", "batch_size") for value in ("0", "-1")]


@pytest.mark.parametrize("case", [name for name in TABLES if name not in REPORT_ONLY])
def test_train_refuses_the_table(case, tmp_path, capsys):
    make, says = TABLES[case]
    refused(capsys, ["train", "-q", "--data", make(tmp_path), "--out", str(tmp_path / "model")], says)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("case", ["missing file", "wrong column", "a class with one row", "label in test never seen in train"])
def test_the_report_refuses_the_table(case, tmp_path, capsys):
    make, says = TABLES[case]
    refused(capsys, ["report", "finetune_text", "-q", "-p", f"data={make(tmp_path)}", "--out", str(tmp_path / "out")], says)
    assert not (tmp_path / "out" / "finetune_text.html").exists()


def test_the_report_refuses_duplicate_rows_across_splits(tmp_path, capsys):
    source = splits(tmp_path, GOOD, [GOOD[0], ("an unseen and rather different sentence", "no")])
    refused(capsys, ["report", "finetune_text", "-q", "-p", f"data={source}", "--out", str(tmp_path / "out")], ["leak", "allow_leakage=true", GOOD[0][0]])
    assert not (tmp_path / "out" / "finetune_text.html").exists()


@pytest.mark.parametrize("name, value", SETTINGS)
def test_settings_that_cannot_work(name, value, tmp_path, capsys):
    refused(capsys, ["train", "-q", "--data", csv(tmp_path, GOOD), f"--{name.replace('_', '-')}", value, "--out", str(tmp_path / "model")], [f"{name}={value}"])
    refused(capsys, ["report", "finetune_text", "-q", "-p", f"{name}={value}", "--out", str(tmp_path / "out")], [name, value])
    assert not (tmp_path / "model").exists() and not (tmp_path / "out" / "finetune_text.html").exists()


def test_an_unknown_base_is_refused_in_under_a_second(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    args = ["train", "-q", "--data", csv(tmp_path, GOOD), "--base", "no-such/base", "--out", str(tmp_path / "model")]
    refused(capsys, args, ["no-such/base", "offline"])                    # the first call also pays for imports
    assert refused(capsys, args, ["no-such/base"]) < 1


@pytest.mark.parametrize("files, says", [
    (dict(config__json=b'{"model_type": "bert"}'), ["no weights"]),
    (dict(config__json=b'{"model_type": "bert"}', pytorch_model__bin=pickle.dumps({})), ["pytorch_model.bin", "safetensors"])])
def test_a_base_folder_that_cannot_be_used(files, says, tmp_path, capsys):
    base = base_folder(tmp_path, **files)
    refused(capsys, ["train", "-q", "--data", csv(tmp_path, GOOD), "--base", base, "--out", str(tmp_path / "model")], says)
    assert not (tmp_path / "model").exists()


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    "Root may write anywhere but into the kernel's own tree, so that stands for a read-only folder."
    refused(capsys, ["train", "-q", "--data", csv(tmp_path, GOOD), "--out", "/proc/model"], ["/proc/model", "cannot be written"])
    refused(capsys, ["report", "finetune_text", "-q", "--out", "/proc/reports"], ["/proc/reports", "cannot write"])


def test_strange_texts_are_no_mistake(tmp_path, tiny_base):
    "A text of 100,000 characters, emoji and right-to-left writing train and predict; long ones are cut, with a warning."
    rows = [*GOOD, ("word " * 20_000, "yes"), ("😀😀 👩‍👩‍👧 good", "yes"), ("غرفة نظيفة", "no"), ("‮מלון טוב", "no")]
    done = subprocess.run([*START, "train", "-q", "--data", csv(tmp_path, rows), "--base", str(tiny_base),
                           "--epochs", "1", "--max-length", "16", "--out", str(tmp_path / "model")],
                          capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)})
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "model" / "model.safetensors").exists()
