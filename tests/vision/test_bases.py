"""Base models for pictures: every door opens or refuses in one line, nothing is waited for."""
import json
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from finetune_book.adapt.freeze import Head, layer_groups, weights_hash
from finetune_book.tasks.heads import head_of
from finetune_book.vision import bases
from finetune_book.vision.bases import pooled_image_features, read_image_model, save_image_model
from finetune_book.vision.preprocessing import Preprocessing
from finetune_book.vision.resnet import BasicBlock, ResNet
from picture_bases import LABELS, net, open_quietly, pictures, refusal, same_body, save_tiny_vit, state, write


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    "Folder of a tiny Hugging Face ResNet with seven classes."
    from transformers import ResNetConfig, ResNetForImageClassification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", num_labels=7))
    return save_image_model(tmp_path_factory.mktemp("theirs"), model.eval(), Preprocessing(40, (.1, .2, .3), (.4, .5, .6)))


@pytest.fixture(scope="module")
def vit(tmp_path_factory): return save_tiny_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture
def ours(tmp_path): return save_image_model(tmp_path / "ours", net(), Preprocessing(24, (.1, .2, .3), (.4, .5, .6)))


# --- names ---------------------------------------------------------------------------------------------------------

def test_preprocessing_beside_a_file_is_read(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(Preprocessing(48, (.1, .2, .3)).to_dict()))
    assert open_quietly(write(tmp_path / "w.pth", state()))[1] == Preprocessing(48, (.1, .2, .3))


@pytest.mark.parametrize("base, says", [
    ("", "must be"), (7, "must be"), (None, "must be"), ("gone.pth", "no such file"), ("./gone", "no such folder"), ("~/gone.safetensors", "no such file"),
    ("resnet50", "torchvision/resnet50"), ("torchvision/resnet19", "torchvision/resnet152"), ("torchvision/", "torchvision/resnet18"),
    ("torchvision/resnet18@IMAGENET1K_V2", "IMAGENET1K_V1"), ("torchvision/vit_b_16", "torchvision/resnet18"),
])
def test_names_that_are_none(base, says):
    said, seconds = refusal(base)
    assert says in said and seconds < 1


@pytest.mark.parametrize("bad, says", [(dict(n_out=1), "at least 2"), (dict(labels=["a", "b"]), "2 different names"), (dict(labels=["a", "a", "b"]), "labels=a, a, b: 2 different names"),
                                       (dict(seed=-1), "seed=-1"), (dict(size=0), "size=0"), (dict(size=32.), "size=32.0"), (dict(size=True), "size=True"), (dict(size=5000), "2048")])
def test_bad_settings(bad, says): assert says in refusal("scratch", **bad)[0]


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
    (lambda f: (f / "preprocessor_config.json").write_text('{"size": 24, "image_std": [0, 0, 0]}'), "std[0]=0.0: must be a number above 0"),
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


# --- features ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["scratch", "theirs", "vit"])
def test_features_are_what_the_head_sees(kind, request):
    model, _, _ = open_quietly("scratch" if kind == "scratch" else request.getfixturevalue(kind))
    model.train()
    features = pooled_image_features(model, pictures())
    assert model.training and all(m.training for m in model.modules())
    with torch.no_grad(): out = model.eval()(pixel_values=pictures())
    assert torch.allclose(head_of(model)(features), getattr(out, "logits", out), atol=1e-5) and features.shape == (3, head_of(model).in_features)
