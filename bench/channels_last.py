"""Training a ResNet-18 (width 16, 32-pixel stem) on batches of 128: layout in memory and precision against torch's default."""
import torch
from _timing import compare

from finetune_book.vision.resnet import resnet18


def step(channels_last, bfloat16):
    "One training step, as a function without arguments."
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = resnet18(10, width=16, stem="32").to(memory_format=layout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    g = torch.Generator().manual_seed(0)
    xb, yb = torch.rand(128, 3, 32, 32, generator=g).to(memory_format=layout), torch.randint(10, (128,), generator=g)

    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16, cache_enabled=False):
            torch.nn.functional.cross_entropy(model(xb), yb).backward()
        optimizer.step()
        optimizer.zero_grad()
    return run


if __name__ == "__main__":
    compare({"channels first, float32": step(False, False), "channels last, float32": step(True, False),
             "channels last, bfloat16": step(True, True)}, title="one training step of 128 pictures of 32 pixels")
