"""Weights from a file: the architecture is inferred, nothing is loaded in part, no code in a file runs."""
import os

import pytest
import torch
import torchvision
from torch import nn

from finetune_book.adapt.freeze import weights_hash
from finetune_book.checks import InputError
from finetune_book.tasks.heads import head_of
from finetune_book.vision.resnet import Bottleneck
from finetune_book.vision.weights import from_config, infer_config, load_resnet
from picture_bases import LABELS, net, open_quietly, refusal, same_body, state, write


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("settings", [dict(), dict(block=Bottleneck, stem="224"), dict(layers=(2, 1, 3, 1), width=6)], ids=["basic", "bottleneck", "deeper"])
def test_architecture_is_inferred_and_all_is_loaded(tmp_path, suffix, settings):
    given = state(**settings, seed=5)
    model, prep, said = open_quietly(write(tmp_path / f"w{suffix}", given))
    want = net(**settings).config
    assert (model.config.block, model.config.layers, model.config.width, model.config.stem) == (want.block, want.layers, want.width, want.stem)
    assert said == [] and model.note == "" and weights_hash(model.state_dict()) == weights_hash(given)
    assert prep.size == (224 if want.stem == "224" else 32) and not model.training


@pytest.mark.parametrize("wrap", [lambda s: {"module." + k: v for k, v in s.items()}, lambda s: {"state_dict": {"model." + k: v for k, v in s.items()}, "epoch": 3},
                                  lambda s: {"model": s}], ids=["module.", "state_dict", "model"])
def test_wrapped_and_prefixed_names(tmp_path, wrap):
    given = state(seed=5)
    model, _, said = open_quietly(write(tmp_path / "w.pth", wrap(given)))
    assert weights_hash(model.state_dict()) == weights_hash(given) and said == []


def test_tensors_outside_the_network_are_said(tmp_path):
    given = state(seed=5)
    model, _, said = open_quietly(write(tmp_path / "w.pth", {"backbone." + k: v for k, v in given.items()} | {"projector.weight": torch.ones(2)}))
    assert same_body(model, given) and len(said) == 1 and "projector.weight" in said[0] and model.note == said[0]


@pytest.mark.parametrize("change, says", [
    (lambda s: {k: v for k, v in s.items() if not k.startswith("fc.")}, "is not there"),
    (lambda s: s | {"fc.weight": torch.zeros(9, 32), "fc.bias": torch.zeros(9)}, "is for 9 classes"),
    (lambda s: {k: v for k, v in s.items() if not k.startswith("fc.")} | {"fc.0.weight": torch.zeros(3, 32)}, "fc.0.weight"),
])
def test_a_head_that_does_not_fit_is_replaced_and_said(tmp_path, change, says):
    given = change(state(seed=5))
    model, _, said = open_quietly(write(tmp_path / "w.pth", given), labels=LABELS, seed=1)
    assert same_body(model, given) and head_of(model).out_features == 3 and model.config.id2label == dict(enumerate(LABELS))
    assert len(said) == 1 and says in said[0] and "fresh one with 3 outputs" in said[0]
    assert head_of(model).bias.abs().max() == 0 < head_of(model).weight.std() < .02


@pytest.mark.parametrize("change, says", [
    (lambda s: {k: v for k, v in s.items() if k != "layer2.1.bn2.bias"}, "lacks layer2.1.bn2.bias"),
    (lambda s: s | {"layer1.0.se.weight": torch.ones(1)}, "has besides layer1.0.se.weight"),
    (lambda s: s | {"layer3.0.conv2.weight": torch.ones(16, 16, 5, 5)}, r"layer3.0.conv2.weight is (16, 16, 5, 5), not (16, 16, 3, 3)"),
    (lambda s: {k: v for k, v in s.items() if not k.startswith("layer4")}, "no blocks in layer4"),
    (lambda s: {k.replace("layer1.1", "layer1.2"): v for k, v in s.items()} | {"layer1.2.conv1.weight": torch.ones(4, 4, 3, 3)}, "layer1.1"),
    (lambda s: s | {"conv1.weight": torch.ones(4, 3, 5, 5)}, "7x7 or 3x3"),
    (lambda s: s | {"conv1.weight": torch.ones(4, 1, 3, 3)}, "reads 1 channels"),
    (lambda s: s | {"bn1.weight": torch.tensor([1., 2., float("nan"), 3.])}, "bn1.weight holds numbers that are not finite"),
    (lambda s: s | {"bn1.weight": torch.tensor([1, 2, 3, 4], dtype=torch.int8)}, "bn1.weight is torch.int8"),
    (lambda s: {"encoder.weight": torch.ones(2)}, "no ResNet with torchvision's names"),
    (lambda s: {**{"a." + k: v for k, v in s.items()}, **{"b." + k: v for k, v in s.items()}}, "more than one"),
    (lambda s: torch.ones(3), "holds Tensor"), (lambda s: {}, "empty dict"), (lambda s: {"lr": .1}, "not names with tensors"),
])
def test_a_state_dict_that_does_not_fit_names_the_first_mismatch(tmp_path, change, says):
    said, _ = refusal(write(tmp_path / "w.pth", change(state())))
    assert says in said and "w.pth" in said, said


def test_wide_networks_are_not_ours():
    with torch.device("meta"): wide = torchvision.models.wide_resnet50_2().state_dict()
    with pytest.raises(InputError, match=r"layer1.0.conv1.weight is \(128, 64, 1, 1\), not \(64, 64, 1, 1\).*more shapes differ"): load_resnet(wide, 3)


def test_many_mismatches_stay_one_short_line(tmp_path):
    said, _ = refusal(write(tmp_path / "w.pth", {k: v for k, v in state(layers=(3, 4, 6, 3)).items() if "bn2" not in k}))
    assert "more" in said and len(said) < 500


def test_old_files_without_counters_and_sixteen_bits_open(tmp_path):
    given = {k: v.half() for k, v in state(seed=5).items() if not k.endswith("num_batches_tracked")}
    model, _, said = open_quietly(write(tmp_path / "w.safetensors", given))
    assert said == [] and {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.equal(model.state_dict()[k], v.float()) for k, v in given.items())


class Trap:
    def __init__(self, trace): self.trace = trace
    def __reduce__(self): return os.mkdir, (self.trace,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    said, _ = refusal(write(tmp_path / "w.pth", state() | {"evil": Trap(str(tmp_path / "trace"))}))
    assert "would run code" in said and not (tmp_path / "trace").exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(net(), tmp_path / "model.pt")
    assert "would run code" in refusal(tmp_path / "model.pt")[0]


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
@pytest.mark.parametrize("damage", [lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"not weights at all"], ids=["half", "empty", "text"])
def test_damaged_files(tmp_path, name, damage):
    path = write(tmp_path / name, state())
    path.write_bytes(damage(path.read_bytes()))
    assert "cannot be read as weights" in refusal(path)[0]


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "w.h5").write_bytes(b"x")
    assert ".safetensors, .pth, .pt" in refusal(tmp_path / "w.h5")[0]


def test_infer_config_and_from_config_are_inverse():
    for settings in (dict(), dict(block=Bottleneck, layers=(2, 1, 2, 1), width=6, stem="224")):
        config = infer_config(state(**settings), 3)
        assert weights_hash(from_config(config, seed=4).state_dict()) == weights_hash(state(**settings, seed=4))
        assert isinstance(from_config(config).fc, nn.Linear)
