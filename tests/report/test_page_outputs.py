"""What each common kind of output shows as; a page of all of them, in a browser where there is one."""
import base64
import re
import shutil

import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from outputs import GIF, HOME, JPEG, OUTPUTS, PNG, STATE, SVG, TAGGED, VIEW, outputs_notebook, picture, shown
from page_check import CHROMIUM, examine, problems
from reports import write_template

from finetune_book.report import page as page_module
from finetune_book.report.errors import NotRendered
from finetune_book.report.inert import coloured_text, inert, inert_html
from finetune_book.report.page import carry_pictures, html_page
from finetune_book.report.publish import render_html, run_report


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    "The fixture notebook's page, as a file."
    return render_html(HOME / "outputs.ipynb", tmp_path_factory.mktemp("page") / "outputs.html")


@pytest.fixture(scope="module")
def soup(page): return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def below(soup, name):
    "What stands between a heading of the second level and the next, as (HTML without the code, visible text)."
    heading = next(h for h in soup.find_all("h2") if h.get_text() == name)
    first = heading.find_parent("section")
    parts = []
    for other in first.next_siblings:
        if getattr(other, "name", None) is None: continue
        if other.find("h2"): break
        parts.append(other)
    copy = BeautifulSoup("".join(map(str, parts)), "html.parser")
    for code in copy.select(".code"): code.decompose()
    return str(copy), " ".join(copy.get_text().split())


def test_the_stored_notebook_is_the_one_the_script_makes():
    import nbformat
    assert nbformat.read(HOME / "outputs.ipynb", as_version=4) == outputs_notebook()


SHOWS = {
    "DataFrame": ["<table", "30 rows × 2 columns"], "Styler": ["the largest", "<caption"], "Markdown": ["<strong>bold</strong>", "$y = x^2$"],
    "LaTeX": ["\\frac{1}{2}", "jp-RenderedLatex"], "PNG": [f"data:image/png;base64,{PNG}", 'width="80"'], "JPEG": [f"data:image/jpeg;base64,{JPEG}"],
    "SVG": [f"data:image/svg+xml;base64,{base64.b64encode(SVG.encode()).decode()}"], "GIF": [f"data:image/gif;base64,{GIF}"],
    "HTML with a picture of the folder": ['alt="beside"', "data:image/png;base64,"],
    "Plotly": ["Not shown: a Plotly figure."], "Plotly with its PNG": ["<img", "A still picture of a Plotly figure."],
    "Altair": ["Not shown: a Vega or Altair chart."], "Altair with its SVG": ["<img", "A still picture of a Vega or Altair chart."],
    "Bokeh": ["Not shown: a Bokeh plot."], "Folium": ["Not shown: an embedded page."], "JavaScript": ["Not shown: what a script would add."],
    "unknown": ["Not shown: an output of the kind application/x-something."],
    "bar of widgets": ["<progress", "100%", "40/40"], "slider": ["depth 7"], "map widget": ["Not shown: a Jupyter widget (Map)."],
    "widget without state": ["Not shown: a Jupyter widget, whose state was not stored.", "IntSlider(value=5)"], "bar of text": ["100%|##########| 4/4"],
    "JSON": ["&lt;/pre&gt;&lt;script&gt;"], "ANSI": ['<span class="ansi-red-fg">red</span>', "bold orange", "link"], "error": ["ZeroDivisionError: division by zero"],
    "very long": ["line 0 of", "line 299 of", 'tabindex="0"'], "audio": ["<audio", "data:audio/wav;base64,"], "video": ["<video", "data:video/mp4;base64,"],
    "remote picture": ["Not shown: the picture (https://example.org/cat.png)."],
    "a scikit-learn diagram": ["LogisticRegression", "Not shown: what a script would add."], "drawing in HTML": ["<svg", "SHAP", "url(#o"],
}
HIDES = {"Styler": ["<style", "T_8f2_row1_col0 "], "GIF": ["IPython"], "JSON": ["IPython"], "Plotly": ["newPlot", "cdn"], "Altair": ["vegaEmbed"], "bar of text": ["50%"],
         "unknown": ["thing object"], "ANSI": ["example.org", "\x1b"], "drawing in HTML": ["onload", "example.org", "iframe"], "DataFrame": ["only-of-type"], "LaTeX": ["<img"]}


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_kind_of_output_shows(soup, name):
    html, text = below(soup, name)
    if name == "bar without state": assert text == ""; return
    for part in SHOWS[name]: assert part in html or part in text, (name, part, html[:500])
    for part in HIDES.get(name, []): assert part not in html, (name, part)


