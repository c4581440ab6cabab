"""`sweep --search`: what it publishes, that no kill loses a trial, that the commands train with what was found, and what it refuses."""
import json
import os
import shlex
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import REPO, START, refused
from reports import SWEPT

from finetune_book.cli import main
from finetune_book.report.page import TOGGLE
from finetune_book.search import JOURNAL

WORDS = {"weather": "rain wind snow frost".split(), "food": "bread milk salt corn".split()}
ENV = os.environ | {"PYTHONPATH": str(REPO)}


@pytest.fixture(scope="module")
def given(tmp_path_factory, tiny_base):
    "Arguments of a small search of a head, and what it says when nothing disturbs it."
    home, rng = tmp_path_factory.mktemp("search"), np.random.default_rng(0)
    labels = rng.choice(list(WORDS), 120)
    lines = [f"note {i} {' '.join(rng.choice(WORDS[c], 5))},{c}" for i, c in enumerate(labels)]
    (home / "notes.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    args = ["sweep", "finetune_text", "-p", f"data={home}/notes.csv", "-p", f"base={tiny_base}", "-p", "tune=head", "-p", "max_length=16", "-p", "precision=float32",
            "-p", "batch_size=8,16", "-p", "epochs=2,4", "-p", "allow_leakage=true", "--search", "8"]
    assert main([*args, "--out", str(home / "uncut"), "--quiet"]) == 0
    return args, home, json.loads((home / "uncut/finetune_text-search/search.json").read_text())


def without_seconds(found): return [{k: v for k, v in t.items() if k != "seconds"} for t in found["trials"]]


def test_the_page_and_its_data(given):
    args, home, kept = given
    folder = home / "uncut/finetune_text-search"
    page = (folder / "search.html").read_text()
    assert len(kept["trials"]) == 8 and {t["batch_size"] for t in kept["trials"][1:]} <= {8, 16} and {t["epochs"] for t in kept["trials"][1:]} <= {2, 4}
    assert kept["score"] == max(t["score"] for t in kept["trials"]) and kept["held_out"]["n"] > 10 and kept["usual"] == kept["trials"][0]["score"]
    assert "held out" in page and page.count("<script") == 1 and f"<script>{TOGGLE}</script>" in page and "finetune-book train" in page
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and p.name != "trial") == ["search.html", "search.ipynb", "search.json", JOURNAL]


def test_the_same_command_again_tries_nothing_again(given, capsys):
    args, home, kept = given
    assert main([*args, "--out", str(home / "uncut"), "--json"]) == 0
    shown = capsys.readouterr()
    assert '"event": "trial"' not in shown.err
    assert json.loads(shown.out) == kept


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_search_that_is_ended_goes_on_and_loses_no_trial(given, number, tmp_path, capsys):
    "A real process, ended after its third trial: the rest is the rest of the same search."
    args, _, kept = given
    begun = subprocess.Popen([*START, *args, "--out", str(tmp_path), "--json"], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in begun.stderr:
        if line.startswith("{") and json.loads(line).get("ended") == 3: break
    begun.send_signal(number)
    out, err = begun.communicate(timeout=120)
    assert begun.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 6) and out == ""
    if number != signal.SIGKILL: assert err.splitlines()[-1] == f"finetune-book: stopped by {number.name}; the trials that are done are kept, and the same command goes on"
    assert not (tmp_path / "finetune_text-search/search.html").exists()
    assert main([*args, "--out", str(tmp_path), "--json"]) == 0
    again = capsys.readouterr()
    events = [json.loads(line) for line in again.err.splitlines() if line.startswith('{"event": "trial"')]
    assert events[0]["ended"] >= 4 and events[-1]["ended"] == 8
    found = json.loads(again.out)
    assert without_seconds(found) == without_seconds(kept) and found["held_out"] == kept["held_out"] and found["settings"] == kept["settings"]


def test_two_at_once_are_refused(given, capsys):
    from finetune_book.report.publish import locked
    args, home, _ = given
    with locked(home / "uncut/finetune_text-search", "finetune_text-search"):
        assert main([*args, "--out", str(home / "uncut"), "--quiet"]) == 7
    assert "another run of finetune_text-search is writing" in capsys.readouterr().err


