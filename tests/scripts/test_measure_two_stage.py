"The measurement of lesson 78 (two_stage): what is stored is whole, a row holds what was found, and a run goes on where it was stopped."
import sys

import numpy as np
import pytest

from finetune_book.data.retrieval import Retrieval, read_help_desk
from finetune_book.find.searcher import Searcher

DESK = Retrieval({"a": "the card is lost", "b": "opening hours", "c": "a card was charged twice"},
                 {"q": "lost card", "r": "hours", "s": "charged twice"}, {"q": {"a": 1}, "r": {"b": 1}, "s": {"a": 1}})


class Prefers:
    "A judge that likes one document, and else says the same."
    def __init__(self, text): self.text = text
    def predict_proba(self, pairs): return np.array([[.1, .9] if d == self.text else [.8, .2] for _, d in pairs])


@pytest.fixture
def script(load_script, monkeypatch):
    script = load_script("measure_two_stage")
    monkeypatch.setattr(script, "first_stage", lambda docs: Searcher(words=True).fit(docs))
    return script


def test_what_is_stored_is_whole(script, repo):
    rows, asked = script.Stored(repo / "data/base_models/two_stage.csv", script.COLUMNS, ["way", "seed"]).rows(), len(read_help_desk("test").queries)
    assert set(zip(rows.way, rows.seed)) == {(way, seed) for way in script.WAYS for seed in script.SEEDS} and len(rows) == len(script.WAYS) * len(script.SEEDS)
    assert np.allclose([r.count("1") / asked for r in rows.right], rows["recall@1"], atol=1e-4) and set(rows.right.str.len()) == {asked}


def test_a_row_holds_what_was_found(script):
    values, right = script.row_of(script.first_stage(DESK.docs), DESK, 3)
    assert (values[:3], right) == ([.6667, .6667, .6667], "110")
    two = script.TwoStage(script.first_stage(DESK.docs), Prefers(DESK.docs["c"]), 3)
    values, right = script.row_of(two, DESK, 3)
    assert right == "010" and values == [.3333, .6667, .5, 1.]


def test_how_much_the_article_says(script):
    ids = np.array([["a", "b"], ["b", "a"]], dtype=object)
    assert script.by_article(ids, np.array([[2., 1.], [1., 2.]])) == 1 and script.by_article(ids, np.array([[2., 1.], [2., 1.]])) == 0
    assert np.isclose(script.by_article(ids, np.array([[3., 0.], [1., 1.]])), 9 / 19)


def test_chance_draws_all_and_the_seed_decides(script):
    drawn = [script.Chance("abcde", seed).search(["x", "y"], 5)[0].tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and all(sorted(row) == list("abcde") for rows in drawn for row in rows)


def test_balanced_each_article_that_is_right_has_its_questions_and_others(script):
    pairs, answers = script.balanced_pairs(script.first_stage(DESK.docs), DESK, 2)
    assert [(q, d[:6], int(a)) for (q, d), a in zip(pairs, answers)] == [
        ("lost card", "the ca", 1), ("charged twice", "the ca", 1), ("hours", "the ca", 0), ("hours", "openin", 1), ("lost card", "openin", 0), ("charged twice", "openin", 0)]
    nearest = Searcher(words=True).fit(dict(a="lost card", b="hours"))
    task = Retrieval(dict(a="lost card", b="hours"), dict(x="far away", y="lost card of hours", z="hours"), dict(x={"b": 1}, y={"b": 1}, z={"a": 1}))
    assert script.balanced_pairs(nearest, task, 1)[0][:2] == [("hours", "lost card"), ("lost card of hours", "lost card")]


def test_a_judge_is_trained_once_for_each_way_and_seed(script, tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(script, "read_help_desk", lambda part: DESK)
    monkeypatch.setattr(script, "judge", lambda way, seed: made.append((way, seed)) or Prefers(DESK.docs["a"]))
    monkeypatch.setattr(script, "AMONG", 10)
    monkeypatch.setattr(script, "wordings", lambda desk: list(desk.queries))
    for seeds in (["0"], ["0", "1"]):
        monkeypatch.setattr(sys, "argv", ["measure", "--out", str(tmp_path / "rows.csv"), "--seeds", *seeds])
        script.main()
    assert made == [(way, seed) for seed in (0, 1) for way in script.WAYS[1:]]
    assert "recall@1: two stages minus one stage is" in capsys.readouterr().out
