"""Fixtures that several rooms share: a home folder of the test's own, a tiny chat model, and a little data."""

import shutil
from pathlib import Path

import pytest

from helpers_runs import make_chat_model, write_conversations


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where C is compiled to, once for all tests: it takes seconds, and is the same for all."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: Path) -> Path:
    """A home folder of this test's own, so that model store and cache are empty; child processes see it too."""
    folder = tmp_path / "home"
    (folder / ".luthier" / "cache").mkdir(parents=True)
    (folder / ".luthier" / "cache" / "native").symlink_to(compiled)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer llama with a ChatML tokenizer, in float32. To be read, not changed."""
    return make_chat_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 short conversations in 10 groups, as JSONL. To be read, not changed."""
    return write_conversations(tmp_path_factory.mktemp("data") / "talks.jsonl")


@pytest.fixture
def model_copy(chat_model: Path, tmp_path: Path) -> Path:
    """The tiny chat model in a folder that the test may damage."""
    return Path(shutil.copytree(chat_model, tmp_path / "model"))
