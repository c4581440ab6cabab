"The questions over a made-up formulary: rebuilt to the byte, no passage on two sides, words alone fail."
import random

import numpy as np
import pytest

from finetune_book.checks import InputError
from finetune_book.data.sets import clinic_questions as cq
from finetune_book.data.squad import read_squad
from finetune_book.tasks.answer import SentenceFloor


@pytest.fixture(scope="module")
def rows(): return {split: cq.read_clinic_questions(split) for split in cq.PASSAGES}


def test_the_command_rebuilds_the_carried_bytes(tmp_path, repo, capsys):
    before = random.getstate()
    assert cq.main(["--out", str(tmp_path / "new")]) == 0
    assert random.getstate() == before
    carried, said = repo / "data/clinic_questions", capsys.readouterr().out
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"train.json", "validation.json", "test.json", "README.md"}
    for path in (tmp_path / "new").iterdir():
        assert path.read_bytes() == (carried / path.name).read_bytes(), f"{path.name}: run the command and commit"
        assert path.suffix == ".md" or path.name in said
    assert sum(p.stat().st_size for p in carried.iterdir()) < 500_000


def test_another_seed_is_another_formulary(tmp_path):
    few = {"train": 3, "test": 2}
    a, b, c = (cq.write_clinic_questions(tmp_path / str(i), seed, few) for i, seed in enumerate((0, 0, 1)))
    assert a == b and a != c and len(read_squad(tmp_path / "0" / "train.json")) == 15
    for bad in ({"train": -1}, {"trian": 2}, {"train": 1.5}):
        with pytest.raises(InputError): cq.make_clinic_questions(0, bad)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write there"): cq.write_clinic_questions(tmp_path / "file", 0, few)
    assert cq.main(["--out", str(tmp_path / "file")]) == 2


def test_no_passage_and_no_drug_is_on_two_sides(rows):
    for what in ("passage", "title", "id"):
        sides = [{getattr(row, what) for row in part} for part in rows.values()]
        assert sum(map(len, sides)) == len(set().union(*sides))


def test_about_three_in_ten_have_no_answer_and_it_is_not_in_the_words(rows):
    for part in rows.values():
        assert .22 < np.mean([not row.answers for row in part]) < .42
        assert all(len(row.answers) <= 1 and row.question.endswith("?") for row in part)
    foreign = [row for row in rows["train"] if row.title not in row.question]
    assert 20 < len(foreign) and not any(row.answers for row in foreign)


def test_held_out_wording_is_held_out(rows):
    forms = {voice: {form for fact in cq.FACTS.values() for form in getattr(fact.asked, voice)} for voice in ("train", "validation", "test")}
    drugs = {r.title for part in rows.values() for r in part}
    asked = {f.format(D=d) for f in forms["validation"] | forms["test"] for d in drugs}
    assert not asked & {row.question for row in rows["train"]}
    assert np.mean([row.question in {f.format(D=d) for f in forms["test"] for d in drugs} for row in rows["test"]]) > .75


def test_words_alone_find_the_sentence_of_few_test_questions(rows):
    floor = SentenceFloor().fit(sorted({row.passage for row in rows["train"]}))
    right = [row.texts[0] in floor.best(row.question, row.passage)[0] for row in rows["test"] if row.answers]
    assert np.mean(right) < .6


def test_a_value_stands_once_in_its_passage(rows):
    for row in (r for part in rows.values() for r in part if r.answers): assert row.passage.count(row.texts[0]) == 1, row
