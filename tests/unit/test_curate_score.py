"""Difficulty in a dataset folder: measured with a model, written once, and announced with the time it will take."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from helpers_curate import make_dataset, talk
from helpers_models import decoder_of
from luthier.curate.difficulty import DIFFICULTY
from luthier.stages.score import forward_seconds, score_difficulty


def test_scores_are_written_once(tmp_path: Path, chat_model: Path) -> None:
    dataset = make_dataset(
        tmp_path / "d", [talk(f"What is a {name}?", f"A {name} has strings.") for name in ("lute", "harp")]
    )
    told: list[float] = []
    score_difficulty(dataset, str(chat_model), device="cpu", expect=told.append)
    assert len(told) == 1 and 0 < told[0] < 60
    (made,) = [one for one in dataset.passes if one.step == DIFFICULTY]
    entries = pq.read_table(dataset.path / made.file).to_pylist()
    assert sorted(entry["record"] for entry in entries if entry["action"] == "score") == sorted(dataset.ids())
    passes = len(dataset.passes)
    score_difficulty(dataset, str(chat_model), device="cpu")
    assert len(dataset.passes) == passes


def test_the_time_follows_from_the_work(chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: two operations a weight and token; of the head, only where something is predicted."""
    monkeypatch.setattr("luthier.stages.score.matmul_flops", lambda dtype: 1e6)
    spec = decoder_of(chat_model).spec
    head = spec.vocab_size * spec.hidden_size
    linears = spec.num_parameters - head * (1 if spec.tied else 2)
    assert forward_seconds(spec, 10, 0, torch.float32) == pytest.approx(1.5 * 2 * linears * 10 / 1e6)
    more = forward_seconds(spec, 10, 4, torch.float32) - forward_seconds(spec, 10, 0, torch.float32)
    assert more == pytest.approx(1.5 * 2 * head * 4 / 1e6)
