"""Reading 256 clinical notes of mixed length with book-bert: length buckets (lesson 41, tokens) against batches padded to max_length, as most scripts do."""
import torch
from _timing import compare

from finetune_book.data.tables import read_splits
from finetune_book.text.bases import load_text_base
from finetune_book.text.tokens import length_buckets, pad_batch

MAX_LENGTH, BATCH = 128, 32


def padded_to_longest(rows, pad):
    "Batches of notes of like length, each padded to its own longest."
    return [pad_batch([rows[i] for i in idx], pad) for idx in length_buckets([len(r) for r in rows], BATCH, seed=0, epoch=0)]


def padded_to_max(rows, pad):
    "Batches in the order given, every note padded to MAX_LENGTH."
    fill = [r + [pad] * (MAX_LENGTH - len(r)) for r in rows]
    ids = torch.tensor(fill).split(BATCH)
    return [(i, (i != pad).long()) for i in ids]


def reader(model, batches):
    @torch.inference_mode()
    def read():
        for ids, mask in batches: model(input_ids=ids, attention_mask=mask)
    return read


if __name__ == "__main__":
    model, tokenizer = load_text_base("book-bert", 10, seed=0)
    rows = tokenizer(read_splits("clinic_notes")["train"].text.head(256).tolist(), truncation=True, max_length=MAX_LENGTH)["input_ids"]
    compare({name: reader(model, make(rows, tokenizer.pad_token_id)) for name, make in
             (("padded to 128 tokens", padded_to_max), ("length buckets", padded_to_longest))}, title="256 clinical notes through book-bert")
