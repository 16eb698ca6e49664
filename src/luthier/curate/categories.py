"""Categories: what balances, quotas and reports count examples under.

They come from a column of the files (read with them), from rules, or from clusters of embeddings. A category that is
given here is an entry of the ledger, action "category", and can be taken back like any other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError, RecipeError
from luthier.curate.example import Entry, Example
from luthier.curate.folder import Dataset
from luthier.curate.kmeans import k_means
from luthier.curate.logodds import Terms, count_terms, log_odds
from luthier.recipe.document import read_document

BY_RULE: Final = "by rule"
BY_CLUSTER: Final = "by cluster"
FIELDS: Final = ("prompt", "answer", "source")  # and "meta.NAME"
_KEYS: Final = ("category", "field", "regex")
_OWN: Final = 0.5  # share of the texts with a word that a cluster must hold to be named after it
_NAMELESS: Final = frozenset(  # English words that say nothing of a subject
    re.findall(
        r"\S+",
        """
        about after again all also and another any are because been before being between both but can could did does
        doing don't down during each either else ever every few for from had has have having her here hers herself him
        himself his how i'm into isn't it's its itself just let like many may me might more most much must my myself
        near neither nor not now off once one only other our ours out over own same shall she should since some such
        than that that's the their them then there these they this those though through too under until upon using
        very was were what what's when where whether which while who whom whose why will with within without would you
        your yours
        """,
    )
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Examples whose `field` holds a match of `pattern` are of `category`. `where` is its place in the file."""

    category: str
    field: str
    pattern: re.Pattern[str]
    where: str


def read_rules(path: Path) -> list[Rule]:
    """Rules from a YAML file: a list of {category, field, regex}. field is prompt, answer, source, or meta.NAME for
    what a file carried under "meta". The first rule that fits decides.

    Raises:
        DataError: the file cannot be read, is no such list, or holds a pattern that is none; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from None
    try:
        document = read_document(text, lambda line: f"{path}:{line}")
    except RecipeError as error:
        raise DataError(error.what, where=error.where, fix=error.fix) from None
    example = "- {category: code, field: answer, regex: '\\bdef '}"
    if not isinstance(document.value, list) or not document.value:
        raise DataError("not a list of rules", where=str(path), fix=f"write a line a rule, as {example}")
    rules = []
    for index, item in enumerate(document.value):
        where = f"{path}:{document.lines.get((index,), 1)}"
        if not isinstance(item, dict) or sorted(item) != sorted(_KEYS):
            raise DataError("a rule has category, field and regex, and nothing else", where=where, fix=f"as {example}")
        category, field, regex = (item[key] for key in _KEYS)
        if not all(isinstance(value, str) and value for value in (category, field, regex)):
            raise DataError("category, field and regex are texts, and not empty", where=where, fix=f"as {example}")
        if field not in FIELDS and not (field.startswith("meta.") and field != "meta."):
            raise DataError(f"no field {field!r}", where=where, fix=f"fields are {', '.join(FIELDS)} and meta.NAME")
        try:
            rules.append(Rule(category, field, re.compile(regex), where))
        except re.error as error:
            raise DataError(f"not a pattern: {error}", where=where, fix="the syntax is that of Python's re") from None
    return rules


def by_rules(rules: Sequence[Rule], examples: Sequence[Example]) -> list[Entry]:
    """The category of the first rule that fits, for each example that one fits and that has another category now."""
    entries = []
    for example in examples:
        rule = next((rule for rule in rules if _fits(rule, example)), None)
        if rule is not None and rule.category != example.category:
            detail = f"{rule.field}: {rule.pattern.pattern}"
            entries.append(
                Entry(example.id, "category", BY_RULE, before=example.category, after=rule.category, detail=detail)
            )
    return entries


def _fits(rule: Rule, example: Example) -> bool:
    match rule.field:
        case "prompt":
            text = example.prompt
        case "answer":
            text = example.answer
        case "source":
            text = example.source
        case field:
            value = example.record.meta.get(field.removeprefix("meta."), "")
            text = value if isinstance(value, str) else str(value)
    return rule.pattern.search(text) is not None


def categories_by_rules(dataset: Dataset, rules: Sequence[Rule], *, workers: int = 1) -> list[Entry]:
    """`by_rules` over a dataset."""
    return [entry for batch in dataset.map(partial(by_rules, tuple(rules)), workers=workers) for entry in batch]


@dataclass(frozen=True, slots=True)
class Item:
    """What clusters are made of: an example's id, its category now, and the text that a cluster is named after."""

    id: str
    category: str
    text: str


