"""What the contestants work on, laid out as plain files, so that theirs need nothing of ours to read it."""
import json
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

HELD = 400                                                  # rows on which a training is looked at afterwards
BASE, MODEL, ONNX = "base", "model", "model.onnx"


def write(path, value): Path(path).write_text(json.dumps(value), encoding="utf-8")
def read(work, name): return json.loads((Path(work) / f"{name}.json").read_text(encoding="utf-8"))


def texts(work, job):
    "The carried notes, and book-bert with a fresh head of their classes as transformers opens it."
    from finetune_book.data.tables import read_splits
    from finetune_book.text.bases import load_text_base
    splits = read_splits("clinic_notes")
    classes = sorted(splits["train"].label.unique())
    for name, part in (("train", splits["train"]), ("held", splits["test"].head(HELD))):
        write(work / f"{name}.json", dict(texts=part.text.tolist(), labels=part.label.tolist()))
    model, tokenizer = load_text_base("book-bert", len(classes), labels=classes, seed=0)
    model.save_pretrained(work / BASE)
    tokenizer.save_pretrained(work / BASE)


def many(work, job):
    "As many notes as the largest contestant reads, made by the carried set's generator from another seed."
    from finetune_book.data.sets.clinic_notes import make_clinic_notes
    rows = make_clinic_notes(1, {"train": job["most"]})["train"]
    write(work / "many.json", dict(texts=[row["text"] for row in rows], labels=[row["label"] for row in rows]))


def pictures(work, job):
    "The carried pictures of surfaces, all splits together, brought to 32 pixels."
    from finetune_book.data.sets.surface_defects import load
    parts = [load(split) for split in ("train", "validation", "test")]
    pixels = np.concatenate([pixels for pixels, _ in parts])
    small = np.stack([np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.BILINEAR)) for p in pixels])
    np.save(work / "pictures.npy", small)
    write(work / "pictures.json", [label for _, table in parts for label in table.label])


def model(work, job):
    "A fitted classifier of notes as `save` writes it, 10,000 notes to read, and the same model as ONNX."
    from finetune_book import TextClassifier
    from finetune_book.data.tables import carried
    import pandas as pd
    train = read(work, "train")
    fitted = TextClassifier(tune="head", verbose=0).fit(train["texts"][:640], train["labels"][:640])
    fitted.save(work / MODEL)
    write(work / "reading.json", pd.read_csv(carried("clinic_notes") / "unlabelled.csv").text.tolist())
    if job["onnx"]: to_onnx(fitted.model_, work / ONNX)


def to_onnx(net, path):
    "A text classifier as ONNX, for any number of texts of any length."
    import torch
    # Two tensors: one tensor given twice becomes one input.
    ids, mask = torch.arange(32).view(2, 16), torch.ones(2, 16, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, length = (torch.export.Dim(name) for name in ("rows", "length"))
        shapes = {name: {0: rows, 1: length} for name in ("input_ids", "attention_mask")}
        torch.onnx.export(net.eval(), (), str(path), kwargs=dict(input_ids=ids, attention_mask=mask),
                          dynamic_shapes=shapes, output_names=["logits"], dynamo=True, verbose=False)


MATERIALS = dict(texts=texts, many=many, pictures=pictures, model=model)


def facts():
    "The machine and the versions, as a report's record has them."
    import importlib.metadata as installed
    from finetune_book.report.record import machine, versions
    from finetune_book.vision.rows import knows_bfloat16
    others = {name: installed.version(name) for name in ("accelerate", "onnxruntime") if has(name)}
    return dict(machine=machine() | {"bfloat16": knows_bfloat16("cpu")}, versions=versions() | others)


def has(package):
    from importlib.util import find_spec
    return find_spec(package) is not None


class Preparing:
    "A contestant's form, so that the work is laid out by a worker too."
    def __init__(self, job): self.job, self.work = job, Path(job["work"])

    def round(self):
        for name in self.job["materials"]:
            print("laying out", name, file=sys.stderr)
            MATERIALS[name](self.work, self.job)

    def check(self): return facts()
