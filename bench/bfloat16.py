"""An update of book-resnet on 32 pictures of 32 pixels, forward and back: float32 against bfloat16, which some processors compute and others only imitate (lesson 55, vision_classifier)."""
import torch
import torch.nn.functional as F
from _timing import compare

from finetune_book.vision.bases import load_image_base
from finetune_book.train.fast import knows_bfloat16


def update(model, x, y, dtype):
    def step():
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None, cache_enabled=False): F.cross_entropy(model(pixel_values=x), y).backward()
    return step


if __name__ == "__main__":
    model, _ = load_image_base("book-resnet", 10)
    model = model.train().to(memory_format=torch.channels_last)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 3, 32, 32, generator=rng).contiguous(memory_format=torch.channels_last), torch.randint(0, 10, (32,), generator=rng)
    compare({"float32": update(model, x, y, None), "bfloat16": update(model, x, y, torch.bfloat16)}, rounds=5,
            title=f"32 pictures through book-resnet and back; this processor {'computes' if knows_bfloat16('cpu') else 'only imitates'} bfloat16")
