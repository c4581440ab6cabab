"""Draw nbs/pictures/report.png, the picture on the README and on the home page: the first screen of a report.

    python tools/picture.py REPORT.html     needs Chromium; `make picture` makes the report first
"""
import argparse
import shutil
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "nbs/pictures/report.png"
WIDTH, HEIGHT, COLOURS = 1000, 725, 64


def chromium():
    "Where a Chromium is, or None."
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def first_screen(page, width=WIDTH, height=HEIGHT):
    "What a reader sees of a page before scrolling, as a PNG."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            tab.goto(Path(page).resolve().as_uri())
            tab.wait_for_load_state("networkidle")
            return tab.screenshot()
        finally: browser.close()


def small(png, colours=COLOURS):
    "The same picture with few colours: a tenth of the bytes."
    from PIL import Image
    out = BytesIO()
    with Image.open(BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)
    return out.getvalue()


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("report", type=Path)
    report = args.parse_args().report
    if chromium() is None: raise SystemExit("no chromium on the PATH (Debian: apt-get install chromium)")
    TARGET.write_bytes(small(first_screen(report)))
    print(f"{TARGET.relative_to(ROOT)}: {TARGET.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
