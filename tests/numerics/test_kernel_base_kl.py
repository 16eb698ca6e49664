"""KL of the tuned model from its base: against torch's own, its gradients, seams between chunks, heads of all kinds."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers_kernels import Op, compare
from helpers_numerics import randn
from luthier.kernels.base_kl import base_kl, op
from luthier.kernels.base_kl.naive import base_kl as naive
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.lora_linear import Dropout
from luthier.kernels.nf4 import NF4Weight, quantise

caps = st.sampled_from([None, 2.0, 30.0])


def plain(f: Op, rows: int, vocab: int, softcap: float | None) -> Op:
    """The op as a function of the tuned hidden states alone."""
    head, base = randn(vocab, 12, seed=1), randn(rows, 12, seed=2)
    return lambda hidden: f(hidden, base.to(hidden), DenseWeight(head.to(hidden)), softcap)


def adapted(f: Op, rows: int, vocab: int, softcap: float | None) -> Op:
    """The op as a function of hidden states and the head's adapter."""
    head, base = randn(vocab, 12, seed=1), randn(rows, 12, seed=2)
    return lambda hidden, a, b: f(hidden, base.to(hidden), DenseWeight(head.to(hidden)), softcap, a=a, b=b, scale=0.5)


@settings(max_examples=25, deadline=None)
@given(rows=st.sampled_from([1, 2, 17, 300]), vocab=st.sampled_from([2, 7, 123]), softcap=caps)
def test_the_op_is_the_naive_form(rows: int, vocab: int, softcap: float | None) -> None:
    compare(plain(base_kl, rows, vocab, softcap), plain(naive, rows, vocab, softcap), [randn(rows, 12)])


@settings(max_examples=15, deadline=None)
@given(rows=st.sampled_from([1, 2, 17, 300]), vocab=st.sampled_from([2, 7, 123]), softcap=caps)
def test_with_an_adapted_head(rows: int, vocab: int, softcap: float | None) -> None:
    inputs = [randn(rows, 12), randn(3, 12, seed=3), randn(vocab, 3, seed=4)]
    made = [adapted(f, rows, vocab, softcap)(*inputs) for f in (base_kl, naive)]
    torch.testing.assert_close(made[0], made[1], rtol=1e-10, atol=1e-12)
    grads = []
    for f in (base_kl, naive):
        taken = [x.clone().requires_grad_() for x in inputs]
        (adapted(f, rows, vocab, softcap)(*taken) * randn(rows, seed=9)).sum().backward()
        grads.append([x.grad for x in taken])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_gradcheck(softcap: float | None) -> None:
    assert torch.autograd.gradcheck(plain(base_kl, 4, 7, softcap), (randn(4, 12, grad=True),))
    inputs = (randn(4, 12, grad=True), randn(2, 12, seed=3, grad=True), randn(7, 2, seed=4, grad=True))
    assert torch.autograd.gradcheck(adapted(base_kl, 4, 7, softcap), inputs)


def test_it_is_torchs_kl_div() -> None:
    hidden, base, head = randn(9, 12), randn(9, 12, seed=2), randn(31, 12, seed=1)
    expected = torch.nn.functional.kl_div(
        torch.log_softmax(hidden @ head.T, -1), torch.log_softmax(base @ head.T, -1), reduction="none", log_target=True
    ).sum(-1)
    torch.testing.assert_close(base_kl(hidden, base, DenseWeight(head)), expected, rtol=1e-12, atol=1e-12)
    assert (expected > 0.1).all(), "the test must have something to measure"


def test_no_rows_and_the_base_itself() -> None:
    empty = randn(0, 12, grad=True)
    plain(base_kl, 0, 7, 3.0)(empty).sum().backward()
    assert empty.grad.shape == (0, 12)
    same = randn(5, 12, dtype=torch.float32, grad=True)
    kl = base_kl(same, same.detach(), DenseWeight(randn(11, 12, seed=1, dtype=torch.float32)))
    kl.sum().backward()
    assert not kl.any() and not same.grad.any(), "a model that has not moved is at 0 exactly"


