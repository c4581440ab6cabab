"`finetune-book generate`: prompts from arguments and stdin, CSV, JSON and a stream, a schema in a file, and what is refused."
import csv
import io
import json
import sys

import pytest

from commands import refused
from finetune_book import TextGenerator
from finetune_book.cli import main

NOTES, SAID = ["the knee is red", "the head is hot"], ["left. END", "right"]


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_decoder):
    est = TextGenerator(base=tiny_decoder, epochs=80, lr=.02, batch_size=2, max_length=32, verbose=0, device="cpu", precision="float32").fit(NOTES * 4, SAID * 4)
    return str(est.save(tmp_path_factory.mktemp("generate") / "model"))


def rows_of(capsys): return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_texts_are_a_csv_that_says_why_they_stopped(model, capsys):
    assert main(["generate", "-m", model, *NOTES]) == 0
    assert [(r["prompt"], r["text"], r["stopped"]) for r in rows_of(capsys)] == [(NOTES[0], SAID[0], "end"), (NOTES[1], SAID[1], "end")]
    assert main(["generate", "-m", model, "--stop", "END", "--most", "30", NOTES[0]]) == 0
    assert [(r["text"], r["stopped"]) for r in rows_of(capsys)] == [("left. ", "stop")]
    assert main(["generate", "-m", model, "--copies", "3", "--temperature", "3", "-n", "9", NOTES[0]]) == 0
    assert len({r["text"] for r in rows_of(capsys)}) > 1
    assert main(["generate", "-m", model, "--contrast", "0", "--top-k", "3", *NOTES]) == 0          # nothing but probability counts
    assert [r["text"] for r in rows_of(capsys)] == SAID
    assert main(["generate", "-m", model, "--contrast", "1", "-n", "9", *NOTES]) == 0
    assert [r["text"] for r in rows_of(capsys)] != SAID


def test_json_lines_stdin_and_a_file(model, capsys, tmp_path, monkeypatch):
    (tmp_path / "s.json").write_text(json.dumps(dict(enum=["left", "right"])))
    monkeypatch.setattr(sys, "stdin", io.StringIO("the knee is red\nthe head is hot\n"))
    assert main(["generate", "-m", model, "--schema", str(tmp_path / "s.json"), "--json", "--out", str(tmp_path / "a.jsonl")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a.jsonl")
    found = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [r["prompt"] for r in found] == NOTES and {json.loads(r["text"]) for r in found} <= {"left", "right"}


def test_a_stream_shows_what_was_written(model, tiny_decoder, capsys):
    assert main(["generate", "-m", model, "--stream", *NOTES]) == 0
    out, err = capsys.readouterr()
    assert out == "".join(a + b + "\n" for a, b in zip(NOTES, SAID)) and err.count("stopped by the text ended") == 2
    assert main(["generate", "-m", model, "--stream", "--stop", "END", NOTES[0]]) == 0
    out, err = capsys.readouterr()
    assert out == NOTES[0] + "left. \n" and "a stop word" in err
    assert main(["generate", "-m", tiny_decoder, "--stream", "-n", "2", "a"]) == 0                 # a base as it came
    assert "the limit of 2 tokens" in capsys.readouterr().err


def test_what_is_refused(model, tiny_base, capsys, tmp_path, monkeypatch):
    (tmp_path / "s.json").write_text("{")
    (tmp_path / "t.json").write_text('{"enum": []}')
    ask = ["generate", "-m", model]
    for args, says in (([" "], "empty"), (["--temperature", "0", "a"], "temperature=0"), (["--top-p", "0", "a"], "top_p=0"), (["--top-p", "2", "a"], "top_p=2"),
                       (["-n", "0", "a"], "most=0"), (["--schema", str(tmp_path / "s.json"), "a"], "not readable as JSON"), (["--schema", str(tmp_path / "t.json"), "a"], "nothing can satisfy"),
                       (["--schema", str(tmp_path / "none.json"), "a"], "none.json"), (["--stream", "--json", "a"], "--stream"), (["--copies", "0", "a"], "--copies=0"),
                       (["the knee is red " * 30], "cut"), (["--beams", "2", "--top-k", "3", "a"], "draws nothing"),
                       (["--contrast", "2", "a"], "contrast=2"), (["--contrast", ".5", "--top-p", ".9", "a"], "leave out top_p"), (["--contrast", ".5", "--beams", "2", "a"], "leave out contrast"), (["--out", f"{model}/config.json", "a"], "would be overwritten")):
        refused(capsys, [*ask, *args], [says])
    refused(capsys, ["generate", "-m", tiny_base, "a"], ["is a bert"])
    monkeypatch.chdir(tmp_path)                             # a long path is shortened, so a short one
    refused(capsys, ["generate", "-m", "./none", "a"], ["'./none': no such folder"])


def test_help_has_examples(capsys):
    assert main(["generate", "--help"]) == 0
    assert capsys.readouterr().out.count("finetune-book generate ") >= 3
