"""Typed parameters: what is read, what is refused, and that a notebook checks itself as strictly as its runner does."""
import re

import numpy as np
import pytest
from reports import HOSTILE_TEXTS, TINY, notebook

from finetune_book.checks import InputError
from finetune_book.report.params import CHOICES_OF, check_values, declared_in, parameters_of, parse_values, require

DECLARED = parameters_of(TINY)
CELL = "epochs = 3  # [1..9]\nlr = 1e-3"


@pytest.mark.parametrize("pair, value", [
    ("epochs=10", 10), ("epochs= 7 ", 7), ("lr=1e-5", 1e-5), ("lr=.5", .5), ("lr=1", 1.0), ("tune=top-3", "top-3"), ("group=null", None),
    ("group=None", None), ("group=patient", "patient"), ("ks=[1,2]", [1, 2]), ("ks=[]", []), ("ks=(1)", None), ("shuffle=false", False),
    ("shuffle=True", True), ("note=", ""), ("seed=0", 0)])
def test_values_arrive_as_what_they_say(pair, value):
    if pair == "ks=(1)":
        with pytest.raises(InputError): parse_values(DECLARED, [pair])
        return
    [(_, got)] = parse_values(DECLARED, [pair]).items()
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_text_is_taken_as_it_is(text): assert parse_values(DECLARED, [f"note={text}"]) == {"note": text}


@pytest.mark.parametrize("pairs, says", [
    (["epoch=3"], "Did you mean 'epochs'?"), (["epochs"], "name=value"), (["epochs=1", "epochs=2"], "given twice"), (["=3"], "unknown parameter ''"),
    (["epochs=3.0"], "a whole number"), (["epochs=true"], "a whole number"), (["epochs=0"], "at least 1"), (["epochs=101"], "at most 100"),
    (["epochs=null"], "a whole number"), (["epochs="], "a whole number"), (["epochs=1 or 2"], "a whole number"), (["lr=0"], "above 0"), (["lr=nan"], "finite"),
    (["lr=NaN"], "finite"), (["lr=1e999"], "finite"), (["lr=fast"], "finite"), (["lr=" + "9" * 5000], "finite"), (["tune=ful"], "Did you mean 'full'?"),
    (["tune=top"], "one of head, full, top-*"), (["shuffle=yes"], "true or false"), (["shuffle=1"], "true or false"), (["ks=[1,'a']"], "each item is a whole number"),
    (["ks=1,2"], "a list"), (["ks=" + "[" * 3000], "a list"), (["seed=-1"], "at least 0")])
def test_refused_with_one_line(pairs, says, recwarn):
    with pytest.raises(InputError) as caught: parse_values(DECLARED, pairs)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400 and not recwarn.list


def test_values_from_python_are_checked_like_text():
    assert check_values(DECLARED, {"lr": 1, "group": None}) == {"lr": 1.0, "group": None}
    for bad in ({"epochs": "3"}, {"epochs": 3.}, {"shuffle": 1}, {"note": b"x"}, {"lr": float("inf")}, {"ks": (1, 2)}, {"epoch": 3},
                {"lr": 10**400}):
        with pytest.raises(InputError): check_values(DECLARED, bad)


def test_scalars_of_numpy_are_taken_like_pythons_and_become_them():
    given = {"epochs": np.int64(3), "lr": np.float32(.5), "shuffle": np.bool_(True), "ks": [np.int8(1), 2]}
    found = check_values(DECLARED, given)
    assert found == {"epochs": 3, "lr": .5, "shuffle": True, "ks": [1, 2]}
    assert [type(v) for v in (*found.values(), *found["ks"])] == [int, float, bool, list, int, int]
    for name, bad, says in (("epochs", np.int64(0), "epochs=0"), ("epochs", np.bool_(True), "epochs=true"), ("lr", np.float64("nan"), "lr=NaN"),
                            ("epochs", np.float64(3), "epochs=3.0"), ("shuffle", np.int64(1), "shuffle=1"), ("ks", [np.float64(1)], "each item")):
        with pytest.raises(InputError, match=says): check_values(DECLARED, {name: bad})


@pytest.mark.parametrize("cell, says", [
    ("import os", "is not `name = literal"), ("x = 1 + y", "is not `name = literal"), ("x += 1", "is not `name = literal"), ("a, b = 1, 2", "is not `name = literal"),
    ("x = 5  # [6..9]", "breaks its own declaration"), ("x = 'a'  # {b, c}", "breaks its own declaration"), ("x = 'a'  # [1..2]", "is not `name = literal"),
    ("x = 1\nx = 2", "declared twice"), ("x = ", "is not Python"), ("%matplotlib inline", "is not Python"), ("x = (1, 2)", "is not `name = literal"),
    ("x: int = None", "breaks its own"), ("x: Path = None", "is not `name = literal")])
