"What a report on searching reads: parts that are there and parts that are cut, groups, fewer documents, what is refused."
import json

import pytest

from finetune_book.checks import InputError
from finetune_book.report.queries import fewer_docs, matched, most_wanted, place_of, read_desk


def write(path, rows): path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")


@pytest.fixture
def beir(tmp_path):
    "A function that writes a folder: 12 documents, 48 questions, each wants one; judged in the parts that are named."
    def make(**parts):
        write(tmp_path / "corpus.jsonl", [{"_id": f"d{i}", "title": "", "text": f"document {'abcdefghijkl'[i] * 8}"} for i in range(12)])
        write(tmp_path / "queries.jsonl", [{"_id": f"q{i}", "text": f"question {i * 7919} of {'abcdefghijkl'[i % 12] * 8}", "writer": f"w{i // 2}"} for i in range(48)])
        (tmp_path / "qrels").mkdir(exist_ok=True)
        for name, rows in parts.items():
            (tmp_path / "qrels" / f"{name}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i % 12}\t1\n" for i in rows))
        return tmp_path
    return make


def test_parts_that_are_there_stay_and_a_missing_one_is_cut_from_training(beir):
    desk = read_desk(beir(train=range(30), test=range(36, 48)))
    assert list(desk.splits["test"].id) == [f"q{i}" for i in range(36, 48)] and len(desk.splits["train"]) + len(desk.splits["validation"]) == 30 and desk.given == ["test"]
    desk = read_desk(beir(train=range(30), dev=range(30, 36), test=range(36, 48)))
    assert [len(f) for f in desk.splits.values()] == [30, 6, 12] and set(desk.given) == {"train", "validation", "test"} and len(desk.docs) == 12


def test_one_part_is_cut_in_three_and_groups_stay_whole(beir):
    desk = read_desk(str(beir(test=range(48))), group="writer", seed=3)
    writers = [set(f.group) for f in desk.splits.values()]
    assert sum(map(len, writers)) == 24 and len(set.union(*writers)) == 24 and desk.given == [] and min(map(len, desk.splits.values())) > 2


def test_dev_is_tested_where_there_is_no_test_part(beir):
    desk = read_desk(beir(train=range(30), dev=range(30, 40)))
    assert set(desk.splits["test"].id) == {f"q{i}" for i in range(30, 40)}


@pytest.mark.parametrize("data, group, says", [("clinic_notes", None, "no qrels/train"), ("missing_folder", None, "missing_folder")])
def test_what_is_no_folder_of_searches(data, group, says):
    with pytest.raises(InputError, match=says): read_desk(data, group)


def test_what_cannot_be_read(beir, tmp_path):
    folder = beir(train=range(30), test=range(20, 48))
    with pytest.raises(InputError, match="test judges questions of another part, too: q20"): read_desk(folder)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq40\td99\t1\n")
    with pytest.raises(InputError, match="unknown documents: d99"): read_desk(folder)
    folder = beir(train=range(30), test=range(36, 48))
    with pytest.raises(InputError, match="no column 'auhtor'"): read_desk(folder, group="auhtor")
    (tmp_path / "table.csv").write_text("text\nx\n")
    with pytest.raises(InputError, match="is no folder; give one in BEIR's format"): read_desk(tmp_path / "table.csv")


def test_wanted_documents_stay_among_fewer(beir):
    desk = read_desk(beir(test=range(48)))
    frame = desk.splits["test"].head(3)
    kept = fewer_docs(desk, [frame], 5, seed=0)
    assert len(kept) == 5 and {d for q in frame.id for d in desk.qrels[q]} <= set(kept) and len(fewer_docs(desk, [frame], 0, 0)) == 12 and len(fewer_docs(desk, [frame], 1, 0)) == 3


def test_texts_that_match_have_one_number_and_stand_once(beir):
    desk = read_desk(beir(test=range(48)))
    texts, numbers = matched(desk, desk.splits["train"])
    assert len(texts) == len(set(texts)) and len(set(numbers)) == len({d for q in desk.splits["train"].id for d in desk.qrels[q]})
    assert most_wanted(desk, desk.docs, desk.splits["train"].head(1))[0] in desk.qrels[desk.splits["train"].id[0]]
    assert place_of(["a", "b"], {"b": 1, "a": 0}) == "place 2" and place_of(["a"], {"b": 1}) == "not among 1"
