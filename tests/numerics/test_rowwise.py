"""What is in C on a CPU, for each kind of vectors, against the naive forms."""

import ctypes
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers_kernels import ROUNDING, Buffers, prove_kernel
from helpers_numerics import assert_within_budget, randn
from luthier.kernels import rowwise
from luthier.kernels.attention import native as softmax
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.glu import naive as glu_naive
from luthier.kernels.glu import native as glu
from luthier.kernels.native import Missing
from luthier.kernels.rms_norm import naive as norm_naive
from luthier.kernels.rms_norm import native as norm
from luthier.kernels.rope import naive as rope_naive
from luthier.kernels.rope import native as turning
from luthier.kernels.selected_logprobs import naive as logprobs_naive
from luthier.kernels.selected_logprobs import native as logprobs

FORMS = {"of this processor": (), "AVX2": ("-mno-avx512f",), "plain": ("-fno-tree-vectorize", "-fno-openmp-simd")}
DTYPES = st.sampled_from(rowwise.DTYPES)
SIZES = st.sampled_from([1, 2, 7, 16, 31, 64, 123, 1031])  # whole vectors and what is left of them
PLACE = "cpu:0"  # "cpu" stands for Triton's interpreter, which is granted more
EPS = 1e-5
ACTIVATIONS = {"silu": glu_naive.swiglu, "gelu_tanh": partial(glu_naive.geglu, approximate=True)}


