"""The web site without Quarto: its settings are known, its pages are there, every link, picture and word of it leads somewhere."""
import json
import re
from pathlib import Path, PurePosixPath

import book
import book_pages
import nbformat
import pytest
import yaml

REPO = Path(__file__).parents[2]
SETTINGS = yaml.safe_load((REPO / "_quarto.yml").read_text(encoding="utf-8"))
PAGES = book_pages.pages_of(SETTINGS)
NOTEBOOKS = [p.relative_to(REPO).as_posix() for p in sorted((REPO / "nbs").rglob("*.ipynb"))
             if not {".ipynb_checkpoints", "reports", "exercises"} & set(p.parts)]      # these hold the solutions
# From Quarto's schemas (src/resources/schema: project.yml, definitions.yml under base-website and book-schema, document-*.yml).
KNOWN = {
    "": "project execute lang bibliography format book",
    "project": "title type render execute-dir output-dir lib-dir resources preview pre-render post-render detect",
    "execute": "eval echo output warning error include cache freeze enabled daemon debug ipynb-shell-interactivity",
    "format": "html",
    "format.html": "theme respect-user-color-scheme highlight-style toc toc-depth toc-location toc-title number-sections "
                   "html-math-method code-copy code-overflow code-fold code-summary code-line-numbers css anchor-sections "
                   "html-table-processing link-external-newwindow citations-hover fig-align",
    "format.html.theme": "light dark",
    "book": "title subtitle author date date-format abstract description chapters appendices references output-file cover-image "
            "cover-image-alt sharing downloads tools doi favicon site-url site-path repo-url repo-subdir repo-branch repo-actions "
            "issue-url reader-mode search navbar sidebar body-header body-footer margin-header margin-footer page-navigation "
            "back-to-top-navigation bread-crumbs page-footer image image-alt comments open-graph twitter-card other-links code-links",
    "book.sidebar": "id title logo logo-alt logo-href search tools contents style background foreground border alignment "
                    "collapse-level pinned header footer",
}


def unknown_keys(settings, where=""):
    "Keys that Quarto does not know; what KNOWN does not name is not looked into."
    if where not in KNOWN or not isinstance(settings, dict): return []
    here = [f"{where}.{key}".strip(".") for key in settings if key not in KNOWN[where].split()]
    return here + [bad for key, value in settings.items() for bad in unknown_keys(value, f"{where}.{key}".strip("."))]


def test_settings_are_known():
    assert unknown_keys(SETTINGS) == [] and SETTINGS["project"]["type"] == "book"
    html = SETTINGS["format"]["html"]
    assert html["respect-user-color-scheme"] is True and html["code-copy"] is True and html["code-overflow"] == "wrap"
    assert SETTINGS["book"]["search"] is True and SETTINGS["execute"] == {"enabled": False}
    for layers in html["theme"].values(): assert all((REPO / f).exists() for f in layers if "." in f)


@pytest.mark.parametrize("path, key", [((), "website"), (("book",), "chapter"), (("format", "html"), "code_copy"), (("book", "sidebar"), "collapse")])
def test_an_unknown_key_is_seen(path, key):
    settings = json.loads(json.dumps(SETTINGS))
    place = settings
    for step in path: place = place[step]
    place[key] = True
    assert unknown_keys(settings) == [".".join([*path, key])]


def test_every_chapter_is_there_and_none_is_missing():
    assert PAGES[0] == "index.qmd", "a book of Quarto begins with it"
    assert [p for p in PAGES if not (REPO / p).is_file()] == []
    assert sorted(p for p in PAGES if p.endswith(".ipynb")) == NOTEBOOKS and len(PAGES) == len(set(PAGES))


def test_the_lessons_stand_in_the_order_of_their_numbers():
    numbered = [p for p in PAGES if re.match(r"\d\d_", PurePosixPath(p).name)]
    assert numbered == sorted(numbered, key=lambda p: PurePosixPath(p).name)
    parts = [item for item in SETTINGS["book"]["chapters"] if isinstance(item, dict)]
    for part in parts:
        if number := re.match(r"(\d) ", part["part"]):
            assert all(PurePosixPath(p).name.startswith(number[1]) for p in part["chapters"]), part["part"]
    kitchen = [p for p in PAGES if "/library/" in p]
    assert kitchen == sorted(kitchen) and parts[-1]["chapters"] == kitchen


# --- the copy that Quarto renders ----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    book.prepare(folder)
    return folder


