"""The runs of a sweep: whose folder is whose, and how many fit in memory."""
import pytest

from finetune_book.checks import InputError
from finetune_book.report import pool as pools
from finetune_book.report.grid import Run
from finetune_book.report.pool import GUESS_MB, Processes, claim, record_in


def test_a_folder_of_another_key_is_emptied(tmp_path):
    home = tmp_path / "run"
    claim(home, "k1", "swept")
    (home / "swept.json").write_text('{"x": 1}')
    assert record_in(home, "k1", "swept") is None, "a record without its page is no report"
    (home / "swept.html").write_text("")
    claim(home, "k1", "swept")
    assert record_in(home, "k1", "swept") == {"x": 1} and record_in(home, "k2", "swept") is None
    claim(home, "k2", "swept")
    assert [p.name for p in home.iterdir()] == ["key"]


@pytest.mark.parametrize("foreign", ["notes.txt", ".git/HEAD", "other.html"])
def test_a_folder_that_is_no_run_stays_as_it_is(tmp_path, foreign):
    home = tmp_path / "run"
    (home / foreign).parent.mkdir(parents=True)
    (home / foreign).write_text("mine")
    with pytest.raises(InputError, match="holds no run of swept"): claim(home, "k1", "swept")
    assert (home / foreign).read_text() == "mine"
    (tmp_path / "empty").mkdir()
    claim(tmp_path / "empty", "k1", "swept")


def test_memory_caps_what_runs_at_once(monkeypatch, tmp_path):
    class Child: pid = 0
    def run(attempts=0): return Run("r", 0, 0, {}, "k", attempts=attempts)
    pool = Processes(3, "token", "swept", None, tmp_path)
    monkeypatch.setattr(pools, "tree_mb", lambda pid: 500)
    monkeypatch.setattr(pools, "free_mb", lambda: 100)
    assert pool.room(run()), "one run may always start"
    pool.working = [(run(), Child)]
    assert not pool.room(run())
    monkeypatch.setattr(pools, "free_mb", lambda: (GUESS_MB - 500) + 1.2 * GUESS_MB)
    assert pool.room(run()) and not pool.room(run(attempts=1)), "a second attempt runs alone"
    pool.measured = 3 * GUESS_MB
    assert not pool.room(run())
    monkeypatch.setattr(pools, "free_mb", lambda: 10**6)
    assert pool.room(run())
    pool.working *= 3
    assert not pool.room(run())
