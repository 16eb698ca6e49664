"""Replay through the real loop: cut as one likes, stopped where one likes, and off when there is none of it."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers_fit import LENGTH, Rig, make_rows, same_bits
from helpers_models import decoder_of, make_twin
from helpers_numerics import assert_same
from luthier.data.collate import collate
from luthier.kernels.segments import Segments
from luthier.models.decoder import Decoder
from luthier.train.progress import Progress
from luthier.train.step import accumulate
from luthier.train.stream import Stream

STEPS = 12


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = tmp_path_factory.mktemp("model")
    make_twin(folder, "llama", num_hidden_layers=1, hidden_size=32, num_attention_heads=4, intermediate_size=32)
    return decoder_of(folder)


def make_rig(decoder: Decoder, run_dir: Path, *, share: float = 0.25, kl: float = 0.0, **fields: Any) -> Rig:
    start = {"replay_share": share, "kl_weight": kl}
    general = make_rows(9, seed=5, name="g", noise=1.0)
    return Rig(decoder, run_dir, steps=STEPS, replay_rows=general, start=start, **fields)


@pytest.fixture(scope="module")
def straight(decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    rig = make_rig(decoder, tmp_path_factory.mktemp("straight"), kl=0.5, recipe={"lora_dropout": 0.1})
    assert rig.run() == "finished"
    return rig


def test_the_losses_are_told_apart(decoder: Decoder, straight: Rig) -> None:
    steps = straight.named("step")
    assert sum(event["replay_tokens"] for event in steps) / sum(event["label_tokens"] for event in steps) == (
        pytest.approx(0.25, abs=0.05)
    )
    assert all((event["replay_loss"] is None) == (event["replay_tokens"] == 0) for event in steps)
    assert all((event["kl"] is None) == (event["replay_tokens"] == 0) for event in steps)
    assert steps[0]["kl"] in (None, pytest.approx(0, abs=1e-6)) and steps[-1]["kl"] > 1e-4


@pytest.mark.parametrize("stop", [1, 4, 7, 11])
def test_stopped_anywhere_and_resumed_is_straight(decoder: Decoder, tmp_path: Path, straight: Rig, stop: int) -> None:
    rig = make_rig(decoder, tmp_path / "run", kl=0.5, recipe={"lora_dropout": 0.1}, save_steps=100)
    calls = itertools.count()
    rig.should_stop = lambda: rig.progress.step == stop and next(calls) > 0  # in the middle of a step
    assert rig.run() == "interrupted"
    rig.should_stop = lambda: False
    assert rig.run() == "finished"
    assert same_bits(rig.bits(), straight.bits())
    told = [[{**event, "seconds": 0, "tokens_per_second": 0} for event in one.named("step")] for one in (rig, straight)]
    assert told[0] == told[1]


def test_one_microstep_is_many(decoder: Decoder, tmp_path: Path) -> None:
    ends = []
    for micro_rows in (1, 2, 8):
        rig = make_rig(decoder, tmp_path / str(micro_rows), kl=0.5, micro_rows=micro_rows)
        assert rig.run() == "finished"
        ends.append([(event["loss"], event["grad_norm"]) for event in rig.named("step")])
    for other in ends[1:]:
        for one, many in zip(ends[0], other, strict=True):
            assert one == pytest.approx(many, rel=1e-4)


def test_without_share_or_rows_nothing_is_different(decoder: Decoder, tmp_path: Path) -> None:
    plain = Rig(decoder, tmp_path / "plain", steps=4)
    none = make_rig(decoder, tmp_path / "none", share=0.0, kl=0.5)
    none.steps = 4
    empty = Rig(decoder, tmp_path / "empty", steps=4, start={"replay_share": 0.25, "kl_weight": 0.5})
    for rig in (plain, none, empty):
        assert rig.run() == "finished"
    assert same_bits(plain.bits(), none.bits()) and same_bits(plain.bits(), empty.bits())


def test_the_kl_term_holds_the_tuned_model_back(decoder: Decoder, tmp_path: Path) -> None:
    kls = {}
    for weight in (1e-6, 20.0):
        rig = make_rig(decoder, tmp_path / str(weight), share=0.4, kl=weight)
        assert rig.run() == "finished"
        kls[weight] = rig.named("step")[-1]["kl"]
    assert kls[20.0] < 0.3 * kls[1e-6]


def test_the_gradient_is_that_of_the_mean_loss_and_the_weighted_kl(decoder: Decoder, tmp_path: Path) -> None:
    """Against plain autograd over whole logits, rows one by one."""
    weight = 0.7
    rig = make_rig(decoder, tmp_path / "run", share=0.4, micro_rows=3)
    adapter = rig._adapter()
    for name, tensor in adapter.named().items():
        tensor.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    stream = Stream(rig.rows, rig.plan(), rig.replay_rows, micro_batch_tokens=3 * LENGTH, seed=0)
    rows = stream.rows_of(Progress(replay_share=0.4))
    assert rows.replay_tokens > 0
    made = accumulate(decoder, adapter, rows, step=0, kl_weight=weight, should_stop=lambda: False)
    assert made is not None
    fused = adapter.grad.clone()
    adapter.grad.zero_()

    total = torch.zeros((), dtype=torch.float64)
    for microstep, replayed in zip(rows.microsteps, rows.replayed, strict=True):
        for row, again in zip(microstep, replayed, strict=True):
            one = collate([row])
            places = one.targets - 1
            hidden = decoder.hidden(one.tokens, Segments.of(one.lengths), adapter)[places]
            log_q = torch.log_softmax(decoder.logits(hidden, adapter).double(), -1)
            total = total - log_q.gather(1, one.tokens[one.targets][:, None]).sum()
            if again:
                with torch.no_grad():
                    base = decoder.hidden(one.tokens, Segments.of(one.lengths))[places]
                    log_p = torch.log_softmax(decoder.logits(base).double(), -1)
                total = total + weight * (log_p.exp() * (log_p - log_q)).sum()
    (total / rows.label_tokens).backward()
    assert_same(fused, adapter.grad, tolerance=1e-4, what="gradient")
    mean = (made.loss * (rows.label_tokens - rows.replay_tokens) + made.replay_loss * rows.replay_tokens
            + weight * made.kl * rows.replay_tokens) / rows.label_tokens  # fmt: skip
    assert mean == pytest.approx(total.item() / rows.label_tokens, rel=1e-5)
