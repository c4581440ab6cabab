"""Many processes train what one trains: on the same global batches, through a kill, and to the same bits when resumed.

Processes are started by torchrun, which picks a free port; each computes on one thread of the CPU.
"""
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from finetune_book import many
from finetune_book.checks import InputError
from finetune_book.train.callbacks import read_state
from tiny import WORDS, save_tiny_base

pytest.importorskip("accelerate", reason="many processes need accelerate: pip install 'finetune-book[many]'")

# What a process does: trainings one after the other, the last of which ends with the second process, at a step of it.
WORKER = """
import json, os, sys
from accelerate import Accelerator
from finetune_book.many import fine_tune, parse_options

runs, dies = json.loads(sys.argv[1])
accelerator = Accelerator()
def die(crew):
    if crew.rank == 1 and len(crew.losses) == dies: os._exit(9)
for asked in runs[:-1]: fine_tune(parse_options(asked), accelerator)
fine_tune(parse_options(runs[-1]), accelerator, die)
"""
STILL = ["--epochs", "2", "--batch_size", "8", "--lr", "5e-3", "--max_length", "16", "--every", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A tiny base, and tables of 21 rows: batches of 8, 8 and 5."
    place = tmp_path_factory.mktemp("many")
    save_tiny_base(place / "base")
    (place / "worker.py").write_text(WORKER)
    (place / "data").mkdir()
    rng = np.random.default_rng(0)
    for name, n in (("train", 21), ("validation", 7)):
        labels = [("bad", "good", "head")[i] for i in [0, 1, 2, *rng.integers(3, size=n - 3)]]
        texts = [" ".join([y, *rng.choice(WORDS[:30], size=rng.integers(2, 9))]) for y in labels]
        pd.DataFrame(dict(text=texts, label=labels)).to_csv(place / "data" / f"{name}.csv", index=False)
    return place


def asked(place, out, *more): return ["--data", str(place / "data"), "--base", str(place / "base"), *STILL, *more, "--out", str(place / out)]
def losses(place, out): return np.array(read_state(place / out / "state.pt")["losses"])
def weights(place, out): return torch.cat([t.double().flatten() for t in read_state(place / out / "state.pt")["model"].values()])


def start(*script):
    "The exit code and output of a script run by two processes."
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *script], env=env, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout, done.stderr


def alone(options, **more):
    from accelerate import Accelerator
    return many.fine_tune(many.parse_options(options), Accelerator(cpu=True), **more)


@pytest.fixture(scope="module")
def cut(place):
    "Two processes: a whole training, and one whose second process dies after the fifth of six steps. The state it left."
    runs = [asked(place, "whole", "--still"), asked(place, "cut", "--still")]
    code, _, error = start(str(place / "worker.py"), json.dumps([runs, 5]))
    assert code and (place / "cut/state.pt").exists(), error
    shutil.copytree(place / "cut", place / "half")
    return losses(place, "cut")


@pytest.fixture(scope="module")
def resumed(place, cut):
    "The same command again."
    code, said, error = start("-m", "finetune_book.many", *asked(place, "cut", "--still"))
    assert code == 0 and "going on after step 4" in said and "processes 2, steps 6, accuracy" in said, error
    return said


@pytest.fixture(scope="module")
def single(place): return alone(asked(place, "single", "--still"))


def test_two_processes_lose_what_one_loses(place, cut, single):
    assert len(single.losses) == 6 and np.abs(losses(place, "whole") - single.losses).max() < 1e-5
    assert np.abs(np.diff(single.losses)).max() > .01, "the steps matter"


def test_killed_and_resumed_they_have_the_same_bits(place, cut, resumed):
    assert len(cut) == 4 and losses(place, "cut").tolist() == losses(place, "whole").tolist()
    assert torch.equal(weights(place, "cut"), weights(place, "whole"))


def test_a_training_of_two_goes_on_with_one(place, cut):
    crew = alone(asked(place, "half", "--still"))
    assert crew.losses[:4] == cut.tolist() and np.abs(losses(place, "whole") - crew.losses).max() < 1e-5


