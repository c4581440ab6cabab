"""The losses of 200 steps are those of a plain torch loop, and of transformers' Trainer, on the same batches.

In float32 with dropout off, so that nothing is left to chance: what is faster must be the same work.
"""
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune_book import TextClassifier
from finetune_book.text.bases import load_text_base
from finetune_book.text.tokens import length_buckets, pad_batch
from finetune_book.train.trainer import Callback
from tiny import WORDS, save_tiny_base

STEPS, BATCH, LR, CLASSES = 200, 8, 1e-3, ("bad", "good", "head")
# What is the same on every road but for speed is set to the exact one, where there is such a choice.
EXACT = {name: value for name, value in {"precision": "float32"}.items() if name in TextClassifier().get_params()}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    "A tiny base without dropout."
    folder = save_tiny_base(tmp_path_factory.mktemp("base") / "still")
    config = json.loads((folder / "config.json").read_text())
    config |= dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0., classifier_dropout=0.)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def made_rows(n=64):
    rng = np.random.default_rng(0)
    labels = [CLASSES[i] for i in rng.integers(3, size=n)]
    return [" ".join([y, *rng.choice(WORDS[:30], size=rng.integers(2, 20))]) for y in labels], labels


class Losses(Callback):
    def on_fit_start(self, trainer): self.seen = []
    def on_batch_end(self, trainer): self.seen.append(trainer.loss_)


@pytest.fixture(scope="module")
def ours(base):
    "The losses of our steps, (200,)."
    losses, (texts, labels) = Losses(), made_rows()
    TextClassifier(base, tune="full", epochs=STEPS * BATCH // len(texts), lr=LR, batch_size=BATCH, max_length=64,
                   weight_decay=0., callbacks=[losses], verbose=0, **EXACT).fit(texts, labels)
    assert len(losses.seen) == STEPS
    return np.array(losses.seen)


@pytest.fixture(scope="module")
def theirs(base):
    "The same model with the same head, its rows and the row numbers of 200 batches."
    model, tokenizer = load_text_base(str(base), len(CLASSES), labels=list(CLASSES), seed=0)
    texts, labels = made_rows()
    ids = tokenizer(texts, truncation=True, max_length=64)["input_ids"]
    epochs = range(STEPS * BATCH // len(texts))
    plan = [idx.tolist() for e in epochs for idx in length_buckets([len(r) for r in ids], BATCH, 0, e)]
    return model, ids, [CLASSES.index(y) for y in labels], plan, tokenizer.pad_token_id


def rate_at(step, warm=STEPS // 10):
    "Up in a straight line over the first tenth, then down to nothing: the first step is one, transformers' is none."
    return (step + 1) / (warm + 1) if step < warm else (STEPS - step) / (STEPS - warm)


def inputs_of(rows, pad):
    ids, mask = pad_batch(rows, pad)
    return dict(input_ids=ids, attention_mask=mask)


def close(ours, theirs):
    assert theirs.shape == (STEPS,) and ours[-20:].mean() < .5 * ours[:20].mean(), "it learns, so the steps matter"
    assert np.abs(ours - theirs).max() < 1e-5


def test_a_plain_loop_loses_the_same(ours, theirs):
    model, ids, classes, plan, pad = theirs
    model = load_again(model).train()
    optimizer, seen = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.), []
    for step, idx in enumerate(plan):
        for group in optimizer.param_groups: group["lr"] = LR * rate_at(step)
        logits = model(**inputs_of([ids[i] for i in idx], pad)).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([classes[i] for i in idx]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    close(ours, np.array(seen))


def load_again(model):
    "A model of the same weights, so that one test does not train the other's."
    import copy
    return copy.deepcopy(model)


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None,
                    reason="transformers' Trainer needs accelerate: pip install 'finetune-book[bench]'")
def test_the_trainer_of_transformers_loses_the_same(ours, theirs, tmp_path: Path):
    from transformers import Trainer, TrainingArguments
    model, ids, classes, plan, pad = theirs
    seen = []

    class Same(Trainer):
        "Takes our batches in our order, and remembers the losses."
        def get_train_dataloader(self):
            return torch.utils.data.DataLoader(self.train_dataset, batch_sampler=plan, collate_fn=self.data_collator)
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            seen.append(loss.item())
            return loss

    def collate(rows):
        return inputs_of([r for r, _ in rows], pad) | {"labels": torch.tensor([y for _, y in rows])}

    asked = TrainingArguments(output_dir=str(tmp_path), max_steps=STEPS, learning_rate=LR,
                              per_device_train_batch_size=BATCH, save_strategy="no", report_to="none", use_cpu=True,
                              disable_tqdm=True, remove_unused_columns=False, logging_strategy="no")
    with torch.random.fork_rng(devices=[]):
        trained = load_again(model)
        optimizer = torch.optim.AdamW(trained.parameters(), lr=LR, weight_decay=0.)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_at)
        Same(trained, asked, train_dataset=list(zip(ids, classes)), data_collator=collate,
             optimizers=(optimizer, schedule)).train()
    close(ours, np.array(seen))
