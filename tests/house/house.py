"""The rules of the house, each a function from source text to the list of its breaches. `test_layers.py` applies and breaks them."""
import ast
import json
import re
import subprocess
import sys
import warnings
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

PACKAGE = "finetune_book"
WIDTH = 120        # characters in a line of code
MOST_NAMES = 12    # public names in a module
MOST_DEEP = 3      # classes of the book above each other
# What may import what: each only what stands in a line above it. Modules of one line may import each other, as long as no circle closes.
ORDER = """
checks
figures losses optim typed_json places processes invariants
data
judge
train
rows
tasks
adapt saving cards
finetuner
search
text vision
explain compress serve many
find
report
commands
cli
exercises
""".split("\n")[1:-1]
FREE_OF_TORCH = {"checks", "figures", "losses", "data.tables", "data.splits", "data.label_cells", "judge.metrics", "judge.calibration", "judge.bootstrap", "judge.label_sets"}
JUDGES = {"judge.metrics", "judge.calibration", "judge.bootstrap", "judge.label_sets"}  # they take arrays, never models
JUDGES_MAY_IMPORT = {"checks", "figures", "data.tables"} | JUDGES
PICKLE_ERRORS = {"pickle.UnpicklingError", "pickle.PicklingError", "pickle.PickleError"}  # to catch one is no danger
PICKLES = {"cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "jsonpickle"}
NUMPY_WITHOUT_STATE = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64", "PCG64DXSM", "Philox", "SFC64", "MT19937", "RandomState"}
SEEDS_TORCH = {"torch.manual_seed", "torch.seed", "torch.default_generator.manual_seed", "torch.mps.manual_seed", "torch.random.manual_seed", "torch.random.seed", "torch.cuda.manual_seed",
               "torch.cuda.manual_seed_all", "transformers.set_seed", "transformers.trainer_utils.set_seed", "accelerate.utils.set_seed"}


# --- what there is -------------------------------------------------------------------------------------------------

def code_cells(path):
    "Sources of the code cells of a notebook, lines of IPython's own (%, !) left out."
    nb = json.loads(Path(path).read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in nb["cells"] if c["cell_type"] == "code"]
    return ["\n".join("" if re.match(r"\s*[%!]", line) else line for line in c.splitlines()) for c in cells]


def default_exp(path):
    "The module a notebook exports to, or None."
    for cell in code_cells(path):
        found = re.search(r"^#\s*\|\s*default_exp\s+(\S+)", cell, re.MULTILINE)
        if found: return found[1].removesuffix(".__init__")
    return None


def lesson_number(path):
    found = re.match(r"(\d+)_", Path(path).name)
    return int(found[1]) if found else None


def notebooks(nbs): return sorted(p for p in Path(nbs).rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def lessons(nbs):
    "The notebooks that people learn from: those with a number, and the applications. The others are templates and the kitchen."
    return [p for p in notebooks(nbs) if lesson_number(p) is not None or p.parent.name == "apps"]


def lesson_numbers(nbs):
    "module → number of the lesson that exports it, None for a module of the kitchen."
    return {default_exp(p): lesson_number(p) for p in notebooks(nbs) if default_exp(p)}


def module_name(path, lib): return path.relative_to(lib).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


def library(lib):
    "module → source, of every module that a notebook exports (the packages' own __init__ and nbdev's index left out)."
    found = {p for p in Path(lib).rglob("*.py") if p.name != "_modidx.py" and "__pycache__" not in p.parts}
    found -= {p for p in found if p.name == "__init__.py" and (p.parent == Path(lib) or not p.read_text(encoding="utf-8").strip())}
    return {module_name(p, lib): p.read_text(encoding="utf-8") for p in sorted(found)}


def defined_in(modules):
    "public name → module that defines it at top level, to know where `from finetune_book import X` leads."
    found = {}
    for module, source in modules.items():
        for node in parse(source).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"): found[node.name] = module
    return found


# Each rule asks for the same trees again: they are made once, and nothing changes them.

@cache
def parse(source):
    "The syntax tree; what the compiler warns of is the business of `warns`."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


@cache
def nodes(tree): return list(ast.walk(tree))


# --- reading imports -----------------------------------------------------------------------------------------------

def _call_name(node, alias):
    "Full dotted name of what a call or attribute refers to, aliases resolved; '' when it is no plain name."
    parts = []
    while isinstance(node, ast.Attribute): parts.append(node.attr); node = node.value
    if not isinstance(node, ast.Name): return ""
    return ".".join([alias.get(node.id, node.id), *reversed(parts)])


def _absolute(node, module):
    "Absolute module of a `from … import`, seen from `module` of the package ('' for a notebook)."
    if not node.level: return node.module or ""
    here = f"{PACKAGE}.{module}".split(".")[:-node.level]
    return ".".join(here + ([node.module] if node.module else []))


@cache
def aliases(tree, module=""):
    "local name → full dotted name, over all imports of the source, wherever they stand."
    found = {}
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            for a in node.names: found[a.asname or a.name.split(".")[0]] = a.name if a.asname else a.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            for a in node.names: found[a.asname or a.name] = f"{_absolute(node, module)}.{a.name}"
    return found


@cache
def imported(source, module=""):
    "Every dotted name the source imports, `import_module('literal')` included, as (name, line)."
    tree, found = parse(source), []
    alias = aliases(tree, module)
    for node in nodes(tree):
        if isinstance(node, ast.Import): found += [(a.name, node.lineno) for a in node.names]
        elif isinstance(node, ast.ImportFrom): found += [(f"{_absolute(node, module)}.{a.name}", node.lineno) for a in node.names]
        elif isinstance(node, ast.Call) and _call_name(node.func, alias) in ("importlib.import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant): found.append((str(node.args[0].value), node.lineno))
    return found


def own_modules(source, module, numbers, names):
    "Modules of the book that the source imports, as (module, line)."
    found = []
    for name, line in imported(source, module):
        if name != PACKAGE and not name.startswith(PACKAGE + "."): continue
        rest = name[len(PACKAGE) + 1:].split(".")
        inside = next((".".join(rest[:k]) for k in (3, 2, 1) if ".".join(rest[:k]) in numbers), None)
        inside = inside or names.get(rest[0])
        if inside: found.append((inside, line))
    return found


# --- the rules -----------------------------------------------------------------------------------------------------

def floor_of(module):
    "On which line of ORDER a module stands."
    return next(i for i, line in enumerate(ORDER) if module.split(".")[0] in line.split())


def climbs(source, module, numbers, names=None):
    "A module imports only what stands below it in ORDER."
    return [f"line {line}: {module} imports {m}, which does not stand below it"
            for m, line in own_modules(source, module, numbers, names or {}) if m != module and floor_of(m) > floor_of(module)]


def circles(modules, numbers, names=None):
    "Modules that import each other, directly or by a detour, each circle as a list; [] when there is none."
    needs = {m: {n for n, _ in own_modules(source, m, numbers, names or {}) if n != m} for m, source in modules.items()}
    found, open_, done = [], [], set()
    def visit(m):
        if m in open_: return found.append([*open_[open_.index(m):], m])
        if m in done: return
        open_.append(m)
        for n in sorted(needs.get(m, ())): visit(n)
        open_.pop(); done.add(m)
    for m in sorted(needs): visit(m)
    return found


def looks_up(source, number, numbers, names=None):
    "A lesson imports only what lower lessons have made, and the kitchen."
    return [f"line {line}: imports {m} of lesson {numbers[m]}, not lower than {number}"
            for m, line in own_modules(source, "", numbers, names or {}) if (numbers[m] or 0) >= number]


def judges_models(source, module, numbers, names=None):
    "metrics, calibration and bootstrap take arrays: no model, no torch."
    if module not in JUDGES: return []
    own = [f"line {line}: {module} imports {m}" for m, line in own_modules(source, module, numbers, names or {}) if m not in JUDGES_MAY_IMPORT]
    return own + needs_torch(source, module)


def needs_torch(source, module):
    "The arrays-and-tables modules import neither torch nor transformers, at no level of nesting."
    if module not in FREE_OF_TORCH: return []
    return [f"line {line}: {module} imports {name}" for name, line in imported(source, module)
            if name.split(".")[0] in {"torch", "torchvision", "transformers", "peft", "accelerate"}]


def stars(source):
    "No star imports."
    return [f"line {n.lineno}: star import from {n.module}" for n in nodes(parse(source))
            if isinstance(n, ast.ImportFrom) and any(a.name == "*" for a in n.names)]


def uses_reports(source, module=""):
    "Reports and apps import anything; nothing imports them."
    tops = {"nbs", "apps", "reports", f"{PACKAGE}.report_templates", f"{PACKAGE}.apps", f"{PACKAGE}.reports"}
    return [f"line {line}: imports {name}" for name, line in imported(source, module)
            if any(name == t or name.startswith(t + ".") for t in tops)]


def unsafe(source):
    "No pickle, no eval or exec, no torch.load or np.load that would unpickle, no remote code."
    tree, found = parse(source), []
    alias = aliases(tree)
    found += [f"line {line}: imports {name}" for name, line in imported(source) if name.split(".")[0] in PICKLES]
    # pickle itself may be imported, for its errors; anything else of it may not be touched
    found += [f"line {line}: imports {name}" for name, line in imported(source) if name.startswith("pickle.") and name not in PICKLE_ERRORS]
    found += [f"line {n.lineno}: uses {_call_name(n, alias)}" for n in nodes(tree) if isinstance(n, ast.Attribute)
              and _call_name(n, alias).startswith("pickle.") and _call_name(n, alias) not in PICKLE_ERRORS]
    for node in nodes(tree):
        if not isinstance(node, ast.Call): continue
        name, given = _call_name(node.func, alias), {k.arg: getattr(k.value, "value", k.value) for k in node.keywords}
        if name in ("eval", "exec", "builtins.eval", "builtins.exec"): found.append(f"line {node.lineno}: calls {name}")
        if name in ("torch.load", "torch.serialization.load") and given.get("weights_only") is not True:
            found.append(f"line {node.lineno}: torch.load without weights_only=True")
        if name in ("numpy.load", "numpy.lib.format.read_array") and given.get("allow_pickle", False) is not False:
            found.append(f"line {node.lineno}: {name} with allow_pickle")
        if name in ("pandas.read_pickle", "joblib.load") or name.endswith(".to_pickle"): found.append(f"line {node.lineno}: {name} unpickles")
        if given.get("trust_remote_code", False) is not False: found.append(f"line {node.lineno}: trust_remote_code")
    return found


def global_random(source):
    "No global random state: a seed or a Generator is an argument; torch is seeded inside fork_rng only."
    tree = parse(source)
    alias, found = aliases(tree), []
    has_random = any(full.split(".")[0] == "random" for full in alias.values())
    def visit(node, forked):
        if isinstance(node, (ast.With, ast.AsyncWith)):
            forked = forked or any(_call_name(getattr(i.context_expr, "func", i.context_expr), alias) == "torch.random.fork_rng" for i in node.items)
        if isinstance(node, ast.Call):
            name = _call_name(node.func, alias)
            kind, _, what = name.rpartition(".")
            numpy = kind == "numpy.random" and what not in NUMPY_WITHOUT_STATE
            python = kind == "random" and has_random and what not in ("Random", "SystemRandom")
            if numpy or python: found.append(f"line {node.lineno}: {name} uses global random state")
            if name in SEEDS_TORCH and not forked: found.append(f"line {node.lineno}: {name} outside torch.random.fork_rng")
        for child in ast.iter_child_nodes(node): visit(child, forked)
    visit(tree, False)
    return found


def warns(source):
    "Nothing the compiler warns of, such as an unknown escape in a string that newer Pythons refuse."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ast.parse(source)
    return [f"line {w.lineno}: {w.message}" for w in caught]


# --- width, names, docstrings, inheritance -------------------------------------------------------------------------

def own_lines(source):
    "Numbers of the lines that people wrote: all but nbdev's list of public names."
    lists = [n for n in parse(source).body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"]
    generated = {i for n in lists for i in range(n.lineno, n.end_lineno + 1)}
    return set(range(1, source.count("\n") + 2)) - generated


def wide(*paths):
    "Lines over WIDTH characters by path, in modules and in the code cells of notebooks; ruff counts, and a Chinese character as two."
    ruff = [Path(sys.executable).with_name("ruff"), "check", "--isolated", "--no-cache", "--select", "E501"]
    done = subprocess.run([*ruff, "--line-length", str(WIDTH), "--output-format", "json", *paths], capture_output=True, text=True)
    assert done.returncode < 2, done.stderr
    found = {Path(p): [] for p in paths}
    for breach in json.loads(done.stdout):
        path, row = Path(breach["filename"]), breach["location"]["row"]
        if path.suffix == ".py" and row not in own_lines(path.read_text(encoding="utf-8")): continue
        place = f"cell {breach['cell']}, line {row}" if breach.get("cell") else f"line {row}"
        found[path].append(f"{place}: {breach['message']}")
    return found


def public_names(source):
    "What `from module import *` would bring: the names in `__all__`."
    lists = [n.value for n in parse(source).body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"]
    return [e.value for value in lists for e in value.elts]


def crowded(source, module):
    "A module has at most MOST_NAMES public names."
    n = len(public_names(source))
    return [f"{module} has {n} public names, {MOST_NAMES} are allowed"] if n > MOST_NAMES else []


def two_homes(modules):
    "A public name belongs to one module; another may pass it on that imports it from there."
    homes = defaultdict(list)
    for module, source in modules.items():
        passed_on = {name for name, full in aliases(parse(source), module).items() if full.startswith(f"{PACKAGE}.")}
        for name in public_names(source):
            if name not in passed_on: homes[name].append(module)
    return [f"{name} is public in {' and in '.join(where)}" for name, where in sorted(homes.items()) if len(where) > 1]


def undescribed(source, module):
    "A module's first line says what it holds."
    return [] if (ast.get_docstring(parse(source)) or "").strip() else [f"{module} has no docstring"]


def families(modules):
    "(module, class) → its base classes among the book's own, as such pairs."
    own = {(m, n.name): n for m, source in modules.items() for n in nodes(parse(source)) if isinstance(n, ast.ClassDef)}
    def bases(module, node):
        alias = aliases(parse(modules[module]), module)
        for base in node.bases:
            full = _call_name(base, alias).removeprefix(f"{PACKAGE}.").rpartition(".")
            yield (full[0] or module, full[2])
    return {(module, name): [b for b in bases(module, node) if b in own] for (module, name), node in own.items()}


def too_deep(modules):
    "At most MOST_DEEP of the book's classes stand above each other."
    above = families(modules)
    def depth(c): return 1 + max(map(depth, above[c]), default=0)
    return [f"{m}: {name} is {depth((m, name))} deep, {MOST_DEEP} are allowed" for m, name in above if depth((m, name)) > MOST_DEEP]


def only_cuts(modules):
    "A class that is never made and has one subclass is a part of that one: it only cuts a file in pieces."
    above = families(modules)
    heirs = Counter(b for bases in above.values() for b in bases)
    calls = [n.func for source in modules.values() for n in nodes(parse(source)) if isinstance(n, ast.Call)]
    made = {getattr(f, "id", getattr(f, "attr", "")) for f in calls}
    return [f"{m}: {name} has one subclass and is never made" for m, name in above if heirs[m, name] == 1 and name not in made]


def unexcused(breaches, excuses):
    "Breaches without an excuse, and excuses for breaches that are no longer there."
    return [b for b in breaches if b not in excuses] + [f"no longer there: {e}" for e in excuses if e not in breaches]