def test_tags_are_followed(soup):
    html, text = below(soup, "Tags")
    assert "printed here" in text and "never shown" not in text and "<summary>Output</summary>" in html and "behind a summary" in text
    whole = str(soup)
    assert "tagged_remove_input" not in whole and "tagged_remove_cell" not in whole and "tagged_remove_output" in whole


def test_the_answer_stands_below_the_title_and_the_contents_below_it(soup):
    main = str(soup.main)
    parts = ["<h1", "<blockquote>", '<section class="answer">', '<nav aria-label="Contents"', "A picture that was pasted", ">DataFrame</h2>"]
    at = [main.index(p.replace('nav aria-label="Contents"', "nav")) for p in parts]
    assert at == sorted(at) and len(soup.select("section.answer")) == 1
    links = {a["href"] for a in soup.select("nav.contents a")}
    assert links == {"#" + h["id"] for h in soup.find_all("h2")} and len(links) == len(OUTPUTS) + 3


def test_a_section_folds_until_the_next_heading_of_its_level(soup):
    details = soup.find("h2", string="Folded").find_parent("details")
    assert not details.has_attr("open") and "Inside the fold" in details.text and "still inside" in details.text and "also inside" in details.text
    assert "After the fold" not in details.text and "outside" not in details.text and details.summary.h2["id"] == "Folded"


def test_a_long_table_keeps_all_its_rows(soup):
    table = next(t for t in soup.find_all("table", class_="dataframe"))
    first, rest = table.find_all("tbody")
    assert len(first.find_all("tr")) == 10 and len(rest.find_all("tr")) == 20 and rest["class"] == ["rest"]
    assert all(th.get("scope") for th in soup.find_all("th"))


def test_pictures_are_carried(soup):
    html = str(soup.select_one(".prose"))
    prose = str(soup.main)
    assert prose.count(f"data:image/png;base64,{PNG}") >= 3 and 'alt="beside"' in prose
    assert "Not shown: the picture nowhere (attachment:nowhere.png)." in prose and "Not shown: the picture outside (../../../data/outside.png)." in prose and html


def test_styles_reach_only_their_own_output(page):
    text = page.read_text(encoding="utf-8")
    head = text[:text.index("</style>")]
    assert re.search(r"#(o\d+) #\1-T_8f2_row1_col0,#\1 #\1-T_8f2_row1_col1\{background-color:yellow\}", head)
    assert "@import" not in text.replace("MathJax", "")[:text.index("</style>")] and "example.org" not in head and "+ section" not in head and not re.search(r"[},]\s*~", head)
    assert re.search(r"#o\d+ body\{display:none\}", head)         # no page has a body inside a table


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: the page is looked at in a browser")
def test_the_page_of_all_outputs_in_a_browser(page):
    pytest.importorskip("playwright.sync_api")
    found = examine(page)
    assert problems(found) == [] and found["formulas"] == 2


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: the page is looked at in a browser")
def test_folding_in_a_browser(page):
    "Rows unfold, a link of the contents opens its section, on paper all is there; a phone shows nothing cut off."
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        tab = browser.new_context(offline=True, viewport={"width": 390, "height": 800}).new_page()
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
        rows = tab.locator("tbody.rest tr")
        assert not rows.first.is_visible()
        tab.click("text=Show 20 more rows")
        assert rows.first.is_visible()
        tab.click("text=Show fewer rows")
        assert not rows.first.is_visible() and not tab.get_by_text("Inside the fold").is_visible()
        tab.emulate_media(media="print")
        assert rows.first.is_visible()
        tab.emulate_media(media="screen")
        tab.click(".contents a[href='#Folded']")
        tab.get_by_text("Inside the fold").wait_for(state="visible")
        browser.close()


