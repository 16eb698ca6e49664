"""What a dataset looks like in numbers: lengths, variety, stock phrases; in all, by source and by category.

Batches are counted apart and the counts added up, so the result does not depend on how the work was shared out. Lengths
and stock phrases are counted over every answer. Variety is measured on a sample (`lexical.py`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Final

from luthier.curate.example import Example
from luthier.curate.folder import Dataset
from luthier.curate.lexical import Sample, variety
from luthier.curate.slop import Jargon, phrases_in
from luthier.curate.tokens import CountTokens

QUANTILES: Final = (5, 25, 50, 75, 95)
Cell = tuple[str, str]  # source, category


@dataclass(slots=True)
class Lengths:
    """A distribution of whole numbers; two can be added."""

    counts: Counter[int] = field(default_factory=Counter)

    def __iadd__(self, other: "Lengths") -> "Lengths":
        self.counts.update(other.counts)
        return self

    def summary(self) -> dict[str, float]:
        """number, total, mean, least, greatest, and the percentiles QUANTILES (nearest rank)."""
        number = self.counts.total()
        if not number:
            return {"number": 0, "total": 0}
        total = sum(value * times for value, times in self.counts.items())
        ordered = sorted(self.counts.items())
        made: dict[str, float] = {"number": number, "total": total, "mean": total / number}
        made |= {"least": ordered[0][0], "greatest": ordered[-1][0]}
        for percent in QUANTILES:
            rank, seen = max(1, -(-percent * number // 100)), 0
            for value, times in ordered:
                seen += times
                if seen >= rank:
                    made[f"p{percent}"] = value
                    break
        return made

    def histogram(self, edges: Sequence[int]) -> list[int]:
        """How many values are in [edges[i], edges[i + 1]), the last without an upper end."""
        made = [0] * len(edges)
        for value, times in self.counts.items():
            made[max(0, sum(value >= edge for edge in edges) - 1)] += times
        return made


@dataclass(slots=True)
class Measures:
    """Sums over examples. `words` and `characters` are of answers, `prompt_words` of prompts, `tokens` bear loss."""

    rows: int = 0
    words: Lengths = field(default_factory=Lengths)
    characters: Lengths = field(default_factory=Lengths)
    prompt_words: Lengths = field(default_factory=Lengths)
    tokens: Lengths = field(default_factory=Lengths)
    jargon: Jargon = field(default_factory=Jargon)
    sample: Sample = field(default_factory=Sample)

    def __iadd__(self, other: "Measures") -> "Measures":
        for name in self.__slots__:
            mine = getattr(self, name)
            mine += getattr(other, name)
            setattr(self, name, mine)
        return self

    def summary(self) -> dict[str, Any]:
        """Plain numbers for the report and the card; `tokens` is absent where none were counted."""
        made = {
            "rows": self.rows,
            "words": self.words.summary(),
            "characters": self.characters.summary(),
            "prompt_words": self.prompt_words.summary(),
            "jargon": self.jargon.summary(),
            "variety": _variety(tuple(self.sample.answers)),
        }
        return made | ({"tokens": self.tokens.summary()} if self.tokens.counts else {})


@lru_cache(maxsize=8)  # the card and the report show the same two
def _variety(answers: tuple[tuple[str, str, int], ...]) -> dict[str, Any]:
    return variety(Sample(list(answers)))


@dataclass(frozen=True, slots=True)
class Measured:
    """Measures of everything, of each source, and of each category ("" for examples without one)."""

    everything: Measures
    sources: Mapping[str, Measures]
    categories: Mapping[str, Measures]

    def summary(self) -> dict[str, Any]:
        """`Measures.summary` of each."""
        return {
            "dataset": self.everything.summary(),
            "sources": {name: made.summary() for name, made in self.sources.items()},
            "categories": {name: made.summary() for name, made in self.categories.items()},
        }


def measure_batch(tokens: CountTokens | None, examples: Sequence[Example]) -> dict[Cell, Measures]:
    """Measures of a batch by source and category."""
    cells: dict[Cell, Measures] = {}
    counted = tokens(examples) if tokens is not None else [None] * len(examples)
    for example, count in zip(examples, counted, strict=True):
        cell = (example.source, example.category)
        made = cells.get(cell) or cells.setdefault(cell, Measures())
        answer = example.answer
        words, found = phrases_in(answer)
        length = len(answer.split())
        made.rows += 1
        made.words.counts[length] += 1
        made.characters.counts[len(answer)] += 1
        made.prompt_words.counts[len(example.prompt.split())] += 1
        if count is not None:
            made.tokens.counts[count] += 1
        made.jargon.add(words, found)
        made.sample.add(example.id, answer, length)
    for made in cells.values():
        made.sample.cut()
    return cells


def measure(
    dataset: Dataset,
    *,
    tokens: CountTokens | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Measure what is in the dataset, both sides of the split together.

    Args:
        tokens: counts loss-bearing tokens; None leaves tokens out.
        progress: called with batches done and batches in all.
    """
    cells: dict[Cell, list[Measures]] = {}
    batches = len(dataset.view.batches)
    for done, part in enumerate(dataset.map(partial(measure_batch, tokens), workers=workers), 1):
        for cell, made in part.items():
            cells.setdefault(cell, []).append(made)
        if done % 16 == 0:  # samples are cut when they are added up, which keeps memory small
            cells = {cell: [add_up(parts)] for cell, parts in cells.items()}
        if progress is not None:
            progress(done, batches)
    return marginals({cell: add_up(parts) for cell, parts in cells.items()})


def add_up(parts: Sequence[Measures]) -> Measures:
    """The measures of all parts together; the parts stay as they are."""
    total = Measures()
    for part in parts:
        total += part
    return total


def marginals(cells: Mapping[Cell, Measures]) -> Measured:
    """Everything, sources and categories from their cells; names in order."""
    ordered = [cells[cell] for cell in sorted(cells)]

    def by(place: int) -> dict[str, Measures]:
        names = sorted({cell[place] for cell in cells})
        return {name: add_up([cells[cell] for cell in sorted(cells) if cell[place] == name]) for name in names}

    return Measured(add_up(ordered), by(0), by(1))
