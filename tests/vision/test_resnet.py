"""ResNet: equal to torchvision's in every depth, blind to other people's dice, and at home with heads, freezing and the trainer."""
import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from finetune_book.checks import InputError
from finetune_book.adapt import as_method
from finetune_book.adapt.freeze import layer_groups, param_groups, unfreeze_top, weights_hash
from finetune_book.tasks.heads import body_of, head_of
from finetune_book.optim import make_schedule
from finetune_book.train.trainer import Trainer, shuffled_batches, train_mode
from finetune_book.vision.resnet import (BasicBlock, BatchNorm2d, Bottleneck, ResNet, ResNetConfig, count_parameters, receptive_field, resnet18, resnet34,
                                         resnet50, resnet101, resnet152)

MAKERS = dict(resnet18=resnet18, resnet34=resnet34, resnet50=resnet50, resnet101=resnet101, resnet152=resnet152)
PUBLISHED = dict(resnet18=11_689_512, resnet34=21_797_672, resnet50=25_557_032, resnet101=44_549_160, resnet152=60_192_808)


def tiny(block=BasicBlock, **settings):
    return ResNet(block, **{**dict(layers=(1, 1, 1, 1), n_classes=3, width=4, stem="32"), **settings})


def pictures(n=6, px=16, seed=0): return torch.randn(n, 3, px, px, generator=torch.Generator().manual_seed(seed))


def shake(net, seed=0):
    "Random numbers in every norm: fresh ones are all 0 and 1 and would hide a mistake."
    rng = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t in (m.weight.data, m.bias.data, m.running_mean): t.copy_(torch.rand(t.shape, generator=rng) - .3)
            m.running_var.copy_(.5 + torch.rand(m.running_var.shape, generator=rng))
    return net


def settle(net, x):
    "Running averages as the pictures `x` have them, so that the answers differ from picture to picture."
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.momentum = 1.
    with torch.no_grad(): net.train()(x)
    return net.eval()


# --- equal to torchvision's ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", MAKERS)
def test_names_shapes_and_counts_are_torchvisions(name):
    with torch.device("meta"), torch.random.fork_rng(devices=[]): ref = getattr(torchvision.models, name)()
    with torch.device("meta"): ours = MAKERS[name]()
    shapes = lambda net: [(k, tuple(v.shape), v.dtype) for k, v in net.state_dict().items()]
    assert shapes(ours) == shapes(ref)
    assert count_parameters(ours) == PUBLISHED[name]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_logits_gradients_and_running_averages_are_torchvisions(name):
    with torch.random.fork_rng(devices=[]): ref = shake(getattr(torchvision.models, name)(num_classes=7))
    ours = MAKERS[name](7, seed=3)
    ours.load_state_dict(ref.state_dict(), strict=True)
    x, y = pictures(3, 64), torch.tensor([0, 3, 6])
    with torch.no_grad(): assert (ours.eval()(x) - ref.eval()(x)).abs().max() <= 1e-5
    grads = []
    for net in (ours, ref):
        out = net.train()(x)
        F.cross_entropy(out, y).backward()
        grads.append((out.detach(), net.conv1.weight.grad, net.layer3[0].conv2.weight.grad, net.bn1.running_mean, net.layer4[1].bn2.running_var))
    for a, b in zip(*grads):
        assert a.shape == b.shape and b.abs().max() > 0
        assert (a - b).abs().max() <= 1e-5 * max(1, b.abs().max())


def test_the_two_hundred_and_twenty_four_pixels_of_the_stem():
    net = ResNet(BasicBlock, (1, 1, 1, 1), 2, width=2)
    assert net.feature_map(torch.zeros(1, 3, 224, 224)).shape == (1, 16, 7, 7)
    assert tiny().feature_map(torch.zeros(2, 3, 32, 32)).shape == (2, 32, 4, 4)


