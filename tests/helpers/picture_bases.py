"""Small picture models for tests of bases: made, written, opened, refused."""
import time
import warnings

import pytest
import torch
from safetensors.torch import save_file

from finetune_book.checks import InputError
from finetune_book.vision.bases import load_image_base, save_image_model
from finetune_book.vision.preprocessing import Preprocessing
from finetune_book.vision.resnet import BasicBlock, ResNet

HIDDEN = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")
LABELS = ["crack", "dent", "none"]


def net(block=BasicBlock, layers=(1, 2, 1, 1), n_classes=3, **settings): return ResNet(block, layers, n_classes, **{**dict(width=4, stem="32"), **settings}).eval()
def pictures(n=3, px=32): return torch.randn(n, 3, px, px, generator=torch.Generator().manual_seed(0))
def state(**settings): return net(**settings).state_dict()


def open_quietly(*args, **kwargs):
    "The model, the preprocessing, and the warnings."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return *load_image_base(*args, **{"n_out": 3, **kwargs}), [str(w.message) for w in caught if w.category is UserWarning]


def refusal(base, **kwargs):
    "The one line with which `load_image_base` refuses, and the seconds it took."
    start = time.perf_counter()
    with pytest.raises(InputError) as e: load_image_base(base, **{"n_out": 3, **kwargs})
    assert "\n" not in str(e.value)
    return str(e.value), time.perf_counter() - start


def same_body(model, given): return all(torch.equal(v, given[k].to(v.dtype)) for k, v in model.state_dict().items() if not k.startswith("fc."))


def write(path, tensors):
    if path.suffix == ".safetensors": save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path)
    else: torch.save(tensors, path)
    return path


def save_tiny_vit(folder):
    "Folder of a tiny vision transformer, which reads one size only and has no BatchNorm."
    from transformers import ViTConfig, ViTForImageClassification
    with torch.random.fork_rng(devices=[]):
        model = ViTForImageClassification(ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8, num_labels=3))
    return save_image_model(folder, model.eval(), Preprocessing(32))