@pytest.fixture(scope="module", params=list(FORMS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library in one of its forms."""
    options = (*rowwise.OPTIONS, *FORMS[request.param])
    built = rowwise.build(tmp_path_factory.mktemp("native"), shutil.which("cc"), options)
    if isinstance(built, Missing):
        pytest.skip(f"no {request.param} here: {built}")
    return built


def prove(module: ModuleType, launch: Callable[..., list[Tensor]], truth: Callable[..., object], inputs: list[Tensor],
          dys: list[Tensor], dtype: torch.dtype, what: str = "") -> None:  # fmt: skip
    prove_kernel(module, launch, truth, inputs, dys, place=PLACE, dtype=dtype, what=what)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 3), size=SIZES, spread=st.sampled_from([1.0, 30.0]), name=st.sampled_from(list(ACTIVATIONS)),
       dtype=DTYPES)  # fmt: skip
def test_glu(made: ctypes.CDLL, rows: int, size: int, spread: float, name: str, dtype: torch.dtype) -> None:
    def launch(buffers: Buffers, inputs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
        packed = buffers.copy(inputs[0])
        h = glu.forward(made, packed, name)
        glu.backward(made, dys[0], packed, name)
        return [h, packed]

    prove(glu, launch, ACTIVATIONS[name], [randn(rows, 2 * size) * spread], [randn(rows, size, seed=9)], dtype, name)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 3), size=SIZES, plus_one=st.booleans(), add=st.booleans(), dtype=DTYPES)
def test_norms(made: ctypes.CDLL, rows: int, size: int, plus_one: bool, add: bool, dtype: torch.dtype) -> None:
    weight = randn(size, seed=1).to(dtype).double()

    def launch(buffers: Buffers, inputs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
        x, w = inputs[0], weight.to(dtype)
        total, normed, rstd = norm.forward(made, x, inputs[1] if add else None, w, EPS, plus_one)
        dx = norm.backward(made, dys[-1], dys[0] if add else None, total, w, rstd, plus_one)
        return [total, normed, dx, dx] if add else [normed, dx]

    def truth(x: Tensor, delta: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        w = weight.to(x)
        if delta is None:
            return norm_naive.rms_norm(x, w, EPS, plus_one=plus_one)
        return norm_naive.add_rms_norm(x, delta, w, EPS, plus_one=plus_one)

    inputs = [randn(rows, size), randn(rows, size, seed=2)][: 1 + add]
    dys = [randn(rows, size, seed=3), randn(rows, size, seed=4)][: 1 + add]
    prove(norm, launch, truth, inputs, dys, dtype)


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(0, 3), dtype=DTYPES,
    shape=st.sampled_from([(4, 3, 8, 8), (2, 1, 2, 2), (6, 2, 12, 8), (4, 2, 10, 2), (3, 3, 6, 0), (5, 4, 128, 128)]),
)  # fmt: skip
def test_rope(made: ctypes.CDLL, tokens: int, dtype: torch.dtype, shape: tuple[int, int, int, int]) -> None:
    """Heads, those that turn, K and R; forward in place, backward into a new tensor."""
    heads, turned, size, both = shape
    angle = randn(tokens, both // 2, seed=3)
    cos, sin = angle.cos().float(), angle.sin().float()

    def launch(buffers: Buffers, inputs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
        x, dx = buffers.copy(inputs[0]), buffers.empty_like(dys[0])
        turning.turn(made, x, x, cos, sin, turned, size, back=False)
        turning.turn(made, dys[0], dx, cos, sin, turned, size, back=True)
        return [x, dx]

    def truth(x: Tensor) -> Tensor:
        parts = x.unflatten(1, (heads, size))
        first = rope_naive.rope(parts[:, :turned], cos.to(x), sin.to(x))
        return torch.cat([first, parts[:, turned:]], 1).flatten(1)

    width = heads * size
    prove(turning, launch, truth, [randn(tokens, width)], [randn(tokens, width, seed=9)], dtype)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 3), size=SIZES, spread=st.sampled_from([1.0, 40.0]), apart=st.integers(0, 3), dtype=DTYPES,
       softcap=st.sampled_from([None, 2.0, 30.0]))  # fmt: skip
def test_logprobs(made: ctypes.CDLL, rows: int, size: int, spread: float, apart: int, dtype: torch.dtype,
                  softcap: float | None) -> None:  # fmt: skip
    targets = torch.arange(rows) * 5 % size

    def launch(buffers: Buffers, inputs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
        grid = torch.full((rows, size + apart), 3.0, dtype=dtype)
        logits = grid[:, :size].copy_(inputs[0])
        logps, again = (buffers.empty(rows, dtype=torch.float32) for _ in range(2))
        logprobs.rows(made, logits, targets, again, softcap, False)
        assert torch.equal(logits, inputs[0]), "without a gradient the logits stay"
        logprobs.rows(made, logits, targets, logps, softcap, True)
        assert torch.equal(logps, again) and (grid[:, size:] == 3).all()
        return [logps, logits.contiguous()]

    def truth(logits: Tensor) -> Tensor:
        return logprobs_naive.selected_logprobs(logits, DenseWeight(torch.eye(size).to(logits)), targets, softcap)

    dys = [-torch.ones(rows, dtype=torch.float64)]
    prove(logprobs, launch, truth, [randn(rows, size) * spread], dys, dtype, f"cap {softcap}")


@settings(max_examples=60, deadline=None)
@given(lines=st.integers(1, 40), before=st.integers(0, 90), batch=st.integers(0, 2),
       spread=st.sampled_from([1.0, 90.0]), window=st.sampled_from([None, 1, 3, 35]), dtype=DTYPES)  # fmt: skip
def test_softmax(made: ctypes.CDLL, lines: int, before: int, batch: int, spread: float, window: int | None,
                 dtype: torch.dtype) -> None:  # fmt: skip
    """Between canaries; what is not seen is NaN before and 0 afterwards."""
    keys, behind = before + lines, torch.arange(before, before + lines) + 1
    spans = torch.stack([(behind - (window or keys)).clamp(min=0), behind], 1)
    place = torch.arange(keys)
    hidden = (place < spans[:, :1]) | (place >= spans[:, 1:])
    scores, buffers = (randn(batch, lines, keys) * spread).to(dtype), Buffers()
    ours = buffers.copy(scores.masked_fill(hidden, float("nan")))
    softmax.softmax(made, ours, spans, 0.125)
    buffers.check()
    assert not ours[:, hidden].any()
    if batch:
        truth = (scores.double() * 0.125).masked_fill(hidden, float("-inf")).softmax(-1)
        plain = (scores * 0.125).masked_fill(hidden, float("-inf")).softmax(-1)
        assert_within_budget(ours, plain, truth, margin=ROUNDING[dtype], what=f"{dtype}")


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(0, 3), dtype=DTYPES, plus_one=st.booleans(),
    shape=st.sampled_from([(2, 1, 8, 8), (1, 1, 2, 2), (3, 1, 12, 8), (4, 2, 10, 2), (3, 3, 6, 0), (3, 1, 128, 128)]),
)  # fmt: skip
def test_rope_with_norms(made: ctypes.CDLL, tokens: int, dtype: torch.dtype, plus_one: bool,
                         shape: tuple[int, int, int, int]) -> None:  # fmt: skip
    """H, G, K and R."""
    h, g, size, both = shape
    angle = randn(tokens, both // 2, seed=3)
    q_norm, k_norm = (randn(size, seed=seed).to(dtype).double() for seed in (4, 5))

    def given(x: Tensor) -> tuple[Tensor, ...]:
        angles = (angle.cos().float(), angle.sin().float())
        return *(a.to(torch.promote_types(x.dtype, torch.float32)) for a in angles), q_norm.to(x), k_norm.to(x)

    def launch(buffers: Buffers, inputs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
        x = inputs[0]
        out, rstd = turning.norm_turn(made, x, *given(x), (h, g), EPS, plus_one)
        return [out, turning.norm_turn_backward(made, dys[0], x, rstd, *given(x), (h, g), plus_one)]

    def truth(x: Tensor) -> Tensor:
        cos, sin, q, k = given(x)
        return rope_naive.norm_rope(x, cos.to(x), sin.to(x), h, g, q, k, EPS, plus_one=plus_one)

    width = (h + 2 * g) * size
    prove(turning, launch, truth, [randn(tokens, width)], [randn(tokens, width, seed=9)], dtype)


def test_a_target_that_is_no_token(made: ctypes.CDLL) -> None:
    for target in (-1, 7):
        logits, out = randn(2, 7, dtype=torch.float32), torch.zeros(2)
        before = logits.clone()
        with pytest.raises(IndexError, match="one of 7 tokens"):
            logprobs.rows(made, logits, torch.tensor([0, target]), out, None, True)
        assert torch.equal(logits, before) and not out.any()


def test_the_logistic_function_to_the_last_bits(made: ctypes.CDLL) -> None:
    gate = torch.cat([torch.linspace(-86, 88, 100_001), torch.logspace(-30, 0, 999), -torch.logspace(-30, 0, 999)])
    ours = glu.forward(made, torch.stack([gate, torch.ones_like(gate)]).flatten()[None], "silu")[0].double()
    truth = gate.double() * torch.sigmoid(gate.double())
    assert ((ours - truth) / truth).abs().max() <= 3 * 2**-23  # 2 of σ, 1 of the product


@pytest.mark.parametrize("dtype", rowwise.DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38, -3e38])
def test_what_is_no_number_stays_none(made: ctypes.CDLL, dtype: torch.dtype, value: float) -> None:
    """At each place of a vector, and beside it: finite and not are where torch has them."""

    def alike(ours: Tensor, plain: Tensor) -> None:
        assert torch.equal(ours.isnan(), plain.isnan()) and torch.equal(ours.isinf(), plain.isinf())

    for place in (0, 17, 70):
        x, delta, weight = (randn(3, 74, seed=seed, dtype=dtype) for seed in range(3))
        x[1, place] = value
        packed = torch.cat([x, delta], 1)
        alike(glu.forward(made, packed, "silu"), glu_naive.swiglu(packed))
        ours, plain = norm.forward(made, x, delta, weight[0], EPS, False), (
            norm_naive.add_rms_norm(x, delta, weight[0], EPS))  # fmt: skip
        alike(ours[0], plain[0])
        if value != value:
            assert ours[1][1].isnan().all() and ours[1][::2].isfinite().all()
            packed = torch.cat([x, delta], 1)
            glu.backward(made, delta, packed, "silu")
            assert packed.isnan().nonzero().tolist() == [[1, place], [1, 74 + place]]
        out, logits = torch.empty(3), x.clone()
        logprobs.rows(made, logits, torch.tensor([0, 1, 2]), out, None, True)
        plain = torch.log_softmax(x.float(), 1)
        alike(out, plain[[0, 1, 2], [0, 1, 2]])
        alike(logits, torch.softmax(x.float(), 1).to(dtype))


def test_sums_have_the_bits_of_torch(made: ctypes.CDLL) -> None:
    """Half of these lie between two numbers of bf16; and every NaN that bf16 has stays one."""
    x = randn(64, 999, dtype=torch.bfloat16)
    delta = torch.where(randn(64, 999, seed=1) > 0, x * 2**-8, randn(64, 999, seed=2) * 0.1).bfloat16()
    total, _, _ = norm.forward(made, x, delta, delta[0], EPS, False)
    assert torch.equal(total, x + delta)
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).view(64, 1024)
    total, _, _ = norm.forward(made, bits, torch.zeros_like(bits), bits[0], EPS, False)
    assert torch.equal(total.isnan(), bits.isnan()) and torch.equal(total.isinf(), bits.isinf())


def test_more_threads_are_torchs_own_and_change_no_bit(made: ctypes.CDLL) -> None:
    threads, packed = torch.get_num_threads(), randn(200, 2 * 700, dtype=torch.bfloat16)
    tasks = Path("/proc/self/task")
    try:
        results, numbers = [], []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            assert rowwise.threads_for(200 * 700) == number
            packed.add(1)  # torch's own threads are there now
            before = len(list(tasks.iterdir())) if tasks.is_dir() else 0
            results.append(glu.forward(made, packed, "silu"))
            numbers.append((len(list(tasks.iterdir())) if tasks.is_dir() else 0) - before)
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
        assert max(numbers) <= 0, "threads beside torch's"  # fewer: one of before had not ended yet
    finally:
        torch.set_num_threads(threads)
    assert rowwise.threads_for(100) == 1


@pytest.mark.parametrize("rows", [1, 2, 200])
def test_all_of_torchs_threads_get_their_rows(made: ctypes.CDLL, rows: int) -> None:
    """Or none: for a smaller team than torch's own, libgomp would end threads and start them again."""
    torch_library, threads = ctypes.CDLL(torch._C.__file__), torch.get_num_threads()
    real = [getattr(torch_library, name) for name in rowwise.OPENMP]
    pointer, number = ctypes.c_void_p, ctypes.c_uint
    real[0].argtypes, real[0].restype = [pointer, pointer, number, number], None
    teams, seen = [], set()

    @ctypes.CFUNCTYPE(None, pointer, pointer, number, number)
    def parallel(work: int, data: int, asked: int, flags: int) -> None:
        teams.append(asked)
        real[0](work, data, asked, flags)

    @ctypes.CFUNCTYPE(ctypes.c_int)
    def thread_number() -> int:
        seen.add(real[1]())
        return real[1]()

    packed = randn(rows, 2 * 2 * rowwise.GRAIN // min(rows, 2), dtype=torch.float32)
    expected = glu.forward(made, packed, "silu")
    try:
        torch.set_num_threads(3)
        made.luthier_set_threads(*(ctypes.cast(function, pointer) for function in (parallel, thread_number, real[2])))
        assert torch.equal(glu.forward(made, packed, "silu"), expected)
    finally:
        made.luthier_set_threads(*(ctypes.cast(function, pointer) for function in real))
        torch.set_num_threads(threads)
    assert teams == [3] and seen == {0, 1, 2}
    if (maps := Path("/proc/self/maps")).is_file():
        files = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line or "libomp" in line}
        assert len([file for file in files if "/torch/" in file]) <= 1