def test_any_number_of_colours():
    assert tiny(in_channels=1)(torch.zeros(2, 1, 16, 16)).shape == (2, 3)


# --- BatchNorm -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 3, 2, 2), (8, 1, 5, 7)])
@pytest.mark.parametrize("momentum, eps", [(.1, 1e-5), (1., 1e-3), (.01, 1e-5)])
def test_batch_norm_is_torchs(shape, momentum, eps):
    ours, ref = BatchNorm2d(shape[1], eps, momentum).double(), nn.BatchNorm2d(shape[1], eps, momentum).double()
    for seed in range(3):
        x = 5 + 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        a, b = ours(x), ref(x)
        assert a.shape == b.shape and torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    for k, v in ref.state_dict().items(): assert torch.allclose(ours.state_dict()[k], v, rtol=1e-12, atol=0), k
    assert torch.allclose(ours.eval()(x), ref.eval()(x), rtol=1e-10, atol=1e-10)


def test_batch_norm_needs_two_numbers_a_channel():
    with pytest.raises(ValueError, match="one number per channel"): BatchNorm2d(3)(torch.ones(1, 3, 1, 1))


# --- eval is eval --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_in_eval_an_answer_depends_on_its_picture_only(block):
    net, x = settle(tiny(block), pictures(seed=1)), pictures()
    with torch.no_grad():
        together = net(x)
        assert torch.equal(together, net(x))
        for i in range(len(x)): assert torch.allclose(net(x[i:i + 1])[0], together[i], rtol=1e-4, atol=1e-5)
        assert torch.allclose(net(x.flip(0)).flip(0), together, rtol=1e-4, atol=1e-5)
        assert together.std(0).min() > .01, "the answers do not depend on the picture at all"


def test_channels_last_is_only_a_layout():
    net, x = shake(tiny()).eval(), pictures()
    with torch.no_grad():
        plain = net(x)
        assert torch.allclose(net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), plain, rtol=1e-4, atol=1e-5)


def test_the_seed_alone_decides_and_no_dice_move():
    before = torch.get_rng_state()
    same, other = weights_hash(tiny(seed=1).state_dict()), weights_hash(tiny(seed=2).state_dict())
    assert weights_hash(tiny(seed=1).state_dict()) == same != other
    assert torch.equal(torch.get_rng_state(), before)


# --- heads, freezing, the trainer ----------------------------------------------------------------------------------

@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_head_and_body(block):
    net, x = shake(tiny(block)).eval(), pictures()
    assert head_of(net) is net.fc
    with torch.no_grad():
        pooled = body_of(net)(x)
        assert torch.equal(pooled, net.features(x)) and torch.equal(net.fc(pooled), net(x)) and torch.equal(net(pixel_values=x), net(x))
    body, fc = {id(p) for p in body_of(net).parameters()}, {id(p) for p in net.fc.parameters()}
    assert body | fc == {id(p) for p in net.parameters()} and not body & fc
    assert not any("base_model" in k for k in net.state_dict()) and copy.deepcopy(net).base_model.stem[0] is not net.conv1


def test_a_head_as_wide_as_the_body_is_still_the_head():
    net = tiny(n_classes=32)
    assert head_of(net) is net.fc


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_groups_are_stem_blocks_head(block):
    net = tiny(block, layers=(2, 1, 3, 1))
    groups = dict(layer_groups(net))
    assert list(groups) == ["stem", *(f"layer {i}" for i in range(7)), "head"]
    ids = lambda *parts: {id(p) for part in parts for p in part.parameters()}
    assert {id(p) for p in groups["stem"]} == ids(net.conv1, net.bn1) and {id(p) for p in groups["head"]} == ids(net.fc)
    for i, b in enumerate(net.blocks): assert {id(p) for p in groups[f"layer {i}"]} == ids(b)


