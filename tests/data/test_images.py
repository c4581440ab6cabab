"""Pictures: every bad file gets one clear line, every odd but good one comes back right, copies across splits are found."""
import functools
import hashlib
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import warnings
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

from examples import png
from finetune_book.checks import InputError
from finetune_book.data.splits import LeakError, split_rows
from finetune_book.data import images
from finetune_book.data.images import (cifar10, contact_sheet, digits, duplicate_pictures, fetch, perceptual_hash, picture_codes, picture_leaks,
                                         read_picture, read_picture_source, read_picture_splits, read_picture_table, read_pictures,
                                         refuse_picture_leaks, refuse_two_classes)


def line_of(action, *names, kind=InputError):
    "The message of the error that `action` raises: one line, short, holding every one of `names`."
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable() and len(message) < 700, message
    for name in names:
        assert str(name) in message, (name, message)
    return message


def scene(seed=0, w=40, h=30):
    "A smooth random picture: few colours would hide faults, noise would not survive a JPEG."
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)


def saved(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or scene()).save(path, **options)
    return path


def near(a, b, most): assert a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).mean() < most


# --- bad files ----------------------------------------------------------------------------------------------------

def cut_jpeg(path):
    raw = saved(path, scene(0, 200, 150)).read_bytes()
    path.write_bytes(raw[:len(raw) // 2])


BAD = {
    "cut.jpg": (cut_jpeg, "cut off"),
    "cut.png": (lambda p: p.write_bytes(saved(p, scene(0, 200, 150)).read_bytes()[:3000]), "cut off"),
    "cut.webp": (lambda p: p.write_bytes(saved(p, scene(0, 200, 150)).read_bytes()[:200]), "broken"),
    "header.jpg": (lambda p: p.write_bytes(saved(p).read_bytes()[:40]), "broken"),
    "text.png": (lambda p: p.write_text("these are my notes"), "these are my"),
    "drawing.png": (lambda p: p.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EOF"), "no picture"),
    "zero.png": (lambda p: p.touch(), "empty file (0 bytes)"),
    "dot.png": (lambda p: saved(p, Image.new("RGB", (1, 1))), "1 x 1 pixels"),
    "line.png": (lambda p: saved(p, Image.new("RGB", (500, 1))), "500 x 1 pixels"),
    "bomb.png": (lambda p: p.write_bytes(png(20_000, 20_000)), "400,000,000 pixels"),
    "large.png": (lambda p: p.write_bytes(png(12_000, 11_000)), "12,000 x 11,000 pixels"),   # where Pillow only warns
    "pipe.png": (os.mkfifo, "not a regular file"),
    "folder.png": (os.mkdir, "a folder"),
    "loop.png": (lambda p: p.symlink_to(p.name), "cannot be read"),
    "dangling.png": (lambda p: p.symlink_to("nowhere.png"), "no such file"),
    "gone.png": (lambda p: None, "no such file"),
    "float.tif": (lambda p: saved(p, Image.new("F", (9, 9))), "32-bit pixels"),
    "pixels.png": (lambda p: p.write_bytes(png(50, 50, b"\0" * 100)), "cut off"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file(tmp_path, name):
    make, says = BAD[name]
    make(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        line_of(lambda: read_picture(tmp_path / name), tmp_path / name, says)
        line_of(lambda: read_pictures([saved(tmp_path / "good.png"), tmp_path / name], 16), tmp_path / name, says, "skip_bad=True")
        pictures, kept, bad = read_pictures([tmp_path / name, tmp_path / "good.png"], 16, skip_bad=True)
    assert pictures.shape == (1, 16, 16, 3) and kept.tolist() == [1] and kept.dtype == np.int64
    assert [row for row, _ in bad] == [0] and str(tmp_path / name) in bad[0][1]
    line_of(lambda: read_pictures([tmp_path / name], 16, skip_bad=True), tmp_path / name, "none is left")


def test_any_broken_byte_gives_pixels_or_one_line(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("jpeg", "png", "gif", "bmp", "webp", "tiff"):
        whole = saved(tmp_path / f"x.{kind}", scene(1)).read_bytes()
        for _ in range(40):
            raw = bytearray(whole)
            for k in rng.integers(0, min(len(raw), 400), 4): raw[k] = rng.integers(256)
            (tmp_path / "y").write_bytes(raw[:rng.integers(1, len(raw) + 1)])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")      # Pillow warns of odd metadata
                    assert read_picture(tmp_path / "y", 8).shape == (8, 8, 3)
            except InputError as e: assert "\n" not in str(e)


def test_a_bomb_is_refused_before_decoding(tmp_path):
    rows = zlib.compress(b"\0" * (11_001 * 1000), 1)
    (tmp_path / "bomb.png").write_bytes(png(11_000, 11_000, rows))
    tracemalloc.start()
    start = time.perf_counter()
    line_of(lambda: read_picture(tmp_path / "bomb.png", 32), "refused before decoding")
    assert time.perf_counter() - start < 1 and tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_the_limit_is_ours_whatever_pillow_was_told(tmp_path, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(png(20_000, 20_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    line_of(lambda: read_picture(tmp_path / "bomb.png"), "20,000 x 20,000 pixels")
    line_of(lambda: read_picture(Image.new("1", (20_000, 20_000)), 8), "20,000 x 20,000 pixels")
    assert Image.MAX_IMAGE_PIXELS is None


def test_a_cut_off_picture_that_somebody_else_opened(tmp_path):
    cut_jpeg(tmp_path / "x.jpg")
    for size in (None, 16):
        with Image.open(tmp_path / "x.jpg") as image: line_of(lambda: read_picture(image, size), "the picture: broken or cut off")
    with Image.open(tmp_path / "x.jpg") as image: line_of(lambda: read_pictures([scene(), image], 8), "picture 1: broken")


def test_an_unreadable_file(tmp_path):
    "Root may read everything, so a user without rights tries."
    path = saved(tmp_path / "private.png")
    path.chmod(0)
    if os.access(path, os.R_OK):
        reader = os.fork()
        if reader == 0:                              # the child leaves at once, whatever happens
            try:
                os.setgroups([]); os.setgid(65534); os.setuid(65534)
                read_picture(path)
            except InputError as e: os._exit(0 if "Permission denied" in str(e) and str(path) in str(e) else 3)
            finally: os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
    else:
        line_of(lambda: read_picture(path), path, "Permission denied")


@pytest.mark.parametrize("given, says", [(3, "type int"), (None, "type NoneType"), (np.zeros((9, 9, 3)), "float64"), (np.zeros((9, 9, 2), np.uint8), "(9, 9, 2)"),
                                         (np.zeros((3, 9, 9), np.uint8), "(3, 9, 9)"), (np.zeros((9, 9), bool), "bool"), (np.zeros((1, 1), np.uint8), "1 x 1"),
                                         (np.zeros((0, 9, 3), np.uint8), "9 x 0"), ("a\0b.png", "cannot be read"), ("x" * 5000, "cannot be read"), (Image.new("RGB", (1, 9)), "1 x 9")])
def test_not_a_picture(given, says): line_of(lambda: read_picture(given), says)


@pytest.mark.parametrize("size", [0, -1, 3, 5000, 2.5, "64", True])
def test_size(size): line_of(lambda: read_picture(scene(), size), f"size={size!r}", "4 to 4096")


@pytest.mark.parametrize("given, says", [("some/folder", "read_picture_table"), ([], "empty"), (7, "type int"), (pd.DataFrame({"path": []}), "column of paths"),
                                         (np.zeros((2, 9, 9, 3)), "float64"), (np.zeros((2, 3, 9, 9), np.uint8), "channels first"),
                                         (np.zeros((0, 9, 9, 3), np.uint8), "empty"), (np.zeros((9, 9), np.uint8), "(9, 9)")])
def test_not_many_pictures(given, says): line_of(lambda: read_pictures(given, 32), says)


def test_more_than_the_memory_is_refused(): line_of(lambda: read_pictures(["x.png"] * 2_000_000, 4096), "GB", "smaller size")


def test_all_bad_files_are_told_at_once(tmp_path):
    for k in range(9): (tmp_path / f"{k}.png").touch()
    saved(tmp_path / "9.png")
    line_of(lambda: read_pictures(sorted(tmp_path.iterdir()), 8), "0.png", "8 more of 10", "rows 1, 2, 3, 4, 5 and 3 more")


# --- good files that are odd --------------------------------------------------------------------------------------

def test_grey_palette_and_one_bit(tmp_path):
    grey = read_picture(saved(tmp_path / "g.png", scene().convert("L")))
    assert (grey == np.asarray(scene().convert("L"))[..., None]).all() and grey.shape == (30, 40, 3)
    palette = scene().quantize(32)
    assert (read_picture(saved(tmp_path / "p.png", palette)) == np.asarray(palette.convert("RGB"))).all()
    assert set(np.unique(read_picture(saved(tmp_path / "1.png", scene().convert("1"))))) == {0, 255}


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path, kind):
    x = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)
    y = read_picture(saved(tmp_path / f"x.{kind}", Image.fromarray(x)))
    assert (y == np.rint(x / 257).astype(np.uint8)[..., None]).all()
    assert (np.asarray(Image.open(tmp_path / f"x.{kind}").convert("RGB")) == 255).mean() > .9     # what this is about
    assert (read_picture(x) == y).all()
    big = Image.frombytes("I;16B", (40, 30), x.astype(">u2").tobytes())
    assert (read_picture(big) == y).all()


def test_transparency_lies_on_white(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:4] = (255, 0, 0, 51)                       # a fifth red
    for y in (read_picture(saved(tmp_path / "a.png", Image.fromarray(rgba))), read_picture(rgba)):
        assert (y[:4] == (255, 204, 204)).all() and (y[4:] == 255).all()
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.paste(1, (0, 0, 8, 4))
    y = read_picture(saved(tmp_path / "p.png", palette, transparency=0))
    assert (y[:4] == (200, 0, 0)).all() and (y[4:] == 255).all()
    la = Image.merge("LA", (Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 0)))
    assert (read_picture(saved(tmp_path / "la.png", la)) == 255).all()


def test_cmyk_is_converted(tmp_path):
    y = read_picture(saved(tmp_path / "c.jpg", scene().convert("CMYK"), quality=95))
    near(y, np.asarray(scene()), 4)
    near(read_picture(saved(tmp_path / "c.tif", scene().convert("CMYK"))), np.asarray(scene()), 1)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("number, turn", [(3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_followed(tmp_path, kind, number, turn):
    note = Image.Exif()
    note[0x0112] = number
    options = dict(quality=95) if kind in ("jpg", "webp") else {}
    y = read_picture(saved(tmp_path / f"x.{kind}", scene(), exif=note, **options))
    near(y, np.rot90(np.asarray(scene()), turn), 4)
    with Image.open(tmp_path / f"x.{kind}") as opened: assert (read_picture(opened) == y).all()
    near(read_picture(tmp_path / f"x.{kind}", 8), np.rot90(np.asarray(images.to_square(scene(), 8)), turn), 6)


def test_a_broken_note_does_not_break_the_picture(tmp_path):
    path = saved(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 9)
    assert read_picture(path).shape == (30, 40, 3)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame(tmp_path, kind):
    frames = [Image.new("RGB", (9, 9), c) for c in ("red", "blue")]
    path = saved(tmp_path / f"x.{kind}", frames[0], save_all=True, append_images=frames[1:], **(dict(lossless=True) if kind == "webp" else {}))
    with pytest.warns(UserWarning, match="animated; only its first frame"): y = read_picture(path)
    assert (y == (255, 0, 0)).all()
    with pytest.warns(UserWarning) as caught: read_pictures([path] * 5, 8)
    assert len(caught) == 1 and "5 animated pictures" in str(caught[0].message)


def test_names(tmp_path):
    for name in ("my cat.png", "猫 的 照片.png", "ünï✓.png", "no ending", "wrong.jpg", "-rf.png"):
        assert read_picture(saved(tmp_path / name, format="PNG")).shape == (30, 40, 3)
        assert read_picture(str(tmp_path / name), 8).shape == (8, 8, 3)


def test_a_second_picture_inside_a_phones_file(tmp_path):
    path = tmp_path / "phone.jpg"
    scene(0).save(path, "MPO", save_all=True, append_images=[scene(1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near(read_picture(path), np.asarray(scene(0)), 8)


# --- shapes -------------------------------------------------------------------------------------------------------

def test_square_is_the_middle(tmp_path):
    x = np.zeros((10, 30, 3), np.uint8)
    x[:, 10:20] = 200
    assert (read_picture(x, 10) == 200).all() and (read_picture(x.swapaxes(0, 1), 10) == 200).all()
    assert read_picture(np.zeros((4, 50_000), np.uint8), 224).shape == (224, 224, 3)
    assert read_picture(x[:9], 20).shape == (20, 20, 3)


def test_all_kinds_of_input_agree(tmp_path):
    x = np.asarray(scene())
    kinds = [saved(tmp_path / "x.png"), str(tmp_path / "x.png"), scene(), x]
    pictures, kept, bad = read_pictures(kinds, 16)
    assert kept.tolist() == [0, 1, 2, 3] and bad == [] and pictures.dtype == np.uint8 and all((p == pictures[0]).all() for p in pictures)
    for many in (np.stack([x, x]), pd.Series(kinds[:2], index=[7, 9]), np.array([str(k) for k in kinds[:2]]), tuple(kinds)):
        assert (read_pictures(many, 16)[0] == pictures[0]).all()
    grey = x[..., 0]
    assert (read_pictures(np.stack([grey]), 30)[0][0] == read_picture(grey, 30)).all()


def test_what_fits_is_untouched():
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    assert read_pictures(x, 8)[0] is x
    assert (read_pictures(list(x), 8)[0] == x).all() and (read_pictures(x[..., 0], 8)[0] == x[..., :1]).all()
    assert (read_picture(x[0]) == x[0]).all()


def test_input_is_not_changed(tmp_path):
    image = Image.open(saved(tmp_path / "x.jpg", scene(0, 400, 300)))
    read_picture(image, 16)
    assert image.size == (400, 300) and read_picture(image).shape == (300, 400, 3)
    x = np.zeros((8, 8, 3), np.uint8)
    read_picture(x)[:] = 9
    assert not x.any()


def test_reduced_decoding_sees_the_same(tmp_path):
    path = saved(tmp_path / "x.jpg", scene(0, 1600, 1200), quality=95)
    near(read_picture(path, 64), np.asarray(images.to_square(Image.open(path).convert("RGB"), 64)), 1)


def test_globals_and_memory_stay(tmp_path):
    path = saved(tmp_path / "x.png", scene(0, 600, 500))
    (tmp_path / "bad.png").write_bytes(path.read_bytes()[:5000])
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:], len(os.listdir("/proc/self/fd"))
    tracemalloc.start()
    read_pictures([path, tmp_path / "bad.png"] * 30, 32, skip_bad=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6                                # three pictures are 0.9 MB each; thirty would be 27
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:], len(os.listdir("/proc/self/fd"))) == before


def test_the_bar_shows_above_two_thousand(capsys):
    tiny = [np.zeros((8, 8), np.uint8)]
    read_pictures(tiny * 2000, 8)
    assert capsys.readouterr().err == ""
    read_pictures(tiny * 2001, 8)
    assert "2001" in capsys.readouterr().err


def test_importing_needs_no_torch():
    code = "import sys, finetune_book.data.images; print(sorted({'torch', 'torchvision', 'sklearn.datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- tables -------------------------------------------------------------------------------------------------------

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
    line_of(lambda: fetch(url, tmp_path / "f", md5), "100,000 of 300,000")
    assert not (tmp_path / "f").exists()
    fetch(url, tmp_path / "f", md5)
    assert (tmp_path / "f").read_bytes() == content and log == [0, 100_000] and os.listdir(tmp_path) == ["f"]


def test_a_server_without_parts_sends_all(tmp_path, served):
    content = b"abc" * 1000
    (tmp_path / "f.part").write_bytes(b"xyz")
    url, log = served(content, ranges=False)
    fetch(url, tmp_path / "f", hashlib.md5(content).hexdigest())
    assert (tmp_path / "f").read_bytes() == content


def test_a_whole_part_is_taken(tmp_path, served):
    (tmp_path / "f.part").write_bytes(b"abc")
    url, log = served(b"abc")
    fetch(url, tmp_path / "f", hashlib.md5(b"abc").hexdigest())
    assert (tmp_path / "f").read_bytes() == b"abc" and log == [3]


def test_a_wrong_sum_and_no_server(tmp_path, served):
    url, log = served(b"changed")
    line_of(lambda: fetch(url, tmp_path / "f", "0" * 32), "MD5", "removed")
    assert os.listdir(tmp_path) == []
    line_of(lambda: fetch("http://127.0.0.1:9/x", tmp_path / "f", "0" * 32), "download failed", "refused")


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


# --- copies -------------------------------------------------------------------------------------------------------

def again(x, **options):
    sink = io.BytesIO()
    Image.fromarray(x).save(sink, "JPEG", **options)
    return np.asarray(Image.open(sink).convert("RGB"))


def scenes(n, start=0): return np.stack([np.asarray(scene(k, 48, 48)) for k in range(start, start + n)])


def test_hash_keeps_and_differs():
    x = scenes(60)
    h = perceptual_hash(x)
    assert h.dtype == np.uint64 and h.shape == (60,)
    for copy in (np.stack([again(p, quality=40) for p in x]), (x * .6 + 30).astype(np.uint8), read_pictures(x, 32)[0], read_pictures(x, 100)[0]):
        assert np.bitwise_count(h ^ perceptual_hash(copy)).max() <= 8
    apart = np.bitwise_count(h[:, None] ^ h)[np.triu_indices(60, 1)]
    assert 28 < apart.mean() < 35 and apart.min() > 10
    assert (perceptual_hash(x[..., 0]) == perceptual_hash(np.repeat(x[..., :1], 3, axis=3))).all()
    assert not perceptual_hash(np.stack([np.full((224, 224, 3), v, np.uint8) for v in (0, 77, 255)])).any()
    many = np.concatenate([x] * 40)                  # more than one block
    assert (perceptual_hash(many) == np.tile(h, 40)).all()


def test_leaks_are_found_and_only_these():
    train, test = scenes(80), scenes(40, 1000)
    test[3], test[7], test[9] = train[11], again(train[12], quality=50), (train[13] * .7).astype(np.uint8)
    leaks = picture_leaks({"train": train, "validation": scenes(10, 2000), "test": test})
    assert leaks[["kind", "split_a", "row_a", "split_b", "row_b"]].values.tolist() == [
        ["duplicate", "train", 11, "test", 3], ["near-duplicate", "train", 12, "test", 7], ["near-duplicate", "train", 13, "test", 9]]
    assert (leaks.distance <= 10).all() and (leaks.similarity >= .97).all()
    line_of(lambda: refuse_picture_leaks({"train": train, "test": test}), "1 of 40 test pictures in train (duplicate)", "test row 3", kind=LeakError)
    assert len(refuse_picture_leaks({"train": train, "test": test}, allow=True)) == 3
    assert refuse_picture_leaks({"train": train, "test": scenes(9, 1000)}).empty


def test_leaks_across_sizes(): assert picture_leaks({"a": scenes(5), "b": read_pictures(scenes(5), 24)[0]}).row_a.tolist() == [0, 1, 2, 3, 4]


def test_flat_pictures_are_twins_only_when_equal():
    flat = np.stack([np.full((16, 16, 3), v, np.uint8) for v in (0, 100, 250)])
    assert picture_leaks({"a": flat, "b": flat + np.uint8(1)}).empty
    assert picture_leaks({"a": flat, "b": flat[1:]}).kind.tolist() == ["duplicate"] * 2
    speck = flat.copy()
    speck[:, 3, 3] = 40                              # a defect on a blank sheet is no copy of the blank
    assert picture_leaks({"a": flat, "b": speck}).empty


def test_limits():
    x = scenes(2)
    line_of(lambda: picture_leaks({"a": x}, max_distance=64), "max_distance=64")
    line_of(lambda: duplicate_pictures(x, min_similarity=0), "min_similarity=0")
    line_of(lambda: picture_leaks({"a": x, "b": x.astype(float)}), "float64")
    assert picture_leaks({"a": x}).empty


def test_groups_keep_copies_together():
    x = scenes(30)
    both = np.concatenate([x, np.stack([again(p, quality=60) for p in x]), x[:5]])
    groups = duplicate_pictures(both)
    assert groups.dtype == np.int64 and (groups == np.r_[np.arange(30), np.arange(30), np.arange(5)]).all()
    parts = split_rows(np.where(groups % 2, "odd", "even"), groups, (.6, .2, .2), seed=0)
    assert picture_leaks({str(k): both[rows] for k, rows in enumerate(parts)}).empty


def test_many_copies_take_little():
    x = np.repeat(scenes(1)[:, ::2, ::2], 3000, axis=0).copy()
    x[:, 0, 0, 0] = np.arange(3000) % 256
    tracemalloc.start()
    start = time.perf_counter()
    assert duplicate_pictures(x).max() == 0 and len(picture_leaks({"a": x[:1500], "b": x[1500:]})) == 1500
    assert time.perf_counter() - start < 8 and tracemalloc.get_traced_memory()[1] < 4e8
    tracemalloc.stop()


def test_digits_hold_no_copies():
    x, _ = digits()
    assert len(picture_leaks({"a": x[:1200], "b": x[1200:]})) <= 2


def test_cifar_copies(real_data):
    "Of 1,000 real test pictures next to none has a copy among 2,000 others; every copy that was saved again is found."
    parts = {s: read_picture_splits(real_data / "images/cifar10")[s] for s in ("train", "test")}
    train, test = (read_pictures(t.path, 32)[0] for t in parts.values())
    assert len(train) == 2000 and len(picture_leaks({"train": train, "test": test})) <= 5
    for edit, least in ((lambda p: again(p, quality=75), .99), (lambda p: again(p, quality=30), .95), (lambda p: (p * .7).astype(np.uint8), .99),
                        (lambda p: read_picture(read_picture(p, 24), 32), .99)):
        found = picture_leaks({"train": train, "test": np.stack([edit(p) for p in train[::20]])})
        assert (found.row_a == found.row_b * 20).mean() > .97 and len(found) >= least * 100


# --- contact sheets -----------------------------------------------------------------------------------------------

def test_contact_sheet():
    from matplotlib.figure import Figure
    ax = contact_sheet(Figure().subplots(), scenes(5), ["$5 and $6", "b", 3, "a title that is far too long", "猫"], columns=2)
    page = ax.images[0].get_array()
    assert page.shape == (3 * (48 + 12), 2 * (48 + 3), 3) and (page[12:60, :48] == scenes(1)[0]).all()
    assert [t.get_text() for t in ax.texts][0] == "$5 and $6" and not ax.texts[0].get_parse_math() and len(ax.texts[3].get_text()) == 14
    assert contact_sheet(Figure().subplots(), scenes(2)[..., 0]).images[0].get_array().shape[1] == 2 * 51
    line_of(lambda: contact_sheet(Figure().subplots(), scenes(2), ["one"]), "2 pictures and 1 titles")
    line_of(lambda: contact_sheet(Figure().subplots(), scenes(2)[:0]), "no pictures")