@pytest.fixture(scope="module")
def words(copy):
    "Page of the copy → what it says: prose, and outputs that are Markdown."
    found = {}
    for path in sorted([*copy.rglob("*.qmd"), *copy.rglob("nbs/**/*.ipynb")]):
        if "downloads" in path.relative_to(copy).parts: continue
        if path.suffix == ".qmd": text = path.read_text(encoding="utf-8")
        else:
            cells = nbformat.read(path, 4).cells
            parts = [c.source for c in cells if c.cell_type == "markdown"]
            shown = ["".join(o["data"]["text/markdown"]) for c in cells for o in c.get("outputs", ()) if "text/markdown" in o.get("data", {})]
            text = "\n\n".join(parts + shown)
        found[path.relative_to(copy).as_posix()] = text
    return found


@pytest.fixture(scope="module")
def cells(copy, words): return {page: nbformat.read(copy / page, 4).cells for page in words if page.endswith(".ipynb")}


FENCED = re.compile(r"^(`{3,})[^\n]*\n.*?^\1[^\n]*$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+?)(?: \"[^\"]*\")?\)")


def targets(text): return [t for t in LINK.findall(re.sub(r"`[^`\n]+`(?!\])|\$[^$\n]+\$", "", FENCED.sub("", text))) if not re.match(r"\w+:", t)]


def ids(text):
    "Where a link to a page may lead: headings, their own ids, anchors."
    own = re.findall(r"\{#([\w.-]+)", text) + re.findall(r'\bid="([\w.-]+)"', text)
    return {*own, *(book_pages.heading_id(h) for h in re.findall(r"^#+ (.+?)(?: \{.*\})?$", text, re.MULTILINE))}


def test_the_copy_has_every_page_and_a_page_for_each_module(copy, words):
    made = book_pages.pages_of(yaml.safe_load((copy / "_quarto.yml").read_text(encoding="utf-8")))
    assert sorted(made) == sorted(words) and made[:len(PAGES)] == PAGES
    modules = {page for page in made if page.startswith("api/")}
    assert len(modules) > 80 and "api/judge_metrics.qmd" in modules
    settings = yaml.safe_load((copy / "_quarto.yml").read_text(encoding="utf-8"))
    assert unknown_keys(settings) == [] and all((copy / r).exists() for r in settings["project"]["resources"])


def test_every_page_has_a_title(words):
    assert [page for page, text in words.items() if not re.match(r"# \S.* \{.unnumbered\}\n", text)] == []
    assert words["nbs/1_ground/11_losses.ipynb"].startswith("# 11 Cross-entropy")


def test_every_link_and_picture_leads_somewhere(copy, words):
    lost = []
    for page, text in words.items():
        for target in targets(text):
            path, _, anchor = target.partition("#")
            there = (copy / page).parent / path if path else copy / page
            if not there.exists(): lost.append(f"{page}: {target} is not there")
            elif anchor and there.suffix in (".ipynb", ".qmd"):
                inside = words[there.resolve().relative_to(copy.resolve()).as_posix()]
                if anchor not in ids(inside): lost.append(f"{page}: {target}: no such place on that page")
    assert lost == [] and sum(len(targets(text)) for text in words.values()) > 1000


def test_a_link_that_leads_nowhere_is_seen():
    assert targets("a [b](c.ipynb#d) ![e](f.png \"g\") `[h](i)` [`j`](k)\n```\n[l](m)\n```\n") == ["c.ipynb#d", "f.png", "k"]


def test_what_looks_like_a_citation_is_one(words):
    for page, text in words.items():
        said = re.sub(r"`[^`\n]+`", "", FENCED.sub("", text))
        assert set(re.findall(r"(?<![\w\\./])@(\w[\w-]*)", said)) <= set(WORKS), page
    assert re.search(r"In the bibliography: .*@brocker2007", words["nbs/3_judging/33_calibration.ipynb"])


def test_each_figure_has_its_words(cells):
    silent, figures = [], 0
    for page, found in cells.items():
        for cell in found:
            pictures = [o for o in cell.get("outputs", ()) if any(k.startswith("image/") for k in o.get("data", {}))]
            alt = re.search(r"^#\| fig-alt: (\".+\")$", cell.source, re.MULTILINE)
            figures += len(pictures)
            if len(pictures) > 1 or pictures and not (alt and json.loads(alt[1]).strip()): silent.append(page)
    assert silent == [] and figures > 60


