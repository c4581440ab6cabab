"""One layer of BERT (width 384, 12 heads) over the same 4,096 tokens, cut into short texts and into long ones; then a whole model of lesson 42 (bert) beside transformers'."""
import torch
from _timing import compare
from transformers import BertConfig as TheirConfig
from transformers import BertModel as TheirBert

from finetune_book.text.bert import BertConfig, BertModel, Layer

TOKENS = 4096


def through(layer, t):
    "A function that sends TOKENS tokens, `t` a text, through the layer."
    x = torch.randn(TOKENS // t, t, layer.attention.self.query.in_features, generator=torch.Generator().manual_seed(0))
    @torch.inference_mode()
    def run(): layer(x)
    return run


def reader(model, n, t):
    ids = torch.randint(1, 1000, (n, t), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    @torch.inference_mode()
    def read(): model(input_ids=ids, attention_mask=mask)
    return read


if __name__ == "__main__":
    sizes = BertConfig(vocab_size=1000, max_position_embeddings=2048)
    layer = Layer(sizes).eval()
    compare({f"{TOKENS // t} texts of {t} tokens": through(layer, t) for t in (64, 256, 1024, 2048)}, rounds=5, title="4,096 tokens through one layer")
    with torch.random.fork_rng(devices=[]):
        theirs = TheirBert(TheirConfig(vocab_size=1000, hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536, max_position_embeddings=2048)).eval()
    ours = BertModel.like(theirs)
    for n, t in ((16, 64), (2, 512)):
        compare({"transformers": reader(theirs, n, t), "lesson 42 (bert)": reader(ours, n, t)}, rounds=5, title=f"{n} texts of {t} tokens through three layers")
