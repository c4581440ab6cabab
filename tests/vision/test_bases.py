"""Base models for pictures: every door opens or refuses in one line, nothing is loaded in part, nothing is waited for."""
import hashlib
import http.server
import json
import os
import shutil
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from finetune_book.checks import InputError
from finetune_book.adapt.freeze import Head, layer_groups, weights_hash
from finetune_book.tasks.heads import head_of
from finetune_book.vision import bases
from finetune_book.vision.bases import (Preprocessing, batch_norms, from_config, infer_config, load_image_base, pooled_image_features, read_image_model,
                                        read_preprocessing, recalibrate_batchnorm, save_image_model)
from finetune_book.vision.resnet import BasicBlock, Bottleneck, ResNet

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


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    "Folder of a tiny Hugging Face ResNet with seven classes."
    from transformers import ResNetConfig, ResNetForImageClassification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", num_labels=7))
    return save_image_model(tmp_path_factory.mktemp("theirs"), model.eval(), Preprocessing(40, (.1, .2, .3), (.4, .5, .6)))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    "Folder of a tiny vision transformer, which reads one size only and has no BatchNorm."
    from transformers import ViTConfig, ViTForImageClassification
    with torch.random.fork_rng(devices=[]):
        model = ViTForImageClassification(ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8, num_labels=3))
    return save_image_model(tmp_path_factory.mktemp("vit"), model.eval(), Preprocessing(32))


@pytest.fixture
def ours(tmp_path): return save_image_model(tmp_path / "ours", net(), Preprocessing(24, (.1, .2, .3), (.4, .5, .6)))


# --- local files ---------------------------------------------------------------------------------------------------

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
    with pytest.raises(InputError, match=r"layer1.0.conv1.weight is \(128, 64, 1, 1\), not \(64, 64, 1, 1\).*more shapes differ"): bases.load_resnet(wide, 3)


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


def test_preprocessing_beside_a_file_is_read(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(Preprocessing(48, (.1, .2, .3)).to_dict()))
    assert open_quietly(write(tmp_path / "w.pth", state()))[1] == Preprocessing(48, (.1, .2, .3))


# --- names ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("base, says", [
    ("", "must be"), (7, "must be"), (None, "must be"), ("gone.pth", "no such file"), ("./gone", "no such folder"), ("~/gone.safetensors", "no such file"),
    ("resnet50", "torchvision/resnet50"), ("torchvision/resnet19", "torchvision/resnet152"), ("torchvision/", "torchvision/resnet18"),
    ("torchvision/resnet18@IMAGENET1K_V2", "IMAGENET1K_V1"), ("torchvision/vit_b_16", "torchvision/resnet18"),
])
def test_names_that_are_none(base, says):
    said, seconds = refusal(base)
    assert says in said and seconds < 1


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "w.h5").write_bytes(b"x")
    assert ".safetensors, .pth, .pt" in refusal(tmp_path / "w.h5")[0]


@pytest.mark.parametrize("bad, says", [(dict(n_out=1), "at least 2"), (dict(labels=["a", "b"]), "2 different names"), (dict(labels=["a", "a", "b"]), "labels=a, a, b: 2 different names"),
                                       (dict(seed=-1), "seed=-1"), (dict(size=0), "size=0"), (dict(size=32.), "size=32.0"), (dict(size=True), "size=True"), (dict(size=5000), "2048")])
def test_bad_settings(bad, says): assert says in refusal("scratch", **bad)[0]


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    "A clean environment, empty caches, and servers where nobody lives."
    for name in HIDDEN: monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_ENDPOINT", "https://192.0.2.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("finetune_book.vision.bases.hub_answers", lambda limit_s=.5, url=None: False)
    return tmp_path


@pytest.mark.parametrize("choice", [True, False])
def test_published_weights_offline(no_network, monkeypatch, choice):
    if choice: monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said, seconds = refusal("torchvision/resnet50@IMAGENET1K_V1")
    assert seconds < 1
    for part in ("torchvision/resnet50@IMAGENET1K_V1", str(no_network / "torch"), "path/to/resnet50-0676ba61.pth", "HF_HUB_OFFLINE" if choice else "does not answer"): assert part in said


