"""Contestants that answer many texts with the same saved model, opened before."""
from pathlib import Path

from .prepare import MODEL, ONNX, read
from .text import device

LONGEST = 128


class Reading:
    "What they share: the texts; the warm-up has some of them; the answers are compared."
    def __init__(self, job):
        self.job, self.folder = job, Path(job["work"]) / MODEL
        self.texts = read(job["work"], "reading")[:job["n"]]
        self.open()

    def warm(self): self.predict(self.texts[:1000])
    def round(self): self.said = self.predict(self.texts)
    def check(self): return dict(answers=[str(label) for label in self.said], rows=len(self.texts))


class Ours(Reading):
    def open(self):
        from finetune_book import TextClassifier
        self.model = TextClassifier.load(self.folder)

    def predict(self, texts): return self.model.predict(texts)


class Pipeline(Reading):
    def open(self):
        from transformers import pipeline
        self.pipe = pipeline("text-classification", str(self.folder), device=device())

    def predict(self, texts):
        said = self.pipe(texts, batch_size=32, truncation=True, max_length=LONGEST)
        return [one["label"] for one in said]


class Onnx(Reading):
    "ONNX Runtime as one who knows it would use it: longest first, so that a batch has little padding."
    def open(self):
        import numpy as np
        import onnxruntime
        from transformers import AutoConfig, AutoTokenizer
        self.np, self.names = np, AutoConfig.from_pretrained(self.folder).id2label
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self.session = onnxruntime.InferenceSession(Path(self.job["work"]) / ONNX, providers=["CPUExecutionProvider"])

    def predict(self, texts):
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        said = [None] * len(texts)
        for start in range(0, len(order), 32):
            rows = order[start:start + 32]
            coded = self.tokenizer([texts[i] for i in rows], truncation=True, padding=True, max_length=LONGEST,
                                   return_tensors="np")
            inputs = {name: coded[name].astype(self.np.int64) for name in ("input_ids", "attention_mask")}
            for i, best in zip(rows, self.session.run(None, inputs)[0].argmax(1)): said[i] = self.names[int(best)]
        return said
