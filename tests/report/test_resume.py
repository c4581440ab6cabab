"""A report that is killed in the middle of a training goes on from there, and nobody can tell from its numbers."""
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reports import RESUMED

from finetune_book.report.publish import failure_notice, forget_state, run_report, state_of, sweep_up

REPO = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "import sys; from finetune_book.cli import main; sys.exit(main())"]


@pytest.mark.usefixtures("warm_kernels")
def test_a_killed_report_goes_on_and_ends_bit_identical(tiny_base, tmp_path):
    marks, whole, cut = (tmp_path / name for name in ("marks", "whole", "cut"))
    marks.mkdir()
    values = {"base": tiny_base, "marks_dir": str(marks)}
    def steps():
        "Numbers of the steps noted since the last call."
        seen = [int(s) for s in (marks / "steps").read_text().split()]
        (marks / "steps").unlink()
        return seen
    first = run_report(RESUMED, values, whole, progress=False)
    assert steps() == list(range(1, 41)) and not first.record["resumed"] and not (whole / ".resumed.state").exists()

    (marks / "slow").touch()
    run = subprocess.Popen([*COMMAND, "report", str(RESUMED), "-p", f"base={tiny_base}", "-p", f"marks_dir={marks}", "--out", str(cut), "-q"],
                           env=os.environ | {"PYTHONPATH": str(REPO)})
    end = time.monotonic() + 1800
    while not list(cut.glob(".resumed.state/*/fine-tuned/checkpoint.pt")) and time.monotonic() < end: time.sleep(.02)
    run.kill()
    run.wait()
    assert list(cut.glob(".resumed.state/*/fine-tuned/checkpoint.pt")) and not list(cut.glob("resumed*"))
    sweep_up(cut / ".resumed.run")        # ends the kernel, as the next start does before anything else
    done, _ = steps(), (marks / "slow").unlink()

    again = run_report(RESUMED, values, cut, progress=False)
    assert again.record["resumed"] and again.metrics_json.read_bytes() == first.metrics_json.read_bytes()
    rest = steps()
    assert 1 <= rest[0] - 1 <= done[-1] < 40 and rest == list(range(rest[0], 41)), "it went on from the checkpoint, not from the start"
    assert again.html.read_bytes() == first.html.read_bytes(), "nor from its page"
    assert not list(cut.glob(".resumed.state")) and not list(cut.glob(".resumed.run"))


def test_other_ingredients_never_meet_a_checkpoint(tmp_path):
    before = {"parameters": {"lr": .1}, "inputs": {"data": {"sha256": "a"}}, "hashes": {"library": "x"}}
    for change in ({"parameters": {"lr": .2}}, {"inputs": {"data": {"sha256": "b"}}}, {"hashes": {"library": "y"}}):
        assert state_of(tmp_path, "r", before | change) != state_of(tmp_path, "r", before)


def test_only_states_are_removed_from_the_folder_of_states(tmp_path):
    before = {"parameters": {}, "inputs": {}, "hashes": {}}
    own, home = state_of(tmp_path, "r", before), tmp_path / ".r.state"
    for name in (own.name, "0" * 16, "notes"): (home / name).mkdir(parents=True)
    state_of(tmp_path, "r", before)
    assert sorted(p.name for p in home.iterdir()) == sorted([own.name, "notes"])
    forget_state(tmp_path, "r")
    assert [p.name for p in home.iterdir()] == ["notes"]
    (home / "notes").rmdir()
    forget_state(tmp_path, "r")
    assert not home.exists()


def test_the_page_of_a_failure_says_that_the_training_was_kept():
    assert "goes on from there" in failure_notice("x", "stopped", True, resumable=True) and "goes on" not in failure_notice("x", "stopped", True)
