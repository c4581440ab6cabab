"""A real JupyterLab in a real browser: a reader opens a lesson, runs all its cells, and meets no error."""
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
CHROMIUM = next((p for p in ("/usr/bin/chromium", shutil.which("chromium"), shutil.which("chromium-browser"), shutil.which("google-chrome"))
                 if p and Path(p).exists()), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)")
QUIET = ["--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.extension_manager=readonly"]


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
    "A JupyterLab over a copy of the lessons, with a home of its own; nothing of the checkout or the user is touched."

    def __init__(self, folder):
        self.root, self.home, self.token, self.port = folder / "nbs", folder / "home", secrets.token_hex(8), free_port()
        shutil.copytree(REPO / "nbs", self.root, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        self.home.mkdir()
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "IPYTHON", "IN_TEST"))}
        env = {**keep, "HOME": str(self.home), "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1",
               **{f"JUPYTER_{d}_DIR": str(self.home / d.lower()) for d in ("CONFIG", "DATA", "RUNTIME")}, "IPYTHONDIR": str(self.home / "ipython")}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={self.port}", "--ServerApp.port_retries=0",
                   f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.root}", *QUIET]
        if hasattr(os, "geteuid") and os.geteuid() == 0: command.append("--allow-root")
        self.log = open(folder / "lab.log", "w")
        self.process = subprocess.Popen(command, env=env, cwd=self.root, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)

    def api(self, path):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{path}", headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as answer: return json.load(answer)

    def up(self):
        assert self.process.poll() is None, Path(self.log.name).read_text()[-3000:]
        try: return self.api("status")
        except OSError: return None

    def url(self, notebook): return f"http://127.0.0.1:{self.port}/lab/tree/{notebook}?token={self.token}&reset"

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
        wait_for(lab.up, 60)
        yield lab
    finally: lab.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


def run_all_cells(lab, page, notebook, seconds=120):
    "Open, Run → Run All Cells, wait until all is done, save; its code cells as the server then has them."
    page.goto(lab.url(notebook))
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=60_000)
    def connected():
        mine = [s["kernel"] for s in lab.api("sessions") if s["path"] == notebook]
        return mine and mine[0]["connections"] and mine[0]["execution_state"] == "idle"
    wait_for(connected, 60)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    calm, kernel_asked = [0], page.locator(".jp-Dialog .jp-mod-accept", has_text="Select")
    def done():
        if kernel_asked.count(): kernel_asked.first.click()  # a page that loads slowly asks which kernel to use
        # The kernel is idle for a moment between two cells, so both signs must hold four times in a row.
        idle = all(k["execution_state"] == "idle" for k in lab.api("kernels")) and not page.locator(".jp-InputPrompt", has_text="[*]").count()
        calm[0] = calm[0] + 1 if idle else 0
        if calm[0] < 4: return None
        # Only cells near the screen are on the page; the saved file knows them all.
        page.keyboard.press("Control+s")
        try: nb = lab.api(f"contents/{notebook}")["content"]
        except urllib.error.HTTPError: return None  # read while it was being written
        code = [c for c in nb["cells"] if c["cell_type"] == "code"]
        stopped = any(o["output_type"] == "error" for c in code for o in c["outputs"])
        return code if stopped or all(c["execution_count"] for c in code) else None
    return wait_for(done, seconds)


@pytest.mark.parametrize("notebook", ["library/figures.ipynb", "3_judging/31_metrics.ipynb"])
def test_a_lesson_runs_in_the_browser(lab, browser, tmp_path, notebook):
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    try:
        code = run_all_cells(lab, page, notebook)
        page.screenshot(path=tmp_path / "lesson.png")
    finally: page.close()
    assert [o["evalue"] for c in code for o in c["outputs"] if o["output_type"] == "error"] == []
    assert [o["text"] for c in code for o in c["outputs"] if o.get("name") == "stderr"] == []
    assert all(c["execution_count"] for c in code) and len(code) > 5
    assert (tmp_path / "lesson.png").stat().st_size > 20_000


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
    try: wait_for(lab.up, 60)
    finally: lab.close()
    assert lab.process.poll() is not None
    with socket.socket() as s: assert s.connect_ex(("127.0.0.1", lab.port)) != 0
