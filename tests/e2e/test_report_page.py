"""A reviewer at work: the report in a real browser, rows marked in it, decisions saved, and folded into the dataset."""

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