def test_the_page_is_stable_and_self_contained(page):
    text = page.read_text(encoding="utf-8")
    assert render_html(HOME / "outputs.ipynb", page.with_name("again.html")).read_text(encoding="utf-8") == text
    tags = re.findall(r"<[a-z][^>]*>", text[text.index("<body"):text.rindex("<script>")])
    assert not [t for t in tags if re.search(r"\s(src|srcset|poster|data|action|background)\s*=(?!\s*[\"']?data:)", t)]
    assert not [t for t in tags if re.match(r"<(script|iframe|style|object|embed|link|meta|base|form)\b", t) or re.search(r"\son[a-z]+\s*=", t)]


# --- forms of a bundle ---------------------------------------------------------------------------------------------

def body(*outputs, **metadata):
    "The page of one cell's outputs, between <main> and the script."
    nb = v4.new_notebook(cells=[v4.new_code_cell("x", outputs=list(outputs))], metadata=metadata)
    text = html_page(nb)
    return text[text.index("<main>"):text.rindex("<script>")]


@pytest.mark.parametrize("data, shows", [
    ({"image/webp": PNG}, "data:image/webp"), ({"audio/mpeg": "AAAA"}, '<audio controls="" src="data:audio/mpeg'), ({"video/mp4": "AAAA"}, '<video controls="" src="data:video/mp4'),
    ({"application/pdf": "AAAA"}, "Not shown: a PDF."), ({"application/vnd.vega.v5+json": {}}, "a Vega or Altair chart"), ({"application/vnd.plotly.v1+json": {}, "text/plain": "Figure()"}, "Figure()"),
    ({"text/html": "<script>draw()</script><p>a title</p>"}, "a title"), ({"text/html": "<canvas></canvas>"}, "a canvas that a script would draw"),
    ({"text/html": "<object data='a.swf'></object>"}, "an embedded object"), ({"text/html": "<script src='https://cdn/leaflet.js'></script><div></div>"}, "a Leaflet map"),
    ({"text/vnd.mermaid": "graph TD"}, "graph TD"), ({"application/geo+json": {"type": "Point"}}, "Point"), ({"application/json": [1, {"é": None}]}, "é"),
    ({"text/html": "<iframe srcdoc='&lt;script src=leaflet.js&gt;'></iframe>", "text/plain": "<folium.Map object at 0x7>"}, "a Leaflet map"),
    ({"image/png": PNG + "\n", "text/html": "<div><script>Plotly.x()</script></div>"}, f"base64,{PNG}\""),
    ({"text/html": ""}, "Not shown"), ({"text/html": "<div></div>", "text/plain": "the plain form"}, "the plain form")])
def test_a_form_is_chosen_by_what_can_be_seen(data, shows):
    if data == {"text/html": ""}: assert "Not shown" not in body(shown(data)); return
    assert shows in body(shown(data))


def test_no_form_of_our_own_record_is_called_missing():
    assert "Not shown" not in body(shown({"application/vnd.finetune-book.record+json": {}, "text/plain": "recorded: f1"}))


