#!/usr/bin/env python
"""Make `book-gpt`, the small decoder that the book carries: trained from nothing on the clinic's notes (lesson 44, gpt).

    python scripts/bases/make_book_gpt.py --work WORK --out data/book-gpt [--steps 800] [--seed 0] [--precision bfloat16]
    python scripts/bases/make_book_gpt.py … --only train | judge | card

Reads the notes of `train.csv` and `unlabelled.csv` of clinic_notes, no label. `test.csv`, other patients' notes, is read by `judge` alone, at the
end; `validation.csv` chooses the order of the n-gram floor and nothing else. The state is kept in --work every 50 steps; a killed run goes on
from there. The last bits of the weights depend on the machine's arithmetic.
"""
import argparse
import csv
import json
import math
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from finetune_book.data.tables import carried, load_frame
from finetune_book.text.gpt import token_losses
from finetune_book.text.ngram import NGram
from finetune_book.text.tokens import length_buckets, pad_batch

END = "<|endoftext|>"
PIECES, LONGEST, BATCH, RATE, WARM, KEEP = 2048, 192, 16, 3e-3, 50, 50
SIZES = dict(n_embd=160, n_layer=4, n_head=5)


def notes(*files): return [t for name in files for t in load_frame(carried("clinic_notes") / f"{name}.csv")["text"]]


# --- pieces and model ------------------------------------------------------------------------------------------------

def learn_tokenizer(texts, pieces):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=pieces, special_tokens=[END], show_progress=False,
                                                       initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tok


def encoded(tok, texts):
    "Piece numbers of each text, between two ends: the first is where a text begins from, the second is to be predicted."
    end = tok.token_to_id(END)
    return [[end, *e.ids, end] for e in tok.encode_batch(texts)]


def new_model(tok, seed):
    end = tok.token_to_id(END)
    config = transformers.GPT2Config(vocab_size=tok.get_vocab_size(), n_positions=LONGEST, **SIZES, resid_pdrop=0., embd_pdrop=0., attn_pdrop=0.,
                                     bos_token_id=end, eos_token_id=end, pad_token_id=end)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.GPT2LMHeadModel(config)


# --- training ----------------------------------------------------------------------------------------------------------

def rate_at(step, steps): return RATE * min((step + 1) / WARM, 1.) * (.5 + .5 * math.cos(math.pi * step / steps))


def optimiser(model):
    "Decay for matrices only."
    wide = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    return torch.optim.AdamW([dict(params=wide, weight_decay=.1), dict(params=rest, weight_decay=0.)], lr=RATE, betas=(.9, .95))


def mean_loss(model, ids, mask):
    losses = token_losses(model(input_ids=ids, attention_mask=mask).logits.float(), ids, mask)
    return losses.sum() / (mask[:, 1:] * mask[:, :-1]).sum()


def batches_of(rows, steps, seed):
    "Row numbers of each step: epochs of batches of like length, one after the other."
    epoch, lengths = 0, [len(r) for r in rows]
    out = []
    while len(out) < steps: out, epoch = out + length_buckets(lengths, BATCH, seed, epoch), epoch + 1
    return out[:steps]


def train(args):
    args.work.mkdir(parents=True, exist_ok=True)
    texts = notes("train", "unlabelled")
    tok = learn_tokenizer(texts, args.pieces)
    rows, end, kept = encoded(tok, texts), tok.token_to_id(END), args.work / "state.pt"
    batches, model, log, step = batches_of(rows, args.steps, args.seed), new_model(tok, args.seed), [], 0
    opt = optimiser(model)
    if kept.exists():
        held = torch.load(kept, weights_only=True)
        model.load_state_dict(held["model"]); opt.load_state_dict(held["opt"])
        step, log = held["step"], held["log"]
    model.train()
    begun, told = time.monotonic(), []
    while step < args.steps:
        for group in opt.param_groups: group["lr"] = rate_at(step, args.steps)
        ids, mask = pad_batch([rows[i][:LONGEST] for i in batches[step]], end)       # filling is the end's number; the mask knows
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bfloat16"): loss = mean_loss(model, ids, mask)
        opt.zero_grad(); loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        opt.step()
        told.append(loss.item()); step += 1
        if step % 25 == 0 or step == args.steps:
            log.append([step, sum(told) / len(told)]); told = []
            print(f"step {step} of {args.steps}: {log[-1][1]:.3f} nats per token, {time.monotonic() - begun:.0f} s", flush=True)
        if step % KEEP == 0 or step == args.steps:
            part = kept.with_suffix(".part")
            torch.save(dict(model=model.state_dict(), opt=opt.state_dict(), step=step, log=log), part); part.replace(kept)
    save(args, model.eval(), tok, log)


