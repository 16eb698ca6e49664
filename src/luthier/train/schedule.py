"""The learning rate's course as a factor of its peak."""

import math

MIN_FACTOR = 0.1  # where cosine and linear end
WSD_DECAY_SHARE = 0.2  # the last fifth of a wsd run falls (Hu et al. 2024, arXiv:2404.06395)


def factor(step: int, total_steps: int, *, kind: str, warmup_ratio: float) -> float:
    """Factor for optimizer step `step` (1 … total_steps).

    The warmup rises in a straight line and is over after ceil(warmup_ratio · total_steps) steps. Then cosine and linear
    fall to a tenth, constant stays, wsd stays and falls in a straight line towards zero in the last fifth.
    """
    warmup = math.ceil(warmup_ratio * total_steps)
    if step <= warmup:
        return step / warmup
    done = (step - warmup) / max(1, total_steps - warmup)  # 0 … 1
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return 1 - (1 - MIN_FACTOR) * done
    if kind == "wsd":
        return min(1.0, (1 - done + 1 / max(1, total_steps - warmup)) / WSD_DECAY_SHARE)
    assert kind == "cosine", kind
    return MIN_FACTOR + (1 - MIN_FACTOR) * (1 + math.cos(math.pi * done)) / 2
