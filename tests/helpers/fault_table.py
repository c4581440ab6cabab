"""Every fault we could think of, one run of the command each; prints a table, which test_report_faults.py reads as well.

    python tests/helpers/fault_table.py [--json]

Each run starts beside a good report, in a folder of its own. Afterwards: the exit code, whether the last good report is the same to the
byte, what is left behind (processes, half files), and the first line it said.

Each command is a process of its own, forked from this one: what it imports was imported once. This process has no threads.
"""
import gc
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
FAULTY = REPO / "tests/fixtures/reports/faulty.ipynb"
ENDS = (".html", ".ipynb", ".json", ".metrics.json")
TAG = "FAULT_TABLE_TAG"                                  # every process of a run inherits it, whatever group or session it moves to
PATIENCE = 3000                                          # s until a run counts as hanging; what a run needs depends on the machine
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0 and sys.platform == "linux"


def as_from_a_terminal():
    "Signals mean what they mean in a terminal, also where we were started with nohup or in the background, which ignore some."
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)


class Command:
    "The command in a process of its own, with what `subprocess.Popen` has of use here."

    def __init__(self, argv, env, folder, limits, said):
        self.returncode, self.said = None, [said.with_suffix(".out"), said.with_suffix(".err")]
        self.pid = os.fork()
        if self.pid == 0: self.become(argv, env, folder, limits)

    def become(self, argv, env, folder, limits):
        as_from_a_terminal()
        try:
            for number, path in enumerate(self.said, start=1): os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.environ.update(env)
            os.chdir(folder)
            for what, value in limits: resource.setrlimit(what, (value, value))
            from finetune_book.cli import main
            code = main(argv)
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)

    def wait(self, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                end = float("inf")
            time.sleep(.05)
        return self.returncode

    def poll(self):
        pid, status = os.waitpid(self.pid, os.WNOHANG) if self.returncode is None else (0, 0)
        if pid: self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number): os.kill(self.pid, number) if self.returncode is None else None
    def output(self): return [path.read_text(encoding="utf-8", errors="replace").strip() for path in self.said]


class Place:
    "Where one fault happens: `folder` with the good report, `pid` where a cell notes its child, and how the command is started."

    def __init__(self, home, good=None):
        self.home, self.folder, self.pid, self.tag = home, home / "reports", home / "pid", f"{os.getpid()}-{home.name}"
        self.template, self.env, self.limits, self.undo, self.started = FAULTY, {}, [], [], 0
        home.mkdir()
        if good: shutil.copytree(good, self.folder)

    def start(self, *args):
        "The command, at work on this place's template and folder."
        self.started += 1
        env = {"OMP_NUM_THREADS": "1", TAG: self.tag} | self.env
        line = ["report", str(self.template), "--name", "faulty", "--out", str(self.folder), "-q", *args]
        return Command(line, env, self.home, self.limits, self.home / f"said-{self.started}")

    def cell_at_work(self, process, seconds=PATIENCE):
        "Wait until the faulty cell has started its child."
        end = time.monotonic() + seconds
        while not (self.pid.exists() and self.pid.read_text()) and process.poll() is None and time.monotonic() < end: time.sleep(.05)

    def survivors(self):
        "Numbers of living processes of this run."
        found, mark = [], f"{TAG}={self.tag}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and mark in (entry / "environ").read_bytes().split(b"\0"): found.append(int(entry.name))
            except OSError: continue
        return found

    def state(self): return {end: hashlib.sha256((self.folder / f"faulty{end}").read_bytes()).hexdigest() for end in ENDS}

    def litter(self):
        "Files that neither a report nor the page of a failure is made of."
        known = {f"faulty{e}" for e in (*ENDS, ".failed.html", ".failed.ipynb")} | {".faulty.lock", "filler"}
        return sorted(p.name for p in self.folder.iterdir() if p.name not in known)

    def notice(self):
        "What the page of the failure says on top, as HTML."
        page = self.folder / "faulty.failed.html"
        return page.read_text(encoding="utf-8").partition("<section class='answer failed'")[2].partition("</section>")[0] if page.exists() else ""


@dataclass
class Fault:
    "`before(place)` prepares, `during(place, process)` acts while it runs; `code` and `says` are what has to come of it."
    name: str
    code: int
    says: str
    args: tuple = ()
    before: object = None
    during: object = None
    published: bool = False                              # the run has to succeed in spite of it
    page: bool = False                                   # cells ran, so a page of the failure has to say what happened


@dataclass
class Row:
    fault: str
    code: int
    last_good: str                                       # identical, changed, or "new" where a new report was made
    survivors: list
    litter: list
    out: str
    said: str
    notice: str                                          # HTML on top of the page of the failure, if there is one
    expected: dict = field(default_factory=dict)


# --- what is done to a run ------------------------------------------------------------------------------------------

def notebook(change):
    "Run a changed copy of the template."
    def before(place):
        nb = json.loads(FAULTY.read_text(encoding="utf-8"))
        text = change(nb)
        place.template = place.home / "changed.ipynb"
        place.template.write_text(text if isinstance(text, str) else json.dumps(nb), encoding="utf-8")
    return before

