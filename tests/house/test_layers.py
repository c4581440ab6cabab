"""The rules of the house hold over the library and the notebooks, and each rule can fail."""
import ast
import json
import os
import re
import subprocess
import sys
from bisect import bisect_right
from functools import cache
from itertools import accumulate
from pathlib import Path

import house
import pytest
from house import FREE_OF_TORCH, JUDGES

REPO = Path(__file__).parents[2]
NUMBERS = house.lesson_numbers(REPO / "nbs")
MODULES = house.library(REPO / "finetune_book")
NAMES = house.defined_in(MODULES)
NOTEBOOKS = house.notebooks(REPO / "nbs")
MAP = "00_map.ipynb"  # shows the whole road with the finished library, so it alone looks upwards
# Single imports from a higher lesson that are meant, in cells that export nothing; one that is no longer there must go from this list.
LOOKS_UP = {}


# Breaches that are meant, each with its reason; one that is no longer there must go from this list.
MEANT = {
    "train.trainer: torch.default_generator.manual_seed outside torch.random.fork_rng": "`reseed` runs inside `own_randomness` only, which forks",
    "train.trainer: torch.cuda.manual_seed outside torch.random.fork_rng": "as above",
    "train.trainer: torch.mps.manual_seed outside torch.random.fork_rng": "as above; own_randomness puts the state back",
    "51_trainer.ipynb: torch.default_generator.manual_seed outside torch.random.fork_rng": "where trainer is exported from",
    "51_trainer.ipynb: torch.cuda.manual_seed outside torch.random.fork_rng": "where trainer is exported from",
    "51_trainer.ipynb: torch.mps.manual_seed outside torch.random.fork_rng": "where trainer is exported from",
    "invariants: random.getstate uses global random state": "`own_random` puts back what it found, so that a check leaves no trace",
    "invariants: random.setstate uses global random state": "`own_random` puts back what it found, so that a check leaves no trace",
    "invariants: numpy.random.get_state uses global random state": "`own_random` puts back what it found, so that a check leaves no trace",
    "invariants: numpy.random.set_state uses global random state": "`own_random` puts back what it found, so that a check leaves no trace",
    "56_invariants.ipynb: random.getstate uses global random state": "`own_random` puts back what it found, so that a check leaves no trace",
    "56_invariants.ipynb: random.setstate uses global random state": "`own_random` puts back what it found, so that a check leaves no trace",
    "56_invariants.ipynb: numpy.random.get_state uses global random state": "`own_random` puts back what it found, so that a check leaves no trace",
    "56_invariants.ipynb: numpy.random.set_state uses global random state": "`own_random` puts back what it found, so that a check leaves no trace",
    "52_callbacks.ipynb: torch.load without weights_only=True": "shows a hostile checkpoint run its code, before the safe way",
}


def without_place(breach): return re.sub(r" code cell \d+, line \d+:| line \d+:", "", breach)


def each_cell(path, rule, cells=None):
    "Apply a rule to a notebook as a whole, since what one cell imports the others use; breaches name cell and line."
    cells = cells or house.code_cells(path)
    starts = list(accumulate((c.count("\n") + 1 for c in cells), initial=1))
    found = []
    for breach in rule("\n".join(cells)):
        line, rest = re.fullmatch(r"line (\d+): (.*)", breach, re.DOTALL).groups()
        i = bisect_right(starts, int(line)) - 1
        found.append(f"{path.name}: code cell {i}, line {int(line) - starts[i] + 1}: {rest}")
    return found


@cache
def all_breaches(rule): return every_module(lambda s, m: rule(s)) + every_notebook(rule)
def not_meant(breaches): return [b for b in breaches if without_place(b) not in MEANT]


def every_module(rule): return [f"{m}: {breach}" for m, source in MODULES.items() for breach in rule(source, m)]
def every_notebook(rule): return [breach for p in NOTEBOOKS for breach in each_cell(p, rule)]


# --- the rules hold ------------------------------------------------------------------------------------------------

def test_there_is_something_to_check():
    assert NUMBERS["losses"] == 11 and NUMBERS["data.tables"] == 21 and NUMBERS["figures"] is None
    assert set(MODULES) == set(NUMBERS), "a module without a notebook, or a notebook whose module was not exported"