def test_a_hub_name_offline(no_network, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said, seconds = refusal("microsoft/resnet-50")
    assert seconds < 1 and "microsoft/resnet-50" in said and str(no_network / "cache") in said and "path/to/folder" in said


@pytest.fixture
def server(tmp_path, monkeypatch):
    "A small ResNet-18 published as torchvision publishes: a URL whose name ends in the beginning of the sha256."
    folder = tmp_path / "published"; folder.mkdir()
    raw = write(folder / "raw.pth", state(layers=(2, 2, 2, 2), n_classes=1000, width=2, stem="224"))
    sha = hashlib.sha256(raw.read_bytes()).hexdigest()[:8]
    raw.rename(folder / f"resnet18-{sha}.pth")
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    for name in HIDDEN: monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    real = bases.published("torchvision/resnet18")
    fake = type("Weights", (), dict(url=f"http://127.0.0.1:{httpd.server_address[1]}/resnet18-{sha}.pth", meta=real.meta, transforms=real.transforms))
    monkeypatch.setattr(bases, "published", lambda base: fake)
    yield folder / f"resnet18-{sha}.pth", tmp_path / "torch" / "hub" / "checkpoints" / f"resnet18-{sha}.pth"
    httpd.shutdown(); httpd.server_close()


def test_download_then_cache_then_damage(server, monkeypatch, capfd):
    there, cached = server
    model, prep, said = open_quietly("torchvision/resnet18", labels=LABELS)
    assert said == [] and prep == Preprocessing(224) and same_body(model, torch.load(there, weights_only=True)) and model.fc.out_features == 3
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    whole, _, _ = open_quietly("torchvision/resnet18", n_out=1000)
    assert torch.equal(whole.fc.weight, torch.load(there, weights_only=True)["fc.weight"]) and whole.config.id2label[0] == "0 tench" and len(whole.config.label2id) == 1000
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    assert "damaged" in refusal("torchvision/resnet18")[0]


def test_a_download_that_fails_leaves_nothing(server):
    there, cached = server
    there.unlink()
    assert "did not come" in refusal("torchvision/resnet18")[0] and not cached.exists()


def test_scratch_is_random_and_the_seeds():
    before = torch.get_rng_state()
    (a, prep, said), (b, _, _), (c, _, _) = (open_quietly("scratch", labels=LABELS, seed=s) for s in (1, 1, 2))
    assert weights_hash(a.state_dict()) == weights_hash(b.state_dict()) != weights_hash(c.state_dict())
    assert (a.config.width, a.config.stem, prep.size, said) == (16, "32", 32, []) and torch.equal(torch.get_rng_state(), before)


# --- folders -------------------------------------------------------------------------------------------------------

def test_saved_and_read_again(ours):
    model, prep = read_image_model(ours)
    assert weights_hash(model.state_dict()) == weights_hash(net().state_dict()) and prep == Preprocessing(24, (.1, .2, .3), (.4, .5, .6))
    assert sorted(p.name for p in ours.iterdir()) == ["config.json", "model.safetensors", "preprocessor_config.json"]


def test_torchvision_reads_what_we_save(tmp_path):
    model = ResNet(BasicBlock, (2, 2, 2, 2), 5).eval()
    ref = torchvision.models.resnet18(num_classes=5).eval()
    ref.load_state_dict(load_file(save_image_model(tmp_path, model, Preprocessing(224)) / "model.safetensors"), strict=True)
    with torch.no_grad(): assert (ref(pictures()) - model(pictures())).abs().max() <= 1e-5


def test_a_saved_model_as_base_keeps_the_head_for_the_same_labels_only(tmp_path):
    model, prep, _ = open_quietly("scratch", labels=LABELS)
    folder = save_image_model(tmp_path / "m", model, prep)
    kept, other = open_quietly(folder, labels=LABELS)[0], open_quietly(folder, labels=LABELS[::-1])[0]
    assert torch.equal(kept.fc.weight, model.fc.weight) and not torch.equal(other.fc.weight, model.fc.weight) and same_body(other, model.state_dict())
    more = open_quietly(folder, n_out=5)[0]
    assert more.fc.out_features == len(more.config.id2label) == more.config.num_labels == 5
    assert read_image_model(folder)[0].config.id2label == dict(enumerate(LABELS))


def test_a_carried_base_in_sixteen_bits(tmp_path, monkeypatch):
    "The reader of book-resnet, on a folder made here: half precision opens as float32."
    folder = save_image_model(tmp_path / "book-resnet", net(seed=5).half(), Preprocessing(32))
    monkeypatch.setattr(bases, "carried", lambda name: folder)
    model, _, said = open_quietly("book-resnet", labels=LABELS)
    assert {p.dtype for p in model.parameters()} == {torch.float32} and said == [] and torch.allclose(model.conv1.weight, net(seed=5).conv1.weight, atol=1e-3)


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | fields).items() if v is not ...}))