def test_norms_and_biases_do_not_decay():
    net = tiny()
    decays = {id(p): g["weight_decay"] for g in param_groups(net, .1, .5, .01) for p in g["params"]}
    assert set(decays) == {id(p) for p in net.parameters()}
    for name, p in net.named_parameters(): assert decays[id(p)] == (.01 if "conv" in name or name in ("fc.weight",) or name.endswith("downsample.0.weight") else 0), name


def fit(net, epochs=2):
    x, y = pictures(12), torch.arange(12) % 3
    trainer = Trainer(net, torch.optim.AdamW(param_groups(net, .05, weight_decay=.1)), F.cross_entropy, make_schedule("constant", 10))
    return trainer.fit(shuffled_batches(12, 4), lambda idx: ({"pixel_values": x[idx]}, y[idx]), epochs)


ORDER = ["stem", "layer 0", "layer 1", "layer 2", "layer 3", "head"]


@pytest.mark.parametrize("tune, moves", [("head", 1), ("gradual", 1), ("top-1", 2), ("top-3", 4), ("full", 6)])
def test_what_is_frozen_stays_to_the_bit_running_averages_too(tune, moves):
    net = tiny()
    count = as_method(tune).attach(net)
    assert count == sum(p.numel() for _, ps in layer_groups(net)[6 - moves:] for p in ps)
    parts = dict(zip(ORDER, [nn.ModuleList([net.conv1, net.bn1]), *net.blocks, net.fc]))
    before = {name: weights_hash(part.state_dict()) for name, part in parts.items()}
    fit(net)
    assert [name for name, part in parts.items() if weights_hash(part.state_dict()) != before[name]] == ORDER[6 - moves:]


def test_the_trainers_mode_leaves_frozen_norms_in_eval():
    net = tiny()
    unfreeze_top(net, 1)
    train_mode(net)
    modes = {name: m.training for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, on in modes.items() if on} == {name for name in modes if name.startswith("layer4")} != set()


def test_training_lowers_the_loss():
    trainer = fit(tiny(), epochs=12)
    assert trainer.history_[-1]["train_loss"] < trainer.history_[0]["train_loss"] / 2


# --- how far it sees, what it refuses ------------------------------------------------------------------------------

@pytest.mark.parametrize("name, side", [("resnet18", 435), ("resnet34", 899), ("resnet50", 427), ("resnet101", 971), ("resnet152", 1451)])
def test_receptive_fields(name, side):
    with torch.device("meta"): assert receptive_field(MAKERS[name](2)) == (side, 32)


@pytest.mark.parametrize("bad, says", [
    (dict(stem=32), "stem=32"), (dict(stem="64"), "stem='64': must be one of 224, 32"), (dict(width=0), "width=0"), (dict(width=2.5), "width=2.5"), (dict(n_classes=0), "n_classes=0"),
    (dict(n_classes=True), "n_classes=True"), (dict(in_channels=-1), "in_channels=-1"), (dict(layers=(2, 2, 2)), "four whole numbers"),
    (dict(layers=(2, 2, 2, 0)), r"layers\[3\]=0: must be a whole number, at least 1"), (dict(layers=(2, 2., 2, 2)), r"layers\[1\]=2.0"), (dict(layers=8), "four whole numbers"), (dict(block=nn.Linear), "BasicBlock or Bottleneck"),
])
def test_bad_sizes(bad, says):
    with pytest.raises(InputError, match=says) as e: tiny(**bad)
    assert "\n" not in str(e.value)


def test_config_is_plain_and_comes_back():
    import json
    config = ResNetConfig("basic", [1, 1, 1, 1], 2, 4, "32", id2label={0: "dent", 1: "none"})
    plain = json.loads(json.dumps(config.to_dict()))
    assert plain["model_type"] == "finetune_book_resnet" and plain["label2id"] == {"dent": 0, "none": 1}
    back = ResNetConfig(**{k: v for k, v in plain.items() if k not in ("model_type", "architectures", "label2id")})
    assert back == config and back.layers == (1, 1, 1, 1)
