"""Lines, names, docstrings and classes of the library keep their measure, and each of these rules can fail."""
import json
from functools import cache
from pathlib import Path

import house
import pytest

REPO = Path(__file__).parents[2]
MODULES = house.library(REPO / "finetune_book")
FILES = {p.relative_to(REPO).as_posix(): p for p in [*(REPO / "finetune_book").rglob("*.py"), *house.notebooks(REPO / "nbs")]
         if p.name not in ("__init__.py", "_modidx.py")}
# Breaches that are meant, as the rules word them, each with its reason; one that is no longer there must go.
MANY_NAMES = {}
TWO_HOMES = {}
DEEP = {}
ONLY_ONCE = {}


@cache
def wide_lines(): return house.wide(*FILES.values())


# --- the rules hold ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", FILES)
def test_width(name): assert wide_lines()[FILES[name]] == []


def test_public_names():
    crowded = [breach for m, source in MODULES.items() for breach in house.crowded(source, m)]
    assert house.unexcused(crowded, MANY_NAMES) + house.unexcused(house.two_homes(MODULES), TWO_HOMES) == []


def test_module_docstrings(): assert [breach for m, source in MODULES.items() for breach in house.undescribed(source, m)] == []


def test_inheritance_is_at_most_three_deep_and_no_class_only_cuts_a_file():
    assert house.unexcused(house.too_deep(MODULES), DEEP) + house.unexcused(house.only_cuts(MODULES), ONLY_ONCE) == []


# --- each rule can fail --------------------------------------------------------------------------------------------

def test_a_wide_line_is_seen(tmp_path):
    module, lesson = tmp_path / "wide.py", tmp_path / "01_wide.ipynb"
    names = "__all__ = [" + ", ".join(f"'name_{i}'" for i in range(20)) + "]\n"
    module.write_text(names + "x = 1  # " + "y" * 111 + "\n\nx = 1  # " + "word " * 23 + "\n")
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [cell | {"source": ["x = 1"]}, cell | {"id": "b", "source": ["y = 2\n", "z = '" + "词 " * 40 + "'"]}]
    lesson.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    seen = house.wide(module, lesson)
    assert [b.split(":")[0] for b in seen[module]] == ["line 4"] and [b.split(":")[0] for b in seen[lesson]] == ["cell 2, line 2"]


def module(names, rest=""): return f"__all__ = {names!r}\n{rest}"


def test_a_crowded_module_is_seen():
    assert house.crowded(module([f"f{i}" for i in range(13)]), "m") == ["m has 13 public names, 12 are allowed"]
    assert house.crowded(module([f"f{i}" for i in range(12)], "def helper(): ..."), "m") == []


def test_a_name_with_two_homes_is_seen():
    one, other = module(["plain", "x"], "def plain(): ..."), module(["plain"], "def plain(): ...")
    assert house.two_homes({"data.a": one, "report.b": other}) == ["plain is public in data.a and in report.b"]
    assert house.two_homes({"data.a": one, "report.b": module([], "def plain(): ...")}) == []
    for passed_on in ("from ..data.a import plain", "from finetune_book.data.a import plain"):
        assert house.two_homes({"data.a": one, "report.b": module(["plain"], passed_on)}) == []


def test_a_module_without_words_is_seen():
    for bad in ("", "x = 1", '""" """\nx = 1'): assert house.undescribed(bad, "m") == ["m has no docstring"]
    assert house.undescribed('"""What it holds."""\nx = 1', "m") == []


def test_deep_inheritance_is_seen():
    deep = {"a": "import torch\nclass A(torch.nn.Module): ...\nclass B(A): ...", "b": "from .a import B\nclass C(B): ...",
            "c": "import finetune_book.b as b\nclass D(b.C, Exception): ..."}
    assert house.too_deep(deep) == ["c: D is 4 deep, 3 are allowed"]
    assert house.too_deep(deep | {"c": "class C: ...\nclass D(C): ..."}) == []    # another C


def test_a_class_that_only_cuts_is_seen():
    half = "class Half: ...\nclass Whole(Half): ...\n"
    assert house.only_cuts({"a": half + "Whole()"}) == ["a: Half has one subclass and is never made"]
    assert house.only_cuts({"a": half, "b": "from .a import Half\nx = Half()"}) == []
    assert house.only_cuts({"a": half + "class Other(Half): ..."}) == []


def test_an_excuse_must_have_its_breach():
    assert house.unexcused(["m is bad"], {"m is bad": "a reason"}) == []
    assert house.unexcused(["m is bad"], {}) == ["m is bad"]
    assert house.unexcused([], {"m is bad": "a reason"}) == ["no longer there: m is bad"]