def test_widgets_inside_each_other_and_hostile_states():
    state = {"a": {"model_name": "VBoxModel", "state": {"children": ["IPY_MODEL_a", "IPY_MODEL_b", "IPY_MODEL_lost"]}},
             "b": {"model_name": "HTMLModel", "state": {"value": "<img src=x onerror=alert(1)><b>bold</b>"}},
             "c": {"model_name": "DropdownModel", "state": {"_options_labels": ["<i>one</i>", "two"], "index": 0}},
             "d": {"model_name": "OutputModel", "state": {"outputs": [{"output_type": "stream", "name": "stdout", "text": "<s>printed</s>"},
                                                                      {"output_type": "display_data", "data": {"text/plain": "plainly"}, "metadata": {}}]}},
             "e": {"model_name": "FloatProgressModel", "state": {"value": None, "max": "x"}}, "f": {"model_name": "TabModel", "state": None}}
    meta = {"widgets": {STATE: {"state": state}}}
    text = body(*(shown({VIEW: {"model_id": k}, "text/plain": "?"}) for k in "abcdef"), **meta)
    assert "<b>bold</b>" in text and "onerror" not in text and "&lt;i&gt;one" in text and "&lt;s&gt;printed" in text and "plainly" in text and text.count("Not shown: a Jupyter widget") >= 2


# --- what is inert -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("attack", [
    "<svg><script>a()</script></svg>", "<svg><style><img src=x onerror=a()></style></svg>", "<math><mtext><table><mglyph><style><img src=x onerror=a()></style></table></mtext></math>",
    "<noscript><p title='</noscript><img src=x onerror=a()>'></noscript>", "<a href='jav&#x09;ascript:a()'>x</a>", "<a href=' javascript:a()'>x</a>", "<svg><a xlink:href='javascript:a()'>x</a></svg>",
    "<form action=//x.org><input type=submit></form>", "<img src='data:text/html,<script>a()</script>'>", "<img srcset='//x.org/a.png 2x'>", "<video poster=//x.org/a.png src=//x.org/a.mp4></video>",
    "<svg><use href='data:image/svg+xml,<svg id=a onload=a()>'/></svg>", "<svg><image href='//x.org/a.png'/></svg>", "<svg><animate attributeName=href to='javascript:a()'/></svg>", "<div style='background:url(//x.org)'>x</div>",
    "<div style='background:\\75rl(//x.org)'>x</div>", "<div style='position:fixed;top:0'>x</div>", "<table background=//x.org/a.png><td>x</table>", "<details ontoggle=a() open>x</details>", "<base href=//x.org>",
    "<meta http-equiv=refresh content='0;url=//x.org'>", "<textarea></textarea><img src=x onerror=a()>", "<!--><img src=x onerror=a()>-->", "<xmp><p title='</xmp><img src=x onerror=a()>'></xmp>", "<style>@import '//x.org'</style>",
    "<plaintext><img src=x onerror=a()>", "<svg></p><style><a id='</style><img src=x onerror=a()>'>", "<img/src=x/onerror=a()>", "<iframe srcdoc='<script>a()</script>'></iframe>", "<input type=image src=//x.org/a.png>"])
def test_attacks_are_inert(attack):
    text = body(shown({"text/html": attack}), shown({"text/markdown": attack}))
    tags = re.findall(r"<[a-z][^>]*>", text)
    for tag in tags:
        assert not re.match(r"<(script|iframe|style|object|embed|link|meta|base|form|xmp|textarea|plaintext|animate|image|math:)\b", tag), tag
        bare = re.sub(r'"[^"]*"', '""', tag)
        assert not re.search(r"\son[a-z]+\s*=|\s(src|srcset|poster|background|xlink:href|action)=", bare.replace('src=""', "") if "data:image" in tag else bare), tag
        assert "javascript:" not in tag and "url(//" not in tag and "x.org" not in tag and "fixed" not in tag, tag


