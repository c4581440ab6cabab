"""Files of documents, queries, judgements and pairs, as others write them; each slip is one line."""
import json

import pytest

from finetune_book.checks import InputError
from finetune_book.data.retrieval import check_qrels, read_beir, read_help_desk


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "corpus.jsonl", [{"_id": "7", "title": "Card", "text": "Lost.", "metadata": {}}, {"_id": "8", "title": "", "text": "卡 😀"}])
    write(tmp_path / "queries.jsonl", [{"_id": "q1", "text": "gone"}, {"_id": "q2", "text": "ساعات"}, {"_id": "q3", "text": "of training"}])
    (tmp_path / "qrels").mkdir()
    judge(tmp_path, "q1\t7\t2", "q1\t8\t0", "q2\t8\t0")
    return tmp_path


def write(path, rows): path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
def judge(folder, *rows): (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(rows) + "\n")


def test_a_beir_folder(folder):
    docs, queries, qrels = read_beir(folder)
    assert docs == {"7": "Card. Lost.", "8": "卡 😀"} and queries == {"q1": "gone"} and qrels == {"q1": {"7": 2, "8": 0}}
    assert read_beir(folder, answered=False) == (docs, {"q2": "ساعات"}, {"q2": {"8": 0}})


@pytest.mark.parametrize("rows, says", [(["q1\t9\t1"], "unknown documents: 9"), (["q9\t7\t1"], "unknown queries: q9"), (["q1\t7\tyes"], "row 1 has no number"), (["q1\t7\t-1"], "-1 is no gain")])
def test_judgements_that_cannot_be(folder, rows, says):
    judge(folder, *rows)
    with pytest.raises(InputError, match=says): read_beir(folder)


@pytest.mark.parametrize("name, rows, says", [
    ("corpus.jsonl", [{"_id": 7, "text": "one"}, {"_id": "7", "text": "another"}], "id '7' of another text"), ("corpus.jsonl", [{"_id": "7", "body": "x"}], "no column 'text'"),
    ("queries.jsonl", [{"name": "q1", "text": "x"}], "no column '_id'"), ("corpus.jsonl", [{"_id": "7", "text": " "}], "empty text")])
def test_tables_that_cannot_be(folder, name, rows, says):
    write(folder / name, rows)
    with pytest.raises(InputError, match=says): read_beir(folder)


def test_a_folder_that_is_none(folder, tmp_path):
    with pytest.raises(InputError, match="no train.jsonl"): read_beir(folder, "train")
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match="BEIR folder has corpus.jsonl"): read_beir(folder)


@pytest.mark.parametrize("qrels, says", [({"q": {"a": 0}}, "nothing is relevant"), ({"q": {"a": "yes"}}, "is no gain"), ({"q": {"a": -1}}, "is no gain"), ({"q": {"a": float("nan")}}, "is no gain")])
def test_qrels_that_cannot_be(qrels, says):
    with pytest.raises(InputError, match=says): check_qrels(qrels, ["q"], ["a"])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_help_desk(split):
    _, others, none = read_help_desk(split, answered=False)
    assert len(others) > 10 and others.keys() == none.keys() and not any(none.values())
    docs, queries, qrels = read_help_desk(split)
    assert not queries.keys() & others.keys()
    assert check_qrels(qrels, queries, docs) and queries.keys() == qrels.keys() and len(docs) == 24
