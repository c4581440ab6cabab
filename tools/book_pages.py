"""A page of the site out of a notebook: no directives, imports folded, words of figures, links to lessons and names."""
import ast
import json
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

DIRECTIVE = re.compile(r"^[ \t]*#\s*\|.*\n?", re.MULTILINE)
HIDDEN = re.compile(r"^[ \t]*#\s*\|\s*hide\b", re.MULTILINE)
# `lesson 31 (metrics)`, `lessons 21 (tables), 22 (splits) and 31 (metrics)`, `(lesson 31, metrics)`
LESSONS = re.compile(r"\b[Ll]essons? \d\d(?: \(\w+\)|, [a-z]\w+(?=[),:;]))?"
                     r"(?:(?:, and |, | and | or | to |–)\d\d(?: \(\w+\))?)*")
ONE = re.compile(r"(?:\b[Ll]esson )?\b\d\d\b(?: \(\w+\)|, [a-z]\w+$)?")
# What no link is written into: code, mathematics, links and pictures, HTML.
CLOSED = re.compile(r"(^```.*?^```[^\n]*$|``.+?``|`[^`\n]+`|\$\$.+?\$\$|\$[^$\n]+\$|"
                    r"!?\[[^\]]*\]\([^)]*\)(?:\{[^}]*\})?|<[^>\n]+>)", re.DOTALL | re.MULTILINE)
FOLDED = {"code-fold": True, "code-summary": "Imports"}
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


def pages_of(settings):
    "Paths of the site's pages, in reading order."
    def walk(items):
        for item in items:
            if isinstance(item, str): yield item
            else: yield from walk(item["chapters"])
    return list(walk(settings["book"]["chapters"]))


def read_notebook(path): return nbformat.read(path, 4)


def exports(nb):
    "The module that a notebook exports to, or None."
    code = (c.source for c in nb.cells if c.cell_type == "code")
    found = (re.search(r"^#\s*\|\s*default_exp\s+(\S+)", source, re.MULTILINE) for source in code)
    return next((f[1].removesuffix(".__init__") for f in found if f), None)


