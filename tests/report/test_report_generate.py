"The report on generating, end to end on a table of the reader's own, and on the carried notes with a base of random numbers."
import json
import re

import pytest
from cells import run_cells

from finetune_book.checks import InputError
from finetune_book.cli import main
from finetune_book.data.splits import LeakError
from finetune_book.report.gallery import publish_gallery
from finetune_book.report.params import parameters_of

QUICK = dict(epochs=1, max_length=64, batch_size=8, precision="float32")
PARTS = "pain fever cough head knee chest room good".split()


def row(i): return f"<b>f{i % 10}</b> m{i * 7919} has {PARTS[i % 8]}", f"{PARTS[i % 8]} <i>bad</i> $5" if i % 3 else "no $6"


def write(path, rows, head="ask,said"):
    path.write_text("\n".join([head, *(",".join(r) for r in rows)]) + "\n")
    return str(path)


@pytest.fixture
def table(tmp_path): return write(tmp_path / "mine.csv", map(row, range(40)))


@pytest.mark.usefixtures("warm_kernels")
def test_the_page_begins_with_the_answer_and_escapes_what_it_shows(table, tiny_decoder, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(dict(enum=["no $6", "pain <i>bad</i> $5"])))
    values = QUICK | dict(base=tiny_decoder, data=table, prompt="ask", answer="said", schema=tmp_path / "s.json")
    given = [word for name, value in values.items() for word in ("-p", f"{name}={value}")]
    assert main(["report", "generate", "-q", *given, "--out", str(tmp_path / "out")]) == 0
    page, run = (tmp_path / "out" / "generate.html").read_text(), json.loads((tmp_path / "out" / "generate.json").read_text())
    answer, ways, written = (run["metrics"][k] for k in ("answer", "ways", "written"))
    first = page[page.index("<h1"):page.index("How it was made</h2>" if "How it was made</h2>" in page else "How it was made")]
    assert "aria-label='The answer'" in first.replace('"', "'") and "bits per byte, less is better: against" in first and "Training took about" in first and re.search(r'<img[^>]*\balt="Bars of bits per byte by way', first)
    assert list(ways) == ["n-gram", "base without prompt", "base as it came", "fine-tuned"] and answer["score"]["value"] == ways["fine-tuned"]["bits per byte"] < ways["base as it came"]["bits per byte"]
    assert ways["n-gram"]["bits per byte"] < ways["base as it came"]["bits per byte"] and answer["unit"] == "test answers" and "few test answers" in answer["wary"]
    assert written["fine-tuned, held to the schema"]["valid"] == 1 and written["true answers"]["exactly right"] == 1 and "the schema does not fit" in answer["wary"] and "<b>f" not in page
    assert "<i>bad" not in page and "<span>$</span>5" in page and sum(run["metrics"]["worse"].values()) == answer["score"]["n"] and "another row" in run["metrics"]["reads"]
    assert answer["verdict"].split(":")[0] in publish_gallery(tmp_path / "out").read_text()


def test_the_carried_notes_and_several_trainings(tiny_decoder):
    space = run_cells("generate", base=str(tiny_decoder), repeats=2, max_train=24, max_test=12, **QUICK)
    answer = space["told"]["metrics"]["answer"]
    assert "24 drawn" in answer["data"] and "few training rows" in answer["wary"] and "2 trainings" in answer["wary"] and set(space["ways"].trainings) == {0, 1} and answer["score"]["n"] == 12
    assert "over 2 seeds" in space["differences"].compared.iloc[0] and set(space["form"]["properties"]) == {"label", "days"} and "cut texts" in answer["wary"]
    assert space["written"].loc["fine-tuned, held to the schema", "valid"] == 1 and answer["also"].keys() == {"as one text", "exactly right under the schema", "valid without it"}


def test_a_note_for_a_record_has_no_schema(tiny_decoder):
    space = run_cells("generate", base=str(tiny_decoder), turned=True, max_train=24, max_test=8, most=12, **QUICK)
    assert space["form"] is None and json.loads(space["prompts"][0]).keys() == {"label", "days"} and list(space["said"])[-1] == "fine-tuned" and space["room"] == 12


def test_plain_texts_are_drawn_and_nothing_is_right_or_wrong(tmp_path, tiny_decoder):
    path = write(tmp_path / "plain.csv", ([row(i)[0]] for i in range(30)), "text")
    space = run_cells("generate", data=path, base=str(tiny_decoder), **QUICK)
    assert list(space["ways"].scores) == ["n-gram", "base as it came", "fine-tuned"] and "exactly right" not in space["written"] and space["reads"] is None and space["answer"] is None
    assert len({text.text for text in space["said"]["fine-tuned"]}) > 1 and space["unit"] == "test texts"


def test_a_pair_on_two_sides_is_refused(tmp_path, tiny_decoder):
    write(tmp_path / "train.csv", map(row, range(20))); write(tmp_path / "test.csv", map(row, range(19, 30)))
    with pytest.raises(LeakError, match="1 of 11 test rows"): run_cells("generate", data=str(tmp_path), prompt="ask", answer="said", base=str(tiny_decoder), **QUICK)


def test_what_is_refused_before_anything_is_trained(table, tiny_decoder, tiny_base, tmp_path, capsys):
    asked = dict(data=table, prompt="ask", answer="said", base=str(tiny_decoder)) | QUICK
    empty = tmp_path / "empty.json"; empty.write_text('{"enum": []}')
    for more, says in ((dict(answer="sad"), "no column 'sad'.*Did you mean 'said'"), (dict(schema=str(empty)), "nothing can satisfy"), (dict(schema=table), "not readable as JSON"), (dict(base=tiny_base), "is a bert"),
                       (dict(tune="top-99"), "this base has 2 layers"), (dict(max_length=65), "at most 64 tokens"), (dict(most=63), "no room"), (dict(data="clinic_nots"), "clinic_notes")):
        with pytest.raises(InputError, match=says): run_cells("generate", **asked | more)


def test_the_defaults_are_small_and_of_the_carried_notes():
    defaults = {p.name: p.default for p in parameters_of("generate")}
    assert defaults["data"] == "clinic_notes" and defaults["base"] == "book-gpt" and defaults["epochs"] <= 4 and defaults["max_train"] <= 640
