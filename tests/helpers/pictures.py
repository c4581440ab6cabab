"""Pictures that several tests make, save and see refused."""
import numpy as np
import pytest
from PIL import Image

from finetune_book.checks import InputError


def line_of(action, *names, kind=InputError):
    "The message of the error that `action` raises: one line, short, holding every one of `names`."
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable() and len(message) < 700, message
    for name in names:
        assert str(name) in message, (name, message)
    return message


def scene(seed=0, w=40, h=30):
    "A smooth random picture: few colours would hide faults, noise would not survive a JPEG."
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)


def saved(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or scene()).save(path, **options)
    return path


def scenes(n, start=0): return np.stack([np.asarray(scene(k, 48, 48)) for k in range(start, start + n)])
