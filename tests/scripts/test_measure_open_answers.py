"The measurement of passages that must be found first, lesson 77 (answer): a run goes on, a row holds its place, what it stored is whole."
import sys

import numpy as np
import pandas as pd
import pytest

from finetune_book.data.squad import Question
from finetune_book.text.answerer import Answered


@pytest.fixture(scope="module")
def script(load_script): return load_script("measure_open_answers")


class Model:
    "In the place of QuestionAnswerer: it notes what it is fitted on, and always points at the first word."
    asked = []
    def __init__(self, **settings): self.settings = settings
    def fit(self, rows):
        Model.asked.append((self.settings["seed"], self.settings["epochs"], len(rows)))
        self.budget_ = type("Budget", (), dict(measured_s=1.))
        return self
    def spans(self, questions, passages): return [Answered(p.split()[0], float(len(p)), p, 0) for p in passages]


def test_each_training_is_made_once_and_is_read_at_all_places(script, monkeypatch, tmp_path, capsys):
    Model.asked, show = [], script.show
    few = {part: [Question(f"{part}{i}", f"dose of {part}{i}", f"{i} mg of {part}{i}", ((f"{i} mg", 0),) if i < 4 else (), f"{part}{i}") for i in range(6)] for part in script.PASSAGES}
    monkeypatch.setattr(script, "QuestionAnswerer", Model); monkeypatch.setattr(script, "read_clinic_questions", few.get); monkeypatch.setattr(script, "show", lambda rows: None)
    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["measure_open_answers.py", "--out", str(tmp_path / "rows.csv"), *argv])
        script.main()
        return script.Stored(tmp_path / "rows.csv", script.COLUMNS, script.KEY).rows(dtype=dict(place=str))
    run("--seeds", "0", "--only", script.WRONG)
    rows = run("--seeds", "0", "1", "--only", script.RIGHT, script.WRONG)
    assert Model.asked == [(0, 12, 10), (0, 12, 6), (1, 12, 6), (1, 12, 10)] and len(rows) == 4 * 2 * 6 and set(rows.place) == {"given", *"12345"}
    assert set(map(len, map(str.split, rows.own))) == {6} and set(rows[rows.place == "given"].own) == {"1 1 1 1 1 1"}
    monkeypatch.setattr(script, "compare", lambda scores, a, b, **told: f"{b} beside {a}, {told['rows']}")
    assert run("--table").equals(rows)
    show(rows)
    assert f"{script.WRONG}, 3 read beside {script.RIGHT}, 3 read, test questions" in capsys.readouterr().out


def test_the_best_of_the_first_passages_and_the_threshold_of_validation(script):
    cells = dict(way="w", seed=0, odds=["1 5", "3 -inf"], f1=["100 50", "0 0"], own=["1 0", "0 0"], place=["1", "2"])
    rows = pd.concat(pd.DataFrame(cells | dict(part=part)) for part in script.PARTS)
    assert [v.tolist() for v in script.best(rows, "w", 0, "test", 2)] == [[3, 5], [0, .5], [False, False]] and script.best(rows, "w", 0, "test", 1)[2].tolist() == [True, False]
    told = script.judged(rows, "w", 0, 1, dict.fromkeys(script.PARTS, np.array([False, True])))["test"]
    assert told["f1"].tolist() == [1, .5] or told["given"].tolist() == [False, False]


def test_what_is_stored_is_whole(script, repo):
    rows = script.Stored(repo / "data/base_models/open_answers.csv", script.COLUMNS, script.KEY).rows(dtype=dict(place=str))
    size = {part: len(script.read_clinic_questions(part)) for part in script.PARTS}
    assert not rows.duplicated(script.KEY).any() and len(rows) == len(rows.way.unique()) * 3 * 2 * 6 and {script.RIGHT, script.WRONG} <= set(rows.way)
    for r in rows.itertuples(): assert all(len(cell.split()) == size[r.part] for cell in (r.odds, r.f1, r.own))
