"""A folder that a model is saved to is not ours: what others put there stays, and a pulled plug leaves nothing that loads half."""
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from finetune_book import saving
from finetune_book.checks import InputError
from finetune_book.saving import SETTINGS, check_model_folder, read_settings, save_all

MINE = dict(estimator="E", params={})


def fill(word, *more):
    "A model of two files and more, all of which say `word`."
    def write(folder):
        for name in ("config.json", "model.safetensors", *more):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps(word))
    return write


def save(folder, word, *more): return save_all(folder, fill(word, *more), MINE | dict(word=word))
def said(folder): return {read_settings(folder, "E")["word"]} | {json.loads((folder / n).read_text()) for n in ("config.json", "model.safetensors")}


def told(call, *words):
    with pytest.raises(InputError) as caught: call()
    assert "\n" not in str(caught.value) and all(w in str(caught.value) for w in words), str(caught.value)


def content(folder):
    "Every path below a folder and what it holds, links as where they lead."
    return {p.relative_to(folder).as_posix(): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def lived_in(tmp_path):
    "A saved model whose folder its owner uses: (folder, what they keep there)."
    folder = save(tmp_path / "model", "first")
    (folder / "notes.txt").write_text("mine")
    (folder / ".git").mkdir(); (folder / ".git/HEAD").write_text("ref")
    (folder / "runs/1").mkdir(parents=True); (folder / "runs/1/log").write_text("log")
    (tmp_path / "elsewhere").mkdir(); (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "empty").mkdir()
    return folder, {name: what for name, what in content(folder).items() if name not in ("config.json", "model.safetensors", SETTINGS)}


def test_what_others_keep_beside_a_model_stays(lived_in):
    folder, kept = lived_in
    save(folder, "second", "vocabulary/words.txt")
    assert said(folder) == {"second"} and kept.items() <= content(folder).items()
    save(folder, "third")
    assert said(folder) == {"third"} and content(folder).keys() == {*kept, "config.json", "model.safetensors", SETTINGS, "vocabulary"}


def test_a_file_of_ours_that_was_edited_is_not_overwritten(lived_in):
    folder, _ = lived_in
    (folder / "config.json").write_text('"edited"')
    before = content(folder)
    for call in (lambda: save(folder, "second"), lambda: check_model_folder(folder)):
        told(call, "config.json", "was changed after the model was saved", "move it away")
    assert content(folder) == before


@pytest.mark.parametrize("name", ["README.md", "vocab.txt", "words.txt"])
def test_a_file_of_others_in_the_way_is_not_overwritten(lived_in, name):
    folder, _ = lived_in
    (folder / name).write_text("mine")
    before = content(folder)
    told(lambda: save(folder, "second", name), name, "is not of the saved model")
    assert content(folder) == before


def test_a_link_where_a_file_of_ours_was_is_not_followed(lived_in, tmp_path):
    folder, _ = lived_in
    (tmp_path / "big").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink(); (folder / "model.safetensors").symlink_to(tmp_path / "big")
    told(lambda: save(folder, "second"), "is no plain file")
    assert json.loads((tmp_path / "big").read_text()) == "first"


def test_a_list_of_files_that_leads_outside_is_not_followed(lived_in, tmp_path):
    folder, _ = lived_in
    (tmp_path / "precious").write_text("p")
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps(settings | dict(files=settings["files"] | {"../precious": None, str(tmp_path / "precious"): None, "link/x": None})))
    save(folder, "second")
    assert (tmp_path / "precious").read_text() == "p" and said(folder) == {"second"}


def test_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(".", "first"); save(Path("."), "second")
    assert said(tmp_path) == {"second"} and len(list(tmp_path.iterdir())) == 3
    (tmp_path / "deep").mkdir(); monkeypatch.chdir(tmp_path / "deep")
    save("..", "third"); save(".", "fourth")
    assert said(tmp_path) == {"third"} and said(tmp_path / "deep") == {"fourth"}


