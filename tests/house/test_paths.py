"""Every path and every module that the Makefile, the scripts, the cards and the notebooks' prose name is there."""
import json
import re
from fnmatch import fnmatch
from pathlib import Path

import form
import house
import pytest

REPO = Path(__file__).parents[2]
FOLDERS = "nbs tests scripts tools bench data finetune_book library"
# A path begins with one of the folders; what stands before it is no part of a longer path or of an address.
PATH = re.compile(rf"(?<![\w./$}}{{-])((?:{FOLDERS.replace(' ', '|')}|\.ci)/[\w./*-]*[\w*])")
MODULE = re.compile(r"(?<![\w./-])finetune_book((?:\.[a-z]\w*)+)")
NO_MODULES = {"json": "the file beside a saved model", "data_files": "the wheel's name of data/",
              "report_templates": "the wheel's name of nbs/reports/"}
WRITTEN = {"nbs/results/from_nothing.json": "what the script of the example writes",
           "bench/results.json": "what `make bench ARGS=--keep` writes"}
PLAIN = [REPO / name for name in ("Makefile", "README.md", "_quarto.yml", "pyproject.toml", ".ci/run")]
PLAIN += [p for folder in ("tools/*", "scripts/*/*.py", "bench/**/*.py", "data/*/README.md") for p in REPO.glob(folder)]


def words_of(path):
    "What people read in a file; of a notebook its prose."
    text = path.read_text(encoding="utf-8")
    return form.prose(json.loads(text)) if path.suffix == ".ipynb" else text


READ = [p for p in (*PLAIN, *house.notebooks(REPO / "nbs")) if p.is_file()]
WORDS = {p.relative_to(REPO).as_posix(): words_of(p) for p in sorted(READ)}


def is_there(path, root):
    "`library/NAME` is a notebook of the kitchen, a page of the site is a notebook, a * stands for any name."
    if path.startswith("library/"): path = f"nbs/{path.removesuffix('.ipynb')}.ipynb"
    if path.startswith("nbs/") and path.endswith(".html"): path = path.removesuffix("html") + "ipynb"
    return any(root.glob(path)) if "*" in path else (root / path).exists()


def is_module(dotted, root):
    "Whether a name after `finetune_book.` is a package, a module, or something in a module."
    here = root / "finetune_book"
    for part in dotted.split("."):
        if (here / f"{part}.py").exists(): return True
        here /= part
        if not here.is_dir(): return False
    return True


def missing(words, root=REPO):
    "Paths and modules in a text that are not there."
    paths = {path for path in PATH.findall(words) if path not in WRITTEN and not is_there(path, root)}
    dotted = {name[1:] for name in MODULE.findall(words)} - set(NO_MODULES)
    return sorted(paths | {f"finetune_book.{name}" for name in dotted if not is_module(name, root)})


@pytest.mark.parametrize("name", WORDS)
def test_what_is_named_is_there(name): assert missing(WORDS[name]) == []


def test_the_rule_meets_what_it_looks_for():
    found = {path for words in WORDS.values() for path in PATH.findall(words)}
    assert {"tests/house/run_notebooks.py", "tools/setup.sh", "scripts/bases/make_book_bert.py", "bench/bfloat16.py",
            "library/quick"} <= found
    assert set(WRITTEN) <= found and len(found) > 60


def test_the_lab_opens_where_the_map_lies():
    assert re.search(r"^lab:.*\n\t@\$\(PY\) tools/lab.py", WORDS["Makefile"], re.MULTILINE)
    first = re.search(r"default_url=/lab/tree/\{FIRST\}", WORDS["tools/lab.py"]) and re.search(r'FIRST = .*"(\w+.ipynb)"', WORDS["tools/lab.py"])
    assert (REPO / "nbs" / first[1]).exists()


@pytest.mark.parametrize("words, gone", [
    ("    python scripts/make_book_bert.py --out data/book-bert", ["scripts/make_book_bert.py"]),
    ("$(PY) tests/run_notebooks.py", ["tests/run_notebooks.py"]), ("see `library/cold_start`.", ["library/cold_start"]),
    ("open nbs/01_losses.ipynb, or", ["nbs/01_losses.ipynb"]), ("nbs/old/*.ipynb", ["nbs/old/*.ipynb"]),
    ("`finetune_book.report.kernels`", ["finetune_book.report.kernels"]),
    ("from finetune_book.estimator import FineTuner", ["finetune_book.estimator"]), ("url=nbs/00_maps.html", ["nbs/00_maps.html"]),
])
def test_what_is_gone_is_seen(words, gone): assert missing(words) == gone


@pytest.mark.parametrize("words", [
    "python scripts/bases/make_book_bert.py", "`library/cli`", "nbs/**/*.ipynb", "bench/[!_]*.py", "../shared/data",
    "https://example.org/data/none.csv", "url=nbs/00_map.html", "my-data/notes.csv", "finetune_book.data.tables",
    "finetune_book.data.tables.carried", "`finetune_book.vision`", "model/finetune_book.json", "finetune_book.__version__",
])
def test_what_is_there_is_left_alone(words): assert missing(words) == []


def test_pytest_leaves_no_folder_of_tests_out(pytestconfig):
    "Its own list of folders to pass over has `build`, and tests/build was passed over without a word for some time."
    folders = {p.parent.relative_to(REPO) for p in (REPO / "tests").rglob("test_*.py")}
    passed_over = pytestconfig.getini("norecursedirs")
    assert len(folders) > 10 and [f for f in folders if any(fnmatch(part, p) for part in f.parts for p in passed_over)] == []
