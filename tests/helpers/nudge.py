"""A whole method of tuning in one file, as an example and for the contract test: learn a shift of what the head sees.

`x` becomes `x + delta` before the last linear layer; delta starts at zero, so nothing changes at step 0, and folds into the
layer's bias at the end, so nothing of it is left: W (x + delta) + b = W x + (b + W delta).
"""
import torch
from torch import nn

from finetune_book.adapt import Method, method
from finetune_book.adapt.freeze import freeze_all_but
from finetune_book.checks import check_real
from finetune_book.tasks.heads import head_of


class Nudged(nn.Module):
    "A linear layer that sees its input shifted by a learned vector."
    def __init__(self, linear):
        super().__init__()
        self.linear, self.delta = linear, nn.Parameter(torch.zeros(linear.in_features))

    def forward(self, x): return self.linear(x + self.delta)


def put(model, old, new):
    "Replace the module `old` of a model by `new`, wherever it hangs."
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is old: return setattr(parent, name, new)


@method("nudge")
class Nudge(Method):
    "The shift and the head move."
    def __init__(self, boost=1.): self.boost = check_real("boost", boost, 0, ends="(]")

    def attach(self, model, seed=0):
        head = head_of(model)
        nudged = Nudged(head)
        put(model, head, nudged)
        return freeze_all_but(model, nudged.parameters())

    def groups(self, model, lr, weight_decay=.01, layer_decay=1.):
        moving = [p for p in model.parameters() if p.requires_grad]
        return [dict(params=moving, lr=min(1., lr * self.boost), weight_decay=weight_decay, name="nudge")]

    def rate(self, rates): return rates["head"]
    def state(self, model): return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    def load(self, model, state): model.load_state_dict(state, strict=False)

    @torch.no_grad()
    def merge(self, model):
        nudged = next(m for m in model.modules() if isinstance(m, Nudged))
        nudged.linear.bias += nudged.linear.weight @ nudged.delta
        put(model, nudged, nudged.linear)
        return model
