"""A published report can be run again and compared, is not run again without need, and its record keeps to its schema."""
import copy
import dataclasses
import hashlib
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
from jsonschema import Draft202012Validator
from nbformat import v4

import finetune_book
from finetune_book.report import publish as report
from finetune_book.report import verify
from finetune_book.cli import main
from finetune_book.checks import InputError
from finetune_book.judge.ladder import ladder_table, steps_table
from finetune_book.judge.metrics import precision_recall_f1
from finetune_book.report.publish import CellFailed, declared_in, fingerprint, hash_source, ingredients, inputs_of, plain, run_report
from finetune_book.report.verify import RECORD_SCHEMA, compare, read_record, reasons_to_run, render_report, report_once, verify_report

FIXTURES = Path(__file__).parents[1] / "fixtures" / "reports"
TINY, FAULTY = FIXTURES / "tiny.ipynb", FIXTURES / "faulty.ipynb"
SCHEMA = Draft202012Validator(RECORD_SCHEMA)
GAIN = '''
import numpy as np
from finetune_book.judge.bootstrap import paired_difference
from finetune_book.losses import binary_cross_entropy
from finetune_book.judge.metrics import accuracy
rng = np.random.default_rng(seed)
right = (rng.random((2, 200)) < [[.70], [.74]]).astype(int)
gain = paired_difference(accuracy, np.ones(200, int), *right, names=("old", "new"))
loss = binary_cross_entropy(rng.normal(size=200), right[0])
print(gain.sentence)
'''


def state(folder): return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}


def template(path, *cells):
    nb = v4.new_notebook(cells=[v4.new_markdown_cell("# A title\n> One line."), *(v4.new_code_cell(c) for c in cells)])
    nb.cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(nb, path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "(folder of reports, template, parameters): a report over two functions of the library, with a file as its data."
    home = tmp_path_factory.mktemp("made")
    notes = home / "notes.csv"
    notes.write_text("text,label\nfever,flu\n")
    path = template(home / "gain.ipynb", "seed = 1  # draws the rows [0..]\ndata = 'none'  # a file\nwork_dir = None  # a folder to write in",
                    "from finetune_book.report.publish import record, require\nparameters = require()", GAIN,
                    "import os\nfound = os.listdir(work_dir) if work_dir and os.path.isdir(work_dir) else []\n"
                    "if work_dir: os.makedirs(work_dir, exist_ok=True); open(os.path.join(work_dir, 'state'), 'w').close()",
                    "record(metrics={'gain': gain, 'loss': loss, 'found': found})")
    values = {"data": str(notes), "work_dir": str(home / "work")}
    run_report(path, values, home / "reports", progress=False)
    return home / "reports", path, values


@pytest.fixture
def folder(made, tmp_path):
    "A copy of the published files, to spoil."
    return Path(shutil.copytree(made[0], tmp_path / "reports", ignore=shutil.ignore_patterns(".*")))


@pytest.fixture
def rerun(monkeypatch, folder):
    "Puts a given record in the place of a rerun, so that no kernel starts; returns the recorded one as a start."
    def fake(change):
        again = read_record("gain", folder)
        change(again)
        monkeypatch.setattr(verify, "run_report", lambda *args, **kw: SimpleNamespace(record=again))
        return verify_report("gain", folder, progress=False)
    return fake


@pytest.fixture
def no_run(monkeypatch):
    def refuse(*args, **kw): raise AssertionError("a kernel was started")
    monkeypatch.setattr(verify, "run_report", refuse)


# --- the schema ----------------------------------------------------------------------------------------------------

def test_records_of_real_runs_keep_to_the_schema(made, tmp_path):
    record = json.loads((made[0] / "gain.json").read_text())
    assert list(SCHEMA.iter_errors(record)) == [] and record["inputs"]["data"]["kind"] == "file"
    without_numbers = run_report(FAULTY, out_dir=tmp_path, progress=False).json
    assert list(SCHEMA.iter_errors(json.loads(without_numbers.read_text()))) == []
    with pytest.raises(InputError, match="no numbers to compare"): verify_report("faulty", tmp_path, progress=False)


def test_the_shape_of_the_fine_tuning_report_keeps_to_the_schema(made):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=60).astype(str)
    said = {name: np.where(rng.random(60) < right, y, "0") for name, right in (("majority", .1), ("frozen body", .5), ("fine-tuned", .8))}
    metrics = dict(ladder=ladder_table(y, said), steps=steps_table(y, said), per_class=precision_recall_f1(y, said["fine-tuned"]),
                   history=[dict(epoch=0, train_loss=1.6, lr=3e-4, val_loss=.9, val_accuracy=.7)], leaks=0)
    record = json.loads((made[0] / "gain.json").read_text())
    for name, path in report.templates().items():
        declared = report.parameters_of(path)
        record |= ingredients(name, report.read_template(path), declared, {}) | {"metrics": plain(metrics)}
        assert list(SCHEMA.iter_errors(json.loads(json.dumps(record)))) == [], name
        if "data" in record["parameters"]: assert record["inputs"]["data"]["kind"] == "carried" and record["inputs"]["base"]["sha256"], name
        assert compare(record["metrics"], record["metrics"]) == []


def places(schema, value, path=()):
    "Every (path, field) that an object of the record must have."
    for name in schema.get("required", []): yield path, name
    for name, part in schema.get("properties", {}).items():
        if isinstance(value, dict): yield from places(part, value.get(name), (*path, name))
    if isinstance(value, list) and value: yield from places(schema.get("items", {}), value[0], (*path, 0))


