"""The ops that are in C on a CPU as they come, and the same ops without C."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from helpers_kernels import compare
from helpers_numerics import randn
from luthier.kernels import rowwise
from luthier.kernels.attention import attention
from luthier.kernels.attention import naive as attention_naive
from luthier.kernels.attention import native as softmax
from luthier.kernels.frozen_linear import DenseWeight
from luthier.kernels.glu import geglu, swiglu
from luthier.kernels.glu import naive as glu_naive
from luthier.kernels.native import Missing
from luthier.kernels.rms_norm import add_rms_norm, rms_norm
from luthier.kernels.rms_norm import naive as norm_naive
from luthier.kernels.rope import naive as rope_naive
from luthier.kernels.rope import norm_rope, rope
from luthier.kernels.segments import Segments
from luthier.kernels.selected_logprobs import naive as logprobs_naive
from luthier.kernels.selected_logprobs import selected_logprobs

EPS = 1e-5


@pytest.fixture(params=["C", "torch"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ops as they come, and on a machine without a compiler."""
    if request.param == "torch":
        monkeypatch.setattr(rowwise, "loaded", lambda: Missing("no compiler"))
    elif isinstance(rowwise.loaded(), Missing):
        pytest.skip(f"{rowwise.loaded()}")
    yield


def test_ops_are_the_naive_forms_in_c_and_without(either: None) -> None:
    for rows, size in ((1, 5), (7, 64), (70, 123)):
        x, delta, weight = randn(rows, size), randn(rows, size, seed=2), randn(size, seed=1)
        for plus_one in (False, True):
            more = {"plus_one": plus_one}
            compare(lambda x, w=weight, m=more: rms_norm(x, w.to(x), EPS, **m),
                    lambda x, w=weight, m=more: norm_naive.rms_norm(x, w.to(x), EPS, **m), [x])  # fmt: skip
            compare(lambda x, d, w=weight, m=more: torch.cat(add_rms_norm(x, d, w.to(x), EPS, **m)),
                    lambda x, d, w=weight, m=more: torch.cat(norm_naive.add_rms_norm(x, d, w.to(x), EPS, **m)),
                    [x, delta])  # fmt: skip
        compare(swiglu, glu_naive.swiglu, [randn(rows, 2 * size) * 3])
        compare(
            partial(geglu, approximate=True), partial(glu_naive.geglu, approximate=True), [randn(rows, 2 * size) * 3]
        )
        head, targets = randn(size, 12, seed=1), torch.arange(rows) * 5 % size
        compare(lambda h, w=head, t=targets: selected_logprobs(h, DenseWeight(w.to(h)), t),
                lambda h, w=head, t=targets: logprobs_naive.selected_logprobs(h, DenseWeight(w.to(h)), t),
                [randn(rows, 12)])  # fmt: skip
        angle, norms = randn(rows, 4, seed=3), (randn(8, seed=4), randn(8, seed=5))
        compare(lambda x, a=angle, n=norms: norm_rope(x, a.cos().float(), a.sin().float(), 2, 1,
                                                      *(w.to(x) for w in n), EPS),
                lambda x, a=angle, n=norms: rope_naive.norm_rope(x, a.cos().float().to(x), a.sin().float().to(x), 2, 1,
                                                                 *(w.to(x) for w in n), EPS),
                [randn(rows, 32)])  # fmt: skip
        compare(lambda x, a=angle: rope(x * 1, a.cos().float().to(x), a.sin().float().to(x), 2),
                lambda x, a=angle: rope_naive.rope(x.unflatten(1, (2, 8)), a.cos().float().to(x),
                                                   a.sin().float().to(x)).flatten(1), [randn(rows, 16)])  # fmt: skip


def test_attention_in_c_and_without(either: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for window, most in ((None, 4096), (3, 4096), (None, 2)):  # rows of more than `most` keys go to torch
        monkeypatch.setattr(softmax, "MOST", most)
        segments = Segments.of([2, 300, 1, 40], parents=[None, None, 0, 0])
        compare(lambda x, s=segments, w=window: attention(x, s, 6, 2, w),
                lambda x, s=segments, w=window: attention_naive.attention(x, s, 6, 2, w), [randn(343, 80)])  # fmt: skip


def test_what_goes_to_torch(either: None) -> None:
    library, x = rowwise.loaded(), randn(4, 8, dtype=torch.float32)
    there = not isinstance(library, Missing)
    assert (rowwise.library_for(x, x.clone()) is library) == there
    for other in (x.half(), x.double(), x.bfloat16(), x[:, ::2], x.T, x.to("meta")):
        assert rowwise.library_for(x, other) is None
    assert rowwise.library_for(x.double()) is None


def test_a_torch_without_openmp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert rowwise.build(tmp_path, None) == Missing("no C compiler (cc) was found")
    monkeypatch.setattr(rowwise, "OPENMP", ("not_there",))
    assert rowwise.build(tmp_path, None) == Missing("torch's OpenMP has no not_there")
    monkeypatch.setattr(torch.backends.openmp, "is_available", lambda: False)
    assert rowwise.build(tmp_path, None) == Missing("this torch has no OpenMP")
