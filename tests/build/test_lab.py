"""A real JupyterLab in a real browser: a reader opens a lesson, runs all its cells, and meets no error."""
import ast
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import lab as tool
import numpy as np
import pytest
from bs4 import BeautifulSoup

from finetune_book.exercises.forms import stub_cell
from finetune_book.exercises.judging import judge_answer
from finetune_book.exercises.notes import Note
from finetune_book.exercises.shelf import exercises_of, lessons_asking

REPO = Path(__file__).parents[2]
CHROMIUM = next((p for p in ("/usr/bin/chromium", shutil.which("chromium"), shutil.which("chromium-browser"), shutil.which("google-chrome"))
                 if p and Path(p).exists()), None)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)")
LESSONS = sorted(p.relative_to(REPO / "nbs").as_posix() for p in (REPO / "nbs").rglob("[0-9][0-9]_*.ipynb") if ".ipynb_checkpoints" not in p.parts)
QUICK = ["1_ground/11_losses.ipynb", "7_beyond/72_fractals.ipynb"]
DRIVEN = LESSONS if os.environ.get("FINETUNE_BOOK_LAB_TESTS") == "all" else QUICK   # `make test-lab` drives them all
PICTURES = os.environ.get("FINETUNE_BOOK_LAB_PICTURES")     # a folder: pictures of a wrong and of a right answer of each driven lesson
PATIENCE = 180   # seconds for what is done in a few on an idle machine
TAB = ".lm-DockPanel-tabBar .lm-TabBar-tab.lm-mod-current"
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"}}     # every cell is on the page, also those far below


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, seconds, every=.3):
    "Call `what` until it gives something true; its last answer is in the error when it never does."
    end, answer = time.monotonic() + seconds, None
    while time.monotonic() < end:
        if answer := what(): return answer
        time.sleep(every)
    raise TimeoutError(f"waited {seconds} s for {what.__name__}, last answer {answer!r}")


class Lab:
    "What `make lab` starts, over a working copy in `folder`, with a home of its own; nothing of the user is touched."

    def __init__(self, folder):
        self.root, self.home, self.token, self.port = folder / "copy", folder / "home", secrets.token_hex(8), free_port()
        self.home.mkdir()
        for name, setting in SETTINGS.items():
            path = self.home / f"config/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(setting))
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IPYTHON", "IN_TEST", "FINETUNE_BOOK", "XDG_"))}
        env = {**keep, "HOME": str(self.home), "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1",
               **{f"JUPYTER_{d}_DIR": str(self.home / d.lower()) for d in ("CONFIG", "DATA", "RUNTIME")}, "IPYTHONDIR": str(self.home / "ipython")}
        command = [sys.executable, REPO / "tools/lab.py", "--into", self.root, "--no-browser", "--ip=127.0.0.1", f"--port={self.port}",
                   "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0: command.append("--allow-root")
        self.log = open(folder / "lab.log", "w")
        self.process = subprocess.Popen(command, env=env, cwd=folder, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)

    def api(self, path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}", method=method, headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            said = answer.read()
            return json.loads(said) if said else None

    def up(self):
        assert self.process.poll() is None, Path(self.log.name).read_text()[-3000:]
        try: return self.api("status")
        except OSError: return None

    def url(self, notebook): return f"http://127.0.0.1:{self.port}/lab/tree/{notebook}?token={self.token}&reset"

    def front(self): return f"http://127.0.0.1:{self.port}/?token={self.token}"

    def close(self):
        "End the server and its kernels: they share a process group or are its children."
        import psutil
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        try: os.killpg(self.process.pid, signal.SIGTERM)
        except ProcessLookupError: pass
        try: self.process.wait(10)
        except subprocess.TimeoutExpired: os.killpg(self.process.pid, signal.SIGKILL)
        for child in psutil.wait_procs(children, timeout=5)[1]: child.kill()
        self.log.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        wait_for(lab.up, PATIENCE)
        yield lab
    finally: lab.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


def opened(page, lab, address):
    "Go to a page of the lab and wait until the notebook on it has its kernel."
    page.goto(address, timeout=PATIENCE * 1000)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=PATIENCE * 1000)


def save(page):
    "Save the notebook, and wait until the page says that it is saved."
    page.keyboard.press("Control+s")
    page.wait_for_selector(f"{TAB}:not(.jp-mod-dirty)", timeout=PATIENCE * 1000)


