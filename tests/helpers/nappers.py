"""Contestants that only sleep, or fail in one of the ways a contestant can, for tests of the run around them."""
import os
import sys
import time
from pathlib import Path


class Napper:
    "Sleeps; writes down each piece of work, and its own process, in the file `diary`."
    def __init__(self, job):
        self.job, self.done = job, 0
        if job.get("fails") == "made": raise ValueError("cannot be made\nsecond line")

    def note(self, word):
        with Path(self.job["diary"]).open("a") as diary: print(self.job["who"], word, os.getpid(), file=diary)

    def warm(self): self.note("warm")

    def round(self):
        self.note("round")
        print("a library says something")                  # which must not be taken for an answer
        self.done += 1
        if self.job.get("fails") == "dies":
            print("last words", file=sys.stderr, flush=True)
            os._exit(3)
        if self.job.get("fails") == "second" and self.done == 2: raise RuntimeError("the second round")
        time.sleep(self.job.get("nap", .01))

    def check(self): return dict(answers=self.job.get("answers", ["a", "b"]), rows=2)


class Preparing:
    def __init__(self, job): self.job = job
    def round(self):
        if os.environ.get("NAPPERS_NOTHING"): raise OSError("no room")
    def check(self):
        return dict(machine=dict(cpu="a test", cores=2, bfloat16=False), versions=dict(torch="2", transformers="5"))


def contest(diary, rounds=2, **others):
    "A contest of `a` (ours), and others by name with their options."
    from against.contests import Contest, Contestant
    def one(name, **options):
        options = {k: v for k, v in options.items() if k != "needs"} | dict(who=name)
        return Contestant(name, f"title of {name}", f"{name} 的名字", "nappers:Napper", others.get(name, {}).get("needs", ()), options,
                          ours=name == "a")
    return Contest("naps", "naps, 2 of them", "午睡", (one("a"), *(one(n, **o) for n, o in others.items())),
                   dict(diary=str(diary), n=2), dict(n=1), ("texts",), rounds)


def run(diary, words, rounds=2, **others):
    "The whole run with these contestants instead of the real ones; the exit code."
    from against import run as running
    running.CONTESTS = (contest(diary, rounds, **others),)
    running.PREPARING = running.Contestant("preparing", "", "", "nappers:Preparing")
    return running.main(words)
