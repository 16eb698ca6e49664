"""`luthier data inspect`: rows as the model will see them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from luthier.cli.console import note, out


def inspect(
    path: Annotated[Path, typer.Argument(help="Data file or folder.")],
    model: Annotated[str, typer.Option(help="Model whose template and tokenizer are used.")] = "smollm2-135m",
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows to show.")] = 3,
    start: Annotated[int, typer.Option(min=0, help="First record to show.")] = 0,
    type: Annotated[str, typer.Option(help="How a row is laid out; auto reads it from the keys.")] = "auto",
    sequence_len: Annotated[int, typer.Option(min=16, help="Longest row, in tokens.")] = 2048,
    chat_template: Annotated[str | None, typer.Option(help="A .jinja file instead of the model's own.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens shown of each row.")] = 600,
) -> None:
    """Show rows as the model will see them, with what is trained on in colour, and count what is in the data."""
    from collections import Counter
    from datetime import date

    import numpy as np

    from luthier.data.read import read_records
    from luthier.data.rows import build_rows
    from luthier.data.show import legend, row_text
    from luthier.models.store import resolve_model
    from luthier.stages.prepare import open_renderer

    result = read_records(path, format=type, on_bad_row="skip")
    out.print(f"{path}: {result.rows_in:,} rows, {result.why}")
    renderer = open_renderer(resolve_model(model), chat_template, today=date.today())
    try:
        counts: Counter[str] = Counter()
        with out.status("rendering"):
            made = build_rows(result.records, renderer, sequence_len=sequence_len, counts=counts, on_bad_row="skip")
        for reason, number in [*result.counts.items(), *counts.items()]:
            note(f"{number:,} × {reason}")
        for text in result.notes:
            note(text)
        lengths = np.array([len(row.ids) for row in made])
        trained = sum(int(row.mask.sum()) for row in made)
        table = Table(
            "rows", "tokens", "trained on", "shortest", "median", "95 %", "longest", box=None, padding=(0, 2, 0, 0)
        )
        middle, most = (f"{int(value):,}" for value in np.quantile(lengths, [0.5, 0.95]))
        table.add_row(
            f"{len(made):,}", f"{lengths.sum():,}", f"{trained:,} ({100 * trained / lengths.sum():.0f} %)",
            f"{lengths.min():,}", middle, most, f"{lengths.max():,}",
        )  # fmt: skip
        out.print(table)
        out.print(legend())
        for row in made[start : start + rows]:
            out.print(f"\n[bold]{row.where}[/]  {len(row.ids)} tokens, {int(row.mask.sum())} trained on")
            out.print(row_text(row, renderer.tokenizer, max_tokens=max_tokens))
    finally:
        if renderer.template is not None:
            renderer.template.close()
