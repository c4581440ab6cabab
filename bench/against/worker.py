"""One contestant in a process of its own: it is told over a pipe what to do, one thing at a time.

    {"make": "against.text:Ours", …}     the job, once; then words, each answered by one line of JSON
    warm                         the work once, or what the contestant does instead, so that nothing is cold
    round                        the work once, timed
    check                        what came of it, not timed
"""
import gc
import importlib
import json
import os
import resource
import sys
import traceback
from time import perf_counter


def make(job):
    "The contestant that a job names."
    module, _, name = job["make"].partition(":")
    return getattr(importlib.import_module(module), name)(job)


def cpu_s():
    "Seconds of processor time that this process and its finished children have taken."
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_mb():
    "The most memory this process has held; of one that runs programs, the most that one of them has held."
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            own = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration): own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return own / unit, children / unit


def settle():
    "Wait for a GPU, whose work goes on after the call that ordered it."
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available(): torch.cuda.synchronize()


def timed(work):
    gc.collect()
    wall, cpu = perf_counter(), cpu_s()
    work()
    settle()
    return dict(seconds=perf_counter() - wall, cpu_s=cpu_s() - cpu)


def answer(contestant, word):
    "What a word is answered with, a dict."
    if word == "warm": return timed(getattr(contestant, "warm", contestant.round))
    if word == "round": return timed(contestant.round)
    own, children = peak_mb()
    return dict(contestant.check()) | {"peak_mb": children if getattr(contestant, "runs_programs", False) else own}


def guarded(work):
    "The dict that `work` gives, or one with the error, whose traceback goes to the log."
    try: return work()
    except Exception as e:
        traceback.print_exc()
        return {"error": f"{type(e).__name__}: {e}".splitlines()[0][:300]}


def main():
    "Libraries print to standard output; the answers have it to themselves, so everything else goes to the log."
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    def say(value): print(json.dumps(value), file=out, flush=True)
    made = []
    say(guarded(lambda: made.append(make(json.loads(sys.stdin.readline()))) or {}))
    for line in sys.stdin: say(guarded(lambda: answer(made[0], line.strip())))


if __name__ == "__main__": main()
