"What a report on generating reads: columns and records, parts, cuts that are counted, schemas, and how written answers are judged."
import json

import numpy as np
import pandas as pd
import pytest

from finetune_book.checks import InputError
from finetune_book.report.prompts import are_right, bits_each, fitted_in, form_of_records, ngram_nats, of_another_row, read_prompts, room_for, schema_asked, written_table
from finetune_book.text.generator import plain_ids, tokenizer_of
from finetune_book.text.schema import read_schema

N = 30


def rows(**more):
    "Rows that are not alike: a question, an answer, a count, a code with zeros in front, who asked."
    return pd.DataFrame(dict(q=[f"what has m{i * 7919}" for i in range(N)], a=[f"the f{i % 4}" for i in range(N)], days=[i % 5 for i in range(N)], code=[f"0{i % 3}" for i in range(N)],
                             who=[f"w{i // 2}" for i in range(N)]) | more)


@pytest.fixture
def table(tmp_path):
    def write(frame=None, name="mine.csv"):
        frame = rows() if frame is None else frame
        path = tmp_path / name
        frame.to_json(path, orient="records", lines=True) if name.endswith("jsonl") else frame.to_csv(path, index=False)
        return str(path)
    return write


@pytest.fixture(scope="module")
def tokenizer(tiny_decoder): return tokenizer_of(tiny_decoder)


def whole(splits): return pd.concat(splits.values())


def test_columns_make_prompts_answers_and_records(table):
    splits, given = read_prompts(table(), prompt="q", answer="a+days+code")
    first = whole(splits).set_index("prompt").answer["what has m0\n"]
    assert json.loads(first) == dict(a="the f0", days=0, code="00") and given == [] and sum(map(len, splits.values())) == N
    turned = whole(read_prompts(table(), prompt="q", answer="a+days+code", turned=True)[0])
    assert turned.set_index("answer").prompt["what has m0"] == first + "\n"
    typed = read_prompts(table(name="mine.jsonl"), prompt="q", answer="days")[0]
    assert set(whole(typed).answer) == set("01234")


def test_usual_names_a_plain_text_and_a_plus_in_a_name(table):
    usual = rows().rename(columns=dict(q="prompt", a="answer"))
    assert set(whole(read_prompts(table(usual))[0]).answer) == {f"the f{i}" for i in range(4)}
    assert set(whole(read_prompts(table(usual), prompt="")[0]).prompt) == {""}
    plain = whole(read_prompts(table(rows().rename(columns=dict(q="text"))))[0])
    assert set(plain.prompt) == {""} and "what has m0" in set(plain.answer)
    assert whole(read_prompts(table(rows().rename(columns=dict(q="q+a"))), answer="q+a")[0]).answer.str.startswith("what").all()


