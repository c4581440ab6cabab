"""Tables of pictures: folders and tables are listed or refused by name, links stay inside, downloads go on and are checked."""
import functools
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading

import numpy as np
import pandas as pd
import pytest

from finetune_book.data.images import read_pictures
from finetune_book.data.picture_copies import picture_codes, picture_leaks
from finetune_book.data.picture_tables import (cifar10, download_checked, read_picture_source, read_picture_splits,
                                               read_picture_table, refuse_two_classes)
from pictures import line_of, saved, scene


@pytest.fixture
def pets(tmp_path):
    for k, name in enumerate(("cat/my cat.png", "cat/2.png", "狗/1.png", "狗/2.jpg")): saved(tmp_path / "pets" / name, scene(k))
    return tmp_path / "pets"


def test_folder(pets):
    table = read_picture_table(pets)
    assert list(table.columns) == ["path", "label"] and table.label.tolist() == ["cat", "cat", "狗", "狗"]
    assert read_pictures(table.path, 8)[0].shape == (4, 8, 8, 3)
    assert list(read_picture_splits(str(pets))) == ["all"]


def test_folder_refusals(pets):
    (pets / "eel").mkdir()
    line_of(lambda: read_picture_table(pets), "eel", "without images")
    (pets / "eel").rmdir()
    os.mkfifo(pets / "cat/pipe.png")
    line_of(lambda: read_picture_table(pets), "pipe.png", "no regular files")
    (pets / "cat/pipe.png").unlink()
    for p in (pets / "狗").iterdir(): p.unlink()
    (pets / "狗").rmdir()
    line_of(lambda: read_picture_table(pets), "1 class", "cat")
    line_of(lambda: read_picture_table(pets / "no"), "no such file")
    (pets / "cat").rename(pets.parent / "cat")
    line_of(lambda: read_picture_table(pets), "0 class folders")


def test_an_empty_file_is_left_to_the_reader(pets):
    (pets / "cat/zero.png").touch(); (pets / "狗/zero.png").touch()
    table = read_picture_table(pets)
    line_of(lambda: read_pictures(table.path, 8), "zero.png", "0 bytes")
    assert len(read_pictures(table.path, 8, skip_bad=True)[0]) == 4


def test_links_must_stay_inside(pets, tmp_path):
    outside = saved(tmp_path / "private.png", scene(9))
    (pets / "cat/inner.png").symlink_to("2.png")
    assert len(read_picture_table(pets)) == 5
    (pets / "cat/outer.png").symlink_to(outside)
    line_of(lambda: read_picture_table(pets), "outer.png", "leads out")
    (pets / "cat/outer.png").unlink()
    (tmp_path / "birds").mkdir(); saved(tmp_path / "birds/1.png", scene(8))
    (pets / "bird").symlink_to(tmp_path / "birds")
    line_of(lambda: read_picture_table(pets), "leads out")
    (pets / "bird").unlink()
    (tmp_path / "pets2").mkdir()                      # a neighbour whose name begins alike is outside too
    (pets / "cat/near.png").symlink_to(saved(tmp_path / "pets2/1.png", scene(7)))
    line_of(lambda: read_picture_table(pets), "near.png", "leads out")


def test_table(pets):
    (pets / "t.csv").write_text("path,label,who\ncat/my cat.png,a,x\n狗/1.png,b,y\n", encoding="utf-8")
    table = read_picture_table(pets / "t.csv")
    assert table.label.tolist() == ["a", "b"] and all(os.path.isfile(p) for p in table.path)
    assert read_picture_table(pets / "t.csv", label="who").label.tolist() == ["x", "y"]
    assert list(read_picture_table(pets / "t.csv", label=None).columns) == ["path"]
    frame = pd.DataFrame({"path": [pets / "cat/2.png", str(pets / "狗/1.png")], "label": [1, 2]})
    assert read_picture_table(frame).label.tolist() == ["1", "2"]
    (pets / "full.csv").write_text(f"path,label\n{pets}/cat/2.png,a\n{pets}/狗/1.png,b\n", encoding="utf-8")
    assert len(read_picture_table(pets / "full.csv")) == 2


@pytest.mark.parametrize("content, says", [("path,label\n", "no rows"), ("file,label\n1,a\n", "no column 'path'"), ("path,label\n狗/1.png,\n", "no label"), ("path,label\n,a\n", "empty text"),
                                           ("path,label\n狗/1.png,a\n狗/7.png,b\n", "row 2"), ("path,label\n狗/1.png,a\ncat/2.png,a\n", "only 1 class"),
                                           ("path,label\n../x.png,a\n狗/1.png,b\n", "leads out"), ("path,label\n狗/1.png,a\n狗/1.png,b\n", "under two classes")])
