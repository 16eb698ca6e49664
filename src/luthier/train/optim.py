"""AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101) over the one flat adapter buffer, in less memory when asked.

Bytes a trained weight, as weight + gradient + two moments:

    adapter_dtype   optim: adamw      adamw_8bit
    fp32            4 + 4 + 8 = 16    4 + 4 + 2 = 10
    bf16            2 + 2 + 8 = 12    2 + 2 + 2 =  6

The moments in 8 bits are blockwise dynamic quantisation (Dettmers et al. 2021, arXiv:2110.02861): each block of 256 is
divided by its largest magnitude, kept in float32 (1/64 byte a weight), and rounded to the nearest of 256 numbers that
lie densest, in proportion, over seven powers of ten. One thing differs from the paper: a second moment above zero never
becomes zero. Rounding it up makes a step smaller; at zero the next step of that weight would be up to 30 times too
long, as one gradient's share in its second moment is a thousandth and its root is what the step is divided by.

A bf16 weight has 8 bits, so most steps are smaller than half the distance to its neighbour and rounding to nearest
would drop them. It is rounded up or down at random instead, in proportion to the distance, so that it is right on
average (Gupta et al. 2015, arXiv:1502.02551). The gradient is in bf16 too: each microstep adds once, rounded to 1 part
in 256, which is less than the rows of a step differ among themselves.

The update itself is always torch's fused one in float32. What is not held in float32 passes through it in chunks, whose
scratch is small beside the moments, so that there is never a whole float32 copy of anything.

There is no kernel for it: counted over all passes, the chunks move 150 to 190 bytes a weight where a fused kernel would
move 10 to 16. That is 32 GB for the 168 million weights of rank 64 on an 8B model, about a hundredth of the time that a
step of 16,000 tokens needs for its products on the same card.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.optim import AdamW

from luthier.core.errors import RunError
from luthier.core.seeds import stream_seed
from luthier.models.lora import Adapter
from luthier.recipe import Recipe

BLOCK = 256  # weights that share a scale
CHUNKS, MIN_CHUNK, MAX_CHUNK = 32, 2**16, 2**22  # weights of a chunk: a 32nd of all, within these bounds
SCRATCH = 5  # float32 or int32 numbers a weight of a chunk
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of `adapter_dtype`
NAMES = ("exp_avg", "exp_avg_sq")
NORM_ROW = 2**14


def dynamic_map(*, signed: bool) -> Tensor:
    """The 256 numbers of dynamic 8-bit quantisation, ascending, the largest 1: (256,) float32.

    Each power of ten from 1e-6 to 1 has twice as many as the one below it, evenly spread; signed numbers have half as
    many on either side of zero.
    """
    numbers = [0.0, 1.0]
    for exponent in range(7):
        count = 2**exponent if signed else 2 ** (exponent + 1)
        edges = torch.linspace(0.1, 1, count + 1, dtype=torch.float64)
        middles = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)).tolist()
        numbers += [*middles, *(-middle for middle in middles if signed)]
    return torch.tensor(sorted(numbers), dtype=torch.float32)


def chunk_size(parameters: int) -> int:
    """Weights that are updated at a time, a multiple of BLOCK."""
    size = min(max(parameters // CHUNKS, MIN_CHUNK), MAX_CHUNK, parameters)
    return -(-size // BLOCK) * BLOCK


def state_bytes(parameters: int, optim: str) -> int:
    """Bytes of the two moments as they are held and saved."""
    blocks = -(-parameters // BLOCK)
    return 2 * blocks * (BLOCK + 4) if optim == "adamw_8bit" else 8 * parameters


def trained_bytes(parameters: int, optim: str, adapter_dtype: str) -> int:
    """Memory of what is trained: weights, gradient, moments, and the scratch of a chunk."""
    chunked = optim == "adamw_8bit" or adapter_dtype == "bf16"
    scratch = chunk_size(parameters) * SCRATCH * 4 if chunked else 0
    return 2 * parameters * DTYPES[adapter_dtype].itemsize + state_bytes(parameters, optim) + scratch


class Moment8:
    """One moment in 8 bits.

    Attributes:
        codes: (blocks · 256,) uint8, places in the map; beyond the last weight they are those of zero.
        scales: (blocks,) float32, the largest magnitude of each block.
    """

    def __init__(self, parameters: int, *, signed: bool, device: torch.device) -> None:
        blocks = -(-parameters // BLOCK)
        self.map = dynamic_map(signed=signed).to(device)
        self.bounds = (self.map[1:] + self.map[:-1]) / 2  # (255,); what equals a bound takes the lower number
        if not signed:
            self.bounds[0] = 0  # so nothing above zero becomes zero
        zero = int((self.map == 0).nonzero())
        self.codes = torch.full((blocks * BLOCK,), zero, dtype=torch.uint8, device=device)
        self.scales = torch.zeros(blocks, device=device)

    def read(self, out: Tensor, index: Tensor, start: int) -> None:
        """Fill `out` (n,) float32 with the moment from `start` on; index (n,) int32 is scratch."""
        index.copy_(self.codes[start : start + len(out)])
        torch.index_select(self.map, 0, index, out=out)
        out.view(-1, BLOCK).mul_(self.scales[start // BLOCK : (start + len(out)) // BLOCK, None])

    def write(self, values: Tensor, index: Tensor, start: int) -> None:
        """Store `values` (n,) from `start` on; both arguments' contents are lost."""
        blocks = values.view(-1, BLOCK)
        scales = self.scales[start // BLOCK : (start + len(values)) // BLOCK]
        torch.linalg.vector_norm(blocks, torch.inf, dim=1, out=scales)
        blocks.div_(scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None])  # a block of zeros stays one
        torch.bucketize(values, self.bounds, out_int32=True, out=index)
        self.codes[start : start + len(values)].copy_(index)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {f"{name}.codes": self.codes, f"{name}.scales": self.scales}


