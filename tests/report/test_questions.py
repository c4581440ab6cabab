"What a report on answering reads, the sentence that a base finds nearest, thresholds, and how answers fare."
import numpy as np
import pytest

from finetune_book.checks import InputError
from finetune_book.data.squad import Question, write_squad
from finetune_book.report.questions import answer_rates, known_apart, nearest_sentences, read_questions, show_odds, spoken, threshold_of


def row(i, known=True):
    passage = f"Drug {i} is given at {i} mg. Store it well."
    return Question(f"q{i}-{known}", "How much?" if known else "Who?", passage, ((f"{i} mg", passage.index(f"{i} mg")),) if known else (), f"Drug {i}")


ROWS = [row(i, known) for i in range(30) for known in (True, False)]


def test_a_file_is_cut_in_three_by_article(tmp_path):
    write_squad(ROWS, tmp_path / "all.json")
    splits, given = read_questions(str(tmp_path / "all.json"), seed=1)
    articles = [set(f.group) for f in splits.values()]
    assert sum(map(len, articles)) == 30 and len(set.union(*articles)) == 30 and sum(map(len, splits.values())) == 60 and given == []
    again, _ = read_questions(str(tmp_path / "all.json"), seed=1)
    assert list(again["test"].id) == list(splits["test"].id) != list(read_questions(str(tmp_path / "all.json"), seed=2)[0]["test"].id)


def test_a_folder_as_squad_names_it(tmp_path):
    write_squad(ROWS[:40], tmp_path / "train-v2.0.json"); write_squad(ROWS[40:], tmp_path / "dev-v2.0.json")
    splits, given = read_questions(tmp_path)
    assert list(splits["test"].id) == [r.id for r in ROWS[40:]] and len(splits["train"]) + len(splits["validation"]) == 40 and given == ["test"]
    assert splits["test"].row[0] == ROWS[40] and splits["test"].answers[0] == "20 mg" and splits["test"].answers[1] == ""
    write_squad(ROWS[:4], tmp_path / "train-old.json")
    with pytest.raises(InputError, match="two files for one part"): read_questions(tmp_path)


def test_what_is_no_source(tmp_path):
    with pytest.raises(InputError, match="no train, dev or test file"): read_questions(tmp_path)
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(InputError, match="data is None"): read_questions(tmp_path)


def test_the_nearest_sentence_and_each_text_once():
    seen = []
    def read(texts):
        seen.extend(texts)
        return np.array([[len(t), 1.] / np.hypot(len(t), 1) for t in texts])
    found = nearest_sentences(read, ["abcdefg", "abcdefg"], ["A b. Abcdef.", "A b. Abcdef."])
    assert found[0] == found[1] and found[0][0] == "Abcdef." and found[0][1] == pytest.approx(1) and len(seen) == len(set(seen)) == 3


def test_rates_by_hand():
    rows = [row(1), row(2), row(3, False), row(4, False)]
    assert answer_rates(rows, ["1 mg", "", "x", ""]) == {"exact match": .5, "F1": .5, "false answers": .5, "missed": .5}
    assert set(answer_rates(rows[:2], ["1 mg", ""])) == {"exact match", "F1", "missed"} and set(answer_rates(rows[2:], ["", ""])) == {"exact match", "F1", "false answers"}


def test_the_threshold_is_that_of_the_validation_rows():
    rows = [row(1), row(2), row(3, False)]
    found = [("1 mg", 2.), ("wrong", .5), ("x", 1.)]
    assert spoken(found, threshold_of(rows, found)) == ["1 mg", "", ""]
    assert known_apart(rows, [2., .5, 1.]) == .5 and known_apart(rows[:2], [2., .5]) is None
    show_odds(rows[:2], [2., .5], 1.)
