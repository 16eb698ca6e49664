"""Where every row went."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Accounts:
    """Where every row went.

    Attributes:
        rows_in: rows found in the files.
        dropped: reason → rows left out.
        changed: reason → rows changed and kept, or added: rows in use = rows_in − Σ dropped + rows added.
        sources: each dataset's path, format, how it was told, and rows.
        notes: sentences for a person.
    """

    rows_in: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    sources: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
