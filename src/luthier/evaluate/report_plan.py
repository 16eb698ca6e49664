"""The stages of a training as a section of its page."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from luthier.core.page import page_template
from luthier.evaluate.interval import Comparison
from luthier.evaluate.report_words import change_text
from luthier.evaluate.run_parts import StageLine

_TEMPLATE = Path(__file__).parent / "report_plan.html"


def plan_section(stages: Sequence[StageLine], *, links: bool = True) -> Markup:
    """The stages in order, each with its gate: HTML for a page with the shared style; "" for none.

    Args:
        links: each stage's name leads to its own report, relative to the run's folder.
    """
    if not stages:
        return Markup("")
    rows = [
        {
            "line": line,
            "state": _state(line),
            "tone": {True: "good", False: "bad", None: "flat"}[line.passed],
            "base": _compared(line.base),
            "before": _compared(line.before) if line.parent else "",
            "link": f"{line.path}/report.html" if links and line.path else "",
        }
        for line in stages
    ]
    return Markup(page_template(_TEMPLATE).render(rows=rows))


def _state(line: StageLine) -> str:
    ended = f"{line.status}, " if line.status and line.status != "finished" else ""
    return {True: f"{ended}passed", False: f"{ended}not passed", None: "not judged yet"}[line.passed]


def _compared(comparison: Comparison | None) -> str:
    return "not compared" if comparison is None else change_text(comparison)
