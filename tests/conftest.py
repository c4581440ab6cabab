"""Shared fixtures: the real data that some tests read, when it is there."""
import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest
import warm

from finetune_book.processes import without_iri_grammar

without_iri_grammar()                                            # a second for each process of tests
os.environ.setdefault("FINETUNE_BOOK_AUTO", "float32")           # the same numbers on every machine, in what the tests start, too
# nohup, and a shell's &, leave Ctrl-C ignored, and what the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).resolve().parent
REPO = TESTS.parent
# With --dist loadfile a file stays with one worker, and a long one that starts last keeps the other waiting. These start first.
SLOWEST = ("report/sweep contract report/finetune_image cli tasks/heads report/faults build/wheel vision/classifier report/verify report/resume build/lab "
           "exercises/all bad_input bench train/callbacks report/finetune_text house/layers report/publish report/page house/run_notebooks").split()


def pytest_collection_modifyitems(items):
    "Files of SLOWEST in that order, then the others; within a file nothing moves."
    place = {f"{folder}{slash}test_{name}.py": i for i, (folder, slash, name) in enumerate(n.rpartition("/") for n in SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.relative_to(TESTS).as_posix(), len(place)))


@pytest.fixture(scope="module", autouse=True)
def forgetful_accelerate():
    "accelerate keeps one state for a process, its precision included: each file of tests begins without it."
    yield
    if "accelerate.state" in sys.modules: sys.modules["accelerate.state"].AcceleratorState._reset_state(True)


@pytest.fixture(scope="session")
def repo():
    "The checkout the tests run in."
    return REPO


@pytest.fixture(scope="session")
def real_data():
    "Folder of real data named by FINETUNE_BOOK_REAL_DATA; the test is skipped where it is unset."
    folder = os.environ.get("FINETUNE_BOOK_REAL_DATA")
    if not folder:
        pytest.skip("FINETUNE_BOOK_REAL_DATA is unset: it names the folder with the real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    "Folder of a random two-layer BERT, small enough to train in a test."
    from tiny import save_tiny_base
    return str(save_tiny_base(tmp_path_factory.mktemp("bases") / "tiny"))


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory):
    "Folder of a random two-layer GPT-2, small enough to train in a test."
    from tiny import save_tiny_decoder
    return str(save_tiny_decoder(tmp_path_factory.mktemp("bases") / "tiny-gpt"))


@pytest.fixture(scope="session")
def tiny_picture_base(tmp_path_factory):
    "Folder of a random ResNet of four blocks for pictures of 8 pixels."
    from tiny import save_tiny_picture_base
    return str(save_tiny_picture_base(tmp_path_factory.mktemp("bases") / "tiny-resnet"))

@pytest.fixture(scope="session")
def load_script(repo):
    "A function that imports a script by its name anew, for a test to look into."
    def load(name):
        spec = importlib.util.spec_from_file_location(name, next(repo.glob(f"scripts/*/{name}.py")))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    return load


@pytest.fixture(scope="session")
def warm_server():
    server = warm.Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def warm_kernels(warm_server):
    "In this file the kernels of reports are forked from a process that has imported the heavy libraries (tests/helpers/warm.py)."
    with pytest.MonkeyPatch.context() as patched:
        if sys.platform == "linux": patched.setattr("jupyter_client.launcher.Popen", warm_server.popen)  # elsewhere a fork is not safe
        yield
