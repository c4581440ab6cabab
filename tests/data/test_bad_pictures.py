"""Every bad picture a person is likely to have, on its way through the estimator and through the command: one line, code 2, nothing written.

What the reader itself does with each is in test_pictures.py.
"""
import os
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from finetune_book import ImageClassifier
from finetune_book.cli import main
from finetune_book.checks import InputError
from commands import refused
from examples import png


def shade(bright, i=0, size=12):
    "Dark or bright noise, (size, size, 3) uint8."
    return np.random.default_rng(i).integers(0, 120, (size, size, 3)).astype(np.uint8) + np.uint8(120 * bright)


@pytest.fixture
def folder(tmp_path):
    "Two classes of five good pictures each."
    for bright, label in enumerate(["dark", "lit"]):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(5): Image.fromarray(shade(bright, i + 10 * bright)).save(tmp_path / "set" / label / f"{i}.png")
    return tmp_path / "set"


@pytest.fixture
def settings(tiny_picture_base): return dict(base=tiny_picture_base, epochs=3, lr=.01, batch_size=8, verbose=0)


def command(folder, tiny_picture_base, *more):
    return ["train", "-q", "--data", str(folder), "--base", tiny_picture_base, "--epochs", "3", "--lr", "0.01", "--batch-size", "8",
            "--out", str(Path(folder).parent / "model"), *more]


# --- files that cannot be read -------------------------------------------------------------------------------------

def truncated(path):
    Image.fromarray(shade(0, size=64)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-400])


def one_pixel(path): Image.new("RGB", (1, 1)).save(path)


#: each makes a bad file; in a folder it stands first in its class, so that later labels would slip if it were dropped carelessly
FILES = {
    "a truncated JPEG": ("0 cut.jpg", truncated, ["broken or cut off"]),
    "a text named .png": ("0 notes.png", lambda p: p.write_text("dear diary"), ["no picture", "dear diary"]),
    "zero bytes": ("0 nothing.png", lambda p: p.write_bytes(b""), ["0 bytes"]),
    "one pixel": ("0 dot.png", one_pixel, ["1 x 1 pixels"]),
    "a bomb": ("0 vast.png", lambda p: p.write_bytes(png(20_000, 20_000)), ["400,000,000 pixels", "before decoding"]),
}
one_of_each = pytest.mark.parametrize("case", FILES)


def add(case, folder):
    name, make, says = FILES[case]
    make(folder / "dark" / name)
    return str(folder / "dark" / name), [name, *says]


@one_of_each
def test_fit_and_predict_refuse_the_file(case, folder, settings):
    good = ImageClassifier(**settings).fit(folder)
    path, says = add(case, folder)
    for action in (lambda: ImageClassifier(**settings).fit(folder), lambda: ImageClassifier(**settings).fit([path, path], ["a", "b"]),
                   lambda: good.predict([path]), lambda: good.score(folder), lambda: ImageClassifier(**settings).fit(*good_pictures(), validation=folder)):
        with pytest.raises(InputError) as caught: action()
        assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in says), str(caught.value)


def good_pictures(): return np.stack([shade(i % 2, i) for i in range(10)]), np.array(["dark", "lit"] * 5)


@one_of_each
def test_the_command_refuses_the_file(case, folder, tiny_picture_base, capsys):
    path, says = add(case, folder)
    refused(capsys, command(folder, tiny_picture_base), [*says, "skip"])
    table = folder / "table.csv"
    rows = sorted((str(p.relative_to(folder)), p.parent.name) for p in folder.glob("*/*"))
    pd.DataFrame(rows, columns=["path", "label"]).to_csv(table, index=False)
    refused(capsys, command(table, tiny_picture_base, "--out", str(folder.parent / "model")), says)
    assert not (folder.parent / "model").exists()


@one_of_each
def test_skip_bad_leaves_the_file_out_and_keeps_the_labels(case, folder, settings):
    before = ImageClassifier(**settings).fit(folder).predict_proba(good_pictures()[0])
    path, says = add(case, folder)
    clf = ImageClassifier(**settings, skip_bad=True).fit(folder)
    assert [row for row, _ in clf.skipped_] == [0] and all(word in clf.skipped_[0][1] for word in says) and clf.n_train_ == 10
    assert clf.predict_proba(good_pictures()[0]).tolist() == before.tolist()      # as if it had never been there
    watched = ImageClassifier(**settings, skip_bad=True).fit(*good_pictures(), validation=folder)
    assert watched.skipped_ == [] and "val_loss" in watched.history_[0]


