"""Render the lessons with Quarto, from a copy in _proc: Quarto reads `#|` lines as YAML, and nbdev's are none."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
COPY, SITE = ROOT / "_proc", ROOT / "_book"
NBDEV = re.compile(r"^#\s*\|\s*(default_exp|export\w*|hide\w*|eval:.*)\b.*\n?", re.MULTILINE)


def without_directives(path):
    "The notebook with nbdev's directive lines taken out, and the cells that held nothing else."
    nb = nbformat.read(path, 4)
    for cell in nb.cells:
        if cell.cell_type == "code": cell.source = NBDEV.sub("", cell.source)
    nb.cells = [c for c in nb.cells if c.source.strip()]
    return nb


def main():
    shutil.rmtree(COPY, ignore_errors=True)
    for path in sorted((ROOT / "nbs").rglob("[!_]*.ipynb")):
        if {".ipynb_checkpoints", "reports"} & set(path.parts): continue
        target = COPY / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(without_directives(path), target)
    shutil.copyfile(ROOT / "_quarto.yml", COPY / "_quarto.yml")
    if subprocess.run(["quarto", "render"], cwd=COPY).returncode: return 1
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(COPY / "_book", SITE)
    (SITE / "index.html").write_text('<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=nbs/00_map.html">\n')
    print(SITE / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
