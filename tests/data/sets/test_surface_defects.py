"The synthetic surface defects: rebuilt to the pixel on any machine, sessions apart, classes even, the test's light unseen."
import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from finetune_book.data.sets import surface_defects as sd
from finetune_book.checks import InputError
from finetune_book.data.tables import read_image_folder

SPLITS = ("train", "validation", "test")
TABLES = {"train.csv", "validation.csv", "test.csv", "sessions.csv", "README.md"}


@pytest.fixture(scope="module")
def folder(repo): return repo / "data" / "surface_defects"


@pytest.fixture(scope="module")
def data(folder): return {s: sd.load(s, folder) for s in SPLITS}


@pytest.fixture(scope="module")
def setups(folder): return pd.read_csv(folder / "sessions.csv", index_col="session")


def line_of(action, *names):
    with pytest.raises(InputError) as caught: action()
    message = str(caught.value)
    assert message.isprintable() and len(message) < 500
    for name in names: assert str(name) in message, (name, message)


def test_one_command_rebuilds_the_carried_pixels_tables_and_card(tmp_path, folder):
    run = subprocess.run([sys.executable, "-m", "finetune_book.data.sets.surface_defects", "--out", str(tmp_path / "new" / "defects")],
                         capture_output=True, text=True, cwd=folder.parent.parent)
    assert run.returncode == 0, run.stderr
    made = tmp_path / "new" / "defects"
    assert {p.name for p in made.iterdir()} == TABLES | {f"{s}.webp" for s in SPLITS} == {p.name for p in folder.iterdir()}
    for name in TABLES:
        content = (made / name).read_bytes()
        assert content == (folder / name).read_bytes(), f"{name} differs from the carried file: run the command and commit"
        assert b"\r" not in content
        if name.endswith(".csv"): assert f"{hashlib.sha256(content).hexdigest()}  {name}" in run.stdout
    for s in SPLITS:
        pixels = sd.read_sheet(made / f"{s}.webp")
        assert (pixels == sd.read_sheet(folder / f"{s}.webp")).all(), s
        line = f"{hashlib.sha256(pixels.tobytes()).hexdigest()}  pixels of {s}.webp"
        assert line in run.stdout and line in (folder / "README.md").read_text(encoding="utf-8")


def test_a_processor_without_vector_units_makes_the_same_pixels(data):
    "NumPy's loops for wide registers are switched off; sums in another order or fused products would show."
    from numpy._core._multiarray_umath import __cpu_baseline__, __cpu_dispatch__, __cpu_features__
    off = [f for f in __cpu_dispatch__ if __cpu_features__.get(f) and f not in __cpu_baseline__]
    code = ("import hashlib; from finetune_book.data.sets.surface_defects import make_session as m; "
            "print(*(hashlib.sha256(m(0, s, k)[0].tobytes()).hexdigest() for s in ('train', 'test') for k in range(6)))")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env=os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(off)})
    expect = [hashlib.sha256(data[s][0][12 * k:12 * k + 12].tobytes()).hexdigest() for s in ("train", "test") for k in range(6)]
    assert run.stdout.split() == expect


EXACT = set("random.PCG64 random.SeedSequence uint64 uint8 ndarray arange array asarray ascontiguousarray array_equal stack concatenate roll where "
            "clip floor maximum minimum sqrt".split())


def inexact(source):
    "What a source uses beyond + - * / sqrt, rounding, comparing and moving: functions of np and math, powers, products of matrices, methods."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if re.fullmatch(r"(np|math)[.\w]+", name) and not any(e == name.split(".", 1)[1] or e.startswith(name.split(".", 1)[1] + ".") for e in EXACT):
                found.add(name)
            if node.attr in ("sum", "mean", "std", "var", "dot", "prod", "cumsum"): found.add(name)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.MatMult, ast.Pow)): found.add(ast.unparse(node))
    return found