def save(args, model, tok, log):
    "Hugging Face's format: weights in half precision, opened in single precision."
    args.out.mkdir(parents=True, exist_ok=True)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=END, eos_token=END, unk_token=END, pad_token=END, model_max_length=LONGEST)
    theirs.save_pretrained(args.out)
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(state, args.out / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | dict(architectures=["GPT2LMHeadModel"], dtype="float32")
    for name in ("_name_or_path", "transformers_version"): config.pop(name, None)
    (args.out / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    with open(args.out / "training_log.csv", "w", newline="") as f:
        to = csv.writer(f, lineterminator="\n")
        to.writerows([["step", "nats_per_token"], *([k, f"{v:.4f}"] for k, v in log)])


# --- judging -----------------------------------------------------------------------------------------------------------

def n_bytes(text): return len(text.encode()) + 1            # its end counts as one


@torch.no_grad()
def nats_of(model, rows, end, size=64):
    "Surprise of each whole text under a model."
    found = torch.zeros(len(rows), dtype=torch.float64)
    for idx in length_buckets([len(r) for r in rows], size, shuffle=False):
        ids, mask = pad_batch([rows[i] for i in idx], end)
        found[torch.as_tensor(idx)] = token_losses(model(input_ids=ids, attention_mask=mask).logits, ids, mask).double().sum(1)
    return found.tolist()


def judge(args):
    "bits of each test note under the floors and the model as it was saved; `held_out.csv`."
    tok, (learn, choose, test) = Tokenizer.from_file(str(args.out / "tokenizer.json")), [notes("train", "unlabelled"), notes("validation"), notes("test")]
    rows = {name: encoded(tok, texts) for name, texts in (("learn", learn), ("choose", choose), ("test", test))}
    longest = max(map(len, rows["test"]))
    if longest > LONGEST: raise SystemExit(f"a test note has {longest} pieces, the model reads {LONGEST}")
    grams = {order: NGram(rows["learn"], order, tok.get_vocab_size()) for order in range(1, 8)}
    chosen = min(grams, key=lambda order: sum(map(grams[order].nats, rows["choose"])))
    model = transformers.AutoModelForCausalLM.from_pretrained(args.out).float().eval()
    nats = {"trigram": list(map(grams[3].nats, rows["test"])), "ngram": list(map(grams[chosen].nats, rows["test"])),
            "book_gpt": nats_of(model, rows["test"], tok.token_to_id(END))}
    patients = load_frame(carried("clinic_notes") / "test.csv")["patient"]
    with open(args.out / "held_out.csv", "w", newline="") as f:
        to = csv.writer(f, lineterminator="\n")
        to.writerow(["patient", "bytes", *(f"bits_{name}" for name in nats)])
        to.writerows([p, n_bytes(t), *(f"{v / math.log(2):.3f}" for v in values)] for p, t, *values in zip(patients, test, *nats.values()))
    total = sum(map(n_bytes, test))
    result = dict(order=chosen, steps=args.steps, seed=args.seed, precision=args.precision, tokens=sum(len(r) - 1 for r in rows["learn"]), notes=len(learn),
                  **{name: round(sum(v) / math.log(2) / total, 4) for name, v in nats.items()})
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


# --- card --------------------------------------------------------------------------------------------------------------

CARD = """---
language: en
license: cc0-1.0
library_name: transformers
pipeline_tag: text-generation
tags: [gpt2, small, teaching]
---
# book-gpt

Licence: CC0-1.0, as the notes it was trained on
Source: trained from nothing on the carried clinic_notes by scripts/bases/make_book_gpt.py

A small decoder that this book carries so that the lessons on writing texts run without a download: GPT-2's architecture (lesson 44, gpt),
trained from random weights on synthetic clinical notes. `AutoModelForCausalLM.from_pretrained` opens this folder as it is.

| | |
|---|---|
| layers, width, attention heads | {n_layer}, {n_embd}, {n_head} |
| vocabulary | {vocab_size:,} pieces, byte-level BPE learned on the same notes |
| context | {n_positions} pieces |
| parameters | {parameters:,}, stored in half precision, opened in single precision |
| weights | {size:,} bytes, sha256 `{sha}` |

## How it was made

    python scripts/bases/make_book_gpt.py --work WORK --out data/book-gpt --steps {steps} --seed {seed} --precision {precision}

{steps} steps of {batch} notes, {epochs:.1f} passes over the {notes:,} notes of `train.csv` and `unlabelled.csv` of clinic_notes ({tokens:,} pieces to predict),
no label read. AdamW, rate {rate}, warm-up {warm} steps, a cosine down to zero, decay .1 on matrices, gradients clipped at 1, no dropout.
The loss of each 25 steps is in `training_log.csv`. The vocabulary is the same on every machine; the last bits of the weights depend on the
machine's arithmetic.

## How good it is

Bits per byte of the {n_test:,} notes of `test.csv`, other patients' notes, each note with its end (one byte), all texts together; bits of each note in
`held_out.csv`. The floors are n-grams of the same pieces with backoff (Witten and Bell), counted on the same notes; the order {order} is the best of 1 to 7
on `validation.csv`. Lesson 44 (gpt) compares them note by note.

| | bits per byte |
|---|---|
| trigram | {trigram:.3f} |
| {order}-gram | {ngram:.3f} |
| book-gpt | {book_gpt:.3f} |

The notes come from templates: that is why so few bits are enough. Some ways of speaking in the test notes occur in the unlabelled notes, too; the
patients do not.

## Limits

It knows the language of these notes and nothing else. **General English is not reached at this size, nor was it tried**: a text from elsewhere
costs it many times as many bits. What it writes reads like a note and is about nobody; a finding in it means nothing. All notes are synthetic.
**Not for clinical use.**
"""


def card(args):
    import hashlib
    config, result = (json.loads((args.out / f"{name}.json").read_text()) for name in ("config", "result"))
    weights = args.out / "model.safetensors"
    model = transformers.AutoModelForCausalLM.from_pretrained(args.out)
    text = CARD.format(**config, **result, parameters=model.num_parameters(), size=weights.stat().st_size, sha=hashlib.sha256(weights.read_bytes()).hexdigest(),
                       batch=BATCH, rate=RATE, warm=WARM, epochs=result["steps"] * BATCH / result["notes"], n_test=len(notes("test")))
    (args.out / "README.md").write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="what is made on the way")
    parser.add_argument("--out", type=Path, required=True, help="where the base model goes")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pieces", type=int, default=PIECES)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--only", choices=("train", "judge", "card"))
    args = parser.parse_args()
    for part in (train, judge, card):
        if args.only in (None, part.__name__): part(args)


if __name__ == "__main__": main()
