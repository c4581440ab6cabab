"The report on answering, end to end on a file of the reader's own, and on the carried set with a base of random numbers."
import json
import re

import pytest
from cells import run_cells

from finetune_book.checks import InputError
from finetune_book.cli import main
from finetune_book.data.splits import LeakError
from finetune_book.data.squad import Question, write_squad
from finetune_book.report.params import parameters_of

QUICK = dict(epochs=1, max_length=48, stride=8, batch_size=8, precision="float32")


def row(i, known=True):
    passage = f"the f{i % 10} has m{i}. the pain is <b>bad</b> for $5 and {i} days <script>alert({i})</script>. the room is loud."
    return Question(f"q{i}-{known}", "the pain is for <i>days</i>" if known else "the fever is", passage, ((f"{i} days", passage.index(f"{i} days")),) if known else (), f"f{i}")


@pytest.fixture
def file(tmp_path):
    write_squad([row(i, known) for i in range(24) for known in (True, False)], tmp_path / "mine.json")
    return tmp_path / "mine.json"


def test_the_page_begins_with_the_answer_and_escapes_what_it_shows(file, tiny_base, tmp_path):
    values = QUICK | dict(base=tiny_base, data=file)
    given = [word for name, value in values.items() for word in ("-p", f"{name}={value}")]
    assert main(["report", "answer", "-q", *given, "--out", str(tmp_path / "out")]) == 0
    page, run = (tmp_path / "out" / "answer.html").read_text(), json.loads((tmp_path / "out" / "answer.json").read_text())
    answer, ways = run["metrics"]["answer"], run["metrics"]["ways"]
    first = page[page.index("<h1"):page.index("How it was made</h2>" if "How it was made</h2>" in page else "How it was made")]
    assert "aria-label='The answer'" in first.replace('"', "'") and "Fine-tuned reaches" in first and "Training took about" in first and re.search(r'<img[^>]*\balt="Bars of F1 by way', first)
    assert list(ways) == ["silence", "sentence by words", "sentence by vectors", "fine-tuned"] and ways["silence"]["F1"] == .5 and ways["silence"]["missed"] == 1 and ways["silence"]["false answers"] == 0
    assert "false answers" in answer["wary"] and answer["score"]["value"] == ways["fine-tuned"]["F1"] and "questions that repeat" in answer["wary"]
    assert "alert(" in page and "<script>alert" not in page and "<i>days</i>" not in page and "<b>bad</b>" not in page
    found = run["metrics"]["found"]
    assert list(found) == ["silence", "sentence by words, passage found", "fine-tuned, passage given", "fine-tuned, passage found"] and found["fine-tuned, passage given"]["F1"] == answer["score"]["value"]
    assert ("With its own passage taken away" in page or "to every question." in page) and f"{found['fine-tuned, passage found']['F1']:.3f} [" in answer["wary"]["the passage was given"] and run["metrics"]["places"]["known"] + run["metrics"]["places"]["without an answer"] == answer["score"]["n"]
    assert set(run["metrics"]["recall"]) == {"words", "vectors", "both"} and "of the best spans stand in the right passage" in first
    assert "parts from no answer" in page and run["metrics"]["skills"]["fine-tuned"].keys() >= {"F1, all answered", "parts from no answer"}


def test_the_carried_questions_and_several_trainings(tiny_base):
    space = run_cells("answer", base=str(tiny_base), repeats=2, max_train=30, max_test=20, max_passages=40, find=2, find_by="words", measure="exact match", **QUICK | dict(max_length=64))
    answer = space["told"]["metrics"]["answer"]
    assert answer["measure"] == "exact match" and set(space["ways"].trainings) == {0, 1} == set(space["thresholds"]) and "2 trainings" in answer["wary"]
    assert answer["score"]["n"] == 20 and len(space["train"]) == 30 and len(space["val"]) == 10 and "no article on two sides" in answer["data"]
    assert list(space["recall"].index) == ["words"] and len(space["shelf"]) == 40 and space["n_passages"] == 220 and set(space["first_ways"].trainings) == {0, 1} and "fine-tuned, first found" in space["first_ways"].scores and "2 passages are read" in answer["wary"]["the passage was given"]


def test_questions_that_all_have_an_answer(tmp_path, tiny_base):
    write_squad([row(i) for i in range(30)], tmp_path / "one.json", version="1.1")
    space = run_cells("answer", data=str(tmp_path / "one.json"), base=str(tiny_base), find=0, **QUICK)
    assert "the passage was given" not in space["answer"]["wary"] and "found" not in space["told"]["metrics"] and "false answers" not in space["rungs"].columns and "false answers" not in space["answer"]["wary"] and space["rungs"].loc["silence", "F1"] == 0
    assert list(space["table"].columns) == ["exact match, all answered", "F1, all answered"]


def test_a_passage_on_two_sides_is_refused(tmp_path, tiny_base):
    write_squad([row(i) for i in range(20)], tmp_path / "train.json"); write_squad([row(i) for i in range(19, 30)], tmp_path / "test.json")
    with pytest.raises(LeakError, match="1 of 11 test rows"): run_cells("answer", data=str(tmp_path), base=str(tiny_base), **QUICK)


def test_what_is_refused_before_anything_is_trained(tmp_path, tiny_base, file):
    with pytest.raises(InputError, match="no train, dev or test file"): run_cells("answer", data="clinic_notes", base=str(tiny_base))
    with pytest.raises(InputError, match="stride"): run_cells("answer", data=str(file), base=str(tiny_base), **QUICK | dict(stride=60))


def test_the_defaults_are_small_and_of_the_carried_set():
    defaults = {p.name: p.default for p in parameters_of("answer")}
    assert defaults["data"] == "clinic_questions" and defaults["base"] == "book-bert" and defaults["epochs"] <= 6