def test_the_generator_uses_only_what_ieee_754_fixes(repo):
    assert inexact((repo / "finetune_book" / "data" / "sets" / "surface_defects.py").read_text(encoding="utf-8")) == {"2 ** 53", "2.0 ** 53"}
    assert inexact("np.sin(x); a @ b; x.mean(); np.random.default_rng(0); math.sqrt(2); x ** .5") == {"np.sin", "a @ b", "x.mean", "np.random.default_rng", "x ** 0.5"}


def test_a_sheet_with_the_right_pixels_is_left_alone(tmp_path):
    small = {"test": 2}
    prints = sd.write_surface_defects(tmp_path, sessions=small)
    pixels, sheet = sd.read_sheet(tmp_path / "test.webp"), tmp_path / "test.webp"
    Image.fromarray(sd.to_sheet(pixels)).save(sheet, "WEBP", lossless=True, quality=0, method=0)    # another packer
    other = sheet.read_bytes()
    assert sd.write_surface_defects(tmp_path, sessions=small) == prints and sheet.read_bytes() == other
    wrong = pixels.copy()
    wrong[3, 4, 5] ^= 4
    Image.fromarray(sd.to_sheet(wrong)).save(sheet, "WEBP", lossless=True)
    sd.write_surface_defects(tmp_path, sessions=small)
    assert (sd.read_sheet(sheet) == pixels).all()


def test_another_seed_is_another_factory_and_the_global_stream_stays():
    state = np.random.get_state()
    a, b, c = (sd.make_surface_defects(seed, {"train": 2})["train"][0] for seed in (0, 0, 1))
    assert (a == b).all() and (a != c).mean() > .5
    after = np.random.get_state()
    assert state[0] == after[0] and (state[1] == after[1]).all() and state[2:] == after[2:]


def test_more_sessions_leave_the_old_ones(data):
    pictures, rows, setup = sd.make_session(0, "validation", 7)
    assert (pictures == data["validation"][0][84:96]).all()
    assert [r["label"] for r in rows] == data["validation"][1].label[84:96].tolist() and setup["session"] == "validation-007"


def test_counts_types_and_size(data, folder):
    assert {s: p.shape for s, (p, _) in data.items()} == {"train": (1200, 48, 48, 3), "validation": (300, 48, 48, 3), "test": (600, 48, 48, 3)}
    for pictures, table in data.values():
        assert pictures.dtype == np.uint8 and list(table.columns) == ["label", "material", "session"] and len(table) == len(pictures)
        assert set(table.material) == set(sd.MATERIALS) and table.groupby("session").material.nunique().eq(1).all()
        assert set(np.unique(pictures) % 4) == {2}
    assert sum(p.stat().st_size for p in folder.iterdir()) < 4_000_000


def test_every_session_holds_every_class_twice_in_no_fixed_order(data):
    for _, t in data.values():
        assert (pd.crosstab(t.session, t.label) == 2).all(axis=None) and set(t.label) == set(sd.DEFECTS)
    t = data["train"][1]
    place = pd.crosstab(np.arange(len(t)) % 12, t.label)
    assert place.min(axis=None) > 3 and place.max(axis=None) < 36    # 100 sessions, 1/6 each: 16.7 ± 3.7


def test_splits_share_no_session_and_no_picture(data):
    sessions = [s for _, t in data.values() for s in t.session.unique()]
    assert len(sessions) == len(set(sessions)) == sum(sd.SESSIONS.values())
    everything = [p.tobytes() for pictures, _ in data.values() for p in pictures]
    assert len(set(everything)) == len(everything)


def test_the_tests_set_ups_are_unseen(setups):
    assert set(sd.SEEN_RANGES) == set(sd.UNSEEN_RANGES) and sd.RANGES["validation"] == sd.RANGES["train"]
    for name in sd.SEEN_RANGES:
        known, new = (setups[name][(setups.split == "test") == t] for t in (False, True))
        assert sd.SEEN_RANGES[name][0] <= known.min() and known.max() <= sd.SEEN_RANGES[name][1]
        assert sd.UNSEEN_RANGES[name][0] <= new.min() and new.max() <= sd.UNSEEN_RANGES[name][1]
        gap = max(known.min() - new.max(), new.min() - known.max())
        assert gap > .001 and gap > .05 * (known.max() - known.min()), name