def public_names(root, module):
    "Names in `__all__` of a module of the library."
    path = root / "finetune_book" / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists(): return []
    lists = [n.value for n in ast.parse(path.read_text(encoding="utf-8")).body
             if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"]
    return [e.value for found in lists for e in found.elts]


class Links:
    "Where a lesson, a notebook of the kitchen and a name of the library lead to; paths from the site's top."

    def __init__(self, root, pages):
        self.lessons, self.kitchen, self.modules, self.names, self.titles = {}, {}, {}, {}, {}
        for page in pages:
            path = PurePosixPath(page)
            if path.suffix != ".ipynb": continue
            if number := re.match(r"(\d\d)_", path.name): self.lessons[number[1]] = page
            if path.parent.name == "library": self.kitchen[f"library/{path.stem}"] = page
            nb = read_notebook(root / page)
            self.titles[page] = re.search(r"^# (.+)", nb.cells[0].source, re.MULTILINE)[1]
            if module := exports(nb):
                self.modules[module] = page
                defined = "\n".join(c.source for c in nb.cells if c.cell_type == "code")
                for name in public_names(root, module):
                    if re.search(rf"^(?:def|class) {name}\b", defined, re.MULTILINE): self.names[name] = (module, page)

    def number(self, page):
        "Number of a lesson's page, or None."
        found = re.match(r"(\d\d)_", PurePosixPath(page).name)
        return found and found[1]

    def of_code(self, said):
        "The page that code in prose names by a function, class, module or notebook of the kitchen; or None."
        if said in self.kitchen: return self.kitchen[said]
        dotted = said.partition("(")[0].removeprefix("finetune_book.")
        if dotted in self.modules and "." in said: return self.modules[dotted]
        home, _, name = dotted.rpartition(".")
        if name not in self.names or (len(name) < 6 and not home and name.islower()): return None
        module, page = self.names[name]
        return f"{page}#def-{name}" if not home or f".{module}".endswith(f".{home}") else None


def relative(target, page):
    "A path from the site's top as seen from `page`."
    return "../" * (len(PurePosixPath(page).parts) - 1) + target


def with_links(text, page, links):
    "Markdown in which mentions of lessons and of the library's names lead there; headings stay as they are."
    def to_lesson(mention):
        number = re.search(r"\d\d", mention[0])[0]
        target = links.lessons.get(number)
        return f"[{mention[0]}]({relative(target, page)})" if target and target != page else mention[0]
    def closed(part):
        if not (code := re.fullmatch(r"`([^`\n]+)`", part)): return part
        target = links.of_code(code[1])
        return f"[{part}]({relative(target, page)})" if target and target.partition("#")[0] != page else part
    def line_of(part): return LESSONS.sub(lambda found: ONE.sub(to_lesson, found[0]), part)
    def block(text):
        return "".join(closed(part) if i % 2 else line_of(part) for i, part in enumerate(CLOSED.split(text)))
    heading = re.compile(r"(^#{1,6} .*$)", re.MULTILINE)
    fenced = re.compile(r"(^```.*?^```[^\n]*$)", re.DOTALL | re.MULTILINE)
    def outside(text): return "".join(p if i % 2 else block(p) for i, p in enumerate(heading.split(text)))
    return "".join(p if i % 2 else outside(p) for i, p in enumerate(fenced.split(text)))


def heading_id(words):
    "The id that Quarto gives a heading."
    words = re.sub(r"[^\w\s.-]", "", words.lower())
    return re.sub(r"^[^a-z\u4e00-\u9fff]+", "", re.sub(r"\s+", "-", words.strip()))


def with_ids(text):
    "JupyterLab's links to a heading, `#Every-lesson,-and-more`, as Quarto's."
    return re.sub(r"\]\(#([^)]+)\)", lambda m: f"](#{heading_id(m[1].replace('-', ' '))})", text)


def is_setup(source):
    "Whether a cell is mostly imports."
    try: body = ast.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in source.splitlines())).body
    except SyntaxError: return False
    return bool(body) and 2 * sum(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body) > len(body)


def is_drawing(data):
    "Whether a PNG is a drawing in grey on white, which may be turned around on a dark page."
    from base64 import b64decode
    from io import BytesIO

    import numpy as np
    from PIL import Image
    with Image.open(BytesIO(b64decode(data))) as picture: pixels = np.asarray(picture.convert("RGB")).astype(int)
    return bool((np.ptp(pixels, axis=2) < 12).mean() > .99 and (pixels.min(axis=2) > 245).mean() > .5)


def safe(output):
    "An output as Quarto takes it without scripts: HTML inside Markdown, so that no RequireJS is asked for."
    data = output.get("data", {})
    if "text/html" in data:
        html = "".join(data["text/html"])
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", html)), default=0))
        output["data"] = nbformat.from_dict({"text/markdown": f"{fence}{{=html}}\n{html}\n{fence}"})
    return output


