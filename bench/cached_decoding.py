"""Writing tokens one by one with the decoder of lesson 44 (gpt): all again for each token against the key-value cache, at several lengths."""
import torch
from _timing import compare

from finetune_book.text.gpt import Decoder, DecoderConfig


def writer(model, n, cached):
    "A function that sends `n` tokens through the model as if it wrote them."
    ids = torch.randint(1, model.config.vocab_size, (1, n), generator=torch.Generator().manual_seed(0))
    @torch.inference_mode()
    def write():
        cache = None
        for i in range(n):
            if cached: cache = model(ids[:, i:i + 1], cache)[1]
            else: model(ids[:, :i + 1])
    return write


if __name__ == "__main__":
    model = Decoder(DecoderConfig(1024, longest=512)).eval()
    for n in (16, 64, 128):
        compare({"with the cache": writer(model, n, True), "all again": writer(model, n, False)}, rounds=3, title=f"{n} tokens, 4 layers of width 192")
