"""A published report can be run again and compared: to the last bit here, inside a band elsewhere."""
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from reports import START, state, write_template

import finetune_book
from finetune_book.checks import InputError
from finetune_book.cli import main
from finetune_book.report import verify
from finetune_book.report.errors import CellFailed
from finetune_book.report.schema import RECORD_SCHEMA, read_record
from finetune_book.report.verify import verify_report


@pytest.fixture
def rerun(monkeypatch, folder):
    "Puts a given record in the place of a rerun, so that no kernel starts; returns the recorded one as a start."
    def fake(change):
        again = read_record("gain", folder)
        change(again)
        monkeypatch.setattr(verify, "run_report", lambda *args, **kw: SimpleNamespace(record=again))
        return verify_report("gain", folder, progress=False)
    return fake


def test_a_report_holds_and_is_left_alone(made):
    before = state(made[0])
    out = verify_report("gain", made[0], progress=False)
    assert out.inside and out.exact and out.exit_code == 0 and out.moves == [] and out.differs == {} and out.checked > 9
    assert state(made[0]) == before and "as recorded, to the last bit" in str(out) and json.loads(json.dumps(out.as_dict))["inside"]


@pytest.mark.parametrize("module, old, new, moved, stays", [
    ("judge/bootstrap", "(1 - level) / 2", "(1 - level) / 1", "gain.difference.low: -0.015", "loss"),
    ("losses", "(1 - y) * log_sigmoid(-z)", "(2 - y) * log_sigmoid(-z)", "loss: ", "gain"),
])
def test_one_constant_changed_in_the_library_is_named(made, tmp_path, module, old, new, moved, stays):
    lib = Path(shutil.copytree(Path(finetune_book.__file__).parent, tmp_path / "finetune_book", ignore=shutil.ignore_patterns("__pycache__")))
    source = (lib / f"{module}.py").read_text()
    assert old in source
    (lib / f"{module}.py").write_text(source.replace(old, new))
    before = state(made[0])
    code = "import sys; from finetune_book.cli import main; sys.exit(main())"
    run = subprocess.run([sys.executable, "-c", code, "verify", "gain", "--out", str(made[0]), "-q"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert run.returncode == 1 and "DOES NOT HOLD" in run.stdout, run.stdout + run.stderr
    assert f"  {moved}" in run.stdout and "moved by" in run.stdout and "different: library" in run.stdout
    assert not any(line.startswith(f"  {stays}") for line in run.stdout.splitlines()), run.stdout
    assert state(made[0]) == before


def test_elsewhere_the_band_holds_and_no_more(rerun):
    def elsewhere(**change):
        def apply(record):
            record["machine"]["cpu"] = "Another"
            record["metrics"]["loss"] *= change.get("loss", 1)
            record["metrics"]["gain"]["difference"]["value"] += change.get("gain", 0)
            record["metrics"]["gain"]["difference"]["n"] += change.get("n", 0)
            record["metrics"]["gain"]["sentence"] = record["metrics"]["gain"]["sentence"].replace(*change.get("sentence", ("", "")))
        return rerun(apply)
    assert elsewhere().inside and not elsewhere().exact and elsewhere().differs["machine.cpu"][1] == "Another"
    for good in (dict(loss=1.04), dict(gain=.08), dict(gain=-.08), dict(sentence=("+0.075", "+0.061"))):
        assert elsewhere(**good).inside and len(elsewhere(**good).moves) == 1, good
    for bad in (dict(loss=1.06), dict(gain=.09), dict(n=1), dict(sentence=("no clear difference", "new is clearly higher"))):
        out = elsewhere(**bad)
        assert out.exit_code == 1 and len(out.moves) == 1 and not out.moves[0].inside and out.moves[0].path in str(out), bad


def test_here_nothing_may_move_and_nothing_known_explains_it(rerun):
    def nudge(record): record["metrics"]["loss"] = float(np.nextafter(record["metrics"]["loss"], 9))
    out = rerun(nudge)
    assert out.exact and out.exit_code == 1 and [m.path for m in out.moves] == ["loss"] and "does not follow from its seed" in str(out)


@pytest.mark.parametrize("change", [lambda m: m.pop("loss"), lambda m: m.update(more=1.), lambda m: m.update(loss=None), lambda m: m["gain"]["difference"].update(n=200.)])
def test_a_lost_a_new_and_a_retyped_value_are_seen(rerun, change):
    for cpu in ({}, {"cpu": "Another"}):
        out = rerun(lambda record: (change(record["metrics"]), record["machine"].update(cpu)))
        assert out.exit_code == 1 and len(out.moves) == 1


def test_a_new_release_of_the_book_is_held_to_the_last_bit(rerun):
    def change(record): record["versions"]["finetune_book"] = "9.9"; record["hashes"]["library"] = "0" * 64
    out = rerun(change)
    assert out.exact and out.inside and set(out.differs) == {"library", "versions.finetune_book"}
    assert not rerun(lambda record: record["versions"].update(torch="9.9")).exact


@pytest.mark.parametrize("end", [".html", ".ipynb", ".metrics.json"])
def test_an_edited_file_does_not_hold(folder, rerun, end):
    path = folder / f"gain{end}"
    path.write_text(path.read_text().replace("0.075", "0.175"))
    out = rerun(lambda record: None)
    assert out.exit_code == 1 and out.edited == [path.name] and path.name in str(out)
    path.unlink()
    assert rerun(lambda record: None).exit_code == 0


def test_an_edited_record_does_not_hold(folder):
    path = folder / "gain.json"
    record = json.loads(path.read_text())
    record["metrics"]["gain"]["difference"]["value"] += .1
    path.write_text(json.dumps(record))
    out = verify_report("gain", folder, progress=False)
    assert out.exit_code == 1 and out.moves[0].path == "gain.difference.value" and round(out.moves[0].by, 9) == -.1


def test_a_template_that_is_gone_is_rebuilt_from_the_notebook(made, folder, tmp_path):
    record = read_record("gain", folder)
    record["template"] = str(tmp_path / "gone.ipynb")
    (folder / "gain.json").write_text(json.dumps(record))
    out = verify_report("gain", folder, progress=False)
    assert out.inside and set(out.differs) == {"template file"}
    nb = nbformat.read(folder / "gain.ipynb", 4)
    nb.cells[4 if "injected" in str(nb.cells[2].metadata) else 3].source += "\nx = 1"
    nbformat.write(nb, folder / "gain.ipynb")
    with pytest.raises(InputError, match="cannot be run again.*gone.ipynb"): verify_report("gain", folder, progress=False)


def test_a_template_with_other_parameters_is_refused(made, folder, tmp_path):
    other = write_template(tmp_path / "other.ipynb", "sead = 1", START + "require()")
    record = read_record("gain", folder)
    (folder / "gain.json").write_text(json.dumps(record | {"template": str(other)}))
    with pytest.raises(InputError, match="takes other parameters now.*'sead'"): verify_report("gain", folder, progress=False)


def test_a_failed_rerun_leaves_no_trace(folder, monkeypatch):
    def fail(*args):
        error = CellFailed("cell 3 failed")
        error.page = "gone"
        raise error
    monkeypatch.setattr(verify, "run_report", fail)
    before = state(folder)
    with pytest.raises(CellFailed) as caught: verify_report("gain", folder)
    assert caught.value.page is None and state(folder) == before


@pytest.mark.parametrize("band", [-.1, float("nan"), float("inf"), "wide", None])
def test_a_senseless_band_is_refused(folder, band):
    with pytest.raises(InputError, match="band="): verify_report("gain", folder, band=band)


def test_an_outcome_is_data(rerun):
    out = rerun(lambda record: record["metrics"].update(loss=1.))
    assert dataclasses.asdict(out)["moves"][0]["path"] == "loss" and json.loads(json.dumps(out.as_dict))["moves"][0]["after"] == 1.


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args, says", [
    (["verify", "gian"], "Did you mean 'gain'?"), (["verify"], "there are: gain"), (["verify", "gain", "--band", "-1"], "--band"), (["verify", "gain", "--band", "nan"], "--band"),
    (["verify", "gain", "--band", "wide"], "--band"), (["render", "gian"], "Did you mean 'gain'?"), (["render"], "NAME"), (["render", "../gain"], "--out")])
def test_a_mistake_is_one_line(made, args, says, capsys, no_run):
    assert main([*args, "--out", str(made[0])]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and len(err.strip().splitlines()) == 1


def test_help_and_schema(capsys):
    for name in ("verify", "render"):
        assert main([name, "--help"]) == 0 and f"finetune-book {name} finetune_text" in capsys.readouterr().out
    assert main(["verify", "--schema"]) == 0 and json.loads(capsys.readouterr().out) == RECORD_SCHEMA
