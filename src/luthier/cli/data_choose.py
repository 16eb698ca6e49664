"""`luthier data categories | score | select | balance`: what to train on, and how much of each."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from luthier.cli.console import note, out, span
from luthier.cli.data_clean import EMBEDDINGS, Folder, embeddings_folder, progress_bars, say_if_nothing_new, show
from luthier.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.curate.example import Entry
    from luthier.curate.folder import Dataset, Pass


def numbers(values: list[str] | None, option: str) -> dict[str, float] | None:
    """NAME=NUMBER options as a mapping; None without any.

    Raises:
        DataError: one is not NAME=NUMBER.
    """
    if not values:
        return None
    made = {}
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            made[name] = float(number)
        except ValueError:
            raise DataError(f"{option} {value}: no NAME=NUMBER", fix=f"write {option} code=0.6") from None
    return made


def _closing(dataset: "Dataset", notes: tuple[str, ...] | list[str]) -> None:
    from luthier.core.hardware import cpu
    from luthier.curate.work import finish

    finish(dataset, workers=cpu().cores)
    for text in notes:
        note(text)


def _take_back(dataset: "Dataset", step: str) -> "list[Pass]":
    """A step that chooses starts from everything: its own earlier choice does not count."""
    from luthier.curate.history import active, undo

    return undo(dataset, step=step) if step in active(dataset) else []


def _choose(
    dataset: "Dataset", step: str, parameters: dict[str, Any], entries: "Sequence[Entry]", back: "list[Pass]"
) -> None:
    """Write a choice that follows on what was taken back. The same choice again leaves the folder as it was."""
    from luthier.core.files import canonical_json
    from luthier.curate.ledger import read_pass, to_entries

    if len(back) == 1 and canonical_json(back[0].parameters) == canonical_json(parameters):
        before = set(to_entries(read_pass(dataset.path / back[0].file)))
        if before == set(entries) and dataset.passes[-2:-1] == back:
            del dataset.passes[-1]  # the taking back, which is not part of the folder yet
            note("nothing new: the ledger says all of it already")
            return
    for made in back:
        note(f"taken back first: pass {made.number}, {made.step}")
    dataset.add(step, 1, parameters, entries)


def categories(
    folder: Folder,
    rules: Annotated[
        Path | None, typer.Option(help="YAML list of {category, field, regex}; the first fit wins.")
    ] = None,
    clusters: Annotated[int | None, typer.Option(min=2, help="Number of clusters of alike examples.")] = None,
    embeddings: Annotated[str | None, typer.Option(help=f"{EMBEDDINGS} For clusters.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another clustering.")] = 0,
) -> None:
    """Put examples into categories, by rules or by clusters of what is asked."""
    from luthier.core.hardware import cpu
    from luthier.curate.categories import categories_by_clusters, categories_by_rules, read_rules
    from luthier.curate.work import working

    if (rules is None) == (clusters is None):
        raise DataError("categories come from rules or from clusters", fix="give --rules FILE or --clusters NUMBER")
    if clusters is not None and embeddings is None:
        raise DataError("clusters need embeddings", fix="give --embeddings FOLDER")
    with working(folder) as dataset:
        if rules is not None:
            entries = categories_by_rules(dataset, read_rules(rules), workers=cpu().cores)
            parameters: dict[str, object] = {"rules": rules.name}
        else:
            entries = categories_by_clusters(
                dataset, embeddings_folder(embeddings), clusters, seed=seed, workers=cpu().cores
            )
            parameters = {"clusters": clusters, "embeddings": embeddings, "seed": seed}
        dataset.add("categories", 1, parameters, entries)
        _closing(dataset, [f"{len(entries):,} examples have another category now"])
    show(dataset)


def score(
    folder: Folder,
    model: Annotated[str, typer.Option(help="The model that is going to be trained.")] = "smollm2-135m",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure how hard each example is for a model: how much the prompt helps it to expect the answer."""
    from luthier.curate.work import working
    from luthier.stages.score import score_difficulty

    with working(folder) as dataset, progress_bars() as report:
        passes = len(dataset.passes)
        score_difficulty(
            dataset, model, device=device, progress=lambda done, total: report("difficulty", done, total),
            expect=lambda seconds: note(f"roughly {span(seconds)}, judged from this machine's matrix speed"),
        )  # fmt: skip
        _closing(dataset, [])
    say_if_nothing_new(dataset, passes)
    show(dataset)


