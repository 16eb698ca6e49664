"""Balance: how often each example of the training side is trained on, so that categories get their shares.

`shares.py` decides how many tokens each category gets. Here that becomes a whole number for every example: with 2.5
epochs of a category, half of its tokens are trained on three times an epoch and half twice; with 0.8, a fifth is left
out. Which examples get one more is decided by the hash of their id, so a dataset that grows keeps almost all of its
choices.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from luthier.core.errors import DataError
from luthier.core.files import hash_bytes
from luthier.curate.example import Entry, Example
from luthier.curate.folder import Dataset
from luthier.curate.shares import CAP, MAX_EPOCHS, REPLAY, Mixture, mix
from luthier.curate.tokens import CountTokens, estimate_tokens

OVER = "over the share"
BALANCED = "balanced"
UNNAMED = "(none)"  # what examples without a category are counted under


@dataclass(frozen=True, slots=True)
class Counted:
    """An example of the training side: its part of the mixture, its loss-bearing tokens, how often it counts now."""

    id: str
    part: str
    tokens: int
    repeats: float


@dataclass(frozen=True, slots=True)
class PartCount:
    """A part of the mixture before and after: examples, their tokens, and tokens of an epoch with repetitions."""

    examples: int
    epoch_tokens: float
    examples_after: int
    epoch_tokens_after: int


@dataclass(frozen=True, slots=True)
class Balance:
    """The decisions, the mixture they come from, and what each part had and has."""

    entries: list[Entry]
    mixture: Mixture
    parts: Mapping[str, PartCount]


def count_batch(tokens: CountTokens, replay_sources: Collection[str], examples: Sequence[Example]) -> list[Counted]:
    """The examples of a batch that are trained on; those held out are left out."""
    kept = [example for example in examples if example.side != "validation"]
    return [
        Counted(
            example.id,
            REPLAY if example.source in replay_sources else example.category or UNNAMED,
            count,
            example.repeats,
        )
        for example, count in zip(kept, tokens(kept), strict=True)
    ]


def balance(
    dataset: Dataset,
    *,
    tokens: CountTokens = estimate_tokens,
    temperature: float = 2.0,
    shares: Mapping[str, float] | None = None,
    cap: float = CAP,
    max_epochs: float = MAX_EPOCHS,
    replay: float = 0.0,
    replay_sources: Collection[str] = (),
    total: float | None = None,
    seed: int = 0,
    workers: int = 1,
) -> Balance:
    """Balance the training side by loss-bearing tokens. Nothing is written.

    Args:
        tokens: counts them; without a tokenizer they are estimated from words, which is wrong by a factor for code.
        replay_sources: sources (file names) of general data; their examples are one part, whatever their categories.
        seed: another seed picks other examples. The rest is as in `shares.mix`.

    Raises:
        DataError: no example to balance, a source that does not exist, or see `shares.mix`.
    """
    if bool(replay_sources) != (replay > 0):
        raise DataError(
            "replay needs both a share and the sources it is drawn from",
            fix="give --replay a share, as 0.1, and --replay-source a source's name",
        )
    known = {source["name"] for source in dataset.state["sources"]}
    if unknown := sorted(set(replay_sources) - known):
        raise DataError(
            f"no source called {', '.join(map(repr, unknown))}",
            fix=f"sources are {', '.join(map(repr, sorted(known)))}",
        )
    counted = [
        item
        for batch in dataset.map(partial(count_batch, tokens, frozenset(replay_sources)), workers=workers)
        for item in batch
    ]
    return balance_counted(
        counted,
        temperature=temperature,
        shares=shares,
        cap=cap,
        max_epochs=max_epochs,
        replay=replay,
        total=total,
        seed=seed,
    )


def balance_counted(
    counted: Sequence[Counted],
    *,
    temperature: float = 2.0,
    shares: Mapping[str, float] | None = None,
    cap: float = CAP,
    max_epochs: float = MAX_EPOCHS,
    replay: float = 0.0,
    total: float | None = None,
    seed: int = 0,
) -> Balance:
    """`balance` of examples that are counted already."""
    tokens: Counter[str] = Counter()
    for item in counted:
        tokens[item.part] += item.tokens
    general = tokens.pop(REPLAY, 0)
    mixture = mix(
        tokens,
        temperature=temperature,
        shares=shares,
        cap=cap,
        max_epochs=max_epochs,
        replay_tokens=general,
        replay=replay,
        total=total,
    )
    parts: dict[str, list[Counted]] = {}
    for item in counted:
        parts.setdefault(item.part, []).append(item)
    entries: list[Entry] = []
    made: dict[str, PartCount] = {}
    for name, share in mixture.shares.items():
        items = sorted(parts[name], key=lambda item: (_order(seed, item.id), item.id))
        repeats = divide([item.tokens for item in items], share.target, most=int(max_epochs))
        entries += decided(name, items, repeats, share.epochs)
        made[name] = PartCount(
            len(items),
            sum(item.tokens * item.repeats for item in items),
            sum(times > 0 for times in repeats),
            sum(item.tokens * times for item, times in zip(items, repeats, strict=True)),
        )
    return Balance(sorted(entries, key=lambda entry: entry.record), mixture, made)


def divide(tokens: Sequence[int], target: float, *, most: int) -> list[int]:
    """How often to take each of these examples, in order, so that it comes to `target` tokens.

    All of them as often as goes, and the first ones once more until the target is met as closely as whole examples
    allow. Examples without tokens are taken once: they cost nothing and are no reason to drop them.
    """
    whole = sum(tokens)
    if whole == 0:
        return [1] * len(tokens)
    least = min(most, int(target / whole + 1e-9))
    rest, made = target - least * whole, []
    for number in tokens:
        more = least < most and number > 0 and rest > number / 2  # nearer to the target with it than without
        rest -= number * more
        made.append(max(least + more, 1 if number == 0 else 0))
    return made


def decided(part: str, items: Sequence[Counted], repeats: Sequence[int], epochs: float) -> list[Entry]:
    """An entry for every example that is left out, or that counts otherwise than it did."""
    detail = f"{part}: {epochs:.2f} epochs"
    entries = []
    for item, times in zip(items, repeats, strict=True):
        if times == 0:
            entries.append(Entry(item.id, "drop", OVER, score=epochs, detail=detail))
        elif times != item.repeats:
            entries.append(Entry(item.id, "repeat", BALANCED, score=float(times), detail=detail))
    return entries


def _order(seed: int, key: str) -> str:
    return hash_bytes(b"balance", str(seed).encode(), key.encode())


def balance_table(made: Balance) -> list[dict[str, str | int | float]]:
    """A row for each part of the mixture, for the report: examples, tokens of an epoch and shares before and after, the
    share that was wanted, and effective epochs (tokens of an epoch after, over the tokens there are).
    """
    before = sum(part.epoch_tokens for part in made.parts.values())
    after = sum(part.epoch_tokens_after for part in made.parts.values())
    return [
        {
            "category": name,
            "examples": part.examples,
            "tokens": part.epoch_tokens,
            "share": part.epoch_tokens / before if before else 0.0,
            "wanted": made.mixture.shares[name].wanted,
            "examples_after": part.examples_after,
            "tokens_after": part.epoch_tokens_after,
            "share_after": part.epoch_tokens_after / after if after else 0.0,
            "epochs": part.epoch_tokens_after / made.mixture.shares[name].tokens,
        }
        for name, part in made.parts.items()
    ]