def test_a_faulty_declaration_is_refused(cell, says):
    with pytest.raises(InputError) as caught: declared_in(cell)
    assert says in str(caught.value) and "line" in str(caught.value) or "twice" in str(caught.value) or "not Python" in str(caught.value)


def test_declarations_of_every_kind():
    n, name, items, either = declared_in("n: int | None = None  # how many [1..5]\nname = '# not a comment'  # help\nitems: list[str] = []\nk = 2  # {1, 2, 4}")
    assert (n.type, n.optional, n.low, n.high, n.help) == ("int", True, 1, 5, "how many")
    assert name.default == "# not a comment" and name.help == "help" and items.item == "str" and either.choices == (1, 2, 4)
    with pytest.raises(InputError): check_values([either], {"k": 3})


def test_choices_by_name_are_those_of_their_provider(monkeypatch):
    [tune] = declared_in("tune = 'full'  # what moves {@methods}")
    assert tune.choices == CHOICES_OF["methods"]() and tune.help == "what moves" and "full" in tune.choices
    monkeypatch.setitem(CHOICES_OF, "methods", lambda: ("head", "lora"))
    with pytest.raises(InputError, match="must be one of head, lora"): declared_in("tune = 'full'  # {@methods}")
    with pytest.raises(InputError, match="{@method}: there are no such choices. Did you mean 'methods'"): declared_in("tune = 'full'  # {@method}")


def test_the_carried_templates_offer_every_method():
    for name in ("finetune_text", "finetune_image"):
        assert {p.name: p for p in parameters_of(name)}["tune"].choices == CHOICES_OF["methods"]()


def test_none_is_a_value_where_the_help_offers_it_and_else_null():
    "A report of pictures that was asked for no augmentation used what suits, without a word."
    pictures, texts = parameters_of("finetune_image"), parameters_of("finetune_text")
    assert parse_values(pictures, ["augment=none", "guises=none"]) == {"augment": "none", "guises": "none"} and parse_values(texts, ["augment=none"]) == {"augment": "none"}
    assert parse_values(pictures, ["augment=null", "guises=Null", "lr=none", "group=None"]) == dict.fromkeys(("augment", "guises", "lr", "group"))


@pytest.mark.parametrize("nb, says", [(notebook("x = 1", tags=()), "0 code cells"), (notebook("x = 1", "y = 2", tags=("parameters",) * 2), "2 code cells"),
                                      (notebook("# Parameters\nx = 1"), "papermill's own")])
def test_one_tagged_cell(nb, says):
    with pytest.raises(InputError, match=re.escape(says)): parameters_of(nb)


# --- the notebook checks itself ------------------------------------------------------------------------------------


def test_require_finds_its_cell_and_survives_a_rerun():
    names = {"epochs": 4, "lr": 1}
    history = ["", "import os", CELL, "# Parameters\nepochs = 4\nlr = 1\n"]
    assert require(names, history) == {"epochs": 4, "lr": 1.0} and type(names["lr"]) is float
    later = history + ["require()", "other = 5", "print(1)"]  # a cell of literals was run since; the reader runs require() again
    assert require(names, later) == {"epochs": 4, "lr": 1.0}
    assert require({"epochs": 2, "lr": .1}, [CELL]) == {"epochs": 2, "lr": .1}


@pytest.mark.parametrize("injected, values, says", [
    ("epoch = 4", {"epochs": 3, "lr": 1e-3, "epoch": 4}, "Did you mean 'epochs'"), ("epochs = '4'", {"epochs": "4", "lr": 1e-3}, "a whole number"),
    ("lr = float('nan')", {"epochs": 3, "lr": float("nan")}, "finite"), ("x = float('nan')", {"epochs": 3, "lr": .1, "x": float("nan")}, "unknown parameter 'x'"),
    ("epochs = 10", {"epochs": 10, "lr": 1e-3}, "at most 9")])
def test_require_refuses_what_papermill_injects(injected, values, says):
    with pytest.raises(InputError, match=says): require(values, [CELL, "# Parameters\n" + injected])


def test_require_without_a_parameters_cell():
    with pytest.raises(InputError, match="right after the parameters"): require({}, ["import os"])
    with pytest.raises(RuntimeError, match="belongs in a notebook"): require()


@pytest.mark.parametrize("values, says", [({"epoch": 3}, "unknown parameter 'epoch'. Did you mean 'epochs'?"), ({"shuffle": "true"}, "true or false")])
def test_plain_papermill_is_as_strict(tmp_path, values, says, capfd):
    import papermill
    from papermill.exceptions import PapermillExecutionError
    with pytest.raises(PapermillExecutionError) as caught: papermill.execute_notebook(TINY, tmp_path / "out.ipynb", values, progress_bar=False)
    assert says in str(caught.value) and "Traceback" not in str(caught.value) and caught.value.ename == "InputError"
