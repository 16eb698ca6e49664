"""A decoder that no family of ours covers, run by its own module in `transformers`: their module, our LoRA, our loss.

Their module takes rectangles of rows (B, L), ours gives a stream. So each segment becomes a row, what several share at
their beginning is in each of them, rows of about the same length go together, and the shorter ones are filled up behind
their last token. No mask is needed: a causal decoder, with attention or with a state that is carried on, never looks at
what comes later. That the module is causal, and that all of this gives what it gives by itself, is tried out on a few
tokens each time a model is loaded.

The module's linears are replaced by ours, so LoRA, DoRA, dropout and NF4 are the same code as elsewhere. Its head is
taken out: what the module then returns in place of logits is the hidden state, with whatever the module does to logits
by a factor done to it (Granite, Cohere), so that the loss never makes whole logits.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from luthier.core.errors import ModelError
from luthier.kernels.frozen_linear import DenseWeight, FrozenWeight
from luthier.kernels.nf4 import NF4Weight, quantise
from luthier.kernels.segments import Segments
from luthier.models.cache import Cache
from luthier.models.decoder import Decoder
from luthier.models.fallback_spec import FallbackSpec, adaptable, read_class, take_softcap
from luthier.models.linear import Linear
from luthier.models.lora import Adapter, Pair

FILLED = 0.75  # rows of a rectangle are at least so long, measured by the longest
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # of the logits' norm; bf16 rounds at each step
_COARSE = 0.06


class _Now:
    """The adapters of the pass that is under way."""

    def __init__(self) -> None:
        self.pairs: Sequence[Mapping[str, Pair]] | None = None
        self.scale = 0.0

    @contextmanager
    def of(self, pairs: Sequence[Mapping[str, Pair]] | None, scale: float) -> Iterator[None]:
        """Run the linears with these for a while."""
        before = self.pairs, self.scale
        self.pairs, self.scale = pairs, scale
        try:
            yield
        finally:
            self.pairs, self.scale = before


class _Linear(nn.Module):
    """One of our linears in the place of one of theirs."""

    def __init__(self, linear: Linear, now: _Now, layer: int, name: str, like: Tensor) -> None:
        super().__init__()
        self.linear, self._now, self._layer, self._name = linear, now, layer, name
        self.register_buffer("weight", like.new_empty(0), persistent=False)  # modules ask it for its dtype

    def forward(self, x: Tensor) -> Tensor:
        """(…, M) → (…, N)."""
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) == 0:  # an expert without tokens
            return x.new_zeros(*x.shape[:-1], self.linear.weight.shape[0])
        pair = None if self._now.pairs is None else self._now.pairs[self._layer].get(self._name)
        return self.linear(rows, pair, self._now.scale).view(*x.shape[:-1], -1)


class _Head(nn.Module):
    """Hands the hidden state on in place of logits."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", like.new_empty(0), persistent=False)
        self.bias = None

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return hidden


class BiasedWeight:
    """A frozen W with a bias b of its own, as a `FrozenWeight`: some heads have one."""

    def __init__(self, weight: FrozenWeight, bias: Tensor) -> None:
        self._weight, self._bias, self.shape = weight, bias, weight.shape

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """As `FrozenWeight.forward`."""
        return self._weight.forward(x, self._bias if bias is None else self._bias + bias)

    def backward(self, dy: Tensor) -> Tensor:
        """As `FrozenWeight.backward`."""
        return self._weight.backward(dy)

    def dense(self) -> Tensor:
        """As `FrozenWeight.dense`."""
        return self._weight.dense()


