"Questions that no document answers: thresholds from validation alone, both rates by hand, groups whole, what is said."
import json

import numpy as np
import pandas as pd
import pytest

from finetune_book.find.searcher import Searcher
from finetune_book.report.outside import Outside, best_scores, enough, told_outside, with_kinds
from finetune_book.report.queries import read_desk


def frame(groups="11223344"): return pd.DataFrame(dict(text=list("abcdefgh"), known=[True] * 4 + [False] * 4, group=list(groups)))


GOOD, BAD = np.array([9., 8, 7, 6, 3, 2, 1, 0]), np.array([9., 2, 9, 2, 9, 2, 9, 2])


def test_the_threshold_is_that_of_validation_and_of_its_own_training():
    out = Outside(frame(), frame(), {"words": {0: (BAD, BAD)}, "tuned": {0: (GOOD, GOOD), 1: (GOOD + 10, GOOD)}})
    assert out.threshold("tuned", 0) == 4.5 and out.threshold("tuned", 1) == 14.5
    refused, answered = (out.wrong(known) for known in (True, False))
    assert refused.scores["tuned"][1].tolist() == [1] * 4 and answered.scores["tuned"][0].tolist() == [0] * 4 and refused.unit == "test questions with a document"
    table = out.table()
    assert table.loc["tuned", ["AUROC", "wrongly answered", "wrongly refused"]].tolist() == [1, 0, .5] and table.loc["words", "AUROC"] == .5
    told = out.sentences()
    assert set(told) == {"words, wrongly answered", "words, wrongly refused"} and all("over 2 seeds" in s for s in told.values())
    assert "of 4 in 2 groups 0% [0%, 0%] get an answer" in out.wary(table)["questions without a document"]


def test_what_can_be_judged():
    assert enough(frame()) and not enough(frame("11223333")) and not enough(frame().head(5)) and enough(frame().drop(columns="group")) and not enough(frame().head(4))


def test_what_scores_highest_is_shown_once_a_group_and_escaped(monkeypatch):
    shown = []
    monkeypatch.setattr("finetune_book.report.outside.show_table", lambda table, **more: shown.append(table))
    Outside(frame(), frame(), {"tuned": {0: (GOOD, BAD)}}).show_highest(["x", "y", "z", "w"])
    assert shown[0].question.tolist() == ["e", "g"] and shown[0]["found first"].tolist() == ["x", "z"] and set(shown[0].answered) == {"yes"} and shown[0]["of those with one below it"].tolist() == ["50%", "50%"]


def test_nothing_shared_scores_nothing():
    texts = pd.DataFrame(dict(text=["the card", "hello"]))
    low, high = best_scores(Searcher(words=True).fit(["my card", "the parcel"]), [texts, texts.head(1)])
    assert low[1] == 0 < low[0] == high[0]


@pytest.fixture
def beir(tmp_path):
    "A folder: 8 documents, 40 questions, of which the last 8 have judgements of 0 alone, and 3 that nobody judged."
    def write(name, rows): (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    write("corpus.jsonl", [{"_id": f"d{i}", "text": f"document {c * 8}"} for i, c in enumerate("abcdefgh")])
    write("queries.jsonl", [{"_id": f"q{i}", "text": f"question {i * 7919} of {'abcdefgh'[i % 8] * 8}"} for i in range(43)])
    (tmp_path / "qrels").mkdir()
    for part, rows in dict(train=range(0, 40, 2), test=range(1, 40, 2)).items():
        (tmp_path / "qrels" / f"{part}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i % 8}\t{int(i < 32)}\n" for i in rows))
    return tmp_path


def test_judgements_of_zero_alone_say_so_and_what_nobody_judged_is_counted(beir):
    desk = read_desk(beir)
    assert set(desk.outside["test"].id) == {"q33", "q35", "q37", "q39"} and sum(map(len, desk.outside.values())) == 8 and desk.unjudged == 3
    assert not {q for f in desk.splits.values() for q in f.id} & {q for f in desk.outside.values() for q in f.id} and sum(map(len, desk.splits.values())) == 32
    told = told_outside(desk, {part: desk.outside[part].head(1) for part in ("validation", "test")})
    assert "8 that no document answers" in told and "4 to test (1 drawn)" in told and told.endswith("3 that no part judges are left out")
    assert with_kinds(desk.splits["test"], desk.outside["test"]).known.tolist() == [True] * 16 + [False] * 4
