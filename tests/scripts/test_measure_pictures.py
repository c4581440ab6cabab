"""The measurement of picture bases: it resumes, keeps its splits apart, and what it stored is whole."""
import csv
import gzip

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("measure_pictures")


def test_a_row_is_measured_once_and_a_killed_run_goes_on(script, tmp_path):
    calls, key = [], ("digits", "none", "pixels, all", 5, 0, "accuracy")
    def work(): calls.append(1); return .5, 10
    first = script.Table(tmp_path / "new" / "rows.csv")
    first.measure(key, work); first.measure(key, work)
    again = script.Table(tmp_path / "new" / "rows.csv")
    again.measure(key, work)
    again.measure((*key[:4], 1, key[5]), work)
    rows = list(csv.DictReader(open(again.path, newline="", encoding="utf-8")))
    assert len(calls) == len(rows) == 2 and list(rows[0]) == script.COLUMNS and rows[0]["method"] == "pixels, all" and rows[0]["value"] == "0.5000"


def test_parts_share_no_row(script):
    x = np.arange(3000)
    (pool, _), (held, _), (test, _) = script.parts(x, x, x + 10_000, x)
    assert len(held) == script.HELD and len(test) == script.TESTED and len(pool) == 2000 and not set(pool) & set(held) and test.min() >= 10_000


def test_idx_files_are_read(script, tmp_path):
    raw = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(12)])
    (tmp_path / "x.gz").write_bytes(gzip.compress(raw))
    assert script.idx(tmp_path / "x.gz").tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]


def test_digits_and_surfaces_are_split_without_overlap(script):
    for make in (script.some_digits, script.surfaces):
        sets = [{p.tobytes() for p in pictures} for pictures, _ in make()]
        assert not sets[0] & sets[2] and not sets[1] & sets[2] and not sets[0] & sets[1]


def test_stages_are_one_mean_a_channel(script):
    model = script.Stages("scratch", None).fit(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), np.array(list("aabbcc")))
    assert model.features(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 16 + 32 + 64 + 128)


def test_stored_results_are_whole(repo, script):
    "Columns as agreed, no run twice, shares of a test set, and no base judged on labels it has seen."
    folder = repo / "data/base_models"
    for name in ("results_image.csv", "choices_image.csv"):
        rows = pd.read_csv(folder / name)
        assert list(rows) == script.COLUMNS and set(rows.modality) == {"image"} and not rows.duplicated(script.COLUMNS[:7]).any()
        assert rows.value.between(0, 1).all() and ((rows.value * rows.n_test - (rows.value * rows.n_test).round()).abs() < .2).all()
        assert not ((rows.base == "labels") & (rows.set == "cifar10")).any()
    assert set(pd.read_csv(folder / "choices_image.csv").seed).isdisjoint(pd.read_csv(folder / "results_image.csv").seed)