def test_the_commands_train_with_what_was_found(given, tmp_path, monkeypatch, capsys):
    _, _, kept = given
    monkeypatch.chdir(tmp_path)
    program, *train = shlex.split(kept["commands"]["train"])
    assert program == "finetune-book" and main([*train, "--quiet"]) == 0
    params = json.loads(next(Path("model").glob("finetune_book*.json")).read_text())["params"]
    told = {k: v for k, v in kept["settings"].items()} | {"tune": "head"}
    assert {k: params[k] for k in told} == told
    report = shlex.split(kept["commands"]["report"])
    assert report[:3] == ["finetune-book", "report", "finetune_text"]
    from finetune_book.report.params import parameters_of, parse_values
    values = parse_values(parameters_of("finetune_text"), report[4::2])
    assert all(values[k] == v for k, v in kept["settings"].items() if k in values and v is not None) and values["tune"] == "head"


def test_what_is_told(given, capsys):
    args, home, kept = given
    assert main([*args, "--out", str(home / "uncut")]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip().endswith("finetune_text-search/search.html")
    assert "which were held out" in shown.err and kept["commands"]["train"] in shown.err and kept["commands"]["report"] in shown.err


@pytest.mark.parametrize("more, says", [
    (["--search", "0"], "--search"), (["--search", "-3"], "--search"), (["--minutes", "3"], "--minutes belongs to a search"), (["--how", "tpe"], "--how belongs to a search"),
    (["--search", "3", "--jobs", "2"], "--jobs belongs to a grid"), (["--search", "3", "--seeds", "2"], "--seeds"), (["--search", "3", "--metric", "x"], "--metric"),
    (["--search", "3", "--minutes", "0"], "minutes=0"), (["--search", "3", "--minutes", "-1"], "minutes=-1"), (["--search", "3", "--minutes", "nan"], "minutes=nan"),
    (["--search", "3", "--how", "tpee"], "'tpe'"), (["--search", "3", "-p", "lrr=3"], "'lr'"), (["--search", "3", "-p", "seed=1,2"], "seed takes one value"), (["--search", "3", "-p", "lr=2"], "lr=2"),
])
def test_a_mistake_is_one_line(more, says, tmp_path, capsys): refused(capsys, ["sweep", "finetune_text", *more, "--out", str(tmp_path)], [says])


@pytest.mark.parametrize("more, says", [
    (["--minutes", "0.0001"], "one trial takes about"), (["-p", "lr=1e-2", "-p", "epochs=3", "-p", "batch_size=8"], "nothing in it"), (["-p", "tune=head,fulll"], "'full'"),
])
def test_a_search_that_cannot_be_is_one_line(given, more, says, tmp_path, capsys):
    args, _, _ = given
    args = [a for i, a in enumerate(args) if not (a == "-p" and args[i + 1].startswith(("batch", "epochs", "tune")) or a.startswith(("batch_", "epochs=", "tune=")))]
    more = more if any(m.startswith("tune=") for m in more) else ["-p", "tune=head", *more]
    refused(capsys, [*args, *more, "--out", str(tmp_path)], [says])
    assert not list(tmp_path.rglob("search.html"))


def test_other_data_on_resume_is_refused_by_name(given, tmp_path, capsys):
    args, home, _ = given
    folder = tmp_path / "finetune_text-search"
    folder.mkdir()
    (folder / JOURNAL).write_bytes((home / "uncut/finetune_text-search" / JOURNAL).read_bytes())
    table = tmp_path / "notes.csv"
    table.write_text((home / "notes.csv").read_text().replace("note 7 ", "note seven "))
    changed = [a.replace(f"{home}/notes.csv", str(table)) for a in args]
    refused(capsys, [*changed, "--out", str(tmp_path)], ["begun with other", "rows"])
    refused(capsys, [*args, "-p", "lr=1e-3,1e-2", "--out", str(tmp_path)], ["begun with other", "space of lr"])


def test_what_lies_in_the_way_stays(given, tmp_path, capsys):
    args, _, _ = given
    (tmp_path / "finetune_text-search").mkdir()
    (tmp_path / "finetune_text-search/search.html").write_text("mine")
    refused(capsys, [*args, "--out", str(tmp_path)], ["is of no search of ours"])


def test_a_report_without_an_estimator_is_refused(tmp_path, capsys):
    refused(capsys, ["sweep", str(SWEPT), "--search", "3", "--out", str(tmp_path)], ["finetune_text, finetune_image"])


def test_pictures(tiny_picture_base, tmp_path, capsys):
    "The same of pictures: augmentation is chosen where the body moves."
    args = ["sweep", "finetune_image", "-p", "data=digits", "-p", f"base={tiny_picture_base}", "-p", "size=8", "-p", "max_train=60", "-p", "epochs=1", "-p", "augment=crop,flip", "--search", "6"]
    assert main([*args, "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {t["augment"] for t in found["trials"][1:]} == {"crop", "flip"} and found["commands"]["train"].startswith("finetune-book train --data digits --label")
