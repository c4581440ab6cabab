"""Pictures: every bad file gets one clear line, every odd but good one comes back right."""
import os
import subprocess
import sys
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
from finetune_book.data import images
from finetune_book.data.images import contact_sheet, read_picture, read_pictures
from pictures import line_of, saved, scene, scenes


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
