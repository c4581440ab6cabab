"""The whole run: look at the load, lay out the work, let the contestants take turns, write one JSON and one table."""
import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path

import psutil

from finetune_book.processes import WAITING

from .contests import CONTESTS, LARGE, QUICK_SIZES, SIZES, Contestant
from .show import keep, table, update_readmes

REPO = Path(__file__).parents[2]
OUT = REPO / "reports/bench/results.json"                   # git does not see it; --keep makes it the README's
CALM = .5                                                   # load above which other work is running
PREPARING = Contestant("preparing", "what all work on", "准备", "against.prepare:Preparing")
INTERRUPTED = 6                                             # the exit code of an interrupted report, too


def say(words): print(words, flush=True)
def load(): return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


class Lost(Exception):
    "A contestant that failed or died; in words."


class Worker:
    "A contestant in a process of its own, which works only while it is asked."
    def __init__(self, contestant, job, log):
        found = os.pathsep.join(filter(None, [str(REPO / "bench"), os.environ.get("PYTHONPATH")]))
        plain = {k: v for k, v in os.environ.items() if k not in WAITING}        # as a reader's own program would run
        env = plain | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": found}
        self.log = Path(log)
        with self.log.open("wb") as errors:                 # a session of its own: Ctrl-C is for us, who then end it
            self.process = subprocess.Popen([sys.executable, "-m", "against.worker"], env=env, text=True, cwd=REPO,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                            encoding="utf-8", start_new_session=True)
        try: self.ask(json.dumps(job | contestant.options | {"make": contestant.make}))
        except BaseException:
            self.close()
            raise

    def ask(self, word):
        "The answer to a word; Lost if there is none, or an error."
        try:
            print(word, file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError: line = ""
        if not line: raise Lost(f"ended with code {self.process.wait()}: {self.last_words()}")
        found = json.loads(line)
        if "error" in found: raise Lost(found["error"])
        return found

    def last_words(self):
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def close(self):
        if self.process.poll() is None:
            try: os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError: pass
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try: pipe.close()
            except BrokenPipeError: pass


def busy_s():
    "Seconds that all processors together have worked."
    t = psutil.cpu_times()._asdict()
    return sum(t.get(name, 0.) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def watched(worker, word):
    "The answer to `word`, with how many processors others kept busy meanwhile."
    busy, wall = busy_s(), time.perf_counter()
    found = worker.ask(word)
    others = (busy_s() - busy - found["cpu_s"]) / max(time.perf_counter() - wall, 1e-9)
    return found | {"others": round(max(0., others), 2)}


def turned(items, r): return items[r % len(items):] + items[:r % len(items)]


def attempt(entry, work):
    "What `work` gives, or None, with the reason kept in the contestant's entry."
    try: return work()
    except Lost as e:
        entry["failed"] = str(e)
        say(f"  {entry['title']}: failed: {e}")


def start(contest, job, entry, contestant, folder, stack):
    "A worker that is warm, or None."
    def begin():
        worker = Worker(contestant, job, folder / f"{contest.name}-{contestant.name}.log")
        stack.callback(worker.close)
        warm = worker.ask("warm")
        entry["warm_s"] = round(warm["seconds"], 4)
        say(f"  {entry['title']}: warm after {warm['seconds']:.3g} s")
        return worker
    return attempt(entry, begin)


def play(entry, worker):
    "One timed round of a contestant."
    found = attempt(entry, lambda: watched(worker, "round"))
    if found is None: return
    for name in ("seconds", "cpu_s", "others"): entry[name].append(round(found[name], 4))
    say(f"  {entry['title']}: {found['seconds']:.3g} s")


def check(entry, worker):
    "What came of the work, into the entry; answers are given back, to be compared."
    found = attempt(entry, lambda: worker.ask("check"))
    if found is None: return None
    entry["peak_mb"] = round(found.pop("peak_mb"))
    answers = found.pop("answers", None)
    entry.update(found)
    return answers


def compare_answers(entries, answers):
    "The share of the first contestant's answers that each of the others gives, too."
    first = answers.get(entries[0]["name"])
    for entry in entries[1:]:
        said = answers.get(entry["name"])
        if first and said: entry["agreement"] = sum(a == b for a, b in zip(first, said)) / len(first)


def hold(contest, contestants, rounds, job, folder, results):
    "Let the contestants take turns; what they did goes into the results' contests, as it happens."
    entries = [dict(name=c.name, title=c.title, ours=c.ours, seconds=[], cpu_s=[], others=[]) for c in contestants]
    results["contests"].append(dict(name=contest.name, title=contest.title, compared=contest.compared, settings=job["settings"],
                                    date=results["date"], commit=results["commit"], contestants=entries))
    say(f"{contest.title}")
    with ExitStack() as stack:
        workers = {entry["name"]: start(contest, job, entry, one, folder, stack)
                   for entry, one in zip(entries, contestants)}
        for r in range(rounds):
            say(f" round {r + 1} of {rounds}")
            for entry in turned(entries, r):
                if "failed" not in entry: play(entry, workers[entry["name"]])
        compare_answers(entries, {e["name"]: check(e, workers[e["name"]]) for e in entries if "failed" not in e})


# --- what is asked --------------------------------------------------------------------------------------------------

def pins():
    "The packages of the extra `bench`, by name, as pyproject.toml pins them."
    extra = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return {pin.partition("==")[0]: pin for pin in extra["bench"]}


def missing(contests):
    "Packages that contestants need and that are not here."
    return sorted({name for c in contests for one in c.contestants for name in one.needs if find_spec(name) is None})


def words_of_missing(contests, gone):
    "One line: who stays out, and what would bring them in."
    out = sorted({one.title.partition(",")[0] for c in contests for one in c.contestants if set(one.needs) & set(gone)})
    wanted = " ".join(shlex.quote(pins()[name]) for name in gone)
    return f"left out: {', '.join(out)}; to have them: {sys.executable} -m pip install {wanted}"


def chosen(args):
    "The contests that are asked for, in the size that is asked for."
    unknown = set(args.only or ()) - {c.name for c in CONTESTS}
    if unknown:
        raise SystemExit(f"--only {' '.join(sorted(unknown))}: there is {', '.join(c.name for c in CONTESTS)}")
    found = [c for c in CONTESTS if not args.only or c.name in args.only]
    sizes = QUICK_SIZES if args.quick else (*SIZES, LARGE) if args.large else SIZES
    found = [replace(c, contestants=sizes) if c.name == "growing" else c for c in found]
    if args.quick: found = [replace(c, settings=c.settings | c.quick, rounds=min(2, c.rounds)) for c in found]
    return [replace(c, rounds=args.rounds) if args.rounds else c for c in found]


def materials(contests):
    "The job of the worker that lays everything out, once for all."
    names = list(dict.fromkeys(name for c in contests for name in c.materials))
    most = max((one.options.get("n", 0) for c in contests for one in c.contestants), default=0)
    exported = {package for c in contests for one in c.contestants for package in one.needs if "onnx" in one.needs}
    onnx = bool(exported) and all(find_spec(package) for package in exported)
    return dict(materials=names, most=most, onnx=onnx)


def lay_out(contests, folder):
    "Texts, pictures and models in `folder`; returns the facts about the machine."
    say("laying out texts, pictures and models")
    worker = Worker(PREPARING, dict(work=str(folder)) | materials(contests), folder / "preparing.log")
    try:
        worker.ask("round")
        return {name: fact for name, fact in worker.ask("check").items() if name in ("machine", "versions")}
    finally: worker.close()


def commit():
    "The commit that is checked out, with a + where files differ from it; None outside of git."
    def git(*words): return subprocess.run(["git", *words], cwd=REPO, capture_output=True, text=True, check=True).stdout
    try: return git("rev-parse", "--short", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError): return None


def wait_for_calm(minutes):
    "Wait until the machine is calm, at most so long; returns the load."
    until = time.monotonic() + 60 * minutes
    while (now := load()) and now[0] > CALM and time.monotonic() < until: time.sleep(10)
    return now


# --- the run --------------------------------------------------------------------------------------------------------

def write(results, path):
    "The results as JSON, all or nothing."
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(path.name + ".part")
    staging.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(staging, path)


def incomplete(path): return path.with_name(f"{path.stem}.incomplete{path.suffix}")


def run_all(contests, gone, results, path):
    "Every contest; after each, what is there is written as incomplete, so that not even a power cut loses it."
    with tempfile.TemporaryDirectory() as folder:
        results.update(lay_out(contests, Path(folder)))
        for c in contests:
            present = [one for one in c.contestants if not set(one.needs) & set(gone)]
            job = c.settings | dict(work=folder, settings=c.settings)
            hold(c, present, c.rounds, job, Path(folder), results)
            write(results, incomplete(path))


def finish(results, path, began, complete):
    "Write what is there under the name it deserves; returns that name."
    results.update(complete=complete, took_s=round(time.monotonic() - began), load_after=load())
    place = path if complete else incomplete(path)
    write(results, place)
    if complete: incomplete(path).unlink(missing_ok=True)
    return place


def interrupted(signum, frame): raise KeyboardInterrupt


def bench(args):
    "The exit code: 0, 1 if a contestant failed, 6 if it was interrupted."
    contests, path, began = chosen(args), Path(args.out), time.monotonic()
    gone = missing(contests)
    if gone: say(words_of_missing(contests, gone))
    before = wait_for_calm(args.wait)
    busy = bool(before and before[0] > CALM)
    if busy: say(f"WARNING: the load is {before[0]} before anything began (calm is below {CALM}): other work is "
                 "running, and these times are not to be trusted; --wait 30 waits up to 30 minutes for calm")
    results = dict(complete=False, quick=args.quick, date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                   commit=commit(), busy=busy, calm=CALM, load_before=before, missing=gone, contests=[])
    signal.signal(signal.SIGTERM, interrupted)
    try: run_all(contests, gone, results, path)
    except Lost as e:                                       # a contestant's failure is its own; this one is everybody's
        say(f"nothing could be laid out: {e}")
        return 1
    except KeyboardInterrupt:
        say(f"\ninterrupted; what is there lies in {finish(results, path, began, complete=False)}")
        return INTERRUPTED
    place = finish(results, path, began, complete=True)
    say(f"\n{table(results)}\n\n{place}: {results['took_s'] / 60:.0f} minutes, load {before} before, {load()} after")
    if args.keep: say(keep(results))
    return int(any("failed" in entry for contest in results["contests"] for entry in contest["contestants"]))


def main(words=None):
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows, two rounds: does everything work?")
    parser.add_argument("--only", nargs="+", metavar="CONTEST", help=", ".join(c.name for c in CONTESTS))
    parser.add_argument("--rounds", type=int, help="timed rounds of each contest, instead of its own number")
    parser.add_argument("--large", action="store_true", help="also 100,000 texts: some twelve minutes a round on two cores")
    parser.add_argument("--wait", type=float, default=0, metavar="MINUTES", help="wait so long for a calm machine")
    parser.add_argument("--out", default=OUT, help="where the JSON goes (reports/bench/results.json)")
    parser.add_argument("--keep", action="store_true", help="make these results those of the README; contests that were "
                        "left out stay as they are there, if machine and versions are the same")
    parser.add_argument("--readme", nargs="?", const=True, metavar="JSON",
                        help="run nothing: write the README's table anew, of this JSON or of the one that is kept")
    args = parser.parse_args(words)
    if args.readme is True:
        say(update_readmes())
        return 0
    if args.readme:
        say(keep(json.loads(Path(args.readme).read_text(encoding="utf-8"))))
        return 0
    if args.keep and args.quick: parser.error("--keep with --quick: a quick look is no measurement")
    return bench(args)