def run_all_cells(lab, page, notebook, seconds=900):
    """Open, Run → Run All Cells, wait until all is done, save; its code cells as they then stand in the file.

    The file is read as it is, not asked of the server: asked while it writes, the server takes the half file for a broken one and
    moves it away, and the page is told that its save failed.
    """
    opened(page, lab, lab.url(notebook))
    def connected():
        mine = [s["kernel"] for s in lab.api("sessions") if s["path"] == notebook]
        return mine and mine[0]["connections"] and mine[0]["execution_state"] == "idle"
    wait_for(connected, PATIENCE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    calm, kernel_asked = [0], page.locator(".jp-Dialog .jp-mod-accept", has_text="Select")
    def done():
        if kernel_asked.count(): kernel_asked.first.click()  # a page that loads slowly asks which kernel to use
        # The kernel is idle for a moment between two cells, so both signs must hold four times in a row.
        idle = all(k["execution_state"] == "idle" for k in lab.api("kernels")) and not page.locator(".jp-InputPrompt", has_text="[*]").count()
        calm[0] = calm[0] + 1 if idle else 0
        if calm[0] < 4: return None
        save(page)
        nb = read(lab.root / notebook)
        code = [c for c in nb["cells"] if c["cell_type"] == "code" and "".join(c["source"]).strip()]
        stopped = any(o["output_type"] == "error" for c in code for o in c["outputs"])
        return code if stopped or all(c["execution_count"] for c in code) else None
    return wait_for(done, seconds)


def end_kernels(lab):
    "The kernel of a lesson holds a gigabyte: it ends with its page."
    for kernel in lab.api("kernels"): lab.api(f"kernels/{kernel['id']}", "DELETE")


def written(nbs=REPO / "nbs"):
    "A hash of every notebook of the checkout."
    return {p.as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in nbs.rglob("*.ipynb")}


def outputs(code, kind): return [o for c in code for o in c["outputs"] if kind in o.get("data", {})]


def pictures(code):
    "Alternative texts of the pictures among the outputs, '' where one has none; `show` writes HTML in the lab."
    shown = [img.get("alt", "") for o in outputs(code, "text/html") for img in BeautifulSoup("".join(o["data"]["text/html"]), "html.parser").find_all("img")]
    return shown + ["" for kind in ("image/png", "image/jpeg", "image/svg+xml") for _ in outputs(code, kind)]


# Functions that a reader would write: exercise: (name of the usual mistake, its body, a right body). In other lessons a number or a letter is typed.
WRITTEN = {
    "11.1": ("bias_turned", "return (y - sigmoid(X @ theta + b)).mean()", "return np.mean(sigmoid(X @ theta + b) - y)"),
    "31.1": ("balanced_plain", "return (y == pred).mean()", "return np.mean([(pred[y == k] == k).mean() for k in set(y)])"),
    "72.3": ("fixed_point_shift", "return b", "return np.linalg.inv(np.eye(2) - A) @ b"),
}


def to_try(number):
    "The exercise of a lesson that is answered in the browser; None where it has none."
    asked = exercises_of(number).values()
    return next((e for e in asked if e.id in WRITTEN), None) or next((e for e in asked if e.kind != "function"), None)


def tries(exercise):
    "[(what to type in the place of the dots, the note it gets), …]: a usual mistake, then a right answer."
    if exercise.id in WRITTEN:
        mistake, wrong, right = WRITTEN[exercise.id]
        why = next(why for m, why in exercise.explained() if m.__name__ == mistake)
    else:
        (mistake, why), right = exercise.explained()[0], repr(np.asarray(exercise.solution).tolist())
        wrong = repr(np.asarray(mistake).tolist())
    title = f"{exercise.id} {exercise.title}"
    return [(wrong, Note("mistake", title, tuple(why.split("\n\n")))), (right, Note("right", title, tuple(exercise.reason.split("\n\n"))))]


@pytest.mark.parametrize("number", lessons_asking())
def test_what_is_typed_in_the_browser_gets_its_note(number):
    exercise = to_try(number)
    for answer, due in tries(exercise):
        if exercise.kind == "function": continue   # written with the names of the lesson, so it is judged there
        assert judge_answer(exercise, ast.literal_eval(answer)) == due


def rewrite(page, line, text):
    "Put the caret into a line of a cell, mark all of it, and type."
    line.click()
    for key in ("Home", "Home", "Shift+End"): page.keyboard.press(key)
    page.keyboard.type(text)
    assert line.inner_text() == text


def says(cell, note):
    "Whether the output of a cell is that note, be it only after the run that is under way."
    shown = " ".join(" ".join(cell.locator(".jp-OutputArea-output .exercise").all_inner_texts()).split())
    return all(" ".join(part.replace("`", "").split()) in shown for part in (note.head, *note.words))


def wrong_then_right(page, notebook, code):
    "Answer one exercise of the lesson, first with a usual mistake, then right; each time its note has to come."
    number = Path(notebook).name[:2]
    exercise = to_try(number)
    if exercise is None:
        assert not any('check("' in "".join(c["source"]) for c in code), "the lesson asks, and nothing answers"
        return
    stub = stub_cell(exercise).splitlines()
    at, line = next((i, line) for i, line in enumerate(stub) if "..." in line)
    cell = page.locator(".jp-CodeCell", has_text=f'check("{exercise.id}"')
    dots = re.compile(r"\(\.\.\.(?:, \.\.\.)+\)|\.\.\.")
    for state, (answer, note) in zip(("wrong", "right"), tries(exercise)):
        rewrite(page, cell.locator(".cm-line").nth(at), dots.sub(lambda _: answer, line, count=1))
        page.keyboard.press("Control+Enter")
        def told(): return says(cell, note)
        wait_for(told, PATIENCE)
        if PICTURES: picture(page, cell, Path(PICTURES) / f"{number}_{state}.png")


def picture(page, cell, path):
    "The page with the cell and the question above it."
    cell.evaluate("cell => (cell.previousElementSibling || cell).scrollIntoView({block: 'start'})")
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path)


