"""A report is not run again without need: each reason is told, and a page is made anew without a run."""
import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from reports import RESUMED, state

from finetune_book.checks import InputError
from finetune_book.cli import main
from finetune_book.report import fresh, ingredients, publish, sweep
from finetune_book.report.fresh import reasons_to_run, render_report, report_once
from finetune_book.report.publish import run_report
from finetune_book.report.schema import read_record
from finetune_book.report.verify import edited_files


def test_an_unchanged_report_is_not_run(made, folder, no_run):
    _, path, values = made
    os.utime(values["data"], (1, 1))  # dates say nothing
    done, why = report_once(path, values, folder)
    assert why == [] and done.html == folder / "gain.html" and done.record == read_record("gain", folder)
    with pytest.raises(AssertionError, match="kernel"): report_once(path, values, folder, force=True)


def test_each_ingredient_is_a_reason(made, folder, tmp_path, monkeypatch):
    _, path, values = made
    why = lambda template=path, **more: reasons_to_run(template, values | more, folder, "gain")
    assert why() == [] and why(work_dir="elsewhere") == []
    assert why(seed=2) == ["seed is 2 and was 1"]
    other = tmp_path / "other.csv"
    shutil.copyfile(values["data"], other)
    assert [w.partition(" is ")[0] for w in why(data=str(other))] == ["data"]      # the same content under another name: a new parameter
    text = Path(values["data"]).read_text()
    Path(values["data"]).write_text(text + "x,y\n")
    assert why() == ["what data names changed"]
    Path(values["data"]).write_text(text)
    nb = nbformat.read(path, 4)
    nb.cells[3].source += "\n# a comment"
    nbformat.write(nb, tmp_path / "gain.ipynb")
    assert why(tmp_path / "gain.ipynb") == ["the template changed"]
    with monkeypatch.context() as m:
        m.setattr(ingredients, "hash_library", lambda: "0" * 64)
        m.setattr(ingredients, "versions", lambda: read_record("gain", folder)["versions"] | {"torch": "9.9"})
        assert why()[0] == "the library changed" and why()[1].startswith('torch is "9.9" and was') and len(why()) == 2
    with pytest.raises(InputError, match="Did you mean 'seed'"): why(sead=2)


@pytest.mark.parametrize("end", [".json", ".ipynb", ".metrics.json"])
def test_a_missing_or_edited_file_is_a_reason(made, folder, end):
    _, path, values = made
    file = folder / f"gain{end}"
    kept = file.read_bytes()
    file.write_bytes(kept[:-20])
    assert len(reasons_to_run(path, values, folder)) == 1
    file.unlink()
    assert len(reasons_to_run(path, values, folder)) == 1
    file.write_bytes(kept)
    assert reasons_to_run(path, values, folder) == []


def test_rendering_runs_nothing(made, folder, no_run):
    _, path, values = made
    page = folder / "gain.html"
    kept = page.read_bytes()
    for spoil in (page.unlink, lambda: page.write_text("edited")):
        spoil()
        assert render_report("gain", folder) == page and page.read_bytes() == kept and edited_files(read_record("gain", folder), folder) == []
        spoil()
        assert report_once(path, values, folder)[1] == [] and page.read_bytes() == kept


def test_a_new_style_of_page_is_signed_for(folder, monkeypatch):
    monkeypatch.setattr(fresh, "html_page", lambda nb: "<p>new style</p>")
    render_report("gain", folder)
    record = read_record("gain", folder)
    assert (folder / "gain.html").read_text() == "<p>new style</p>" and edited_files(record, folder) == []


def test_an_edited_or_missing_notebook_is_not_rendered(folder):
    nb = folder / "gain.ipynb"
    nb.write_text(nb.read_text().replace("0.075", "0.175"))
    before = state(folder)
    with pytest.raises(InputError, match="edited after"): render_report("gain", folder)
    assert state(folder) == before
    nb.unlink()
    with pytest.raises(InputError, match="is missing"): render_report("gain", folder)
    with pytest.raises(InputError, match="no such record"): render_report("gone", folder)


@pytest.mark.parametrize("force", [True, False])
def test_force_starts_from_nothing(tmp_path, monkeypatch, force):
    asked = {}
    monkeypatch.setattr(fresh, "run_report", lambda *args, **options: asked.update(options))
    report_once(RESUMED, {}, tmp_path, force=force)
    assert asked["resume"] is not force


