"""Where a run computes and in what: device, dtype, threads, and how freed memory is kept."""

import ctypes
import sys
from dataclasses import dataclass

import torch

from luthier.core.errors import RecipeError
from luthier.core.hardware import cpu
from luthier.kernels import rowwise
from luthier.kernels.native import Missing


@dataclass(frozen=True)
class Place:
    """A device and the dtype that weights and activations have on it; `why` says how they were chosen."""

    device: torch.device
    dtype: torch.dtype
    why: str

    @property
    def dtype_name(self) -> str:
        """ "bf16" or "fp32"."""
        return {torch.bfloat16: "bf16", torch.float32: "fp32"}[self.dtype]


def choose_place(device: str = "auto", dtype: str = "auto") -> Place:
    """The device and dtype for the recipe's `device` and `dtype`.

    auto takes the first GPU when torch sees one, else the CPU; and bf16 where the hardware multiplies it, else fp32.

    Raises:
        RecipeError: cuda was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError("torch sees no CUDA device", where="device: cuda", fix="write device: auto, or cpu")
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        name, fast = torch.cuda.get_device_name(), torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        facts = cpu()
        name, fast = f"{facts.name}, {facts.cores} cores", facts.has_fast_bf16
    if dtype == "auto":
        chosen, reason = (torch.bfloat16, "which multiplies bf16 in hardware") if fast else (
            torch.float32, "which has no fast bf16")  # fmt: skip
    else:
        chosen, reason = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype], "as the recipe asks"
    place = Place(torch.device("cuda" if on_gpu else "cpu"), chosen, "")
    return Place(place.device, place.dtype, f"{place.dtype_name} on {name}, {reason}")


def row_ops_on_cpu() -> str:
    """How this machine's CPU computes norms, gates, RoPE and log-probabilities, in a few words; compiles what does it,
    if that was never done."""
    made = rowwise.loaded()
    return f"by torch, slower than compiled: {made.why}" if isinstance(made, Missing) else "compiled"


def keep_freed_memory() -> None:
    """Let the C library keep freed buffers of this process instead of returning them to the system.

    A training step frees and takes the same large buffers again and again. glibc gives each back to the kernel, which
    then has to clear every page anew: measured on two Zen 4 cores, an RMSNorm of 1024 × 576 took 7.6 ms with the page
    faults and 0.23 ms without. The process's peak is what it was; it only stays there. Without glibc, nothing is done.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
