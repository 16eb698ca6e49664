"""The report of a dataset: one HTML file that works without a network, in which a reviewer can mark rows.

The page is `report.html` (a Jinja template that escapes every value), `report.css` with the look all pages share, and
the script (`report_marks.js`, `report.js`), which shows the embedded rows. What a person marks there is saved as a file
that `apply.py` reads. The page allows itself nothing but this script and this style, by their hashes, so no text from
the data can become code.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from markupsafe import Markup

from luthier.core.files import write_text
from luthier.core.page import page_css, page_template
from luthier.core.readable import compact, count, percent
from luthier.curate.apply import FORMAT, KIND, fingerprint
from luthier.curate.folder import Dataset
from luthier.curate.report_cards import Cards, Hide, choose, counterparts, make_cards
from luthier.curate.report_charts import NARROW, WIDE, flow_chart, share_text
from luthier.curate.report_private import private_spans
from luthier.curate.report_rows import Row, fetch_rows
from luthier.curate.report_summary import OUT, Group, Summary, summarise
from luthier.curate.report_tables import (
    balance,
    decisions,
    distributions,
    languages,
    leaks,
    passes,
    personal,
    quarantine,
    remarks,
    stages,
    variety,
)  # fmt: skip

REPORT_FILE: Final = "report.html"
_FOLDER = Path(__file__).parent
_SCRIPTS: Final = ("report_marks.js", "report.js")  # one script in the page
_ACTIONS: Final = {
    OUT: "taken out",
    "edit": "changed",
    "flag": "for review",
    "keep": "kept by a person",
    "used": "used",
}


def write_report(
    dataset: Dataset, *, summary: Summary | None = None, hide: Hide = private_spans, workers: int = 1
) -> Path:
    """Write `report.html` into the folder of a dataset, for its passes as they are, and return its path.

    Args:
        summary: from `summarise`, where it was made already.
        hide: finds what no page may show; personal data and secrets.
        workers: processes for counting and fetching.
    """
    found = summary or summarise(dataset, workers=workers)
    order = choose(found)
    rows = fetch_rows(dataset, order, workers=workers)
    rows |= fetch_rows(dataset, counterparts(rows) - rows.keys(), workers=workers)
    cards = make_cards(order, rows, dataset.passes, hide)
    path = dataset.path / REPORT_FILE
    write_text(path, _page(dataset, found, cards, rows))
    return path


def _page(dataset: Dataset, summary: Summary, cards: Cards, rows: Mapping[str, Row]) -> str:
    css, script = page_css(_FOLDER / "report.css"), "".join((_FOLDER / name).read_text("utf-8") for name in _SCRIPTS)
    total = summary.total
    flow = [
        flow_chart(summary.rows_in, stages(summary, dataset.passes, _link), _ends(summary), width=width)
        for width in (WIDE, NARROW)
    ]
    return page_template(_FOLDER / "report.html").render(
        css=Markup(f"\n{css}\n"),
        css_hash=_hash(f"\n{css}\n"),
        script=Markup(f"\n{script}"),
        script_hash=_hash(f"\n{script}"),
        title=title(dataset.state["sources"]),
        luthier=dataset.state["luthier"],
        sources=dataset.state["sources"],
        summary=summary,
        total=total,
        words=f"{count(summary.rows_used)} of {count(summary.rows_in)} rows used",
        line=_line(summary),
        remarks=remarks(summary, dataset.passes),
        tiles=_tiles(summary),
        flow=[Markup(svg) for svg in flow],
        decisions=decisions(summary, dataset.passes, _link),
        balances=balance(summary),
        distributions=distributions(summary),
        variety=variety(summary),
        languages=languages(summary),
        leaks=leaks(dataset.passes),
        personal=personal(summary),
        quarantine=quarantine(summary, rows),
        passes=passes(dataset.view),
        shown=len(cards.rows),
        data=_embedded(_data(dataset, summary, cards)),
    )


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _embedded(value: Any) -> Markup:
    """JSON that may stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _data(dataset: Dataset, summary: Summary, cards: Cards) -> dict[str, Any]:
    """What the script works on: rows, groups, and what a decision file must say about the dataset."""
    groups = [
        {"name": _link(group)[1:], "step": _step(dataset, group), "what": _ACTIONS[what], "reason": reason}
        | {"rows": summary.groups[group], "shown": cards.shown[group]}
        for group in cards.groups
        for _, what, reason in [group]
    ]
    head = {"format": FORMAT, "kind": KIND, "dataset": fingerprint(dataset)}
    head |= {"records": len(dataset.state["records"]), "passes": len(dataset.passes)}
    return {"head": head, "groups": groups, "rows": cards.rows}


def _step(dataset: Dataset, group: Group) -> str:
    return dataset.passes[group[0] - 1].step if group[0] else ""


def _link(group: Group) -> str:
    """The address of a group inside the page."""
    number, what, reason = group
    return f"#show/{number}/{what}/{quote(reason, safe='', errors='replace')}"


def title(sources: Sequence[Mapping[str, Any]]) -> str:
    """The files a dataset was made from, the first two by name."""
    names = [Path(source["name"]).name for source in sources]
    more = len(names) - 2
    shown = " and ".join(names[:2]) if more <= 0 else f"{', '.join(names[:2])} and {more} more"
    return shown or "nothing"


def _ends(summary: Summary) -> list[tuple[str, int]]:
    names = {"": "not split yet", "train": "training", "validation": "validation"}
    return [(names.get(side, side), number) for side, number in summary.sides.items()] or [("used", 0)]


def _line(summary: Summary) -> str:
    out = summary.rows_in - summary.rows_used
    reasons = len({reason for _, what, reason in summary.groups if what == OUT})
    if not out:
        return "No row was taken out."
    return (
        f"{count(out)} {'row was' if out == 1 else 'rows were'} taken out for {count(reasons)} "
        f"{'reason' if reasons == 1 else 'reasons'}. None is deleted: each can be looked at and taken back."
    )


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    total = summary.total
    tiles = [("Rows used", count(summary.rows_used), f"{share_text(summary.rows_used, summary.rows_in)} of those read")]
    held = summary.sides.get("validation", 0)
    note = f"{percent(100 * held / summary.rows_used)} for validation" if held else "no rows for validation"
    tiles.append(("Held out", count(held), note))
    tiles.append(("Trained tokens", f"≈ {compact(total.tokens_used)}", f"of ≈ {compact(total.tokens_in)} read"))
    tiles.append(("Changes", count(summary.count("edit")), "rows changed, by reason and step"))
    tiles.append(("For review", count(summary.count("flag")), "marks; they change nothing"))
    tiles.append(("Unreadable", count(summary.quarantined), "rows that no format fits"))
    return tiles
