"""Open a report in a real browser without a network, and say what is wrong with it.

    python tests/helpers/page_check.py reports/finetune_text.html [--shots FOLDER]
"""
import json
import re
import shutil
import sys
from pathlib import Path

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
TEX = re.compile(r"\$\$|\\(?:frac|sum|ln|mathrm|hat|bar|text|qquad|tag|Delta|begin)(?![a-zA-Z])|(?<![\\\w])\$[^$\n]{0,40}[\\_^{][^$\n]*\$")

# Text outside code and formulas, as a reader sees it.
PROSE = """() => {
  const parts = [], walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  for (let n; n = walk.nextNode();) if (!n.parentElement.closest('pre,code,table,mjx-container,script,style')) parts.push(n.data);
  return parts.join(' ');
}"""

# WCAG 2.2, 1.4.3: contrast of each visible text with what lies behind it.
CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return [m[0], m[1], m[2], m[3] === undefined ? 1 : m[3]]; };
  const part = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => .2126 * part(c[0]) + .7152 * part(c[1]) + .0722 * part(c[2]);
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const behind = e => { const layers = []; for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
                        return layers.reverse().reduce((below, c) => over(c, below), [255, 255, 255, 1]); };
  const found = {}, walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n; n = walk.nextNode();) {
    const e = n.parentElement;
    if (!n.data.trim() || e.closest('script,style,noscript,mjx-assistive-mml') || !e.getClientRects().length) continue;
    const back = behind(e), fore = over(parse(getComputedStyle(e).color), back), [a, b] = [light(fore), light(back)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05), key = fore.slice(0, 3).map(Math.round) + ' on ' + back.slice(0, 3).map(Math.round);
    if (!(key in found)) found[key] = [Math.round(ratio * 100) / 100, n.data.trim().slice(0, 30)];
  }
  return found;
}"""


def examine(path, shots=None):
    """What a browser makes of a page that has no network.

    Returns
    -------
    dict: requests (other than the page itself), errors, raw_tex, no_alt, no_scope, title, contrast (theme to lowest ratio and its text),
    code (visible before, after the toggle, on paper after it, on paper before it, all), formulas, images, wide (elements cut off), pdf (bytes)
    """
    from playwright.sync_api import sync_playwright
    shoot = (lambda name: page.screenshot(path=Path(shots) / f"{name}.png", full_page=True)) if shots else lambda name: None
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_context(offline=True, viewport={"width": 1000, "height": 1200}).new_page()
        requests, errors, found = [], [], {}
        page.on("request", lambda r: requests.append(r.url))
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("dialog", lambda d: (errors.append(f"dialog: {d.message}"), d.dismiss()))
        page.goto(Path(path).resolve().as_uri())
        page.wait_for_function("!window.MathJax || (window.MathJax.startup && window.MathJax.startup.promise)")
        page.evaluate("window.MathJax && window.MathJax.startup.promise")
        def code(): return page.locator(".code:visible").count()
        before = code()
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            found[theme] = page.evaluate(CONTRAST)
            shoot(theme)
        page.emulate_media(media="print", color_scheme="light")
        paper_before = code()
        shoot("print")
        pdf = page.pdf(path=Path(shots) / "page.pdf" if shots else None, format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "15mm"))
        page.emulate_media(media="screen", color_scheme="light")
        page.click("#toggle-code")
        after = code()
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            found[theme] |= page.evaluate(CONTRAST)
        page.emulate_media(media="print")
        result = {
            "requests": [r for r in requests if not r.startswith("data:")][1:], "errors": errors, "title": page.title(),
            "raw_tex": TEX.findall(page.evaluate(PROSE)), "images": page.evaluate("document.images.length"),
            "no_alt": page.evaluate("[...document.images].filter(i => !i.alt.trim()).length"), "no_scope": page.locator("th:not([scope])").count(),
            "contrast": {theme: min((ratio, text, colours) for colours, (ratio, text) in pairs.items()) for theme, pairs in found.items()},
            "code": {"before": before, "after": after, "paper before": paper_before, "paper after": code(), "all": page.locator(".code").count()},
            "formulas": page.locator("mjx-container").count(), "spoken": page.locator("mjx-container mjx-assistive-mml math").count(), "pdf": len(pdf)}
        page.emulate_media(media="screen")
        result["wide"] = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        browser.close()
    return result


def problems(found, formulas=None):
    "What is wrong with a page, in words; an empty list if nothing."
    wrong = [f"{what}: {found[what]}" for what in ("requests", "errors", "raw_tex", "no_alt", "no_scope") if found[what]]
    wrong += [f"contrast {low[0]} in {theme}: {low[1:]}" for theme, low in found["contrast"].items() if low[0] < 4.5]
    code = found["code"]
    if not (code["before"] == code["paper before"] == 0 < code["after"] == code["paper after"] == code["all"]): wrong += [f"code cells shown: {code}"]
    if found["formulas"] != found["spoken"]: wrong += [f"{found['formulas']} formulas, {found['spoken']} of them for screen readers"]
    if found["wide"] > 0: wrong += [f"{found['wide']} pixels wider than the window"]
    if found["pdf"] < 10_000: wrong += ["no PDF"]
    return wrong


if __name__ == "__main__":
    shots = sys.argv[sys.argv.index("--shots") + 1] if "--shots" in sys.argv else None
    found = examine(sys.argv[1], shots)
    print(json.dumps(found, indent=1))
    print("\n".join(problems(found)) or "nothing wrong")
    sys.exit(bool(problems(found)))