def test_the_commands(made, folder, capsys, monkeypatch):
    _, path, values = made
    def command(*args):
        code = main([*args, "--out", str(folder)])
        return code, *(text.strip() for text in capsys.readouterr())
    params = [part for k, v in values.items() if k != "work_dir" for part in ("-p", f"{k}={v}")]
    code, out, err = command("report", str(path), *params)
    assert code == 0 and out == str(folder / "gain.html") and err.startswith("not run: nothing changed since 20") and len(err.splitlines()) == 1
    assert command("report", str(path), *params, "-q") == (0, str(folder / "gain.html"), "")
    (folder / "gain.html").unlink()
    assert command("render", "gain") == (0, str(folder / "gain.html"), "") and (folder / "gain.html").is_file()
    code, out, err = command("report", str(path), *params, "-p", "seed=2", "--name", "gain")
    assert code == 0 and "running: seed is 2 and was 1" in err and "finished in" in err
    before = (folder / "gain.json").read_bytes()
    assert command("report", str(path), *params, "-p", "seed=2", "--force", "-q")[0] == 0 and (folder / "gain.json").read_bytes() != before
    code, out, err = command("verify", "gain", "--json", "-q")
    assert code == 0 and json.loads(out)["inside"] and err == ""


def noting(monkeypatch, module, name, seen):
    "Every call of a check that a module makes is noted in `seen`."
    check = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a: (seen.append("read"), check(*a)))


def test_what_a_report_reads_it_does_not_write(made, folder, no_run, tmp_path, capsys, monkeypatch):
    "Its own notebook, a table under a name that it would publish, a page of ours: refused before anything is done."
    _, path, values = made
    seen = []
    noting(monkeypatch, publish, "refuse_read", seen)
    home = tmp_path / "here"
    home.mkdir()
    for name in ("mine.ipynb", "bad.failed.ipynb"): shutil.copyfile(path, home / name)
    shutil.copyfile(values["data"], home / "gain.json")
    (home / "gain.html").symlink_to(values["data"])
    before = {p.name: p.read_bytes() for p in home.iterdir()}
    for template, name, data in ((home / "mine.ipynb", "mine", values["data"]), (home / "bad.failed.ipynb", "bad", values["data"]),
                                 (path, "gain", str(home / "gain.json")), (path, "gain", values["data"])):
        for door in (run_report, report_once):
            with pytest.raises(InputError, match="is what is read .*name another"): door(template, {"data": data}, home, name)
        assert seen.count("read") == 2 and not seen.clear()                        # once at each door
    assert {p.name: p.read_bytes() for p in home.iterdir()} == before
    page = folder / "gain.ipynb"
    assert report_once(page, {}, folder)[1] == []                                  # our own page, which nothing has to change
    with pytest.raises(InputError, match="is what is read"): report_once(page, {}, folder, force=True)
    with pytest.raises(AssertionError, match="kernel"): report_once(page, {}, folder, "other", progress=False)
    seen.clear()
    assert main(["report", str(home / "mine.ipynb"), "--out", str(home)]) == 2 and seen == ["read"]
    said = capsys.readouterr().err
    assert "is what is read" in said and len(said.splitlines()) == 1
    monkeypatch.chdir(home)
    with pytest.raises(InputError, match="is what is read"): run_report("mine.ipynb", out_dir=".", progress=False)
    assert {p.name: p.read_bytes() for p in home.iterdir()} == before


def test_a_sweep_does_not_write_over_what_it_reads_or_did_not_write(made, tmp_path, capsys, monkeypatch):
    _, path, values = made
    home, seen = tmp_path / "out" / "gain-sweep", []
    noting(monkeypatch, sweep, "check_sweep_place", seen)
    home.mkdir(parents=True)
    for name, data, says in (("sweep.json", str(home / "sweep.json"), "is what is read"), ("sweep.html", values["data"], "is of no sweep of ours; it stays")):
        shutil.copyfile(values["data"], home / name)
        assert main(["sweep", str(path), "-p", f"data={data}", "--seeds", "2", "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert says in said and len(said.splitlines()) == 1 and [p.name for p in home.iterdir()] == [name]
        for grid in ({"data": data}, {"data": ["none", data]}):
            with pytest.raises(InputError, match=says): sweep.run_sweep(path, grid, 2, tmp_path / "out", progress=False)
        assert [p.name for p in home.iterdir()] == [name] and len(seen) == 3 and not seen.clear()
        (home / name).unlink()
