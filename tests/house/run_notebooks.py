"""Run the book's notebooks as nbdev_test does, and count what really ran.

    python tests/house/run_notebooks.py [--jobs 2] [--timeout 900] [--nbs nbs] [NAME …]

nbdev_test reuses its workers, so modules and os.environ leak from one notebook to the next; it skips without a word a
notebook whose kernelspec says `Python`; it has no timeout. Here each notebook gets a process of its own, forked from one
that has the heavy libraries imported; what runs in it is nbdev's own `test_nb`; and a notebook of which fewer cells ran
than it has is a failure. Exit code 1 if anything failed.
"""
import argparse
import contextlib
import gc
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

os.environ.setdefault("FINETUNE_BOOK_AUTO", "float32")           # the book's stored numbers are made so
REPO = Path(__file__).resolve().parents[2]
LEFT_OUT = {"reports": "templates, run as reports by the tests of the report"}
# In the process the others are forked from; torch and transformers import the long ones only at their first use, in nearly every lesson.
IMPORT_ONCE = ("nbdev.test", "numpy", "pandas", "matplotlib.pyplot", "sklearn.linear_model", "nbformat", "papermill.execute", "nbconvert", "torch", "torch._dynamo", "torchvision",
               "transformers.models.auto.modeling_auto", "transformers.models.bert.modeling_bert")


def notebooks(nbs):
    "(to run, left out) of all notebooks under `nbs`; only LEFT_OUT's folders are left out."
    found = [p for p in sorted(Path(nbs).rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]
    aside = [p for p in found if p.relative_to(nbs).parts[0] in LEFT_OUT]
    return [p for p in found if p not in aside], aside


def cells_to_run(path):
    "How many code cells a run must execute: all that hold code, but for those marked `#| eval: false`."
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    return sum(not re.match(r"#\s*\|\s*eval:\s*false", "".join(c["source"]), re.IGNORECASE) for c in cells)


def expected_seconds(path):
    "What the notebook says it costs; the longest start first, so that the workers end together."
    said = re.search(r"\*\*costs\*\* \D{0,12}(\d+(?:\.\d+)?) (s|min)\b", path.read_text(encoding="utf-8"))
    return float(said[1]) * {"s": 1, "min": 60}[said[2]] if said else 0.


def run_here(path, answer):
    "In the notebook's own process: run it, send (went well, cells that ran, what it wrote to stderr)."
    if hasattr(os, "setsid"): os.setsid()  # a process group of its own, so that what the notebook starts can be ended with it
    from execnb.shell import CaptureShell
    from nbdev.test import test_nb
    ran, original = [0], CaptureShell.run
    def counted(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        ran[0] += self.exc is None
        return result
    CaptureShell.run = counted
    sys.path.insert(0, str(REPO))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        well = test_nb(path.resolve(), skip_flags=[], basepath=REPO)[0]
    answer.send((well, ran[0], said.getvalue()))


def end(process):
    "Kill a notebook's process and whatever it started."
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"): os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def judge(path, result, exitcode):
    "(cells that ran, why the notebook failed or None)."
    due = cells_to_run(path)
    if result is None: return 0, f"its process ended with exit code {exitcode} before the last cell"
    well, ran, said = result
    if not well: return ran, f"cell {ran + 1} of {due} failed\n{said}"
    if ran != due: return ran, f"{ran} of {due} cells ran: a skip flag, skip_exec, or a kernelspec language that is not 'python'"
    return ran, None


def run_all(paths, jobs=2, timeout=900., report=print):
    "Run each notebook; {path: (cells, seconds, failure or None)}."
    # fork keeps the imports; where it is unsafe (macOS, Windows) each process imports for itself.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting, running, done = sorted(paths, key=expected_seconds, reverse=True), {}, {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs: start(waiting.pop(0), context, running)
            for path, result, exitcode, seconds, late in finished(running, timeout):
                cells, why = judge(path, result, exitcode)
                if late: why = f"still running after {timeout:.0f} s"
                done[path] = (cells, seconds, why)
                report(f"  {'FAILED' if why else 'ok':6} {path.name:32} {cells:4} cells {seconds:5.0f} s")
    finally:
        for _, process, _, _ in running.values(): end(process)
    return done


def import_once(paths):
    "What the notebooks share; without the book's library in them, the runner's own part is enough."
    whole = any("finetune_book" in path.read_text(encoding="utf-8") for path in paths)
    for module in IMPORT_ONCE if whole else IMPORT_ONCE[:1]: __import__(module)
    gc.freeze()  # what they share is not looked through again in each of them, and so not copied


def start(path, context, running):
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run_here, args=(path, theirs))
    process.start()
    theirs.close()
    running[process.sentinel] = (path, process, mine, time.monotonic())


def finished(running, timeout):
    "Wait up to a second; take out of `running` and yield (path, result, exit code, seconds, whether it was too slow)."
    # The pipe is watched beside the process: a long error fills it, and the process waits until it is read.
    pipes = {mine: sentinel for sentinel, (_, _, mine, _) in running.items()}
    ready = {pipes.get(r, r) for r in wait([*running, *pipes], timeout=1)}
    late = {s for s, (_, _, _, began) in running.items() if time.monotonic() - began > timeout} - ready
    for sentinel in ready | late:
        path, process, mine, began = running.pop(sentinel)
        result = None
        if sentinel in ready:
            with contextlib.suppress(EOFError): result = mine.recv()
            process.join(10)
        code = process.exitcode
        end(process)
        yield path, result, code, time.monotonic() - began, sentinel in late


def main(argv=None):
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("names", nargs="*", help="only these notebooks (NN_topic)")
    args.add_argument("--jobs", type=int, default=2)
    args.add_argument("--timeout", type=float, default=900., help="seconds a notebook may take")
    args.add_argument("--nbs", type=Path, default=REPO / "nbs")
    args = args.parse_args(argv)
    paths, aside = notebooks(args.nbs)
    if args.names: paths = [p for p in paths if p.stem in args.names]
    if not paths: print("notebooks: none found"); return 1
    os.chdir(REPO)
    import_once(paths)
    start = time.monotonic()
    done = run_all(paths, args.jobs, args.timeout, report=lambda line: print(line, flush=True))
    gc.unfreeze()
    failed = {p: why for p, (_, _, why) in done.items() if why}
    for path, why in failed.items(): print(f"\nFAILED {path}: {why}", file=sys.stderr)
    for path in aside: print(f"  left out: {path.name} ({LEFT_OUT[path.relative_to(args.nbs).parts[0]]})")
    cells = sum(n for n, _, _ in done.values())
    print(f"notebooks: {len(done) - len(failed)} of {len(paths)} passed, {cells} cells ran, {time.monotonic() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
