"""The made-up help desk: rebuilt to the byte, wordings of a split its own, hard in the ways the card says."""
import hashlib
import subprocess
import sys

import pandas as pd
import pytest

from finetune_book.data.sets import help_desk as hd
from finetune_book.find.bm25 import words_of


@pytest.fixture(scope="module")
def folder(repo): return repo / "data" / "help_desk"


def test_one_command_rebuilds_the_carried_bytes(tmp_path, folder):
    run = subprocess.run([sys.executable, "-m", "finetune_book.data.sets.help_desk", "--out", str(tmp_path / "new")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    made = {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()}
    assert set(made) == {"articles.csv", "train.csv", "validation.csv", "test.csv", "README.md"}
    for name, content in made.items():
        assert content == (folder / name).read_bytes(), f"{name} differs from the carried file: run the command and commit"
        if name.endswith(".csv"): assert f"{hashlib.sha256(content).hexdigest()}  {name}" in run.stdout


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    run = subprocess.run([sys.executable, "-m", "finetune_book.data.sets.help_desk", "--out", str(tmp_path / "file")], capture_output=True, text=True)
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 1


def test_another_seed_is_another_desk(): assert hd.make_help_desk() == hd.make_help_desk(0) != hd.make_help_desk(1)


def test_splits_have_wordings_of_their_own(folder):
    for i in [*hd.INTENTS.values(), hd.TALK, hd.OUTSIDE]:
        assert not set(i.train) & set(i.test) and not set(i.validation) & (set(i.train) | set(i.test))
    parts = [set(pd.read_csv(folder / f"{s}.csv").wording) for s in hd.SIZES]
    assert not parts[0] & parts[1] and not parts[2] & (parts[0] | parts[1])


def test_each_question_has_its_article_or_none(folder):
    articles = pd.read_csv(folder / "articles.csv").set_index("id").title
    for split in hd.SIZES:
        asked = pd.read_csv(folder / f"{split}.csv", keep_default_na=False)
        assert asked.id.is_unique
        for label, rows in asked.groupby("label"):
            wanted = hd.INTENTS[label].title if label in hd.INTENTS else None
            assert {articles.get(a) for a in rows.article} == {wanted}


def test_what_the_card_says_is_hard(folder):
    articles = {id: set(words_of(f"{t} {x}")) for id, t, x in pd.read_csv(folder / "articles.csv").itertuples(index=False)}
    asked = pd.read_csv(folder / "test.csv", keep_default_na=False)
    asked = asked[asked.article != ""]
    held = [asked_words & articles[a] - set("the a i it you my to is for of and in at me on that was what how do".split())
            for a, asked_words in zip(asked.article, map(set, map(words_of, asked.text)))]
    assert sum(not h for h in held) > .2 * len(held)                      # many share no telling word with their article
    near = asked.text.str.lower().duplicated().sum()
    assert near > 0
