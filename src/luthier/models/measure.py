"""What this machine reaches, measured in about a second: matrix products and memory."""

import time
from collections.abc import Callable

import torch


def _best_seconds(work: Callable[[], object], device: torch.device, seconds: float = 0.3) -> float:
    """The fastest of as many repetitions as fit, after one that is not counted."""
    work()
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def matmul_flops(dtype: torch.dtype, device: torch.device | str = "cpu") -> float:
    """Floating-point operations a second of a product of training size (1024 × 1536 × 576; 4096³ on a GPU)."""
    device = torch.device(device)
    m, k, n = (4096, 4096, 4096) if device.type == "cuda" else (1024, 1536, 576)
    a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
    out = torch.empty(m, n, dtype=dtype, device=device)
    return 2 * m * k * n / _best_seconds(lambda: torch.mm(a, b, out=out), device)


def memory_bandwidth(device: torch.device | str = "cpu") -> float:
    """Bytes a second, read and written, of a copy far larger than the caches."""
    device = torch.device(device)
    source = torch.zeros(2**26, device=device)  # 256 MB
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device)
