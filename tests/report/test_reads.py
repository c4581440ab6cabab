"""Nothing changed is said only of what is known: what a run read is noted, and each change of it is a reason to run again."""
import importlib.metadata
import os
from pathlib import Path

import pytest
from reports import START, write_template

from finetune_book.report.fresh import reasons_to_run
from finetune_book.report.publish import run_report
from finetune_book.report.reads import changes_since, file_state, folder_state, packages_of, variable_state, version_of
from finetune_book.report.schema import read_record
from finetune_book.report.verify import differences, verify_report

# One notebook that reads in every way the book offers, so that one kernel serves all tests.
READS = '''
import glob, os, pathlib, sqlite3
import beside
found = [open(p).read() for p in sorted(glob.glob("d/*.txt"))]
found += [pathlib.Path("literal.txt").read_text(), os.environ.get("SHELF", ""), beside.V]
found += sorted(os.listdir(data_dir))
try: found += [open("override.txt").read()]
except FileNotFoundError: pass
open("made.txt", "w").write("x"); open("made.txt").read()
'''
BY_OTHERS = '''
import numpy as np, pandas as pd
from PIL import Image
from safetensors.numpy import load_file
table = pd.read_csv("paths.csv")
seen = [np.asarray(Image.open(p)).mean().item() for p in table.path]
seen += [float(load_file("w.safetensors")["w"].sum()), len(pd.read_parquet("t.parquet")), len(pd.read_parquet("parts")), float(np.load("a.npy").sum())]
with sqlite3.connect("base.db") as db: seen += [db.execute("select count(*) from t").fetchone()[0]]
from tokenizers import Tokenizer
seen += [Tokenizer.from_file("tok.json").get_vocab_size()]
'''


def fill(home):
    "Files of every kind that the notebook reads."
    import sqlite3
    import numpy as np
    import pandas as pd
    from PIL import Image
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models
    for folder in ("d", "data", "parts", "pictures"): (home / folder).mkdir()
    (home / "d/a.txt").write_text("one")
    (home / "data/x.csv").write_text("x")
    (home / "literal.txt").write_text("two")
    (home / "beside.py").write_text("V = 'three'\n")
    Image.new("RGB", (4, 4), "red").save(home / "pictures/p.png")
    pd.DataFrame({"path": ["pictures/p.png"], "label": ["a"]}).to_csv(home / "paths.csv", index=False)
    save_file({"w": np.ones(3, np.float32)}, home / "w.safetensors")
    for path in ("t.parquet", "parts/0.parquet"): pd.DataFrame({"a": [1]}).to_parquet(home / path)
    np.save(home / "a.npy", np.ones(2))
    with sqlite3.connect(home / "base.db") as db: db.execute("create table t (a)")
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(home / "tok.json"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    "(folder, template, record) of a run that read in all these ways, with its folder as the working directory."
    home, before = tmp_path_factory.mktemp("watched"), os.getcwd()
    fill(home)
    path = write_template(home / "w.ipynb", 'data_dir = "data"  # where the data are', START + "parameters = require()", READS, BY_OTHERS,
                          "record(metrics={'found': found, 'seen': seen})")
    os.chdir(home)
    try: yield home, path, run_report(path, {}, home / "out/reports", progress=False).record
    finally: os.chdir(before)


def why(watched): return reasons_to_run(watched[1], {}, watched[0] / "out/reports")


def test_what_stays_is_no_reason(watched):
    assert why(watched) == [] and watched[2]["reads"]["unknown"] == []


@pytest.mark.parametrize("path", ["d/a.txt", "literal.txt", "beside.py", "paths.csv", "pictures/p.png", "w.safetensors", "t.parquet", "parts/0.parquet",
                                  "a.npy", "base.db", "tok.json", "made.txt"])
def test_a_file_that_changed_is_a_reason(watched, path):
    file = watched[0] / path
    kept = file.read_bytes()
    file.write_bytes(kept + b" ")
    assert why(watched) == [f"{path} changed"]
    file.write_bytes(kept)
    os.utime(file, (1, 1))      # dates say nothing
    assert why(watched) == []


@pytest.mark.parametrize("path, says", [("d/b.txt", "d changed"), ("data/new.csv", "data changed"), ("override.txt", "override.txt was not there"),
                                        ("parts/1.parquet", "parts changed")])
def test_a_file_that_came_is_a_reason(watched, path, says):
    (watched[0] / path).write_text("new")
    assert why(watched) == [says]
    (watched[0] / path).unlink()
    assert why(watched) == []


def test_a_variable_a_package_and_what_nobody_can_follow_are_reasons(watched, monkeypatch):
    monkeypatch.setenv("SHELF", "b")
    assert why(watched) == ["the environment variable SHELF changed"]
    assert "b" not in str(watched[2]["reads"]["variables"])         # a value may be a secret
    monkeypatch.delenv("SHELF")
    reads = watched[2]["reads"]
    assert "pillow" in {name.lower() for name in reads["packages"]}
    assert changes_since(reads | {"packages": {"numpy": "0.1"}})[0].startswith("package numpy is ")
    assert changes_since(reads | {"unknown": ["it used the network"]}) == ["it cannot be told what it would read: it used the network"]


def test_the_packages_of_modules_are_those_that_python_finds():
    homes = importlib.metadata.packages_distributions()
    names = {name for found in homes.values() for name in found} - {"finetune-book"}
    assert packages_of(homes) == {name: version for name in names if (version := version_of(name))} and "numpy" in packages_of(["numpy", "os"])
    assert packages_of([]) == packages_of(["no_such_module"]) == {}


def test_a_folder_called_dir_that_is_only_read_is_a_source(watched):
    assert watched[2]["reads"]["only_read"] == ["data_dir"]
    record = read_record("w", watched[0] / "out/reports")
    moved = record | {"reads": record["reads"] | {"files": record["reads"]["files"] | {"literal.txt": file_state(watched[0] / "d/a.txt")}}}
    assert list(differences(record, moved)) == ["file literal.txt"]


def test_verify_reads_where_the_run_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.txt").write_text("7")
    path = write_template(tmp_path / "v.ipynb", 'data_dir = "d"  # folder of the data\nwork_dir = "work"  # to write in', START + "parameters = require()",
                          "import os, subprocess\nos.makedirs(work_dir, exist_ok=True); open(os.path.join(work_dir, 'x'), 'w').close()\n"
                          "value = int(open(os.path.join(data_dir, 'a.txt')).read())\nrecord(metrics={'value': value})",
                          "subprocess.run(['true'])")
    done = run_report(path, {}, tmp_path / "reports", progress=False)
    assert done.record["reads"]["only_read"] == ["data_dir"] and done.record["reads"]["unknown"] == ["it started a program, true"]
    assert verify_report("v", tmp_path / "reports", progress=False).inside
    assert reasons_to_run(path, {}, tmp_path / "reports") == ["it cannot be told what it would read: it started a program, true"]


def in_a_watched_process(home, script):
    "The log of a process of its own that watches itself and runs a script; the script has to end well."
    import json, subprocess, sys
    log = home / "private" / "log"
    log.parent.mkdir()
    begin = "from finetune_book.report.watch import begin; begin()\n"
    done = subprocess.run([sys.executable, "-c", begin + script], cwd=home, env=os.environ | {"FINETUNE_BOOK_READS": str(log)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)[:2]) for line in log.read_text().splitlines()]