def rendered_code(cell):
    "The cells of the site for a code cell: a cell shows one picture at most, since `fig-alt` has the words of one."
    groups = [[]]
    for output in map(safe, cell.outputs):
        picture = next((kind for kind in PICTURES if kind in output.get("data", {})), None)
        if picture and any(p for _, p in groups[-1]): groups.append([])
        groups[-1].append((output, picture))
    cells = []
    for i, group in enumerate(groups):
        options = dict({"echo": False} if i else FOLDED if is_setup(cell.source) else {})
        for output, kind in group:
            if kind is None: continue
            options["fig-alt"] = output.metadata.get(kind, {}).get("alt", "")
            if kind == "image/png" and is_drawing(output.data[kind]): options["classes"] = "drawing"
        lines = [f"#| {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in options.items()]
        source = "\n".join([*lines, cell.source if not i else "pass"])
        cells.append(new_code_cell(source, outputs=[o for o, _ in group], metadata=cell.metadata))
    return cells


def rendered_head(text, page, links):
    "The first cell: the lesson's number in its title, and where the notebook can be had."
    number, download = links.number(page), f"downloads/{PurePosixPath(page).relative_to('nbs')}"
    title, rest = re.match(r"# (.+)\n?((?:.|\n)*)", text).groups()
    title = f"# {number + ' ' if number else ''}{title} {{.unnumbered}}"
    link = f"[Download this notebook]({relative(download, page)}){{download=\"{PurePosixPath(page).name}\"}}"
    return f"{title}\n{with_links(with_ids(rest), page, links)}\n\n{link}"


def cited(text, works):
    "Keys of the works that a text names: the first author's family name and the year in one sentence of it."
    chunks, held = [], ""
    for chunk in re.split(r"(?<=[\w)*\"”]\.) (?=[A-Z])|\n- |; (?=[A-Z])", text.replace("*", "")):
        held = f"{held} {chunk}".strip()
        if re.search(r"\b(1[789]|20)\d\d\b", chunk): chunks, held = [*chunks, held], ""
    return [key for key, work in works.items() if any(work.named_in(chunk) for chunk in chunks)]


class Work(NamedTuple):
    "What a text must say to name a work; `word`, of the title, where an author has two works of one year."
    family: str
    years: tuple
    word: str = ""

    def named_in(self, text):
        family = re.escape(self.family).replace(r"\ ", "[ -]")
        years = "|".join(self.years)
        named = re.search(rf"\b{family}\b", text) and re.search(rf"\b(?:{years})\b", text)
        return bool(named) and self.word.lower() in text.lower()


def works_in(bib):
    "key → Work, of a BibTeX file whose fields stand one a line."
    found = {}
    for _, key, fields in re.findall(r"^@(\w+)\{([\w-]+),\n(.*?)^\}", bib, re.DOTALL | re.MULTILINE):
        values = dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", fields, re.MULTILINE))
        years = tuple(filter(None, (values["year"], values.get("preprintyear"))))
        family, word = re.split(" and |,", values["author"])[0], values["title"].split()[0].strip(":")
        found[key] = Work(family, years, word)
    twins = Counter((work.family, work.years) for work in found.values())
    return {key: work if twins[work[:2]] > 1 else work._replace(word="") for key, work in found.items()}


def sources(nb):
    "What a notebook says of its sources: the section of that name, and the `Source:` lines of docstrings."
    prose, code = ([c.source for c in nb.cells if c.cell_type == kind] for kind in ("markdown", "code"))
    sections = [text.rpartition("## Sources\n")[2] for text in prose if "## Sources\n" in text]
    lines = re.findall(r"^ +Source: (.+)$", "\n".join(code), re.MULTILINE)
    return "\n- ".join(sections + lines)


def rendered_notebook(nb, page, links):
    "The notebook as a page: see the module's first line."
    own = [name for name, (_, home) in links.names.items() if home == page]
    works = works_in((Path(__file__).resolve().parent.parent / "nbs/references.bib").read_text(encoding="utf-8"))
    keys = cited(sources(nb), works)
    cells = [new_markdown_cell(rendered_head(nb.cells[0].source, page, links))]
    for cell in nb.cells[1:]:
        if cell.cell_type == "markdown":
            text = with_links(with_ids(cell.source), page, links)
            if keys and "## Sources\n" in text:
                text += f"\n\nIn the bibliography: {'; '.join(f'@{key}' for key in keys)}."
            cells.append(new_markdown_cell(text))
        elif not HIDDEN.search(cell.source):
            cell.source = DIRECTIVE.sub("", cell.source).strip("\n")
            if not cell.source: continue
            names = [name for name in own if re.search(rf"^(?:def|class) {name}\b", cell.source, re.MULTILINE)]
            if names: cells.append(new_markdown_cell("".join(f'<a id="def-{name}"></a>' for name in names)))
            cells += rendered_code(cell)
    nb.cells = cells
    for i, cell in enumerate(cells): cell["id"] = f"c{i:04d}"
    return nb


def rendered_markdown(text, page, links):
    "A page that is written in Markdown, with its links."
    front = re.match(r"---\n.*?\n---\n", text, re.DOTALL)
    head = front[0] if front else ""
    return head + with_links(text[len(head):], page, links)
