"""What a lesson must look like, as functions from a notebook to the list of what it lacks. `test_form.py` applies and breaks them."""
import ast
import json
import re

import house

CELL_LINES, FUNCTION_LINES, OUTPUT_BYTES, IDEA_WORDS = 45, 70, 400_000, 25
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


def asked(number=r"\d\d"):
    "Pattern of the line above an exercise's question: `### Exercise 11.2: title`. What it finds is the number."
    return re.compile(rf"^### Exercise ({number}\.\d+): \S", re.MULTILINE)


def text(part): return "".join(part)
def code(nb): return [c for c in nb["cells"] if c["cell_type"] == "code"]
def prose(nb): return "\n\n".join(text(c["source"]) for c in nb["cells"] if c["cell_type"] == "markdown")
def everything(nb): return "\n\n".join(text(c["source"]) for c in nb["cells"])
def outputs(nb): return [(i, o) for i, c in enumerate(code(nb)) for o in c["outputs"]]
def parsed(cell): return house.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in text(cell["source"]).splitlines()))


def long_cells(nb):
    return [f"code cell {i} has {n} lines, {CELL_LINES} are allowed" for i, c in enumerate(code(nb))
            if (n := len(text(c["source"]).splitlines())) > CELL_LINES]


def long_functions(nb):
    defs = [n for c in code(nb) for n in ast.walk(parsed(c)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [f"{d.name} has {n} lines, {FUNCTION_LINES} are allowed" for d in defs if (n := d.end_lineno - d.lineno + 1) > FUNCTION_LINES]


def heavy_outputs(nb):
    size = sum(len(json.dumps(o, ensure_ascii=False).encode()) for _, o in outputs(nb))
    return [f"stored outputs weigh {size // 1000} kB, {OUTPUT_BYTES // 1000} are allowed"] if size > OUTPUT_BYTES else []


def stored_errors(nb):
    errors = [f"code cell {i} stored an error: {o['ename']}" for i, o in outputs(nb) if o["output_type"] == "error"]
    return errors + [f"code cell {i} wrote to stderr: {text(o['text'])[:60]!r}" for i, o in outputs(nb) if o.get("name") == "stderr"]


def silent_pictures(nb):
    "Stored images without alternative text."
    return [f"code cell {i} shows a picture without alt text" for i, o in outputs(nb) for kind in PICTURES
            if kind in o.get("data", {}) and not o["metadata"].get(kind, {}).get("alt", "").strip()]


def private_paths(nb):
    "Stored outputs that name a folder of the machine they were made on."
    seen = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/\w+")
    return [f"code cell {i} stored the path {found[0]}" for i, o in outputs(nb)
            if (found := seen.search(json.dumps({k: v for k, v in o.items() if k != "metadata"}, ensure_ascii=False)))]


def never_run(nb):
    return [] if outputs(nb) else ["no stored output: run it before storing it"]


def missing_parts(nb, number):
    "The parts every lesson has: head, what it needs, gives and costs, the Chinese summary, what was learned, exercises, sources."
    words, lacks = prose(nb), []
    def need(what, pattern):
        if not re.search(pattern, words, re.MULTILINE): lacks.append(f"no {what}")
    need("title in the first line", r"\A# \S")
    need("subtitle (> …)", r"^> \S")
    need("**Needs** … · **gives** … · **costs** N s", r"^\*\*Needs\*\* \S.* · \*\*gives\*\* \S.* · \*\*costs\*\* \D{0,12}\d[\d.]* s")
    need("**摘要** in Chinese", r"^\*\*摘要\*\*.*[\u4e00-\u9fff]{10}")
    need("**Learned:** sentence", r"^\*\*Learned:\*\* \S")
    need("## Exercises", r"^## Exercises")
    need("## Sources", r"^## Sources")
    found = set(asked(f"{number:02d}").findall(words))
    if len(found) < 4: lacks.append(f"{len(found)} exercises numbered {number:02d}.n, four are asked for")
    return lacks


HEAD_PARTS = re.compile(r"^(#+ |> |\*\*Needs\*\*|\*\*摘要\*\*).*$", re.MULTILINE)


def imports_before_the_idea(nb, number):
    "Before the first code cell stand the head and an idea in plain words: nobody's first screen of a lesson is imports."
    first = next((i for i, c in enumerate(nb["cells"]) if c["cell_type"] == "code"), len(nb["cells"]))
    opening = prose({"cells": nb["cells"][:first]})
    words = len(HEAD_PARTS.sub("", opening).split())
    return [f"{words} words of an idea before the first code cell, {IDEA_WORDS} are asked for"] if words < IDEA_WORDS else []


def stub_after_each_exercise(nb, number):
    "Under every exercise's question stands a code cell to write the answer in."
    cells, question = nb["cells"], asked(f"{number:02d}")
    lacks = []
    for here, cell in enumerate(cells):
        if cell["cell_type"] != "markdown" or not (here_asked := question.findall(text(cell["source"]))): continue
        follows = [c["cell_type"] for c in cells[here + 1:here + 2]]
        if follows != ["code"] or len(here_asked) > 1: lacks.append(f"no code cell of its own under {here_asked[0]}")
    return lacks


ITEM = re.compile(r"(\d\d)(?: \((\w+)\)|, ([a-z]\w+)$)?")
REFERENCE = re.compile(r"\b[Ll]essons? (\d\d(?:, [a-z]\w+(?=[),:;]))?(?: \(\w+\))?(?:(?:, and |, | and | or | to |–)\d\d(?: \(\w+\))?)*)")


def wrong_references(words, names, own=100):
    """References to lessons that lead nowhere: no number that is a lesson's, another name than its own, none at all, or a lesson above the lesson `own`.

    `names` maps the number of each lesson to its name. Written as `lesson 31 (metrics)`, in parentheses also as `(lesson 31, metrics)`.
    """
    found = []
    for mention in REFERENCE.finditer(words):
        for number, *said in ITEM.findall(mention[1]):
            name, known = "".join(said), names.get(int(number))
            if known is None: found.append(f"{mention[0]!r}: there is no lesson {number}")
            elif name != known: found.append(f"{mention[0]!r}: lesson {number} is called {known}")
            elif int(number) > own: found.append(f"{mention[0]!r}: lesson {number} is above {own}")
    return found


# --- comparisons ----------------------------------------------------------------------------------------------------

VERDICT = re.compile(r"\bclearly (?:higher|lower|better|worse|different)\b|no clear difference")
NAMED = re.compile(r"\[[+-]?\.?\d[^]]*, [+-]?\.?\d[^]]*\]|\bover [\d,]+ \w+|\bn = [\d,]+\b")      # an interval, or how many rows or seeds
COUNT = re.compile(r"(?<!these )(?<!those )(?<!'s )\b(?:three|four|five|six|seven|eight|nine|ten|\w+teen|twenty|\d+)(?: \w+)? "
                   r"(?:methods|functions|callbacks|modules|exercises)\b", re.IGNORECASE)


def exported(cell): return bool(re.match(r"\s*#\s*\|\s*export", text(cell["source"])))


def chosen_texts(tree):
    "The texts that code puts together or chooses between: parts of f-strings and branches of conditional expressions."
    for node in ast.walk(tree):
        branches = [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node] if isinstance(node, ast.JoinedStr) else []
        yield from (n.value for b in branches for n in ast.walk(b) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def own_verdicts(nb):
    "Verdicts that a lesson writes itself instead of leaving them to `compare`, `paired_difference` and their like in `judge`."
    typed = [f"prose says {found[0]!r}" for found in re.finditer(r"\bis clearly (?:higher|lower|better|worse)\b", prose(nb))]
    return typed + [f"code cell {i} writes a verdict: {said.strip()!r}" for i, c in enumerate(code(nb)) if not exported(c)
                    for said in chosen_texts(parsed(c)) if VERDICT.search(said)]


def bare_verdicts(nb):
    "Printed verdicts with neither an interval nor the number of rows or seeds."
    printed = [(i, line) for i, o in outputs(nb) for line in text(o.get("text", o.get("data", {}).get("text/plain", ""))).splitlines()]
    return [f"code cell {i} printed a verdict over nothing: {line.strip()[:60]!r}" for i, line in printed
            if VERDICT.search(line) and not NAMED.search(line)]


def typed_counts(nb):
    "How many functions or methods there are, typed in the prose: the code goes on, and the number stays."
    return [f"prose counts {found[0]!r}" for found in COUNT.finditer(prose(nb))]


COMPARISONS = [own_verdicts, bare_verdicts, typed_counts]
ANY_NOTEBOOK = [long_cells, long_functions, heavy_outputs, stored_errors, silent_pictures, private_paths]
EVERY_LESSON = [missing_parts, imports_before_the_idea, stub_after_each_exercise]
