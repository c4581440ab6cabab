"""Published weights: in the cache, downloaded, damaged, or refused in one line when offline."""
import hashlib
import http.server
import threading
from functools import partial

import pytest
import torch

from finetune_book.vision import bases
from finetune_book.vision.preprocessing import Preprocessing
from finetune_book.vision.published import published
from picture_bases import HIDDEN, LABELS, open_quietly, refusal, same_body, state, write


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    "A clean environment, empty caches, and servers where nobody lives."
    for name in HIDDEN: monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_ENDPOINT", "https://192.0.2.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("finetune_book.vision.published.hub_answers", lambda limit_s=.5, url=None: False)
    return tmp_path


@pytest.mark.parametrize("choice", [True, False])
def test_published_weights_offline(no_network, monkeypatch, choice):
    if choice: monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said, seconds = refusal("torchvision/resnet50@IMAGENET1K_V1")
    assert seconds < 1
    for part in ("torchvision/resnet50@IMAGENET1K_V1", str(no_network / "torch"), "path/to/resnet50-0676ba61.pth", "HF_HUB_OFFLINE" if choice else "does not answer"): assert part in said


def test_a_hub_name_offline(no_network, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said, seconds = refusal("microsoft/resnet-50")
    assert seconds < 1 and "microsoft/resnet-50" in said and str(no_network / "cache") in said and "path/to/folder" in said


@pytest.fixture
def server(tmp_path, monkeypatch):
    "A small ResNet-18 published as torchvision publishes: a URL whose name ends in the beginning of the sha256."
    folder = tmp_path / "published"; folder.mkdir()
    raw = write(folder / "raw.pth", state(layers=(2, 2, 2, 2), n_classes=1000, width=2, stem="224"))
    sha = hashlib.sha256(raw.read_bytes()).hexdigest()[:8]
    raw.rename(folder / f"resnet18-{sha}.pth")
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    for name in HIDDEN: monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    real = published("torchvision/resnet18")
    fake = type("Weights", (), dict(url=f"http://127.0.0.1:{httpd.server_address[1]}/resnet18-{sha}.pth", meta=real.meta, transforms=real.transforms))
    monkeypatch.setattr(bases, "published", lambda base: fake)
    yield folder / f"resnet18-{sha}.pth", tmp_path / "torch" / "hub" / "checkpoints" / f"resnet18-{sha}.pth"
    httpd.shutdown(); httpd.server_close()


def test_download_then_cache_then_damage(server, monkeypatch, capfd):
    there, cached = server
    model, prep, said = open_quietly("torchvision/resnet18", labels=LABELS)
    assert said == [] and prep == Preprocessing(224) and same_body(model, torch.load(there, weights_only=True)) and model.fc.out_features == 3
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    whole, _, _ = open_quietly("torchvision/resnet18", n_out=1000)
    assert torch.equal(whole.fc.weight, torch.load(there, weights_only=True)["fc.weight"]) and whole.config.id2label[0] == "0 tench" and len(whole.config.label2id) == 1000
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    assert "damaged" in refusal("torchvision/resnet18")[0]


def test_a_download_that_fails_leaves_nothing(server):
    there, cached = server
    there.unlink()
    assert "did not come" in refusal("torchvision/resnet18")[0] and not cached.exists()
