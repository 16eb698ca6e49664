"""The part of the report's script that knows no page: marks, filters, and the file that `luthier data apply` reads."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_curate_report import page_of

from helpers_curate_report import EVIL, dataset_of, mixed, stored
from luthier.curate import report
from luthier.curate.apply import read_decisions
from luthier.curate.history import why
from luthier.curate.report import write_report

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="the report's script runs in node, which is not installed")
SCRIPT = Path(report.__file__).parent / "report_marks.js"


def script(code: str, **values: Any) -> Any:
    """What `code` returns in JavaScript, where these values and the functions of the script are known."""
    given = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in values.items())
    body = f"{SCRIPT.read_text()}{given}process.stdout.write(JSON.stringify((() => {{ {code} }})()));"
    done = subprocess.run([NODE, "-"], input=body, capture_output=True, text=True, encoding="utf-8", timeout=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def row(state: str = "train", *texts: str, **values: Any) -> dict[str, Any]:
    """A row as the page has it, with fields f0, f1, …; each text in two parts, as one with something marked in it."""
    parts = [{"role": "user", "field": f"f{n}", "parts": [["=", t[:2]], ["~", t[2:]]]} for n, t in enumerate(texts)]
    return {"id": "r", "where": "a.jsonl:1", "state": state, "category": "", "groups": [0], "texts": parts} | values


def after(one: dict[str, Any], *acts: str) -> dict[str, Any]:
    """The mark of a row after these acts; edits as a list of (field, edit)."""
    code = """
      const mark = newMark();
      for (const name of acts) changeMark(mark, one, name);
      return { action: mark.action, edits: [...mark.edits] };
    """
    return script(code, one=one, acts=list(acts))


@pytest.mark.parametrize(
    ("state", "acts", "action", "edited"),
    [
        ("train", ["drop"], "drop", False),
        ("train", ["drop", "drop"], "", False),
        ("train", ["drop", "keep"], "keep", False),
        ("train", ["edit"], "", True),
        ("train", ["edit", "edit"], "", False),
        ("train", ["edit", "drop"], "drop", False),
        ("train", ["drop", "edit"], "", True),
        ("train", ["edit", "keep"], "keep", True),
        ("out", ["edit"], "keep", True),  # only what comes back can be edited
        ("out", ["edit", "keep"], "", False),
        ("unreadable", ["keep"], "", False),
        ("unreadable", ["edit"], "", False),
    ],
)
def test_marks(state: str, acts: list[str], action: str, edited: bool) -> None:
    mark = after(row(state, "one text", "another"), *acts)
    assert mark["action"] == action
    texts = {"f0": "one text", "f1": "another"} if edited else {}
    assert dict(mark["edits"]) == {field: {"before": text, "after": text} for field, text in texts.items()}


def test_what_is_hidden_cannot_be_edited() -> None:
    hidden = row("train", "open", "hidden")
    del hidden["texts"][1]["field"]
    assert [field for field, _ in after(hidden, "edit")["edits"]] == ["f0"]


def test_decisions_are_in_order_and_hold_only_changes() -> None:
    code = """
      const edits = new Map([["f1", { before: "a", after: "b" }], ["f0", { before: "a", after: "a" }]]);
      const marks = new Map([["b", { action: "keep", edits }], ["c", newMark()], ["a", newMark()]]);
      marks.get("a").action = "drop";
      return decisionsOf(marks);
    """
    assert script(code) == [
        {"id": "a", "action": "drop"},
        {"id": "b", "action": "edit", "field": "f1", "before": "a", "after": "b"},
        {"id": "b", "action": "keep"},
    ]


@pytest.mark.parametrize(
    ("group", "category", "words", "found"),
    [
        (-1, "", "", "abc"),
        (1, "", "", "bc"),
        (-1, "=", "", "a"),
        (-1, "=code", "", "bc"),
        (-1, "", "  PEAR ", "b"),  # split over two parts, searched in any case
        (-1, "", "counterpart", "c"),
        (-1, "", "rows.jsonl:7", "c"),
        (0, "=code", "", ""),
        (1, "=code", "quince", ""),
    ],
)
def test_filters(group: int, category: str, words: str, found: str) -> None:
    rows = [
        row("train", "an apple", id="a"),
        row("train", "a Pear", id="b", category="code", groups=[1]),
        row("out", "a plum", id="c", category="code", groups=[1, 2], where="rows.jsonl:7",
            other=row("train", "its counterpart")),
    ]  # fmt: skip
    code = "return matching(rows, group, category, words).map((one) => one.id).join('');"
    assert script(code, rows=rows, group=group, category=category, words=words) == found


def test_from_the_page_to_the_ledger(tmp_path: Path) -> None:
    dataset, rows = mixed(tmp_path / "d")
    _, data = page_of(write_report(dataset))
    ids = {"drop": rows[4].id, "keep": rows[2].id, "edit": rows[7].id, "back": rows[0].id}
    code = """
      const marks = new Map();
      const act = (id, name) => {
        if (!marks.has(id)) marks.set(id, newMark());
        changeMark(marks.get(id), data.rows.find((one) => one.id === id), name);
        return marks.get(id);
      };
      act(ids.drop, "drop");
      act(ids.keep, "keep");
      for (const id of [ids.edit, ids.back]) {
        act(id, "edit").edits.get("messages.1.content").after = after;
      }
      return fileOf(data.head, decisionsOf(marks));
    """
    text = f"Said anew,\r\nin two lines. é\u2028 {EVIL}"
    (tmp_path / "decisions.json").write_text(script(code, data=data, ids=ids, after=text), encoding="utf-8")
    dataset.add("review", 1, {"file": "decisions.json"}, read_decisions(tmp_path / "decisions.json", dataset))
    now = {name: why(dataset, key).now for name, key in ids.items()}
    assert now["drop"].out is not None and now["drop"].out.reason == "reviewed"
    assert now["keep"].out is None and now["keep"].example.answer == "Answer 2 in some words."
    assert now["edit"].out is None and now["edit"].example.answer == text
    assert now["back"].out is None and now["back"].example.answer == text


def test_the_texts_of_a_page_are_whole(tmp_path: Path) -> None:
    """An edit holds the text before it, which must be the record's own, however the page coloured it."""
    answer = f"First line\r\n\tsecond   line {EVIL} \U0001f600 "
    dataset = dataset_of(tmp_path / "d", [stored("Why?", answer)], [("read", {}, [])])
    _, data = page_of(write_report(dataset))
    code = "const mark = newMark(); changeMark(mark, data.rows[0], 'edit'); return [...mark.edits];"
    assert dict(script(code, data=data))["messages.1.content"]["before"] == answer
