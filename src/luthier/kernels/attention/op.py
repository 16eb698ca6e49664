"""One call for every device: variable-length flash attention on CUDA, batched products a segment elsewhere.

Which way:

- CUDA from compute capability 8.0, bf16 or float16, heads of at most 256 and a multiple of 8:
  `torch.nn.attention.varlen`, which is a part of torch. Where scores are capped, which it cannot do, `flash_attn` when
  that is installed.
- All else, `products.py`: CPUs, float32, older GPUs, and capped scores without `flash_attn`. It is right everywhere
  and its memory is bounded, but a fused kernel is faster on a GPU. `flex_attention` could cap scores too; it has to be
  compiled for each model first, and uncompiled it holds every score at once.

What the flash kernels are handed is tested on stand-ins that follow their documentation, and the results on a GPU where
there is one. The way through `flash_attn` has only had the former.
"""

import inspect
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from luthier.kernels.attention.products import product_attention
from luthier.kernels.segments import Segments

LARGEST_HEAD = 256


@cache
def _takes_grouped_heads(kernel: Callable[..., object]) -> bool:
    """Whether torch's kernel is one of those that expand key heads themselves."""
    return "enable_gqa" in inspect.signature(kernel).parameters


@cache
def _has_flash(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _has_capping_flash() -> bool:
    return find_spec("flash_attn") is not None


def _varlen(
    qkv: Tensor, segments: Segments, num_heads: int, num_kv_heads: int, window: int | None, softcap: float | None
) -> Tensor:  # fmt: skip
    size = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
    q, k, v = qkv.unflatten(1, (-1, size)).split([num_heads, num_kv_heads, num_kv_heads], dim=1)  # (T, heads, K)
    cu_keys, longest_keys = segments.cu_seqlens, segments.longest
    if any(parent is not None for parent in segments.parents):
        rows, cu_keys, longest_keys = _keys(segments, qkv.device)
        k, v = k.index_select(0, rows), v.index_select(0, rows)
    # The kernels count from the end of the keys, which is where q ends.
    sides = (-1 if window is None else window - 1, 0)
    cut = segments.cu_seqlens, cu_keys, segments.longest, longest_keys
    if softcap is not None:
        from flash_attn import flash_attn_varlen_func

        out = flash_attn_varlen_func(q, k, v, *cut, causal=True, window_size=sides, softcap=softcap)
        return out.flatten(1)
    from torch.nn.attention.varlen import varlen_attn

    if _takes_grouped_heads(varlen_attn):
        return varlen_attn(q, k, v, *cut, window_size=sides, enable_gqa=True).flatten(1)
    k, v = (t.repeat_interleave(num_heads // num_kv_heads, dim=1) for t in (k, v))
    return varlen_attn(q, k, v, *cut, window_size=sides).flatten(1)


def _keys(segments: Segments, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Rows of the keys that each segment sees, laid end to end; where each segment's begin; the most one has."""
    if "varlen keys" not in segments.plans:
        rows = [segments.rows(index) for index in range(len(segments.spans))]
        lengths = torch.tensor([0, *map(len, rows)])
        cu_keys = lengths.cumsum(0).to(device, torch.int32)
        segments.plans["varlen keys"] = torch.cat(rows).to(device), cu_keys, int(lengths.max())
    return segments.plans["varlen keys"]


def attention(
    qkv: Tensor,
    segments: Segments,
    num_heads: int,
    num_kv_heads: int,
    window: int | None = None,
    *,
    softcap: float | None = None,
) -> Tensor:
    """Causal attention of each token to the tokens before it in its own segment and its parent.

    Args:
        qkv: (T, (H + 2G)·K), packed and already turned by RoPE; H a multiple of G.
        segments: where the stream is cut.
        num_heads, num_kv_heads: H and G.
        window: a token sees itself and the window − 1 tokens before it; None sees all.
        softcap: c, where a score s counts as c·tanh(s/c), as in Gemma 2.

    Returns:
        (T, H·K).
    """
    size = qkv.shape[1] // (num_heads + 2 * num_kv_heads)
    flash = (
        qkv.is_cuda
        and qkv.dtype in (torch.bfloat16, torch.float16)
        and size <= LARGEST_HEAD
        and size % 8 == 0
        and _has_flash(qkv.device)
        and (softcap is None or _has_capping_flash())
    )
    if flash:
        return _varlen(qkv, segments, num_heads, num_kv_heads, window, softcap)
    return product_attention(qkv, segments, num_heads, num_kv_heads, window, softcap=softcap)
