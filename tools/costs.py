"""What each lesson costs: measured into a table, and written from it into the head of the lesson.

    python tools/costs.py                        write the costs lines from nbs/results/costs.csv, and print the total
    python tools/costs.py --measure [NAME …]     first measure these lessons (11_losses …; all of them where none is named)

A lesson is measured as a reader runs it: all its cells, in a kernel of its own, one lesson at a time. Its seconds are CPU
seconds on one thread, of the kernel and all that it starts, the imports among them: what else the machine does stretches
the clock, not these. Its memory is the largest there was at one time, resident, of the kernel and all that it starts; what
two of these processes share counts in both.
"""
import argparse
import csv
import os
import re
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, TABLE = ROOT / "nbs", ROOT / "nbs/results/costs.csv"
COLUMNS = ["lesson", "cpu_seconds", "peak_mb", "machine"]
ALLOWED = 15     # minutes for all lessons, two at a time
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
LINE = re.compile(r"(\*\*costs\*\* )[^\"\\]*")     # in the file itself, so that nothing else of it changes


def lessons(nbs=NBS):
    "The lessons by name: the notebooks that have a number."
    return {p.stem: p for p in sorted(nbs.rglob("[0-9][0-9]_*.ipynb")) if ".ipynb_checkpoints" not in p.parts}


# --- the table -----------------------------------------------------------------------------------------------------

def read(table=TABLE):
    "{lesson: its row}, numbers as numbers; {} where there is no table yet."
    if not table.exists(): return {}
    with table.open(encoding="utf-8", newline="") as f:
        return {r["lesson"]: r | {"cpu_seconds": float(r["cpu_seconds"]), "peak_mb": int(r["peak_mb"])} for r in csv.DictReader(f)}


def keep(rows, table=TABLE):
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", encoding="utf-8", newline="") as f:
        to = csv.DictWriter(f, COLUMNS, lineterminator="\n")
        to.writeheader()
        to.writerows(rows[name] for name in sorted(rows))


# --- measuring -----------------------------------------------------------------------------------------------------

def held_mb(process):
    "Resident memory of what a process has started, in MB."
    import psutil
    total = 0
    for child in process.children(recursive=True):
        try: total += child.memory_info().rss
        except psutil.Error: pass   # it has ended meanwhile
    return total / 1e6


def cpu_seconds():
    "Of all that this process started and that has ended, and of what those started."
    import resource
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def watched(every=.1):
    "A dict that has, in the end, the CPU seconds and the peak MB of what was started inside."
    import psutil
    found, over, before, me = {"peak_mb": 0.}, threading.Event(), cpu_seconds(), psutil.Process()
    def look():
        while not over.wait(every): found["peak_mb"] = max(found["peak_mb"], held_mb(me))
    looking = threading.Thread(target=look)
    looking.start()
    try: yield found
    finally:
        over.set()
        looking.join()
        found["cpu_seconds"] = cpu_seconds() - before


def measure(path):
    "The row of a lesson; an error of one of its cells is raised."
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config
    os.environ.update(ONE_THREAD, JUPYTER_PREFER_ENV_PATH="1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)   # a reader's Python keeps what it compiled
    with tempfile.TemporaryDirectory() as folder:
        # Over TCP a kernel warns that others might listen.
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/k"}})
        lesson = NotebookClient(nbformat.read(path, as_version=4), timeout=900, kernel_name="python3", config=sockets,
                                resources={"metadata": {"path": str(path.parent)}})
        with watched() as found: lesson.execute()
    return {"lesson": path.stem, "cpu_seconds": round(found["cpu_seconds"], 1), "peak_mb": round(found["peak_mb"]),
            "machine": f"{os.cpu_count()} cores, one thread"}


# --- the lines -----------------------------------------------------------------------------------------------------

def seconds_said(seconds):
    "In steps of five seconds below a minute, else of half a minute."
    steps = max(1, round(seconds / 5))
    return f"{5 * steps} s" if steps < 12 else f"{round(seconds / 30) / 2:g} min"


def mb_said(mb):
    "With two digits."
    return f"{round(mb, 2 - len(str(round(mb)))):,} MB"


def line(row): return f"{seconds_said(row['cpu_seconds'])}, {mb_said(row['peak_mb'])}"


def said(path):
    "What stands in the costs line of a lesson; ValueError where there is not exactly one."
    found = LINE.findall(text := path.read_text(encoding="utf-8"))
    if len(found) != 1: raise ValueError(f"{path.name} has {len(found)} lines with **costs**, one is needed")
    return LINE.search(text)[0].removeprefix("**costs** ")


def write(path, row):
    "The costs line of a lesson from its row of the table; whether that changed the file."
    if said(path) == line(row): return False
    path.write_text(LINE.sub(lambda m: m[1] + line(row), path.read_text(encoding="utf-8")), encoding="utf-8")
    return True


def minutes_at(rows, at_a_time=2):
    "Minutes for all lessons where so many run at a time and the longest starts first."
    ends = [0.] * at_a_time
    for seconds in sorted((r["cpu_seconds"] for r in rows.values()), reverse=True):
        ends[ends.index(min(ends))] += seconds
    return max(ends) / 60


def total(rows):
    two = minutes_at(rows)
    return (f"{len(rows)} lessons: {minutes_at(rows, 1):.1f} minutes of one core, the largest {mb_said(max(r['peak_mb'] for r in rows.values()))}; "
            f"two at a time {two:.1f} minutes, {'under' if two < ALLOWED else 'OVER'} the {ALLOWED} allowed")


def measured(names, every, table=TABLE):
    "Measure lessons one after the other, storing each at once; names of those that failed."
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    failed = []
    for name in names or every:
        try: row = measure(every[name])
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
            print(f"  FAILED {name}: {e}", file=sys.stderr)
            failed.append(name)
        else:
            keep(read(table) | {name: row}, table)
            print(f"  {name:24} {row['cpu_seconds']:6.1f} s {row['peak_mb']:6,} MB", flush=True)
    return failed


def main(argv=None):
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--measure", nargs="*", metavar="NAME", help="lessons to measure anew; all where none is named")
    args = args.parse_args(argv)
    every = lessons()
    if unknown := [n for n in args.measure or () if n not in every]: raise SystemExit(f"no such lesson: {', '.join(unknown)}; there are {', '.join(every)}")
    failed = [] if args.measure is None else measured(args.measure, every)
    rows = {name: row for name, row in read().items() if name in every}
    keep(rows)
    missing = [name for name in every if name not in rows]
    changed = [name for name in rows if write(every[name], rows[name])]
    print(f"costs lines changed: {', '.join(changed) or 'none'}")
    if missing: print(f"not measured yet: python tools/costs.py --measure {' '.join(missing)}", file=sys.stderr)
    if rows: print(total(rows))
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