def select(
    folder: Folder,
    target: Annotated[int, typer.Option(min=1, help="Training examples to keep.")],
    embeddings: Annotated[str, typer.Option(help=EMBEDDINGS)],
    by: Annotated[str, typer.Option(help="What is better: difficulty (see score) or length.")] = "difficulty",
    method: Annotated[str, typer.Option(help="greedy (best first, none too alike) or k-center.")] = "greedy",
    max_cosine: Annotated[float, typer.Option(help="Greedy takes none more alike than this.")] = 0.9,
    quota: Annotated[list[str] | None, typer.Option(help="CATEGORY=SHARE of the target; repeatable.")] = None,
) -> None:
    """Choose training examples by quality and diversity, with quotas for categories."""
    from luthier.core.hardware import cpu
    from luthier.curate.choose import select_examples
    from luthier.curate.work import working

    for name, value, known in (("by", by, ("difficulty", "length")), ("method", method, ("greedy", "k-center"))):
        if value not in known:
            raise DataError(f"--{name} {value}", fix=f"one of {', '.join(known)}")
    with working(folder) as dataset:
        back = _take_back(dataset, "select")
        made = select_examples(
            dataset, embeddings_folder(embeddings), target=target, by=by, method=method, max_cosine=max_cosine,
            quotas=numbers(quota, "--quota"), workers=cpu().cores,
        )  # fmt: skip
        parameters = {"target": target, "by": by, "method": method, "max_cosine": max_cosine, "notes": made.notes}
        _choose(dataset, "select", parameters, made.entries, back)
        _closing(dataset, [])
    show(dataset)


def balance(
    folder: Folder,
    temperature: Annotated[float, typer.Option(help="1 leaves the mixture as it is; higher lifts what is rare.")] = 2.0,
    share: Annotated[
        list[str] | None, typer.Option(help="CATEGORY=SHARE instead of a temperature; repeatable.")
    ] = None,
    cap: Annotated[float, typer.Option(help="Largest share of one category.")] = 0.4,
    max_epochs: Annotated[float, typer.Option(help="How often an example is repeated in an epoch at most.")] = 4.0,
    replay: Annotated[float, typer.Option(help="Share of general data.")] = 0.0,
    replay_source: Annotated[list[str] | None, typer.Option(help="A source of general data; repeatable.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Count tokens with this model's tokenizer; estimated without.")
    ] = None,
    total: Annotated[float | None, typer.Option(help="Tokens of an epoch; as many as there are without.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed picks other examples.")] = 0,
) -> None:
    """Balance categories by the tokens that are trained on: fewer of one, repetitions of another."""
    from luthier.core.hardware import cpu
    from luthier.curate.balance import balance, balance_table
    from luthier.curate.tokens import AnswerTokens, estimate_tokens
    from luthier.curate.work import working

    tokens = estimate_tokens
    if model is not None:
        from luthier.models.store import resolve_model

        tokens = AnswerTokens(resolve_model(model))
    with working(folder) as dataset:
        back = _take_back(dataset, "balance")
        made = balance(
            dataset, tokens=tokens, temperature=temperature, shares=numbers(share, "--share"), cap=cap,
            max_epochs=max_epochs, replay=replay, replay_sources=replay_source or (), total=total, seed=seed,
            workers=cpu().cores,
        )  # fmt: skip
        rows = balance_table(made)
        parameters = {"table": rows, "tokens": model or "estimated from words", "notes": list(made.mixture.notes)}
        _choose(dataset, "balance", parameters, made.entries, back)
        _closing(dataset, [])
    table = Table(
        "category", "tokens", "share", "tokens after", "share after", "epochs", box=None, padding=(0, 2, 0, 0)
    )
    for row in rows:
        table.add_row(
            escape(str(row["category"])), f"{row['tokens']:,.0f}", f"{100 * row['share']:.1f} %",
            f"{row['tokens_after']:,.0f}", f"{100 * row['share_after']:.1f} %", f"{row['epochs']:.2f}",
        )  # fmt: skip
    out.print(table)
    if model is None:
        note("tokens are estimated from words, which is wrong by a factor for code: --model NAME counts them")
    show(dataset)