def test_no_directive_of_nbdev_and_no_script_is_left(cells):
    options = {"fig-alt", "echo", "code-fold", "code-summary", "classes"}
    for page, found in cells.items():
        said = [re.match(r"\s*#\s*\|\s*([\w-]+)", line)[1] for c in found if c.cell_type == "code"
                for line in c.source.splitlines() if re.match(r"\s*#\s*\|", line)]
        assert set(said) <= options, page
        # Quarto asks servers for RequireJS and jQuery where an output is HTML or JavaScript.
        kinds = {k for c in found for o in c.get("outputs", ()) for k in o.get("data", {})}
        assert not kinds & {"text/html", "application/javascript"}, page


def test_imports_are_folded(cells):
    for page, found in cells.items():
        first = next((c for c in found if c.cell_type == "code" and c.source.startswith(("import ", "from "))), None)
        assert first is None or not book_pages.is_setup(first.source), page
    assert any("code-fold" in c.source for c in cells["nbs/1_ground/11_losses.ipynb"])


def test_each_notebook_can_be_had(copy, cells):
    for page in cells:
        download = copy / "downloads" / PurePosixPath(page).relative_to("nbs")
        assert download.read_bytes() == (REPO / page).read_bytes()


def test_names_and_lessons_are_linked(words):
    text = words["nbs/3_judging/34_ladder.ipynb"]
    assert "(../../nbs/3_judging/32_bootstrap.ipynb)" in text
    assert "[`library/figures`](../../nbs/library/figures.ipynb)" in words["nbs/3_judging/31_metrics.ipynb"]
    api = words["api/judge_metrics.qmd"]
    assert "../nbs/3_judging/31_metrics.ipynb#def-accuracy" in api and "## accuracy {#accuracy}" in api
    assert '<a id="def-accuracy"></a>' in words["nbs/3_judging/31_metrics.ipynb"]


def links():
    return book_pages.Links(REPO, ["nbs/3_judging/31_metrics.ipynb", "nbs/3_judging/32_bootstrap.ipynb", "nbs/library/figures.ipynb"])


@pytest.mark.parametrize("text, becomes", [
    ("see lesson 31 (metrics).", "see [lesson 31 (metrics)](../31).") , ("Lessons 31 and 32 say", "Lessons [31](../31) and [32](../32) say"),
    ("(lesson 32, bootstrap)", "([lesson 32, bootstrap](../32))"), ("lesson 99 (gone)", "lesson 99 (gone)"),
    ("`lesson 31`", "`lesson 31`"), ("$lesson 31$", "$lesson 31$"), ("## Lesson 31 again", "## Lesson 31 again"),
    ("[lesson 31](x)", "[lesson 31](x)"), ("```\nlesson 31\n```", "```\nlesson 31\n```"), ("32 rows", "32 rows"),
    ("`accuracy(y, said)`", "[`accuracy(y, said)`](../31#def-accuracy)"), ("`judge.metrics.accuracy`", "[`judge.metrics.accuracy`](../31#def-accuracy)"),
    ("`sklearn.accuracy`", "`sklearn.accuracy`"), ("`show`", "`show`"), ("`figures.show`", "[`figures.show`](../fig#def-show)"),
    ("`library/figures`", "[`library/figures`](../fig)"),
])
def test_what_becomes_a_link(text, becomes):
    short = {"../31": "../nbs/3_judging/31_metrics.ipynb", "../32": "../nbs/3_judging/32_bootstrap.ipynb", "../fig": "../nbs/library/figures.ipynb"}
    for word, path in short.items(): becomes = becomes.replace(word, path)
    assert book_pages.with_links(text, "nbs/page.qmd", links()) == becomes


# --- words and sources ---------------------------------------------------------------------------------------------

GLOSSARY = [re.split(r"\s*\|\s*", row.strip("| ")) for row in (REPO / "nbs/glossary.qmd").read_text(encoding="utf-8").splitlines()
            if re.match(r"\| [a-zA-Z(]", row)][1:]


@pytest.mark.parametrize("row", GLOSSARY, ids=[row[0] for row in GLOSSARY])
def test_a_word_is_where_the_glossary_says(row):
    english, chinese, meaning, where = row
    assert re.search(r"[\u4e00-\u9fff]", chinese) and len(meaning.split()) >= 3
    number, path = re.fullmatch(r"\[(\d\d|kitchen)[^\]]*\]\((\S+\.ipynb)\)", where).groups()
    assert number == "kitchen" or PurePosixPath(path).name.startswith(number)
    page = (REPO / "nbs" / path).read_text(encoding="utf-8").lower()
    word = english.lower()
    there = any(form in page for form in (word, word.replace("-", ""), chinese.lower()))
    assert there, f"{path} says neither {english} nor {chinese}"


