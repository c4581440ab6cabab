"""Zips and gzips: what people pack is read, and what an archive could do to a machine is refused before it is unpacked."""
import gzip
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from finetune_book.checks import InputError
from finetune_book.data import archives
from finetune_book.data.picture_tables import read_picture_splits
from finetune_book.data.tables import find_source, read_splits, read_table

TABLE = "text,label\nfine,a\nbad,b\n"


def packed(path, entries, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in entries.items(): z.writestr(name, content, **options)
    return path


def refused(path, *says):
    with pytest.raises(InputError) as caught: find_source(path)
    assert "\n" not in str(caught.value) and all(s in str(caught.value) for s in (path.name, *says)), caught.value


@pytest.mark.parametrize("names", [["notes.csv"], ["deep/er/notes.csv"], ["a/notes.csv", "a/README.txt", "__MACOSX/a/._notes.csv", "a/.DS_Store"]])
def test_a_zip_of_one_table(tmp_path, names):
    path = packed(tmp_path / "n.zip", {name: TABLE for name in names})
    assert read_table(path).text.tolist() == ["fine", "bad"] and list(read_splits(path)) == ["all"]


def test_a_zip_of_split_tables_and_of_a_gzipped_one(tmp_path):
    path = packed(tmp_path / "set.zip", {"set/train.csv": TABLE, "set/test.tsv": TABLE.replace(",", "\t")})
    assert {k: len(v) for k, v in read_splits(path).items()} == {"train": 2, "test": 2}
    assert len(read_table(packed(tmp_path / "g.zip", {"n.csv.gz": gzip.compress(TABLE.encode())}))) == 2


@pytest.mark.parametrize("top", ["", "pets/", "a/pets/"])
def test_a_zip_of_pictures(tmp_path, top):
    rng = np.random.default_rng(0)
    for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
    files = {f"{top}{p.relative_to(tmp_path)}": p.read_bytes() for p in tmp_path.rglob("*.png")}
    path = packed(tmp_path / "pets.zip", files | {"__MACOSX/x": b"?"})
    table = read_picture_splits(path)["all"]
    assert table.label.tolist() == ["cat", "cat", "dog", "dog"]
    assert archives.name_inside(table.path[0]) == f"pets.zip/{top}cat/1.png"
    listed = packed(tmp_path / "listed.zip", files | {f"{top}list.csv": "path,label\ncat/1.png,a\ndog/2.png,b\n"})
    assert read_picture_splits(listed)["all"].label.tolist() == ["a", "b"]


@pytest.mark.parametrize("name", ["../out.csv", "/etc/out.csv", "a/../../out.csv", "C:\\out.csv", "..\\out.csv"])
def test_no_path_leads_out(tmp_path, name):
    refused(packed(tmp_path / "bad.zip", {"notes.csv": TABLE, name: TABLE}), "leads out of the archive", "nothing was unpacked")
    assert not (tmp_path / "out.csv").exists() and not (tmp_path.parent / "out.csv").exists()


def test_no_link_is_followed(tmp_path):
    for kind, says in ((stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "no regular file")):
        entry = zipfile.ZipInfo("notes.csv"); entry.external_attr = (kind | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as z: z.writestr(entry, "/etc/passwd")
        refused(tmp_path / "bad.zip", says)


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", 10**6)
    monkeypatch.setattr(archives, "write_entries", lambda *a: pytest.fail("unpacked"))
    refused(packed(tmp_path / "bomb.zip", {"notes.csv": bytes(10**7)}), "would unpack to 0.01 GB")
    monkeypatch.setattr(archives, "MOST_BYTES", 1000)
    refused(packed(tmp_path / "big.zip", {f"{i}.csv": TABLE * 20 for i in range(9)}), "GB")
    monkeypatch.setattr(archives, "MOST_FILES", 8)
    refused(packed(tmp_path / "many.zip", {f"{i}.csv": "" for i in range(9)}), "9 files, at most 8")
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(InputError, match="unpacks to more than"): read_table(tmp_path / "bomb.csv.gz")


def test_archives_that_cannot_be_used(tmp_path, monkeypatch):
    refused(packed(tmp_path / "empty.zip", {}), "no files")
    refused(packed(tmp_path / "litter.zip", {"__MACOSX/x": "", ".DS_Store": ""}), "no files")
    whole = packed(tmp_path / "whole.zip", {"notes.csv": TABLE * 50}).read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[:60]); refused(tmp_path / "half.zip", "not a whole zip")
    (tmp_path / "worn.zip").write_bytes(whole[:42] + bytes([whole[42] ^ 255]) + whole[43:]); refused(tmp_path / "worn.zip", "damaged")
    locked = bytearray(whole)
    for at in (whole.index(b"PK\x03\x04") + 6, whole.index(b"PK\x01\x02") + 8): locked[at] |= 1
    (tmp_path / "locked.zip").write_bytes(locked); refused(tmp_path / "locked.zip", "is encrypted")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "twice.zip", "w") as z:
        for _ in range(2): z.writestr("notes.csv", TABLE)
    refused(tmp_path / "twice.zip", "twice")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 100, 10))
    (tmp_path / "room.zip").write_bytes(whole); refused(tmp_path / "room.zip", "TMPDIR")


def test_what_was_unpacked_goes_with_the_process(tmp_path):
    path = packed(tmp_path / "n.zip", {"notes.csv": TABLE})
    code = f"from finetune_book.data.tables import find_source; print(find_source({str(path)!r}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert out.endswith("n.zip/notes.csv") and not Path(out).exists() and not Path(out).parents[1].exists()
    before = read_table(path)
    packed(path, {"notes.csv": TABLE + "new,a\n"})
    assert len(read_table(path)) == len(before) + 1
