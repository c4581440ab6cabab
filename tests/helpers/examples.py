"""Small texts, pictures and models that several tests learn from."""
import shutil
import struct
import zlib

import numpy as np

POSITIVE = ["good clean room", "very good", "clean", "the room good", "clean and good", "very clean room"]
NEGATIVE = ["bad loud room", "very bad", "loud", "the room bad", "loud and bad", "very loud room"]
TEXTS, LABELS = POSITIVE + NEGATIVE, ["yes"] * 6 + ["no"] * 6


def pictures(n=24, size=8, seed=0):
    "Dark and bright noise, (n, size, size, 3) uint8, and its labels: quickly learnt."
    X = np.random.default_rng(seed).integers(0, 120, (n, size, size, 3)).astype(np.uint8)
    X[1::2] += 120
    return X, np.array(["dark", "lit"] * n)[:n]


X, Y = pictures()


def everything(model):
    "Hash of all weights and statistics of a model."
    from finetune_book.adapt.freeze import weights_hash
    return weights_hash({k: v for k, v in model.state_dict().items() if v.is_floating_point()})


def save_other(kind, folder, tiny_base):
    "A tiny random base of another architecture, with the tiny tokenizer."
    import torch
    import transformers as t
    small = dict(vocab_size=120, pad_token_id=0)
    configs = {
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**small, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=40)),
        "distilbert": lambda: t.DistilBertModel(t.DistilBertConfig(**small, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=40)),
        "gpt2": lambda: t.GPT2Model(t.GPT2Config(**small, n_embd=16, n_layer=2, n_head=2, n_positions=40, bos_token_id=2, eos_token_id=3)),
    }
    shutil.copytree(tiny_base, folder)
    (folder / "config.json").unlink(); (folder / "model.safetensors").unlink()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        configs[kind]().save_pretrained(folder)
    return folder


def png(width, height, pixels=b""):
    "A PNG file of one size in its header and perhaps another in its pixels."
    def block(name, content): return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    header = block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + block(b"IDAT", zlib.compress(pixels)) + block(b"IEND", b"")
