"""The ops that are in C on a CPU as they come, and the same ops without C."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from helpers_kernels import compare
from helpers_numerics import randn
from luthier.kernels import rowwise
from luthier.kernels.attention import attention
from luthier.kernels.attention import naive as attention_naive
from luthier.kernels.attention import native as softmax
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.glu import geglu, swiglu
from luthier.kernels.glu import naive as glu_naive
from luthier.kernels.glu import native as glu
from luthier.kernels.native import Missing
from luthier.kernels.rms_norm import add_rms_norm, rms_norm
from luthier.kernels.rms_norm import naive as norm_naive
from luthier.kernels.rms_norm import native as norm
from luthier.kernels.rope import naive as rope_naive
from luthier.kernels.rope import native as turning
from luthier.kernels.rope import norm_rope, rope
from luthier.kernels.segments import Segments
from luthier.kernels.selected_logprobs import naive as logprobs_naive
from luthier.kernels.selected_logprobs import native as logprobs
from luthier.kernels.selected_logprobs import selected_logprobs

EPS = 1e-5


@pytest.fixture(params=["C", "torch"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ops as they come, and on a machine without a compiler."""
    if request.param == "torch":
        monkeypatch.setattr(rowwise, "loaded", lambda: Missing("no compiler"))
    elif isinstance(rowwise.loaded(), Missing):
        pytest.skip(f"{rowwise.loaded()}")
    yield


def test_ops_are_the_naive_forms_in_c_and_without(either: None) -> None:
    for rows, size in ((1, 5), (7, 64), (70, 123)):
        x, delta, weight = randn(rows, size), randn(rows, size, seed=2), randn(size, seed=1)
        for plus_one in (False, True):
            more = {"plus_one": plus_one}
            compare(lambda x, w=weight, m=more: rms_norm(x, w.to(x), EPS, **m),
                    lambda x, w=weight, m=more: norm_naive.rms_norm(x, w.to(x), EPS, **m), [x])  # fmt: skip
            compare(lambda x, d, w=weight, m=more: torch.cat(add_rms_norm(x, d, w.to(x), EPS, **m)),
                    lambda x, d, w=weight, m=more: torch.cat(norm_naive.add_rms_norm(x, d, w.to(x), EPS, **m)),
                    [x, delta])  # fmt: skip
        compare(swiglu, glu_naive.swiglu, [randn(rows, 2 * size) * 3])
        compare(
            partial(geglu, approximate=True), partial(glu_naive.geglu, approximate=True), [randn(rows, 2 * size) * 3]
        )
        head, targets = randn(size, 12, seed=1), torch.arange(rows) * 5 % size
        compare(lambda h, w=head, t=targets: selected_logprobs(h, DenseWeight(w.to(h)), t),
                lambda h, w=head, t=targets: logprobs_naive.selected_logprobs(h, DenseWeight(w.to(h)), t),
                [randn(rows, 12)])  # fmt: skip
        angle, norms = randn(rows, 4, seed=3), (randn(8, seed=4), randn(8, seed=5))
        compare(lambda x, a=angle, n=norms: norm_rope(x, a.cos().float(), a.sin().float(), 2, 1,
                                                      *(w.to(x) for w in n), EPS),
                lambda x, a=angle, n=norms: rope_naive.norm_rope(x, a.cos().float().to(x), a.sin().float().to(x), 2, 1,
                                                                 *(w.to(x) for w in n), EPS),
                [randn(rows, 32)])  # fmt: skip
        compare(lambda x, a=angle: rope(x * 1, a.cos().float().to(x), a.sin().float().to(x), 2),
                lambda x, a=angle: rope_naive.rope(x.unflatten(1, (2, 8)), a.cos().float().to(x),
                                                   a.sin().float().to(x)).flatten(1), [randn(rows, 16)])  # fmt: skip


