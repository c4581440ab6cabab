"""Lesson 66 (vision_augment): augmentation of a batch as one tensor operation, against torchvision's v2 transforms on each picture.

Both draw for every picture, from the same distributions. CIFAR-10's shape: 128 pictures of 3 × 32 × 32, float32.
One thread, as a loader's worker has; v2 has a CutMix for batches, which draws one box for all pictures.
"""
import torch
from torchvision.transforms import v2

from _timing import compare
from finetune_book.vision.augment import Augment, color_jitter, cutmix, random_crop, random_flip

torch.set_num_threads(1)
xb = torch.rand(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
yb = torch.arange(128) % 10
g = torch.Generator().manual_seed(0)
everything = Augment(crop=4, flip=True, color=.4)


def each(transform): return lambda: torch.stack([transform(x) for x in xb])


crop, flip, color = v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ColorJitter(.4, .4, .4)
print(f"augmenting 128 pictures of 3 × 32 × 32; torch {torch.__version__}, one thread")
compare({"one operation": lambda: random_crop(xb, 4, g), "v2 a picture": each(crop)}, title="crop with a frame of 4")
compare({"one operation": lambda: random_flip(xb, g), "v2 a picture": each(flip)}, title="flip")
compare({"one operation": lambda: color_jitter(xb, g, .4, .4, .4), "v2 a picture": each(color)}, title="colour")
compare({"one operation": lambda: everything(xb, yb, 10, g), "v2 a picture": each(v2.Compose([crop, flip, color]))}, title="all three")
one_box = v2.CutMix(num_classes=10)
compare({"a box a picture": lambda: cutmix(xb, yb, 10, 1., g), "v2, one box a batch": lambda: one_box(xb, yb)}, title="CutMix")
