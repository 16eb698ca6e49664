"""The learning rate's course as a factor of its peak."""

import math

MIN_FACTOR = 0.1  # where cosine and linear end
WSD_DECAY_SHARE = 0.2  # the last fifth of a wsd run falls (Hu et al. 2024, arXiv:2404.06395)
MIN_WARMUP = 5  # steps of warmup, where that is no more than a tenth of the run


def warmup_steps(total_steps: int, warmup_ratio: float) -> int:
    """Steps in which the rate rises: the share that is asked for, rounded up.

    In a short run a twentieth is a step or two, and AdamW's first steps are its worst guesses at the scale of each
    gradient. So it is MIN_WARMUP at least, though not more than a tenth of the run. A share of 0 is no warmup.
    """
    if warmup_ratio == 0:
        return 0
    return max(math.ceil(warmup_ratio * total_steps), min(MIN_WARMUP, total_steps // 10))


def factor(step: int, total_steps: int, *, kind: str, warmup_ratio: float) -> float:
    """Factor for optimizer step `step` (1 … total_steps), above 0 and at most 1.

    The warmup rises in a straight line: no step of it is zero, and its last is the peak. Then cosine and linear fall
    to a tenth at the last step, constant stays, wsd stays and falls in a straight line towards zero in the last fifth
    of what remains.
    """
    warmup = warmup_steps(total_steps, warmup_ratio)
    if step <= warmup:
        return step / warmup
    after = max(1, total_steps - warmup)  # steps that the course is laid over
    done = (step - warmup) / after  # 1 / after … 1
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return 1 - (1 - MIN_FACTOR) * done
    if kind == "wsd":
        falling = math.ceil(WSD_DECAY_SHARE * after)
        return min(1.0, (total_steps - step + 1) / (falling + 1))  # falling / (falling + 1) … 1 / (falling + 1)
    assert kind == "cosine", kind
    return MIN_FACTOR + (1 - MIN_FACTOR) * (1 + math.cos(math.pi * done)) / 2