def test_modules_import_only_what_stands_below(): assert every_module(lambda s, m: house.climbs(s, m, NUMBERS, NAMES)) == []
def test_no_imports_go_in_circles(): assert house.circles(MODULES, NUMBERS, NAMES) == []


def test_no_two_lessons_share_a_number_and_each_stands_in_its_part():
    numbered = [(house.lesson_number(p), p.parent.name) for p in house.lessons(REPO / "nbs") if house.lesson_number(p)]
    assert len({n for n, _ in numbered}) == len(numbered) and all(part.startswith(f"{n // 10}_") for n, part in numbered)


def test_a_notebook_is_called_like_its_module():
    wrong = [(p.stem, m) for p in NOTEBOOKS if (m := house.default_exp(p))
             and re.sub(r"^\d+_", "", p.stem) not in (m.split(".")[-1], "_".join(m.split(".")[-2:]))]
    assert wrong == []


def shown_cells(path):
    "Sources of a notebook's cells, those that are exported left empty: the house rules over them, and a lesson's number over the rest."
    return [re.sub(r"[^\n]", "", c) if re.match(r"\s*#\s*\|\s*export", c) else c for c in house.code_cells(path)]


def test_lessons_use_only_lower_lessons():
    breaches = []
    for path in house.lessons(REPO / "nbs"):
        if path.name == MAP or house.lesson_number(path) is None: continue
        own = house.default_exp(path)
        breaches += each_cell(path, lambda cell, n=house.lesson_number(path): house.looks_up(cell, n, {k: v for k, v in NUMBERS.items() if k != own}, NAMES), shown_cells(path))
    assert {without_place(b) for b in breaches} == set(LOOKS_UP)


def test_judges_take_arrays(): assert every_module(lambda s, m: house.judges_models(s, m, NUMBERS, NAMES)) == []
def test_light_modules_import_no_torch(): assert every_module(house.needs_torch) == []
def test_no_star_imports(): assert not_meant(all_breaches(house.stars)) == []
def test_nothing_imports_reports_or_apps(): assert every_module(house.uses_reports) + every_notebook(house.uses_reports) == []
def test_nothing_unpickles_or_evaluates(): assert not_meant(all_breaches(house.unsafe)) == []
def test_nothing_makes_the_compiler_warn(): assert not_meant(all_breaches(house.warns)) == []
def test_no_global_random_state(): assert not_meant(all_breaches(house.global_random)) == []


def test_every_meant_breach_is_still_there():
    seen = {without_place(b) for rule in (house.unsafe, house.global_random) for b in all_breaches(rule)}
    assert set(MEANT) - seen == set()


# --- each rule can fail --------------------------------------------------------------------------------------------

DEMO = {"figures": None, "losses": 11, "data.tables": 21, "data.sets.notes": None, "judge.metrics": 31, "text.tokens": 41, "tasks.heads": 45, "train.trainer": 51,
        "finetuner": None, "text.classifier": 54}
PUBLIC = {"TextClassifier": "text.classifier", "WordPiece": "text.tokens", "accuracy": "judge.metrics"}


CLIMBING = [
    "from finetune_book.text.classifier import TextClassifier",
    "import finetune_book.text.classifier",
    "import finetune_book.text.classifier as t",
    "from finetune_book.text import classifier",
    "from finetune_book import TextClassifier",
    "def f():\n    from finetune_book.text.classifier import TextClassifier",
    "import importlib\nm = importlib.import_module('finetune_book.text.classifier')",
]


@pytest.mark.parametrize("bad", CLIMBING + ["from ..text.classifier import TextClassifier", "from finetune_book import finetuner", "from ..finetuner import FineTuner"])
def test_climbing_is_seen(bad): assert house.climbs(bad, "adapt.freeze", DEMO, PUBLIC)


@pytest.mark.parametrize("bad", CLIMBING)
def test_looking_up_is_seen(bad): assert house.looks_up(bad, 45, DEMO, PUBLIC) and house.looks_up(bad, 54, DEMO, PUBLIC) and house.looks_up(bad, 55, DEMO, PUBLIC) == []


GOOD = ["from finetune_book.checks import InputError", "from finetune_book import accuracy", "from finetune_book import __version__",
        "from finetune_book.figures import show", "import torch", "from finetune_book.data.sets import notes"]


