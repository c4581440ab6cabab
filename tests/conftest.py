"""Shared fixtures: the real data that some tests read, when it is there."""
import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


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
def tiny_picture_base(tmp_path_factory):
    "Folder of a random ResNet of four blocks for pictures of 8 pixels."
    from tiny import save_tiny_picture_base
    return str(save_tiny_picture_base(tmp_path_factory.mktemp("bases") / "tiny-resnet"))
