"""The sync gate is green on this tree, and red on each way in which library and notebooks part."""
import json
import shutil
import subprocess
import sys

import pytest
import sync_gate


def small_tree(repo, where):
    "A book of one notebook and one report template, in sync."
    for folder in ("nbs/reports", "nbs/library"): (where / folder).mkdir(parents=True)
    (where / "finetune_book").mkdir()
    shutil.copyfile(repo / "settings.ini", where / "settings.ini")
    shutil.copyfile(repo / "finetune_book/__init__.py", where / "finetune_book/__init__.py")
    shutil.copyfile(repo / "nbs/library/figures.ipynb", where / "nbs/library/figures.ipynb")
    cell = {"cell_type": "code", "id": "p", "metadata": {"tags": ["parameters"]}, "execution_count": None, "outputs": [], "source": ["seed = 0"]}
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    write(where / "nbs/reports/small.ipynb", {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    assert sync_gate.run("nbdev_export", where) == ""
    return where


def write(path, nb): path.write_text(json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def sound(repo, tmp_path_factory): return small_tree(repo, tmp_path_factory.mktemp("sound"))


@pytest.fixture
def tree(sound, tmp_path): return shutil.copytree(sound, tmp_path / "tree")


def change(path, edit):
    "Load a notebook, let `edit` change it, write it back."
    nb = json.loads(path.read_text(encoding="utf-8"))
    edit(nb)
    write(path, nb)


def test_this_tree_is_in_sync(repo):
    assert sync_gate.problems(repo) == []


def test_the_small_tree_is_in_sync(tree):
    assert sync_gate.problems(tree) == []


def hand_edit(tree):
    with open(tree / "finetune_book/figures.py", "a") as f: f.write("EXTRA = 1\n")

def orphan(tree): (tree / "finetune_book/orphan.py").write_text("x = 1\n")

def orphan_package(tree):
    (tree / "finetune_book/old").mkdir()
    (tree / "finetune_book/old/gone.py").write_text("x = 1\n")

def lost_module(tree): (tree / "finetune_book/figures.py").unlink()

def stale_index(tree):
    with open(tree / "finetune_book/_modidx.py", "a") as f: f.write("# older\n")

def run_count(tree): change(tree / "nbs/library/figures.ipynb", lambda nb: [c.update(execution_count=7) for c in nb["cells"] if c["cell_type"] == "code"])
def stray_metadata(tree): change(tree / "nbs/library/figures.ipynb", lambda nb: nb["cells"][0]["metadata"].update(scrolled=True))
def editor_metadata(tree): change(tree / "nbs/library/figures.ipynb", lambda nb: nb["metadata"].update(language_info={"name": "python"}))
def broken_json(tree): (tree / "nbs/library/figures.ipynb").write_text((tree / "nbs/library/figures.ipynb").read_text()[:-20])
def not_a_notebook(tree): change(tree / "nbs/library/figures.ipynb", lambda nb: nb["cells"][0].pop("source"))
def capital_python(tree): change(tree / "nbs/library/figures.ipynb", lambda nb: nb["metadata"]["kernelspec"].update(language="Python"))
def no_parameters(tree): change(tree / "nbs/reports/small.ipynb", lambda nb: nb["cells"][0]["metadata"].clear())
def two_parameters(tree): change(tree / "nbs/reports/small.ipynb", lambda nb: nb["cells"].append({**nb["cells"][0], "id": "q"}))
def other_version(tree): (tree / "finetune_book/__init__.py").write_text('__version__ = "9.9.9"\n')

def lesson_edit(tree):
    "A lesson edited and not exported."
    def edit(nb):
        exported = [c for c in nb["cells"] if "".join(c["source"]).startswith("#| export")]
        exported[-1]["source"] = "".join(exported[-1]["source"]) + "\nEXTRA = 1"
    change(tree / "nbs/library/figures.ipynb", edit)

def unexported_import(tree):
    "The lesson runs, because its import is there; the module it exports has none."
    def edit(nb):
        code = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
        nb["cells"] += [{**code, "id": "i1", "source": "import zlib"}, {**code, "id": "i2", "source": "#| export\ndef crc(b): return zlib.crc32(b)"}]
    change(tree / "nbs/library/figures.ipynb", edit)
    assert sync_gate.run("nbdev_export", tree) == "" and sync_gate.run("nbdev_clean", tree) == ""


@pytest.mark.parametrize("mutate, says", [
    (hand_edit, "figures.py: differs from its notebook (-EXTRA = 1)"),
    (orphan, "orphan.py: no notebook exports it"),
    (orphan_package, "old/gone.py: no notebook exports it"),
    (lost_module, "figures.py: exported by a notebook, missing in the tree"),
    (stale_index, "_modidx.py: differs"),
    (lesson_edit, "figures.py: differs from its notebook"),
    (run_count, "figures.ipynb: not clean"),
    (stray_metadata, "figures.ipynb: not clean"),
    (editor_metadata, "figures.ipynb: not clean"),
    (broken_json, "figures.ipynb: not JSON"),
    (not_a_notebook, "figures.ipynb: not a notebook"),
    (capital_python, "kernelspec language is 'Python'"),
    (no_parameters, "small.ipynb: 0 cells tagged `parameters`"),
    (two_parameters, "small.ipynb: 2 cells tagged `parameters`"),
    (other_version, "__version__ is not settings.ini's"),
    (unexported_import, "Undefined name `zlib`"),
], ids=lambda v: getattr(v, "__name__", ""))
def test_goes_red(tree, mutate, says):
    mutate(tree)
    found = sync_gate.problems(tree)
    assert any(says in line for line in found), found


def test_an_empty_book_is_not_in_sync(tree):
    for p in sync_gate.notebooks(tree): p.unlink()
    assert sync_gate.problems(tree) == ["nbs/ holds no notebook"]


def test_exit_codes(repo, tree):
    gate = [sys.executable, repo / "tests/house/sync_gate.py", tree]
    assert subprocess.run(gate, capture_output=True).returncode == 0
    hand_edit(tree)
    red = subprocess.run(gate, capture_output=True, text=True)
    assert red.returncode == 1 and "figures.py" in red.stdout