@pytest.mark.parametrize("f", [plain, adapted])
def test_chunks_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch, f: Op) -> None:
    made = []
    for size in (256, 1, 7, 40):
        monkeypatch.setattr(op, "CPU_ROWS", size)
        hidden = randn(40, 12, grad=True)
        more = [randn(2, 12, seed=3), randn(23, 2, seed=4)] if f is not plain else []
        kl = f(base_kl, 40, 23, 3.0)(hidden, *more)
        kl.sum().backward()
        made.append((kl.detach(), hidden.grad))
    for other in made[1:]:
        torch.testing.assert_close(other, made[0], rtol=1e-12, atol=1e-12)


def test_nothing_flows_into_the_base() -> None:
    base = randn(5, 12, seed=2, grad=True)
    base_kl(randn(5, 12, grad=True), base, DenseWeight(randn(9, 12, seed=1))).sum().backward()
    assert base.grad is None
    assert not base_kl(randn(5, 12), base, DenseWeight(randn(9, 12, seed=1))).requires_grad


def test_a_head_in_4_bits() -> None:
    table = randn(64, 64, seed=1, dtype=torch.float32)
    head = NF4Weight([quantise(table)], torch.float32)
    hidden, base = (randn(70, 64, seed=seed, dtype=torch.float32) for seed in (3, 4))
    expected = base_kl(hidden, base, DenseWeight(head.dense()))
    torch.testing.assert_close(base_kl(hidden, base, head), expected, rtol=1e-4, atol=1e-5)


def test_dropout_of_the_heads_adapter() -> None:
    """Dropping is the adapter reading a masked input: the same through plain autograd."""
    hidden, a, b = (randn(*s, seed=i, dtype=torch.float32) for i, s in enumerate([(6, 12), (2, 12), (9, 2)]))
    base, head = randn(6, 12, seed=5, dtype=torch.float32), randn(9, 12, seed=6, dtype=torch.float32)
    drop = Dropout(0.5, (3,))
    keeps = op.masked(torch.ones_like(hidden), 0.5, 3)
    assert 0 < keeps.sum() < keeps.numel()
    grads = []
    for ours in (True, False):
        h, a1, b1 = (x.clone().requires_grad_() for x in (hidden, a, b))
        if ours:
            kl = base_kl(h, base, DenseWeight(head), a=a1, b=b1, scale=0.5, drop=drop)
        else:
            logits = h @ head.T + 0.5 / 0.5 * ((h * keeps) @ a1.T) @ b1.T
            log_q, log_p = torch.log_softmax(logits, -1), torch.log_softmax(base @ head.T, -1)
            kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        kl.sum().backward()
        grads.append([kl.detach(), h.grad, a1.grad, b1.grad])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-5)


class Watched(DenseWeight):
    """Fails if logits of more than one chunk are held: two are, the tuned model's and the base's."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self.held: list[weakref.ref] = []
        self.most = 0

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        logits = super().forward(x, bias)
        self.held = [ref for ref in self.held if ref() is not None] + [weakref.ref(logits)]
        self.most = max(self.most, len(self.held))
        return logits


def test_one_chunk_of_logits_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "CPU_ROWS", 4)
    head = Watched(randn(20, 12, seed=1))
    base_kl(randn(10, 12, grad=True), randn(10, 12, seed=2), head).sum().backward()
    assert head.most == 2


def test_bf16_logits_are_summed_in_float32() -> None:
    """A vocabulary of many equal tokens: a bf16 sum would stop growing at 256."""
    hidden, base = torch.zeros(1, 4, dtype=torch.bfloat16), torch.zeros(1, 4, dtype=torch.bfloat16)
    hidden[0, 0] = 1
    table = torch.zeros(5000, 4, dtype=torch.bfloat16)
    table[:2500, 0] = 1
    kl = base_kl(hidden, base, DenseWeight(table))
    e = torch.e
    expected = 0.5 * (torch.tensor(0.5 * (e + 1) / e).log() + torch.tensor(0.5 * (e + 1)).log())
    torch.testing.assert_close(kl[0], expected, rtol=1e-5, atol=1e-6)
