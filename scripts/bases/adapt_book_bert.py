"""Does more pretraining help with few labels? The long measurements of lesson 71 (text_pretrain), kept in one small JSON file.

    python scripts/bases/adapt_book_bert.py --out nbs/results/masked_lm.json
    python scripts/bases/adapt_book_bert.py --out nbs/results/from_nothing.json --stages scratch

adapt    book-bert goes on with masked language modelling on the unlabelled clinical notes; perplexity on notes of other patients
         after each portion, beside the CPU minutes
fewshot  fine-tuning on --k labelled notes a class, from book-bert as it is and from the adapted one, on the same draws and test rows
scratch  random weights of the same shape: fine-tuned as they are, and after the same steps on docstrings of installed packages

Every number is written as soon as it is there; the same command run again goes on where it was, a run with other settings is
refused. Bases and checkpoints lie in --work. --seed decides pretraining, seeds 0 to --seeds - 1 draw the labelled notes. One
thread and several minutes on a quiet core for each of the two commands.
"""
import argparse
import ast
import json
import os
import re
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import BertModel

from finetune_book.train.callbacks import Checkpoint
from finetune_book.checks import InputError
from finetune_book.data.tables import carried, read_splits
from finetune_book.judge.ladder import tfidf_floor
from finetune_book.data.splits import few_per_class
from finetune_book.text.classifier import TextClassifier
from finetune_book.text.pretrain import Masker, MaskedLM, fixed_batches, load_body, perplexity, pretrain, save_base
from finetune_book.train.trainer import Callback

PACKAGES = "numpy scipy sklearn pandas matplotlib torch transformers".split()
SETTINGS = ("base", "seed", "k", "steps", "portion", "batch_size", "lr", "epochs", "test_rows", "max_length")
ARMS = {"fewshot": ("book-bert", "adapted"), "scratch": ("random", "random + docstrings")}
SENTENCES = ["No cough, only heartburn after [MASK].", "Denies chest [MASK].", "Pt reports burning when passing [MASK] for two days."]


class Results:
    "Rows and settings in a JSON file, rewritten whole after each row."
    def __init__(self, path, settings, command):
        self.path, self.held = path, dict(settings=settings, command=command, rows=[])
        if path.exists():
            old = json.loads(path.read_text(encoding="utf-8"))
            other = {k: v for k, v in old["settings"].items() if settings.get(k) != v}
            if other: raise InputError(f"{path}: holds results of other settings, {other}; name another --out")
            self.held = old

    def find(self, **what): return [r for r in self.held["rows"] if all(r.get(k) == v for k, v in what.items())]

    def add(self, **row):
        self.held["rows"].append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        staging = self.path.with_suffix(".part")
        rows = ",\n".join("  " + json.dumps(r, ensure_ascii=False) for r in self.held["rows"])
        head = json.dumps({k: v for k, v in self.held.items() if k != "rows"}, ensure_ascii=False, indent=1)[:-2]
        staging.write_text(f'{head},\n "rows": [\n{rows}\n ]\n}}\n', encoding="utf-8")
        os.replace(staging, self.path)
        print(row, flush=True)


class Clock(Callback):
    "CPU seconds of training so far, judging left out; goes on after a resume."
    def on_fit_start(self, trainer): self.seconds = 0.
    def on_epoch_start(self, trainer): self.begun = time.process_time()
    def on_batch_end(self, trainer):
        self.seconds += time.process_time() - self.begun
        self.begun = time.process_time()
    def state_dict(self): return {"seconds": self.seconds}
    def load_state_dict(self, state): self.seconds = state["seconds"]


class Report(Callback):
    "One row a portion."
    order = 10

    def __init__(self, results, arm, clock): self.results, self.arm, self.clock = results, arm, clock

    def on_epoch_end(self, trainer):
        if not self.results.find(stage="pretrain", arm=self.arm, step=trainer.step):
            self.results.add(stage="pretrain", arm=self.arm, step=trainer.step, cpu_minutes=round(self.clock.seconds / 60, 2),
                             perplexity=round(trainer.history_[-1]["perplexity"], 2))


def docstrings(limit_mb=3):
    "Paragraphs of prose in docstrings of installed packages, in a fixed order."
    root, found, size = Path(sysconfig.get_paths()["purelib"]), {}, 0
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            try: tree = ast.parse(file.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError, ValueError): continue
            for node in ast.walk(tree):
                if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)): continue
                for part in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                    part = " ".join(part.split())
                    if part.count(" ") > 8 and sum(c.isalpha() or c == " " for c in part) > .9 * len(part) and part not in found: found[part], size = None, size + len(part)
            if size > limit_mb * 1e6: return list(found)
    return list(found)


def clinical():
    "(texts to learn from, texts of 300 other patients) of the unlabelled notes."
    notes = pd.read_csv(carried("clinic_notes") / "unlabelled.csv")
    held = notes.patient.isin(np.random.default_rng(0).permutation(notes.patient.unique())[:300])
    return notes.text[~held].tolist(), notes.text[held].tolist()[:300]


