"""What is said of settings that save no memory where the run is."""

from pathlib import Path

import pytest
import torch

from helpers_models import make_twin
from helpers_runs import make_chat_model, make_recipe, write_conversations
from luthier.models import weights
from luthier.models.spec import read_spec
from luthier.models.weights import without_effect
from luthier.stages.check import check


@pytest.mark.parametrize(
    ("tied", "device", "nf4_head", "on_host", "said"),
    [
        (False, "cpu", False, True, "on a CPU everything is in host memory"),
        (True, "cpu", False, True, "on a CPU everything is in host memory"),
        (True, "cuda", False, True, "the output head as well, which stays on the GPU"),
        (False, "cuda", False, True, ""),
        (True, "cuda", True, True, ""),
        (True, "cuda", True, False, ""),
        (True, "cpu", True, False, "nf4_head saves no memory"),
        (False, "cpu", True, False, ""),
    ],
)
def test_what_saves_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool, device: str, nf4_head: bool, on_host: bool, said: str
) -> None:
    monkeypatch.setattr(weights, "can_pack", lambda dtype, device: False)
    make_twin(tmp_path, "llama", tie_word_embeddings=tied)
    spec, place = read_spec(tmp_path), torch.device(device)
    found = without_effect(spec, torch.float32, place, nf4_head=nf4_head, embedding_on_host=on_host)
    assert len(found) == bool(said) and said in "".join(found)


def test_a_packed_head_gives_way_to_one_in_four_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "can_pack", lambda dtype, device: True)
    make_twin(tmp_path, "llama", tie_word_embeddings=True)
    cpu = torch.device("cpu")
    assert not without_effect(read_spec(tmp_path), torch.float32, cpu, nf4_head=True, embedding_on_host=False)


def test_check_says_it(tmp_path: Path, home: Path) -> None:
    model = make_chat_model(tmp_path / "model")
    data = write_conversations(tmp_path / "rows.jsonl")
    for on_host in (False, True):
        result = check(make_recipe(model, data, tmp_path / "run", embedding_on_host=on_host))
        result.close()
        assert sum("embedding_on_host changes nothing" in text for text in result.warnings) == on_host


def test_check_counts_the_rows_of_logits_that_the_device_makes_at_a_time(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = make_chat_model(tmp_path / "model"), write_conversations(tmp_path / "rows.jsonl")
    few = check(make_recipe(model, data, tmp_path / "run"))
    monkeypatch.setattr("luthier.models.weights.chunk_rows", lambda device, row_bytes: 2048)
    many = check(make_recipe(model, data, tmp_path / "run"))
    for result in (few, many):
        result.close()
    assert many.memory_bytes - few.memory_bytes == 3 * (2048 - 256) * 4 * few.prepared.spec.vocab_size