class Moment32:
    """One moment in float32, with the interface of `Moment8`."""

    def __init__(self, parameters: int, *, device: torch.device) -> None:
        self.values = torch.zeros(parameters, device=device)

    def read(self, out: Tensor, index: Tensor, start: int) -> None:
        """Fill `out` with the moment from `start` on, zeros beyond its end."""
        part = self.values[start : start + len(out)]
        out[: len(part)].copy_(part)
        out[len(part) :].zero_()

    def write(self, values: Tensor, index: Tensor, start: int) -> None:
        """Store `values` from `start` on."""
        part = self.values[start : start + len(values)]
        part.copy_(values[: len(part)])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {name: self.values}


def round_stochastically(values: Tensor, out: Tensor, noise: Tensor, generator: torch.Generator) -> None:
    """Round `values` (n,) float32 to `out` (n,) bf16, up or down at random so that the mean is `values`.

    The lower half of a float32's bits is what bf16 lacks. A random number of 16 bits is added to it, and then it
    is cut off: it carries as often as the half is large. Infinities and NaN stay what they are.

    Args:
        noise: (n,) int32, scratch.
        generator: of the tensors' device.
    """
    noise.random_(0, 2**16, generator=generator)
    noise.add_(values.view(torch.int32)).bitwise_and_(-(2**16))
    out.copy_(torch.where(values.isfinite(), noise.view(torch.float32), values))


def norm_of(grad: Tensor) -> Tensor:
    """The length of the gradient (P,) as a float32 scalar on its device.

    In rows, and then over these: on a CPU torch sums a long vector's squares in a few float32 sums, which misses 2
    parts in 10,000 for five million numbers.
    """
    whole = len(grad) // NORM_ROW * NORM_ROW
    rows = torch.linalg.vector_norm(grad[:whole].view(-1, NORM_ROW), dim=1, dtype=torch.float32)
    rest = torch.linalg.vector_norm(grad[whole:], dtype=torch.float32)
    return torch.linalg.vector_norm(torch.cat([rows, rest[None]]))


def gradient_norm(grad: Tensor) -> float:
    """`norm_of` as a number on the host."""
    return norm_of(grad).item()


class Optimizer(Protocol):
    """What the loop and the checkpoints need of an optimizer."""

    def step(self, rate: float, shrink: float) -> None:
        """Update the weights at learning rate `rate` with the adapter's gradient times `shrink`, which may be lost."""

    def tensors(self) -> dict[str, Tensor]:
        """The state that a checkpoint keeps, by name; loading writes into it."""

    def steps_done(self, number: int) -> None:
        """Count on from `number` steps."""


class PlainAdamW:
    """torch's fused AdamW on float32 weights with float32 moments (β 0.9, 0.999): one call for all of it."""

    def __init__(self, adapter: Adapter, weight_decay: float) -> None:
        self.flat = adapter.flat
        self.torch = AdamW([self.flat], lr=0.0, weight_decay=weight_decay, fused=True)
        moments = {name: torch.zeros_like(self.flat) for name in NAMES}
        self.torch.state[self.flat] = {"step": self.flat.new_zeros(()), **moments}

    def step(self, rate: float, shrink: float) -> None:
        """See `Optimizer`."""
        if shrink != 1:
            self.flat.grad.mul_(shrink)
        self.torch.param_groups[0]["lr"] = rate
        self.torch.step()

    def tensors(self) -> dict[str, Tensor]:
        """See `Optimizer`."""
        return {name: self.torch.state[self.flat][name] for name in NAMES}

    def steps_done(self, number: int) -> None:
        """See `Optimizer`."""
        self.torch.state[self.flat]["step"].fill_(number)


