"""A notebook that holds every common kind of output, built by hand: none of the packages that make them is needed.

    python tests/helpers/outputs.py        writes tests/fixtures/reports/outputs.ipynb and the picture beside it
"""
import base64
import io
import wave
from pathlib import Path

import nbformat
from nbformat import v4
from PIL import Image

HOME = Path(__file__).parents[1] / "fixtures" / "reports"
VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"


def picture(kind, colour, size=(40, 24)):
    "A picture in one colour, as bytes."
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def moving():
    "A GIF of two frames."
    frames, buffer = [Image.new("P", (16, 16), i) for i in (1, 2)], io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)
    return buffer.getvalue()


def tone():
    "A hundredth of a second of silence, as WAV."
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as f:
        f.setnchannels(1); f.setsampwidth(1); f.setframerate(8000); f.writeframes(bytes([128] * 80))
    return buffer.getvalue()


def b64(data): return base64.b64encode(data).decode()


PNG, JPEG, GIF, WAV = b64(picture("PNG", "teal")), b64(picture("JPEG", "olive")), b64(moving()), b64(tone())
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20" width="120"><circle cx="10" cy="10" r="8" fill="#0b57b0"/></svg>'
# What pandas 3 writes of a frame and of a Styler, and what the others write, shortened.
FRAME = """<div>
<style scoped>
    .dataframe tbody tr th:only-of-type { vertical-align: middle; }
    .dataframe thead th { text-align: right; }
</style>
<table border="1" class="dataframe"><thead><tr style="text-align: right;"><th></th><th>a</th><th>b</th></tr></thead>
<tbody>%s</tbody></table><p>30 rows × 2 columns</p></div>""" % "".join(f"<tr><th>{i}</th><td>{i * i}</td><td>costs ${i} and $x_{i}$</td></tr>" for i in range(30))
STYLER = """<style type="text/css">
#T_8f2 caption { color: #333; } #T_8f2_row1_col0, #T_8f2_row1_col1 { background-color: yellow; }
body { display: none } + section, ~ p { display: none } @import "//example.org/a.css"; #T_8f2 th { background: url(//example.org/t.png) }
</style>
<table id="T_8f2"><caption>the largest</caption><thead><tr><th class="blank level0">&nbsp;</th><th id="T_8f2_level0_col0">a</th><th>b</th></tr></thead>
<tbody><tr><th>0</th><td id="T_8f2_row0_col0">1</td><td>3</td></tr><tr><th>1</th><td id="T_8f2_row1_col0" class="data">2</td><td id="T_8f2_row1_col1">4</td></tr></tbody></table>"""
PLOTLY = '<div><script src="https://cdn.plot.ly/plotly-3.0.0.min.js"></script><div id="z" class="plotly-graph-div"></div><script type="text/javascript">Plotly.newPlot("z",[])</script></div>'
ALTAIR = '<div id="altair-viz-1"></div><script type="text/javascript">(function(spec){vegaEmbed("#altair-viz-1", spec)})({})</script>'
BOKEH = '<div id="p1001" data-root-id="p1001" style="display: contents;"></div>'
FOLIUM = '<div style="width:100%"><iframe srcdoc="&lt;script&gt;L.map()&lt;/script&gt;" style="height:400px"></iframe></div>'
STATES = {
    "box": ("HBoxModel", {"children": ["IPY_MODEL_left", "IPY_MODEL_bar", "IPY_MODEL_right"]}),
    "left": ("HTMLModel", {"value": "100%"}), "bar": ("FloatProgressModel", {"value": 40.0, "max": 40.0, "bar_style": "success"}),
    "right": ("HTMLModel", {"value": " 40/40 [00:02&lt;00:00, 19.9it/s]"}),
    "slider": ("IntSliderModel", {"description": "depth", "value": 7}), "map": ("MapModel", {"zoom": 3}),
}


def shown(data, **metadata): return v4.new_output("display_data", data, metadata=metadata)


def result(data): return v4.new_output("execute_result", data, execution_count=1)


def printed(text, name="stdout"): return v4.new_output("stream", text=text, name=name)


