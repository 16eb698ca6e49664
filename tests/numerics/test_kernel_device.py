"""The ops as the decoder calls them, on every device: there they take their Triton kernels, and autograd follows.

Shapes are those of models, so that whole blocks and several programs a row are met. The CPU cases prove the tests.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from helpers_kernels import prove_op
from helpers_numerics import randn
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.glu import geglu, swiglu
from luthier.kernels.glu.naive import geglu as geglu_naive
from luthier.kernels.glu.naive import swiglu as swiglu_naive
from luthier.kernels.rms_norm import add_rms_norm, rms_norm
from luthier.kernels.rms_norm.naive import add_rms_norm as add_naive
from luthier.kernels.rms_norm.naive import rms_norm as rms_naive
from luthier.kernels.rope import norm_rope, rope
from luthier.kernels.rope.naive import norm_rope as norm_rope_naive
from luthier.kernels.rope.naive import rope as rope_naive
from luthier.kernels.selected_logprobs import selected_logprobs
from luthier.kernels.selected_logprobs.naive import selected_logprobs as logprobs_naive

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
T, D, H, G, K, F, V = 37, 576, 9, 3, 64, 1536, 5000
EPS = 1e-5
Form = Callable[..., Tensor | tuple[Tensor, ...]]


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The naive RoPE on packed rows."""
    parts = x.unflatten(1, (-1, K))
    return torch.cat([rope_naive(parts[:, : H + G], cos, sin), parts[:, H + G :]], 1).flatten(1)


def case(name: str) -> tuple[Form, Form, list[Tensor]]:
    """An op, its naive form, and inputs; what is frozen follows the first input's dtype and device."""
    weight, head_weights = randn(D, seed=1), [randn(K, seed=2), randn(K, seed=3)]
    half = K // 4 if "part" in name else K // 2
    angle = randn(T, half, seed=4)
    cos, sin = angle.cos().float(), angle.sin().float()
    targets, head = torch.arange(T) * 131 % V, randn(V, D, seed=5) / 8
    plus_one, cap = "gemma" in name, 30.0 if "capped" in name else None
    qkv, gate_up = randn(T, (H + 2 * G) * K), randn(T, 2 * F)
    if name.startswith("norm and sum"):
        return (
            lambda x, d: add_rms_norm(x, d, weight.to(x), EPS, plus_one=plus_one),
            lambda x, d: add_naive(x, d, weight.to(x), EPS, plus_one=plus_one),
            [randn(T, D), randn(T, D, seed=6)],
        )
    if name.startswith("norm"):
        ours, naive = (partial(f, eps=EPS, plus_one=plus_one) for f in (rms_norm, rms_naive))
        return lambda x: ours(x, weight.to(x)), lambda x: naive(x, weight.to(x)), [randn(T, D)]
    if name.startswith("heads"):

        def with_norms(f: Form) -> Form:
            return lambda x: f(x, cos.to(x), sin.to(x), H, G, *(w.to(x) for w in head_weights), EPS, plus_one=plus_one)

        return with_norms(norm_rope), with_norms(norm_rope_naive), [qkv]
    if name.startswith("rope"):
        return (
            lambda x: rope(x * 1, cos.to(x.device), sin.to(x.device), H + G, K),
            lambda x: turned(x, cos.to(x), sin.to(x)),
            [qkv],
        )
    if name == "swiglu":
        return lambda x: swiglu(x * 1), swiglu_naive, [gate_up]
    if name.startswith("geglu"):
        ours, naive = (partial(f, approximate="tanh" in name) for f in (geglu, geglu_naive))
        return lambda x: ours(x * 1), naive, [gate_up]

    def with_head(f: Form) -> Form:
        return lambda x: f(x, DenseWeight(head.to(x)), targets.to(x.device), cap)

    return with_head(selected_logprobs), with_head(logprobs_naive), [randn(T, D)]


CASES = [
    "norm", "norm gemma", "norm and sum", "norm and sum gemma", "rope", "rope part", "heads", "heads gemma part",
    "swiglu", "geglu", "geglu tanh", "logprobs", "logprobs capped",
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_op_on(device: str, dtype: torch.dtype, name: str) -> None:
    op, naive, inputs = case(name)
    prove_op(op, naive, inputs, place=device, dtype=dtype, what=name)