@pytest.mark.parametrize("css, kept", [
    ("b{color:red}", "#o1 b{color:red}"), ("b{color:red", "#o1 b{color:red}"), ("a,b>c{top:1px}", "#o1 a,#o1 b>c{top:1px}"), ("> b{top:1px}", ""), ("+b,~b,|b{top:1px}", ""), (":is(#x, .y){top:1px}", "#o1 :is(#o1-x, .y){top:1px}"),
    ("b{background:url(x)}", ""), ("b{background:URL('x')}", ""), ("b{background:\\75 rl(x)}", ""), ("b{background:image-set('x' 1x)}", ""), ("b{--x:url(x)}", ""), ("b{position:FIXED}", ""), ("b{position:sticky}", ""),
    ("b{position:var(--x)}", ""), ("@font-face{font-family:x;src:url(x)}", ""), ("@media print{b{top:1px;background:url(x)}}", "@media print{#o1 b{top:1px}}"), ("@keyframes x{from{top:0}}", ""), ("b{& i{top:1px} top:2px}", "#o1 b{top:2px}"),
    ("@supports (top:1px){@media print{b{top:1px}}}", "@supports (top:1px){@media print{#o1 b{top:1px}}}"), ("@page{margin:0}", ""), ("@layer x{b{top:1px}}", ""), ("<!-- b{top:1px} -->", "#o1 b{top:1px}"), ("}b{top:1px}", ""),
    (":root{--x:1px}", "#o1{--x:1px}"), (":root+b{top:1px}", "#o1 :root+b{top:1px}"), ("b{top:1px!important}", "#o1 b{top:1px!important}"), ("b{behavior:x}", "")])
def test_what_is_kept_of_a_style_sheet(css, kept): assert inert(f"<style>{css}</style>", "o1").css == kept


def test_a_style_sheet_cannot_end_its_element():
    text = inert("<style>b{content:'<\\/style><script>a()</script>'} b{content:'\\3c/style>'}</style>", "o1").css
    assert "</" not in text


def test_ids_of_outputs_do_not_meet_and_none_poses_as_the_page():
    one = shown({"text/html": '<b id="toggle-code">x</b><label for="t">l</label><input type="checkbox" id="t"><a href="#t">to</a><p class="code maths mine">p</p>'})
    text = body(one, one)
    assert text.count('id="toggle-code"') == 1 and 'id="o1-t"' in text and 'for="o2-t"' in text and 'href="#o2-t"' in text and 'class="mine"' in text and text.count("maths") == 0


def test_prose_of_a_cell_keeps_its_anchors():
    text = html_page(v4.new_notebook(cells=[v4.new_markdown_cell("# T\n\n[to](#Two-words)\n\n## Two words\n\n## Two words\n\n<b style='color:red'>red</b>")]))
    assert 'href="#Two-words"' in text and 'id="Two-words"' in text and 'id="Two-words-2"' in text and '<p class="paper"><b style="color:red">' in text


def test_dollars_in_data_are_no_formula():
    text = body(shown({"text/html": "costs $5 and $x_1$"}), v4.new_output("stream", text="$y$"))
    assert "$x_1$" in text and "maths" not in text and len(text) < 5_000


def test_terminal_text():
    assert coloured_text("\x1b[1mb\x1b[0m <i> \x1b[2J\x1b]0;t\x07\x00x") == '<span class="ansi-bold">b</span> &lt;i&gt; x'


def test_plain_cases_of_html():
    assert inert_html("<p>a<br>b &amp; c &nbsp; <em>d</em>") == "<p>a<br>b &amp; c &nbsp; <em>d</em></p>"
    assert inert_html('<a href="https://example.org/x?a=1&amp;b=2">w</a> <a href="runs/a/b.html">r</a>') == '<a href="https://example.org/x?a=1&amp;b=2">w</a> <a href="runs/a/b.html">r</a>'


# --- pictures of the folder ----------------------------------------------------------------------------------------

