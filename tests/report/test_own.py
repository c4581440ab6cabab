"""A report of one's own: written once, never over something else, and it is a report like any other."""
import json

import pytest

from finetune_book.checks import InputError
from finetune_book.cli import main
from finetune_book.report.own import kinds, new_report
from finetune_book.report.params import parameters_of
from finetune_book.report.template import read_template, template_folder, templates
from marked_pictures import marked_pictures


@pytest.mark.parametrize("kind", kinds())
def test_a_new_report_has_the_parts(tmp_path, kind):
    path = new_report(tmp_path / "sales_by_week.ipynb", kind)
    nb, declared = read_template(path), parameters_of(path)
    sources = [c.source for c in nb.cells if c.cell_type == "code"]
    assert nb.cells[0].source.startswith("# Sales by week\n\n> ") and all(p.help for p in declared) and any(p.low is not None for p in declared)
    assert "require()" in sources[1] and "record(" in sources[-1] and "show_answer(" in sources[-1]
    assert not any(c.get("outputs") for c in nb.cells)
    assert sum(len(s.splitlines()) for s in sources) < 80
    kept = read_template(template_folder() / f"_own_{kind}.ipynb")
    assert [c.source for c in nb.cells[1:]] == [c.source for c in kept.cells[1:]]      # a notebook of the package, not a text in the code


def test_what_is_there_stays(tmp_path):
    (tmp_path / "x.ipynb").write_text("mine")
    (tmp_path / "link.ipynb").symlink_to(tmp_path / "nowhere.ipynb")
    for name in ("x.ipynb", "link.ipynb"):
        with pytest.raises(InputError, match="is there and stays as it is"): new_report(tmp_path / name)
    assert (tmp_path / "x.ipynb").read_text() == "mine" and not (tmp_path / "nowhere.ipynb").exists()
    for name, says in (("plan", "call it plan.ipynb"), ("no/x.ipynb", "there is no folder"), ("x.ipynb/y.ipynb", "there is no folder")):
        with pytest.raises(InputError, match=says): new_report(tmp_path / name)
    with pytest.raises(InputError, match="kind=\"?'?sound"): new_report(tmp_path / "z.ipynb", "sound")
    assert kinds() == ["image", "text"]


@pytest.mark.usefixtures("warm_kernels")
def test_a_report_on_pictures_runs_as_it_is_and_holds(tmp_path, capsys, monkeypatch):
    "new → report → verify; here on small pictures."
    monkeypatch.chdir(tmp_path)
    table = marked_pictures(tmp_path, 80)
    table.assign(side=[label.split(";")[0] or "none" for label in table.label]).to_csv("belts.csv", index=False)
    assert main(["new", "--kind", "sound", "x.ipynb"]) == 2
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 1 and "must be one of image, text" in shown.err and not (tmp_path / "x.ipynb").exists()
    assert main(["new", "--kind", "image", "my_belts.ipynb"]) == 0
    values = dict(data="belts.csv", label="side", group="roll", base="scratch", size=16, epochs=1)
    assert main(["report", "my_belts.ipynb", "-q", "--out", "out", *(word for pair in values.items() for word in ("-p", "=".join(map(str, pair))))]) == 0
    m, page = json.loads((tmp_path / "out/my_belts.json").read_text())["metrics"], (tmp_path / "out/my_belts.html").read_text()
    assert list(m["ladder"]) == ["majority", "pixels + logistic regression", "fine-tuned"] and m["answer"]["stands"] in ("better", "worse", "no clear difference")
    assert "Which of 4 classes do pictures belong to?" in page and "no roll on two sides" in page and "<h1" in page and "My belts" in page
    capsys.readouterr()
    assert main(["verify", "my_belts", "--out", "out", "-q"]) == 0


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my_report.ipynb"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "my_report.ipynb\n" and shown.err == "next: finetune-book report my_report.ipynb\n"
    assert main(["new", "my_report.ipynb"]) == 2 and "is there and stays" in capsys.readouterr().err
    assert main(["report", "my_report.ipynb", "-p", "epochs=0"]) == 2 and "at least 1" in capsys.readouterr().err
    assert not any(name.startswith("_") for name in templates())
