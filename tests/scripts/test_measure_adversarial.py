"The measurement of lesson 67 (adversarial): a run goes on where it was stopped, every way meets every attack, what it stored is whole."
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(load_script): return load_script("measure_adversarial")


class Model:
    "In the place of an estimator: it notes its settings and what it was fitted with."
    asked = []
    def __init__(self, **settings): self.settings = settings
    def fit(self, x, y, unlabelled=None): Model.asked.append(self.settings | dict(n=len(y), unlabelled=unlabelled))
    def score(self, X, y): return .5


@pytest.fixture
def toy(script, monkeypatch):
    Model.asked = []
    def read(seed): return (list("abab"), list("xyxy")), (list("ab"), list("xy")), ["rest"]
    for name in ("clinic_notes", "digits"): monkeypatch.setitem(script.SETS, name, (read, Model, *script.SETS[name][2:]))
    monkeypatch.setattr(script, "robust_score", lambda est, X, y, word, restarts: .25)
    monkeypatch.setattr(script, "worst_texts", lambda est, X, y, change, edits, tries: X)


def test_each_training_is_made_once_and_meets_every_attack(script, toy, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.csv"
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", ["measure", "--out", str(out), "--seeds", *seeds])
        script.main()
    rows, ways = script.Stored(out, script.COLUMNS, script.COLUMNS[:3]).rows(), {"clinic_notes": script.TEXT_WAYS, "digits": script.PICTURE_WAYS}
    assert len(Model.asked) == 2 * sum(map(len, ways.values())) and list(rows) == script.COLUMNS and not rows.duplicated(["set", "seed", "way", "attack"]).any()
    for name, some in rows.groupby("set"):
        attacks = set(script.attacks(name, .1))
        assert set(some.way) == set(ways[name]) and all(set(of.attack) == attacks for _, of in some.groupby(["seed", "way"]))
    assert "clean" in capsys.readouterr().out


def test_only_virtual_reads_more_rows_and_free_takes_as_many_steps_as_the_others(script, toy):
    for way in script.TEXT_WAYS: script.fitted("clinic_notes", 0, way)
    found = dict(zip(script.TEXT_WAYS, Model.asked))
    assert {way for way, settings in found.items() if settings["unlabelled"]} == {"virtual"}
    assert {settings["epochs"] for way, settings in found.items() if way != "free"} == {5} and found["free"]["epochs"] == 2


def test_what_is_stored_is_whole(script, repo):
    rows = script.Stored(repo / "data/base_models/adversarial.csv", script.COLUMNS, script.COLUMNS[:3]).rows()
    wanted = {(name, seed, way, attack) for name, (_, _, ways, eps, _) in script.SETS.items() for seed in (20, 21, 22) for way in ways for attack in script.attacks(name, eps)}
    assert set(rows[["set", "seed", "way", "attack"]].itertuples(index=False, name=None)) == wanted and rows.accuracy.between(0, 1).all() and np.isfinite(rows.seconds).all()