def test_a_missing_a_strange_and_a_wrong_field_are_seen(made):
    record = json.loads((made[0] / "gain.json").read_text())
    found = list(places(RECORD_SCHEMA, record))
    assert len(found) > 30
    for path, name in found:
        for spoil in (lambda part: part.pop(name), lambda part: part.update({name + "_": 1}), lambda part: part.update({name: object})):
            spoilt = part = copy.deepcopy(record)
            for step in path: part = part[step]
            spoil(part)
            anything = name == "seed" and part.get(name) is object
            assert anything or list(SCHEMA.iter_errors(spoilt)), (path, name)


@pytest.mark.parametrize("content, says", [
    ("", "not a readable record"), ("[]", "at the whole"), ('{"schema": 1}', "run the report again"), ("\x00", "not a readable record"),
    ('{"a": NaN}', "NaN"), ("[" * 100_000, "not a readable record"), (b"\xff\xfe", "not a readable record")])
def test_a_bad_record_is_one_line(tmp_path, content, says):
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=says) as caught: verify_report("x", tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_missing_record_names_the_nearest(folder):
    with pytest.raises(InputError, match="no such record.*Did you mean 'gain'"): verify_report("gian", folder)
    with pytest.raises(InputError, match="no such record.*none"): verify_report("gain", folder / "nowhere")
    for name in ("../gain", str(folder / "gain")):
        with pytest.raises(InputError, match="--out"): verify_report(name, folder)


# --- verify --------------------------------------------------------------------------------------------------------

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
    other = template(tmp_path / "other.ipynb", "sead = 1", "from finetune_book.report.publish import record, require\nrequire()")
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


# --- no run without need -------------------------------------------------------------------------------------------

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
        m.setattr(report, "hash_library", lambda: "0" * 64)
        m.setattr(report, "versions", lambda: read_record("gain", folder)["versions"] | {"torch": "9.9"})
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
        assert render_report("gain", folder) == page and page.read_bytes() == kept and verify.edited_files(read_record("gain", folder), folder) == []
        spoil()
        assert report_once(path, values, folder)[1] == [] and page.read_bytes() == kept


def test_a_new_style_of_page_is_signed_for(folder, monkeypatch):
    monkeypatch.setattr(verify, "html_page", lambda nb: "<p>new style</p>")
    render_report("gain", folder)
    record = read_record("gain", folder)
    assert (folder / "gain.html").read_text() == "<p>new style</p>" and verify.edited_files(record, folder) == []


def test_an_edited_or_missing_notebook_is_not_rendered(folder):
    nb = folder / "gain.ipynb"
    nb.write_text(nb.read_text().replace("0.075", "0.175"))
    before = state(folder)
    with pytest.raises(InputError, match="edited after"): render_report("gain", folder)
    assert state(folder) == before
    nb.unlink()
    with pytest.raises(InputError, match="is missing"): render_report("gain", folder)
    with pytest.raises(InputError, match="no such record"): render_report("gone", folder)


# --- the command line -----------------------------------------------------------------------------------------------

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


# --- what a run reads ----------------------------------------------------------------------------------------------

def declared_inputs(**values):
    declared = declared_in("\n".join(f"{k} = {v!r}" for k, v in values.items()))
    return inputs_of(declared, values)


@pytest.mark.parametrize("text", ["", " ", "plain", "a\0b", "x" * 5000, "~nobody-here/x", "http://example.org/x.csv", "a/b/c", "..", "中文 🙂"])
def test_a_text_that_names_nothing_readable(text):
    found = declared_inputs(note=text)
    assert found == {} or text == ".." and found["note"]["kind"] == "folder"


def test_the_sources_of_every_kind(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.csv").write_text("x")
    (tmp_path / "a" / ".hidden").write_text("x")
    os.symlink(tmp_path / "a", tmp_path / "a" / "loop")
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "hub" / "models--org--name" / "refs").mkdir()
    (tmp_path / "hub" / "models--org--name" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = declared_inputs(data=str(tmp_path / "a"), base="org/name", other="org/nothing", more=["clinic_notes", str(tmp_path / "a" / "x.csv")], out_dir=str(tmp_path))
    assert {k: (v["kind"], v["files"]) for k, v in found.items()} == {
        "data": ("folder", 1), "base": ("hub", 1), "more[0]": ("carried", found["more[0]"]["files"]), "more[1]": ("file", 1)}
    assert found["more[0]"]["files"] >= 4 and all(v["sha256"] for v in found.values())


def test_a_folder_that_holds_the_reports_is_never_taken_for_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (".", "..", str(tmp_path)): assert hash_source(text)["sha256"] is None
    unknown = declared_inputs(data=".")
    assert verify.input_reasons(unknown, unknown) == ["it cannot be told whether data changed"]


def test_no_gpu_is_seen_where_none_is_allowed(monkeypatch):
    for value in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert report.gpus() == []


def test_an_outcome_is_data(rerun):
    out = rerun(lambda record: record["metrics"].update(loss=1.))
    assert dataclasses.asdict(out)["moves"][0]["path"] == "loss" and json.loads(json.dumps(out.as_dict))["moves"][0]["after"] == 1.
    assert fingerprint({"a": 1}) == {"a": 1}
