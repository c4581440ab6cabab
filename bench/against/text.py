"""Contestants that fine-tune a text model: from the raw texts and the base on the disk to the trained model."""
import tempfile
from pathlib import Path

from .prepare import BASE, read


def device():
    import torch
    return "cuda" if torch.cuda.is_available() else "cpu"


def knows_bfloat16():
    "Whether the GPU, or else the processor, computes in bfloat16; asked of torch alone."
    import torch
    if torch.cuda.is_available(): return torch.cuda.is_bf16_supported(including_emulation=False)
    return getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", bool)()


class OneEpoch:
    "Warms up with one epoch: every length of text and every size of batch has been met then."
    def warm(self):
        whole, self.job = self.job, self.job | dict(epochs=1)
        try: self.round()
        finally: self.job = whole


class Training(OneEpoch):
    "What they share: the rows, and the accuracy on rows held back."
    def __init__(self, job):
        self.job = job
        rows, self.held = (read(job["work"], name) for name in ("train", "held"))
        self.texts, self.labels = rows["texts"][:job["n"]], rows["labels"][:job["n"]]

    def check(self):
        right = [str(said) == said_right for said, said_right in
                 zip(self.predict(self.held["texts"]), self.held["labels"])]
        return dict(accuracy=sum(right) / len(right), rows=self.job["n"])


GIVEN = ("tune", "epochs", "lr", "batch_size", "seed", "precision", "shortcuts")


class Ours(Training):
    def __init__(self, job):
        super().__init__(job)
        from finetune_book import TextClassifier
        self.kind = TextClassifier

    def make(self):
        job = self.job
        return self.kind(**{k: job[k] for k in GIVEN if k in job and k not in job.get("left_open", ())}, verbose=0)

    def round(self): self.fitted = self.make().fit(self.texts, self.labels)
    def predict(self, texts): return self.fitted.predict(texts)


class Growing(Ours):
    "Ours with as many rows as asked; the warm-up has few of them."
    def __init__(self, job):
        super().__init__(job)
        rows = read(job["work"], "many")
        self.texts, self.labels = rows["texts"][:job["n"]], rows["labels"][:job["n"]]

    def warm(self): self.make().fit(self.texts[:320], self.labels[:320])


class Theirs(Training):
    "transformers alone: the same base from a folder, the head of the same first weights."
    def __init__(self, job):
        super().__init__(job)
        import torch
        import transformers
        transformers.utils.logging.disable_progress_bar()
        self.torch, self.hf = torch, transformers
        self.folder = Path(job["work"]) / BASE

    def open(self):
        self.tokenizer = self.hf.AutoTokenizer.from_pretrained(self.folder)
        self.model = self.hf.AutoModelForSequenceClassification.from_pretrained(self.folder)
        if self.job.get("tune") == "head": self.model.base_model.requires_grad_(False)
        return [self.model.config.label2id[label] for label in self.labels]

    def predict(self, texts):
        pipe = self.hf.pipeline("text-classification", self.model, tokenizer=self.tokenizer, device=device())
        said = pipe(texts, batch_size=32, truncation=True, max_length=self.job["max_length"])
        return [one["label"] for one in said]


class HFTrainer(Theirs):
    "transformers' Trainer. It saves nothing, which is to its advantage: ours saves nothing either."
    def arguments(self, folder):
        job = self.job
        best = dict(bf16=knows_bfloat16(), train_sampling_strategy="group_by_length") if job.get("best") else {}
        return self.hf.TrainingArguments(
            output_dir=folder, seed=job["seed"], num_train_epochs=job["epochs"], learning_rate=job["lr"],
            per_device_train_batch_size=job["batch_size"], save_strategy="no", report_to="none", disable_tqdm=True,
            use_cpu=device() == "cpu", **best)

    def round(self):
        classes = self.open()
        coded = self.tokenizer(self.texts, truncation=True, max_length=self.job["max_length"])
        rows = [{name: column[i] for name, column in coded.items()} | {"labels": y} for i, y in enumerate(classes)]
        with tempfile.TemporaryDirectory() as folder:
            # With a tokenizer the Trainer pads each batch to its own longest row.
            self.hf.Trainer(self.model, self.arguments(folder), train_dataset=rows,
                            processing_class=self.tokenizer).train()


class Loop(Theirs):
    "The loop of many tutorials: every text padded to the same length, AdamW, a linear schedule."
    def round(self):
        torch, job = self.torch, self.job
        torch.manual_seed(job["seed"])
        classes, on = torch.tensor(self.open()), device()
        coded = self.tokenizer(self.texts, truncation=True, padding="max_length", max_length=job["max_length"],
                               return_tensors="pt")
        rows = torch.utils.data.TensorDataset(coded["input_ids"], coded["attention_mask"], classes)
        loader = torch.utils.data.DataLoader(rows, batch_size=job["batch_size"], shuffle=True)
        model = self.model.to(on).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=job["lr"])
        schedule = self.hf.get_scheduler("linear", optimizer, 0, job["epochs"] * len(loader))
        for _ in range(job["epochs"]):
            for ids, mask, y in loader:
                loss = model(input_ids=ids.to(on), attention_mask=mask.to(on), labels=y.to(on)).loss
                loss.backward()
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        model.eval()