@pytest.mark.parametrize("good", GOOD + ["from ..tasks.heads import head_of", "from ..data.tables import carried"])
def test_looking_down_is_allowed(good): assert house.climbs(good, "adapt.freeze", DEMO, PUBLIC) == []


@pytest.mark.parametrize("good", GOOD + ["from finetune_book.finetuner import FineTuner"])
def test_lower_lessons_and_the_kitchen_may_be_used(good): assert house.looks_up(good, 45, DEMO, PUBLIC) == []


def test_a_circle_is_seen():
    straight = {"a": "from finetune_book.b import x", "b": "from finetune_book import c", "c": "import os"}
    known = dict.fromkeys("abc", None)
    assert house.circles(straight, known) == [] and house.circles(straight | {"c": "from finetune_book.a import y"}, known) == [["a", "b", "c", "a"]]


@pytest.mark.parametrize("bad", [
    "import torch", "def f():\n    import torch.nn as nn", "from transformers import AutoModel",
    "from finetune_book.text.tokens import WordPiece", "from finetune_book import WordPiece", "from ..tasks.heads import load_text_base",
])
@pytest.mark.parametrize("judge", sorted(JUDGES))
def test_a_judge_that_knows_models_is_seen(judge, bad):
    assert house.judges_models(bad, judge, DEMO, PUBLIC)
    assert house.judges_models("from ..data.tables import InputError\nimport numpy", judge, DEMO, PUBLIC) == []


@pytest.mark.parametrize("module", sorted(FREE_OF_TORCH))
def test_torch_in_a_light_module_is_seen(module):
    for bad in ("import torch", "def f():\n    from torch import nn", "import transformers", "from torchvision import ops"):
        assert house.needs_torch(bad, module) and house.needs_torch(bad, "train.trainer") == []


def test_a_star_is_seen(): assert house.stars("from numpy import *") and house.stars("from numpy import array") == []


@pytest.mark.parametrize("bad", ["import nbs.apps.medical", "from nbs import reports", "from finetune_book.report_templates import finetune_text", "from .report_templates import x"])
def test_using_a_report_is_seen(bad): assert house.uses_reports(bad, "cli") and house.uses_reports("from .report import run", "cli") == []


@pytest.mark.parametrize("bad", [
    "import pickle\npickle.loads(b)", "import pickle as p\nload = p.load", "from pickle import loads", "from pickle import *", "import _pickle",
    "from cloudpickle import dumps", "def f():\n    import dill", "import importlib\nimportlib.import_module('dill')",
    "eval('1')", "exec(code)", "import builtins\nbuiltins.eval('1')",
    "import torch\ntorch.load(p)", "import torch\ntorch.load(p, weights_only=False)", "import torch as t\nt.load(p, map_location='cpu')",
    "from torch import load\nload(p)", "from torch import load as read\nread(p)", "import torch\ntorch.load(p, weights_only=flag)",
    "import numpy as np\nnp.load(p, allow_pickle=True)", "import pandas as pd\npd.read_pickle(p)", "import joblib\njoblib.load(p)",
    "M.from_pretrained(b, trust_remote_code=True)",
])
def test_the_unsafe_is_seen(bad): assert house.unsafe(bad)


@pytest.mark.parametrize("good", [
    "model.eval()", "import torch\ntorch.load(p, weights_only=True)", "import numpy as np\nnp.load(p)", "M.from_pretrained(b, trust_remote_code=False)",
    "df.eval('a + b')", "import pickle\ntry: f()\nexcept pickle.UnpicklingError: pass", "from pickle import UnpicklingError", "re.compile('x')",
])
def test_the_safe_is_left_alone(good): assert house.unsafe(good) == []


@pytest.mark.parametrize("bad", [
    "import numpy as np\nnp.random.seed(0)", "import numpy as np\nx = np.random.rand(3)", "from numpy.random import shuffle\nshuffle(x)",
    "from numpy import random as r\nr.normal()", "import random\nrandom.seed(0)", "import random as rnd\nrnd.shuffle(x)", "from random import choice\nchoice(x)",
    "import torch\ntorch.manual_seed(0)", "import torch\ntorch.cuda.manual_seed_all(0)", "from torch import manual_seed\nmanual_seed(1)",
    "import torch\nwith torch.no_grad():\n    torch.manual_seed(0)", "import torch\nwith torch.random.fork_rng():\n    pass\ntorch.manual_seed(0)",
    "from transformers import set_seed\nset_seed(0)",
])
def test_global_random_state_is_seen(bad): assert house.global_random(bad)


