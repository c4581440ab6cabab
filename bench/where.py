"""Where the time of a training step goes, texts and pictures; what share of this machine's best rate the products of the text model reach; and how many times as fast a step would be if all the rest took no time (lesson 57 (fast))."""
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from _timing import spelled, timed
from torch.profiler import ProfilerActivity, profile

from finetune_book.text.bases import load_text_base
from finetune_book.train.fast import Road, pick_dtype
from finetune_book.vision.bases import load_image_base

TEXTS, LENGTH, PICTURES, STEPS, USED = 16, 48, 32, 10, 800
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::mkldnn_convolution", "aten::convolution_backward")
BOTH_WAYS = 3                                               # a product forward is two of the same size on the way back


def best_rate(dtype, rounds=15):
    "Operations a second of the quickest product found, of those a model has and larger ones."
    found = 0.
    for n, k, m in ((768, 384, 384), (768, 384, 1536), (768, 1536, 384), (1024, 1024, 1024), (2048, 2048, 2048)):
        a, b = torch.ones(n, k, dtype=dtype), torch.ones(k, m, dtype=dtype)
        found = max(found, 2 * n * k * m / min(timed(lambda: a @ b, 1) for _ in range(rounds)))
    return found


@contextmanager
def text_step(road):
    "(a training step of book-bert, operations of its encoder's products) on a road."
    model, _ = load_text_base("book-bert", 10, seed=0)
    draws = torch.Generator().manual_seed(0)
    ids, y = torch.randint(5, USED, (TEXTS, LENGTH), generator=draws), torch.randint(0, 10, (TEXTS,), generator=draws)
    mask = torch.ones_like(ids)
    encoder = sum(w.numel() for name, w in model.named_parameters() if "encoder" in name and w.ndim == 2)
    with road.lower("cpu"), road.taken_by(model.train(), set(range(USED))):
        def step(): F.cross_entropy(model(input_ids=ids, attention_mask=mask).logits.float(), y).backward()
        yield step, 2 * BOTH_WAYS * encoder * ids.numel()


@contextmanager
def picture_step(road):
    "(a training step of book-resnet, None) on a road."
    model, _ = load_image_base("book-resnet", 10)
    model = model.train().to(memory_format=torch.channels_last)
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(PICTURES, 3, 32, 32, generator=draws).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (PICTURES,), generator=draws)
    with road.lower("cpu"):
        def step(): F.cross_entropy(model(pixel_values=x).float(), y).backward()
        yield step, None


def spent_in(step):
    "Seconds of a step by kind of operation, and in all."
    for _ in range(3): step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(STEPS): step()
    kinds = {e.key: e.self_cpu_time_total / 1e6 / STEPS for e in seen.key_averages()}
    return kinds, sum(kinds.values())


def tell(title, step, operations, best):
    kinds, whole = spent_in(step)
    products = sum(kinds.get(name, 0.) for name in PRODUCTS)
    rest = sorted(((s, name.removeprefix("aten::")) for name, s in kinds.items() if name not in PRODUCTS), reverse=True)
    print(f"{title}: {spelled(whole)} a step, products {products / whole:.0%}; "
          + ", ".join(f"{name} {s / whole:.0%}" for s, name in rest[:6]))
    if operations: print(f"  the encoder's products: {operations / products / 1e9:.0f} · 10⁹ operations a second, {operations / products / best:.0%} of the best "
                         f"found here; of the whole step's time {operations / whole / best:.0%}")
    print(f"  if all but the products took no time: {whole / products:.2f} times as fast")


if __name__ == "__main__":
    torch.set_num_threads(1)                                # of two, one waits for the other, and the profile calls it work
    best = {dtype: best_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    print("best rate of one thread:", ", ".join(f"{str(dtype).removeprefix('torch.')} {rate / 1e9:.0f} · 10⁹" for dtype, rate in best.items()))
    for name, road in (("as it was", Road("float32", "none")), ("float32", Road("float32", "all")), ("the default here", Road())):
        with text_step(road) as (step, operations): tell(f"texts, {name}", step, operations, best[pick_dtype(road.precision, "cpu") or torch.float32])
    for name, road in (("float32", Road("float32")), ("auto", Road())):
        with picture_step(road) as (step, operations): tell(f"pictures, {name}", step, operations, None)
