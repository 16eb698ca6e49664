"""Memory that runs out and a device that goes away: what was saved stays, and a resumed run ends with the same bits."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers_runs import events, make_recipe, same, tensors
from luthier.core.hardware import Memory
from luthier.models.decoder import Decoder
from luthier.stages.check import check
from luthier.stages.run import resume, train

Listener = Callable[[dict[str, Any]], None]
FIELDS = {"max_steps": 6, "eval_steps": 3, "save_steps": 2}
FAULTS = {
    "out of memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "no memory on the host": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate"),
    "the device is gone": RuntimeError("CUDA error: device-side assert triggered"),
}


@pytest.fixture(scope="module")
def straight(chat_model: Path, conversations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        return train(make_recipe(chat_model, conversations, folder / "run", **FIELDS)).run_dir


def fail_after(patch: pytest.MonkeyPatch, error: Exception, *, training: bool, step: int) -> Listener:
    """A listener; the first stream in training, or in validation, after `step` steps raises `error`."""
    logprobs, due = Decoder.logprobs, []

    def failing(self: Decoder, *args: Any, **kwargs: Any) -> torch.Tensor:
        if due and torch.is_grad_enabled() == training:
            raise error
        return logprobs(self, *args, **kwargs)

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            due.append(step)

    patch.setattr(Decoder, "logprobs", failing)
    return listen


@pytest.fixture
def fresh(chat_model: Path, conversations: Path, tmp_path: Path, home: Path) -> Iterator[Any]:
    return make_recipe(chat_model, conversations, tmp_path / "run", **FIELDS)


@pytest.mark.parametrize("name", FAULTS)
def test_f26_f29_a_step_that_cannot_be_computed_loses_nothing(
    name: str, straight: Path, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        listen = fail_after(patch, FAULTS[name], training=True, step=4)
        with pytest.raises(Exception, match=r"memory|CUDA|allocate") as raised:
            train(fresh, listen=listen)
    run_dir = Path(fresh.output_dir)
    assert not (run_dir / "adapter").exists()
    if name == "out of memory":
        assert "--accept micro_batch_tokens" in raised.value.fix
    assert max(event["step"] for event in events(run_dir, "checkpoint")) == 4
    assert resume(run_dir).status == "finished"
    assert_same(straight, run_dir)


def test_f27_a_validation_that_cannot_be_computed_loses_nothing(
    straight: Path, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        listen = fail_after(patch, FAULTS["out of memory"], training=False, step=3)
        with pytest.raises(Exception, match="memory"):
            train(fresh, listen=listen)
    run_dir = Path(fresh.output_dir)
    assert resume(run_dir).status == "finished"
    assert_same(straight, run_dir)


def assert_same(a: Path, b: Path) -> None:
    assert same(*(tensors(run / "adapter" / "adapter_model.safetensors") for run in (a, b)))


def test_f26_a_check_warns_before_memory_runs_out(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.stages.check.memory", lambda: Memory(total=10**9, available=10**6))
    (warning,) = (text for text in check(fresh).warnings if "memory" in text)
    assert "lower micro_batch_tokens or sequence_len" in warning
