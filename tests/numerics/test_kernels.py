"""Each op against its naive form: derivatives in float64, and an error budget in float32 and bf16."""

import pytest
import torch
from torch import Tensor

from helpers_kernels import Op, compare
from helpers_numerics import assert_same, randn
from luthier.kernels.attention import attention
from luthier.kernels.attention.naive import attention as attention_naive
from luthier.kernels.attention.products import product_attention
from luthier.kernels.frozen_linear import DenseWeight, FrozenWeight, PackedWeight, can_pack, frozen_linear
from luthier.kernels.frozen_linear.naive import frozen_linear as frozen_linear_naive
from luthier.kernels.lora_linear import lora_linear
from luthier.kernels.lora_linear.naive import lora_linear as lora_linear_naive
from luthier.kernels.segments import Segments
from luthier.kernels.selected_logprobs import selected_logprobs


def test_frozen_linear_gives_x_a_gradient() -> None:
    weight, bias = randn(9, 24, seed=1), randn(9, seed=2)

    def with_(f: Op) -> Op:
        return lambda x: f(x, DenseWeight(weight.to(x.dtype)), bias.to(x.dtype))

    compare(with_(frozen_linear), with_(frozen_linear_naive), [randn(13, 24)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keep_backward", [True, False])
@pytest.mark.parametrize(("rows", "n", "m"), [(0, 8, 24), (1, 8, 24), (13, 33, 75), (130, 48, 16)])
def test_packed_weights_multiply_as_dense_ones(
    rows: int, n: int, m: int, keep_backward: bool, dtype: torch.dtype
) -> None:
    if not can_pack(dtype, torch.device("cpu")):
        pytest.skip("oneDNN has no packed weights of this dtype here")
    weight, bias, x = randn(n, m, seed=1, dtype=dtype), randn(n, seed=2, dtype=dtype), randn(rows, m, dtype=dtype)
    packed = PackedWeight(weight, keep_backward=keep_backward)
    dy = randn(rows, 2 * n, seed=3, dtype=dtype)[:, ::2]  # not contiguous, as a slice of a merged gradient
    assert torch.equal(packed.dense(), weight)

    def run(held: FrozenWeight) -> list[Tensor]:
        return [held.forward(x, bias), held.forward(x, None), held.backward(dy), held.backward(dy)]

    for ours, plain in zip(run(packed), run(DenseWeight(weight)), strict=True):
        assert ours.dtype == dtype and ours.shape == plain.shape
        if dtype == torch.bfloat16:
            assert torch.equal(ours, plain)
        else:
            assert_same(ours, plain, tolerance=1e-5)


def test_only_the_cpu_packs_and_only_what_it_multiplies() -> None:
    assert not can_pack(torch.bfloat16, torch.device("cuda")) and not can_pack(torch.float64, torch.device("cpu"))


@pytest.mark.parametrize(("outs", "rank"), [([8], 4), ([12, 4, 4], 2), ([5, 5], 1), ([33], 16)])
@pytest.mark.parametrize(("biased", "skipped"), [(False, False), (True, False), (False, True)])
def test_lora_linear(outs: list[int], rank: int, biased: bool, skipped: bool) -> None:
    if skipped and len(outs) == 1:
        pytest.skip("nothing would be left")
    m, n = 24, sum(outs)
    weight, bias = randn(n, m, seed=1), randn(n, seed=2) if biased else None
    x, a = randn(13, m), randn(len(outs) * rank, m, seed=3)
    bs = [randn(out, rank, seed=4 + i) for i, out in enumerate(outs)]
    starts = [sum(outs[:i]) for i in range(len(outs))]
    if skipped:  # the first slice has no adapter
        a, bs, starts = a[rank:], bs[1:], starts[1:]

    def with_(f: Op) -> Op:
        def call(x: Tensor, a: Tensor, *bs: Tensor) -> Tensor:
            return f(
                x, DenseWeight(weight.to(x.dtype)), None if bias is None else bias.to(x.dtype), a, list(bs), 0.5, starts
            )

        return call

    compare(with_(lora_linear), with_(lora_linear_naive), [x, a, *bs])


def test_lora_linear_keeps_float32_gradients_of_bf16_products() -> None:
    a, b = randn(4, 24, dtype=torch.float32, grad=True), randn(8, 4, dtype=torch.float32, grad=True)
    weight = DenseWeight(randn(8, 24, dtype=torch.bfloat16))
    y = lora_linear(randn(5, 24, dtype=torch.bfloat16), weight, None, a, [b], 2.0, [0])
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and a.grad.dtype == b.grad.dtype == torch.float32


def test_selected_logprobs_survives_extreme_logits() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], dtype=torch.float64, requires_grad=True)
    head = torch.tensor([[1.0], [0.5], [-1.0]], dtype=torch.float64)
    logps = selected_logprobs(hidden, DenseWeight(head), torch.tensor([0, 0]))
    logps.sum().backward()
    assert logps.tolist() == [0.0, -2e4]
    assert torch.isfinite(hidden.grad).all()