def test_attention_in_c_and_without(either: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for window, most in ((None, 4096), (3, 4096), (None, 2)):  # rows of more than `most` keys go to torch
        monkeypatch.setattr(softmax, "MOST", most)
        segments = Segments.of([2, 300, 1, 40], parents=[None, None, 0, 0])
        compare(lambda x, s=segments, w=window: attention(x, s, 6, 2, w),
                lambda x, s=segments, w=window: attention_naive.attention(x, s, 6, 2, w), [randn(343, 80)])  # fmt: skip


def angles(dtype: torch.dtype = torch.float32, tokens: int = 5, half: int = 4) -> tuple[Tensor, Tensor]:
    angle = randn(tokens, half, seed=3)
    return angle.cos().to(dtype), angle.sin().to(dtype)


# What is called, its input's shape, and what is to be called in C in the forward and in the backward.
IN_C = {
    "swiglu": (swiglu, (5, 16), ["glu.forward"], ["glu.backward"]),
    "geglu": (partial(geglu, approximate=True), (5, 16), ["glu.forward"], ["glu.backward"]),
    "rms_norm": (
        lambda x: rms_norm(x, randn(16, dtype=x.dtype), EPS), (5, 16), ["rms_norm.forward"], ["rms_norm.backward"],
    ),
    "add_rms_norm": (
        lambda x: torch.cat(add_rms_norm(x, x, randn(16, dtype=x.dtype), EPS)), (5, 16),
        ["rms_norm.forward"], ["rms_norm.backward"],
    ),
    "rope": (lambda x: rope(x, *angles(), 2), (5, 24), ["rope.turn"], ["rope.turn"]),
    "norm_rope": (
        lambda x: norm_rope(x, *angles(), 2, 1, *randn(2, 8, dtype=x.dtype), EPS), (5, 32),
        ["rope.norm_turn"], ["rope.norm_turn_backward"],
    ),
    "selected_logprobs": (
        lambda x: selected_logprobs(x, DenseWeight(randn(7, 16, dtype=x.dtype)), torch.arange(5)), (5, 16),
        ["selected_logprobs.rows"], [],  # the forward makes the gradient
    ),
    "attention": (lambda x: attention(x, Segments.of([5]), 2, 1), (5, 32), ["attention.softmax"], []),  # kept
    "long attention": (
        lambda x: attention(x, Segments.of([300]), 2, 1), (300, 32), ["attention.softmax"] * 2, ["attention.softmax"],
    ),
}  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each call of C, by the ops that come."""
    made: list[str] = []

    def watch(module: ModuleType, function: str) -> None:
        real, name = getattr(module, function), f"{module.__name__.split('.')[-2]}.{function}"
        monkeypatch.setattr(module, function, lambda *given, **more: made.append(name) or real(*given, **more))

    for module, functions in {
        glu: ("forward", "backward"), norm: ("forward", "backward"), logprobs: ("rows",), softmax: ("softmax",),
        turning: ("turn", "norm_turn", "norm_turn_backward"),
    }.items():  # fmt: skip
        for function in functions:
            watch(module, function)
    return made


@pytest.mark.parametrize("dtype", rowwise.DTYPES)
@pytest.mark.parametrize("op", list(IN_C))
def test_c_does_it_where_it_is_there(either: None, calls: list[str], op: str, dtype: torch.dtype) -> None:
    call, shape, forward, backward = IN_C[op]
    there = not isinstance(rowwise.loaded(), Missing)
    y = call(randn(*shape, dtype=dtype).requires_grad_() * 1)
    assert calls == (forward if there else [])
    calls.clear()
    y.sum().backward()
    assert calls == (backward if there else [])


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return rope(x.clone(), cos, sin, 2, 8)


def normed(x: Tensor, cos: Tensor, sin: Tensor, q_norm: int = 8, k_norm: int = 8) -> Tensor:
    return norm_rope(x, cos, sin, 2, 1, *(torch.ones(size) for size in (q_norm, k_norm)), EPS)


def logprobs_of(targets: Tensor) -> Tensor:
    return selected_logprobs(randn(3, 8, dtype=torch.float32), DenseWeight(torch.eye(8)), targets)


WRONG = {
    "an odd number to halve": lambda: swiglu(torch.ones(5, 15)),
    "a short weight": lambda: rms_norm(torch.ones(5, 16), torch.ones(15), EPS),
    "a long weight": lambda: rms_norm(torch.ones(5, 16), torch.ones(17), EPS),
    "a short delta": lambda: add_rms_norm(torch.ones(5, 16), torch.ones(4, 16), torch.ones(16), EPS),
    "few angles": lambda: turned(torch.ones(5, 24), *angles(tokens=4)),
    "many angles": lambda: turned(torch.ones(5, 24), *angles(tokens=6)),
    "sines of fewer": lambda: turned(torch.ones(5, 24), angles()[0], angles(tokens=4)[1]),
    "wide angles": lambda: turned(torch.ones(5, 24), *angles(half=5)),
    "fewer heads than turn": lambda: turned(torch.ones(5, 8), *angles()),
    "few angles behind norms": lambda: normed(torch.ones(5, 32), *angles(tokens=4)),
    "many angles behind norms": lambda: normed(torch.ones(5, 32), *angles(tokens=6)),
    "wide angles behind norms": lambda: normed(torch.ones(5, 32), *angles(half=5)),
    "a short norm of q": lambda: normed(torch.ones(5, 32), *angles(), q_norm=7),
    "a short norm of k": lambda: normed(torch.ones(5, 32), *angles(), k_norm=7),
    "heads that are no whole ones": lambda: normed(torch.ones(5, 33), *angles()),
    "a target below": lambda: logprobs_of(torch.tensor([0, 1, -1])),
    "a target above": lambda: logprobs_of(torch.tensor([0, 1, 8])),
    "few targets": lambda: logprobs_of(torch.zeros(3, dtype=torch.int64)[:2]),
    "targets in 16 bits": lambda: logprobs_of(torch.zeros(12, dtype=torch.int16)[:3]),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_wrong_shapes_are_errors(either: None, what: str) -> None:
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        WRONG[what]()


@pytest.mark.parametrize("op", [swiglu, lambda x: rms_norm(x, torch.ones(16), EPS)])
def test_rows_of_rows_are_torchs(either: None, calls: list[str], op: Callable[[Tensor], Tensor]) -> None:
    x = randn(3, 5, 16, dtype=torch.float32)
    assert_close(op(x), op(x.view(15, 16)).view(3, 5, -1))
    assert len(calls) <= 1


def test_angles_that_all_tokens_share_are_torchs(either: None) -> None:
    x, (cos, sin) = randn(5, 24, dtype=torch.float32), angles(tokens=1)
    assert_close(turned(x, cos, sin), turned(x, cos.expand(5, 4), sin.expand(5, 4)))


def test_what_goes_to_torch(either: None) -> None:
    library, x = rowwise.loaded(), randn(4, 8, dtype=torch.float32)
    there = not isinstance(library, Missing)
    assert (rowwise.library_for(x, x.clone()) is library) == there
    for other in (x.half(), x.double(), x.bfloat16(), x[:, ::2], x.T, x.to("meta")):
        assert rowwise.library_for(x, other) is None
    assert rowwise.library_for(x.double()) is None


def test_a_torch_without_openmp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert rowwise.build(tmp_path, None) == Missing("no C compiler (cc) was found")
    monkeypatch.setattr(rowwise, "OPENMP", ("not_there",))
    assert rowwise.build(tmp_path, None) == Missing("torch's OpenMP has no not_there")
    monkeypatch.setattr(torch.backends.openmp, "is_available", lambda: False)
    assert rowwise.build(tmp_path, None) == Missing("this torch has no OpenMP")