def test_both_answer_alike_and_each_row_once(place, resumed, single):
    "Of 7 rows in two processes, 4 and 3, each counts once: the accuracy is that of the one process."
    table = pd.read_csv(place / "data/validation.csv")
    assert f"accuracy {single.accuracy(table.text, table.label):.3f} on 7 rows" in resumed
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    theirs, tokenizer = (kind.from_pretrained(place / "cut/model") for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    inputs = tokenizer(list(table.text), padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad(): assert (theirs.eval()(**inputs).logits - single.bare(**inputs).logits).abs().max() < 1e-4


def test_one_process_is_the_estimators_training(place):
    "Dropout is on, and the draws are the same; only the gradient's length is summed up in another order."
    from finetune_book import TextClassifier
    from finetune_book.train.trainer import Callback

    class Losses(Callback):
        def on_fit_start(self, trainer): self.seen = []
        def on_batch_end(self, trainer): self.seen.append(trainer.loss_)

    kept, table = Losses(), pd.read_csv(place / "data/train.csv")
    TextClassifier(str(place / "base"), tune="full", epochs=2, batch_size=8, lr=5e-3, max_length=16, callbacks=[kept], verbose=0,
                   precision="float32", shortcuts="none", device="cpu").fit(list(table.text), list(table.label))
    assert np.abs(np.array(alone(asked(place, "drops")).losses) - kept.seen).max() < 1e-5


# --- without other processes ----------------------------------------------------------------------------------------

class Pretended:
    "What accelerate's Accelerator is to a crew, in one process that plays the part of one of several."
    def __init__(self, rank=0, count=1):
        self.process_index, self.num_processes, self.is_main_process = rank, count, rank == 0
        self.device, self.scaler = torch.device("cpu"), None
    def prepare(self, *parts): return parts
    def unwrap_model(self, model): return model
    def backward(self, loss): loss.backward()
    def clip_grad_norm_(self, params, most): torch.nn.utils.clip_grad_norm_(params, most)
    def reduce(self, tensor, how): return tensor


def test_each_process_and_each_step_draws_its_own_dropout(place, tmp_path):
    seeds = [[], []]
    for rank in range(2):
        many.fine_tune(many.parse_options([*asked(place, "x"), "--out", str(tmp_path / str(rank))]), Pretended(rank, 2),
                       lambda crew: seeds[rank].append(torch.initial_seed()))
    assert len(set(sum(seeds, []))) == 12


def test_the_callers_random_numbers_are_left_alone(place, tmp_path):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    many.fine_tune(many.parse_options([*asked(place, "x"), "--out", str(tmp_path)]), Pretended())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_only_the_main_process_writes(place, tmp_path):
    many.fine_tune(many.parse_options([*asked(place, "x"), "--out", str(tmp_path)]), Pretended(1, 2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n, count", [(1, 1), (1, 3), (5, 2), (8, 2), (3, 7)])
def test_the_parts_are_the_batch(n, count):
    idx, mass = np.random.default_rng(n).permutation(99)[:n], np.random.default_rng(0).uniform(.1, 5, 99)
    found = [many.own_part(idx, k, count, lambda rows: mass[rows].sum()) for k in range(count)]
    assert [i for rows, weight in found if weight for i in rows] == idx.tolist()
    assert all(len(rows) for rows, _ in found) and np.mean([weight for _, weight in found]) == pytest.approx(1)


@pytest.mark.parametrize("given, says", [(dict(rank=2), "rank=2"), (dict(rank=-1), "rank=-1"), (dict(count=0), "count=0"), (dict(idx=[]), "at least one row")])
def test_a_part_that_is_none_is_refused(given, says):
    with pytest.raises(InputError, match=says): many.own_part(**dict(idx=[1, 2], rank=0, count=2) | given)


def test_the_state_of_another_training_is_refused(place, cut):
    for more in (["--batch_size", "7"], ["--seed", "1"], ["--rows", "20"]):
        with pytest.raises(InputError, match="another run"): many.fine_tune(many.parse_options([*asked(place, "half", "--still"), *more]), Pretended())


@pytest.mark.parametrize("more, says", [(["--epochs", "0"], "epochs=0"), (["--every", "0"], "every=0"), (["--batch_size", "0"], "batch_size=0"),
                                        (["--lr", "0"], "lr=0"), (["--lr", "nan"], "lr=nan"), (["--seed", "-1"], "seed=-1"), (["--rows", "0"], "rows=0"),
                                        (["--max_length", "1"], "max_length=1"), (["--data", "nowhere.csv"], "nowhere.csv"), (["--base", "nothing"], "nothing")])
def test_the_script_refuses_in_one_line(place, tmp_path, capsys, more, says):
    assert many.main([*asked(place, "x"), *more, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("many: ") and error.count("\n") == 1


def test_without_accelerate_one_line_says_how_to_get_it(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert many.main([*asked(place, "x"), "--out", str(tmp_path)]) == 2
    assert "pip install 'finetune-book[many]'" in capsys.readouterr().err


# --- accelerate's own launcher --------------------------------------------------------------------------------------

LAUNCH = ["--cpu", "--num_machines", "1", "--dynamo_backend", "no", "--mixed_precision", "bf16", "--num_processes"]


def test_accelerate_launch_runs_it_in_the_precision_that_was_asked_for(place, tmp_path):
    run = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "1", "-m", "finetune_book.many", *asked(place, "x", "--still"), "--out", str(tmp_path)]
    done = subprocess.run(run, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and "processes 1, steps 6, accuracy" in done.stdout, done.stderr[-2000:]
    apart = np.abs(np.array(read_state(tmp_path / "state.pt")["losses"]) - alone(asked(place, "single2", "--still")).losses).max()
    assert 1e-6 < apart < .3, "rounded otherwise, and learning all the same"


def test_on_a_cpu_accelerate_launch_starts_one_process(tmp_path):
    "What lesson 86 (many) warns of: without MPI the number is not heeded."
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args([*LAUNCH, "2", "script.py"]))
    command, env = prepare_simple_launcher_cmd_env(args)
    assert command == [sys.executable, "script.py"] and "RANK" not in env