def test_table_refusals(pets, content, says):
    saved(pets.parent / "x.png", scene(5))
    (pets / "t.csv").write_text(content, encoding="utf-8")
    line_of(lambda: read_picture_table(pets / "t.csv"), says)


def test_one_picture_under_two_classes(pets):
    (pets / "狗/again.png").write_bytes((pets / "cat/2.png").read_bytes())
    line_of(lambda: read_picture_table(pets), "under two classes", "cat/2.png", "狗/again.png")
    (pets / "狗/again.png").unlink()
    saved(pets / "狗/again.bmp", scene(1))             # other bytes, equal pixels
    table = read_picture_table(pets)
    pixels = read_pictures(table.path, 30)[0]
    line_of(lambda: refuse_two_classes(picture_codes(pixels), table.label, table.path), "under two classes", "cat/2.png", "again.bmp")
    saved(pets / "cat/2 copy.png", scene(1))           # twice in one class is no contradiction
    (pets / "狗/again.bmp").unlink()
    assert len(read_picture_table(pets)) == 5


def test_splits(tmp_path):
    for k, name in enumerate(("train/a/1.png", "train/b/1.png", "Val/a/1.png", "Val/b/1.png", "test/a/1.png", "test/b/1.png")): saved(tmp_path / name, scene(k))
    (tmp_path / "README.md").write_text("about")
    splits = read_picture_splits(tmp_path)
    assert list(splits) == ["train", "validation", "test"] and all(len(t) == 2 for t in splits.values())
    assert read_picture_table(tmp_path).path[0].endswith("train/a/1.png")
    (tmp_path / "test/b/1.png").write_bytes((tmp_path / "train/a/1.png").read_bytes())
    line_of(lambda: read_picture_splits(tmp_path), "under two classes")     # also across splits
    saved(tmp_path / "test/b/1.png", scene(5))
    (tmp_path / "dev/a").mkdir(parents=True)
    line_of(lambda: read_picture_splits(tmp_path), "validation", "keep one")
    (tmp_path / "dev/a").rmdir(); (tmp_path / "dev").rmdir()
    (tmp_path / "unlabelled").mkdir()
    line_of(lambda: read_picture_splits(tmp_path), "unlabelled", "no split")


def test_a_class_may_be_named_train(tmp_path):
    for k, name in enumerate(("train/1.png", "car/1.png", "test/1.png")): saved(tmp_path / name, scene(k))
    assert sorted(read_picture_table(tmp_path).label) == ["car", "test", "train"] and list(read_picture_splits(tmp_path)) == ["all"]


def test_split_tables(tmp_path):
    for k in range(4): saved(tmp_path / f"pictures/{k}.png", scene(k))
    for split, rows in dict(train=(0, 1), test=(2, 3)).items():
        (tmp_path / f"{split}.csv").write_text("path,label\n" + "".join(f"pictures/{k}.png,{'ab'[k % 2]}\n" for k in rows))
    assert {s: len(t) for s, t in read_picture_splits(tmp_path).items()} == {"train": 2, "test": 2}


def test_source_by_name(pets):
    (pictures, table), = read_picture_source("digits").values()
    assert pictures.shape == (1797, 8, 8) and pictures.dtype == np.uint8 and table.label.value_counts()["3"] == 183
    assert pictures.min() == 0 and pictures.max() == 255 and len(np.unique(pictures)) == 17
    paths, table = read_picture_source(pets)["all"]
    assert len(paths) == len(table) == 4 and isinstance(paths[0], str) and list(table.columns) == ["label"]
    line_of(lambda: read_picture_source("digit"), "no such file")


def test_surface_defects_by_name():
    parts = read_picture_source("surface_defects")
    assert list(parts) == ["train", "validation", "test"]
    for pictures, table in parts.values():
        assert pictures.dtype == np.uint8 and len(pictures) == len(table) and {"label", "group"} <= set(table.columns)
        refuse_two_classes(picture_codes(pictures), table.label, table.index)
    assert picture_leaks({s: x for s, (x, _) in parts.items()}).empty


# --- CIFAR-10 and downloads ---------------------------------------------------------------------------------------