def test_skip_bad_through_the_command(folder, tiny_picture_base, tmp_path, capsys):
    bad = [add(case, folder)[0] for case in FILES]
    assert main(command(folder, tiny_picture_base, "--skip-bad", "--epochs", "8", "--validation", "0.3")) == 0
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if line.startswith("finetune-book: warning: left out: ")]
    assert len(told) == len(bad) and all(any(path in line for line in told) for path in bad)
    assert out.strip() == str(tmp_path / "model") and "accuracy on the rows held back" in err and "always 'dark'" in err
    read = ["predict", "--model", str(tmp_path / "model"), "--data", str(folder)]
    refused(capsys, read, ["0 cut.jpg", "4 more of 15"])
    assert main([*read, "--skip-bad"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "path,prediction,probability" and len(rows) == 11 and not any(path in row for path in bad for row in rows)


def test_a_class_of_which_nothing_is_left(folder, settings, tiny_picture_base, capsys):
    for p in (folder / "lit").iterdir(): p.write_text(f"broken {p}")
    with pytest.raises(InputError, match="only one class, 'dark'"): ImageClassifier(**settings, skip_bad=True).fit(folder)
    assert main(command(folder, tiny_picture_base, "--skip-bad")) == 2
    assert "only 1 class ('dark')" in capsys.readouterr().err.splitlines()[-1]
    for p in (folder / "dark").iterdir(): p.write_text(f"broken {p}")
    with pytest.raises(InputError, match="none is left"): ImageClassifier(**settings, skip_bad=True).fit(folder)


# --- folders that cannot be learnt from ----------------------------------------------------------------------------

def without_pictures(folder): (folder / "scratched").mkdir()
def one_class(folder): shutil.rmtree(folder / "lit")
def twice(folder): (folder / "lit" / "again.png").write_bytes((folder / "dark" / "3.png").read_bytes())


def link_out(folder):
    Image.fromarray(shade(1, 99)).save(folder.parent / "secret.png")
    (folder / "lit" / "9.png").symlink_to(folder.parent / "secret.png")


def folder_link_out(folder):
    (folder.parent / "elsewhere").mkdir()
    Image.fromarray(shade(1, 99)).save(folder.parent / "elsewhere" / "1.png")
    (folder / "other").symlink_to(folder.parent / "elsewhere")


def pipe(folder): os.mkfifo(folder / "dark" / "pipe.png")
def nothing(folder): shutil.rmtree(folder), folder.mkdir()
def lost_link(folder): (folder / "dark" / "lost.png").symlink_to(folder.parent / "gone.png")


FOLDERS = {"an empty class": (without_pictures, ["scratched", "without images"]), "one class": (one_class, ["1 class", "dark"]),
           "one picture under two classes": (twice, ["two classes", "again.png", "3.png", "'dark'", "'lit'"]), "a link out of the folder": (link_out, ["9.png", "leads out"]),
           "a linked class": (folder_link_out, ["other", "leads out"]), "a pipe": (pipe, ["pipe.png", "regular"]), "a link to nothing": (lost_link, ["lost.png"]),
           "an empty folder": (nothing, ["set"])}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(case, folder, settings, tiny_picture_base, capsys):
    spoil, says = FOLDERS[case]
    spoil(folder)
    for skip in (False, True):
        with pytest.raises(InputError) as caught: ImageClassifier(**settings, skip_bad=skip).fit(folder)
        assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in says), str(caught.value)
    refused(capsys, command(folder, tiny_picture_base), says)
    assert not (folder.parent / "model").exists()


def test_a_table_that_leads_elsewhere(folder, tiny_picture_base, capsys, tmp_path):
    Image.fromarray(shade(1)).save(tmp_path / "secret.png")
    os.mkfifo(tmp_path / "pipe.png")
    for odd, says in [("../secret.png", "leads out"), ("dark/gone.png", "no such picture"), (str(tmp_path / "pipe.png"), "not a regular file"), ("", "column 'path'"), ("dark", "folder")]:
        rows = [("dark/1.png", "dark"), ("dark/2.png", "dark"), ("lit/1.png", "lit"), ("lit/2.png", "lit"), (odd, "lit")]
        pd.DataFrame(rows, columns=["path", "label"]).to_csv(folder / "table.csv", index=False)
        refused(capsys, command(folder / "table.csv", tiny_picture_base), [says])
        assert not (folder.parent / "model").exists()


@contextmanager
def nobody():
    "As root, be the user nobody inside, for whom file permissions hold; anybody else stays who they are."
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try: yield
    finally: os.seteuid(0)


def test_a_file_that_may_not_be_read(settings, tiny_picture_base, capsys):
    with tempfile.TemporaryDirectory() as open_to_all:                   # pytest's own folders are closed to nobody
        root = Path(open_to_all) / "set"
        for bright, label in enumerate(["dark", "lit"]):
            (root / label).mkdir(parents=True)
            for i in range(3): Image.fromarray(shade(bright, i + 10 * bright)).save(root / label / f"{i}.png")
        for p in (Path(open_to_all), root): p.chmod(0o777)
        clf = ImageClassifier(**settings).fit(root)
        (root / "dark" / "1.png").chmod(0)
        with nobody():
            with pytest.raises(InputError, match="1.png: cannot be read .Permission denied"): clf.predict([root / "dark" / "1.png"])
            refused(capsys, ["train", "-q", "--data", str(root), "--base", "scratch", "--out", str(Path(open_to_all) / "model")], ["1.png", "cannot be read (Permission denied)"])
        assert not (Path(open_to_all) / "model").exists()


# --- odd, and good -------------------------------------------------------------------------------------------------

def odd_ones(folder, bright):
    "One picture of each odd kind in a class's folder; returns their paths."
    folder.mkdir(parents=True)
    x = shade(bright, 20 + bright)
    rgb, grey = Image.fromarray(x), Image.fromarray(x[..., 0])
    turned = Image.Exif()
    turned[0x0112] = 6
    opaque = np.dstack([x, np.full(x.shape[:2], 255, np.uint8)])
    rgb.save(folder / "plain 图片.png"); grey.save(folder / "grey.png"); rgb.quantize(32).save(folder / "palette.png")
    Image.fromarray(opaque).save(folder / "with alpha.png"); Image.fromarray(x[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg"); rgb.save(folder / "turned.jpg", exif=turned, quality=95)
    rgb.save(folder / "moving.gif", save_all=True, append_images=[Image.fromarray(255 - x)])
    for kind in ("webp", "bmp", "tiff"): rgb.save(folder / f"瑕疵 {kind}.{kind}")
    return sorted(str(p) for p in folder.iterdir())


def test_odd_pictures_train_and_predict(tmp_path, tiny_picture_base, capsys):
    paths = odd_ones(tmp_path / "一 set" / "dark side", 0) + odd_ones(tmp_path / "一 set" / "lit", 1)
    args = ["train", "-q", "--data", str(tmp_path / "一 set"), "--base", tiny_picture_base, "--epochs", "12", "--lr", "0.01", "--batch-size", "8",
            "--augment", "none", "--validation", "0", "--out", str(tmp_path / "模型 1")]
    assert main(args) == 0
    out, err = capsys.readouterr()
    assert out == str(tmp_path / "模型 1") + "\n"
    assert len(err.splitlines()) == 1 and "warning: 2 animated pictures" in err and "first frame" in err
    assert main(["predict", "-m", str(tmp_path / "模型 1"), *paths]) == 0
    out, err = capsys.readouterr()
    rows = [line.split(",") for line in out.splitlines()[1:]]
    assert [row[0] for row in rows] == paths and [row[1] for row in rows] == [Path(p).parent.name for p in paths]
    assert "warning: 2 animated pictures" in err


def test_odd_pictures_through_the_estimator(tmp_path, settings):
    paths = odd_ones(tmp_path / "dark", 0) + odd_ones(tmp_path / "lit", 1)
    labels = [Path(p).parent.name for p in paths]
    with pytest.warns(UserWarning, match="2 animated pictures"):
        clf = ImageClassifier(**{**settings, "epochs": 12}, augment="none").fit(paths, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert clf.score(paths, labels) == 1
