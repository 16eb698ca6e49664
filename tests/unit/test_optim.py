"""The optimizers over the flat buffer: the same AdamW, in less memory, and how far that leads from float32's way."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bitsandbytes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers_runs import make_recipe
from luthier.core.errors import RunError
from luthier.recipe import Recipe
from luthier.stages.check import check
from luthier.train.optim import (
    BLOCK,
    MIN_CHUNK,
    ChunkedAdamW,
    Moment8,
    PlainAdamW,
    chunk_size,
    dynamic_map,
    gradient_norm,
    make_optimizer,
    restore,
    round_stochastically,
    state_bytes,
    trained_bytes,
)

CPU = torch.device("cpu")
MODES = [(optim, dtype) for optim in ("adamw", "adamw_8bit") for dtype in ("fp32", "bf16")]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def flat(values: Tensor) -> Any:
    """What an optimizer sees of an adapter."""
    weights = values.clone()
    weights.grad = torch.zeros_like(weights)
    return SimpleNamespace(flat=weights, grad=weights.grad)


def recipe(**fields: Any) -> Recipe:
    return Recipe(base_model="m", datasets=["a"], output_dir="o", **fields)


def optimizer_of(adapter: Any, optim: str, **fields: Any) -> Any:
    return make_optimizer(adapter, recipe(optim=optim, **fields))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# The numbers of 8 bits


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_is_that_of_bitsandbytes(signed: bool) -> None:
    theirs = bitsandbytes.functional.create_dynamic_map(signed=signed)
    torch.testing.assert_close(dynamic_map(signed=signed), theirs, rtol=2e-6, atol=0)
    assert len(dynamic_map(signed=signed).unique()) == 256


def stored(values: Tensor, *, signed: bool) -> tuple[Moment8, Tensor]:
    """A moment that holds `values` (a multiple of 256), and what is read from it."""
    moment = Moment8(len(values), signed=signed, device=CPU)
    index, out = torch.zeros(len(values), dtype=torch.int32), torch.full_like(values, math.nan)
    moment.write(values.clone(), index, 0)
    moment.read(out, index, 0)
    return moment, out


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), power=st.sampled_from([-30, -12, -3, 0, 20]), blocks=st.integers(1, 3))
def test_a_moment_is_read_as_the_nearest_number_of_its_block(seed: int, power: int, blocks: int) -> None:
    values = normal(blocks * BLOCK, seed=seed).pow(3) * 10.0**power
    scales = values.view(-1, BLOCK).abs().amax(1)
    near = scales.double()[:, None, None] * dynamic_map(signed=True).double()
    least = (values.double().view(-1, BLOCK, 1) - near).abs().amin(-1).flatten()
    moment, out = stored(values, signed=True)
    assert torch.equal(moment.scales, scales)
    error = (values.double() - out.double()).abs()
    assert (error <= least * (1 + 1e-5) + values.abs() * 3e-7).all()


def test_a_second_moment_above_zero_never_becomes_zero() -> None:
    values = torch.cat([torch.zeros(100), torch.full((155,), 1e-20), torch.ones(1)])
    out = stored(values, signed=False)[1]
    assert (out[:100] == 0).all() and (out[100:255] > 0).all() and out[255] == 1
    assert out[100] == dynamic_map(signed=False)[1]
    assert (stored(torch.zeros(BLOCK), signed=False)[1] == 0).all()
    assert (stored(torch.zeros(BLOCK), signed=True)[1] == 0).all()


# The same update


@pytest.mark.parametrize("size", [1, 255, 256, 257, MIN_CHUNK, MIN_CHUNK + 1, 2 * MIN_CHUNK + 300])
def test_chunks_give_what_one_call_gives(size: int) -> None:
    """The chunked form with nothing shortened is torch's AdamW on the whole buffer, across chunks and their ends."""
    start = normal(size)
    one, many = flat(start), flat(start)
    whole = PlainAdamW(one, 0.1)
    chunked = ChunkedAdamW(many, 0.1, eight_bit=False, seed=0)
    for step in range(3):
        for adapter, optimizer in ((one, whole), (many, chunked)):
            adapter.grad.copy_(normal(size, seed=step + 1))
            optimizer.step(1e-2 / (step + 1), 0.5)
    ulps = {"rtol": 3e-7, "atol": 1e-12}  # torch's kernel rounds the last few numbers of a buffer otherwise
    torch.testing.assert_close(many.flat, one.flat, **ulps)
    assert not torch.equal(one.flat, start)
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(chunked.tensors()[name], tensor, **ulps)