def tags(*indices):
    def change(nb):
        for i, cell in enumerate([c for c in nb["cells"] if c["cell_type"] == "code"]): cell["metadata"]["tags"] = ["parameters"] if i in indices else []
    return notebook(change)

def no_such_kernel(nb):
    nb["metadata"]["kernelspec"] = {"name": "no-such-kernel", "display_name": "gone", "language": "python"}
    nb["cells"][-1]["source"] = "import sys; print('ran in', sys.executable)"

def without_kernelspec(nb):
    nb["metadata"].pop("kernelspec", None)

def hostile_path(place):
    "Another kernel of the same name, found first."
    spec = place.home / "jupyter/kernels/python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "hostile", "language": "python"}))
    place.env = {"JUPYTER_PATH": str(place.home / "jupyter"), "JUPYTER_PREFER_ENV_PATH": "0"}

def little_memory(place): place.limits = [(resource.RLIMIT_AS, 3 * 2**30)]

def mounted(place):
    "Put the folder of the reports on a small file system of its own, where we may."
    kept = place.home / "kept"
    place.folder.rename(kept)
    place.folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place.folder)], check=True)
    place.undo.append(lambda: subprocess.run(["umount", str(place.folder)], check=True))
    shutil.copytree(kept, place.folder, dirs_exist_ok=True)

def can_mount():
    "Whether this process may mount a file system (root in most places, and nobody else)."
    if not IS_ROOT: return False
    with tempfile.TemporaryDirectory() as d:
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", d], stderr=subprocess.DEVNULL).returncode: return False
        subprocess.run(["umount", d], check=True)
    return True

def disk_full(place, room=8192):
    "A file system with room for two blocks; where none can be mounted, a limit on the size of files."
    if not can_mount():
        place.limits = [(resource.RLIMIT_FSIZE, 4000)]
        return
    mounted(place)
    with open(place.folder / "filler", "wb") as f:
        try:
            while True: f.write(b"x" * 4096); f.flush()
        except OSError: pass
        os.ftruncate(f.fileno(), max(0, os.fstat(f.fileno()).st_size - room))

def read_only(place):
    "A file system that can only be read; where none can be mounted, a folder without the right to write."
    if can_mount():
        mounted(place)
        subprocess.run(["mount", "-o", "remount,ro", str(place.folder)], check=True)
    else:
        place.folder.chmod(0o500)
        place.undo.append(lambda: place.folder.chmod(0o700))

def send(number):
    def during(place, process):
        place.cell_at_work(process)
        process.send_signal(number)
    return during

def kill_and_start_again(place, process):
    "The runner gets no chance to clean up; the next start of the command has to."
    place.cell_at_work(process)
    place.folder.joinpath(".faulty.html.part").write_text("half")
    process.send_signal(signal.SIGKILL)
    process.wait()
    place.start("-p", "epochs=2").wait()                 # nothing changed since the good report: this start runs no cell

def first_run(place):
    "Another run at work, in a process of its own; it holds the lock. It is interrupted afterwards, so the page of the failure is its own."
    place.other = place.start("-p", "fault=child", "-p", f"pidfile={place.pid}")
    place.cell_at_work(place.other)

def end_the_first(place, process):
    process.wait()
    place.other.send_signal(signal.SIGINT)
    place.other.wait()


CHILD = ("-p", "fault=child", "-p", "pidfile={pid}")
FAULTS = [
    Fault("unknown name", 2, "unknown parameter 'epoch'. Did you mean 'epochs'?", ("-p", "epoch=3")),
    Fault("wrong type", 2, "epochs=\"three\": must be a whole number", ("-p", "epochs=three")),
    Fault("out of range", 2, "at most 9", ("-p", "epochs=10")),
    Fault("no tag", 2, "0 code cells are tagged 'parameters'", before=tags()),
    Fault("two tags", 2, "2 code cells are tagged 'parameters'", before=tags(0, 1)),
    Fault("invalid notebook JSON", 2, "not a readable notebook", before=notebook(lambda nb: json.dumps(nb)[:-40])),
    Fault("the reader's mistake, in a cell", 2, "rows.csv: no such file", ("-p", "fault=input"), page=True),
    Fault("cell error", 3, "cell 3 'The fault' failed: BadFile: row 3 is <b>broken</b>", ("-p", "fault=error"), page=True),
    Fault("sys.exit(0)", 3, "SystemExit: sys.exit(0) ended the run early", ("-p", "fault=exit"), page=True),
    Fault("out of memory", 3, "MemoryError", ("-p", "fault=memory"), before=little_memory, page=True),
    Fault("kernel SIGKILL", 4, "the kernel died in cell 3 'The fault' (killed; was the memory enough?)", ("-p", "fault=kill"), page=True),
    Fault("cell timeout", 5, "longer than the 1 s allowed for a cell", (*CHILD, "--cell-timeout", "1"), page=True),
    Fault("total timeout", 5, "the run took longer than the 4 s allowed", (*CHILD, "--total-timeout", "4"), page=True),
    Fault("INT, child alive", 6, "stopped by SIGINT", CHILD, during=send(signal.SIGINT), page=True),
    Fault("TERM, child alive", 6, "stopped by SIGTERM", CHILD, during=send(signal.SIGTERM), page=True),
    Fault("HUP, child alive", 6, "stopped by SIGHUP", CHILD, during=send(signal.SIGHUP), page=True),
    Fault("runner SIGKILL, then a start", -9, "", CHILD, during=kill_and_start_again),
    Fault("disk full", 7, "cannot write in", ("-p", "epochs=3"), before=disk_full),
    Fault("output folder read-only", 2, "cannot write in the folder", ("-p", "epochs=3"), before=read_only),
    Fault("two runs at once", 7, "another run of faulty is writing", ("-p", "epochs=3"), before=first_run, during=end_the_first, page=True),
    Fault("hostile JUPYTER_PATH", 0, "", ("-p", "epochs=3"), before=hostile_path, published=True),
    Fault("missing kernelspec", 0, "", ("-p", "epochs=3"), before=notebook(no_such_kernel), published=True),
    Fault("no kernelspec at all", 0, "", ("-p", "epochs=3"), before=notebook(without_kernelspec), published=True),
    Fault("a cell leaves a child", 0, "", ("-p", "fault=leave", "-p", "pidfile={pid}"), published=True),
]


