"""Personal data and secrets replaced by typed placeholders: "[EMAIL_1]", "[CARD_1]", "[ID_US_SSN_1]", "[KEY_1]" …

`find` says where they are in a text; `redact` makes edits of what any such function finds. One value has one
placeholder in all texts of an example, numbered by first appearance, so that who said what stays readable.

The ledger's edit entries hold the text before (it is what undo restores) and so hold what was replaced: a dataset
folder whose ledger has this step is as confidential as the file it came from, and what is published is its export.
`detail` and `reason` never hold a value, only its first and last characters.

Only what a pattern can prove or make plausible is found. Names, street addresses and dates of birth need a model of
language: `personal_presidio.py`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from string import digits
from typing import Any, Final

from luthier.core.files import canonical_json
from luthier.curate.example import Entry, Example, fields_of
from luthier.curate.national import lettered_nationals, named_ids, nationals
from luthier.curate.personal_money import bitcoin, cards, ibans
from luthier.curate.personal_net import emails, ips, macs
from luthier.curate.personal_phone import phones
from luthier.curate.personal_span import Span, fold_text, mask, settle
from luthier.curate.secrets import LONG, secrets
from luthier.curate.step import Step

# Of two kinds that claim the same characters the lower rank stays: what is proven before what is plausible.
_RANKS: Final = {"KEY": 0, "IBAN": 0, "BTC": 0, "CARD": 2, "EMAIL": 2, "MAC": 2, "IP": 3}  # ids: 1
REASONS: Final[Mapping[str, str]] = {
    "EMAIL": "e-mail address",
    "PHONE": "phone number",
    "CARD": "payment card",
    "IBAN": "bank account",
    "BTC": "bitcoin address",
    "IP": "ip address",
    "MAC": "mac address",
    "KEY": "secret key",
    "ID": "national id",
    "PERSON": "person's name",
    "LOCATION": "place",
}
# Cheap tests of texts that hold a digit: four and seven digits in a row or nearly, a digit on either side of each of
# three dots.
_FOUR: Final = re.compile(r"\d(?:[ ().\-/]{0,3}\d){3}", re.ASCII)
_SEVEN: Final = re.compile(r"\d(?:[ ().\-/]{0,3}\d){6}", re.ASCII)
_DOTTED: Final = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d", re.ASCII)
_SHOWN: Final = 12  # values that a detail describes one by one

Find = Callable[[str], list[Span]]


def find(text: str) -> list[Span]:
    """Personal data and secrets in a text that patterns can find, in order, not overlapping.

    Kinds: EMAIL, PHONE, CARD, IBAN, BTC, IP (public ones), MAC, KEY, and ID_<country>_<name> (see `national.py`).
    Time is linear in the length of the text.
    """
    text = fold_text(text)
    long = " ".join([word for word in text.split() if len(word) >= LONG])
    spans: list[Span] = []
    if "@" in text:
        spans += emails(text)
    digit = any(map(text.__contains__, digits))
    four = digit and _FOUR.search(text) is not None
    numbers = four and _SEVEN.search(text) is not None
    if digit:
        spans += named_ids(text)
    if four or (long and any(lettered_nationals(long))):
        spans += lettered_nationals(text)
    if numbers:
        spans += [*cards(text), *ibans(text), *nationals(text)]
    if four and _DOTTED.search(text):
        spans += ips(text)
    if long or "PRIVATE KEY" in text or "://" in text:
        spans += secrets(text, long)
    if long:
        # What has no space in it is looked for among the long words first, which are few.
        spans += [span for search in (ibans, macs, bitcoin, ips) if any(search(long)) for span in search(text)]
    spans = settle(spans, _RANKS) if spans else spans
    if numbers:  # last, and only in what is left, because a number beside another reads as one long number
        spans = sorted([*spans, *phones(_blanked(text, spans))], key=lambda span: span.start)
    return spans


def _blanked(text: str, spans: Sequence[Span]) -> str:
    """The text with what was found made unreadable, as long as before."""
    parts, place = [], 0
    for span in spans:
        parts += (text[place : span.start], "[", " " * (span.end - span.start - 2), "]")
        place = span.end
    return "".join((*parts, text[place:]))


def personal(examples: Sequence[Example]) -> list[Entry]:
    """Edits that put placeholders in the place of personal data and secrets. No network, no model."""
    return redact(examples, find)


PERSONAL = Step("personal", 1, personal)


def redact(examples: Sequence[Example], find: Find) -> list[Entry]:
    """Edits that replace what `find` finds, one for each kind in each text of an example.

    An edit holds its whole text twice, so one for each value would square the ledger's size on a list of addresses.
    `score` is the number of places replaced, `start` and `end` the first of them in `before`, and `detail` names for
    each value its placeholder, its proof, where it stands, and its first and last characters.
    """
    entries: list[Entry] = []
    for example in examples:
        texts: list[tuple[str, str, list[Span]]] = []
        calls: list[tuple[str, str]] = []  # canonical JSON of the calls that turns make
        some = False
        for field, text, turn in fields_of(example.record):
            spans = find(text)
            texts.append((field, text, spans))
            some = some or bool(spans)
            if turn is not None and turn.tool_calls:
                calls.append((f"{field.removesuffix('content')}tool_calls", turn.tool_calls))
                some = some or any(map(find, _leaves(json.loads(turn.tool_calls))))
        if not some:
            continue
        names = Placeholders(text for _, text, *_ in [*texts, *calls])
        for field, text, spans in texts:
            entries += _edits(example.id, field, text, spans, names)
        for field, text in calls:
            entries += _call_edits(example.id, field, text, find, names)
    return entries


class Placeholders:
    """The placeholder of each value of one example: the same value has the same one, however it is written.

    Numbers that the example's texts already use for a kind are not given again, to a value that is another.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._last: Counter[str] = Counter()
        for text in texts:
            for kind, number in re.findall(r"\[([A-Z][A-Z_]+)_(\d{1,6})\]", text):
                self._last[kind] = max(self._last[kind], int(number))

    def name(self, kind: str, value: str) -> str:
        """The placeholder of a value."""
        folded = fold_text(value)
        key = (kind, folded.lower() if kind == "EMAIL" else folded if kind == "KEY" else _essence(folded))
        if key not in self._names:
            self._last[kind] += 1
            self._names[key] = f"[{kind}_{self._last[kind]}]"
        return self._names[key]


