"""One training step of book-bert on 16 notes with AdamW in one pass, as the estimators train, against torch's default on a processor."""
import torch
from _timing import compare

from finetune_book.data.tables import read_splits
from finetune_book.text.bases import load_text_base
from finetune_book.text.tokens import pad_batch


def step(fused, learn=True):
    "A training step, or without `learn` the optimizer's part of it alone, as a function without arguments."
    model, tokenizer = load_text_base("book-bert", n_out=10, seed=0)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=fused)
    ids, mask = pad_batch(tokenizer(list(read_splits("clinic_notes")["train"].text[:16]))["input_ids"], tokenizer.pad_token_id)
    yb = torch.arange(16) % 10

    def gradient(): torch.nn.functional.cross_entropy(model(input_ids=ids, attention_mask=mask).logits, yb).backward()
    gradient()

    def run():
        optimizer.step()
        if learn:
            optimizer.zero_grad()
            gradient()
    return run


if __name__ == "__main__":
    for learn, title in ((False, "the optimizer's part of a step"), (True, "a whole step of 16 notes")):
        compare({"torch's default": step(False, learn), "fused": step(True, learn)}, title=title)