def test_a_program_that_a_cell_starts_with_an_exclamation_mark_runs(tmp_path):
    "IPython's `!` closes all files between fork and exec, and another file may get the number of our log."
    (tmp_path / "other").write_text("mine")
    seen = in_a_watched_process(tmp_path, """
import ptyprocess
made = ptyprocess.PtyProcess.spawn(["cat", "other"])
assert made.read() == b"mine"
import importlib.metadata
import os
if os.fork() == 0:
    os.closerange(3, 256)
    for _ in range(60): os.open("other", os.O_RDWR | os.O_APPEND)
    os.execvp("true", ["true"])
assert os.wait()[1] == 0
""")
    assert ("unknown", "it started a program, cat") in seen and ("unknown", "it started a program, true") in seen
    assert (tmp_path / "other").read_text() == "mine"


def test_readers_in_rust_and_cpp_tell_their_paths(tmp_path):
    import pyarrow as pa
    for name in ("a.arrow", "b.arrow"):
        with pa.OSFile(str(tmp_path / name), "wb") as f, pa.ipc.new_file(f, pa.schema([("a", pa.int64())])) as w: w.write_table(pa.table({"a": [1]}))
    for name in ("words.txt", "more.txt"): (tmp_path / name).write_text("a b a")
    seen = in_a_watched_process(tmp_path, """
import pyarrow.ipc
assert pyarrow.ipc.open_file("a.arrow").read_all().num_rows == 1 and pyarrow.ipc.RecordBatchFileReader(source="b.arrow").num_record_batches == 1
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
tokenizer = Tokenizer(models.WordLevel(unk_token="a"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.train(["words.txt"], trainers.WordLevelTrainer(show_progress=False))
tokenizer.train(files=["more.txt"], trainer=trainers.WordLevelTrainer(show_progress=False))
assert tokenizer.get_vocab_size() == 2
""")
    assert {os.path.basename(p) for kind, p in seen if kind == "read"} >= {"a.arrow", "b.arrow", "words.txt", "more.txt"}


def test_states(tmp_path, monkeypatch):
    file = tmp_path / "f"
    assert file_state(file) is None and folder_state(file) is None and variable_state("FTB_NOT_SET") is None
    file.write_text("x")
    first = file_state(file)
    monkeypatch.setattr("finetune_book.report.reads.LARGE", 0)      # a large file of the same size and date is not read again
    file.write_text("y")
    os.utime(file, ns=(first["mtime_ns"],) * 2)
    assert file_state(file, first) == first and file_state(file) != first
    before = folder_state(tmp_path, (tmp_path, "mine"))
    for name in ("mine.html", ".mine.lock", "__pycache__"): (tmp_path / name).touch()
    assert folder_state(tmp_path, (tmp_path, "mine")) == before != folder_state(tmp_path)


def test_reads_that_the_run_itself_changed_are_not_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counter").write_text("1")
    path = write_template(tmp_path / "c.ipynb", "x = 1", START + "parameters = require()",
                          "n = int(open('counter').read())\nopen('counter', 'w').write(str(n + 10))\nrecord(metrics={'n': n})")
    run_report(path, {}, tmp_path / "reports", progress=False)
    assert reasons_to_run(path, {}, tmp_path / "reports") == ["it cannot be told what it would read: counter changed while it ran"]
    assert Path("counter").read_text() == "11"