def test_the_glossary_has_the_words_that_were_asked_for_and_those_of_the_map():
    listed = [row[0].lower() for row in GLOSSARY]
    assert listed == sorted(listed, key=str.lower) and len(listed) == len(set(listed)), "in the order of the alphabet"
    asked = {"logit", "gradient", "softmax", "embedding", "residual connection", "dropout", "back-propagation", "fingerprint", "calibration"}
    cells = json.loads((REPO / "nbs/00_map.ipynb").read_text(encoding="utf-8"))["cells"]
    words = next("".join(c["source"]) for c in cells if "foundation model\", \"基础模型" in "".join(c["source"]))
    assert asked | set(re.findall(r'^    \("([a-z -]+)", "[\u4e00-\u9fff]', words, re.MULTILINE)) <= set(listed)


BIB = (REPO / "nbs/references.bib").read_text(encoding="utf-8")
WORKS = book_pages.works_in(BIB)


def sources(page): return book_pages.sources(book_pages.read_notebook(REPO / page))


def test_the_works_can_be_found():
    entries = re.findall(r"^@(\w+)\{([\w-]+),\n(.*?)^\}", BIB, re.DOTALL | re.MULTILINE)
    assert len(entries) == BIB.count("\n@") + BIB.startswith("@") == len(WORKS) > 40, "one entry a key, fields one a line"
    for kind, key, fields in entries:
        values = dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", fields, re.MULTILINE))
        assert {"author", "title", "year"} <= set(values), key
        if kind == "book": assert "publisher" in values, key
        else: assert {"doi", "eprint", "url"} & set(values), f"{key}: neither DOI nor arXiv id nor address"
        assert re.fullmatch(r"10\.\d{4,}/\S+", values.get("doi", "10.0000/x")), key
        assert re.fullmatch(r"\d{4}\.\d{4,5}", values.get("eprint", "0000.00000")), key


def test_every_work_is_named_by_a_lesson_and_every_named_work_is_listed():
    lessons = [p for p in PAGES if re.match(r"\d\d_", PurePosixPath(p).name)]
    used = {key for page in PAGES if page.endswith(".ipynb") for key in book_pages.cited(sources(page), WORKS)}
    assert sorted(set(WORKS) - used) == []
    # A work is named with its year in parentheses, as in `et al. (2019)`.
    def unlisted(page):
        said = re.sub(r"RFC \d+[^(]*\(\d{4}\)", "", sources(page))     # whose number says where it is
        years = set(re.findall(r"\((1[789]\d\d|20\d\d)\)", said))
        return years - {year for key in book_pages.cited(sources(page), WORKS) for year in WORKS[key].years}
    assert {page: years for page in lessons if (years := unlisted(page))} == {}


# --- the pages that Quarto made ------------------------------------------------------------------------------------

PLUGGED = '''<html><head>
<link rel="stylesheet" href="site_libs/x.css">
<script src="https://cdnjs.cloudflare.com/polyfill/v3/polyfill.min.js?features=es6"></script>
<script src="https://cdnjs.cloudflare.com/ajax/libs/require.js/2.3.6/require.min.js" integrity="x" crossorigin="anonymous"></script>
<script type="application/javascript" data-relocate-top="true">define('jquery', [],function() {return window.jQuery;})</script>
<script src="https://cdn.jsdelivr.net/npm/mathjax@3/es5/tex-chtml-full.js" type="text/javascript"></script>
<script src="site_libs/quarto-nav.js"></script>
</head><body><a href="https://example.org">elsewhere</a></body></html>'''


def test_a_page_asks_no_server(tmp_path):
    (tmp_path / "nbs/1_ground").mkdir(parents=True)
    for name in ("index.html", "nbs/1_ground/11.html"): (tmp_path / name).write_text(PLUGGED)
    assert book.finish(tmp_path) == []
    made = (tmp_path / "nbs/1_ground/11.html").read_text()
    assert re.findall(r'src="([^"]+)"', made) == ["../../mathjax.js", "site_libs/quarto-nav.js"] and "define(" not in made
    assert 'src="mathjax.js"' in (tmp_path / "index.html").read_text() and "https://example.org" in made
    assert "MathJax" in (tmp_path / "mathjax.js").read_text(encoding="utf-8")[:200_000]
    (tmp_path / "index.html").write_text('<link rel="stylesheet" href="https://fonts.example.org/x.css">')
    assert [p.name for p in book.finish(tmp_path)] == ["index.html"]
