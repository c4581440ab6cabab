"""Task heads: what the last linear layer sees, in any architecture."""
import pytest
import torch

from finetune_book.tasks.heads import pooled_features
from finetune_book.text.bases import load_text_base
from examples import save_other


def test_longest_allowed_text_passes_through_roberta(tiny_base, tmp_path):
    "RoBERTa's 40 positions hold 39 pieces when filling is piece 0; one more would read beyond its table."
    model, tok = load_text_base(save_other("roberta", tmp_path / "r", tiny_base), 2)
    batch = tok(["pain " * 100], truncation=True, return_tensors="pt")
    assert batch.input_ids.shape == (1, 39) and model(**batch).logits.isfinite().all()


def test_features_leave_modes_hooks_and_random_state_alone(tiny_base):
    model, tok = load_text_base(tiny_base, 2)
    model.train(); model.bert.encoder.eval()
    modes, random_state = [m.training for m in model.modules()], torch.random.get_rng_state()
    batch = tok(["pain", "good room"], padding=True, return_tensors="pt")
    one, two = (pooled_features(model, batch.input_ids, batch.attention_mask) for _ in range(2))
    assert torch.equal(one, two) and not one.requires_grad
    assert [m.training for m in model.modules()] == modes and torch.equal(random_state, torch.random.get_rng_state())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_features_do_not_depend_on_filling(tiny_base):
    model, tok = load_text_base(tiny_base, 2)
    short, wide = (tok(["chest pain"], padding="max_length", max_length=n, return_tensors="pt") for n in (8, 40))
    a, b = (pooled_features(model, x.input_ids, x.attention_mask) for x in (short, wide))
    assert torch.allclose(a, b, atol=1e-6)


def test_a_model_whose_head_is_elsewhere_is_found_out(tiny_base):
    model, tok = load_text_base(tiny_base, 2)
    model.classifier.register_forward_hook(lambda module, args, out: out + 1)
    batch = tok(["pain"], return_tensors="pt")
    model.forward = lambda *a, _f=model.forward, **k: type("Out", (), {"logits": _f(*a, **k).logits * 2})()
    with pytest.raises(RuntimeError, match="last linear layer"): pooled_features(model, batch.input_ids, batch.attention_mask)
