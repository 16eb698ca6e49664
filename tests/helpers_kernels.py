"""What the proofs of the kernels share: where they run, buffers that show stray writes, and the comparison itself."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers_numerics import assert_same, assert_within_budget, randn

Op = Callable[..., Tensor]
MARGIN = {torch.float32: 1e-6, torch.bfloat16: 1e-3}
FEW = 256  # of so few numbers, the plain form may round all luckily: then one rounding is allowed anyway
ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}

# A Triton kernel runs in the interpreter, on tensors of the CPU, or on a real device.
interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None, reason="needs triton, TRITON_INTERPRET=1"
)
PLACES = [pytest.param("cpu", marks=interpreted), pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = list(ROUNDING)

GUARD, CANARY = 64, 3.0  # numbers before and behind each buffer, and what they must stay


def kernel(op: str) -> ModuleType:
    """The module with the Triton kernels of an op."""
    return import_module(f"luthier.kernels.{op}.triton")


def compare(op: Op, naive: Op, inputs: list[Tensor], *, frozen: int = 0, terms: Op | None = None) -> None:
    """Output and gradients of `op` against `naive`; the last `frozen` inputs get none.

    In float64 they must agree to 1e-10; in float32 and bf16 the op must stay within the naive form's error budget.

    Args:
        terms: of an op that only multiplies and adds, the naive form with its constants' magnitudes. From the inputs'
            magnitudes it makes, for each result, the sum of its terms' magnitudes. That is what rounding errors are a
            share of, and so the floor: of one number that is left of a sum in which all cancels, they are any share.
    """

    def run(f: Op, dtype: torch.dtype, *, magnitudes: bool = False) -> list[Tensor]:
        def sized(x: Tensor) -> Tensor:
            return x.detach().abs() if magnitudes else x.detach().clone()

        taken = [sized(x).to(dtype) for x in inputs]
        free = taken[: len(taken) - frozen]
        for x in free:
            x.requires_grad_()
        y = f(*taken)
        y.backward(sized(randn(*y.shape, seed=99)).to(y.dtype))
        return [y.detach(), *[x.grad for x in free]]

    truth = run(naive, torch.float64)
    sums = truth if terms is None else run(terms, torch.float64, magnitudes=True)
    for ours, true in zip(run(op, torch.float64), truth, strict=True):
        assert_same(ours, true, tolerance=1e-10)
    for dtype, margin in MARGIN.items():
        made = zip(run(op, dtype), run(naive, dtype), truth, sums, strict=True)
        for i, (ours, plain, true, whole) in enumerate(made):
            floor = margin if true.numel() > FEW else ROUNDING[dtype]
            if terms is not None:
                floor *= (whole.max() / true.abs().max().clamp(min=1e-30)).item()
            assert_within_budget(ours, plain, true, margin=floor, what=f"{dtype} tensor {i}")


class Buffers:
    """Stands in for `torch` in a module: what it allocates lies between canaries, full of NaN until it is written."""

    def __init__(self) -> None:
        self.made: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, *shape: int | Sequence[int], dtype: torch.dtype | None = None, device: object = None) -> Tensor:
        """As `torch.empty`."""
        size = torch.Size(chain.from_iterable([part] if isinstance(part, int) else part for part in shape))
        whole = torch.empty(size.numel() + 2 * GUARD, dtype=dtype, device=device)
        whole.fill_(CANARY)
        whole[GUARD : GUARD + size.numel()] = float("nan")
        self.made.append(whole)
        return whole[GUARD : GUARD + size.numel()].view(size)

    def empty_like(self, x: Tensor) -> Tensor:
        """As `torch.empty_like`."""
        return self.empty(x.shape, dtype=x.dtype, device=x.device)

    def copy(self, x: Tensor) -> Tensor:
        """x in a buffer of its own, for a kernel that writes over it."""
        return self.empty_like(x).copy_(x)

    def check(self) -> None:
        """Nothing was written beside a buffer, and nothing of it was left out."""
        for whole in self.made:
            inner = whole[GUARD : len(whole) - GUARD]
            assert (whole[:GUARD] == CANARY).all(), "written before the buffer"
            assert (whole[len(whole) - GUARD :] == CANARY).all(), "written behind the buffer"
            assert not inner.isnan().any(), f"{int(inner.isnan().sum())} of {len(inner)} numbers were not written"


@contextmanager
def guarded(launcher: ModuleType) -> Iterator[Buffers]:
    """What the launcher allocates inside is checked at the end."""
    buffers = Buffers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "torch", buffers, raising=False)
        yield buffers
    buffers.check()


def results(naive: Callable[..., Tensor | tuple[Tensor, ...]], inputs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
    """What `naive` makes of the inputs, then the gradient of each input."""
    free = [x.detach().clone().requires_grad_() for x in inputs]
    made = naive(*free)
    made = (made,) if isinstance(made, Tensor) else made
    grads = torch.autograd.grad(made, free, [dy.to(y) for y, dy in zip(made, dys, strict=True)])
    return [*(y.detach() for y in made), *grads]


def prove_kernel(
    launcher: ModuleType,
    launch: Callable[[Buffers, list[Tensor], list[Tensor]], list[Tensor]],
    naive: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: list[Tensor],
    dys: list[Tensor],
    *,
    place: str,
    dtype: torch.dtype,
    what: str = "",
) -> None:
    """A kernel's results and gradients: error, stray writes, holes, and the same bits twice.

    Args:
        launcher: the module that has the kernel.
        launch: (buffers, inputs, dys) → results, then the gradient of each input.
        naive: the truth, called with float64, and the plain form, called with `dtype`; anything else that it takes must
            follow its input's dtype and device.
        inputs, dys: float64, on the CPU; rounded to `dtype` first, so that only what the kernel does counts.
    """
    inputs, dys = [x.to(dtype).double() for x in inputs], [dy.to(dtype).double() for dy in dys]
    narrow, narrow_dys = [x.to(place, dtype) for x in inputs], [dy.to(place, dtype) for dy in dys]
    before = [x.clone() for x in (*narrow, *narrow_dys)]
    made = []
    for _ in range(2):
        with guarded(launcher) as buffers:
            made.append(launch(buffers, narrow, narrow_dys))
    for first, again in zip(*made, strict=True):
        assert torch.equal(first, again), f"{what}: other bits the second time"
    assert all(map(torch.equal, (*narrow, *narrow_dys), before)), f"{what}: an input was written over"
    floor = ROUNDING[dtype]
    if place == "cpu" and dtype == torch.bfloat16:
        floor *= 2  # the interpreter cuts off where a device rounds
    truth, plain = results(naive, inputs, dys), results(naive, narrow, narrow_dys)
    within(made[0], plain, truth, floor, f"{what} {dtype}")


def within(made: list[Tensor], plain: list[Tensor], truth: list[Tensor], floor: float, what: str) -> None:
    """Each result has the plain form's shape and dtype, and keeps to its error budget."""
    for i, (ours, rough, true) in enumerate(zip(made, plain, truth, strict=True)):
        assert ours.shape == true.shape and ours.dtype == rough.dtype
        if true.numel():
            # Numbers are about 1 here; a result that is nearly 0 is a difference of such, and its error is theirs.
            margin = floor * max(1.0, 1 / max(true.abs().max().item(), 1e-30))
            assert_within_budget(ours.cpu(), rough.cpu(), true, margin=margin, what=f"{what} tensor {i}")


def prove_op(
    op: Callable[..., Tensor | tuple[Tensor, ...]],
    naive: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: list[Tensor],
    *,
    place: str,
    dtype: torch.dtype,
    what: str,
) -> None:
    """An op's results and gradients through autograd on a device, against float64; and the same bits twice.

    Args:
        inputs: float64, on the CPU; rounded to `dtype` first. What else the op takes must follow them.
    """
    inputs = [x.to(dtype).double() for x in inputs]
    shapes = naive(*inputs)
    shapes = [shapes] if isinstance(shapes, Tensor) else shapes
    dys = [randn(*y.shape, seed=40 + i).to(dtype).double() for i, y in enumerate(shapes)]
    narrow, narrow_dys = [x.to(place, dtype) for x in inputs], [dy.to(place, dtype) for dy in dys]
    made = [results(op, narrow, narrow_dys) for _ in range(2)]
    for first, again in zip(*made, strict=True):
        assert torch.equal(first, again), f"{what}: other bits the second time"
    truth, plain = results(naive, inputs, dys), results(naive, narrow, narrow_dys)
    within(made[0], plain, truth, ROUNDING[dtype], f"{what} {dtype} on {place}")
