"""One line for each thing that a run noticed or did, for the terminal and the lists; no line for what needs none."""

from collections.abc import Mapping, Sequence
from typing import Any

from luthier.core.readable import SPACE, decimal, duration, plural
from luthier.evaluate.event_values import items, number, text

QUIET = ("base", "kept", "too few rows to tell")  # verdicts of the watch on forgetting that say: nothing happened


def decision_line(event: Mapping[str, Any]) -> str:
    """The line for an event; "" for one that is no decision.

    Args:
        event: as it is written, with its name under "event".
    """
    kind, step = event.get("event"), number(event, "step")
    at = "" if step is None else f"step {step:.0f}: "
    match kind:
        case "skipped":
            return f"{at}skipped, {text(event.get('reason'))}{skip_numbers(event)}{records_text(event)}"
        case "rewind":
            return f"{at}{rewind_text(event)}"
        case "range_test":
            chosen = number(event, "chosen")
            rate = "no learning rate found" if chosen is None else f"learning rate {rate_text(chosen)}"
            return f"{rate}: {text(event.get('why'))}"
        case "unpaused":
            return f"{at}{waited_text(event)}"
        case "stage":
            place, of = number(event, "number"), number(event, "of")
            after = text(event.get("parent"))
            where = f" {place:.0f} of {of:.0f}" if place is not None and of is not None else ""
            return f"stage{where}: {text(event.get('name'))}, from {f'stage {after}' if after else 'the base'} on"
        case "outcome" | "general":
            return text(event.get("text"))
        case "forgetting" if text(event.get("verdict")) == "base":
            return ""
        case "advice" | "overfit" | "forgetting" | "action" | "paused" | "strength" | "gate" | "diverged":
            said = text(event.get("text")) or text(event.get("reason"))
            return f"{at}{said}" if said else ""
    return ""


def skip_numbers(event: Mapping[str, Any]) -> str:
    """The numbers of a skipped step: " (loss 8.10, gradient norm 312, limit 2.40)"."""
    parts = []
    for name, words in (("loss", "loss"), ("grad_norm", "gradient norm"), ("limit", "limit")):
        value = number(event, name)
        if value is not None:
            parts.append(f"{words} {value:.3g}")
    return f" ({', '.join(parts)})" if parts else ""


def records_text(event: Mapping[str, Any], most: int = 3) -> str:
    """Where the rows of a skipped step came from: "; 12 records, such as a.jsonl:3"."""
    wheres = list(dict.fromkeys(map(text, wheres_of(event))))
    if not wheres:
        return ""
    return f"; {plural(len(wheres), 'record')}: {', '.join(wheres[:most])}{' and more' if len(wheres) > most else ''}"


def wheres_of(event: Mapping[str, Any]) -> list[Any]:
    """Files and lines of the records of a skipped step, or their ids where those are not told."""
    return items(event.get("wheres")) or items(event.get("records"))


def rewind_text(event: Mapping[str, Any]) -> str:
    """What a rewind did and why."""
    to, on, scale = (number(event, name) for name in ("to_step", "next_step", "rate_scale"))
    said = f"went back to step {to:.0f}" if to is not None else "went back"
    said += f", since {text(event.get('reason'))}" if event.get("reason") else ""
    if on is not None:
        said += f"; on after step {on:.0f}, past the rows between"
    if scale is not None:
        said += f", at {decimal(scale, 3).rstrip('0').rstrip('.')} of the learning rate"
    return said


def waited_text(event: Mapping[str, Any]) -> str:
    """The end of a pause."""
    seconds = number(event, "seconds")
    return f"there is room on the disk again{f' after {duration(seconds)}' if seconds is not None else ''}"


def interval_text(value: Sequence[float] | None, places: int = 3) -> str:
    """An interval in nats: "95 % interval +0.010 to +0.050"; "no interval"."""
    if value is None:
        return "no interval"
    return f"95{SPACE}% interval {signed(value[0], places)} to {signed(value[1], places)}"


def rate_text(rate: float) -> str:
    """A learning rate as one is written in a recipe: 4.2e-4, 0.01."""
    if rate >= 0.01:
        return f"{rate:.2g}"
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def signed(value: float, places: int = 3) -> str:
    """With a sign, but for 0."""
    shown = decimal(value, places)
    return f"+{shown}" if value > 0 and shown.strip("0.,") else shown
