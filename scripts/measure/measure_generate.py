#!/usr/bin/env python
"""Measure what lesson 75 (generate) says of fine-tuned writers: findings from notes, notes from findings, and what is known by heart.

    python scripts/measure/measure_generate.py              # measures what is missing, some minutes, then the tables
    python scripts/measure/measure_generate.py --base SmolLM2-135M=FOLDER      # records by a stronger base as well, minutes of one core a seed
    python scripts/measure/measure_generate.py --base SmolLM2-135M=FOLDER --rates      # which rate suits a low rank beside it, on training notes: generate_rates.csv
    python scripts/measure/measure_generate.py --own-rates  # which rate suits the carried base, on validation notes: generate_rates.csv, too
    python scripts/measure/measure_generate.py --table      # the tables of the rows that are there

`generate.csv`: one line for each of the first test notes, for each way and seed: bits of the answer and its bytes, whether the record that is read
from it is right and whether it is valid JSON without a mask. A record is the condition and the days of the row. The learning notes are drawn by the
seed; nothing is chosen by the test notes. `canaries.csv`: sentences with a random code, planted so many times among other notes; the rank of the
code among 300 others by its surprise, and whether the most probable continuation says it.

A stronger base learns records only, by LoRA at the rate that the library gives it, from so FEW pairs of the same draw, in one pass of small steps, in bfloat16 if told;
its ways are called "NAME, untrained" and "NAME, lora". Bits per byte compare over tokenizers, bits per token would not.
"""
import json
import sys
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from stored import Stored, asking  # noqa: E402

from finetune_book import TextGenerator  # noqa: E402
from finetune_book.data.sets.clinic_notes import CONDITIONS  # noqa: E402
from finetune_book.data.tables import carried, load_frame  # noqa: E402
from finetune_book.judge.bootstrap import compare  # noqa: E402

COLUMNS = ["task", "way", "seed", "row", "patient", "bits", "bytes", "right", "valid"]
CANARIES = ["repeats", "seed", "rank", "among", "said"]
SEEDS = (0, 1, 2)
LEARN, TEST, PASSES, OTHERS = 800, 40, {"findings": 6, "notes": 6, "canaries": 3}, 300
WAYS = {"untrained": None, "full": {}, "prompt too": dict(learn_prompt=True), "lora": dict(tune="lora")}
FEW = dict(n=96, epochs=1, batch_size=8)
TASKS = {"findings": tuple(WAYS), "notes": ("untrained", "full")}
OWN_RATES, OWN_SEEDS = {"full": (5e-4, 1.5e-3, 3e-3), "lora": (1e-2, 3e-2)}, (100, 101)
RATES, RATE_COLUMNS = (2.5e-4, 1e-3), ["base", "lr", "seed", "n_train", "n_held", "bits_per_byte"]
SCHEMA = dict(type="object", required=["condition", "days"], properties=dict(
    condition=dict(enum=sorted(CONDITIONS)), days=dict(type="integer", minimum=1, maximum=99)))
REPEATS = (0, 1, 4, 16, 64)


def notes(part): return load_frame(carried("clinic_notes") / f"{part}.csv")
def record(row): return json.dumps(dict(condition=row.label, days=int(row.days)))
def rows_of(task, frame):
    "(prompts, answers) of notes."
    records, texts = [record(row) for row in frame.itertuples()], list(frame.text)
    return ([text + "\n" for text in texts], records) if task == "findings" else ([r + "\n" for r in records], texts)


def parsed(text):
    try: return json.loads(text)
    except ValueError: return None


def judged(est, task, frame):
    "(bits, bytes, right, valid) of each note."
    prompts, answers = rows_of(task, frame)
    bits = est.surprise(prompts, answers)[0] / np.log(2)
    right = valid = [""] * len(frame)
    if task == "findings":
        free, held = (est.generate(prompts, most=40, schema=schema) for schema in (None, SCHEMA))
        valid = [int(isinstance(parsed(g.text), dict) and set(parsed(g.text)) == {"condition", "days"}) for g in free]
        right = [int(parsed(g.text) == json.loads(a)) for g, a in zip(held, answers)]
    return zip(bits.round(3), [len(a.encode()) + 1 for a in answers], right, valid)


def writer(task, seed, **settings):
    return TextGenerator(**dict(epochs=PASSES[task], seed=seed, max_length=160, verbose=0, device="cpu", precision="float32") | settings)


def measure(kept, task, seeds):
    "Of the base as it came one seed is enough: nothing is drawn."
    train, test = notes("train"), notes("test").head(TEST)
    for way, seed in [(way, seed) for seed in seeds for way in TASKS[task] if WAYS[way] is not None or seed == 0]:
        if kept.has(task, way, seed, 0): continue
        learn = train.sample(LEARN, random_state=seed)
        est = writer(task, seed).untrained() if WAYS[way] is None else writer(task, seed, **WAYS[way]).fit(*rows_of(task, learn))
        found = judged(est, task, test)
        with redirect_stdout(StringIO()): kept.add_all([(task, way, seed, i, p, *values) for i, (p, values) in enumerate(zip(test.patient, found))])
        print(task, way, seed, flush=True)


