"""Over all exercises of all lessons: sound, complete, in step with the lesson's text, and strict enough to see a mutated solution."""
import json
import re
from pathlib import Path

import form
import house
import pytest
from mutate import mutants

from finetune_book.exercises import judging, proof, shelf
from finetune_book.exercises.forms import stub_cell
from finetune_book.exercises.proof import faults

REPO = Path(__file__).parents[2]
NOTEBOOKS = {f"{house.lesson_number(p):02d}": p for p in house.lessons(REPO / "nbs") if house.lesson_number(p) is not None}
EXERCISES = {id: e for lesson in shelf.lessons_asking() for id, e in shelf.exercises_of(lesson).items()}
FUNCTIONS = [id for id, e in EXERCISES.items() if e.kind == "function"]
OTHER_SEEDS = range(100, 104)


@pytest.mark.parametrize("id", EXERCISES)
def test_sound(id, monkeypatch):
    "On one of the seeds, as it is exported; on all of them its notebook proves it when it is run, which the next test holds it to."
    monkeypatch.setattr(proof, "SEEDS", proof.SEEDS[:1])
    assert faults([EXERCISES[id]]) == []


@pytest.mark.parametrize("lesson", shelf.lessons_asking())
def test_its_notebook_holds_the_proof(lesson):
    cells = house.code_cells(REPO / f"nbs/exercises/lesson_{lesson}.ipynb")
    assert any(re.search(r"^assert faults\(EXERCISES\) == \[\]", cell, re.MULTILINE) for cell in cells)


@pytest.mark.parametrize("lesson", shelf.lessons_asking())
def test_a_lesson_asks_four_or_more_and_each_is_its_own(lesson):
    asked = shelf.import_module(f"finetune_book.exercises.lesson_{lesson}").EXERCISES
    assert len(asked) >= 4 and len({e.title for e in asked}) == len({e.id for e in asked}) == len(asked)
    assert [e.id for e in asked] == [f"{lesson}.{k}" for k in range(1, len(asked) + 1)]


def differs(exercise, answer):
    "Whether an answer differs from the solution on inputs other than those of the check; to be stopped by the clock says nothing."
    return any(judging.judge_answer(exercise, answer, seed, 1.).kind not in ("right", "endless") for seed in OTHER_SEEDS)


@pytest.mark.parametrize("id", FUNCTIONS)
def test_a_mutated_solution_is_refused(id):
    exercise, refused = EXERCISES[id], 0
    for source, mutant in mutants(exercise.solution):
        if judging.judge_answer(exercise, mutant, 0, 1.):
            assert not differs(exercise, mutant), f"{id}: accepted, though it is another function:\n{source}"
        else: refused += 1
    assert refused >= 1, f"{id}: no change of its solution is seen"


# --- the lesson beside it ------------------------------------------------------------------------------------------

def asked_in(lesson):
    "[(id, title, question, cell under it)] of a lesson's notebook."
    cells = json.loads(NOTEBOOKS[lesson].read_text(encoding="utf-8"))["cells"]
    found = []
    for here, cell in enumerate(cells):
        text = form.text(cell["source"])
        for id, title in re.findall(r"^### Exercise (\d\d\.\d+): (.+)$", text, re.MULTILINE) if cell["cell_type"] == "markdown" else ():
            found.append((id, title, text, form.text(cells[here + 1]["source"]) if here + 1 < len(cells) else ""))
    return found


@pytest.mark.parametrize("lesson", shelf.lessons_asking())
def test_the_lesson_asks_exactly_these(lesson):
    assert [(id, title) for id, title, _, _ in asked_in(lesson)] == [(e.id, e.title) for e in shelf.exercises_of(lesson).values()]


@pytest.mark.parametrize("lesson", shelf.lessons_asking())
def test_the_cells_under_the_questions_are_the_stubs(lesson):
    assert [cell.strip() for _, _, _, cell in asked_in(lesson)] == [stub_cell(e) for e in shelf.exercises_of(lesson).values()]


@pytest.mark.parametrize("lesson", shelf.lessons_asking())
def test_the_options_of_a_choice_stand_in_the_question(lesson):
    for id, _, question, _ in asked_in(lesson):
        options = EXERCISES[id].options
        assert re.findall(r"^- \*\*(\w)\*\* ", question, re.MULTILINE) == list(options), id


def test_every_lesson_asks_and_none_in_another_way():
    assert list(NOTEBOOKS) == shelf.lessons_asking()
    old = re.compile(r"^\*\*(?:Exercise )?\d\d\.\d+[.:]?\*\*", re.MULTILINE)
    assert [lesson for lesson, p in NOTEBOOKS.items() if old.search(form.prose(json.loads(p.read_text(encoding="utf-8"))))] == []
