"""Notebooks as people have them: run before, with Jupyter's tags, of another language, beside files of the same name."""
import json

import nbformat
import pytest
from nbformat import v4
from reports import START, write_template

from finetune_book.checks import InputError
from finetune_book.cli import main
from finetune_book.report.fresh import reasons_to_run
from finetune_book.report.params import Opened, parameters_of
from finetune_book.report.publish import is_private, run_report, sweep_up
from finetune_book.report.template import language_of, read_template
from finetune_book.report.verify import verify_report


def edited(path, change):
    nb = nbformat.read(path, 4)
    change(nb)
    nbformat.write(nb, path)
    return path


def tagged(nb, index, *tags): nb.cells[index].metadata["tags"] = list(tags)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    "(template, folder) of a notebook that papermill ran with x = 7, run as a report; it holds a cell that raises and one that is skipped."
    home = tmp_path_factory.mktemp("ran")
    path = write_template(home / "ran.ipynb", "x = 1  # a number [0..9]", "# Parameters\nx = 7\n", START + "v = require()", "1/0", "1/0", "print('after')",
                          "record(metrics={'f1': x / 10})")
    def change(nb):
        tagged(nb, 2, "injected-parameters")
        tagged(nb, 4, "raises-exception")
        tagged(nb, 5, "skip-execution")
        nb.cells[5].outputs = [v4.new_output("stream", text="from an earlier run")]
    run_report(edited(path, change), {}, home / "reports", progress=False)
    return path, home / "reports"


def test_values_of_an_earlier_run_are_recorded_and_verified(ran):
    path, folder = ran
    record = json.loads((folder / "ran.json").read_text())
    assert record["parameters"] == {"x": 7} and record["changed"] == ["x"] and record["metrics"] == {"f1": .7}
    assert verify_report("ran", folder, progress=False).inside
    assert reasons_to_run(path, {}, folder) == [] == reasons_to_run(folder / "ran.ipynb", {}, folder)   # also our own notebook, run again
    assert Opened.of(path, {"x": 3}).given == {"x": 3} and Opened.of(folder / "ran.ipynb").given == {"x": 7}
    assert [c.source for c in Opened.of(path).nb.cells if c.source.startswith("# Parameters")] == []


def test_values_of_an_earlier_run_are_checked(tmp_path):
    for value, says in (("x = 70", "x=70: must be"), ("y = 7", "unknown parameter 'y'"), ("x = f()", "is not `name = literal")):
        path = write_template(tmp_path / "x.ipynb", "x = 1  # a number [0..9]", f"# Parameters\n{value}\n")
        with pytest.raises(InputError, match="the cell of an earlier run") as caught: Opened.of(edited(path, lambda nb: tagged(nb, 2, "injected-parameters")))
        assert says in str(caught.value)


def test_tags_are_followed_and_told(ran):
    _, folder = ran
    record, page = json.loads((folder / "ran.json").read_text()), (folder / "ran.html").read_text()
    assert [c["raised"] for c in record["cells"]].count(True) == 1 and record["skipped"] == ["A title"]
    assert "This cell did not run: it is tagged skip-execution." in page and "from an earlier run" not in page
    assert "The error below is expected: this cell is tagged raises-exception." in page and "ZeroDivisionError" in page and "after" in page


@pytest.mark.parametrize("metadata, language", [
    ({"kernelspec": {"name": "ir", "language": "R", "display_name": "R"}, "language_info": {"name": "R"}}, "R"), ({"kernelspec": {"name": "ir"}}, "R"),
    ({"kernelspec": {"name": "conda-env-stats-r"}}, "R"), ({"kernelspec": {"name": "julia-1.10"}}, "Julia"), ({"language_info": {"name": "julia"}}, "julia"),
    ({"kernelspec": {"name": "bash"}}, "Bash"), ({"kernelspec": {"name": "mine", "language": "scala"}}, "scala"), ({"kernelspec": {"name": "xcpp17"}}, "C++")])
def test_another_language_is_one_line(tmp_path, metadata, language, capsys):
    path = write_template(tmp_path / "x.ipynb", "x <- 1  # a number")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metadata": metadata}))
    assert main(["report", str(path), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert f"this notebook is in {language};" in err and len(err.splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("metadata", [
    {}, {"kernelspec": {"name": "conda-env-foo-py"}}, {"kernelspec": {"name": "k", "language": "Python"}}, {"kernelspec": {"name": "venv", "display_name": "R?"}},
    {"kernelspec": {"name": "python3"}, "language_info": {"name": "R"}}, {"language_info": {"name": "ipython"}}, {"kernelspec": None},
    {"kernelspec": {"name": "gone"}, "language_info": {"name": "python", "version": "3.7"}}, {"kernelspec": {"name": "Python [conda env:x]"}}])
def test_python_under_any_name(tmp_path, metadata):
    path = write_template(tmp_path / "x.ipynb", "x = 1  # a number")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metadata": metadata}))
    assert [p.name for p in parameters_of(path)] == ["x"] and language_of(read_template(path)).lower().startswith(("python", "ipython"))


@pytest.mark.parametrize("name", ["mine.ipynb", "mine.html", "mine.json", "mine.metrics.json"])
def test_files_that_are_not_ours_stay(tmp_path, name):
    path = write_template(tmp_path / "mine.ipynb", "x = 1")
    where = tmp_path if name == "mine.ipynb" else tmp_path / "out"
    where.mkdir(exist_ok=True)
    if name != "mine.ipynb": (where / name).write_text("{}")
    before = (where / name).read_bytes()
    says = "is what is read" if name == "mine.ipynb" else "no report of ours; it stays: name another folder with --out"
    with pytest.raises(InputError, match=says): run_report(path, out_dir=where, progress=False)
    assert (where / name).read_bytes() == before


def test_a_note_of_a_killed_run_removes_only_a_folder_of_ours(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    for content in (json.dumps({"token": "t-0", "folder": str(precious)}), "[1]", '{"token": "t-0"}', "{"):
        (tmp_path / ".x.run").write_text(content)
        sweep_up(tmp_path / ".x.run")
        assert precious.is_dir()
    assert not is_private("/etc/ftb-x") and not is_private(precious)
