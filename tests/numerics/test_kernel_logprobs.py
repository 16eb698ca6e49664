"""Log-probabilities of chosen tokens: capped logits, seams between chunks, the Triton kernel."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers_kernels import DTYPES, PLACES, Buffers, Op, compare, kernel, prove_kernel
from helpers_numerics import randn
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.selected_logprobs import adapted_logprobs, op, selected_logprobs
from luthier.kernels.selected_logprobs.naive import selected_logprobs as naive

caps = st.sampled_from([None, 2.0, 30.0])


def with_head(f: Op, rows: int, vocab: int, softcap: float | None) -> Op:
    """An op as a function of the hidden states alone."""
    head, targets = randn(vocab, 12, seed=1), torch.arange(rows) * 5 % vocab
    return lambda hidden: f(hidden, DenseWeight(head.to(hidden)), targets.to(hidden.device), softcap)


@settings(max_examples=25, deadline=None)
@given(rows=st.sampled_from([1, 2, 17, 300]), vocab=st.sampled_from([2, 7, 123]), softcap=caps)
def test_the_op_is_the_naive_form(rows: int, vocab: int, softcap: float | None) -> None:
    compare(
        with_head(selected_logprobs, rows, vocab, softcap), with_head(naive, rows, vocab, softcap), [randn(rows, 12)]
    )


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_gradcheck(softcap: float | None) -> None:
    assert torch.autograd.gradcheck(with_head(selected_logprobs, 4, 7, softcap), (randn(4, 12, grad=True),))


def test_a_vocabulary_of_one_and_no_rows() -> None:
    hidden = randn(3, 12, grad=True)
    logps = with_head(selected_logprobs, 3, 1, None)(hidden)
    logps.sum().backward()
    assert not logps.any() and not hidden.grad.any()
    empty = randn(0, 12, grad=True)
    with_head(selected_logprobs, 0, 7, 3.0)(empty).sum().backward()
    assert empty.grad.shape == (0, 12)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_chunks_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch, softcap: float | None) -> None:
    made = []
    for size in (256, 1, 7, 40):
        monkeypatch.setattr(op, "CPU_ROWS", size)
        hidden = randn(40, 12, grad=True)
        logps = with_head(selected_logprobs, 40, 23, softcap)(hidden)
        logps.sum().backward()
        made.append((logps.detach(), hidden.grad))
    for other in made[1:]:
        torch.testing.assert_close(other, made[0], rtol=1e-12, atol=1e-12)


def test_the_gradient_is_scaled_by_each_row_and_made_once() -> None:
    hidden, weights = randn(5, 12, grad=True), randn(5, seed=7)
    f = with_head(selected_logprobs, 5, 9, None)
    (f(hidden) * weights).sum().backward()
    alone = []
    for row in range(5):
        one = hidden.detach().clone().requires_grad_()
        f(one)[row].backward()
        alone.append(one.grad[row] * weights[row])
    torch.testing.assert_close(hidden.grad, torch.stack(alone))


def test_a_mean_in_bf16_is_exact() -> None:
    """1/6 rounded to bf16 would make all rows' gradients 0.2 % longer."""
    hidden = [randn(6, 12, dtype=torch.bfloat16, grad=True) for _ in range(2)]
    f = with_head(selected_logprobs, 6, 9, None)
    f(hidden[0]).mean().backward()
    f(hidden[1]).sum().backward()
    assert torch.equal(hidden[0].grad, (hidden[1].grad.float() * (1 / 6)).bfloat16())


class Watched(DenseWeight):
    """Fails if logits are made while earlier ones are still held."""

    last = staticmethod(lambda: None)
    made = 0

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        assert self.last() is None, "two chunks' logits at once"
        logits = super().forward(x, bias)
        self.last, self.made = weakref.ref(logits), self.made + 1
        return logits


def test_one_chunk_of_logits_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "CPU_ROWS", 4)
    targets = torch.arange(10)
    head, hidden = Watched(randn(20, 12, seed=1)), randn(10, 12, grad=True)
    selected_logprobs(hidden, head, targets).sum().backward()
    assert head.made == 3
    a, b = randn(2, 12, seed=2, grad=True), randn(20, 2, seed=3, grad=True)
    adapted_logprobs(hidden, head, targets, a, b, 0.5).sum().backward()
    assert head.made == 9