OUTPUTS = {
    "DataFrame": [result({"text/html": FRAME, "text/plain": "    a   b"})],
    "Styler": [result({"text/html": STYLER, "text/plain": "<pandas.io.formats.style.Styler at 0x7f>"})],
    "Markdown": [shown({"text/markdown": "**bold** and $y = x^2$\n\n| a | b |\n|---|---|\n| 1 | 2 |", "text/plain": "<IPython.core.display.Markdown object>"})],
    "LaTeX": [shown({"text/latex": "$\\displaystyle \\frac{1}{2}$", "image/png": PNG, "text/plain": "1/2"})],
    "PNG": [shown({"image/png": PNG, "text/plain": "<Figure size 640x480 with 1 Axes>"}, **{"image/png": {"width": 80}})],
    "SVG": [shown({"image/svg+xml": SVG, "text/plain": "<IPython.core.display.SVG object>"})],
    "JPEG": [shown({"image/jpeg": JPEG, "text/plain": "<IPython.core.display.Image object>"})],
    "GIF": [shown({"image/gif": GIF, "text/plain": "<IPython.core.display.Image object>"})],
    "HTML with a picture of the folder": [shown({"text/html": '<img src="beside.png" alt="beside">', "text/plain": "<IPython.core.display.Image object>"})],
    "Plotly": [shown({"application/vnd.plotly.v1+json": {"data": [], "layout": {}}, "text/html": PLOTLY, "text/plain": "Figure({})"})],
    "Plotly with its PNG": [shown({"application/vnd.plotly.v1+json": {"data": []}, "text/html": PLOTLY, "image/png": PNG})],
    "Altair": [result({"application/vnd.vegalite.v5+json": {"mark": "bar"}, "text/html": ALTAIR, "text/plain": "alt.Chart(...)"})],
    "Altair with its SVG": [result({"application/vnd.vegalite.v5+json": {"mark": "bar"}, "image/svg+xml": SVG, "text/plain": "alt.Chart(...)"})],
    "Bokeh": [shown({"text/html": BOKEH}), shown({"application/javascript": "Bokeh.embed()", "application/vnd.bokehjs_exec.v0+json": ""})],
    "Folium": [result({"text/html": FOLIUM, "text/plain": "<folium.folium.Map at 0x7f>"})],
    "JavaScript": [shown({"application/javascript": "alert(1)", "text/plain": "<IPython.core.display.Javascript object>"})],
    "unknown": [shown({"application/x-something": "1", "text/plain": "<thing object at 0x7f>"})],
    "bar of widgets": [shown({VIEW: {"model_id": "box", "version_major": 2, "version_minor": 0}, "text/plain": "  0%|          | 0/40 [00:00<?, ?it/s]"})],
    "slider": [shown({VIEW: {"model_id": "slider"}, "text/plain": "IntSlider(value=7)"})],
    "map widget": [shown({VIEW: {"model_id": "map"}, "text/plain": "Map(zoom=3)"})],
    "bar without state": [shown({VIEW: {"model_id": "gone"}, "text/plain": "Reading:   0%|          | 0/40 [00:00<?, ?it/s]"})],
    "widget without state": [shown({VIEW: {"model_id": "gone"}, "text/plain": "IntSlider(value=5)"})],
    "bar of text": [printed("\r  0%|          | 0/4", "stderr"), printed("\r 50%|#####     | 2/4\r100%|##########| 4/4\n", "stderr")],
    "JSON": [shown({"application/json": {"a": [1, 2], "b": "</pre><script>x</script>"}, "text/plain": "<IPython.core.display.JSON object>"})],
    "ANSI": [printed("\x1b[31mred\x1b[0m \x1b[1;38;5;208mbold orange\x1b[0m \x1b[43;30mon yellow\x1b[0m \x1b]8;;http://example.org\x07link\x1b]8;;\x07")],
    "error": [v4.new_output("error", ename="ZeroDivisionError", evalue="division by zero",
                            traceback=["\x1b[31m----\x1b[39m", "\x1b[31mZeroDivisionError\x1b[39m Traceback (most recent call last)", "\x1b[32m----> 1\x1b[39m 1/0", "ZeroDivisionError: division by zero"])],
    "very long": [printed("".join(f"line {i} of three hundred\n" for i in range(300)))],
    "audio": [shown({"text/html": f'<audio controls="controls"><source src="data:audio/wav;base64,{WAV}" type="audio/wav" />no sound</audio>', "text/plain": "<IPython.lib.display.Audio object>"})],
    "video": [shown({"text/html": '<video controls width="120"><source src="data:video/mp4;base64,AAAA" type="video/mp4"></video>', "text/plain": "<IPython.core.display.Video object>"})],
    "remote picture": [shown({"text/html": '<img src="https://example.org/cat.png"/>', "text/plain": "<IPython.core.display.Image object>"})],
    "a scikit-learn diagram": [result({"text/html": '<style>#sk-1 {color: var(--c)} #sk-1 div.box {border: 1px solid; padding: .3em} @media (prefers-color-scheme: dark) {#sk-1 {--c: #fff}}</style>'
                                       '<div id="sk-1"><div class="box"><input type="checkbox" id="sk-2"><label for="sk-2">LogisticRegression</label></div></div><script>function copyToClipboard() {}</script>', "text/plain": "LogisticRegression()"})],
    "drawing in HTML": [shown({"text/html": '<svg viewBox="0 0 40 20" width="120" onload="alert(1)"><defs><linearGradient id="g"><stop offset="0" stop-color="red"/></linearGradient></defs>'
                               '<rect width="20" height="20" fill="url(#g)"/><use href="https://example.org/a.svg#b"/><foreignObject><iframe src="//example.org"></iframe></foreignObject><text x="22" y="12" font-size="6">SHAP</text></svg>'})],
}
TAGGED = {"remove-input": "printed here", "remove_output": "never shown output", "remove-cell": "never shown cell", "hide-output": "behind a summary"}


