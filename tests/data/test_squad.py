"SQuAD's JSON: what was written is read back, and an answer that is not in its passage is refused by its row."
import json

import pytest

from finetune_book.checks import InputError
from finetune_book.data.squad import Question, read_squad, write_squad

PASSAGE = "Take 💊 Velorin, 5 mg.\nالجرعة 每天一次."
ROWS = [Question("a", "How much?", PASSAGE, (("5 mg", PASSAGE.index("5")),) * 2, "Velorin"),
        Question("b", "How often?", PASSAGE, (("每天一次", PASSAGE.index("每")), ("一次", PASSAGE.index("一"))), "Velorin"),
        Question("c", "Why?", "No reason is given.", (), "Velorin"), Question("a", "How much?", PASSAGE, (("5 mg", PASSAGE.index("5")),), "again")]


def tree(answers=({"text": "5 mg", "answer_start": 12},), **more):
    asked = {"id": "q7", "question": "How much?", "answers": list(answers)} | more
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "Adults take 5 mg.", "qas": [asked]}]}]}


def put(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_there_and_back(tmp_path):
    assert read_squad(write_squad(ROWS, tmp_path / "q.json")) == ROWS
    some = [row for row in ROWS if row.answers]
    assert read_squad(write_squad(some, tmp_path / "q.json", "1.1")) == some
    said = json.loads((tmp_path / "q.json").read_text(encoding="utf-8"))
    assert said["version"] == "1.1" and "is_impossible" not in said["data"][0]["paragraphs"][0]["qas"][0]
    assert [len(a["paragraphs"]) for a in said["data"]] == [1, 1]


@pytest.mark.parametrize("value, says", [
    (tree([{"text": "6 mg", "answer_start": 12}]), ["data[0].paragraphs[0].qas[0]", "'q7'", "'6 mg' is not in its passage"]),
    (tree([{"text": "5 mg", "answer_start": 13}]), ["'q7'", "answer_start=13", "begins at 12"]),
    (tree([{"text": "5 mg", "answer_start": -5}]), ["begins at 12"]), (tree([{"text": "5 mg", "answer_start": True}]), ["begins at 12"]),
    (tree([{"text": "5 mg", "answer_start": "12"}]), ["begins at 12"]), (tree([{"text": "5 mg"}]), ["begins at 12"]),
    (tree([{"text": " ", "answer_start": 6}]), ["is no text"]), (tree([]), ["'q7'", "is_impossible is not true"]),
    (tree(is_impossible=True), ["is_impossible, and has answers"]), (tree(question=" "), ["its question is empty"]),
    (tree(id=7), ["id is 7"]), ({"data": []}, ["no question in it"]), ({"rows": []}, ["data is None"]), ([1], ["data is None"]), ("{", ["not JSON"]),
    ({"data": [{"paragraphs": [{"context": "x", "qas": {"id": 1}}]}]}, ["paragraphs[0]", "qas is"]),
    (json.dumps(tree()).replace("How much?", "\\ud800"), ["half a character"]),
])
def test_what_is_no_such_file_is_refused_in_one_line(tmp_path, value, says):
    with pytest.raises(InputError) as error: read_squad(put(tmp_path / "q.json", value))
    assert all(word in str(error.value) for word in says) and "\n" not in str(error.value)


def test_an_id_of_two_questions_is_refused_and_the_same_twice_is_not(tmp_path):
    other = Question("a", "How often?", PASSAGE, ROWS[0].answers)
    with pytest.raises(InputError, match="'a' stands for two different questions"): write_squad([*ROWS, other], tmp_path / "q.json")


def test_what_cannot_be_written_is_refused(tmp_path):
    for rows, says, version in ((ROWS, "row 2 has no answer", "1.1"), ([], "no rows", "v2.0"), (["how?"], "row 0 is 'how\\?'", "v2.0"), (ROWS, "version", "3")):
        with pytest.raises(InputError, match=says): write_squad(rows, tmp_path / "q.json", version)
    with pytest.raises(InputError, match="cannot be written"): write_squad(ROWS, tmp_path / "none" / "q.json")
    assert not (tmp_path / "q.json").exists()
