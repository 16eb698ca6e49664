"""NF4 on a CPU in C: compiled when it is first wanted, where there is a compiler. Where not, torch does the same.

torch picks numbers from a table one at a time; `native.c` picks sixteen with one instruction, from a register. On two
Zen 4 cores SmolLM2-135M in 4 bits answers at 42 tokens/s (benchmarks/results/generate.json); by torch it was 6. A call
runs on the caller's thread alone, with no OpenMP of its own beside torch's; splitting it among Python's threads made
that model no faster.
"""

import ctypes
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from luthier.kernels.native import Missing as Missing
from luthier.kernels.native import compiled, library_folder
from luthier.kernels.nf4.tables import dynamic_values, nf4_values

if TYPE_CHECKING:
    from luthier.kernels.nf4.op import NF4

SOURCE = Path(__file__).with_name("native.c")
OPTIONS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")
CHUNK, NESTED_BLOCK = 64, 256  # as in native.c
LINE = 2**14  # numbers that a contiguous tensor is unpacked at a time
DTYPES = (torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class Native:
    """The library, and how many numbers it handles at once: 16 (AVX-512) or 8 (AVX2)."""

    library: ctypes.CDLL
    lanes: int


class Part(ctypes.Structure):
    """As in native.c; the tensors it points into must live as long as it."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("nested", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("dynamic", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("shift", ctypes.c_int32),
        ("offset", ctypes.c_float),
    )


@cache
def loaded() -> Native | Missing:
    """The library for this processor, from the cache or compiled into it; once a process."""
    return build(library_folder(), shutil.which("cc"))


def build(
    folder: Path | None, compiler: str | None, options: Sequence[str] = OPTIONS, source: Path = SOURCE
) -> Native | Missing:
    """The library of `source`; folder, compiler and options are as in `compiled`."""
    library = compiled("nf4", [source], options, folder, compiler)
    if isinstance(library, Missing):
        return library
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.luthier_nf4_multiply.argtypes = [pointer] * 4 + [number] * 5 + [ctypes.c_int]
    library.luthier_nf4_multiply.restype = ctypes.c_int
    library.luthier_nf4_unpack.argtypes = [pointer] * 2 + [number] * 5 + [ctypes.c_int]
    library.luthier_nf4_unpack.restype = None
    return Native(library, library.luthier_nf4_lanes())


def suits(stored: "NF4", dtype: torch.dtype) -> bool:
    """Whether C reads this layout, gives this dtype, and stays within the tensors; torch does what it does not."""
    numbers, block, nested = stored.shape.numel(), stored.block, stored.nested
    if dtype not in DTYPES or numbers == 0 or block < CHUNK or block & (block - 1):
        return False
    blocks = -(-numbers // block)
    wanted = [(stored.codes, torch.uint8, -(-numbers // 2))]
    if nested is None:
        wanted.append((stored.scales, torch.float32, blocks))
    else:
        wanted += [(stored.scales, torch.uint8, blocks), (nested, torch.float32, -(-blocks // NESTED_BLOCK))]
    return all(
        tensor.device.type == "cpu" and tensor.dtype == kind and tensor.is_contiguous() and tensor.numel() >= length
        for tensor, kind, length in wanted
    )


def described(parts: Sequence["NF4"]) -> "ctypes.Array[Part]":
    """What C is told of parts that `suits`; as long as it is used, keep them."""
    here = torch.device("cpu")
    values, dynamic = nf4_values(here).data_ptr(), dynamic_values(here).data_ptr()
    return (Part * len(parts))(
        *(
            Part(
                part.codes.data_ptr(), part.scales.data_ptr(), None if part.nested is None else part.nested.data_ptr(),
                values, dynamic, part.shape[0], (part.block // CHUNK).bit_length() - 1, part.offset.item(),
            )
            for part in parts
        )
    )  # fmt: skip


def multiply(made: Native, x: Tensor, parts: "ctypes.Array[Part]", bias: Tensor | None, out: Tensor) -> None:
    """x Wᵀ + bias into `out` (T, N) for x (T, M) and W (N, M) the parts on top of each other, their rows whole blocks.

    x, bias and out are of one dtype, bf16 or float32, and W is rounded to it; sums are in float32. A row's results are
    the same bits whatever else is in x.

    Raises:
        MemoryError: there is no room for x in float32.
    """
    x, (tokens, outs), columns = x.contiguous(), out.shape, x.shape[1]
    bias = None if bias is None else bias.contiguous()
    failed = made.library.luthier_nf4_multiply(
        parts, x.data_ptr(), None if bias is None else bias.data_ptr(), out.data_ptr(),
        tokens, columns, outs, 0, outs, x.dtype == torch.bfloat16,
    )  # fmt: skip
    if failed:
        raise MemoryError(f"no memory for {tokens} x {columns} numbers")


def unpack(made: Native, stored: "NF4", out: Tensor) -> bool:
    """Unpack what `suits` into `out` of stored.shape; False, with nothing done, where its rows lie in another way."""
    numbers, parts = stored.shape.numel(), described([stored])
    if out.is_contiguous():
        columns = apart = LINE
    elif out.dim() == 2 and out.stride(1) == 1 and out.shape[1] % CHUNK == 0:
        columns, apart = out.shape[1], out.stride(0)
    else:
        return False
    lines = -(-numbers // columns)
    made.library.luthier_nf4_unpack(
        parts, out.data_ptr(), numbers, columns, apart, 0, lines, out.dtype == torch.bfloat16
    )
    return True
