"""`luthier data from-python`: instruction records from installed packages."""

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.console import note, out
from luthier.core.errors import DataError


def from_python(
    modules: Annotated[
        list[str], typer.Argument(help="Installed packages or modules; stdlib is the standard library.")
    ],
    output: Annotated[Path, typer.Option("--out", help="JSONL file to write.")] = Path("data/python.jsonl"),
) -> None:
    """Turn installed Python packages into instruction records from their signatures and docstrings."""
    from luthier.data.from_python import records_from_python, write_jsonl

    if output.exists():
        raise DataError("exists already", where=str(output), fix="choose another --out, or delete it first")
    with out.status("reading sources"):
        result = records_from_python(modules)
    write_jsonl(result.records, output)
    for reason, number in result.counts.items():
        note(f"{number:,} × {reason}")
    groups = len({record["group"] for record in result.records})
    out.print(f"Wrote {len(result.records):,} records from {groups:,} modules to {output}")
