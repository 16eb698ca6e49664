"""Numbers as a person reads them. A no-break space keeps a number and its unit on one line."""

import math

SPACE = "\u00a0"
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def percent(value: float, places: int = 1) -> str:
    """21.234 → "21.2 %"."""
    return f"{decimal(value, places)}{SPACE}%"


def decimal(value: float, places: int) -> str:
    """Fixed decimals with a real minus sign, and none before a zero."""
    text = f"{value:,.{places}f}"
    return (text if text.strip("-0.,") else text.lstrip("-")).replace("-", "−")


def places_to_show(*values: float) -> int:
    """The decimals, one to four, with which none of the values that is not 0 reads as 0."""
    smallest = min((abs(value) for value in values if value), default=1.0)
    return next((places for places in (1, 2, 3) if smallest >= 0.5 * 10**-places), 4)


def loss(value: float) -> str:
    """A loss in nats a token: 1.82; below 0.1 three decimals, because two would hide the difference."""
    return decimal(value, 2 if abs(value) >= 0.1 else 3)


def losses(before: float, after: float) -> tuple[str, str]:
    """Two losses with as many decimals, two to four, as it takes to tell them apart; with two if even four do not."""
    for places in (2, 3, 4):
        pair = (decimal(before, places), decimal(after, places))
        if pair[0] != pair[1]:
            return pair
    return decimal(before, 2), decimal(after, 2)


def count(value: float) -> str:
    """1234567 → "1,234,567"."""
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """1234567 → "1.23 M"; below 10,000 the whole number."""
    if value < 10_000:
        return count(value)
    power = min(4, int(math.log10(value)) // 3)
    return f"{value / 1000**power:.3g}{SPACE}{' kMGT'[power]}"


def size(value: float) -> str:
    """Bytes in binary units: "2.9 GiB"."""
    power = 0
    while value >= 1024 and power < len(_BINARY) - 1:
        value, power = value / 1024, power + 1
    return f"{value:.0f}{SPACE}B" if power == 0 else f"{value:.1f}{SPACE}{_BINARY[power]}"


def duration(seconds: float) -> str:
    """4356 → "1 h 13 min"; under a minute, seconds."""
    if seconds < 60:
        return f"{seconds:.0f}{SPACE}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        rest = round(seconds) % 60
        return f"{int(seconds // 60)}{SPACE}min {rest}{SPACE}s" if seconds < 600 and rest else f"{minutes}{SPACE}min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}{SPACE}h {minutes}{SPACE}min"
    return f"{hours // 24}{SPACE}d {hours % 24}{SPACE}h"


def plural(number: float, noun: str) -> str:
    """ "1 record", "288 records"."""
    return f"{count(number)}{SPACE}{noun}{'' if number == 1 else 's'}"