@pytest.mark.parametrize("harm, says", [
    (lambda f: (f / "config.json").unlink(), "no config.json"), (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    (lambda f: (f / "preprocessor_config.json").unlink(), "no preprocessor_config.json"), (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
    (lambda f: (f / "model.safetensors").write_bytes(b"x"), "cannot be read"), (lambda f: change(f, width=8), "not what config.json says"),
    (lambda f: change(f, num_labels=4), "its head differs"), (lambda f: change(f, layers=[1, 1]), "not the config of a ResNet"),
    (lambda f: change(f, layers=...), "not the config of a ResNet"), (lambda f: change(f, stem="9"), "not the config of a ResNet"),
    (lambda f: change(f, model_type="bert"), "does not classify pictures"), (lambda f: change(f, model_type="resnett"), "does not know the model type"),
    (lambda f: (f / "model.safetensors").rename(f / "model.pth"), "pickle"),
    (lambda f: (f / "preprocessor_config.json").write_text('{"size": 24, "image_std": [0, 0, 0]}'), "std="),
    (lambda f: (f / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0]}'), "size=None"),
    (lambda f: (f / "preprocessor_config.json").write_text('{"size": 24, "rescale_factor": 0}'), "preprocessor_config.json"),
    (lambda f: (f / "preprocessor_config.json").write_text('{"size": 24, "image_mean": 3}'), "preprocessor_config.json"),
])
def test_folders_that_are_broken(ours, harm, says):
    harm(ours)
    said, _ = refusal(ours)
    assert says in said and str(ours) in said, said


def test_hugging_face_models_open_train_and_save(theirs, tmp_path):
    model, prep, said = open_quietly(theirs, labels=LABELS, seed=1)
    assert prep == Preprocessing(40, (.1, .2, .3), (.4, .5, .6)) and said == [] and model.config.id2label == dict(enumerate(LABELS))
    given = load_file(theirs / "model.safetensors")
    assert all(torch.equal(v, given[k]) for k, v in model.state_dict().items() if k.startswith("resnet."))
    assert [g for g, _ in layer_groups(model)] == ["embeddings", "layer 0", "layer 1", "head"] and Head().attach(model) == 16 * 3 + 3
    again, _ = read_image_model(save_image_model(tmp_path / "m", model, prep))
    with torch.no_grad(): assert torch.equal(again(pictures()).logits, model(pictures()).logits)


def test_hugging_face_weights_that_belong_to_another_model(theirs, tmp_path):
    folder = Path(shutil.copytree(theirs, tmp_path / "base"))
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "stages.1" not in k}, folder / "model.safetensors", metadata={"format": "pt"})
    assert "its weights lack" in refusal(folder)[0]


def test_another_size_where_the_base_can_and_not_where_it_cannot(ours, vit):
    assert open_quietly(ours, size=64)[1] == Preprocessing(64, (.1, .2, .3), (.4, .5, .6))
    assert open_quietly(vit, size=32)[1].size == 32
    assert "size=64: this base cannot read" in refusal(vit, size=64)[0]


@pytest.mark.parametrize("config, side", [
    ({"size": 224}, 224), ({"size": {"height": 96, "width": 96}}, 96), ({"size": {"shortest_edge": 64}}, 64),
    ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, 224),
    ({"size": 100, "do_center_crop": False, "crop_size": 50}, 100),
])
def test_sizes_in_the_wild(tmp_path, config, side):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert read_preprocessing(tmp_path) == Preprocessing(side)


