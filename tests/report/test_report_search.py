"The report on searching, end to end on a folder of the reader's own, and on the carried set with a base of random numbers."
import json
import re

import pytest
from cells import run_cells

from finetune_book.checks import InputError
from finetune_book.cli import main
from finetune_book.data.splits import LeakError
from finetune_book.report.gallery import publish_gallery
from finetune_book.report.params import parameters_of

QUICK = dict(epochs=1, max_length=24, batch_size=8, precision="float32")
PARTS = "pain fever cough head knee chest room good".split()


def write(path, rows): path.write_text("\n".join(json.dumps(r) for r in rows))


@pytest.fixture
def folder(tmp_path):
    "48 questions on 8 documents, judged in one part; markup in both."
    home = tmp_path / "beir"
    (home / "qrels").mkdir(parents=True)
    write(home / "corpus.jsonl", [{"_id": p, "title": "<b>Card</b>", "text": f"the {p} has f{i} $5 and $6 <script>alert(1)</script>"} for i, p in enumerate(PARTS)])
    ask = lambda i: f"{PARTS[i % 8]} with f{i % 10} and {'left right bad clean loud very'.split()[i // 8]} for m{i * 7919} <i>p</i>"
    write(home / "queries.jsonl", [{"_id": f"q{i}", "text": ask(i)} for i in range(48)])
    (home / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\t{PARTS[i % 8]}\t1\n" for i in range(48)))
    return home


def test_the_page_begins_with_the_answer_and_escapes_what_it_shows(folder, tiny_base, tmp_path):
    values = QUICK | dict(base=tiny_base, data=folder)
    given = [word for name, value in values.items() for word in ("-p", f"{name}={value}")]
    assert main(["report", "search", "-q", *given, "--out", str(tmp_path / "out")]) == 0
    page, run = (tmp_path / "out" / "search.html").read_text(), json.loads((tmp_path / "out" / "search.json").read_text())
    answer, ways = run["metrics"]["answer"], run["metrics"]["ways"]
    first = page[page.index("<h1"):page.index("How it was made</h2>" if "How it was made</h2>" in page else "How it was made")]
    assert "aria-label='The answer'" in first.replace('"', "'") and "Fine-tuned reaches" in first and "Training took about" in first and re.search(r'<img[^>]*\balt="Bars of recall@1 by way', first)
    assert list(ways) == ["most wanted", "words (BM25)", "base as it came", "base + words", "fine-tuned + words", "fine-tuned"] and answer["model"] == "fine-tuned"
    assert ways["words (BM25)"]["recall@1"] > .6 and ways["most wanted"]["recall@1"] < .5 and answer["score"]["value"] == ways["fine-tuned"]["recall@1"]
    assert "alert(1)" in page and "<script>alert" not in page and "<i>p</i>" not in page and "<span>$</span>5" in page
    assert run["metrics"]["worse"]["worse"] + run["metrics"]["worse"]["better"] + run["metrics"]["worse"]["same"] == answer["score"]["n"]
    assert "Not judged: this takes two questions without a document" in page and "outside" not in run["metrics"] and "questions without a document" not in answer["wary"]
    assert "test rows split off at random" in answer["data"] and run["data"]["documents"]["rows"] == 8
    assert answer["verdict"].split(":")[0] in publish_gallery(tmp_path / "out").read_text()


def test_the_carried_questions_and_several_trainings(tiny_base):
    space = run_cells("search", base=str(tiny_base), repeats=2, max_train=48, max_test=40, max_docs=20, measure="mrr", **QUICK)
    answer = space["told"]["metrics"]["answer"]
    assert len(space["docs"]) == 20 and "20 documents of 24" in answer["data"] and "fewer documents" in answer["wary"]
    assert "2 trainings" in answer["wary"] and "questions that repeat" in answer["wary"] and set(space["ways"].trainings) == {0, 1}
    table, out = space["parted"]["table"], space["apart"]
    assert list(table.index) == ["words (BM25)", "base as it came", "fine-tuned"] and len(out.test) == 76 and set(out.best["fine-tuned"]) == {0, 1} and table.AUROC.between(0, 1).all()
    assert "of 36 in 7 groups" in answer["wary"]["questions without a document"] and "102 that no document answers" in answer["data"] and space["told"]["metrics"]["outside"]["table"] is table
    assert "cut texts" in set(answer["wary"]) and answer["measure"] == "mrr" and answer["score"]["n"] == 40 and "over 2 seeds" in space["differences"].compared.iloc[0]


def test_a_question_on_two_sides_is_refused_unless_it_is_allowed(folder, tiny_base):
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    write(folder / "queries.jsonl", [r | dict(text=rows[0]["text"]) if r["_id"] == "q40" else r for r in rows])
    head = "query-id\tcorpus-id\tscore\n"
    for name, ids in (("train", range(36)), ("test", range(36, 48))): (folder / "qrels" / f"{name}.tsv").write_text(head + "".join(f"q{i}\t{PARTS[i % 8]}\t1\n" for i in ids))
    with pytest.raises(LeakError, match="1 of 12 test rows"): run_cells("search", data=str(folder), base=str(tiny_base), **QUICK)
    space = run_cells("search", data=str(folder), base=str(tiny_base), allow_leakage=True, **QUICK)
    assert list(space["answer"]["wary"])[0] == "leaks"


def test_questions_that_no_document_answers_are_judged_and_those_that_nobody_judged_counted(folder, tiny_base):
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    write(folder / "queries.jsonl", rows + [{"_id": f"n{i}", "text": f"<b>{PARTS[i % 8]}</b> m{i * 7919} f{i}"} for i in range(45)])
    with (folder / "qrels" / "test.tsv").open("a") as file: file.writelines(f"n{i}\t{PARTS[i % 8]}\t0\n" for i in range(40))
    space = run_cells("search", data=str(folder), base=str(tiny_base), **QUICK)
    answer, outside = space["answer"], space["told"]["data"]["test without a document"]
    assert answer["wary"]["questions left out"] == "5 that no part judges" and "5 that no part judges are left out" in answer["data"] and answer["score"]["n"] == len(space["test"])
    assert 1 < len(outside) == space["apart"].test.known.eq(False).sum() and all(q.startswith("n") for q in outside.id) and "wrongly refused" in space["parted"]["table"]


def test_what_is_refused_before_anything_is_trained(tiny_base, folder):
    with pytest.raises(InputError, match="no qrels"): run_cells("search", data="clinic_notes", base=str(tiny_base))
    with pytest.raises(InputError, match="matching moves the body"): run_cells("search", data=str(folder), base=str(tiny_base), tune="head", **QUICK)


def test_the_defaults_are_small_and_of_the_carried_set():
    defaults = {p.name: p.default for p in parameters_of("search")}
    assert defaults["data"] == "help_desk" and defaults["base"] == "book-bert" and defaults["epochs"] <= 3 and defaults["max_train"] <= 320
