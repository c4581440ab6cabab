"""Contestants that fine-tune book-resnet: from uint8 pictures in memory to the trained model.

Pictures are shifted by up to 4 pixels, the default of ours. The network is the same for all.
"""
import tempfile
from pathlib import Path

import numpy as np

from .prepare import read
from .text import GIVEN, OneEpoch, device, knows_bfloat16


class Training(OneEpoch):
    "What they share: the pictures, and the share of them that is answered rightly afterwards."
    def __init__(self, job):
        self.job = job
        pictures, labels = np.load(Path(job["work"]) / "pictures.npy"), read(job["work"], "pictures")
        n = job["n"]
        self.pictures, self.labels, self.held, self.held_labels = pictures[:n], labels[:n], pictures[n:], labels[n:]

    def check(self):
        right = [said == known for said, known in zip(self.predict(self.held), self.held_labels)]
        return dict(accuracy=sum(right) / len(right), rows=self.job["n"])


class Ours(Training):
    def __init__(self, job):
        super().__init__(job)
        from finetune_book import ImageClassifier
        self.kind = ImageClassifier

    def round(self):
        given = {k: self.job[k] for k in GIVEN if k in self.job}
        self.fitted = self.kind(**given, verbose=0).fit(self.pictures, self.labels)
    def predict(self, pictures): return self.fitted.predict(pictures).tolist()


class Theirs(Training):
    "torchvision's transforms of each picture, in torch's DataLoader."
    def __init__(self, job):
        super().__init__(job)
        import torch
        from PIL import Image
        from torchvision import transforms
        from finetune_book.vision.bases import load_image_base
        self.torch, self.load, self.classes = torch, load_image_base, sorted(set(self.labels))
        self.images = [Image.fromarray(p) for p in self.pictures]
        _, wants = load_image_base("book-resnet", len(self.classes))
        self.normal = [transforms.ToTensor(), transforms.Normalize(wants.mean, wants.std)]
        self.each = transforms.Compose([transforms.RandomCrop(32, padding=4), *self.normal])
        self.as_is = transforms.Compose(self.normal)

    def open(self):
        model, _ = self.load("book-resnet", len(self.classes), seed=self.job["seed"])
        return model

    def rows(self):
        "(tensor, class) of each picture, shifted anew each time it is read."
        class Rows(self.torch.utils.data.Dataset):
            def __init__(self, images, classes, each): self.images, self.classes, self.each = images, classes, each
            def __len__(self): return len(self.images)
            def __getitem__(self, i): return self.each(self.images[i]), self.classes[i]
        return Rows(self.images, [self.classes.index(label) for label in self.labels], self.each)

    def predict(self, pictures):
        with self.torch.inference_mode():
            on = next(self.model.parameters()).device
            scores = self.model.eval()(self.torch.stack([self.as_is(p) for p in pictures]).to(on))
        return [self.classes[i] for i in scores.argmax(1).tolist()]


class Loop(Theirs):
    "The loop of torch's own tutorials."
    def round(self):
        torch, job, on = self.torch, self.job, device()
        torch.manual_seed(job["seed"])
        model = self.open().to(on).train()
        loader = torch.utils.data.DataLoader(self.rows(), batch_size=job["batch_size"], shuffle=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=job["lr"])
        for _ in range(job["epochs"]):
            for x, y in loader:
                loss = torch.nn.functional.cross_entropy(model(x.to(on)), y.to(on))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.model = model


class HFTrainer(Theirs):
    "transformers' Trainer around the same network; at its best in bfloat16 and with channels last."
    def __init__(self, job):
        super().__init__(job)
        import transformers
        self.hf = transformers

    def with_loss(self, model):
        "The network in the form that the Trainer calls."
        cross_entropy = self.torch.nn.functional.cross_entropy
        class WithLoss(self.torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model
            def forward(self, pixel_values, labels):
                logits = self.model(pixel_values)
                return {"loss": cross_entropy(logits, labels), "logits": logits}
        return WithLoss()

    def collate(self, rows):
        pictures, classes = zip(*rows)
        return dict(pixel_values=self.torch.stack(pictures), labels=self.torch.tensor(classes))

    def round(self):
        job, self.model = self.job, self.open()
        best = dict(bf16=knows_bfloat16()) if job.get("best") else {}
        if job.get("best"): self.model.to(memory_format=self.torch.channels_last)
        with tempfile.TemporaryDirectory() as folder:
            asked = self.hf.TrainingArguments(
                output_dir=folder, seed=job["seed"], num_train_epochs=job["epochs"], learning_rate=job["lr"],
                per_device_train_batch_size=job["batch_size"], save_strategy="no", report_to="none",
                disable_tqdm=True, use_cpu=device() == "cpu", remove_unused_columns=False, **best)
            self.hf.Trainer(self.with_loss(self.model), asked, train_dataset=self.rows(),
                            data_collator=self.collate).train()