def test_transformers_prepares_a_picture_as_we_do(tmp_path):
    "An oblong picture through our reader and Preprocessing, and through transformers with the file we write."
    import numpy as np
    from PIL import Image
    from transformers import AutoImageProcessor
    from finetune_book.data.images import read_picture
    prep = Preprocessing(40, (.5, .4, .3), (.2, .3, .4))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(prep.to_dict()))
    y, x = np.mgrid[:90, :160]
    picture = Image.fromarray(np.stack([x, y, 128 + 60 * np.sin(x / 20)], 2).astype(np.uint8))
    ours = prep(read_picture(picture, 40)[None])
    theirs = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")["pixel_values"]
    assert ours.shape == theirs.shape == (1, 3, 40, 40)
    assert (ours - theirs).abs().max() < .2 and (ours - theirs).abs().mean() < .02 and theirs.std() > .5


def test_rescaling_by_hand(tmp_path):
    "Factor 1 and bytes up to 255: (255 u - 102) / 51 = (u - .4) / .2; and no normalisation at all."
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(dict(size=8, do_rescale=False, image_mean=[102.] * 3, image_std=[51.] * 3)))
    prep = read_preprocessing(tmp_path)
    assert prep.mean == pytest.approx((.4,) * 3) and prep.std == pytest.approx((.2,) * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(dict(size=8, do_normalize=False)))
    assert read_preprocessing(tmp_path) == Preprocessing(8, (0,) * 3, (1,) * 3)


# --- features and statistics ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["scratch", "theirs", "vit"])
def test_features_are_what_the_head_sees(kind, request):
    model, _, _ = open_quietly("scratch" if kind == "scratch" else request.getfixturevalue(kind))
    model.train()
    features = pooled_image_features(model, pictures())
    assert model.training and all(m.training for m in model.modules())
    with torch.no_grad(): out = model.eval()(pixel_values=pictures())
    assert torch.allclose(head_of(model)(features), getattr(out, "logits", out), atol=1e-5) and features.shape == (3, head_of(model).in_features)


def test_recalibration_is_the_mean_over_all_pictures_and_touches_nothing_else():
    model, x = net(), pictures(11)
    for m in batch_norms(model): m.running_mean += 3
    weights, modes = weights_hash(model.parameters()), [m.training for m in model.modules()]
    assert recalibrate_batchnorm(model, [x[:8], x[8:]]) == 11
    maps = [model.conv1(part).transpose(0, 1).flatten(1) for part in (x[:8], x[8:])]
    assert torch.allclose(model.bn1.running_mean, sum(m.mean(1) * n for m, n in zip(maps, (8, 3))) / 11, atol=1e-6)
    assert torch.allclose(model.bn1.running_var, sum(m.var(1) * n for m, n in zip(maps, (8, 3))) / 11, atol=1e-5)
    assert weights_hash(model.parameters()) == weights and [m.training for m in model.modules()] == modes and {m.momentum for m in batch_norms(model)} == {.1}


def test_one_batch_makes_eval_agree_with_training_mode():
    model, x = net(seed=3), pictures(16)
    recalibrate_batchnorm(model, [x])
    n = 16 * 4 * 4                                                  # numbers a channel in the last norm: eval has their unbiased variance
    with torch.no_grad(): assert torch.allclose(model.eval()(x), model.train()(x), atol=5 / n)


def test_recalibration_needs_norms_and_pictures(vit):
    with pytest.raises(InputError, match="has no BatchNorm"): recalibrate_batchnorm(open_quietly(vit)[0], [pictures()])
    with pytest.raises(InputError, match="no pictures"): recalibrate_batchnorm(net(), [])


def test_modes_come_back_when_a_batch_fails():
    model = net().train()
    with pytest.raises(RuntimeError): recalibrate_batchnorm(model, [torch.ones(2, 5, 8, 8)])
    assert all(m.training for m in model.modules()) and {m.momentum for m in batch_norms(model)} == {.1}


def test_infer_config_and_from_config_are_inverse():
    for settings in (dict(), dict(block=Bottleneck, layers=(2, 1, 2, 1), width=6, stem="224")):
        config = infer_config(state(**settings), 3)
        assert weights_hash(from_config(config, seed=4).state_dict()) == weights_hash(state(**settings, seed=4))
        assert isinstance(from_config(config).fc, nn.Linear)