def random_body(body, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertModel(body.config)


def fill_ins(model, tokenizer, top=4):
    "The likeliest pieces for each [MASK] of SENTENCES."
    said = []
    for sentence in SENTENCES:
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        with torch.no_grad(): logits = model.eval()(ids, torch.ones_like(ids), ids == tokenizer.mask_token_id)[0]
        said.append(tokenizer.convert_ids_to_tokens(logits.topk(top).indices.tolist()))
    return said


def make_base(args, results, arm):
    "Folder of the pretrained base of an arm; trained if it is not there yet."
    folder = args.work / arm.replace(" ", "")
    if (folder / "config.json").exists(): return folder
    body, tokenizer = load_body(args.base)
    learn, judged = clinical()
    if arm != "adapted": body = random_body(body, args.seed)
    if arm == "random": return save_base(body, tokenizer, folder)
    if arm == "random + docstrings": learn = docstrings()
    rows = lambda texts: tokenizer(texts, truncation=True, max_length=args.max_length)["input_ids"]
    masker, pad = Masker(tokenizer), tokenizer.pad_token_id
    judge = fixed_batches(rows(judged), masker, pad)
    model, clock, state = MaskedLM(body, args.seed).eval(), Clock(), args.work / f"state-{arm.replace(' ', '')}"
    if not results.find(stage="pretrain", arm=arm, step=0):
        results.add(stage="pretrain", arm=arm, step=0, cpu_minutes=0., perplexity=round(perplexity(model, judge), 2), texts=len(learn), characters=sum(map(len, learn)))
    pretrain(model, rows(learn), masker, pad, judge, args.steps // args.portion, args.portion, args.lr, args.batch_size, seed=args.seed,
             callbacks=[clock, Report(results, arm, clock), Checkpoint(state, every_steps=10)], resume=Checkpoint.latest(state))
    if not results.find(stage="fill", arm=arm): results.add(stage="fill", arm=arm, sentences=SENTENCES, said=fill_ins(model, tokenizer))
    return save_base(model.bert, tokenizer, folder)


def judge_arms(args, results, stage):
    "Test accuracy of each arm's base after fine-tuning on the same few labels, seed after seed."
    splits = read_splits("clinic_notes")
    train, test = splits["train"], splits["test"].sample(min(args.test_rows, len(splits["test"])), random_state=0)
    texts, labels, names = test.text.tolist(), test.label.to_numpy(), ARMS[stage]
    for seed in range(args.seeds):
        few = train.iloc[few_per_class(train.label, args.k, seed=seed)]
        if not results.find(stage="floor", seed=seed):
            results.add(stage="floor", arm="TF-IDF", seed=seed, accuracy=round(float(tfidf_floor(few.text.tolist(), few.label.to_numpy()).score(texts, labels)), 4))
        for arm in names:
            if results.find(stage=stage, arm=arm, seed=seed): continue
            base = args.base if arm == "book-bert" else make_base(args, results, arm)
            scratch = stage == "scratch"
            clf = TextClassifier(base=str(base), epochs=2 * args.epochs if scratch else args.epochs, lr=5e-4 if scratch else 1e-4, batch_size=16, max_length=args.max_length, seed=seed, verbose=0)
            clf.fit(few.text.tolist(), few.label.to_numpy())
            results.add(stage=stage, arm=arm, seed=seed, accuracy=round(float(clf.score(texts, labels)), 4))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--work", type=Path, default=Path("build/masked_lm"), help="for bases and checkpoints; can be thrown away")
    p.add_argument("--stages", nargs="+", choices=("adapt", "fewshot", "scratch"), default=["adapt", "fewshot"])
    p.add_argument("--base", default="book-bert")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--k", type=int, default=16, help="labelled notes a class")
    p.add_argument("--steps", type=int, default=160, help="optimizer steps of pretraining")
    p.add_argument("--portion", type=int, default=20, help="steps between two looks at the perplexity")
    p.add_argument("--batch-size", type=int, default=24)
    p.add_argument("--lr", type=float, default=5e-4)
    p.add_argument("--epochs", type=int, default=5, help="of fine-tuning; twice as many from random weights")
    p.add_argument("--test-rows", type=int, default=600)
    p.add_argument("--max-length", type=int, default=96)
    args = p.parse_args()
    torch.set_num_threads(1)
    default, settings = vars(p.parse_args(["--out", str(args.out)])), {k: getattr(args, k) for k in SETTINGS}
    changed = "".join(f" --{k.replace('_', '-')} {v}" for k, v in {**settings, "seeds": args.seeds}.items() if v != default[k])
    results = Results(args.out, settings, f"python scripts/bases/adapt_book_bert.py --out {args.out.as_posix() if not args.out.is_absolute() else args.out.name}{changed}")
    if "adapt" in args.stages: make_base(args, results, "adapted")
    for stage in ("fewshot", "scratch"):
        if stage in args.stages: judge_arms(args, results, stage)


if __name__ == "__main__":
    try: main()
    except InputError as e: sys.exit(f"{e}")
