"The measurement behind the results of lesson 77 (answer): a run goes on where it was stopped, all parts meet every way, what it stored is whole."
import sys

import numpy as np
import pytest

from finetune_book.data.sets.clinic_questions import read_clinic_questions
from finetune_book.text.answerer import Answered


@pytest.fixture(scope="module")
def script(load_script): return load_script("measure_answers")


class Model:
    "In the place of QuestionAnswerer: it notes its settings, and always points at the first word."
    asked = []
    def __init__(self, **settings): self.settings = settings
    def fit(self, rows):
        Model.asked.append(self.settings | dict(n=len(rows)))
        self.budget_ = type("Budget", (), dict(measured_s=1.))
        return self
    def spans(self, questions, passages): return [Answered(p.split()[0], .5, p, 0) for p in passages]


@pytest.fixture
def run(script, monkeypatch, tmp_path):
    Model.asked = []
    monkeypatch.setattr(script, "QuestionAnswerer", Model)
    monkeypatch.setattr(script, "reader_of", lambda *a: lambda texts: np.ones((len(texts), 2)))
    def call(*argv):
        monkeypatch.setattr(sys, "argv", ["measure_answers.py", "--out", str(tmp_path / "rows.csv"), *argv])
        script.main()
        return script.Stored(tmp_path / "rows.csv", script.COLUMNS, script.KEY).rows()
    return call


def test_each_training_is_made_once_and_answers_all_parts(run, script, capsys):
    first = run("--seeds", "0", "--epochs", "2")
    rows = run("--seeds", "0", "1", "--epochs", "2", "--bases", "book-bert", "other=folder")
    assert [(m["base"], m["seed"], m["epochs"], m["n"]) for m in Model.asked] == [("book-bert", 0, 2, 600), ("book-bert", 1, 2, 600), ("folder", 0, 2, 600), ("folder", 1, 2, 600)]
    assert set(map(len, map(str.split, rows[rows.part == "test"].odds))) == {300} and list(rows.groupby(script.KEY[:-1]).size().unique()) == [4]
    assert len(first) == 3 * 4 and (rows.way == "sentence by words").sum() == 4 and run("--table").equals(rows) and "pointed" in capsys.readouterr().out


def test_an_exchanged_question_is_about_the_drug_of_its_passage(script):
    rows = read_clinic_questions("test")
    moved = script.exchanged(rows)
    assert [r.passage for r in moved] == [r.passage for r in rows] and np.mean([a.question != b.question for a, b in zip(moved, rows)]) > .9
    about = np.mean([r.title in r.question for r in moved])
    assert about >= np.mean([r.title in r.question for r in rows]) - 1e-9


def test_what_is_stored_is_whole(script, repo):
    rows = script.Stored(repo / "data/base_models/answers.csv", script.COLUMNS, script.KEY).rows()
    size = {part: len(questions) for part, questions in script.parts_of().items()}
    assert not rows.duplicated(script.KEY).any() and set(rows.part) == set(size)
    for r in rows.itertuples(): assert all(len(cell.split()) == size[r.part] for cell in (r.odds, r.exact, r.f1))
    tuned = rows[(rows.way == "fine-tuned") & (rows.base == "book-bert") & (rows.epochs == script.EPOCHS)]
    assert set(tuned.seed) == set(script.SEEDS)
