"""Ops that treat each row by itself, in C on a CPU: one pass over memory where torch makes several.

The softmax of attention, GLU, RMSNorm, RoPE and the log-probabilities of logits are one library, compiled when one of
them is first wanted. Where it cannot be had (no compiler, or a torch without OpenMP) torch does all of it. Rows are
split among torch's own threads, as many as `torch.set_num_threads` allows: torch's OpenMP runtime is handed in as three
addresses, because a library that brings a runtime of its own would have a second pool of threads beside torch's.

Results do not depend on the number of threads: each row is worked on by one.
"""

import ctypes
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from luthier.kernels.native import Missing, compiled, library_folder

HERE = Path(__file__).parent
OPS = ("attention", "glu", "rms_norm", "rope", "selected_logprobs")
SOURCES = (HERE / "rowwise.h", HERE / "rowwise.c", *(HERE / op / "native.c" for op in OPS))
# Neither of the options about numbers changes a result: errno and floating-point traps are what they give up.
OPTIONS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-shared", "-fPIC")
DTYPES = (torch.bfloat16, torch.float32)
GRAIN = 2**15  # numbers that are worth a thread
OPENMP = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


@cache
def loaded() -> ctypes.CDLL | Missing:
    """The library for this processor, from the cache or compiled into it; once a process."""
    return build(library_folder(), shutil.which("cc"))


def build(folder: Path | None, compiler: str | None, options: Sequence[str] = OPTIONS) -> ctypes.CDLL | Missing:
    """The library with torch's threads; the arguments are as in `compiled`."""
    if not torch.backends.openmp.is_available():
        return Missing("this torch has no OpenMP")
    torch_library = ctypes.CDLL(torch._C.__file__)  # loaded long ago; a look-up goes on through what it needs
    if missing := [name for name in OPENMP if not hasattr(torch_library, name)]:
        return Missing(f"torch's OpenMP has no {missing[0]}")
    library = compiled("rowwise", SOURCES, options, folder, compiler)
    if isinstance(library, Missing):
        return library
    pointer, number, flag, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
    takes = {
        "set_threads": [pointer] * 3,
        "glu_forward": [pointer] * 2 + [number] * 2 + [flag] * 2 + [number],
        "glu_backward": [pointer] * 2 + [number] * 2 + [flag] * 2 + [number],
        "rms_norm_forward": [pointer] * 6 + [number] * 2 + [real] + [flag] * 2 + [number],
        "rms_norm_backward": [pointer] * 6 + [number] * 2 + [flag] * 2 + [number],
        "rope_turn": [pointer] * 4 + [number] * 5 + [flag] * 2 + [number],
        "rope_norm_turn": [pointer] * 8 + [number] * 6 + [real] + [flag] * 2 + [number],
        "softmax_rows": [pointer] * 2 + [number] * 3 + [real] + [flag] + [number],
        "logprobs_rows": [pointer] * 3 + [number] * 3 + [real] + [flag] * 2 + [number],
    }
    for name, types in takes.items():
        function = getattr(library, f"luthier_{name}")
        function.argtypes, function.restype = types, flag if name == "logprobs_rows" else None
    library.luthier_set_threads(*(ctypes.cast(getattr(torch_library, name), pointer) for name in OPENMP))
    return library


def library_for(*tensors: Tensor) -> ctypes.CDLL | None:
    """The library where it is there and takes these tensors: on a CPU, contiguous, all bf16 or all float32."""
    dtype = tensors[0].dtype
    if dtype not in DTYPES:
        return None
    for tensor in tensors:
        if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
            return None
    made = loaded()
    return None if isinstance(made, Missing) else made


def threads_for(numbers: int) -> int:
    """How many threads share the work on so many numbers: one or all. For a smaller team libgomp would end the others,
    and torch's next op would have to start them again."""
    return 1 if numbers < 2 * GRAIN else torch.get_num_threads()
