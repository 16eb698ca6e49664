"""The report of a run: one HTML file without script or network, for a screen, a phone or paper.

The page is `report.html` (a Jinja template that escapes every value), `report.css` and the look that all pages share
(`core/page.css`); charts are inline SVG.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from luthier.core.files import read_json, write_text
from luthier.core.page import page_css, page_template
from luthier.core.readable import SPACE, compact, count, duration, size
from luthier.evaluate.peft_code import peft_code
from luthier.evaluate.report_charts import Chart, charts, interval_charts
from luthier.evaluate.report_data import ledger
from luthier.evaluate.report_happened import happenings
from luthier.evaluate.report_plan import plan_section
from luthier.evaluate.report_watch_charts import watch_charts
from luthier.evaluate.report_words import judge
from luthier.evaluate.summary import CRASHED, FAILED, INTERRUPTED, RUNNING, RunSummary, read_summary

REPORT_FILE = "report.html"
_FOLDER = Path(__file__).parent
_LONGEST_TEXT = 4_000  # characters of a prompt or answer that are shown
_MOST_FACTS = 60


def write_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` from the run's files and return its path. A run at work can be reported on too.

    Raises:
        RunError: the folder has no events.
    """
    run = read_summary(run_dir)
    page = page_template(_FOLDER / "report.html").render(
        css=Markup(page_css(_FOLDER / "report.css")),
        clip=_clip,
        run=run,
        verdict=judge(run),
        interval=[Markup(svg) for svg in interval_charts(run)],
        subtitle=_subtitle(run),
        tiles=_tiles(run),
        plan=plan_section(run.stages if not run.steps else ()),
        happened=happenings(run),
        charts=_in_order(charts(run), watch_charts(run)),
        ledger=ledger(run.data),
        facts=_facts(run),
        recipe=_recipe(run),
        commands=_commands(run),
    )
    path = run_dir / REPORT_FILE
    write_text(path, page)
    return path


def _in_order(course: list[Chart], watched: list[Chart]) -> list[Chart]:
    """The large charts first, then the small ones, which stand side by side."""
    return [*(one for one in course if one.legend), *watched, *(one for one in course if not one.legend)]


def _subtitle(run: RunSummary) -> str:
    started = run.started.strftime("%Y-%m-%d %H:%M UTC") if run.started else ""
    return " · ".join(part for part in (run.model, run.adapter, started, run.status) if part)


def _tiles(run: RunSummary) -> list[tuple[str, str, str]]:
    """(name, value, note) of the key facts; what is not known is left out."""
    tiles = []
    if run.steps:
        epoch = run.steps[-1].epoch
        of = f" of {count(run.total_steps)}" if run.total_steps else ""
        tiles.append(("Steps", f"{count(run.steps_done)}{of}", f"{epoch:.3g} epochs" if epoch else ""))
    if run.total_tokens is not None and run.steps_done:
        tiles.append(
            ("Tokens trained", compact(run.total_tokens), f"{count(run.total_tokens / run.steps_done)} a step")
        )
    if run.adapter_parameters is not None:
        whole = run.model_info.get("parameters")
        share = 100 * run.adapter_parameters / whole if isinstance(whole, int | float) and whole > 0 else None
        note = f"{share:.2g}{SPACE}% of {compact(whole)}" if share else ""
        tiles.append(("Trained parameters", compact(run.adapter_parameters), note))
    if run.seconds is not None:
        tiles.append(("Time", duration(run.seconds), f"on {run.device}" if run.device else ""))
    if run.tokens_per_second is not None:
        tiles.append(("Speed", f"{count(run.tokens_per_second)}{SPACE}tokens/s", "median over steps"))
    if run.peak_gpu_bytes is not None:
        note = f"GPU; host {size(run.peak_rss_bytes)}" if run.peak_rss_bytes else "GPU"
        tiles.append(("Peak memory", size(run.peak_gpu_bytes), note))
    elif run.peak_rss_bytes is not None:
        tiles.append(("Peak memory", size(run.peak_rss_bytes), "host memory (RSS)"))
    return tiles


def _facts(run: RunSummary) -> list[tuple[str, str]]:
    """(name, value): machine, versions and hashes, so that the run can be made again."""
    facts = [("dtype", run.dtype), ("device", run.device), *_flat("setting", run.settings)]
    path = run.path / "manifest.json"
    try:
        manifest = read_json(path) if path.is_file() else None
    except ValueError:  # not UTF-8, or not JSON
        manifest, facts = None, [*facts, ("manifest.json", "damaged: it cannot be read")]
    facts += _flat("", manifest or {"machine": run.machine, "versions": run.versions, "model": run.model_info})
    facts = [(name, value) for name, value in dict(facts).items() if value]
    more = len(facts) - _MOST_FACTS
    return facts[:_MOST_FACTS] + ([("more", f"{more} entries in manifest.json")] if more > 0 else [])


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    """Nested objects as (path, text) pairs."""
    if isinstance(value, Mapping):
        return [pair for key, inner in value.items() for pair in _flat(f"{name} {key}" if name else str(key), inner)]
    if isinstance(value, list | tuple):
        return [(name, "; ".join(map(str, value)))]
    if name.endswith("_bytes") and isinstance(value, int | float):
        return [(name.removesuffix("_bytes"), size(value))]
    return [(name, "" if value is None else str(value))]


def _recipe(run: RunSummary) -> str:
    """The resolved recipe as it stands in the run folder, else as the start event tells it."""
    path = run.path / "recipe.yaml"
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    return json.dumps(run.recipe, indent=2, ensure_ascii=False) if run.recipe else ""


def _commands(run: RunSummary) -> list[tuple[str, str]]:
    """(what for, commands) that work for this run as it is."""
    folder = shlex.quote(str(run.path))
    commands = []
    if (run.path / "adapter").is_dir():
        base = str(run.model_info.get("path") or run.model)
        commands += [
            ("Talk to the result", f"luthier chat {folder}"),
            ("See the base model's answer beside it", f"luthier chat {folder} --compare"),
            ("Load it in Python with peft", peft_code(base, str(run.path / "adapter"), run.recipe, run.dtype)),
        ]
    if run.status in (INTERRUPTED, CRASHED, FAILED) and run.checkpoint_step is not None:
        commands.append(("Go on from the last checkpoint", f"luthier train --resume {folder}"))
    elif (run.path / "recipe.yaml").is_file() and run.status != RUNNING:
        recipe, again = shlex.quote(str(run.path / "recipe.yaml")), shlex.quote(f"{run.path}-2")
        commands.append(
            (
                "Train again with a change, such as another number of epochs",
                f"luthier train {recipe} num_epochs=2 output_dir={again}",
            )
        )
    return commands


def _clip(text: str) -> str:
    """Long texts end in a note on how much is not shown."""
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]} … ({count(len(text) - _LONGEST_TEXT)} more characters)"