def run(fault, good, home):
    "Let one fault happen; its Row."
    place = Place(home, good)
    try:
        if fault.before: fault.before(place)
        before = place.state()
        process = place.start(*(a.format(pid=place.pid) for a in fault.args))
        if fault.during: fault.during(place, process)
        process.wait()
        (out, err), after = process.output(), place.state()
        new = all(before[end] != after[end] for end in (".html", ".json")) and json.loads((place.folder / "faulty.json").read_text())["report"] == "faulty"
        last_good = "identical" if before == after else "new" if new and fault.published else "CHANGED"
        litter, notice = place.litter(), place.notice()
        while place.undo: place.undo.pop()()
        return Row(fault.name, process.returncode, last_good, place.survivors(), litter, out, (err.splitlines() or [""])[0], notice,
                   {"code": fault.code, "says": fault.says, "published": fault.published, "page": fault.page})
    finally:
        while place.undo: place.undo.pop()()
        for pid in place.survivors(): os.kill(pid, signal.SIGKILL)


def problem(row):
    "What is wrong with a row, or None."
    want = row.expected
    if row.code != want["code"]: return f"exit code {row.code}, expected {want['code']}: {row.said}"
    if want["says"] not in row.said: return f"said {row.said!r}, expected {want['says']!r}"
    if row.last_good != ("new" if want["published"] else "identical"): return f"the last good report is {row.last_good}"
    if row.survivors or row.litter: return f"left behind: {row.survivors} {row.litter}"
    if bool(row.notice) != want["page"]: return f"the page of the failure says {row.notice!r}"
    if bool(row.out) != want["published"]: return f"stdout says {row.out!r}"
    return None


def table(jobs=2):
    "All faults, `jobs` at once, each watched by a process of its own; a list of Row."
    from finetune_book.processes import without_iri_grammar
    without_iri_grammar()
    import nbconvert, nbformat, papermill.clientwrap, papermill.engines, papermill.parameterize  # noqa: E401, F401  once, before all forks
    import finetune_book.report.fresh  # noqa: F401  it imports the others
    gc.freeze()                                          # no child looks through what was imported, and so copies it
    with tempfile.TemporaryDirectory(prefix="faults-") as root:
        first, waiting, watched = Place(Path(root) / "first"), list(enumerate(FAULTS)), {}
        assert first.start("-p", "epochs=2").wait() == 0, (first.home / "said-1.err").read_text()
        (first.folder / ".faulty.lock").unlink(missing_ok=True)
        while waiting or watched:
            while waiting and len(watched) < jobs:
                i, fault = waiting.pop(0)
                pid = os.fork()
                if pid == 0:
                    try: (Path(root) / f"{i}.json").write_text(json.dumps(asdict(run(fault, first.folder, Path(root) / f"f{i}"))))
                    except BaseException: traceback.print_exc(); os._exit(1)
                    os._exit(0)
                watched[pid] = fault.name
            pid, status = os.wait()
            assert status == 0, f"{watched[pid]} could not be judged"
            del watched[pid]
        return [Row(**json.loads((Path(root) / f"{i}.json").read_text())) for i in range(len(FAULTS))]


def shown(rows):
    "The table as text."
    lines = [f"{'fault':<32} {'exit':>4}  {'last good':<10} {'survivors':>9}  it said"]
    for r in rows:
        wrong = problem(r)
        lines.append(f"{r.fault:<32} {r.code:>4}  {r.last_good:<10} {len(r.survivors):>9}  {r.said.removeprefix('finetune-book: ')[:110]}" + (f"\n    WRONG: {wrong}" if wrong else ""))
    good = sum(problem(r) is None for r in rows)
    return "\n".join([*lines, f"{good} of {len(rows)} as they have to be"])


if __name__ == "__main__":
    found = table()
    print(json.dumps([asdict(r) for r in found]) if "--json" in sys.argv else shown(found))
    sys.exit(any(problem(r) for r in found))
