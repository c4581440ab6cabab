"""An index on disk: whole or not at all, seen whole by readers while a writer writes, found out when it is damaged."""
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from finetune_book.checks import InputError
from finetune_book.find.index import read_index, write_index

TABLE = np.arange(900, dtype=np.float32).reshape(300, 3)


@pytest.fixture
def place(tmp_path):
    write_index(tmp_path / "index", dict(vectors=TABLE, docs=[["a", "é 😀"]]), dict(words=True))
    return tmp_path / "index"


def test_what_was_written_is_read_and_mapped(place):
    values, settings, version = read_index(place)
    assert isinstance(values["vectors"], np.memmap) and np.array_equal(values["vectors"], TABLE)
    assert values["docs"] == [["a", "é 😀"]] and settings == dict(words=True) and version


def test_the_old_files_go_and_a_reader_keeps_what_it_has(place):
    old = read_index(place)[0]["vectors"]
    write_index(place, dict(vectors=TABLE + 1, docs=[]), dict(words=True))
    assert np.array_equal(old, TABLE) and np.array_equal(read_index(place)[0]["vectors"], TABLE + 1)
    assert len(list(place.glob("*-*.npy"))) == len(list(place.glob("*-*.json"))) == 1


def test_what_is_not_ours_stays(place):
    (place / "notes.txt").write_text("mine")
    write_index(place, dict(vectors=TABLE), {})
    assert (place / "notes.txt").read_text() == "mine"


def damage(path, how):
    if how == "cut": path.write_bytes(path.read_bytes()[:-5])
    elif how == "changed": path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    else: path.unlink()


@pytest.mark.parametrize("how, says", [("cut", "damaged"), ("changed", "damaged"), ("gone", "missing")])
@pytest.mark.parametrize("role", ["vectors", "docs"])
def test_damage_is_one_line(place, role, how, says):
    damage(next(place.glob(f"*-{role}.*")), how)
    with pytest.raises(InputError, match=says): read_index(place, tries=2)


@pytest.mark.parametrize("text, says", [("{", "cannot be read"), ("[]", "no list"), ('{"files": {}, "settings": {}, "format": 99}', "format 99"), (None, "never finished")])
def test_a_list_that_is_none(place, text, says):
    (place / "index.json").unlink()
    if text is not None: (place / "index.json").write_text(text)
    with pytest.raises(InputError, match=says): read_index(place)


def test_no_index(tmp_path):
    with pytest.raises(InputError, match="holds no search index"): read_index(tmp_path)
    with pytest.raises(InputError, match="is a file"): (tmp_path / "f").write_text("x"); write_index(tmp_path / "f", {}, {})


def test_a_writer_that_fails_leaves_the_old_one(place):
    with pytest.raises(TypeError): write_index(place, dict(vectors=TABLE + 1, docs=object()), {})
    assert np.array_equal(read_index(place)[0]["vectors"], TABLE) and not list(place.glob(".index-part-*"))


def test_another_writer_is_not_undone(place):
    seen = read_index(place)[2]
    write_index(place, dict(vectors=TABLE + 1), {}, seen=seen)
    with pytest.raises(InputError, match="open it again"): write_index(place, dict(vectors=TABLE + 2), {}, seen=seen)


def test_a_lock_that_is_held_is_told(place, monkeypatch):
    from filelock import FileLock
    import finetune_book.find.index as module
    monkeypatch.setattr(module, "PATIENCE", .1)
    with FileLock(place / ".index-lock"), pytest.raises(InputError, match="another program has been writing"): write_index(place, dict(vectors=TABLE), {})


WRITER = """
import sys, numpy as np
from finetune_book.find.index import write_index
for i in range(10_000): write_index(sys.argv[1], dict(vectors=np.full((5000, 8), i, np.float32), docs=[[str(i), "x"]]), dict(i=i))
"""


def test_readers_see_a_whole_index_while_a_writer_writes_and_is_killed(place):
    write_index(place, dict(vectors=np.zeros((5000, 8), np.float32), docs=[["0", "x"]]), dict(i=0))
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(place)])
    try:
        seen, ends = set(), time.monotonic() + 30
        while len(seen) < 5 and time.monotonic() < ends:
            values, settings, _ = read_index(place)
            assert (values["vectors"] == settings["i"]).all() and values["docs"] == [[str(settings["i"]), "x"]]
            seen.add(settings["i"])
        assert len(seen) >= 5
    finally:
        writer.send_signal(signal.SIGKILL); writer.wait()
    values, settings, _ = read_index(place)
    assert (values["vectors"] == settings["i"]).all()
    write_index(place, dict(vectors=TABLE), {})                         # the lock of the dead is free, and its parts go
    assert sorted(p.suffix for p in place.iterdir() if p.name.startswith(".index-part")) == []


def test_a_full_disk_is_one_line_and_leaves_the_old_index_and_nothing_else(place, monkeypatch):
    from finetune_book.find import index
    before = {p.name for p in place.iterdir()}
    was, written = index.written, []
    def fills(value, file):
        written.append(1)
        if len(written) == 2: raise OSError(28, "No space left on device")
        was(value, file)
    monkeypatch.setattr(index, "written", fills)
    with pytest.raises(InputError, match="could not be written .No space left on device.*make room") as caught: write_index(place, dict(docs=["new"], vectors=np.ones((1, 2))), {})
    assert "\n" not in str(caught.value) and {p.name for p in place.iterdir()} == before and read_index(place)[0]["docs"] != ["new"]


def test_a_full_disk_at_the_first_index_leaves_nothing(tmp_path, monkeypatch):
    from finetune_book.find import index
    def fails(value, file): raise OSError(28, "No space left on device")
    monkeypatch.setattr(index, "written", fails)
    with pytest.raises(InputError, match="make room"): write_index(tmp_path / "new", dict(docs=["a"]), {})
    assert {p.name for p in (tmp_path / "new").iterdir()} <= {index.LOCK_FILE}