def items_of(examples: Sequence[Example]) -> list[Item]:
    """The examples of a batch; the text is the prompt, or what there is."""
    return [Item(example.id, example.category, example.prompt or example.answer) for example in examples]


def by_clusters(items: Sequence[Item], vectors: NDArray[np.float32], k: int, *, seed: int = 0) -> list[Entry]:
    """Categories from k clusters of embeddings, each named after the three words that mark its texts most.

    Args:
        items: n of them, in any order: the result does not depend on it.
        vectors: (n, d) float32, an embedding of each.

    Raises:
        DataError: more clusters than examples, or an embedding that is not finite.
    """
    assert vectors.ndim == 2 and len(vectors) == len(items), (vectors.shape, len(items))
    if not 1 <= k <= len(items):
        raise DataError(f"{k} clusters of {len(items):,} examples", fix="give a number from 1 to that of the examples")
    order = sorted(range(len(items)), key=lambda i: items[i].id)
    member = k_means(vectors[order], k, seed=seed)
    groups = [[items[order[i]] for i in np.flatnonzero(member == cluster)] for cluster in range(k)]
    groups.sort(key=lambda group: (-len(group), group[0].id))
    names = name_groups([[item.text for item in group] for group in groups])
    entries = [
        Entry(
            item.id,
            "category",
            BY_CLUSTER,
            before=item.category,
            after=name,
            detail=f"one of {len(group):,} in cluster {number} of {k}",
        )
        for number, (name, group) in enumerate(zip(names, groups, strict=True), 1)
        for item in group
        if name != item.category
    ]
    return sorted(entries, key=lambda entry: entry.record)


def categories_by_clusters(
    dataset: Dataset, embeddings: Path, k: int, *, seed: int = 0, workers: int = 1
) -> list[Entry]:
    """`by_clusters` of what is asked, over a dataset and both its sides.

    Args:
        embeddings: a folder of static embeddings, see `semantic_table.open_table`.

    Raises:
        DataError: the embeddings cannot be used, or there are fewer examples than clusters.
    """
    from luthier.curate.semantic_table import open_table

    table = open_table(embeddings)
    items = [item for batch in dataset.map(items_of, workers=workers) for item in batch]
    return by_clusters(items, table.embed([item.text for item in items]), k, seed=seed)


def name_groups(groups: Sequence[Sequence[str]]) -> list[str]:
    """A name for each group of texts: the three words that mark it most against the others, as in "sql, query, table".
    Words that are mostly used in this group come first. Words of fewer than three letters, and those that say nothing
    of a subject, name nothing. Names differ.
    """
    counts = [count_terms(group, 1) for group in groups]
    total = Terms()
    for part in counts:
        total.counts.update(part.counts)
        total.rows.update(part.rows)
    names: list[str] = []
    for part, group in zip(counts, groups, strict=True):
        others = Terms(total.counts - part.counts, total.rows - part.rows)
        marked = log_odds(part, others, least_rows=max(1, min(5, len(group) // 20)))
        words = [mark.term for mark in marked if len(mark.term) >= 3 and mark.term[0].isalpha()]
        words = [word for word in words if word not in _NAMELESS]
        words.sort(key=lambda word: part.rows[word] < _OWN * total.rows[word])  # stable: else as they mark the group
        name = ", ".join(words[:3]) or f"group {len(names) + 1}"
        if name in names:
            name = next(f"{name} ({n})" for n in range(2, len(groups) + 2) if f"{name} ({n})" not in names)
        names.append(name)
    return names
