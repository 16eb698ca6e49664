"""The report page: self-contained, escaped, with the run's numbers, and honest where something is missing."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from luthier.evaluate.report import write_report

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> https://evil.example/a.js"
HELDOUT = {
    "event": "heldout",
    "rows": 288,
    "groups": 14,
    "label_tokens": 90_000,
    "before": 2.31,
    "after": 1.82,
    "change_percent": 21.2,
    "interval": [18.9, 23.4],
    "loss_interval": [0.43, 0.55],
    "method": "paired bootstrap over 14 groups",
    "verdict": "clearly better",
}
DATA = {
    "rows_in": 1000,
    "train_rows": 700,
    "val_rows": 288,
    "train_tokens": 50_000,
    "val_tokens": 9_000,
    "dropped": {"dropped: longer than sequence_len": 9, "roles out of order": 3},
    "changed": {"cut to sequence_len": 4},
}


def _start(**fields: Any) -> dict[str, Any]:
    start = {
        "model": {"name": "tiny", "path": "/models/tiny", "parameters": 1e6},
        "adapter": {"r": 8, "parameters": 5e4},
    }
    return {"event": "start", "data": DATA, "total_steps": 60, "dtype": "bf16", **start, **fields}


def _steps(last: int = 60) -> list[dict[str, Any]]:
    more = {"grad_norm": 0.5, "learning_rate": 1e-4, "tokens_per_second": 1180.0}
    return [
        {"event": "step", "step": n, "epoch": n / 60, "loss": 2.5 - n / 100, "total_tokens": 100 * n, **more}
        for n in range(1, last + 1)
    ]


def _validations(*losses: float) -> list[dict[str, Any]]:
    return [{"event": "validation", "step": 20 * index, "loss": loss} for index, loss in enumerate(losses)]


def _sample(**fields: Any) -> dict[str, Any]:
    return {"event": "sample", "record_id": "r", "prompt": "p", "answer": "a", "expected": "e", **fields}


def _end(status: str = "finished") -> dict[str, Any]:
    return {"event": "end", "status": status, "best_step": 60, "peak_rss_bytes": 3 * 2**30}


def _page(folder: Path, *events: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8").replace("\u00a0", " ")


@pytest.fixture
def finished(tmp_path: Path) -> str:
    run = tmp_path / "my run"
    (run / "adapter").mkdir(parents=True)
    (run / "recipe.yaml").write_text("lora_r: 8  # & <b>\n")
    (run / "manifest.json").write_text(json.dumps({"data": "abc123", "machine": {"memory_bytes": 2**34}}))
    events = [_start(), *_validations(2.31, 2.0, 1.9, 1.82), *_steps(), HELDOUT]
    return _page(run, *events, _sample(when="before"), _sample(when="after", answer="better"), _end())


class _Tags(HTMLParser):
    """Every tag with its attributes, and whether open and closed tags match."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(page)
    assert parser.open == []
    return parser.tags


def test_it_says_the_verdict_with_its_numbers(finished: str) -> None:
    assert "Clearly better" in finished
    line = "Held-out loss 2.31 → 1.82 (21.2 % lower, 95 % interval 18.9–23.4 %, n = 288 records in 14 groups)"
    assert line in finished
    assert "paired bootstrap over 14 groups" in finished.lower() and "90,000 label tokens" in finished


def test_it_shows_the_key_facts_and_the_data(finished: str) -> None:
    for text in ("60 of 60", "6,000", "50,000", "5 % of 1 M", "1,180 tokens/s", "3.0 GiB"):
        assert text in finished, text
    rows = re.findall(r'<th scope="row">([^<]*)</th><td>([^<]*)</td>', finished)
    assert rows[:4] == [
        ("Rows read", "1,000"),
        ("longer than sequence_len", "− 9"),
        ("roles out of order", "− 3"),
        ("Rows used", "988"),
    ]
    assert "not accounted for" not in finished
    assert ("data", "abc123") in rows and ("machine memory", "16.0 GiB") in rows


