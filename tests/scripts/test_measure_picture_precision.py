"The measurement of bfloat16 on pictures: a run goes on where it was stopped, both precisions get the same, what it stored is whole."
import sys

import numpy as np
import pandas as pd
import pytest

from fake_pictures import PARTS, model_noting


@pytest.fixture(scope="module")
def script(load_script): return load_script("measure_picture_precision")


def test_each_training_is_one_row_and_is_not_made_twice(script, tmp_path, monkeypatch, capsys):
    asked, out = [], tmp_path / "rows.csv"
    monkeypatch.setattr(script, "ImageClassifier", model_noting(asked))
    monkeypatch.setattr(script, "picture_sets", lambda cifar: {"toy": PARTS})
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", ["measure", "--out", str(out), "--seeds", *seeds])
        script.main()
    rows = script.known(out)
    assert len(asked) == len(rows) == 4 and list(rows) == script.COLUMNS and (rows.accuracy == .75).all() and set(rows.right) == {"1110"}
    assert {(s["seed"], s["precision"]) for s in asked} == {(s, p) for s in (0, 1) for p in script.PRECISIONS} and "no clear difference" in capsys.readouterr().out


def test_a_precision_alone_is_not_compared(script):
    rows = pd.DataFrame([["toy", "float32", 0, 4, 2, .5, 1., "10"]], columns=script.COLUMNS)
    assert script.results(rows) == {} and script.compared(rows) == []


def test_what_is_stored_is_whole_and_bfloat16_is_not_clearly_below(script):
    stored = script.known(script.PLACE)
    assert (stored.right.str.len() == stored.n_test).all() and not stored.duplicated(["set", "precision", "seed"]).any()
    assert np.allclose(stored.right.map(lambda r: r.count("1") / len(r)), stored.accuracy, atol=1e-5)
    assert set(stored["set"]) == {"digits", "surface_defects", "cifar10"} and len(stored) == 3 * len(script.PRECISIONS) * len(script.SEEDS)
    assert all("float32 is clearly" not in str(found) and "bfloat16 is clearly lower" not in str(found) for found in script.compared(stored))
