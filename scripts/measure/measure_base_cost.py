#!/usr/bin/env python
"""Measure what a base costs in each of the three tasks of lessons 75 (generate), 76 (match) and 77 (answer): a few steps, memory, files.

    python scripts/measure/measure_base_cost.py                                                # the carried bases
    python scripts/measure/measure_base_cost.py --bases finding=all-MiniLM-L6-v2=FOLDER answering=all-MiniLM-L6-v2=FOLDER generating=SmolLM2-135M=FOLDER
    python scripts/measure/measure_base_cost.py --table

`base_cost.csv`: a row for each task and base: how it is tuned, its parameters and those that move, megabytes of its weights in a folder, the median
seconds of one core that a step takes (processor time, so that other work on the machine counts little), and the peak memory of a process that does
nothing else. Carried rows, the same for each base of a task; steps are so many that a median is meant, not that anything is learned.
"""
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from stored import Stored, asking  # noqa: E402

KEY = ["task", "base"]
COLUMNS = [*KEY, "tune", "parameters", "moved", "disk_mb", "batch_size", "step_s", "peak_mb"]
CARRIED = {"finding": "book-bert", "answering": "book-bert", "generating": "book-gpt"}
BATCH, STEPS = {"finding": 32, "answering": 16, "generating": 16}, 4


def estimator(task, base):
    "An estimator with the settings of the task's measurement, and what it learns from, so many rows that STEPS steps are made."
    from finetune_book import QuestionAnswerer, TextGenerator, TextMatcher
    from finetune_book.data.sets.clinic_questions import read_clinic_questions
    from finetune_book.data.tables import carried, load_frame
    size, settings = BATCH[task], dict(base=base, batch_size=BATCH[task], epochs=1, verbose=0, device="cpu", precision="bfloat16")
    if task == "answering": return QuestionAnswerer(max_length=128, stride=32, **settings), (read_clinic_questions("train")[:size * STEPS],)
    if task == "finding":
        rows = load_frame(carried("help_desk") / "train.csv").sample(size * STEPS, random_state=0)
        return TextMatcher(**settings), (rows.text.tolist(), rows.label.tolist())
    notes = load_frame(carried("clinic_notes") / "train.csv").head(size * STEPS)
    tune = "full" if base == CARRIED[task] else "lora"
    return TextGenerator(tune=tune, max_length=160, **settings), ([text + "\n" for text in notes.text], notes.label.tolist())


def measured(task, base):
    "The cells behind the key; in a process of its own."
    from finetune_book.data.hub import resolve_base
    from finetune_book.train.trainer import Callback

    class Clock(Callback):
        def __init__(self): self.ticks = []
        def on_batch_end(self, trainer): self.ticks.append(time.process_time())
        def on_epoch_start(self, trainer): self.ticks.append(time.process_time())

    clock = Clock()
    est, rows = estimator(task, base)
    est.set_params(callbacks=[clock]).fit(*rows)
    disk = sum(p.stat().st_size for p in Path(resolve_base(base)).glob("*.safetensors")) / 2**20
    return [est.tune_, est.n_parameters_, est.n_trainable_, round(disk, 1), est.batch_size, round(float(np.median(np.diff(clock.ticks))), 3), round(est.budget_.measured_peak_mb)]


def measure(stored, given):
    "What is missing, each in a process of its own, whose peak is no other's."
    for task, name, base in given:
        if stored.has(task, name): continue
        with multiprocessing.get_context("spawn").Pool(1) as pool: stored.add(task, name, *pool.apply(measured, (task, base)))


def main():
    ask = asking(__doc__, "base_cost.csv", [0])
    ask.add_argument("--bases", nargs="+", default=[], help="TASK=NAME=FOLDER; tasks: " + ", ".join(CARRIED))
    told = ask.parse_args()
    stored = Stored(told.out, COLUMNS, KEY)
    given = [(task, base, base) for task, base in CARRIED.items()] + [tuple(text.split("=", 2)) for text in told.bases]
    if not told.table: measure(stored, given)
    print(stored.rows().to_string(index=False))


if __name__ == "__main__": main()
