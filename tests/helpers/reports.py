"""Notebooks for the tests of the reports: the fixtures by name, and templates written on the spot."""
import hashlib
from pathlib import Path

import nbformat
from nbformat import v4

FIXTURES = Path(__file__).parents[1] / "fixtures" / "reports"
TINY, FAULTY, RESUMED, SWEPT = (FIXTURES / f"{name}.ipynb" for name in ("tiny", "faulty", "resumed", "swept"))
HOSTILE_TEXTS = ["a=b", "'", '"', '\\', "\\n", "two\nlines", "tab\there", "{x}", "$HOME `ls`", "中文 🙂 \u202e", "true", "1e-5", "null", "[1,2]", " ",
                 "\x1b[31m"]
START = "from finetune_book.report.params import require\nfrom finetune_book.report.record import record\n"


def notebook(*sources, tags=("parameters",)):
    "A notebook of code cells, the first ones tagged."
    cells = [v4.new_code_cell(s, metadata={"tags": [tags[i]]} if i < len(tags) and tags[i] else {}) for i, s in enumerate(sources)]
    return v4.new_notebook(cells=cells)


def write_template(path, *cells):
    "A template with a title, its first cell the parameters; its path."
    nb = v4.new_notebook(cells=[v4.new_markdown_cell("# A title\n> One line."), *(v4.new_code_cell(c) for c in cells)])
    nb.cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(nb, path)
    return path


def state(folder):
    "name → sha256 of the files in a folder that are not hidden."
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}