def test_it_tells_how_to_use_the_result(finished: str, tmp_path: Path) -> None:
    folder = f"&#39;{tmp_path}/my run&#39;"  # quoted for the shell, escaped for the page
    assert f"luthier chat {folder} --compare" in finished
    assert "PeftModel.from_pretrained" in finished and "/models/tiny" in finished
    assert "--resume" not in finished
    assert "lora_r: 8  # &amp; &lt;b&gt;" in finished


def test_the_charts_are_whole_svg(finished: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", finished, flags=re.DOTALL)
    assert len(charts) == 2 + 2 + 3  # interval and loss, each wide and narrow; three small ones
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.get("aria-label") and root.find("title") is not None
        assert "nan" not in chart and "inf" not in chart.replace("interval", "")


def test_it_needs_nothing_from_elsewhere(finished: str) -> None:
    for tag, attributes in _tags(finished):
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base"), tag
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href", "xlink:href") or (value or "").startswith("#")
    assert "url(" not in finished and "@import" not in finished and "default-src 'none'" in finished


def test_text_from_data_and_model_cannot_become_markup(tmp_path: Path) -> None:
    run = tmp_path / "<i>run"
    run.mkdir()
    (run / "recipe.yaml").write_text(f"base_model: {EVIL}")
    (run / "manifest.json").write_text(json.dumps({EVIL: EVIL}))
    data = {
        **DATA,
        "dropped": {EVIL: 12},
        "changed": {EVIL: 1},
        "notes": [EVIL],
        "sources": [{"path": EVIL, "rows": 1}],
    }
    page = _page(
        run,
        _start(model={"name": EVIL, "path": EVIL}, data=data, dtype=EVIL, device=EVIL, settings={EVIL: EVIL}),
        *_validations(2.3, 2.0),
        *_steps(),
        {**HELDOUT, "verdict": EVIL, "method": EVIL},
        _sample(prompt=EVIL, expected=EVIL, answer=EVIL, when="before"),
        _sample(prompt=[{"role": EVIL, "content": EVIL}], answer=EVIL, when="after"),
        {"event": "warning", "text": EVIL},
        {"event": "end", "status": EVIL},
    )
    tags = _tags(page)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in tags)
    assert all(attributes.get("class") for tag, attributes in tags if tag == "i")  # the legend's keys, not "<i>run"
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert page.count("&lt;script&gt;") >= 15


def test_rows_that_do_not_add_up_are_shown(tmp_path: Path) -> None:
    page = _page(tmp_path, _start(data={**DATA, "rows_in": 1007}))
    assert "not accounted for" in page and "− 7" in page


def test_added_rows_are_not_a_fault(tmp_path: Path) -> None:
    page = _page(tmp_path, _start(data={**DATA, "rows_in": 998}))
    assert "+ 2" in page and "not accounted for" not in page


def test_without_validation_it_says_that_nothing_was_measured(tmp_path: Path) -> None:
    page = _page(tmp_path, _start(), *_steps(), _sample(when="before"), _end())
    assert "Not measured" in page and "held no data back" in page
    assert "Prompts from the training data" in page
    assert "Can this be believed?" not in page


def test_an_interrupted_run_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    checkpoint = {"event": "checkpoint", "step": 20, "path": "checkpoints/step-000020"}
    page = _page(tmp_path, _start(), *_validations(2.3, 2.1), *_steps(30), checkpoint, _end("interrupted"))
    assert "stopped at step 30 of 60" in page and "checkpoint at step 20" in page
    assert f"luthier train --resume {tmp_path}" in page
    assert "luthier chat" not in page  # there is no adapter yet


def test_a_run_that_died_at_once_has_no_charts(tmp_path: Path) -> None:
    page = _page(tmp_path, {"event": "start"})
    assert "<svg" not in page and "Too few steps" in page and "Broke off" in page
    assert "--resume" not in page
    _tags(page)


def test_an_answer_that_is_empty_is_not_one_that_is_missing(tmp_path: Path) -> None:
    page = _page(tmp_path, _start(), _sample(when="before", answer="", complete=False))
    assert "(an empty answer)" in page and "not recorded" in page and "stopped at max_new_tokens" in page


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    assert "damaged: it cannot be read" in _page(tmp_path, _start())
