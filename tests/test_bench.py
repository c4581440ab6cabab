"""`make bench` runs the scripts of bench/ and leaves helpers (_*.py) out; `compare` times fairly."""
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
sys.path.insert(0, str(REPO / "bench"))
from _timing import compare  # noqa: E402


def bench(folder):
    shutil.copyfile(REPO / "Makefile", folder / "Makefile")
    done = subprocess.run(["make", "--no-print-directory", "-o", "setup", "bench", f"PY={sys.executable}"], cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="no make on the PATH")
def test_make_bench_runs_scripts_and_leaves_helpers_out(tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/_helper.py").write_text("print('helper ran'); x = 5")
    assert bench(tmp_path) == (0, "bench/ is empty\n")
    (tmp_path / "bench/one.py").write_text("from _helper import x; print(x)")
    assert bench(tmp_path) == (0, "helper ran\n5\n")
    (tmp_path / "bench/another.py").write_text("raise SystemExit(1)")
    assert bench(tmp_path)[0] == 2, "a script that fails is not passed over"


def test_compare_interleaves_and_gives_the_ratio(capsys):
    order = []
    def fast(): order.append("fast"); time.sleep(.002)
    def slow(): order.append("slow"); time.sleep(.02)
    found = compare({"fast": fast, "slow": slow}, rounds=4, at_least_s=0, title="naps")
    assert order[-8:] == ["fast", "slow", "slow", "fast"] * 2, "one of each a round, the order turning"
    assert len(found["slow"]["seconds"]) == 4 and found["fast"]["ratio"] == 1 and found["slow"]["ratio"] > 1.5
    said = capsys.readouterr().out
    assert said.startswith("naps\n") and "times as long" in said and len(said.splitlines()) == 3


def test_short_functions_are_repeated():
    calls = []
    compare({"a": lambda: calls.append(1), "b": lambda: time.sleep(.001)}, rounds=1, at_least_s=.005)
    assert len(calls) > 100


@pytest.mark.parametrize("fns, rounds, says", [({"a": int}, 3, "at least 2"), ({"a": int, "b": int}, 0, "rounds=0")])
def test_compare_refuses(fns, rounds, says):
    with pytest.raises(ValueError, match=says): compare(fns, rounds)
