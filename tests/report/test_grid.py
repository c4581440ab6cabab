"""The grid of a sweep: values as typed, and runs that are known by what they depend on."""
from pathlib import Path

import pytest
from reports import SWEPT

from finetune_book.checks import InputError
from finetune_book.report.grid import check_grid, parse_grid, plan, split_values
from finetune_book.report.params import parameters_of, parse_values
from finetune_book.report.pool import arguments
from finetune_book.report.template import read_template

HOSTILE = "<script>document.title='owned'</script> $x$ </style> ![](http://example.org/a.png) \"q\" 'r' 中文 ../up"
DECLARED, NB = parameters_of(SWEPT), read_template(SWEPT)


@pytest.mark.parametrize("text, items", [
    ("", [""]), ("a", ["a"]), ("a,b", ["a", "b"]), (",", ["", ""]), ("[1,2],[3,4]", ["[1,2]", "[3,4]"]), ('{"a": [1,2]},{}', ['{"a": [1,2]}', "{}"]),
    ("'a,b',c", ["'a,b'", "c"]), ("don't,won't", ["don't", "won't"]), ("a),b", ["a)", "b"]), ('"[",x', ['"["', "x"]), ("[']'],x", ["[']']", "x"]), ("中,文", ["中", "文"])])
def test_commas_split_only_outside(text, items): assert split_values(text) == items


def test_texts_keep_what_quotes_protect():
    grid = parse_grid(DECLARED, ["note='a, b', c ,\"it's\",' d '"])
    assert grid["note"] == ["a, b", "c", "it's", " d "]
    assert parse_grid(DECLARED, ["note= as typed "])["note"] == [" as typed "] and parse_grid(DECLARED, ["note="])["note"] == [""]
    for value in grid["note"] + [HOSTILE, "-p x=1", "two\nlines", "--json"]:
        line = arguments(SWEPT, "swept", {"note": value}, Path("x"))
        assert parse_values(DECLARED, [line[line.index("-p") + 1]]) == {"note": value}


def test_grids_from_python():
    assert check_grid(DECLARED, {"lr": 1, "note": ["a", "b"]}) == {"lr": [1.], "note": ["a", "b"]}
    for bad in ({"lr": []}, {"lr": [.1, .1]}, {"lr": ["x"]}, {"rl": 1}, {"note": [1]}):
        with pytest.raises(InputError): check_grid(DECLARED, bad)
    for seeds in (True, 1.5, "3"):
        with pytest.raises(InputError): plan(NB, {}, seeds)


def test_a_key_changes_with_what_a_run_depends_on(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("a")
    def key(): return plan(NB, {"note": [str(table)]}, 1)[1][0]
    first = key()
    assert key() == first
    table.write_text("b")
    assert key().key != first.key and key().name == first.name
    assert plan(NB, {"note": ["x"]}, 1)[1][0].name != first.name
