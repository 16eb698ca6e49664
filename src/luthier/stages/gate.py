"""Whether a stage's result may stand: a pure rule over comparisons, and its sentence for a person."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luthier.core.readable import decimal
from luthier.evaluate.interval import BETTER, WORSE, Comparison
from luthier.stages.link import Link


@dataclass(frozen=True)
class Gate:
    """The verdict on a stage.

    Attributes:
        passed: the result becomes what the next stage begins with.
        text: why, for a person.
    """

    passed: bool
    text: str


def judge(
    link: Link,
    beside: Comparison | None,
    earlier: Sequence[tuple[str, Comparison]],
    refusals: Sequence[str] = (),
) -> Gate:
    """Judge a stage's result.

    Args:
        link: says what is asked for.
        beside: the parent with the result, on this stage's held-out rows; None where nothing is held out.
        earlier: for each earlier stage its name and what it had reached with the result, on what it holds out.
        refusals: what speaks against the result already, such as the forgetting budget.
    """
    failed, passed = list(refusals), []
    said = _told(beside, link.beside)
    if link.gate == "none":
        passed.append(said)
    elif beside is None:
        (failed if link.gate == "better" else passed).append(said)
    elif link.gate == "better" and beside.verdict != BETTER:
        failed.append(f"{said}, and the gate asks for clearly better")
    elif link.gate == "not worse" and beside.verdict == WORSE:
        failed.append(said)
    else:
        passed.append(said)
    for name, comparison in earlier:
        told = f"on what stage {name} holds out, {_told(comparison, f'stage {name}')}"
        if link.max_unlearning is not None and clear_rise(comparison) > link.max_unlearning:
            failed.append(f"{told}; at most {decimal(link.max_unlearning, 3)} nat may be lost there")
        else:
            passed.append(told)
    if failed:
        return Gate(False, f"stage {link.name} did not pass: {'; '.join(failed)}")
    return Gate(True, f"stage {link.name} passed: {'; '.join(passed)}")


def clear_rise(comparison: Comparison) -> float:
    """By how many nats a token the loss rose at least: the lower end of the interval of the rise; 0 without one."""
    return max(0.0, -comparison.loss_interval[1]) if comparison.loss_interval is not None else 0.0


def as_event(comparison: Comparison | None) -> dict[str, Any] | None:
    """A comparison as a JSON value."""
    return None if comparison is None else asdict(comparison)


def _told(comparison: Comparison | None, beside: str) -> str:
    if comparison is None:
        return "nothing is held out, so nothing was compared"
    losses = f"{decimal(comparison.before, 3)} with {beside}, {decimal(comparison.after, 3)} now"
    return f"held-out loss {losses} (n = {comparison.rows:,}): {comparison.verdict}"