class FallbackDecoder(Decoder):
    """A frozen module of `transformers` under the interface of our decoder.

    Attributes:
        module: theirs, without its head; its adaptable linears are ours.
        layers: for each layer our linears by their path in it.
    """

    def __init__(self, spec: FallbackSpec, module: Any, head: FrozenWeight, layers: list[SimpleNamespace], now: _Now,
                 place: tuple[torch.device, torch.dtype]) -> None:  # fmt: skip
        self.spec, self.module, self.head, self.layers = spec, module, head, layers
        self._now, self._place = now, place
        self._takes = inspect.signature(module.forward).parameters
        self.recomputed: Collection[int] = ()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._place[0]

    @property
    def dtype(self) -> torch.dtype:
        """What the weights and the hidden states are in."""
        return self._place[1]

    @property
    def keeps(self) -> bool:
        """Whether `run` can go on with a cache; a module that carries a state of its own kind on is not asked to."""
        return not self.module._is_stateful and {"past_key_values", "use_cache"} <= self._takes.keys()

    def hidden(
        self,
        tokens: Tensor,
        segments: Segments,
        adapter: Adapter | None = None,
        *,
        rows: Tensor | None = None,
        cache: Cache | None = None,
        drop: int | None = None,
    ) -> Tensor:
        """As `Decoder.hidden`; answers do not come through here, so there is no cache."""
        assert cache is None
        parents = set(segments.parents)
        sequences = [segments.rows(index) for index in range(len(segments.parents)) if index not in parents]
        made, places, done = [], torch.full((len(tokens),), -1), 0
        for batch in batches([len(sequence) for sequence in sequences], self.spec.border):
            longest = max(len(sequences[which]) for which in batch)
            # What fills a row up is its own last token: any would do, and this one is surely a token.
            filled = [
                torch.cat([sequences[which], sequences[which][-1:].expand(longest - len(sequences[which]))])
                for which in batch
            ]
            made.append(self.run(tokens[torch.stack(filled).to(tokens.device)], adapter, drop)[0].flatten(0, 1))
            for number, which in enumerate(batch):
                first = done + number * longest
                places[sequences[which]] = torch.arange(first, first + len(sequences[which]))
            done += len(batch) * longest
        places = places.to(self.device)
        return torch.cat(made)[places if rows is None else places[rows]]

    def run(
        self, tokens: Tensor, adapter: Adapter | None, drop: int | None = None, *, past: Any = None, keep: bool = False
    ) -> tuple[Tensor, Any]:
        """Final hidden states of rows of tokens, (B, L) → (B, L, D).

        Args:
            tokens: rows of equal length, each seen by itself.
            adapter, drop: as in `hidden`.
            past: the cache of `transformers` that these tokens go on with.
            keep: give such a cache back, if the module `keeps` one.
        """
        pairs, scale = None, 0.0
        if adapter is not None:
            pairs, scale = [adapter.pairs(layer, drop) for layer in range(self.spec.num_layers)], adapter.scale
        told = {"use_cache": keep} if "use_cache" in self._takes else {}
        if past is not None:
            told["past_key_values"] = past
        with ExitStack() as stack:
            stack.enter_context(self._now.of(pairs, scale))
            if self.recomputed and adapter is not None and torch.is_grad_enabled():
                stack.enter_context(self._running_again(pairs, scale))
            out = self.module(input_ids=tokens, **told)
        return out.logits.to(self.dtype), out.past_key_values if keep else None

    @contextmanager
    def _running_again(self, pairs: Sequence[Mapping[str, Pair]] | None, scale: float) -> Iterator[None]:
        """Let the layers in `recomputed` keep only their input, through the switch that `transformers` has for it.

        It asks a layer whether it is in training; nothing below the layer is, and all dropout of the base is zero.
        """
        again = partial(
            checkpoint, use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), self._now.of(pairs, scale)),
        )  # fmt: skip
        layers = self.module.get_submodule(self.spec.layers_path)
        layers = [layer for index, layer in enumerate(layers) if index in self.recomputed]
        for layer in layers:
            layer.gradient_checkpointing, layer._gradient_checkpointing_func, layer.training = True, again, True
        try:
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = layer.training = False


def batches(lengths: Sequence[int], border: int | None) -> Iterator[list[int]]:
    """Which sequences go together, the longest first: none shorter than `FILLED` of its rectangle, and none on the
    other side of `border` than the longest, because the longest decides how all turn."""
    batch: list[int] = []
    for which in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch:
            longest = lengths[batch[0]]
            over = border is not None and longest > border >= lengths[which]
            if over or lengths[which] < FILLED * longest:
                yield batch
                batch = []
        batch.append(which)
    if batch:
        yield batch


