"""Every lesson has the form of a lesson, every notebook is small and readable, and each of these rules can fail."""
import json
import re
from pathlib import Path

import form
import house
import pytest

REPO = Path(__file__).parents[2]
NOTEBOOKS = {p.relative_to(REPO / "nbs").as_posix(): p for p in sorted((REPO / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts}
LESSONS = {p.name: p for p in house.lessons(REPO / "nbs")}
NAMES = {house.lesson_number(p): re.sub(r"^\d+_", "", p.stem) for p in LESSONS.values()}
OTHERS = [p for folder in ("tests", "scripts", "bench", "tools") for p in (REPO / folder).rglob("*.py") if p.name not in ("form.py", "test_form.py", "test_layers.py", "test_site.py")]  # they hold breaches
OTHERS += [REPO / "README.md", REPO / "Makefile", *(REPO / "data").glob("*/README.md")]
IDEA_DUE = {"54_text_classifier.ipynb", "55_vision_classifier.ipynb"}  # they are told anew; the one that begins with an idea must leave this set
def read(path): return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook(name):
    nb = read(NOTEBOOKS[name])
    assert [breach for rule in form.ANY_NOTEBOOK for breach in rule(nb)] == []


@pytest.mark.parametrize("name", LESSONS)
def test_lesson(name):
    assert house.lesson_number(name) is not None, "a lesson's name starts with its number: NN_topic.ipynb"
    nb, number = read(LESSONS[name]), house.lesson_number(name)
    rules = [rule for rule in form.EVERY_LESSON if name not in IDEA_DUE or rule is not form.imports_before_the_idea]
    assert [breach for rule in rules for breach in rule(nb, number)] + form.never_run(nb) == []


# Lessons that write verdicts of their own, each with its reason; one that no longer does must go from this list.
OWN_VERDICTS = {
    "33_calibration.ipynb": "writes out once, by hand, what the function in `judge.calibration` and lesson 32 (bootstrap) do",
    "42_bert.ipynb": "two independent samples of random numbers, neither paired by seed nor by row",
    "73_vision_pretrain.ipynb": "a word for each row of a table whose columns are value, low, high and n",
    "92_verify.ipynb": "compares the words of two verdicts, of made-up results",
}


def test_comparisons_in_lessons_go_through_the_judges():
    "Sentences that compare are written by functions that know seeds and rows; counts of code are not typed."
    found = {name: breaches for name, p in LESSONS.items() if (breaches := [b for rule in form.COMPARISONS for b in rule(read(p))])}
    assert {name: breaches for name, breaches in found.items() if name not in OWN_VERDICTS} == {}
    assert set(OWN_VERDICTS) - set(found) == set(), "no longer there"


def test_no_exercise_number_is_used_twice():
    question = re.compile(r"^(?:\*\*|#+ )(?:Exercise )?(\d\d\.\d+)(?=[.:* ])", re.MULTILINE)
    asked = [n for p in LESSONS.values() for n in question.findall(form.prose(read(p)))]
    assert sorted(asked) == sorted(set(asked)) and len(asked) >= 4 * len(LESSONS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_references_to_lessons_lead_somewhere_below(name):
    number = house.lesson_number(name)
    assert form.wrong_references(form.everything(read(NOTEBOOKS[name])), NAMES, number or 100) == []


def test_references_outside_the_notebooks_lead_somewhere():
    assert {p.name: wrong for p in OTHERS if (wrong := form.wrong_references(p.read_text(encoding="utf-8"), NAMES))} == {}


@pytest.mark.parametrize("words, why", [
    ("As in lesson 29 (x).", "no lesson 29"), ("As in lesson 31.", "is called metrics"), ("Lessons 31 (metrics) and 32.", "32 is called bootstrap"),
    ("lesson 32 (metrics)", "is called bootstrap"), ("see (lesson 31, scores)", "is called metrics"), ("lesson 34 (ladder) climbs", "above 33"), ("lessons 31 to 33", "is called metrics"),
])
def test_a_reference_that_leads_nowhere_is_seen(words, why):
    assert any(why in breach for breach in form.wrong_references(words, {31: "metrics", 32: "bootstrap", 33: "calibration", 34: "ladder"}, 33))
    assert form.wrong_references("Lessons 31 (metrics) and 32 (bootstrap) say so (lesson 31, metrics).", {31: "metrics", 32: "bootstrap"}, 33) == []


def test_the_map_lists_every_lesson():
    shown = [form.text(o["data"]["text/markdown"]) for _, o in form.outputs(read(LESSONS["00_map.ipynb"])) if "text/markdown" in o.get("data", {})]
    stored = "\n".join(shown)
    titles = {n: form.prose(read(p)).splitlines()[0].removeprefix("# ") for n, p in LESSONS.items() if n != "00_map.ipynb"}
    assert [n for n in titles if not re.search(rf"\| \[\d\d {re.escape(titles[n])}\]\(\w+/{re.escape(n)}\) \|", stored)] == [], "run nbs/00_map.ipynb again: its table of lessons is older than the lessons"


def test_the_readme_lists_every_lesson():
    for name in ("README.md", "README.zh.md"):
        listed = re.findall(r"`(\d\d_\w+)`", (REPO / name).read_text(encoding="utf-8"))
        assert listed == sorted(Path(n).stem for n in LESSONS), "each lesson once, in reading order"


# --- each rule can fail --------------------------------------------------------------------------------------------

def md(source): return {"cell_type": "markdown", "metadata": {}, "source": source}
def py(source, *outs): return {"cell_type": "code", "metadata": {}, "execution_count": None, "source": source, "outputs": list(outs)}
def out(kind="display_data", **fields): return {"output_type": kind, "metadata": {}, **fields}


HEAD = "# A title\n\n> A subtitle.\n\n**Needs** nothing · **gives** `m.f` · **costs** 2 s, 90 MB\n\n**摘要** 本课说明一件事并给出一个函数，然后检验它。"


def lesson():
    asked = [cell for k in (1, 2, 3, 4) for cell in (md(f"### Exercise 07.{k}: A function\n\nWrite `f`."), py("def f(x): ..."))]
    return {"cells": [md(HEAD), md("word " * form.IDEA_WORDS), py("1 + 1", out("execute_result", data={"text/plain": "2"})), md("**Learned:** this."), md("## Exercises"), *asked, md("## Sources\n\nA book.")]}


def all_breaches(nb):
    return [b for r in form.ANY_NOTEBOOK for b in r(nb)] + [b for r in form.EVERY_LESSON for b in r(nb, 7)] + form.never_run(nb)


def test_a_good_lesson_passes(): assert all_breaches(lesson()) == []


@pytest.mark.parametrize("part, says", [
    ("# A title", "no title"), ("> A subtitle.", "no subtitle"), ("**Needs**", "no **Needs**"), ("**gives**", "no **Needs**"), ("2 s,", "no **Needs**"),
    ("**摘要** 本课", "no **摘要**"), ("**Learned:**", "no **Learned:**"), ("## Exercises", "no ## Exercises"), ("## Sources", "no ## Sources"),
    ("### Exercise 07.2: A function", "3 exercises"), ("Exercise 07.2: ", "3 exercises"),
])
def test_a_missing_part_is_seen(part, says):
    nb = lesson()
    for c in nb["cells"]: c["source"] = c["source"].replace(part, "")
    assert any(b.startswith(says) for b in all_breaches(nb)), all_breaches(nb)


@pytest.mark.parametrize("cell, says", [
    (py("\n".join(["x = 1"] * 46)), "code cell 8 has 46 lines"),
    (py("def long():\n" + "\n".join(["    x = 1"] * 70)), "long has 71 lines"),
    (py("x", out(data={"text/plain": "x" * 400_000})), "stored outputs weigh"),
    (py("x", out("error", ename="ValueError", evalue="", traceback=[])), "code cell 5 stored an error: ValueError"),
    (py("x", out("stream", name="stderr", text="a warning")), "code cell 5 wrote to stderr"),
    (py("x", out(data={"image/png": "iVBO"})), "code cell 5 shows a picture without alt text"),
    (py("x", {**out(data={"image/png": "iVBO"}), "metadata": {"image/png": {"alt": " "}}}), "code cell 5 shows a picture without alt text"),
    (py("x", out("stream", name="stdout", text="read /home/me/x.csv")), "code cell 5 stored the path /home/me"),
], ids=["long cell", "long function", "heavy", "error", "stderr", "no alt", "empty alt", "path"])
def test_a_bad_cell_is_seen(cell, says):
    nb = lesson()
    nb["cells"].append(cell)
    found = all_breaches(nb)
    assert any(re.sub(r"cell \d", "", b).startswith(re.sub(r"cell \d", "", says)) for b in found), found


def test_a_picture_with_alt_text_passes():
    nb = lesson()
    nb["cells"].append(py("x", {**out(data={"image/png": "iVBO"}), "metadata": {"image/png": {"alt": "a line"}}}))
    assert all_breaches(nb) == []


@pytest.mark.parametrize("cell, says", [
    (py("told = 'b is clearly higher' if gain > 0 else 'no clear difference'"), "code cell 5 writes a verdict: 'b is clearly higher'"),
    (py("print(f'{b} is clearly better')"), "code cell 5 writes a verdict: 'is clearly better'"),
    (md("Step B is clearly better than step A."), "prose says 'is clearly better'"),
    (py("x", out("stream", name="stdout", text="B minus A is +0.1: B is clearly higher.")), "code cell 5 printed a verdict over nothing"),
    (md("Behind it are eight short methods."), "prose counts 'eight short methods'"), (md("The module has 13 functions."), "prose counts '13 functions'"),
])
def test_a_comparison_without_its_judge_is_seen(cell, says):
    nb = lesson()
    nb["cells"].insert(-1, cell)
    found = [b for rule in form.COMPARISONS for b in rule(nb)]
    assert any(b.startswith(says) for b in found), found


@pytest.mark.parametrize("cell", [
    py("assert 'no clear difference' in told and 'clearly' not in told"), py("print(compare(results, 'a', 'b'))"),
    py("#| export\ndef verdict(low): return 'no clear difference' if low < 0 else 'b is clearly higher'"),
    py("x", out("stream", name="stdout", text="B minus A is +0.1 [.0, .2] (95% interval over 3 seeds): B is clearly higher.")),
    py("x", out("stream", name="stdout", text="A alone is right on 5 (n = 240 test rows, exact McNemar p = 1): no clear difference.")),
    md("With these three functions a sentence can say *no clear difference*. The trainer's four methods, two functions, three classes."),
])
def test_a_comparison_by_its_judge_passes(cell):
    nb = lesson()
    nb["cells"].insert(-1, cell)
    assert [b for rule in form.COMPARISONS for b in rule(nb)] == []


def test_an_exercise_without_a_place_for_the_answer_is_seen():
    nb = lesson()
    nb["cells"].pop(8)
    assert any("no code cell of its own" in b for b in all_breaches(nb))


def test_imports_before_the_idea_are_seen():
    nb = lesson()
    nb["cells"].insert(1, nb["cells"].pop(2))
    assert any("before the first code cell" in b for b in all_breaches(nb))


def test_a_lesson_that_was_never_run_is_seen():
    nb = lesson()
    nb["cells"][2]["outputs"] = []
    assert form.never_run(nb)