def test_groups_stay_whole_and_given_parts_stay(table, tmp_path):
    splits, _ = read_prompts(table(), prompt="q", answer="a", group="who")
    sides = [set(f.group) for f in splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == N // 2
    folder = tmp_path / "parts"
    folder.mkdir()
    rows().head(20).to_csv(folder / "train.csv"); rows().tail(10).to_csv(folder / "test.csv")
    splits, given = read_prompts(str(folder), prompt="q", answer="a")
    assert len(splits["test"]) == 10 and given == ["test"] and len(splits["train"]) + len(splits["validation"]) == 20


@pytest.mark.parametrize("change, asked, says", [
    ({}, dict(answer="b"), "no column 'b'"), ({}, dict(prompt="q", answer="q+a"), "column q: is in the prompt and in the answer"), ({}, {}, "no column 'text'"),
    ({}, dict(answer="a", turned=True), "no prompts to be asked for"), (dict(a=[""] + ["x"] * (N - 1)), dict(prompt="q", answer="a"), "empty text (column 'a') in row 1"),
    (dict(q=[" "] * N), dict(prompt="q", answer="a"), "empty text (column 'q')"), (0, dict(answer="a"), "a header and no rows"), (2, dict(prompt="q", answer="a"), "2 rows, fewer where"),
    (4, dict(prompt="q", answer="a"), "1 row to"), (dict(a=["x"] * N), dict(answer="a"), "too few to split off validation, test")])
def test_what_cannot_be_read(table, change, asked, says):
    frame = rows().head(change) if isinstance(change, int) else rows(**change)
    with pytest.raises(InputError) as caught: read_prompts(table(frame), **asked)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_test_table_is_refused(tmp_path):
    rows().to_csv(tmp_path / "train.csv"); rows().head(0).to_csv(tmp_path / "test.csv")
    with pytest.raises(InputError, match="test.csv: a header and no rows"): read_prompts(str(tmp_path), prompt="q", answer="a")


def test_cuts_keep_the_end_of_a_prompt_and_the_beginning_of_an_answer(tokenizer):
    frame = pd.DataFrame(dict(prompt=["pain " * 30 + "here\n", "ok\n", "疼" * 40 + "\n"], answer=["yes", "no " * 30, "疼" * 40]))
    cut = fitted_in(tokenizer, frame, 32, 8)
    assert cut.short_prompt.tolist() == [True, False, True] and cut.short_answer.tolist() == [False, True, True]
    for name, most in (("prompt", 23), ("answer", 7)): assert all(0 < len(ids) <= most for ids in plain_ids(tokenizer, list(cut[name])))
    assert cut.prompt[0].endswith("pain here\n") and frame.prompt[2].endswith(cut.prompt[2]) and frame.answer[2].startswith(cut.answer[2])


def test_the_form_of_records_is_what_training_shows():
    said = [json.dumps(dict(a=i % 3, b="xy"[i % 2], c=f"t{i}", d=[None, "v"][i % 2], e=i % 2 == 0)) for i in range(12)]
    form = form_of_records(said)
    assert form["properties"] == dict(a=dict(type="integer", minimum=0, maximum=2), b=dict(enum=["x", "y"]), c=dict(type=["string"]), d=dict(enum=["v", None]), e=dict(enum=[False, True]))
    assert all(form_of_records(odd) is None for odd in (["x"], ["1"], said + ["{}"], ['{"a": [1]}'] * 4, said + ["no"]))


def test_room_is_what_answers_need_and_a_schema_that_cannot_work_is_refused(tokenizer, tmp_path):
    answers, schema = ["no", "yes yes"], dict(enum=["a long answer"])
    need = 1 + max(map(len, plain_ids(tokenizer, answers)))
    assert room_for(tokenizer, answers, None, 64) == need and room_for(tokenizer, answers, schema, 64) == 16 and room_for(tokenizer, answers * 40, None, 8) == 4
    for schema, most, says in ((schema, 5, "shortest text"), (dict(enum=[]), None, "nothing can satisfy"), (dict(type="flaot"), None, "schema.type"), (None, 63, "no room")):
        with pytest.raises(InputError, match=says): room_for(tokenizer, answers, schema, 64, most)
    for content, says in (("{", "not readable as JSON"), ("[1]", "a schema is an object"), ("[" * 10**5, "not readable as JSON")):
        (tmp_path / "s.json").write_text(content)
        with pytest.raises(InputError, match=says): schema_asked(str(tmp_path / "s.json"), answers)
    with pytest.raises(InputError, match="cannot be read"): read_schema(tmp_path / "none.json")


def test_bits_and_the_floor(tokenizer):
    assert bits_each([np.log(2) * 8], ["héy"]) == pytest.approx([8 / 5])
    nats, order = ngram_nats(tokenizer, ["the pain", "the fever"] * 6, ["the pain"], ["the pain", "loud"])
    assert 1 <= order <= 7 and nats[0] < nats[1]
    for seed in range(5): assert all(a != b for a, b in zip(of_another_row(list("abcde"), seed), "abcde"))


def test_written_answers_by_hand(tokenizer):
    assert are_right(["yes ", '{"x":1}', "1", "null"], ["yes", '{"x": 1}', "one", "nothing"]).tolist() == [1, 1, 0, 0]
    true, learned = ["the pain is bad", "no cough"], ["the pain is good", "no fever"]
    table, runs = written_table(tokenizer, {"true answers": true, "parrot": learned}, true, learned, dict(enum=["no cough"]))
    assert table["exactly right"].tolist() == [1, 0] and table.valid.tolist() == [0, 0] and (runs["parrot"] >= runs["true answers"]).all()
    assert table.loc["parrot", "share of the text"] == 1 > table.loc["true answers", "share of the text"]
    assert "exactly right" not in written_table(tokenizer, {"true answers": true}, true, learned, asked=False)[0]
