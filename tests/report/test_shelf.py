"The passage is found first: own ones stay on the shelf, the best span of the first k wins, what is taken away is not read."
import numpy as np
import pandas as pd

from finetune_book.data.squad import Question
from finetune_book.report.shelf import ReadFirst, by_sentence, found_by, own_ids, recall_table, shelf_of
from finetune_book.tasks.answer import SentenceFloor
from finetune_book.text.answerer import Answered

NAMES = "ant bee cow dog elk fox".split()


def row(i, known=True):
    passage = f"The {NAMES[i]} weighs {i} g. It sleeps."
    return Question(f"q{i}-{known}", f"What weighs the {NAMES[i]}?" if known else f"Who eats the {NAMES[i]}?", passage, ((f"{i} g", passage.index(f"{i} g")),) if known else (), NAMES[i])


ROWS = [row(i, known) for i in range(6) for known in (True, False)]
FRAME = pd.DataFrame(dict(row=ROWS))


def test_own_passages_stay_and_a_passage_stands_once():
    shelf, n = shelf_of([FRAME, FRAME], [], 0, 0)
    assert n == 6 == len(shelf) and list(shelf)[:2] == ["ant-1", "bee-2"] and own_ids(shelf, ROWS[:3]) == ["ant-1", "ant-1", "bee-2"]
    few, n = shelf_of([FRAME], [ROWS[4:6], ROWS[10:]], 3, 0)
    assert len(few) == 3 and n == 6 and {"cow-3", "fox-6"} < set(few) and few["cow-3"] == shelf["cow-3"]


def test_recall_is_of_questions_with_an_answer_and_chosen_on_validation():
    shelf, parts = shelf_of([FRAME], [], 0, 0)[0], dict(validation=ROWS[:4], test=ROWS)
    found = found_by(None, shelf, parts, 2, "words")
    assert list(found) == ["words"] and found["words"]["test"].shape == (12, 3)
    table = recall_table(found, shelf, parts, 2, np.array([r.title for r in ROWS]))
    assert table.loc["words"].to_dict() == {"recall@2": 1, "low": 1, "high": 1, "recall@1": 1, "recall@2, validation": 1, "n": 6}


def made(*lists, ids=None, own=("a", "b")):
    "Two questions, one with an answer; what was read in the passages a, b, c."
    rows = [Question("1", "?", "x is 1", (("1", 5),)), Question("2", "?", "y", ())]
    read = [[Answered(text, odds, "passage", 0, name) for text, odds, name in spans] for spans in lists]
    both = dict(validation=rows, test=rows)
    return ReadFirst(both, list(own), dict.fromkeys(both, ids or [["a", "b"], ["b", "c"]]), 1, {"w": {0: dict.fromkeys(both, read)}})


def test_only_the_first_k_are_read_and_what_is_taken_away_gives_place_to_the_next():
    first = made([("1", 2., "a"), ("wrong", 9., "b")], [("z", 1., "b"), ("v", 5., "c")])
    assert [a.text for a in first.answers("w", 0)] == ["1", "z"] and [a.text for a in first.answers("w", 0, without=first.own)] == ["wrong", "v"]
    assert first.threshold("w", 0) == 1.5 and first.said("w", 0) == ["1", ""]
    assert first.places("w", 0) == {"given": 1, "from another passage": 0, "without an answer": 1, "false": 0, "false, from another passage": 0, "known": 1, "taken away": 1}
    assert first.skills("w", 0) == {"F1, all answered": 1, "best span in the own passage": 1, "parts from no answer": 1, "parts from passage taken away": 0}


def test_answers_from_another_passage_are_counted_and_told():
    first = made([("1", 2., "a")], [("z", 3., "b")], own=("b", "c"))
    object.__setattr__(first, "threshold", lambda way, seed: 0.)
    assert first.places("w", 0) | {"taken away": 0} == {"given": 2, "from another passage": 2, "without an answer": 1, "false": 1, "false, from another passage": 1, "known": 1, "taken away": 0}
    told = first.told("w", 0)
    assert "2 of 2 (100%) stand in another passage" in told and "1 of 1 (100%) get one, 1 of these from another passage" in told
    rung = pd.Series({"F1": .5, "low": .4, "high": .6})
    assert "2 of 2 questions get an answer" in first.wary("w", 0, rung) and "taken away" in first.wary("w", 0, rung)


def test_nothing_found_is_i_do_not_know():
    first = made([], [], ids=[[None, None], [None, None]])
    assert first.said("w", 0) == ["", ""] and first.places("w", 0)["given"] == 0 and first.skills("w", 0)["parts from no answer"] == .5 and first.told("w", 0) == 'At its threshold it says "I do not know" to every question.'


def test_the_floor_reads_what_was_found():
    shelf = shelf_of([FRAME], [], 0, 0)[0]
    read = by_sentence(SentenceFloor().fit(sorted(shelf.values())), ["What weighs the cow?"], shelf, [["cow-3", None]])
    assert [(a.text, a.source) for a in read[0]] == [("The cow weighs 2 g.", "cow-3")]
