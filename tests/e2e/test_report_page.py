"""Reports in a real browser: a reviewer at work in that of a dataset, and that of an eventful run on two screens."""

import json
import time
from pathlib import Path

import pytest

from helpers_browser import CHROMIUM, browser
from helpers_cli import Desk
from helpers_curate_report import mixed
from luthier.curate.folder import Dataset
from luthier.curate.history import why
from luthier.curate.work import finish
from luthier.evaluate.report import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def test_review(tmp_path: Path) -> None:
    dataset, rows = mixed(tmp_path / "d")
    finish(dataset)
    dropped, out, edited = rows[4].id, rows[2].id, rows[7].id

    def card(row: str) -> str:
        return f'.card[data-id="{row}"]'

    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "d" / "report.html")
        assert page.value("!document.getElementById('bar').hidden")
        assert page.value("document.getElementById('save').disabled")

        # Search, and mark with keys.
        page.click("#search")
        page.type("number 4?")
        page.until("document.querySelectorAll('.card').length === 1")
        page.press("Escape")
        page.press("j")
        page.press("d")
        assert page.value(f"""document.querySelector('{card(dropped)} [data-act="drop"]').ariaPressed""") == "true"

        # Another row, edited with a click.
        page.value("document.getElementById('search').value = ''")
        page.click("#search")
        page.type("number 7?")
        page.until(f"document.querySelector('{card(edited)}') && document.querySelectorAll('.card').length === 1")
        page.click(f'{card(edited)} [data-act="edit"]')
        field = f'{card(edited)} [data-field="messages.1.content"] textarea'
        page.value(f"document.querySelector('{field}').select()")
        page.click(field)
        page.value(f"document.querySelector('{field}').select()")
        page.type("A better answer.")

        # By its reason, from the list.
        page.value("""(() => {
            const list = document.getElementById("group");
            list.value = [...list.options].find((one) => one.text.startsWith("truncated")).value;
            document.getElementById("search").value = "number 2?";
            list.dispatchEvent(new Event("change"));
        })()""")
        page.until("document.querySelectorAll('.card').length === 1")
        page.click(f'{card(out)} [data-act="keep"]')
        assert page.value("document.getElementById('save').textContent") == "Save 3 decisions"
        page.click("#save")
        saved = tmp_path / "profile" / "decisions.json"
        end = time.monotonic() + 20
        while not saved.exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert page.errors == []

    assert sorted(item["action"] for item in json.loads(saved.read_text())["decisions"]) == ["drop", "edit", "keep"]
    said, _ = Desk(tmp_path).run("data", "apply", dataset.path, saved)
    assert "3 decisions folded in" in said
    now = {row: why(Dataset(tmp_path / "d"), row).now for row in (dropped, out, edited)}
    assert now[dropped].out is not None and now[out].out is None
    assert now[edited].example is not None and now[edited].example.answer == "A better answer."


def _eventful(folder: Path) -> Path:
    """A report with every section about what a run noticed and did."""
    folder.mkdir()
    steps = [
        {"event": "step", "step": n, "epoch": n / 20, "loss": 2.0 - n / 50, "grad_norm": 0.5} for n in range(1, 31)
    ]
    watched = {"event": "forgetting", "n": 40, "budget": 0.08, "verdict": "too much", "text": "too much: +0.10"}
    point = {"target_interval": [-0.3, -0.1], "general_interval": [0.0, 0.04], "target_change": -0.2, "inside": True}
    events = [
        {"event": "start", "total_steps": 60},
        {"event": "range_test", "rates": [1e-5, 1e-4, 1e-3], "losses": [3, 2, 4], "chosen": 1e-4, "why": "it falls"},
        *steps,
        *({"event": "validation", "step": n, "loss": 2 - n / 60, "probe_loss": 2 - n / 40} for n in (0, 10, 20, 30)),
        {"event": "skipped", "step": 31, "reason": "the loss is not finite", "wheres": ["data/a/path:" + "9" * 80]},
        {"event": "rewind", "step": 33, "to_step": 20, "next_step": 36, "reason": "it is rising", "rate_scale": 0.5},
        {"event": "overfit", "step": 20, "times": 2, "since": 10, "text": "Overfitting: by heart."},
        {**watched, "step": 10, "change": 0.1, "interval": [0.05, 0.15]},
        {**watched, "step": 20, "change": 0.12, "interval": [0.06, 0.18]},
        {"event": "strength", "chosen": 0.5, "accepted": True, "text": "strength 0.5",
         "points": [{**point, "strength": s, "general_change": s / 10} for s in (0.25, 0.5, 1.0)]},
        {"event": "end", "status": "overfitting"},
    ]  # fmt: skip
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return write_report(folder)


@pytest.mark.parametrize(("width", "shown", "hidden"), [(1200, ".wide", ".narrow"), (380, ".narrow", ".wide")])
def test_the_report_of_an_eventful_run_fits_the_screen(tmp_path: Path, width: int, shown: str, hidden: str) -> None:
    path = _eventful(tmp_path / "run")
    with browser(tmp_path / "profile") as page:
        page.open(path)
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        assert page.value("document.documentElement.scrollWidth") <= width
        assert page.value(f"document.querySelectorAll('figure {shown} svg').length") >= 5
        assert page.value(f"[...document.querySelectorAll('figure {hidden}')].every((one) => one.offsetHeight === 0)")
        # Texts of a chart stay within it, and its colours follow the scheme.
        assert page.value(f"""[...document.querySelectorAll('figure {shown} svg')].every((chart) => {{
            const frame = chart.getBoundingClientRect();
            return [...chart.querySelectorAll('text')].every((text) => {{
                const box = text.getBoundingClientRect();
                return box.left >= frame.left - 2 && box.right <= frame.right + 2;
            }});
        }})""")
        colour = "getComputedStyle(document.querySelector('.words')).color"
        light = page.value(colour)
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        assert page.value(colour) != light
        assert page.errors == []
