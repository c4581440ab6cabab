"""BatchNorm's statistics taken anew: the mean over all pictures, and nothing else moves."""
import pytest
import torch

from finetune_book.adapt.freeze import weights_hash
from finetune_book.checks import InputError
from finetune_book.vision.recalibrate import batch_norms, recalibrate_batchnorm
from picture_bases import net, open_quietly, pictures, save_tiny_vit


@pytest.fixture(scope="module")
def vit(tmp_path_factory): return save_tiny_vit(tmp_path_factory.mktemp("vit"))


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
