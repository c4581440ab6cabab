"""The library name by name: one page a module, from its docstrings, read without importing it."""
import re

import griffe
from book_pages import relative, rendered_markdown

SECTIONS = {kind: kind.capitalize() for kind in ("parameters", "attributes", "returns", "yields", "raises",
                                                 "other parameters", "warns", "receives")}


def escaped(text):
    "Text of a docstring as Markdown: no markup of its own but code spans, no mathematics."
    parts = re.split(r"(``.+?``|`[^`\n]+`)", str(text))
    return "".join(p if i % 2 else re.sub(r"([\\*_$<>\[\]@#|~^])", r"\\\1", p) for i, p in enumerate(parts))


def signature(obj, name):
    "How a function or class is called, one argument a line where one line is too long."
    given = [p for p in obj.parameters if p.name not in ("self", "cls")]
    said, star = [], False
    for p in given:
        if p.kind is griffe.ParameterKind.keyword_only and not star: said.append("*"); star = True
        mark = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(p.kind, "")
        star = star or mark == "*"
        plain = p.default is None or mark
        kind = f": {p.annotation}" if p.annotation else ""
        said.append(f"{mark}{p.name}{kind}" + ("" if plain else f"={p.default}"))
    line = f"{name}({', '.join(said)})"
    return line if len(line) <= 100 else f"{name}(\n    " + ",\n    ".join(said) + ")"


def items(section):
    "Lines of a list for a section that names things."
    for item in section.value:
        name = getattr(item, "name", "") or ""
        kind = str(item.annotation) if item.annotation is not None else ""
        head = " : ".join(filter(None, (f"**{escaped(name)}**" if name else "", escaped(kind))))
        yield f"- {head}" + (f"  \n  {escaped(' '.join(item.description.split()))}" if item.description else "")


def prose(section):
    "What is returned or raised, written here in sentences, as a paragraph; its source as another."
    said = " ".join(str(part) for item in section.value for part in (item.annotation, item.description) if part)
    said, found, source = " ".join(said.split()).partition("Source: ")
    heading = SECTIONS[section.kind.value]
    return f"**{heading}** {escaped(said)}" + (f"\n\n**Source** {escaped(source)}" if found else "")


def docstring(obj):
    "A docstring as Markdown, its sections as small headings and lists."
    if not obj.docstring: return ""
    parts = []
    for section in obj.docstring.parse("numpy", warnings=False):
        kind = section.kind.value
        if kind == "text": parts.append(escaped(section.value))
        elif kind in ("returns", "raises", "yields"): parts.append(prose(section))
        elif kind in SECTIONS: parts.append("\n".join([f"**{SECTIONS[kind]}**", "", *items(section)]))
        elif kind == "examples":
            parts.append("\n".join(["**Examples**", "", "```python", *(text for _, text in section.value), "```"]))
        else: parts.append(escaped(getattr(section.value, "contents", section.value)))
    return "\n\n".join(parts)


def described(obj, name, level=2):
    "One public name: how it is called, what it says of itself, and the public methods of a class."
    lines = [f"{'#' * level} {name.rpartition('.')[2]} {{#{name}}}", ""]
    if obj.is_function or obj.is_class: lines += ["```python", signature(obj, name), "```", ""]
    lines += [docstring(obj), ""]
    if obj.is_class:
        for method in obj.members.values():
            if method.is_function and not method.name.startswith("_") and method.docstring:
                lines += [described(method, f"{name}.{method.name}", level + 1)]
    return "\n".join(lines)


def api_page(module, page, home, links):
    "The page of one module: what it holds, the notebook it is written in, its public names."
    said = module.docstring.value.splitlines()[0] if module.docstring else ""
    title = " ".join(filter(None, (links.number(home), links.titles[home])))
    lines = [f"# {module.path} {{.unnumbered}}", "", f"> {escaped(said)}", ""]
    lines += [f"Written in [{title}]({relative(home, page)}).", ""]
    names = [str(n).strip("'\"") for n in module.exports or ()]
    for name in names:
        obj = module.members.get(name)
        if obj is None or obj.is_alias: continue
        lines.append(described(obj, name))
        if name in links.names and links.names[name][1] == home:
            lines.append(f"[Where it is written and tried]({relative(home, page)}#def-{name})\n")
    return rendered_markdown("\n".join(lines), page, links)


def write_api(root, copy, links):
    "Write the pages into `copy`/api; their paths in the order of the library."
    package = griffe.load("finetune_book", search_paths=[root], allow_inspection=False)
    pages = []
    for name, home in sorted(links.modules.items()):
        page = f"api/{name.replace('.', '_')}.qmd"
        (copy / page).parent.mkdir(parents=True, exist_ok=True)
        (copy / page).write_text(api_page(package[name], page, home, links), encoding="utf-8")
        pages.append(page)
    return pages