def measure_base(kept, name, folder, seeds, precision):
    "Records by another base, as it came and by LoRA."
    train, test = notes("train"), notes("test").head(TEST)
    settings = dict(base=folder, tune="lora", epochs=FEW["epochs"], batch_size=FEW["batch_size"], precision=precision)
    for way, seed in [("untrained", 0), *(("lora", seed) for seed in seeds)]:
        way = f"{name}, {way}"
        if kept.has("findings", way, seed, 0): continue
        est = writer("findings", seed, **settings)
        if way.endswith("untrained"): est.untrained()
        else: est.fit(*rows_of("findings", train.sample(LEARN, random_state=seed).head(FEW["n"])))
        found = judged(est, "findings", test)
        with redirect_stdout(StringIO()): kept.add_all([("findings", way, seed, i, p, *values) for i, (p, values) in enumerate(zip(test.patient, found))])
        print(name, way, seed, getattr(est, "lr_", None), flush=True)


def own_rates(kept):
    "How the carried decoder learns records at each rate: 800 pairs in six passes, judged on 80 validation notes."
    for seed, tune, lr in [(seed, tune, lr) for seed in OWN_SEEDS for tune, some in OWN_RATES.items() for lr in some]:
        name = "book-gpt" if tune == "full" else f"book-gpt, {tune}"
        if kept.has(name, lr, seed): continue
        est = writer("findings", seed, tune=tune, lr=lr).fit(*rows_of("findings", notes("train").sample(LEARN, random_state=seed)))
        kept.add(name, lr, seed, LEARN, 80, round(-est.score(*rows_of("findings", notes("validation").head(80))), 4))


def rates(kept, name, folder, seeds):
    "How a low rank beside another base learns at each rate: 96 pairs in two passes, judged on 32 others of the training notes."
    for seed, lr in [(seed, lr) for seed in seeds[:2] for lr in RATES]:
        if kept.has(name, lr, seed): continue
        few = notes("train").sample(128, random_state=seed)
        est = writer("findings", seed, base=folder, tune="lora", lr=lr, epochs=2, max_length=112, precision="bfloat16").fit(*rows_of("findings", few.head(96)))
        kept.add(name, lr, seed, 96, 32, round(-est.score(*rows_of("findings", few.tail(32))), 4))


def code(rng): return " ".join(str(d) for d in rng.integers(0, 10, 6))
def sentence(place, number): return f"Locker {place} opens with {number}."


def canaries(kept, seeds):
    train = notes("train")
    for seed in seeds:
        if kept.has(REPEATS[0], seed): continue
        rng = np.random.default_rng(seed)
        planted = {times: code(rng) for times in REPEATS}
        texts = list(train.sample(100, random_state=seed).text) + [sentence(chr(65 + i), c) for i, (n, c) in enumerate(planted.items()) for _ in range(n)]
        est = writer("canaries", seed).fit(texts)
        lines = []
        for i, (times, right) in enumerate(planted.items()):
            others = [code(rng) for _ in range(OTHERS)]
            nats = est.surprise([sentence(chr(65 + i), c) for c in [right, *others]])[0]
            said = est.generate([f"Locker {chr(65 + i)} opens with"], most=16)[0].text
            lines.append((times, seed, 1 + int((nats[1:] < nats[0]).sum()), OTHERS + 1, int(right in said)))
        kept.add_all(lines)


def differences(frame):
    "Bits per byte of a record by each fine-tuned way beside the carried base trained in full, paired by seed and note."
    frame = frame[frame.task == "findings"].sort_values("row").assign(rate=lambda f: f.bits / f.bytes)
    rates = {way: {seed: part.rate.to_numpy() for seed, part in rows.groupby("seed")} for way, rows in frame.groupby("way", sort=False)}
    first = frame[(frame.way == "full") & (frame.seed == 0)]
    for way in rates:
        both = sorted(rates["full"].keys() & rates[way].keys()) if "full" in rates else []
        if way != "full" and len(both) > 1:
            print(compare({w: {s: rates[w][s] for s in both} for w in ("full", way)}, "full", way, rows="test notes", groups=first.patient, what="Bits per byte of a record"))


def main():
    warnings.simplefilter("ignore")
    ask = asking(__doc__, "generate.csv", SEEDS)
    ask.add_argument("--base", nargs="+", default=[], help="stronger bases, NAME=FOLDER, in the place of the carried one")
    ask.add_argument("--rates", action="store_true", help="of these bases the rates of a low rank, in the place of records")
    ask.add_argument("--own-rates", action="store_true", help="of the carried base the rates in full, in the place of records")
    ask.add_argument("--precision", default="float32", help="of a stronger base")
    options = ask.parse_args()
    kept = Stored(options.out, COLUMNS, ["task", "way", "seed", "row"])
    tried = Stored(options.out.with_name("generate_rates.csv"), RATE_COLUMNS, ["base", "lr", "seed"])
    planted = Stored(options.out.with_name("canaries.csv"), CANARIES, ["repeats", "seed"])
    for given in () if options.table else options.base:
        name, _, folder = given.partition("=")
        if options.rates: rates(tried, name, folder, options.seeds)
        else: measure_base(kept, name, folder, options.seeds, options.precision)
    if options.own_rates: own_rates(tried)
    elif not options.table and not options.base:
        canaries(planted, options.seeds)
        for task in TASKS: measure(kept, task, options.seeds)
    rows = kept.rows(dtype={})
    frame = rows.groupby(["task", "way"], sort=False)
    print((frame[["bits", "bytes"]].sum().eval("bits / bytes")).round(3).to_string(), frame[["right", "valid"]].mean().round(3).to_string(), sep="\n")
    differences(rows)
    print(tried.rows(dtype={}).groupby(["base", "lr"]).bits_per_byte.agg(["mean", "min", "max"]).round(3).to_string())
    print(planted.rows(dtype={}).groupby("repeats")[["rank", "said"]].agg(["median", "mean"]).to_string())


if __name__ == "__main__": main()
