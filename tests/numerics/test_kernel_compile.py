"""Triton kernels compile for GPUs that are not here, and read 16 bytes at once where sizes allow it.

The interpreter takes much that a compiler refuses. The compiler and NVIDIA's assembler come with triton and need no
device, but no TRITON_INTERPRET in the environment either, hence another process.
"""

import os
import subprocess
import sys
from pathlib import Path

from helpers_kernels import interpreted

SOURCE = Path(__file__).parents[2] / "src"
SCRIPT = """
import importlib
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SCALARS = {"eps": "fp32", "cap": "fp32"} | dict.fromkeys(["num_queries", "turned", "heads"], "i32")
DIVISIBLE = dict.fromkeys(["size", "half", "stride"], "i32") | {"targets": "*i64"}
DIVISIBLE |= dict.fromkeys(["rstd", "cos", "sin", "logps"], "*fp32")  # other arguments point to bf16
TILE = {"HEADS": 8, "HALF": 64, "REST": 32}
CASES = [
    ("rms_norm", "_forward", 8, {"ADD": True, "PLUS_ONE": False, "BLOCK": 4096}),
    ("rms_norm", "_backward", 8, {"ADD": True, "PLUS_ONE": True, "BLOCK": 4096}),
    ("rope", "_turn", 2, {"BACK": True, "COPY": True, **TILE}),
    ("rope", "_norm_turn", 2, {"PLUS_ONE": True, **TILE}),
    ("rope", "_norm_turn_backward", 2, {"PLUS_ONE": True, **TILE}),
    ("glu", "_forward", 4, {"ACTIVATION": "silu", "BLOCK": 1024}),
    ("glu", "_backward", 4, {"ACTIVATION": "gelu_tanh", "BLOCK": 1024}),
    ("glu", "_backward", 4, {"ACTIVATION": "gelu", "BLOCK": 1024}),
    ("selected_logprobs", "_rows", 8, {"CAPPED": True, "GRADIENT": True, "BLOCK": 4096}),
]
for op, name, warps, constants in CASES:
    function = getattr(importlib.import_module(f"luthier.kernels.{op}.triton"), name)
    signature, divisible = {}, {}
    for place, argument in enumerate(function.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in SCALARS:
            signature[argument] = SCALARS[argument]
        else:
            signature[argument] = DIVISIBLE.get(argument, "*bf16")
            divisible[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature=signature, constexprs=constants, attrs=divisible)
    options = {"num_warps": warps, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert made.asm["cubin"]
    assert ".v4.b32" in made.asm["ptx"], f"{name} {constants} reads few bytes at once"
    assert "st.local" not in made.asm["ptx"], f"{name} {constants} spills"
    print("compiled", name)
"""


@interpreted
def test_kernels_compile_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    """Several seconds, most of them torch's and the compiler's start."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(SOURCE), "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("compiled") == 9