def outputs_notebook():
    "The notebook; each output stands below a heading with its name."
    cells = [v4.new_markdown_cell("# Every kind of output\n\n> One of each.\n\nA picture that was pasted ![pasted](attachment:pasted.png), one that lies beside ![beside](beside.png), "
                                  "one in HTML <img src=\"attachment:pasted.png\" width=\"50\">, one that is nowhere ![nowhere](attachment:nowhere.png), one that is outside ![outside](../../../data/outside.png)."),
             v4.new_code_cell("x = 1  # a number [0..9]", metadata={"tags": ["parameters"]})]
    cells[0]["attachments"] = {"pasted.png": {"image/png": PNG}}
    for name, outputs in OUTPUTS.items():
        cells += [v4.new_markdown_cell(f"## {name}"), v4.new_code_cell(f"show({name!r})", outputs=outputs)]
    cells.append(v4.new_markdown_cell("## Tags"))
    cells += [v4.new_code_cell(f"tagged_{tag.replace('-', '_')}()", outputs=[printed(f"{text}\n")], metadata={"tags": [tag]}) for tag, text in TAGGED.items()]
    cells += [v4.new_markdown_cell("## Folded\n\nInside the fold.", metadata={"tags": ["fold"]}), v4.new_code_cell("more()", outputs=[printed("also inside\n")]),
              v4.new_markdown_cell("### A smaller heading\n\nstill inside\n\n## After the fold\n\noutside")]
    top = shown({"text/html": '<section class="answer"><p class="verdict">Fine-tuning pays.</p><p class="score"><strong>.84</strong> [.80, .88] of 400 texts</p>'
                 '<dl class="facts"><dt>Floor</dt><dd>.66 (TF-IDF)</dd><dt>Data</dt><dd>clinic notes, 3 classes</dd></dl><ul class="wary"><li>12 texts are cut.</li></ul><p class="cost">40 s, 900 MB</p></section>'},
                finetune_book={"place": "top"})
    cells.append(v4.new_code_cell("answer()", outputs=[top]))
    for i, cell in enumerate(cells): cell["id"] = f"cell-{i}"
    for cell in cells:
        if cell.cell_type == "code": cell.execution_count = 1
    states = {k: {"model_name": name, "model_module": "@jupyter-widgets/controls", "model_module_version": "2.0.0", "state": state} for k, (name, state) in STATES.items()}
    about = {"title": "Every kind of output", "language_info": {"name": "python"}, "widgets": {STATE: {"state": states, "version_major": 2, "version_minor": 0}}}
    return v4.new_notebook(cells=cells, metadata=about)


if __name__ == "__main__":
    (HOME / "beside.png").write_bytes(picture("PNG", "purple"))
    nbformat.write(outputs_notebook(), HOME / "outputs.ipynb")
    print(HOME / "outputs.ipynb")