@in_browser
@pytest.mark.parametrize("notebook", DRIVEN)
def test_a_lesson_runs_in_the_browser(lab, browser, tmp_path, notebook):
    before, page = written(), browser.new_page(viewport={"width": 1300, "height": 900})
    stored = json.loads((REPO / "nbs" / notebook).read_text(encoding="utf-8"))["cells"]
    try:
        code = run_all_cells(lab, page, notebook)
        assert [o["evalue"] for c in code for o in c["outputs"] if o["output_type"] == "error"] == []
        assert [o["text"] for c in code for o in c["outputs"] if o.get("name") == "stderr" and "%|" not in "".join(o["text"])] == []
        assert len(code) > 5 and all(c["execution_count"] for c in code)
        had = sum("image/png" in o.get("data", {}) for c in stored for o in c.get("outputs", ()))
        assert len(pictures(code)) >= had and all(pictures(code)), "a picture without words"
        words = "".join("".join(c["source"]) for c in stored if c["cell_type"] == "markdown")
        if "$" in words: wait_for(page.locator("mjx-container").count, PATIENCE)
        assert page.locator("mjx-merror").count() == 0, "an equation that is not rendered"
        silent = page.eval_on_selector_all(".jp-OutputArea-output img", "all => all.filter(i => !i.alt.trim()).length")
        assert silent == 0, "a picture whose words the page does not have"
        page.screenshot(path=tmp_path / "lesson.png")
        assert (tmp_path / "lesson.png").stat().st_size > 20_000
        wrong_then_right(page, notebook, code)
    finally:
        page.close()
        end_kernels(lab)
    assert written() == before, "reading, running and saving must leave the checkout as it is"


@in_browser
def test_the_lab_opens_at_the_start(lab, browser):
    shutil.rmtree(lab.home / "config/lab/workspaces", ignore_errors=True)   # a first visit: no lesson is remembered as open
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    try:
        opened(page, lab, lab.front())
        begin = page.locator(".jp-RenderedMarkdown", has_text="Start here.").first
        begin.wait_for(state="visible", timeout=PATIENCE * 1000)
        assert begin.bounding_box()["y"] < 600, "on the first screen"
        tab = page.locator(TAB)
        assert "00_map.ipynb" in tab.inner_text() and "jp-mod-dirty" not in tab.get_attribute("class"), "opening is no change"
        kernel = page.locator(".jp-Toolbar-kernelName").inner_text()
        assert kernel == "Python 3 (ipykernel)" and page.locator(".jp-Dialog").count() == 0
        assert page.get_by_text("Jupyter news", exact=False).count() == 0, "no prompt"
        table = page.locator(".jp-OutputArea-output a", has_text="11 Cross-entropy")
        assert table.count() == 1, "the table of lessons leads to them"
        table.click()
        page.wait_for_selector(".lm-TabBar-tabLabel:has-text('11_losses.ipynb')", timeout=PATIENCE * 1000)
    finally:
        page.close()
        end_kernels(lab)


