"""The notebook runner passes what runs to the end, and nothing else."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import run_notebooks

REPO = Path(__file__).parents[2]
LEAK = "import os, sys, string\nassert 'LEAK' not in os.environ and not hasattr(string, 'leak')\nos.environ['LEAK'] = '1'; string.leak = 1"


def book(folder, **notebooks):
    "Write notebooks NAME=[cell, …] into folder/nbs; a dict instead of a list is a notebook as it is."
    nbs = folder / "nbs"
    nbs.mkdir()
    for name, cells in notebooks.items():
        nb = cells if isinstance(cells, dict) else notebook(cells)
        (nbs / f"{name}.ipynb").write_text(json.dumps(nb))
    return nbs


def notebook(cells, language="python", first=None):
    code = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "execution_count": None, "outputs": [], "source": c} for i, c in enumerate(cells)]
    return {"cells": ([first] if first else []) + code, "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": language}},
            "nbformat": 4, "nbformat_minor": 5}


def run(nbs, *options):
    done = subprocess.run([sys.executable, REPO / "tests/house/run_notebooks.py", "--nbs", nbs, *options], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_sound_notebooks_pass_and_are_counted(tmp_path):
    (tmp_path / "nbs/reports").mkdir(parents=True)
    (tmp_path / "nbs/reports/big.ipynb").write_text(json.dumps(notebook(["1/0"])))
    for name in ("01_a", "02_b"): (tmp_path / f"nbs/{name}.ipynb").write_text(json.dumps(notebook([LEAK, "x = 1", "#| eval: false\n1/0"])))
    code, out, err = run(tmp_path / "nbs", "--jobs", "1")
    assert code == 0, err
    assert "notebooks: 2 of 2 passed, 4 cells ran" in out and "left out: big.ipynb" in out


RAW = {"cell_type": "raw", "id": "r", "metadata": {}, "source": "---\nskip_exec: true\n---"}
BAD = {
    "01_raises": (["x = 1", "1/0", "y = 2"], "cell 2 of 3 failed"),
    "02_language": (notebook(["x = 1"], language="Python"), "0 of 1 cells ran"),
    "03_skipped": (notebook(["x = 1"], first=RAW), "0 of 1 cells ran"),
    "04_exits": (["import sys; sys.exit(0)", "x = 1"], "cell 1 of 2 failed"),
    "05_dies": (["import os; os._exit(0)"], "ended with exit code 0 before the last cell"),
    "06_killed": (["import os, signal; os.kill(os.getpid(), signal.SIGKILL)"], "ended with exit code -9"),
    "07_syntax": (["x = ("], "cell 1 of 1 failed"),
    "08_asserts": (["assert 1 == 2, 'on purpose'"], "on purpose"),
}


@pytest.fixture(scope="module")
def bad_run(tmp_path_factory): return run(book(tmp_path_factory.mktemp("bad"), **{n: cells for n, (cells, _) in BAD.items()}))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_notebook_is_seen(bad_run, name):
    code, out, err = bad_run
    said = next(block for block in err.split("\nFAILED ") if f"{name}.ipynb" in block)
    assert code == 1 and BAD[name][1] in said
    assert f"notebooks: 0 of {len(BAD)} passed" in out


def test_a_notebook_that_hangs_is_ended_with_what_it_started(tmp_path):
    pid = tmp_path / "pid"
    cell = f"import subprocess, time\np = subprocess.Popen(['sleep', '300'])\nopen({str(pid)!r}, 'w').write(str(p.pid))\ntime.sleep(300)"
    code, _, err = run(book(tmp_path, **{"01_hangs": [cell]}), "--timeout", "6")
    assert code == 1 and "still running after 6 s" in err
    child = int(pid.read_text())
    for _ in range(50):
        if not alive(child): break
        time.sleep(.1)
    assert not alive(child)


def alive(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    state = Path(f"/proc/{pid}/stat")  # a child nobody waits for stays as a zombie; that counts as ended
    return not (state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_an_empty_book_fails(tmp_path): assert run(book(tmp_path))[0] == 1


def test_the_longest_starts_first(tmp_path):
    for name, cost in (("01_a", "2 s"), ("02_b", "40 s"), ("03_c", "about 9 s"), ("04_d", "1.5 min"), ("05_e", "1 min")):
        (tmp_path / f"{name}.ipynb").write_text(f"**Needs** x · **gives** y · **costs** {cost}, 90 MB")
    order = sorted(tmp_path.glob("*.ipynb"), key=run_notebooks.expected_seconds, reverse=True)
    assert [p.stem for p in order] == ["04_d", "05_e", "02_b", "03_c", "01_a"]