class ChunkedAdamW:
    """The same update for weights in bf16, moments in 8 bits, or both, a chunk at a time."""

    def __init__(self, adapter: Adapter, weight_decay: float, *, eight_bit: bool, seed: int) -> None:
        self.flat, self.grad, self.seed, self.steps = adapter.flat, adapter.grad, seed, 0
        device, parameters = self.flat.device, len(self.flat)
        if eight_bit:
            self.moments = [Moment8(parameters, signed=signed, device=device) for signed in (True, False)]
        else:
            self.moments = [Moment32(parameters, device=device) for _ in NAMES]
        self.chunk = chunk_size(parameters)
        self.weights, self.slope, *self.wide = torch.zeros(SCRATCH - 1, self.chunk, device=device).unbind()
        self.index = torch.zeros(self.chunk, dtype=torch.int32, device=device)
        self.weights.grad = self.slope
        self.torch = AdamW([self.weights], lr=0.0, weight_decay=weight_decay, fused=True)
        self.count = torch.zeros((), device=device)
        self.torch.state[self.weights] = {"step": self.count, **dict(zip(NAMES, self.wide, strict=True))}
        self.generator = torch.Generator(device)

    def step(self, rate: float, shrink: float) -> None:
        """See `Optimizer`."""
        self.torch.param_groups[0]["lr"] = rate
        # Drawn anew from seed and step, so that a resumed run draws what it would have drawn.
        self.generator.manual_seed(stream_seed(self.seed, "rounding", self.steps))
        for start in range(0, len(self.flat), self.chunk):
            self._update(self.flat[start : start + self.chunk], self.grad[start : start + self.chunk], start, shrink)
        self.steps += 1

    def _update(self, flat: Tensor, grad: Tensor, start: int, shrink: float) -> None:
        size = len(flat)
        whole = -(-size // BLOCK) * BLOCK  # the last chunk is shorter, and its last block may be
        self.weights[:size].copy_(flat)
        self.slope[:size].copy_(grad).mul_(shrink)
        self.slope[size:].zero_()
        for moment, wide in zip(self.moments, self.wide, strict=True):
            moment.read(wide[:whole], self.index[:whole], start)
        self.count.fill_(self.steps)
        self.torch.step()
        for moment, wide in zip(self.moments, self.wide, strict=True):
            moment.write(wide[:whole], self.index[:whole], start)
        if flat.dtype == torch.bfloat16:
            round_stochastically(self.weights[:size], flat, self.index[:size], self.generator)
        else:
            flat.copy_(self.weights[:size])

    def tensors(self) -> dict[str, Tensor]:
        """See `Optimizer`."""
        named = [moment.tensors(name) for name, moment in zip(NAMES, self.moments, strict=True)]
        return named[0] | named[1]

    def steps_done(self, number: int) -> None:
        """See `Optimizer`."""
        self.steps = number


def make_optimizer(adapter: Adapter, recipe: Recipe) -> Optimizer:
    """The optimizer that the recipe asks for, over the adapter's flat buffer."""
    eight_bit = recipe.optim == "adamw_8bit"
    if not eight_bit and adapter.flat.dtype == torch.float32:
        return PlainAdamW(adapter, recipe.weight_decay)
    return ChunkedAdamW(adapter, recipe.weight_decay, eight_bit=eight_bit, seed=recipe.seed)


def restore(optimizer: Optimizer, stored: dict[str, Tensor], steps: int, *, where: str) -> None:
    """Put a saved state back, as it was after `steps` steps.

    Raises:
        RunError: it is that of another `optim`, or of another number of weights.
    """
    wanted = optimizer.tensors()
    if stored.keys() != wanted.keys():
        kinds = {True: "adamw_8bit", False: "adamw"}
        was, now = (kinds[f"{NAMES[0]}.codes" in names] for names in (stored, wanted))
        raise RunError(f"the checkpoint was made with optim: {was}, and this run has {now}", where=where,
                       fix=f"write optim: {was} in the run's recipe.yaml, or start a new run")  # fmt: skip
    for name, tensor in wanted.items():
        if stored[name].shape != tensor.shape:
            raise RunError(f"the checkpoint's {name} is of another adapter", where=where)
    for name, tensor in wanted.items():
        tensor.copy_(stored[name])
    optimizer.steps_done(steps)