def test_strided_rows() -> None:
    wide = randn(6, 24, dtype=torch.float32)
    f = with_head(selected_logprobs, 6, 9, 3.0)
    assert torch.equal(f(wide[:, ::2]), f(wide[:, ::2].contiguous()))


@pytest.mark.parametrize(
    ("row_bytes", "gigabytes", "rows"),
    [
        (128256 * 2, 80, 2048),  # Llama 3 in bf16 on an H100
        (128256 * 2, 24, 2048),
        (128256 * 2, 12, 1024),
        (128256 * 2, 6, 512),
        (262144 * 4, 8, 512),  # Gemma 3 in float32: 512 MB of logits, but fewer rows would read the head too often
        (49152 * 2, 8, 2048),
    ],
)
def test_chunks_on_a_gpu_follow_the_size_of_its_memory(row_bytes: int, gigabytes: int, rows: int) -> None:
    assert op.gpu_chunk_rows(row_bytes, gigabytes * 2**30) == rows


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=14, deadline=None)
@given(
    rows=st.integers(0, 3), vocab=st.sampled_from([1, 2, 7, 64, 65, 150]), spread=st.sampled_from([1.0, 40.0]),
    softcap=caps, dtype=st.sampled_from(DTYPES),
)  # fmt: skip
def test_the_kernel(
    place: str, rows: int, vocab: int, spread: float, softcap: float | None, dtype: torch.dtype
) -> None:
    """In blocks of 64 logits, so that rows of more take several."""
    triton = kernel("selected_logprobs")
    targets = (torch.arange(rows) * 5 % vocab).to(place)

    def launch(buffers: Buffers, inputs: list[Tensor], dys: list[Tensor]) -> list[Tensor]:
        logits = buffers.copy(inputs[0])
        logps, again = (buffers.empty(rows, dtype=torch.float32, device=place) for _ in range(2))
        triton.rows(logits, targets, again, softcap, False)
        assert torch.equal(logits, inputs[0]), "without a gradient the logits stay"
        triton.rows(logits, targets, logps, softcap, True)
        assert torch.equal(logps, again)
        return [logps, logits]

    def truth(logits: Tensor) -> Tensor:
        identity = DenseWeight(torch.eye(vocab, dtype=logits.dtype, device=logits.device))
        return naive(logits, identity, targets.to(logits.device), softcap)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton, "BLOCK", 64)
        inputs, dys = [randn(rows, vocab) * spread], [-torch.ones(rows, dtype=torch.float64)]
        prove_kernel(triton, launch, truth, inputs, dys, place=place, dtype=dtype, what=f"cap {softcap}")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_the_kernel_survives_extreme_logits(place: str, softcap: float | None) -> None:
    logits = torch.tensor([[3e4, -3e4, 0.0], [-3e4, -3e4, -3e4], [1e-3, 2e-3, 0.0]], device=place)
    targets, out = torch.tensor([1, 0, 1], device=place), torch.empty(3, device=place)
    expected = naive(logits.double(), DenseWeight(torch.eye(3, device=place).double()), targets, softcap)
    kernel("selected_logprobs").rows(logits, targets, out, softcap, True)
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)
    assert logits.isfinite().all()


@pytest.mark.parametrize("place", PLACES)
def test_the_kernel_keeps_to_its_columns_of_a_wider_tensor(place: str) -> None:
    wide = randn(3, 20, dtype=torch.float32).to(place)
    logits, targets, out = wide[:, :9], torch.tensor([0, 8, 4], device=place), torch.empty(3, device=place)
    alone, rest = logits.contiguous(), wide[:, 9:].clone()
    kernel("selected_logprobs").rows(logits, targets, out, None, True)
    kernel("selected_logprobs").rows(alone, targets, torch.empty_like(out), None, True)
    assert torch.equal(logits, alone) and torch.equal(wide[:, 9:], rest)