def load_fallback(
    folder: Path, spec: FallbackSpec, *, dtype: torch.dtype, device: torch.device, nf4: bool = False
) -> FallbackDecoder:
    """The model in `folder` through its own module.

    Host memory holds the whole model in `dtype` until it is on the device or in 4 bits: `transformers` reads it, since
    only it knows how a checkpoint's tensors become the module's.

    Raises:
        ModelError: weights are missing, damaged or have no place, or the module does not do what is needed of it.
    """
    module = _load(folder, spec, dtype)
    tokens = _probe(spec)
    plain = {"use_cache": False} if "use_cache" in inspect.signature(module.forward).parameters else {}
    try:
        with torch.no_grad():
            expected = module(input_ids=tokens, **plain).logits.to(dtype)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{type(module).__name__} fails on a few tokens: {error}", where=str(folder)) from None
    if _differ(expected[1, :9], expected[0, :9]):
        what = f"{type(module).__name__} looks at later tokens, so it cannot be trained as a decoder"
        raise ModelError(what, where=str(folder))
    take_softcap(module.config)
    head, now = module.get_output_embeddings(), _Now()
    linears: dict[str, Linear] = {}
    layers = [SimpleNamespace() for _ in range(spec.num_layers)]
    for name, part in adaptable(module, spec.layers_path).items():
        weight = part.weight.detach()
        dense = weight if isinstance(part, nn.Linear) else weight.T.contiguous()
        bias = None if part.bias is None else part.bias.detach()
        linears[name] = linear = Linear(DenseWeight(dense), bias)
        index, _, inner = name.removeprefix(spec.layers_path + ".").partition(".")
        setattr(layers[int(index)], inner, linear)
        around, _, last = name.rpartition(".")
        setattr(module.get_submodule(around), last, _Linear(linear, now, int(index), inner, weight))
    weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
    module.set_output_embeddings(_Head(weight))
    module.eval()

    def headed(on: torch.device) -> FrozenWeight:
        plain = DenseWeight(weight.to(on))
        return plain if bias is None else BiasedWeight(plain, bias.to(on))

    here = torch.device("cpu")
    decoder = FallbackDecoder(spec, module, headed(here), layers, now, (here, dtype))
    # Fused attention is taken where it gives the same; of some configs (Falcon's alibi) it leaves things out.
    if not spec.eager:
        module.set_attn_implementation("sdpa")
    if not _agrees(decoder, tokens, expected):
        module.set_attn_implementation("eager")
        if not _agrees(decoder, tokens, expected):
            what = f"{type(module).__name__} does something that is not known here: packed rows come out otherwise"
            raise ModelError(what, where=str(folder))
    for linear in linears.values():
        dense = linear.weight.dense()
        linear.weight = NF4Weight([quantise(dense.to(device))], dtype) if nf4 else DenseWeight(dense.to(device))
        linear.bias = None if linear.bias is None else linear.bias.to(device)
    module.to(device)
    # A head that is the embedding table stays one tensor with it.
    table = module.get_input_embeddings().weight
    tied = table.shape == weight.shape and spec.tied
    head = DenseWeight(table.detach()) if tied and bias is None else headed(device)
    return FallbackDecoder(spec, module, head, layers, now, (device, dtype))


def _load(folder: Path, spec: FallbackSpec, dtype: torch.dtype) -> Any:
    """The module with its weights, on the CPU; nothing is fetched, no pickle is read, and no code from the folder."""
    from transformers.utils import logging

    cls, config, _ = read_class(folder)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        module, info = cls.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported below, by name
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"transformers cannot load it: {error}", where=str(folder)) from None
    finally:
        if bars:
            logging.enable_progress_bar()
    for key, what in (("missing_keys", "lack"), ("mismatched_keys", "have another shape of"),
                      ("unexpected_keys", "hold without a place for it")):  # fmt: skip
        names = sorted(name if isinstance(name, str) else name[0] for name in info.get(key) or ())
        if names:
            raise ModelError(f"the weights {what} {names[0]} ({len(names)} such tensors)", where=str(folder))
    return module.requires_grad_(False)


def _probe(spec: FallbackSpec) -> Tensor:
    """Two rows (2, 12) of tokens spread over the vocabulary, alike in the first nine."""
    tokens = (torch.arange(24).view(2, 12) * 7919 + 11) % spec.vocab_size
    tokens[1, :9] = tokens[0, :9]
    return tokens


def _differ(a: Tensor, b: Tensor) -> bool:
    """Whether logits are others, by more than what rounding does; also if one is not a number."""
    share = torch.linalg.vector_norm((a - b).double()) / torch.linalg.vector_norm(b.double()).clamp(min=1e-30)
    return not share <= _TOLERANCE.get(a.dtype, _COARSE)


def _agrees(decoder: FallbackDecoder, tokens: Tensor, expected: Tensor) -> bool:
    """Whether packed rows give what the module gave before anything was changed in it; not if it does something with
    its head or its linears that is not known here."""
    packed = torch.cat([tokens[1], tokens[0, :10], tokens[0, :3]])
    with torch.no_grad():
        logits = decoder.logits(decoder.hidden(packed, Segments.of([12, 10, 3])))
    return not _differ(logits, torch.cat([expected[1], expected[0, :10], expected[0, :3]]))
