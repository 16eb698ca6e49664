"""Personal data in sentences that people marked: F2, precision and recall for each kind.

The file is presidio-research's `synth_dataset_v2.json`: sentences with spans of 17 kinds. Luthier looks for those that
have a form to check. Names, addresses, places and dates need a language model; their recall is reported as it is.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from injection_score import share

# Their kind → what ours begins with. A kind that is not here is not looked for.
LOOKED_FOR: Final = {
    "CREDIT_CARD": "CARD",
    "EMAIL_ADDRESS": "EMAIL",
    "PHONE_NUMBER": "PHONE",
    "IBAN_CODE": "IBAN",
    "US_SSN": "ID_US_SSN",
    "IP_ADDRESS": "IP",
}
Span = tuple[int, int, str]  # start, end, kind


def read_sentences(path: Path, half: str) -> list[tuple[str, list[Span]]]:
    """The sentences whose text's hash is in this half, each with its marked spans."""
    found = []
    for value in json.loads(path.read_text(encoding="utf-8")):
        text = value["full_text"]
        parity = hashlib.sha256(text.encode()).digest()[0] % 2
        if (half == "reported") == bool(parity):
            spans = [(one["start_position"], one["end_position"], one["entity_type"]) for one in value["spans"]]
            found.append((text, spans))
    return found


def f_beta(precision: float, recall: float, beta: float = 2.0) -> float:
    """The weighted harmonic mean; with beta 2 recall weighs four times as much (van Rijsbergen, 1979)."""
    bottom = beta * beta * precision + recall
    return (1 + beta * beta) * precision * recall / bottom if bottom else 0.0


def score_personal(sentences: Sequence[tuple[str, list[Span]]], find: Callable[[str], Sequence[Any]]) -> dict[str, Any]:
    """Entity scores. A marked span is found when a span of ours with the right kind overlaps at least half of it, and

    one of ours is right when it so overlaps a marked span of any kind that is personal: a card number found under
    another name is masked all the same, and only counts against the kind it was marked with.
    """
    wanted: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    made: Counter[str] = Counter()
    right: Counter[str] = Counter()
    masked = 0
    for text, marked in sentences:
        ours = [(span.start, span.end, span.kind) for span in find(text)]
        for start, end, kind in marked:
            wanted[kind] += 1
            over = [one for one in ours if 2 * (min(end, one[1]) - max(start, one[0])) >= end - start]
            masked += bool(over)
            prefix = LOOKED_FOR.get(kind)
            hit[kind] += prefix is not None and any(one[2].startswith(prefix) for one in over)
        for start, end, kind in ours:
            name = next((theirs for theirs, prefix in LOOKED_FOR.items() if kind.startswith(prefix)), kind)
            made[name] += 1
            right[name] += any(2 * (min(end, b) - max(start, a)) >= b - a for a, b, _ in marked)
    kinds = {}
    for kind in sorted({*wanted, *made}, key=lambda name: -wanted[name]):
        precision, recall = share(right[kind], made[kind]), share(hit[kind], wanted[kind])
        f2 = f_beta(precision["share"] or 0.0, recall["share"] or 0.0)
        kinds[kind] = {
            "looked_for": kind in LOOKED_FOR,
            "marked": wanted[kind],
            "found": made[kind],
            "precision": precision,
            "recall": recall,
            "f2": round(f2, 4),
        }
    precision = share(right.total(), made.total())
    checked = share(sum(hit[kind] for kind in LOOKED_FOR), sum(wanted[kind] for kind in LOOKED_FOR))
    everything = share(masked, wanted.total())
    return {
        "sentences": len(sentences),
        "precision": precision,
        "recall_of_kinds_looked_for": checked,
        "f2_of_kinds_looked_for": round(f_beta(precision["share"] or 0.0, checked["share"] or 0.0), 4),
        "recall_of_all_marked": everything,
        "f2_of_all_marked": round(f_beta(precision["share"] or 0.0, everything["share"] or 0.0), 4),
        "kinds": kinds,
    }
