"""Two trainings at once on the cores of this machine: each with its share of the threads, as the sweep of lesson 93 (sweep) starts them, against each with
as many threads as there are cores, as PyTorch starts by itself. The trainings wait in processes of their own, so that starting them does not count."""
import os
import subprocess
import sys

from _timing import compare

from finetune_book.processes import WAITING
from finetune_book.report.record import machine
from finetune_book.report.pool import THREADS, share_of, shared_environment

JOBS, STEPS = 2, 6
TRAIN = """
import sys, torch
from finetune_book.text.bases import load_text_base
with torch.random.fork_rng():
    torch.manual_seed(0)
    ids = torch.randint(5, 900, (16, 64))
model, _ = load_text_base("book-bert", 10, seed=0)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
for line in sys.stdin:
    for _ in range(int(line)):
        loss = model(input_ids=ids, labels=torch.arange(16) % 10).loss
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    print("done", flush=True)
"""


def trainings(env, jobs=JOBS, train=TRAIN):
    "Processes that each train for as many steps as they are told."
    return [subprocess.Popen([sys.executable, "-c", train], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(jobs)]


def plain():
    "The environment without what says how many threads there are and how they wait."
    return {k: v for k, v in os.environ.items() if k not in (*THREADS, *WAITING, "TOKENIZERS_PARALLELISM")}


def at_once(processes):
    def run():
        for p in processes: print(STEPS, file=p.stdin, flush=True)
        for p in processes: assert p.stdout.readline().strip() == "done"
    return run


def race(ways, jobs, title, train=TRAIN):
    "Compare environments, each with so many trainings at once."
    started = {name: trainings(env, jobs, train) for name, env in ways.items()}
    try: compare({name: at_once(processes) for name, processes in started.items()}, title=title)
    finally:
        for processes in started.values():
            for p in processes: p.kill()


if __name__ == "__main__":
    ways = {"a share of the cores each": plain() | WAITING | shared_environment(share_of(machine()["cores"], JOBS)), "all cores each": plain()}
    race(ways, JOBS, f"{JOBS} trainings of book-bert at once, {STEPS} steps of 16 texts each")
