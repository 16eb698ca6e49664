"""Time of each op of luthier.kernels, beside what the card's memory and matrix units reach in the same process.

Bytes are the fewest an op can move: each input read once, each output written once. A backward that overwrites what its
forward kept cannot be repeated alone, so such ops are timed forward and backward together.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from luthier.kernels.attention import attention
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.glu import swiglu
from luthier.kernels.lora_linear import lora_linear
from luthier.kernels.nf4 import NF4Weight, dequantise, quantise
from luthier.kernels.rms_norm import add_rms_norm, rms_norm
from luthier.kernels.rope import rope
from luthier.kernels.segments import Segments
from luthier.kernels.selected_logprobs import selected_logprobs
from luthier.models.measure import matmul_flops, memory_bandwidth

RANK, LABEL_ROWS = 16, 4096
WARMUP, REPEATS = 5, 30
Case = tuple[str, Callable[[], object], float, float]  # op, work, bytes, floating-point operations


def ceilings() -> dict[str, float]:
    """What this GPU reaches: a large copy, bytes read and written, and a large bf16 product."""
    return {"bytes_per_second": memory_bandwidth("cuda"), "flops": matmul_flops(torch.bfloat16, "cuda")}


def cases(shape: dict[str, Any], segments: int, length: int, device: torch.device, dtype: torch.dtype) -> list[Case]:
    """Every op at the sizes of one step of `shape`; labels are LABEL_ROWS at most."""
    d, f, v = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    h, g, k = shape["num_attention_heads"], shape["num_key_value_heads"], shape["head_dim"]
    t, w = segments * length, dtype.itemsize
    generator = torch.Generator(device).manual_seed(0)

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device).to(dtype)

    x, norm = randn(t, d), randn(d)
    qkv, gate_up = randn(t, (h + 2 * g) * k), randn(t, 2 * f)
    leaf = {name: tensor.clone().requires_grad_() for name, tensor in (("x", x), ("qkv", qkv), ("gate_up", gate_up))}
    grads = {"x": randn(t, d), "attended": randn(t, h * k), "mlp": randn(t, f)}
    angles = torch.rand(t, k // 2, generator=generator, device=device)
    cos, sin = angles.cos(), angles.sin()
    spans = Segments.of([length] * segments, device)
    wide = torch.randn(2 * f, d, generator=generator, device=device)
    stored = quantise(wide)
    opened = torch.empty(2 * f, d, dtype=dtype, device=device)
    outs, n = [h * k, g * k, g * k], (h + 2 * g) * k
    base = NF4Weight([quantise(torch.randn(out, d, generator=generator, device=device)) for out in outs], dtype)
    a = torch.randn(3 * RANK, d, device=device, generator=generator).requires_grad_()
    bs = [torch.randn(out, RANK, device=device, generator=generator).requires_grad_() for out in outs]
    starts, dqkv = [0, outs[0], outs[0] + outs[1]], randn(t, n)
    head, rows = DenseWeight(randn(v, d) / d**0.5), min(t, LABEL_ROWS)
    targets = torch.randint(0, v, (rows,), generator=generator, device=device)
    lora_flops = 2 * t * d * n + 2 * t * 3 * RANK * d + 2 * t * RANK * n
    attention_flops = 2 * segments * length**2 * h * k  # two products over the half that is seen

    def both(name: str, make: Callable[[Tensor], Tensor], dy: Tensor) -> Callable[[], object]:
        def work() -> None:
            leaf[name].grad = None
            make(leaf[name]).backward(dy)

        return work

    def lora() -> Tensor:
        return lora_linear(leaf["x"], base, None, a, bs, 2.0, starts)

    def lora_both() -> None:
        leaf["x"].grad = None
        lora().backward(dqkv)

    def quiet(work: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:
            with torch.no_grad():
                work()

        return run

    def losses() -> None:
        leaf["x"].grad = None
        selected_logprobs(leaf["x"][:rows], head, targets).sum().backward()

    eps = 1e-5
    return [
        ("rms_norm forward", quiet(lambda: rms_norm(x, norm, eps)), 2 * t * d * w, 0),
        ("rms_norm forward+backward", both("x", lambda y: rms_norm(y, norm, eps), grads["x"]), 5 * t * d * w, 0),
        ("add_rms_norm forward", quiet(lambda: add_rms_norm(x, grads["x"], norm, eps)), 4 * t * d * w, 0),
        ("rope forward", quiet(lambda: rope(qkv, cos, sin, h + g)), 2 * t * (h + g) * k * w + 4 * t * k, 0),
        ("swiglu forward", quiet(lambda: swiglu(gate_up)), 3 * t * f * w, 0),
        ("swiglu forward+backward", both("gate_up", lambda y: swiglu(y.clone()), grads["mlp"]), 12 * t * f * w, 0),
        ("nf4 dequantise", quiet(lambda: dequantise(stored, opened)), stored.nbytes + opened.nbytes, 0),
        ("lora_linear q|k|v over NF4 forward", quiet(lora), 0, lora_flops),
        ("lora_linear q|k|v over NF4 forward+backward", lora_both, 0, 2 * lora_flops + 2 * t * RANK * (3 * d + n)),
        ("attention forward", quiet(lambda: attention(qkv, spans, h, g)), 0, attention_flops),
        (
            "attention forward+backward",
            both("qkv", lambda y: attention(y, spans, h, g), grads["attended"]),
            0,
            3.5 * attention_flops,
        ),
        ("selected_logprobs forward+backward", losses, 0, 4 * rows * d * v),
    ]


def seconds_of(work: Callable[[], object]) -> float:
    """Median over REPEATS by CUDA events, after WARMUP."""
    times = []
    for number in range(WARMUP + REPEATS):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        work()
        ended.record()
        torch.cuda.synchronize()
        if number >= WARMUP:
            times.append(began.elapsed_time(ended) / 1e3)
    return median(times)


def kernel_rows(shape: dict[str, Any], segments: int, length: int, ceiling: dict[str, float]) -> list[dict[str, Any]]:
    """A row an op: time, bytes or operations a second, share of the ceiling. Without a GPU each runs once, small."""
    gpu = bool(ceiling)
    device, dtype = (torch.device("cuda"), torch.bfloat16) if gpu else (torch.device("cpu"), torch.float32)
    if not gpu:
        from random_checkpoint import SHAPES

        shape, segments, length = SHAPES["tiny"], 2, 32
    rows = []
    for op, work, moved, flops in cases(shape, segments, length, device, dtype):
        if not gpu:
            work()
            rows.append({"op": op, "status": "not measured", "why": "no CUDA device"})
            continue
        seconds = seconds_of(work)
        rate = {"flops": flops / seconds} if flops else {"bytes_per_second": moved / seconds}
        (name, value), *_ = rate.items()
        rows.append({"op": op, "status": "measured", "seconds": seconds, **rate, "share": value / ceiling[name]})
    return rows