def test_selected_logprobs_does_not_touch_its_inputs() -> None:
    hidden, head = randn(20, 8, dtype=torch.float32), randn(30, 8, seed=1, dtype=torch.float32)
    before = hidden.clone(), head.clone()
    selected_logprobs(hidden, DenseWeight(head), torch.zeros(20, dtype=torch.long))
    assert torch.equal(hidden, before[0]) and torch.equal(head, before[1])


def test_rows_behind_the_last_segment_get_zeros() -> None:
    segments, qkv = Segments.of([2, 3], parents=[None, 0]), randn(8, 4 * 4, grad=True)
    torch.use_deterministic_algorithms(True)  # fills what is not written with NaN
    try:
        out = product_attention(qkv, segments, 2, 1)
    finally:
        torch.use_deterministic_algorithms(False)
    alone = qkv[:5].detach().requires_grad_()
    expected = product_attention(alone, Segments.of([2, 3], parents=[None, 0]), 2, 1)
    assert torch.equal(out[:5], expected) and not out[5:].any()
    out.sum().backward()
    expected.sum().backward()
    assert torch.equal(qkv.grad[:5], alone.grad) and not qkv.grad[5:].any()


SEGMENTS = [[1], [5], [3, 1, 7], [2, 300, 1, 40]]


@pytest.mark.parametrize("lengths", SEGMENTS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (5, 1)])
@pytest.mark.parametrize("window", [None, 3])
def test_attention(lengths: list[int], heads: int, kv_heads: int, window: int | None) -> None:
    segments = Segments.of(lengths)
    compare(
        lambda x: attention(x, segments, heads, kv_heads, window),
        lambda x: attention_naive(x, segments, heads, kv_heads, window),
        [randn(sum(lengths), (heads + 2 * kv_heads) * 8)],
    )


PARENTS = [
    ([5, 3, 1, 7], [None, 0, 0, 0]),
    ([4, 9, 2, 2, 3, 30], [None, None, 0, 1, 1, None]),  # two parents, one child of the first, a loner
    ([300, 2, 280, 7, 9], [None, 0, 0, 0, None]),  # longer than a block of queries: the parent and a child
    ([20, 600, 600, 3], [None, 0, 0, 0]),
]


@pytest.mark.parametrize(("lengths", "parents"), PARENTS)
@pytest.mark.parametrize("window", [None, 3, 290])
def test_attention_behind_a_parent(lengths: list[int], parents: list[int | None], window: int | None) -> None:
    segments = Segments.of(lengths, parents=parents)
    compare(
        lambda x: attention(x, segments, 6, 2, window),
        lambda x: attention_naive(x, segments, 6, 2, window),
        [randn(sum(lengths), (6 + 2 * 2) * 8)],
    )


def test_rows_and_previous_of_segments_with_parents() -> None:
    segments = Segments.of([3, 2, 4, 2], parents=[None, 0, None, 0])
    assert segments.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 3, 4]
    assert segments.rows(3).tolist() == [0, 1, 2, 9, 10]
    assert segments.previous(torch.arange(11)).tolist() == [-1, 0, 1, 2, 3, -1, 5, 6, 7, 2, 9]
