"`finetune-book answer`: documents of each kind, questions from arguments and stdin, CSV and JSON, and what is refused."
import csv
import io
import json
import sys

import pytest

from commands import refused
from finetune_book import QuestionAnswerer
from finetune_book.cli import main
from finetune_book.commands.answer import documents
from finetune_book.data.squad import Question, write_squad

DOCS = {"knee.txt": "the pain has left knee.", "more/head.md": "the fever has right head."}
ROWS = [Question(str(i), f"the {what} has", f"the {what} has {where}.", ((where, 9 + len(what)),)) for i, (what, where) in
        enumerate([("pain", "left knee"), ("fever", "right head"), ("cough", "bad chest")])]


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_base):
    est = QuestionAnswerer(base=tiny_base, epochs=15, lr=.01, batch_size=2, max_length=32, stride=8, verbose=0, device="cpu", threshold=-1e6)
    return str(est.fit(ROWS).save(tmp_path_factory.mktemp("answer") / "model"))


@pytest.fixture
def docs(tmp_path):
    for name, text in DOCS.items():
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(text)
    (tmp_path / "docs" / "picture.png").write_bytes(b"no text")
    return str(tmp_path / "docs")


def rows_of(capsys): return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_answers_are_a_csv_with_the_passage_they_stand_in(model, docs, capsys):
    assert main(["answer", "-m", model, "--docs", docs, "the pain has", "Wohin?"]) == 0
    pain, none = rows_of(capsys)
    assert pain["source"] in DOCS and pain["passage"] == DOCS[pain["source"]] and pain["passage"][int(pain["start"]):].startswith(pain["answer"])
    assert none == dict(question="Wohin?", answer="I do not know", known="False", score="", source="", start="", passage="")


def test_json_lines_stdin_and_a_file(model, docs, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("the pain has\nWohin?\n"))
    assert main(["answer", "-m", model, "--docs", docs, "--json", "--out", str(tmp_path / "a.jsonl")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a.jsonl")
    known, none = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert known["known"] is True and DOCS[known["source"]][known["start"]:].startswith(known["answer"]) and known["score"] > -1e6
    assert none["known"] is False and none["answer"] == "I do not know" and none["source"] is none["start"] is none["score"] is None


def test_documents_of_each_kind(docs, tmp_path):
    assert documents(docs) == DOCS
    (tmp_path / "t.csv").write_text("id,body\n7,one\n8,two\n7,one\n")
    assert documents(str(tmp_path / "t.csv"), "body") == {"7": "one", "8": "two"}
    (tmp_path / "n.csv").write_text("text\none\ntwo\n")
    assert documents(str(tmp_path / "n.csv")) == {"1": "one", "2": "two"}
    write_squad([*ROWS, ROWS[0]], tmp_path / "q.json")
    assert sorted(documents(str(tmp_path / "q.json")).values()) == sorted(r.passage for r in ROWS)


def test_what_is_refused(model, docs, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank" / "a.txt").write_text(" ")
    (tmp_path / "t.csv").write_text("id,text\n7,one\n7,two\n")
    (tmp_path / "q.json").write_text('{"data": []}')
    for path, says in (("empty", "no document in it"), ("blank", "is empty"), ("t.csv", "two different texts"), ("q.json", "no question"), ("none", "no such file")):
        refused(capsys, ["answer", "-m", model, "--docs", str(tmp_path / path), "the pain has"], [says])
    ask = ["answer", "--docs", docs]
    refused(capsys, [*ask, "-m", model, " "], ["argument", "empty"])
    refused(capsys, [*ask, "-m", str(tmp_path / "none"), "why"], ["there is no such folder"])
    refused(capsys, [*ask, "-m", docs, "why"], ["QuestionAnswerer"])
    refused(capsys, [*ask, "-m", model, "-k", "0", "why"], ["--read=0"])
    refused(capsys, ["answer", "-m", model, "why"], ["--docs"])
    refused(capsys, ["answer", "-m", model, "--docs", str(tmp_path / "t.csv"), "--out", str(tmp_path / "t.csv"), "why"], ["would be overwritten"])


def test_help_has_examples(capsys):
    assert main(["answer", "--help"]) == 0
    assert capsys.readouterr().out.count("finetune-book answer ") >= 3
