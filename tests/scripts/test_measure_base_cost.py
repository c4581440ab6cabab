"The measurement of what bases cost: one row for each task and base, made once; what is stored is whole."
import sys

import pytest


@pytest.fixture(scope="module")
def script(load_script): return load_script("measure_base_cost")


def test_what_is_there_is_not_measured_again(script, tmp_path, monkeypatch, capsys):
    asked = []
    class Pool:
        def __init__(self, n): pass
        def __enter__(self): return self
        def __exit__(self, *error): pass
        def apply(self, fn, args): return asked.append(args) or ["full", 1, 1, 1., 16, .1, 9]
    monkeypatch.setattr(script.multiprocessing, "get_context", lambda how: type("Context", (), dict(Pool=Pool)))
    for more in ([], ["--bases", "finding=other=folder=with=signs"], ["--table"]):
        monkeypatch.setattr(sys, "argv", ["measure_base_cost.py", "--out", str(tmp_path / "cost.csv"), *more])
        script.main()
    assert asked == [*((task, base) for task, base in script.CARRIED.items()), ("finding", "folder=with=signs")] and "other" in capsys.readouterr().out


def test_what_is_learned_from_makes_the_steps(script):
    for task, base in script.CARRIED.items():
        est, rows = script.estimator(task, base)
        assert len(rows[0]) == script.STEPS * est.batch_size and est.base == base


def test_what_is_stored_is_whole(script, repo):
    rows = script.Stored(repo / "data/base_models/base_cost.csv", script.COLUMNS, script.KEY).rows()
    assert set(zip(rows.task, rows.base)) >= set(script.CARRIED.items()) and not rows.duplicated(script.KEY).any()
    assert (rows.moved <= rows.parameters).all() and (rows[["disk_mb", "step_s", "peak_mb"]] > 0).all().all()