@in_browser
def test_an_error_in_a_cell_is_seen(lab, browser):
    nb = json.loads((REPO / "nbs/library/figures.ipynb").read_text(encoding="utf-8"))
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    nb["cells"] = [{**cell, "id": "a", "source": "1 + 1"}, {**cell, "id": "b", "source": "1/0"}]
    (lab.root / "broken.ipynb").write_text(json.dumps(nb))
    page = browser.new_page()
    try: code = run_all_cells(lab, page, "broken.ipynb")
    finally: page.close()
    assert [o["ename"] for c in code for o in c["outputs"] if o["output_type"] == "error"] == ["ZeroDivisionError"]


def test_nothing_is_left_running(tmp_path):
    lab = Lab(tmp_path)
    try: wait_for(lab.up, PATIENCE)
    finally: lab.close()
    assert lab.process.poll() is not None
    with socket.socket() as s: assert s.connect_ex(("127.0.0.1", lab.port)) != 0


# --- the working copy, without a browser ---------------------------------------------------------------------------

def read(path): return json.loads(path.read_text(encoding="utf-8"))
def write(path, nb): path.write_text(json.dumps(nb), encoding="utf-8")


@pytest.fixture
def book(tmp_path, monkeypatch):
    "Two small lessons in place of ours, and a folder for their copy."
    monkeypatch.setattr(tool, "LESSONS", tmp_path / "nbs")
    for name in ("00_map", "1_ground/11_losses"):
        path = tmp_path / f"nbs/{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "outputs": [], "source": ["1 + 1"]}
        write(path, {"cells": [cell], "metadata": {"kernelspec": {"display_name": "python3"}}, "nbformat": 4, "nbformat_minor": 5})
    return tmp_path


def test_a_copy_follows_the_book_until_a_reader_changes_it(book):
    copy, lesson = book / "copy", "1_ground/11_losses.ipynb"
    assert tool.freshen(copy) == [] and read(copy / lesson)["metadata"]["kernelspec"]["display_name"].startswith("Python 3")
    ran = read(copy / lesson)
    ran["cells"][0].update(execution_count=1, outputs=[{"output_type": "stream", "name": "stdout", "text": "2"}])
    write(copy / lesson, ran)
    source = read(book / "nbs" / lesson)
    source["cells"][0]["source"] = ["1 + 2"]
    write(book / "nbs" / lesson, source)
    assert tool.freshen(copy) == [] and read(copy / lesson)["cells"][0]["source"] == ["1 + 2"], "running a lesson is no change of it"

    answered = read(copy / lesson)
    answered["cells"][0]["source"] = ["my answer"]
    write(copy / lesson, answered)
    for _ in range(2): assert tool.freshen(copy) == [lesson] and read(copy / lesson) == answered, "an answer is never written over"
    (copy / "00_map.ipynb").write_text("{ half")
    assert tool.freshen(copy) == ["00_map.ipynb", lesson] and (copy / "00_map.ipynb").read_text() == "{ half"
    (copy / lesson).unlink()
    assert tool.freshen(copy) == ["00_map.ipynb"] and read(copy / lesson)["cells"][0]["source"] == ["1 + 2"]


def test_a_copy_without_its_record_is_the_readers(book):
    assert tool.freshen(book / "copy") == []
    (book / "copy" / tool.MADE).unlink()
    assert len(tool.freshen(book / "copy")) == 2


def test_the_map_takes_no_checkpoint_for_a_lesson(tmp_path):
    "Saving makes .ipynb_checkpoints/00_map-checkpoint.ipynb beside the map, which lists what lies beside it."
    for name in ("00_map.ipynb", "1_ground/11_losses.ipynb", ".ipynb_checkpoints/00_map-checkpoint.ipynb", "1_ground/.ipynb_checkpoints/11_losses-checkpoint.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    code = "\n".join("".join(c["source"]) for c in read(REPO / "nbs/00_map.ipynb")["cells"] if c["cell_type"] == "code")
    patterns = re.findall(r'glob\("([^"]+)"\)', code)
    found = {p.relative_to(tmp_path).as_posix() for pattern in patterns for p in tmp_path.glob(pattern)}
    assert found == {"00_map.ipynb", "1_ground/11_losses.ipynb"}


def test_git_does_not_see_the_copy():
    asked = subprocess.run(["git", "check-ignore", "-q", "_lab/00_map.ipynb"], cwd=REPO)
    if asked.returncode == 128: pytest.skip("no git checkout")
    assert asked.returncode == 0 and tool.COPY == REPO / "_lab"
