"""The script that makes book-gpt: a killed run goes on to the same bits, the floor is a distribution, and the model that is saved is the one that is judged."""
import argparse
import json
import math

import pandas as pd
import pytest
import transformers
from safetensors.torch import load_file

KINDS = {"train": slice(0, 40), "unlabelled": slice(40, 80), "validation": slice(80, 90), "test": slice(90, 102)}


@pytest.fixture(scope="module")
def script(load_script):
    "The script, made small."
    module = load_script("make_book_gpt")
    read = module.load_frame(module.carried("clinic_notes") / "validation.csv")
    module.SIZES, module.BATCH, module.KEEP, module.WARM = dict(n_embd=16, n_layer=1, n_head=2), 8, 2, 2
    module.notes = lambda *files: [t for name in files for t in read["text"][KINDS[name]]]
    module.load_frame = lambda path: read[KINDS[path.stem]]
    return module


def told(folder, name, steps=5): return argparse.Namespace(work=folder / f"work {name}", out=folder / name, steps=steps, seed=0, pieces=300, precision="float32")


@pytest.fixture(scope="module")
def made(script, tmp_path_factory):
    args = told(tmp_path_factory.mktemp("made"), "whole")
    script.train(args); script.judge(args); script.card(args)
    return args


def test_a_killed_run_goes_on_to_the_same_bits(script, made, tmp_path, monkeypatch):
    args, loss, steps = told(tmp_path, "killed"), script.mean_loss, []
    def killed(*given):
        steps.append(1)
        if len(steps) == 4: raise KeyboardInterrupt
        return loss(*given)
    monkeypatch.setattr(script, "mean_loss", killed)
    with pytest.raises(KeyboardInterrupt): script.train(args)
    assert not args.out.exists()
    script.train(args)
    assert len(steps) == 4 + 3, "it goes on behind step 2"
    a, b = (load_file(folder / "model.safetensors") for folder in (made.out, args.out))
    assert list(a) == list(b) and all((a[k] == b[k]).all() for k in a)


def test_what_is_saved_opens_and_is_what_was_judged(script, made):
    assert {p.name for p in made.out.iterdir()} >= {"README.md", "config.json", "model.safetensors", "tokenizer.json", "held_out.csv", "result.json", "training_log.csv"}
    model, tok = transformers.AutoModelForCausalLM.from_pretrained(made.out), transformers.AutoTokenizer.from_pretrained(made.out)
    held, result = pd.read_csv(made.out / "held_out.csv"), json.loads((made.out / "result.json").read_text())
    text = script.notes("test")[0]
    ids = [tok.eos_token_id, *tok(text)["input_ids"], tok.eos_token_id]
    assert held.bits_book_gpt[0] == pytest.approx(script.nats_of(model.eval(), [ids], tok.eos_token_id)[0] / math.log(2), rel=1e-3)
    assert held.bytes[0] == len(text.encode()) + 1 and result["trigram"] == pytest.approx(held.bits_trigram.sum() / held.bytes.sum(), abs=1e-3)
    assert f"| {result['book_gpt']:.3f} |" in (made.out / "README.md").read_text()