def test_a_defect_is_seen_and_leaves_the_rest_as_it_is():
    "The same random numbers draw the same surface; only the mark differs, and it differs visibly inside the picture."
    for k, material in enumerate(list(sd.MATERIALS) * 8):
        for label in sd.DEFECTS:
            view = {}
            for name in ("none", label):
                rng = sd.RawRandom(7, k)
                setup = sd.draw_setup(rng, "test" if k % 2 else "train") | {"grain": 0.}
                piece = setup | sd.draw_look(rng, material)
                view[name] = sd.photograph(rng, *sd.scene(rng, material, name, piece), setup)
            change = np.abs(view[label] - view["none"]).max(-1)
            if label == "none": assert change.max() == 0
            else: assert change.max() > .04 and (change > .02).sum() >= 6 and (change == 0).mean() > .5, (material, label, k)


def test_marks_are_what_the_table_says():
    for k in range(40):
        m = {name: draw(sd.RawRandom(5, k)) for name, draw in sd.DEFECTS.items()}
        assert np.all(m["stain"].height == 0) and np.all(m["dent"].cover == 0) and np.all(m["dent"].wipe == 0)
        for name in ("scratch", "pit", "crack"): assert m[name].height.min() < -.1 and m[name].cover.max() > .1
        for mark in m.values(): assert np.all((0 <= np.asarray(mark.cover)) & (np.asarray(mark.cover) <= 1) & (np.asarray(mark.height) <= 0))


def test_unpack_gives_class_folders(tmp_path, folder, data):
    shutil.copy(folder / "validation.webp", tmp_path), shutil.copy(folder / "validation.csv", tmp_path)
    assert sd.unpack(tmp_path / "out", ["validation"], tmp_path) == 300
    table = read_image_folder(tmp_path / "out" / "validation")
    assert table.label.value_counts().eq(50).all() and table.label.nunique() == 6
    first = data["validation"][1].iloc[13]
    got = np.asarray(Image.open(tmp_path / "out" / "validation" / first.label / f"{first.session}_01.png"))
    assert (got == data["validation"][0][13]).all()


@pytest.mark.parametrize("given, said", [(dict(sessions={"train": -1}), "-1"), (dict(sessions={"tests": 3}), "'test'"), (dict(seed=-1), "-1"),
                                         (dict(sessions={"test": 1.5}), "1.5"), (dict(sessions={"test": True}), "True"), (dict(seed=.5), "0.5")])
def test_bad_arguments_are_refused(given, said): line_of(lambda: sd.make_surface_defects(**given), said)


def test_what_cannot_be_loaded_is_one_clear_line(tmp_path, folder):
    line_of(lambda: sd.load("dev"), "'dev'", "validation")
    line_of(lambda: sd.load("test", tmp_path), "test.webp", "surface_defects")
    (tmp_path / "test.webp").write_bytes((folder / "test.webp").read_bytes()[:5000])
    line_of(lambda: sd.load("test", tmp_path), "test.webp")
    Image.new("RGB", (100, 96)).save(tmp_path / "test.webp")
    line_of(lambda: sd.load("test", tmp_path), "100 x 96", "576")
    shutil.copy(folder / "test.webp", tmp_path)
    line_of(lambda: sd.load("test", tmp_path), "test.csv")
    shutil.copy(folder / "train.csv", tmp_path / "test.csv")
    line_of(lambda: sd.load("test", tmp_path), "600 pictures", "1200 rows")
    (tmp_path / "test.csv").write_text("a,b\n1,2\n")
    line_of(lambda: sd.load("test", tmp_path), "test.csv")


def test_a_folder_that_cannot_be_is_one_clear_line(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert sd.main(["--out", str(tmp_path / "file")]) == 2
    line = capsys.readouterr().err.strip()
    assert line.count("\n") == 0 and "file" in line and "folder" in line