@pytest.mark.parametrize("good", [
    "import numpy as np\nrng = np.random.default_rng(0)\nrng.shuffle(x)", "import random\nr = random.Random(0)\nr.shuffle(x)",
    "import torch\nwith torch.random.fork_rng():\n    torch.manual_seed(0)\n    if x:\n        torch.manual_seed(1)",
    "import torch\nwith torch.random.fork_rng(devices=[]), torch.no_grad():\n    torch.manual_seed(0)",
    "import torch\ng = torch.Generator().manual_seed(0)", "def f(random): random.shuffle(x)",
])
def test_explicit_randomness_is_left_alone(good): assert house.global_random(good) == []


def test_a_compiler_warning_is_seen(): assert house.warns("x = '\\h'") and house.warns("x = r'\\h'") == []


def test_ipython_lines_do_not_hide_a_cell(tmp_path):
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": ["%matplotlib inline\n", "!ls\n", "from os import *"]}
    path = tmp_path / "01_x.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    assert each_cell(path, house.stars) == ["01_x.ipynb: code cell 0, line 3: star import from os"]


def test_what_one_cell_imports_another_is_judged_by(tmp_path):
    cells = [{"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": s}
             for s in ("import numpy as np\nimport torch as t", "x = 1", "x = 2\nnp.random.seed(0)\nt.manual_seed(0)")]
    path = tmp_path / "01_x.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    assert each_cell(path, house.global_random) == ["01_x.ipynb: code cell 2, line 2: numpy.random.seed uses global random state",
                                                    "01_x.ipynb: code cell 2, line 3: torch.manual_seed outside torch.random.fork_rng"]


# --- importing, in fresh interpreters ------------------------------------------------------------------------------

def fresh(code, *args):
    "Run code in a fresh interpreter in the repository; its standard output."
    env = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=REPO, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{args or code}\n{done.stderr[-2000:]}"
    return done.stdout


# Importing torch takes seconds, forking a process that has it none; of the library no process has anything before its one module.
ALONE = """
import gc, importlib, json, os, sys, traceback
libraries, *modules = sys.argv[1:]
for name in libraries.split(): importlib.import_module(name)
gc.freeze()  # what they share is not looked through again in each of them, and so not copied
assert not {m for m in sys.modules if m.startswith("finetune_book")}
for module in modules:
    if os.fork() == 0:
        code = 1
        try:
            importlib.import_module("finetune_book." + module)
            print(json.dumps([module, sorted({"torch", "transformers"} & set(sys.modules))]), flush=True)
            code = 0
        except BaseException: traceback.print_exc()
        finally: os._exit(code)
    if os.wait()[1]: sys.exit(f"finetune_book.{module} cannot be imported alone")
"""


def imported_alone(modules, libraries):
    "What of torch and transformers is there once a module was imported, by module, each in a process that has only `libraries`."
    return dict(json.loads(line) for line in fresh(ALONE, libraries, *modules).splitlines())


def test_every_module_imports_alone():
    light, rest = sorted(FREE_OF_TORCH & set(MODULES)), sorted(set(MODULES) - FREE_OF_TORCH)
    assert imported_alone(light, "numpy pandas") == {m: [] for m in light}
    assert set(imported_alone(rest, "numpy pandas torch sklearn.base")) == set(rest)


def test_a_module_that_cannot_be_imported_is_seen():
    with pytest.raises(AssertionError, match="No module named"): fresh("import finetune_book.no_such_module")
    with pytest.raises(AssertionError, match="No module named"): imported_alone(["figures", "no_such_module", "losses"], "numpy pandas")
    assert imported_alone(["train.trainer"], "numpy pandas") == {"train.trainer": ["torch"]}


def test_importing_the_package_is_light():
    clock = "import sys, time; t = time.perf_counter(); import finetune_book; print([time.perf_counter() - t, sorted({'torch', 'transformers'} & set(sys.modules))])"
    runs = [ast.literal_eval(fresh(clock)) for _ in range(3)]
    assert [heavy for _, heavy in runs] == [[], [], []]
    assert min(seconds for seconds, _ in runs) < .5
