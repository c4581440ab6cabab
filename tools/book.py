"""Render the lessons with Quarto, from a copy in _proc in which links, alternative texts and the API pages are written.

Quarto reads `#|` lines as YAML, and nbdev's are none; it takes a figure's words from `fig-alt` and not from the
output's metadata; it loads MathJax and other scripts from servers. So it gets a copy, and its pages are looked over.
"""
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import yaml
from book_api import write_api
from book_pages import Links, pages_of, read_notebook, rendered_markdown, rendered_notebook

ROOT = Path(__file__).resolve().parent.parent
COPY, SITE = ROOT / "_proc", ROOT / "_book"
MATHJAX = "mathjax.js"          # the carried MathJax, in the site's top folder
# What Quarto's pages would load from servers: a polyfill, RequireJS, jQuery. Nothing on our pages uses them.
FROM_SERVERS = re.compile(r'\s*<script\b[^>]*\bsrc="https?://(?![^"]*mathjax)[^"]*"[^>]*>\s*</script>', re.IGNORECASE)
DEFINES = re.compile(r"\s*<script\b[^>]*>\s*define\('jquery'.*?</script>", re.DOTALL)
MATH = re.compile(r'(<script\b[^>]*\bsrc=")https?://[^"]*mathjax[^"]*("[^>]*>)', re.IGNORECASE)
ASKS = re.compile(r'<(?:script|img|iframe)\b[^>]*\bsrc="https?:|<link\b[^>]*\brel="stylesheet"[^>]*\bhref="https?:')


def prepare(copy):
    "Write what Quarto renders into the folder `copy`: pages, API pages, pictures, downloads, and its settings."
    settings = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    pages, links = pages_of(settings), Links(ROOT, pages_of(settings))
    for page in pages:
        target = copy / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if page.endswith(".ipynb"):
            nbformat.write(rendered_notebook(read_notebook(ROOT / page), page, links), target)
            download = copy / "downloads" / Path(page).relative_to("nbs")
            download.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / page, download)
        else:
            text = rendered_markdown((ROOT / page).read_text(encoding="utf-8"), page, links)
            target.write_text(text, encoding="utf-8")
    for name in ("nbs/references.bib", "nbs/site.scss"): shutil.copyfile(ROOT / name, copy / name)
    shutil.copytree(ROOT / "nbs/pictures", copy / "nbs/pictures", dirs_exist_ok=True)
    library = {"part": "Appendix: the library, name by name", "chapters": write_api(ROOT, copy, links)}
    settings["book"]["chapters"].append(library)
    settings["project"]["resources"] = ["downloads", "nbs/pictures"]
    (copy / "_quarto.yml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")


def mathjax():
    "MathJax as one file; it comes as a Python package."
    return Path(find_spec("mathjax").submodule_search_locations[0]) / "static/mathjax/es5/tex-svg-full.js"


def unplugged(html, depth):
    "A page that asks no server for anything; `depth` folders lie between it and the site's top."
    html = DEFINES.sub("", FROM_SERVERS.sub("", html))
    return MATH.sub(rf"\g<1>{'../' * depth}{MATHJAX}\g<2>", html)


def finish(site):
    "Look over the pages that Quarto made; those that still ask a server for something."
    shutil.copyfile(mathjax(), site / MATHJAX)
    plugged = []
    for page in sorted(site.rglob("*.html")):
        html = unplugged(page.read_text(encoding="utf-8"), len(page.relative_to(site).parts) - 1)
        page.write_text(html, encoding="utf-8")
        if ASKS.search(html): plugged.append(page)
    return plugged


def main():
    shutil.rmtree(COPY, ignore_errors=True)
    prepare(COPY)
    if subprocess.run(["quarto", "render"], cwd=COPY).returncode: return 1
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(COPY / "_book", SITE)
    for page in finish(SITE): print(f"{page.relative_to(ROOT)} asks a server for something", file=sys.stderr)
    print(f"{SITE / 'index.html'}: a browser blocks the search of a page that is opened as a file; serve it with")
    print(f"{os.path.relpath(sys.executable)} -m http.server -d {SITE.name}, then open http://localhost:8000")
    return 0


if __name__ == "__main__":
    sys.exit(main())