def test_only_pictures_of_the_folder_are_carried(tmp_path):
    home = tmp_path / "home"
    (home / "deep er").mkdir(parents=True)
    for place in (home / "a.png", home / "deep er" / "b.jpg", tmp_path / "secret.png"): place.write_bytes(picture("PNG", "red"))
    (home / "notes.txt").write_text("secret")
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    asked = ["a.png", "deep%20er/b.jpg", "./a.png?x=1", "../secret.png", str(tmp_path / "secret.png"), "notes.txt", "link.png", "file:a.png", "//a.png", "nothing.png", "deep er"]
    nb = v4.new_notebook(cells=[v4.new_markdown_cell("\n".join(f"![p]({a})" for a in asked)),
                                v4.new_code_cell("x", outputs=[shown({"text/html": "".join(f'<img src="{a}">' for a in asked)}), shown({"text/markdown": "![p](a.png)"})])])
    carry_pictures(nb, home)
    assert set(nb.cells[0].attachments) == {"a.png", "deep%20er/b.jpg", "./a.png?x=1"} and set(nb.cells[0].attachments["deep%20er/b.jpg"]) == {"image/jpeg"}
    text = html_page(nb)
    assert text.count("<img") == 3 + 3 + 1 and "../secret.png" in text and "secret</" not in text


# --- rendering -----------------------------------------------------------------------------------------------------

def test_a_template_of_another_is_not_used(tmp_path, monkeypatch):
    for name in ("lab", "base"):
        folder = tmp_path / "nbconvert" / "templates" / name
        folder.mkdir(parents=True)
        (folder / "base.html.j2").write_text("hijacked")
        (folder / "conf.json").write_text("{}")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert "hijacked" not in body(shown({"text/html": "<b>x</b>"}))


CELL = """
import pandas as pd
from IPython.display import HTML, JSON, Image, Markdown, display
from tqdm.auto import tqdm
frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
display(frame, frame[["a"]].style.highlight_max(color="yellow").set_caption("styled"), JSON({"k": 1}), Image(filename=gif))
display({"application/vnd.plotly.v1+json": {}, "text/html": "<div><script>Plotly.newPlot()</script></div>"}, raw=True)
display(Markdown("![local](beside.png)"))
for i in tqdm(range(4), desc="over"): pass
"""


@pytest.fixture
def template(tmp_path):
    shutil.copy(HOME / "beside.png", tmp_path / "beside.png")
    (tmp_path / "a.gif").write_bytes(base64.b64decode(GIF))
    return write_template(tmp_path / "mine.ipynb", f"gif = {str(tmp_path / 'a.gif')!r}  # a file", CELL)


def test_a_notebook_that_runs_shows_what_it_made(template, tmp_path):
    done = run_report(template, {}, tmp_path / "out", progress=False)
    text = done.html.read_text(encoding="utf-8")
    text = text[text.index("<style>"):text.rindex("<script>")]
    assert 'class="dataframe"' in text and ">styled</caption>" in text and "background-color:yellow" in text and "&quot;k&quot;: 1" in text or '"k": 1' in text
    assert f"data:image/gif;base64,{GIF}" in text and "Not shown: a Plotly figure" in text and 'alt="local"' in text and "4/4" in text and "0/4" not in text
    assert html_page(__import__("nbformat").read(done.ipynb, as_version=4)) == done.html.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_made_is_a_failed_page(template, tmp_path, monkeypatch):
    good = run_report(template, {}, tmp_path / "out", progress=False).html.read_bytes()
    def broken(*args, **kw): raise KeyError("a form nobody thought of")
    monkeypatch.setattr(page_module, "arranged", broken)
    with pytest.raises(NotRendered, match="the page could not be made: KeyError: 'a form nobody thought of'") as found:
        run_report(template, {}, tmp_path / "out", progress=False)
    assert found.value.exit_code == 7 and (tmp_path / "out/mine.html").read_bytes() == good
    page = (tmp_path / "out/mine.failed.html").read_text(encoding="utf-8")
    assert found.value.page == tmp_path / "out/mine.failed.html" and "a form nobody thought of" in page and "The last good report is untouched" in page


def test_an_own_fault_is_not_hidden(monkeypatch):
    monkeypatch.setattr(page_module, "one_form", lambda *a: 1 / 0)
    with pytest.raises(NotRendered, match="ZeroDivisionError"): html_page(v4.new_notebook(cells=[v4.new_code_cell("x", outputs=[shown({"text/plain": "x"})])]))
