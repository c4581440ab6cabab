"""Is the library what the notebooks say? Exports a copy into an empty library and compares; touches nothing.

    python tests/house/sync_gate.py [ROOT]      prints what disagrees, one line each; exit code 1 if anything does
"""
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

BIN = Path(sys.executable).parent
REPAIR = "make export"


def notebooks(root):
    "Every notebook of the book, those of Jupyter's checkpoints left out."
    return sorted(p for p in (root / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def read_problems(path, name):
    "What is wrong with one notebook as a file; [] when it is sound."
    try: nb = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e: return [f"{name}: not JSON: {e}"]
    try: nbformat.validate(nb)
    except nbformat.ValidationError as e: return [f"{name}: not a notebook: {str(e).splitlines()[0]}"]
    found = []
    language = nb["metadata"].get("kernelspec", {}).get("language")
    if language != "python":  # nbdev_test would skip it without a word
        found.append(f"{name}: kernelspec language is {language!r}, nbdev tests only 'python'")
    tagged = sum("parameters" in c["metadata"].get("tags", []) for c in nb["cells"] if c["cell_type"] == "code")
    if path.parent.name == "reports" and tagged != 1:
        found.append(f"{name}: {tagged} cells tagged `parameters`, a report needs exactly one")
    return found


def run(tool, where):
    "Run one nbdev command in the copy; its error text, or '' when it went well."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # set by nbdev_test, it turns the export off
    done = subprocess.run([BIN / tool], cwd=where, env=env, capture_output=True, text=True)
    if done.returncode == 0: return ""
    return f"{tool} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"


def modules(lib):
    return {p.relative_to(lib).as_posix(): p.read_text(encoding="utf-8") for p in lib.rglob("*.py") if "__pycache__" not in p.parts}


def first_difference(old, new):
    for line in list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0))[3:]: return line
    return "only the end of the file differs"


def export_problems(root, copy):
    "Differences between the tree's modules and a fresh export of its notebooks."
    failed = run("nbdev_export", copy)
    if failed: return [failed]
    tree, fresh = modules(root / "finetune_book"), modules(copy / "finetune_book")
    found = [f"finetune_book/{m}: no notebook exports it: remove it, or write its lesson" for m in tree.keys() - fresh.keys()]
    found += [f"finetune_book/{m}: exported by a notebook, missing in the tree: {REPAIR}" for m in fresh.keys() - tree.keys()]
    found += [f"finetune_book/{m}: differs from its notebook ({first_difference(tree[m], fresh[m])}): edit the notebook, then {REPAIR}"
              for m in tree.keys() & fresh.keys() if tree[m] != fresh[m]]
    return sorted(found)


def clean_problems(root, copy):
    "Notebooks that nbdev_clean would change: run counts, stray metadata, another layout."
    failed = run("nbdev_clean", copy)
    if failed: return [failed]
    return [f"{p.relative_to(root)}: not clean (run counts or stray metadata): {REPAIR}" for p in notebooks(root)
            if p.read_bytes() != (copy / p.relative_to(root)).read_bytes()]


def name_problems(root):
    "Names an exported module uses and does not have, as when an import was left unexported."
    cmd = [sys.executable, "-m", "ruff", "check", "--isolated", "--quiet", "--select", "F821", "--output-format", "concise", "finetune_book"]
    done = subprocess.run(cmd, cwd=root, capture_output=True, text=True)
    if done.returncode == 0: return []
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["ruff failed without a word"]


def copy_of(root, where):
    "Settings, notebooks, and a library that holds nothing but its hand-written first file."
    for path in notebooks(root):
        target = where / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    shutil.copyfile(root / "settings.ini", where / "settings.ini")
    (where / "finetune_book").mkdir()
    shutil.copyfile(root / "finetune_book/__init__.py", where / "finetune_book/__init__.py")
    return where


def version_problems(root):
    setting = re.search(r"^version\s*=\s*(\S+)", (root / "settings.ini").read_text(), re.MULTILINE)[1]
    if f'__version__ = "{setting}"' in (root / "finetune_book/__init__.py").read_text(): return []
    return [f"finetune_book/__init__.py: __version__ is not settings.ini's {setting}"]


def problems(root):
    "Everything that disagrees in the tree `root`, one line each; [] when library and notebooks are one."
    root = Path(root).resolve()
    found = [line for p in notebooks(root) for line in read_problems(p, p.relative_to(root))]
    if not notebooks(root): found.append("nbs/ holds no notebook")
    if found: return found  # a broken notebook is neither exported nor cleaned
    with tempfile.TemporaryDirectory(prefix="finetune_book_sync_") as tmp:
        copy = copy_of(root, Path(tmp))
        found = export_problems(root, copy) + clean_problems(root, copy)
    return found + version_problems(root) + name_problems(root)


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2]
    found = problems(root)
    for line in found: print("sync:", line)
    if found: sys.exit(1)
    print(f"sync: {len(notebooks(root))} notebooks and {len(modules(root / 'finetune_book'))} modules agree")