class Server(http.server.BaseHTTPRequestHandler):
    "Serves bytes, parts of them when asked; can break off, or know no parts."
    def __init__(self, content, log, *args, breaks=None, ranges=True):
        self.content, self.log, self.breaks, self.ranges = content, log, breaks, ranges
        super().__init__(*args)

    def do_GET(self):
        asked = self.headers.get("Range") if self.ranges else None
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.log.append(start)
        if start >= len(self.content): return self.send_error(416)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        stop = self.breaks if self.breaks and not start else None
        self.wfile.write(self.content[start:stop])

    def log_message(self, *args): pass


@pytest.fixture
def served():
    "A function that serves bytes on the loopback and gives (url, list of first bytes asked for)."
    servers = []
    def serve(content, **options):
        log = []
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, content, log, **options))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/file", log
    yield serve
    for server in servers: server.shutdown(); server.server_close()


def test_a_download_goes_on_after_a_break(tmp_path, served):
    content = np.random.default_rng(0).bytes(300_000)
    md5 = hashlib.md5(content).hexdigest()
    url, log = served(content, breaks=100_000)
    line_of(lambda: download_checked(url, tmp_path / "f", md5), "100,000 of 300,000")
    assert not (tmp_path / "f").exists()
    download_checked(url, tmp_path / "f", md5)
    assert (tmp_path / "f").read_bytes() == content and log == [0, 100_000] and os.listdir(tmp_path) == ["f"]


def test_a_server_without_parts_sends_all(tmp_path, served):
    content = b"abc" * 1000
    (tmp_path / "f.part").write_bytes(b"xyz")
    url, log = served(content, ranges=False)
    download_checked(url, tmp_path / "f", hashlib.md5(content).hexdigest())
    assert (tmp_path / "f").read_bytes() == content


def test_a_whole_part_is_taken(tmp_path, served):
    (tmp_path / "f.part").write_bytes(b"abc")
    url, log = served(b"abc")
    download_checked(url, tmp_path / "f", hashlib.md5(b"abc").hexdigest())
    assert (tmp_path / "f").read_bytes() == b"abc" and log == [3]


def test_a_wrong_sum_and_no_server(tmp_path, served):
    url, log = served(b"changed")
    line_of(lambda: download_checked(url, tmp_path / "f", "0" * 32), "MD5", "removed")
    assert os.listdir(tmp_path) == []
    line_of(lambda: download_checked("http://127.0.0.1:9/x", tmp_path / "f", "0" * 32), "download failed", "refused")


@pytest.fixture
def small_cifar(monkeypatch):
    "An archive in CIFAR-10's form with 20 pictures a batch, its sums told to torchvision; gives the archive's bytes."
    from torchvision.datasets import CIFAR10
    rng, files = np.random.default_rng(0), {}
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        files[name] = pickle.dumps({"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [k % 10 for k in range(20)]})
    files["batches.meta"] = pickle.dumps({"label_names": "airplane automobile bird cat deer dog frog horse ship truck".split()})
    md5 = {n: hashlib.md5(raw).hexdigest() for n, raw in files.items()}
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as tar:
        for n, raw in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{n}"); entry.size = len(raw)
            tar.addfile(entry, io.BytesIO(raw))
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{k}", md5[f"data_batch_{k}"]] for k in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(sink.getvalue()).hexdigest())
    return sink.getvalue()


def test_cifar10(tmp_path, served, small_cifar, monkeypatch):
    from torchvision.datasets import CIFAR10
    url, log = served(small_cifar)
    monkeypatch.setattr(CIFAR10, "url", url)
    line_of(lambda: cifar10(tmp_path), "download=True", tmp_path)
    assert log == []                                  # nothing is fetched unasked
    pictures, labels = cifar10(tmp_path, download=True)
    assert pictures.shape == (100, 32, 32, 3) and pictures.dtype == np.uint8 and labels[:2].tolist() == ["airplane", "automobile"]
    assert len(cifar10(tmp_path, train=False, download=True)[0]) == 20 and log == [0]
    batch = tmp_path / "cifar-10-batches-py/data_batch_1"
    raw = batch.read_bytes()
    batch.write_bytes(raw[:-1] + b"x")                # a changed pickle is not opened; the archive beside it mends it
    assert len(cifar10(tmp_path)[0]) == 100 and batch.read_bytes() == raw
    batch.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    (tmp_path / CIFAR10.filename).unlink()
    line_of(lambda: cifar10(tmp_path), "no whole CIFAR-10")
    assert not (tmp_path / "ran").exists()


def test_a_broken_archive_is_told(tmp_path, small_cifar):
    from torchvision.datasets import CIFAR10
    (tmp_path / CIFAR10.filename).write_bytes(small_cifar[:-9])
    line_of(lambda: cifar10(tmp_path), "no whole CIFAR-10")
