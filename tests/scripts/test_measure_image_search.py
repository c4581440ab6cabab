"The measurement of image search: a run goes on where it was stopped, the floors know no labels, what it stored is whole."
import numpy as np
import pandas as pd
import pytest

from finetune_book.data.tables import carried


@pytest.fixture(scope="module")
def script(load_script): return load_script("measure_image_search")


def test_each_way_is_one_row_and_is_not_measured_twice(script, tmp_path, monkeypatch, capsys):
    rng, made, out = np.random.default_rng(0), [], tmp_path / "rows.csv"
    def part(n): return rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), np.array(list("ab") * (n // 2))
    def noting(seed): return lambda x, y: made.append((seed, len(y))) or script.colours
    monkeypatch.setattr(script, "picture_sets", lambda cifar: {"cifar10": (part(100), part(20)), "digits": None})
    monkeypatch.setattr(script, "WAYS", script.WAYS | {"base as it came": noting, "fine-tuned": noting})
    for seeds in (["0"], ["0", "1"]): script.main(["--out", str(out), "--seeds", *seeds])
    rows = script.Stored(out, script.COLUMNS, script.KEY).rows(dtype=dict(right=str, ten=str))
    assert made == [(0, 64)] * 2 + [(1, 64)] * 2 and len(rows) == 2 * len(script.WAYS) and set(rows.n_docs) == {36} and set(rows.n_queries) == {20}
    assert "no clear difference" in capsys.readouterr().out


def test_what_is_learned_from_is_not_searched(script):
    few, searched = script.shares(np.array(list("abc") * 100), 3)
    assert len(few) == 96 and len(searched) == 180 and not set(few) & set(searched)


def test_the_floors_are_unit_vectors_and_colours_do_not_ask_where(script):
    x = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)
    for floor in (script.pixels, script.colours): assert np.allclose(np.linalg.norm(floor(x), axis=1), 1, atol=1e-6)
    assert np.array_equal(script.colours(x), script.colours(x[:, ::-1])) and not np.array_equal(script.pixels(x), script.pixels(x[:, ::-1]))
    assert script.colours(np.full((1, 2, 2, 3), 255, np.uint8)).argmax() == 63


def test_a_row_holds_what_was_found(script):
    labels, wanted = np.array(list("ab" * 6)), np.array(["b", "a"])
    scores = np.stack([np.where(labels == "b", 2., 1.), -np.arange(12.)]) - np.arange(12) / 100
    one, ten, right, tally, nearest = script.row_of(scores, wanted, labels, np.arange(100, 112))
    assert (one, ten, right, tally, nearest) == (1., .55, "11", "65", "100 101 102 103 104;101 103 105 107 109")


def test_what_is_stored_is_whole(script):
    rows = script.Stored(carried("base_models") / "image_search.csv", script.COLUMNS, script.KEY).rows(dtype=dict(right=str, ten=str))
    assert set(zip(rows["set"], rows.way, rows.seed)) == {(name, way, seed) for name in script.SETS for way in script.WAYS for seed in script.SEEDS} and not rows.duplicated(script.KEY).any()
    assert (rows.right.str.len() == rows.n_queries).all() and (rows.ten.str.len() == rows.n_queries).all()
    assert np.allclose(rows.right.map(lambda r: r.count("1") / len(r)), rows["recall@1"], atol=1e-4)
    assert np.allclose([np.mean([script.TALLY.index(c) for c in ten]) / 10 for ten in rows.ten], rows["precision@10"], atol=1e-4)
    assert len(script.sessions("surface_defects")) == 240 and script.sessions("cifar10") is None and isinstance(rows, pd.DataFrame)
