"""One fault each, through the command: exit code, the last good report untouched to the byte, nothing left alive, no success claimed."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fault_table
from fault_table import FAULTS, PATIENCE, Row, problem, shown
from finetune_book.checks import InputError
from finetune_book.report.publish import run_report

FAULTY = Path(__file__).parents[1] / "fixtures" / "reports" / "faulty.ipynb"
pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for survivors in /proc")


@pytest.fixture(scope="module")
def rows():
    "The whole table, made once; `pytest -rP` prints it."
    done = subprocess.run([sys.executable, Path(__file__).parents[1] / "helpers/fault_table.py", "--json"], capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode in (0, 1) and done.stdout, done.stderr
    found = [Row(**row) for row in json.loads(done.stdout)]
    print(shown(found))
    return {row.fault: row for row in found}


def test_a_run_hears_the_signals_that_its_caller_ignores(tmp_path):
    "As nohup and a shell's & leave them: a run that never heard of HUP would end with the patience of whoever waits."
    script = f"""
import signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(fault_table.__file__).parent)!r})
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
import finetune_book.cli
from fault_table import Command
finetune_book.cli.main = lambda argv: print([signal.getsignal(n) is signal.SIG_IGN for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]) or 0
command = Command([], {{}}, {str(tmp_path)!r}, [], Path({str(tmp_path)!r}) / "said")
command.wait()
print(*command.output())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[False, False, False]", done.stderr


@pytest.mark.parametrize("fault", [f.name for f in FAULTS])
def test_a_fault(rows, fault): assert problem(rows[fault]) is None


def test_the_page_of_a_failure_is_harmless_and_links_to_the_good_report(rows):
    notice = rows["cell error"].notice
    assert "row 3 is &lt;b&gt;broken" in notice and "<b>broken" not in notice and "\x1b" not in notice and "second line" not in notice
    assert '<a href="faulty.html">' in notice and "This run of faulty failed" in notice


def test_the_page_of_a_failure_says_where_and_what_to_do(rows):
    for fault, todo in {"cell error": "mend it and run again", "kernel SIGKILL": "less to do", "cell timeout": "Allow more time"}.items():
        notice = rows[fault].notice
        assert all(f"<dt>{fact}</dt>" in notice for fact in ("Where", "What to do", "What stands")) and todo in notice and "cell " in notice, fault


@pytest.mark.parametrize("spoil, is_wrong", [({"code": 0}, "exit code"), ({"last_good": "CHANGED"}, "last good"), ({"survivors": [1]}, "left behind"),
                                             ({"litter": [".x.part"]}, "left behind"), ({"out": "reports/faulty.html"}, "stdout"), ({"said": "oops"}, "said"),
                                             ({"notice": ""}, "page of the failure")])
def test_the_table_sees_what_is_wrong(spoil, is_wrong):
    expected = {"code": 3, "says": "failed", "published": False, "page": True}
    good = {"fault": "x", "code": 3, "last_good": "identical", "survivors": [], "litter": [], "out": "", "said": "it failed", "notice": "<p>", "expected": expected}
    assert problem(Row(**good)) is None and is_wrong in problem(Row(**good | spoil))


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/reports"])
def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path, out):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write in the folder"): run_report(FAULTY, out_dir=tmp_path / out, progress=False)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "/tmp/x"])
def test_a_published_name_stays_in_its_folder(tmp_path, name):
    with pytest.raises(InputError, match="without folders"): run_report(FAULTY, out_dir=tmp_path, name=name, progress=False)


def test_a_success_removes_the_page_of_an_earlier_failure(tmp_path):
    (tmp_path / "faulty.failed.html").write_text("old")
    done = run_report(FAULTY, out_dir=tmp_path, progress=False)
    assert not (tmp_path / "faulty.failed.html").exists() and done.html.exists()
