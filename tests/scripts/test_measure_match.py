"The measurements of lesson 76 (match): a run goes on where it was stopped, and what is stored is whole."
import sys

import numpy as np
import pandas as pd
import pytest


def stored(script, repo, name): return script.Stored(repo / "data/base_models" / name, script.COLUMNS, ["way", "seed"]).rows()


def shares(rows): return [float(np.mean([c == "1" for c in right])) for right in rows.right]


UNTRAINED = ["words (BM25)", *("base as it came" + how for how in ("", " + words", ", centred", ", less crowded"))]
TRAINED = ["fine-tuned" + how for how in ("", " + words", ", centred", ", less crowded")]


def test_what_is_stored_of_real_text_is_whole(load_script, repo):
    script = load_script("measure_search")
    rows = stored(script, repo, "search.csv")
    seeds = rows[rows.way == "fine-tuned"].seed
    assert set(script.SEEDS) <= set(seeds) and not rows.duplicated(["way", "seed"]).any() and set(rows.right.str.len()) == {770}
    assert {(way, seed) for way in UNTRAINED + TRAINED for seed in seeds} <= set(zip(rows.way, rows.seed))
    assert np.allclose(shares(rows), rows["recall@1"], atol=1e-4)


def test_what_is_stored_of_each_setting_is_whole(load_script, repo):
    script = load_script("measure_negatives")
    rows = stored(script, repo, "match_controls.csv")
    assert set(zip(rows.way, rows.seed)) == {(way, seed) for way in script.WAYS for seed in script.SEEDS} and len(rows) == len(script.WAYS) * len(script.SEEDS)
    assert np.allclose(shares(rows), rows["recall@1"], atol=1e-4) and set(rows.right.str.len()) == {770}


def test_a_row_holds_what_was_found(load_script):
    script = load_script("measure_search")
    labels, wanted = np.array(list("aabbcc" * 3)), np.array(["a", "b"])
    scores = np.stack([np.arange(18.), np.where(labels == "b", 2., 1.) + np.arange(18) / 100])
    one, ten, hubs, right, among = script.row_of(scores, wanted, labels)
    assert (one, ten, right, among) == (.5, 1., "01", "11") and np.isfinite(hubs)
    assert script.row_of(np.full((2, 18), -np.inf), wanted, labels)[:3] == [0, 0, ""]


def test_each_training_is_made_once(load_script, tmp_path, monkeypatch):
    script, made = load_script("measure_negatives"), []
    frame = pd.DataFrame([dict(text=f"{label} {i}", label=label) for label in "abc" for i in range(40)])
    monkeypatch.setattr(script, "banking", lambda real, part: frame)
    monkeypatch.setattr(script, "learned", lambda u, y, seed, size, temperature, loss, near=None: made.append((size, temperature, loss, near is None, seed)) or (lambda v: v))
    monkeypatch.setattr(script, "reader_of", lambda model, device: lambda texts: np.random.default_rng(len(texts)).normal(size=(len(texts), 4)).astype(np.float32))
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", ["measure", "--real", "x", "--out", str(tmp_path / "rows.csv"), "--seeds", *seeds])
        script.main()
    once = [{name: dict(script.USUAL | change)[name] for name in ("size", "temperature", "loss")} for change in script.CHANGES.values()]
    assert len(made) == 2 * (len(once) + 1) and {made[i][:3] for i in range(len(made))} == {tuple(each.values()) for each in once}       # one more: its own miner
    assert sum(not plain for *_, plain, _ in made) == 2 * sum(way.startswith("hard") for way in script.CHANGES)
