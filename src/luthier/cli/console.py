"""Where the command line prints, and how numbers are written for people."""

from rich.console import Console
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def complain(message: str) -> None:
    """A mistake, on stderr."""
    err.print(Text.assemble(("error  ", "bold red"), message))


def note(message: str) -> None:
    """Something decided or noticed on the user's behalf."""
    out.print(Text.assemble(("note   ", "dim"), message))


def size(count: float) -> str:
    """Bytes for people: 1.4 GB, 320 MB."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def big(count: float) -> str:
    """Counts for people: 134.5M, 8.0B, 4,096."""
    if count >= 1e9:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count:,.0f}"


def span(seconds: float) -> str:
    """Time for people: 42 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