def _essence(value: str) -> str:
    """A number without the ways there are to write it; a name in any case and spacing."""
    return re.sub(r"[\s().,/-]", "", value).upper()


def _edits(record: str, field: str, text: str, spans: Sequence[Span], names: Placeholders) -> Iterator[Entry]:
    """One edit a kind, each on the text that the one before it left."""
    placeholders = [names.name(span.kind, text[span.start : span.end]) for span in spans]
    before, done = text, set()
    for kind in dict.fromkeys(span.kind for span in spans):
        mine = [index for index, span in enumerate(spans) if span.kind == kind]
        # Where the first of them stands now, after the kinds already replaced before it.
        moved = sum(
            len(placeholders[index]) - (spans[index].end - spans[index].start)
            for index in range(mine[0])
            if spans[index].kind in done
        )
        done.add(kind)
        after, place = [], 0
        for span, placeholder in zip(spans, placeholders, strict=True):
            after += (text[place : span.start], placeholder if span.kind in done else text[span.start : span.end])
            place = span.end
        changed = "".join((*after, text[place:]))
        first = spans[mine[0]]
        told = [(placeholders[index], text[spans[index].start : spans[index].end], spans[index]) for index in mine]
        yield Entry(
            record, "edit", REASONS[_family(kind)], field, first.start + moved, first.end + moved, float(len(mine)),
            before=before, after=changed, detail=_detail(kind, told),
        )  # fmt: skip
        before = changed


def _family(kind: str) -> str:
    return "ID" if kind.startswith("ID_") else kind


def _detail(kind: str, told: Sequence[tuple[str, str, Span]]) -> str:
    """For people: "EMAIL: [EMAIL_1] a…e, address at .org, 17–32"."""
    parts = [f"{name} {mask(value)}, {span.proof}, {span.start}–{span.end}" for name, value, span in told[:_SHOWN]]
    more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return f"{kind}: " + "; ".join(parts) + more


def _call_edits(record: str, field: str, text: str, find: Find, names: Placeholders) -> Iterator[Entry]:
    """Edits of the strings and numbers inside calls, which stay JSON; one a kind, evidence the whole text."""
    leaves = list(_leaves(json.loads(text)))
    for kind in dict.fromkeys(span.kind for leaf in leaves for span in find(leaf)):
        told: list[tuple[str, str, Span]] = []
        content = _replaced(json.loads(text), kind, find, names, told)
        after = canonical_json(content)
        yield Entry(
            record, "edit", REASONS[_family(kind)], field, 0, 0, float(len(told)),
            before=text, after=after, detail=_detail(kind, told),
        )  # fmt: skip
        text = after


def _leaves(value: Any) -> Iterator[str]:
    """The strings and numbers inside JSON, as text."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        yield str(value)


def _replaced(value: Any, kind: str, find: Find, names: Placeholders, told: list[tuple[str, str, Span]]) -> Any:
    """JSON with the values of one kind replaced, each of which is added to `told`."""
    if isinstance(value, dict):
        return {key: _replaced(item, kind, find, names, told) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, kind, find, names, told) for item in value]
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value
    leaf, parts, place = str(value), [], 0
    for span in find(leaf):
        if span.kind == kind:
            name = names.name(kind, leaf[span.start : span.end])
            told.append((name, leaf[span.start : span.end], span))
            parts += (leaf[place : span.start], name)
            place = span.end
    return "".join((*parts, leaf[place:])) if parts else value


def personal_counts(entries: Iterable[Entry]) -> dict[str, int]:
    """Places replaced by kind ("EMAIL", "ID_US_SSN" …), most first, of this step's entries or presidio's."""
    counts: Counter[str] = Counter()
    for entry in entries:
        if entry.action == "edit" and entry.reason in REASONS.values():
            counts[entry.detail.split(":", 1)[0]] += int(entry.score or 0)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
