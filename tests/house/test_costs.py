"""The costs line in each lesson's head is what the table of measurements says; the table has every lesson; the measure sees all."""
import json
import os
from pathlib import Path

import costs
import house
import pytest
from nbclient.exceptions import CellExecutionError

REPO = Path(__file__).parents[2]
LESSONS = {p.stem: p for p in house.lessons(REPO / "nbs")}
ROWS = costs.read()


def test_every_lesson_is_measured_and_no_other():
    assert set(costs.lessons()) == set(LESSONS)
    assert sorted(set(LESSONS) - set(ROWS)) == [], "make costs ARGS='--measure NAME …' measures them"
    assert sorted(set(ROWS) - set(LESSONS)) == [], "make costs drops what is no longer a lesson"
    assert list(ROWS) == sorted(ROWS) and all(r["cpu_seconds"] > 0 < r["peak_mb"] and "one thread" in r["machine"] for r in ROWS.values())


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_says_what_the_table_says(name): assert costs.said(LESSONS[name]) == costs.line(ROWS[name]), "make costs writes the line"


def test_all_lessons_take_less_than_is_allowed(): assert costs.minutes_at(ROWS) < costs.ALLOWED and "under the 15 allowed" in costs.total(ROWS)


# --- the parts -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seconds, mb, says", [
    (.4, 66, "5 s, 66 MB"), (12.4, 264, "10 s, 260 MB"), (12.6, 995, "15 s, 1,000 MB"), (57.4, 1049, "55 s, 1,000 MB"), (57.6, 1051, "1 min, 1,100 MB"),
    (76, 1650, "1.5 min, 1,600 MB"), (130, 12_345, "2 min, 12,000 MB"),
])
def test_a_line_is_rounded(seconds, mb, says): assert costs.line({"cpu_seconds": seconds, "peak_mb": mb}) == says


HEAD = "# A lesson\n\n**Needs** x · **gives** y · **costs** 3 s, 9 MB (two processes)\n\n**摘要** 本课"


def notebook(path, *cells, head=HEAD):
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": head.splitlines(keepends=True)},
             *({"cell_type": "code", "id": f"c{i}", "metadata": {}, "execution_count": None, "outputs": [], "source": c} for i, c in enumerate(cells))]
    nb = {"cells": cells, "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def test_writing_changes_the_line_and_nothing_else(tmp_path):
    path = notebook(tmp_path / "01_a.ipynb")
    before, row = path.read_text(encoding="utf-8"), {"cpu_seconds": 24., "peak_mb": 1234}
    assert costs.write(path, row) and not costs.write(path, row)
    assert path.read_text(encoding="utf-8") == before.replace("3 s, 9 MB (two processes)", "25 s, 1,200 MB") != before


@pytest.mark.parametrize("head", ["# A lesson", HEAD + "\n\n" + HEAD], ids=["none", "two"])
def test_a_lesson_without_its_one_line_is_refused(tmp_path, head):
    with pytest.raises(ValueError, match="lines with"): costs.write(notebook(tmp_path / "01_a.ipynb", head=head), {"cpu_seconds": 1., "peak_mb": 9})


def test_two_at_a_time_is_a_schedule():
    rows = {str(i): {"cpu_seconds": 60. * m} for i, m in enumerate((5, 3, 3, 1))}
    assert costs.minutes_at(rows) == 6 and costs.minutes_at(rows, 1) == 12
    assert "OVER the 15" in costs.total({n: {"cpu_seconds": 1000., "peak_mb": 1} for n in "ab"})


BUSY = "import time\nheld = bytearray(b'x' * {mb}_000_000)\nwhile time.process_time() < {s}: pass"
HELPED = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY.format(mb=200, s=1)!r}], check=True)"


@pytest.mark.skipif(os.name != "posix", reason="CPU seconds of ended processes are told by POSIX alone")
def test_what_a_lesson_starts_counts_too(tmp_path):
    row = costs.measure(notebook(tmp_path / "01_a.ipynb", BUSY.format(mb=300, s=2), HELPED))
    assert row["lesson"] == "01_a" and row["cpu_seconds"] >= 3 and row["peak_mb"] >= 500


def test_a_lesson_that_fails_is_not_stored_and_the_others_are(tmp_path, monkeypatch, capsys):
    def measure(path):
        if path.stem == "02_fails": raise CellExecutionError("ZeroDivisionError in cell 3", "ZeroDivisionError", "")
        return {"lesson": path.stem, "cpu_seconds": 1., "peak_mb": 9, "machine": "2 cores, one thread"}
    monkeypatch.setattr(costs, "measure", measure)
    table, every = tmp_path / "results/costs.csv", {name: tmp_path / f"{name}.ipynb" for name in ("03_c", "02_fails", "01_a")}
    assert costs.measured([], every, table) == ["02_fails"] and "ZeroDivisionError in cell 3" in capsys.readouterr().err
    assert costs.measured(["01_a"], every, table) == [] and list(costs.read(table)) == ["01_a", "03_c"]
