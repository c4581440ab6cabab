"`finetune-book train --task`: matching, answering and generating from the data they come in, and what is refused."
import json

import pandas as pd
import pytest

from finetune_book import QuestionAnswerer, TextGenerator, TextMatcher
from finetune_book.cli import main
from finetune_book.commands.beyond import BEYOND
from finetune_book.data.squad import Question, write_squad

FAST = ["--epochs", "1", "--quiet"]
PLACES = ["left knee", "right head", "bad chest", "good room"]


def questions(articles=6):
    return [Question(f"{a}{i}", f"the {what} has", f"the {what} has {where}.", ((where, 9 + len(what)),), f"article {a}")
            for a in range(articles) for i, (what, where) in enumerate(zip(("pain", "fever", "cough"), PLACES))]


def trained(capsys, tmp_path, *args):
    "What was told on stderr of a training that went well; the model is in tmp_path/m."
    assert main(["train", *args, *FAST, "--out", str(tmp_path / "m")]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(tmp_path / "m")
    return shown.err


def test_questions_in_squads_format(tiny_base, tmp_path, capsys):
    write_squad(questions(), tmp_path / "q.json")
    said = trained(capsys, tmp_path, "--task", "answer", "--data", str(tmp_path / "q.json"), "--base", tiny_base, "--max-length", "32", "--validation", ".3")
    assert "F1 on the questions held back" in said and "always silent: 0.000" in said and "2 groups" in said
    assert QuestionAnswerer.load(tmp_path / "m").max_length == 32


def test_one_article_holds_nothing_back_and_says_so(tiny_base, tmp_path, capsys):
    write_squad(questions(1), tmp_path / "q.json")
    said = trained(capsys, tmp_path, "--task", "answer", "--data", str(tmp_path / "q.json"), "--base", tiny_base, "--max-length", "32")
    assert "none is held back" in said and "F1" not in said


def labelled(labels, each):
    "Texts and labels, none of them a copy of another."
    words = "pain chest fever cough head knee left right good bad very room clean loud".split()
    rows = [dict(text=f"{words[i % 14]} {words[(3 * i + j) % 14]} f{j % 10} {words[(5 * i + 2 * j) % 14]}", label=f"l{i}") for i in range(labels) for j in range(each)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("labels", [3, 12])
def test_labelled_texts_to_match(tiny_base, tmp_path, capsys, labels):
    labelled(labels, 6).to_csv(tmp_path / "t.csv", index=False)
    said = trained(capsys, tmp_path, "--task", "match", "--data", str(tmp_path / "t.csv"), "--base", tiny_base, "--max-length", "16", "--validation", ".34")
    assert "nearest neighbours that match, of the rows held back" in said and "base as it came" in said
    assert TextMatcher.load(tmp_path / "m").transform(["the pain"]).shape == (1, 16)


def test_of_many_labels_whole_ones_are_held_back():
    X, frame = list((table := labelled(12, 4)).text), table
    few = BEYOND["match"].together(X, frame.assign(match=frame.label, label=frame.label))
    many = BEYOND["match"].together(X, frame.assign(match=frame.label, label=""))
    assert len(set(many)) == 12 and len(set(few)) > 12


def test_pairs_that_match_and_the_others_counted(tiny_base, tmp_path, capsys):
    texts = list(labelled(12, 4).text)
    pd.DataFrame([dict(question1=a, question2=b, is_duplicate=i % 2) for i, (a, b) in enumerate(zip(texts, texts[1:]))]).to_csv(tmp_path / "p.csv", index=False)
    said = trained(capsys, tmp_path, "--task", "match", "--data", str(tmp_path / "p.csv"), "--base", tiny_base, "--max-length", "16")
    assert "of 47 pairs 23 match and are learned from" in said


def test_a_desk_to_match(tiny_base, tmp_path, capsys):
    said = trained(capsys, tmp_path, "--task", "match", "--data", "help_desk", "--base", tiny_base, "--max-length", "8")
    assert "nearest neighbours" in said


@pytest.mark.parametrize("prompt", [True, False])
def test_texts_to_write(tiny_decoder, tmp_path, capsys, prompt):
    labelled(12, 2).rename(columns=dict(label="asked")).to_csv(tmp_path / "t.csv", index=False)
    said = trained(capsys, tmp_path, "--task", "generate", "--data", str(tmp_path / "t.csv"), "--base", tiny_decoder, "--max-length", "48", *["--prompt", "asked"] * prompt)
    assert "bits per byte of the texts held back" in said and "base as it came" in said
    assert len(TextGenerator.load(tmp_path / "m").generate(["l3"], most=3)) == 1


def test_what_is_refused(tiny_base, tmp_path, capsys):
    labelled(3, 4).to_csv(tmp_path / "t.csv", index=False)
    pd.DataFrame(dict(sentence1=["a", "b"], sentence2=["c", "d"], score=[1., 4.5])).to_csv(tmp_path / "scored.csv", index=False)
    pd.DataFrame(dict(sentence1=["a", "b"], sentence2=["c", "d"], score=[0, 0])).to_csv(tmp_path / "none.csv", index=False)
    (tmp_path / "q.json").write_text(json.dumps({"version": "1", "data": []}))
    table = ["--data", str(tmp_path / "t.csv")]
    for args, says in ((["--task", "rhyme", *table], ["--task rhyme", "label", "match"]),
                       (["--task", "answer", *table, "--augment", "swap"], ["--augment", "--task answer"]),
                       (["--task", "generate", *table, "--size", "3"], ["--size", "--task generate"]),
                       (["--task", "generate", *table, "--label", "label"], ["--label", "--task generate"]),
                       (["--task", "generate", *table, "--prompt", "asked"], ["no column 'asked'"]),
                       (["--prompt", "asked", *table], ["--prompt", "--task generate"]),
                       (["--task", "match", *table, "--tune", "head", "--validation", "0"], ["tune='head'"]),
                       (["--task", "match", "--data", str(tmp_path / "scored.csv")], ["scored 1 to 4.5"]),
                       (["--task", "match", "--data", str(tmp_path / "none.csv")], ["no pair"]),
                       (["--task", "answer", *table], ["not JSON"]),
                       (["--task", "answer", "--data", str(tmp_path / "q.json")], ["no question"]),
                       (["--task", "match", *table, "--validation", "1"], ["validation=1"])):
        refused_after_warnings(capsys, ["train", *args, "--out", str(tmp_path / "m")], says)
    assert not (tmp_path / "m").exists()


def refused_after_warnings(capsys, args, says):
    assert main(args) == 2
    last = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("finetune-book: see ")][-1]
    assert all(word in last for word in says), last


def test_help_has_an_example_of_each(capsys):
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"--task {word}" in shown for word in BEYOND)