def test_folders_of_many_kinds(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir(); (tmp_path / "way").symlink_to("empty")
    assert said(save(tmp_path / "way", "a")) == {"a"} and (tmp_path / "way").is_symlink() and said(tmp_path / "empty") == {"a"}
    assert said(save(tmp_path / "new/deep", "a")) == {"a"}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert said(save("~/home", "a").resolve()) == {"a"} and not Path("~").exists()


def test_folders_that_are_refused_and_left_as_they_were(tmp_path):
    (tmp_path / "file").write_text("x"); (tmp_path / "lost").symlink_to("nowhere"); (tmp_path / "diary").mkdir(); (tmp_path / "diary/1.txt").write_text("x")
    (tmp_path / "theirs").mkdir(); (tmp_path / "theirs" / SETTINGS).write_text('{"name": "another program"}')
    before = content(tmp_path)
    refusals = {tmp_path / "file": "is a file", tmp_path / "lost": "leads nowhere", tmp_path / "diary": "no saved model (1.txt)", tmp_path / "theirs": "no saved model",
                tmp_path / "file/model": "cannot be written", "/proc/model": "cannot be written", tmp_path / ("x" * 300): "cannot be written",
                "": "path of a folder", " ": "path of a folder", "a\0b": "path of a folder", 3: "path of a folder", b"x": "path of a folder"}
    for folder, says in refusals.items():
        told(lambda: save(folder, "x"), says); told(lambda: check_model_folder(folder), says)
    told(lambda: save(None, "x"), "path of a folder")
    check_model_folder(tmp_path / "new/deep")
    assert content(tmp_path) == before


def test_a_write_that_fails_changes_nothing(lived_in, tmp_path):
    folder, _ = lived_in
    before = content(folder)
    def full(staging): fill("half")(staging); raise OSError(28, "No space left on device")
    told(lambda: save_all(folder, full, MINE), "No space left", "untouched")
    told(lambda: save_all(tmp_path / "new", full, MINE), "No space left")
    assert content(folder) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("step", range(8))
def test_an_exchange_that_fails_is_taken_back(lived_in, step, monkeypatch):
    folder, _ = lived_in
    before, replace, calls = content(folder), os.replace, []
    def failing(a, b):
        calls.append(b)
        if len(calls) == step + 1: raise OSError(5, "Input/output error")
        replace(a, b)
    monkeypatch.setattr(saving.os, "replace", failing)
    try: save(folder, "second")
    except InputError as e: assert "Input/output" in str(e) and content(folder) == before
    else: assert len(calls) <= step and said(folder) == {"second"}


def cut_off(folder, step):
    "Save, in a process that is gone at its `step`-th change of the folder."
    replace, calls = os.replace, []
    def dying(a, b):
        calls.append(b)
        if len(calls) == step + 1: os._exit(9)
        replace(a, b)
    os.replace = dying
    save(folder, "second")


@pytest.mark.parametrize("step", range(8))
def test_a_pulled_plug_leaves_a_whole_model_or_one_that_is_refused(lived_in, step):
    folder, kept = lived_in
    child = multiprocessing.get_context("fork").Process(target=cut_off, args=(folder, step))
    child.start(); child.join()
    try: assert len(said(folder)) == 1
    except InputError as e: assert "cut off" in str(e)
    assert kept.items() <= content(folder).items()
    save(folder, "third")
    assert said(folder) == {"third"} and content(folder).keys() == {*kept, "config.json", "model.safetensors", SETTINGS}


def test_two_programs_do_not_save_to_one_folder_at_once(tmp_path):
    folder = save(tmp_path / "model", "first")
    def write(staging):
        fill("second")(staging)
        told(lambda: save(folder, "third"), "another program is saving")
    save_all(folder, write, MINE | dict(word="second"))
    assert said(folder) == {"second"}


def test_a_model_of_an_earlier_version_is_replaced_by_its_names(tmp_path):
    folder = save(tmp_path / "model", "first")
    settings = json.loads((folder / SETTINGS).read_text()); del settings["files"]
    (folder / SETTINGS).write_text(json.dumps(settings)); (folder / "notes.txt").write_text("mine")
    save(folder, "second")
    assert said(folder) == {"second"} and (folder / "notes.txt").read_text() == "mine"


def test_every_block_of_a_file_is_in_its_fingerprint(tmp_path):
    path = tmp_path / "f"
    for size in (1, 5000, 2**20):
        path.write_bytes(bytes(size)); whole = saving.fingerprint(path)
        for k in range(0, size, max(1, size // 50)):
            path.write_bytes(bytes(k) + b"x" + bytes(size - k - 1))
            assert saving.fingerprint(path) != whole