def test_a_block_of_8_bits_knows_nothing_of_others() -> None:
    """Two chunks and a broken block are what each part is by itself."""
    start, cut = normal(MIN_CHUNK + 300), MIN_CHUNK
    sizes = torch.cat([torch.full((cut,), 10.0), torch.ones(300)])  # what leaks from the first chunk is large

    def run(part: slice) -> Tensor:
        adapter = flat(start[part])
        optimizer = optimizer_of(adapter, "adamw_8bit")
        for step in range(3):
            adapter.grad.copy_((normal(len(start), seed=step + 1) * sizes)[part])
            optimizer.step(1e-2, 1.0)
        return adapter.flat

    parts = torch.cat([run(slice(0, cut)), run(slice(cut, None))])
    torch.testing.assert_close(run(slice(None)), parts, rtol=1e-6, atol=1e-6)


def test_the_plain_one_is_torchs() -> None:
    adapter, theirs = flat(normal(1000)), normal(1000).requires_grad_()
    ours, torchs = optimizer_of(adapter, "adamw", weight_decay=0.1), torch.optim.AdamW([theirs], weight_decay=0.1)
    assert isinstance(ours, PlainAdamW)
    for step in range(5):
        adapter.grad.copy_(normal(1000, seed=step + 1))
        theirs.grad = normal(1000, seed=step + 1) * 0.25
        torchs.param_groups[0]["lr"] = 0.01 * (step + 1)
        torchs.step()
        ours.step(0.01 * (step + 1), 0.25)
    torch.testing.assert_close(adapter.flat, theirs.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("size", [1, 2**14, 2**14 + 1, 3_000_001])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_gradients_length_is_right_to_a_millionth(size: int, dtype: str) -> None:
    grad = (normal(size) * torch.rand(size, generator=torch.Generator().manual_seed(1)).pow(6) / 1e3).to(DTYPES[dtype])
    assert gradient_norm(grad) == pytest.approx(grad.double().norm().item(), rel=1e-6)


# How far 8 bits lead from float32


def fit_low_rank(step: Any, a: Tensor, b: Tensor) -> float:
    """Fit B A to a matrix from inputs in which some features are a hundred times as large; the loss at the end."""
    x = normal(64, 48, seed=1) * torch.logspace(-1, 1, 48)
    y = x @ (normal(32, 4, seed=2) @ normal(4, 48, seed=3)).T / 48
    loss = torch.tensor(0.0)
    for number in range(300):
        a.grad, b.grad = None, None
        loss = (x @ a.T @ b.T - y).square().mean()
        loss.backward()
        step(1e-2 * (1 - number / 300))
    return loss.item()


def fit_with(optim: str, dtype: str = "fp32") -> float:
    """As `luthier` trains: A and B are views of one flat buffer."""
    adapter = flat(torch.cat([normal(8 * 48, seed=4) / 7, torch.zeros(32 * 8)]).to(DTYPES[dtype]))
    a, b = adapter.flat[: 8 * 48].view(8, 48).detach(), adapter.flat[8 * 48 :].view(32, 8).detach()
    a, b = (leaf.float().requires_grad_() for leaf in (a, b))
    optimizer = optimizer_of(adapter, optim)

    def step(rate: float) -> None:
        adapter.grad.copy_(torch.cat([a.grad.flatten(), b.grad.flatten()]))
        optimizer.step(rate, 1.0)
        with torch.no_grad():
            a.copy_(adapter.flat[: 8 * 48].view(8, 48))
            b.copy_(adapter.flat[8 * 48 :].view(32, 8))

    return fit_low_rank(step, a, b)


def fit_with_bitsandbytes() -> float:
    """The same with bitsandbytes' AdamW8bit over one flat parameter."""
    whole = torch.cat([normal(8 * 48, seed=4) / 7, torch.zeros(32 * 8)]).requires_grad_()
    a, b = whole.detach()[: 8 * 48].view(8, 48).clone(), whole.detach()[8 * 48 :].view(32, 8).clone()
    a.requires_grad_(), b.requires_grad_()
    optimizer = bitsandbytes.optim.AdamW8bit([whole], lr=0.0, weight_decay=0.0, min_8bit_size=1)

    def step(rate: float) -> None:
        whole.grad = torch.cat([a.grad.flatten(), b.grad.flatten()])
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        with torch.no_grad():
            a.copy_(whole[: 8 * 48].view(8, 48))
            b.copy_(whole[8 * 48 :].view(32, 8))

    return fit_low_rank(step, a, b)


CURVATURE = torch.logspace(0, -3, BLOCK).repeat(8)[
    torch.randperm(8 * BLOCK, generator=torch.Generator().manual_seed(0))
]


def descend(step: Any, weights: Tensor, grad: Tensor) -> float:
    """Noisy descent of Σ ½·c·w², c over three powers of ten in each block; how far from 0 the weights end."""
    noise = torch.Generator().manual_seed(1)
    for number in range(400):
        grad.copy_(CURVATURE * (weights + 0.1 * torch.randn(weights.shape, generator=noise)))
        step(0.02 * (1 - number / 400))
    return weights.float().abs().mean().item()


def descend_with(optim: str, dtype: str = "fp32") -> float:
    adapter = flat(normal(len(CURVATURE)).to(DTYPES[dtype]))
    optimizer = optimizer_of(adapter, optim)
    return descend(lambda rate: optimizer.step(rate, 1.0), adapter.flat, adapter.grad)


def descend_with_bitsandbytes() -> float:
    weights = normal(len(CURVATURE)).requires_grad_()
    weights.grad = torch.zeros_like(weights)
    optimizer = bitsandbytes.optim.AdamW8bit([weights], lr=0.0, weight_decay=0.0, min_8bit_size=1)

    def step(rate: float) -> None:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()

    return descend(step, weights.detach(), weights.grad)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_low_rank_fit_ends_where_float32_ends(dtype: str) -> None:
    """Within a fifth of a loss that fell ten thousandfold; bitsandbytes' lies within it too."""
    whole = fit_with("adamw")
    for loss in (fit_with("adamw", dtype), fit_with("adamw_8bit", dtype), fit_with_bitsandbytes()):
        assert abs(loss / whole - 1) < 0.2


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_wide_block_ends_where_float32_ends(dtype: str) -> None:
    """Within 5 %, where bitsandbytes, whose small second moments become zero, ends more than twice as far away."""
    whole = descend_with("adamw")
    assert descend_with("adamw_8bit", dtype) < 1.05 * whole
    assert descend_with_bitsandbytes() > 2 * whole


# Weights in bf16


def rounded(values: Tensor, seed: int = 0) -> Tensor:
    out, noise = torch.zeros(len(values), dtype=torch.bfloat16), torch.zeros(len(values), dtype=torch.int32)
    round_stochastically(values, out, noise, torch.Generator().manual_seed(seed))
    return out


@pytest.mark.parametrize("value", [1.001, -0.33, 3e-20, -1e30, 1.0 + 2**-10])
def test_rounding_is_right_on_average(value: float) -> None:
    """Only the two neighbours occur, the upper as often as its nearness asks: within 5 standard deviations."""
    number = 200_000
    out = rounded(torch.full((number,), value)).double()
    low, high = sorted(out.unique().tolist())
    exact = float(torch.tensor(value))
    share = (exact - low) / (high - low)
    assert low < exact < high and high - low <= abs(exact) * 2**-7
    seen = (out == high).double().mean().item()
    assert abs(seen - share) < 5 * math.sqrt(share * (1 - share) / number) + 2**-16


def test_rounding_leaves_what_fits_and_what_is_no_number() -> None:
    fits = torch.tensor([0.0, -0.0, 1.0, -2.5, math.inf, -math.inf, 2.0**-126]).repeat(1000)
    assert torch.equal(rounded(fits), fits.bfloat16())
    odd = torch.tensor([0x7F800001, 0x7FC00000, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32).repeat(1000)
    assert rounded(odd).isnan().all()
    large = torch.full((1000,), torch.finfo(torch.float32).max)
    assert not rounded(large).isnan().any() and (rounded(large) > 0).all()


def test_rounding_follows_from_seed_and_step() -> None:
    def walk(seed: int, first: int) -> Tensor:
        adapter = flat(torch.ones(1000, dtype=torch.bfloat16))
        optimizer = ChunkedAdamW(adapter, 0.0, eight_bit=True, seed=seed)
        optimizer.steps_done(first)
        adapter.grad.fill_(1.0)
        optimizer.step(1e-3, 1.0)
        return adapter.flat

    assert torch.equal(walk(0, 5), walk(0, 5))
    assert not torch.equal(walk(0, 5), walk(1, 5)) and not torch.equal(walk(0, 5), walk(0, 6))


def test_steps_below_a_weights_resolution_are_taken_on_average() -> None:
    """bf16 has no number between 1 and 0.996; 50 steps of 1e-4 lead to 0.995, where rounding to nearest stays at 1."""
    adapter = flat(torch.ones(20_000, dtype=torch.bfloat16))
    optimizer = optimizer_of(adapter, "adamw")
    for _ in range(50):
        adapter.grad.fill_(1.0)
        optimizer.step(1e-4, 1.0)
    assert abs(adapter.flat.double().mean().item() - 0.995) < 1e-4


# Memory, and going on


@pytest.mark.parametrize(("optim", "dtype"), MODES)
@pytest.mark.parametrize("size", [1, 1000, MIN_CHUNK * 3 + 5, 2**22])
def test_memory_is_what_was_told_to_the_byte(optim: str, dtype: str, size: int) -> None:
    adapter = flat(torch.zeros(size, dtype=DTYPES[dtype]))
    optimizer = optimizer_of(adapter, optim)
    held = [adapter.flat, adapter.grad, *optimizer.tensors().values()]
    if isinstance(optimizer, ChunkedAdamW):
        held += [optimizer.weights, optimizer.slope, *optimizer.wide, optimizer.index]
    assert sum(tensor.nbytes for tensor in held) == trained_bytes(size, optim, dtype)
    assert sum(tensor.nbytes for tensor in optimizer.tensors().values()) == state_bytes(size, optim)


def test_check_counts_each_mode(chat_model: Path, conversations: Path, tmp_path: Path, home: Path) -> None:
    """What `luthier check` says of memory and disk differs between modes by what they hold and save."""
    told = {}
    for optim, dtype in MODES:
        fields = {"optim": optim, "adapter_dtype": dtype, "keep_checkpoints": 1}
        result = check(make_recipe(chat_model, conversations, tmp_path / "run", **fields))
        result.prepared.close()
        number = result.adapter_parameters
        weights = number * DTYPES[dtype].itemsize
        memory = result.memory_bytes - trained_bytes(number, optim, dtype)
        told[optim, dtype] = (memory, result.disk_bytes - 5 * (weights + state_bytes(number, optim)) - weights)
    assert len(set(told.values())) == 1


def test_bytes_a_weight() -> None:
    """The table of the module: of rank 64 on every linear of an 8B model, scratch and scales included."""
    size = 167_772_160
    told = {mode: trained_bytes(size, *mode) / size for mode in MODES}
    plain = {("adamw", "fp32"): 16, ("adamw", "bf16"): 12, ("adamw_8bit", "fp32"): 10, ("adamw_8bit", "bf16"): 6}
    assert all(plain[mode] <= told[mode] < plain[mode] + 0.55 for mode in MODES)
    assert chunk_size(size) * 20 / size < 0.51


@pytest.mark.parametrize(("optim", "dtype"), MODES)
def test_state_put_back_goes_on_bit_for_bit(optim: str, dtype: str) -> None:
    size = MIN_CHUNK + 300
    start = normal(size).to(DTYPES[dtype])

    def steps(adapter: Any, optimizer: Any, numbers: range) -> None:
        for number in numbers:
            adapter.grad.copy_(normal(size, seed=number + 1))
            optimizer.step(1e-2, 0.7)

    straight = flat(start)
    optimizer = optimizer_of(straight, optim)
    steps(straight, optimizer, range(3))
    kept = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    resumed = flat(straight.flat)
    other = optimizer_of(resumed, optim)
    restore(other, kept, 3, where="here")
    steps(straight, optimizer, range(3, 6))
    steps(resumed, other, range(3, 6))
    assert torch.equal(straight.flat, resumed.flat)
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in optimizer.tensors().items())


def test_a_state_of_another_kind_is_refused_and_changes_nothing() -> None:
    plain, short = optimizer_of(flat(normal(600)), "adamw"), optimizer_of(flat(normal(600)), "adamw_8bit")
    before = {name: tensor.clone() for name, tensor in short.tensors().items()}
    with pytest.raises(RunError, match=r"made with optim: adamw, and this run has adamw_8bit\n.*write optim: adamw in"):
        restore(short, plain.tensors(), 1, where="here")
    with pytest.raises(RunError, match=r"made with optim: adamw_8bit, and this run has adamw\n"):
        restore(plain, short.tensors(), 1, where="here")
    with pytest.raises(RunError, match="of another adapter"):
        restore(short, optimizer_of(flat(normal(900)), "adamw_8bit").tensors(), 1, where="here")
    assert all(torch.equal(tensor, short.tensors()[name]) for name, tensor in before.items())
