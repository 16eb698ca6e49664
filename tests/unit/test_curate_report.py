"""The dataset report: numbers add up, no data becomes code, personal data stay out, the page stays small."""

import json
import re
import xml.etree.ElementTree as ElementTree
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from helpers_curate_report import EVIL, answer_of, dataset_of, mixed, stored, unreadable
from luthier.curate.example import Entry
from luthier.curate.materialise import materialise
from luthier.curate.report import write_report
from luthier.curate.report_cards import choose, make_cards, masked
from luthier.curate.report_charts import Stage, flow_chart, histogram, share_text
from luthier.curate.report_diff import clip, compare, edit_parts, marked, visible
from luthier.curate.report_rows import fetch_rows, rows_of
from luthier.curate.report_summary import OUT, PICKED, PICKED_USED, USED, Counting, summarise

VOID = {"meta", "input", "link", "br", "img"}


class Page(HTMLParser):
    """Tags and their attributes, the text outside scripts, and each script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.inside, self.raw = "", [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.inside.append(tag)
        if tag in ("script", "style"):
            self.raw.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] in ("script", "style"):
            self.raw[-1] += data
        else:
            self.text += data


def no_one(_: str) -> list[tuple[int, int, str]]:
    return []


def page_of(path: Path) -> tuple[Page, dict[str, Any]]:
    """The parsed page and the data embedded in it."""
    page = Page(path.read_text(encoding="utf-8"))
    return page, json.loads(page.raw[1])


# ---- numbers ----


def test_every_row_counts_once(tmp_path: Path) -> None:
    dataset, _ = mixed(tmp_path / "set")
    found = summarise(dataset)
    out = {group: n for group, n in found.groups.items() if group[1] == OUT}
    assert (found.rows_in, found.rows_used, found.quarantined) == (21, 16, 1)
    assert out == {
        (1, OUT, "not JSON"): 1, (3, OUT, "empty answer"): 1, (3, OUT, "truncated"): 2, (4, OUT, "near duplicate"): 1,
    }  # fmt: skip
    assert found.rows_in == found.rows_used + sum(out.values())
    assert sum(found.sides.values()) == found.rows_used
    assert found.groups[2, "edit", "mojibake"] == 1 and found.groups[5, "keep", "reviewed"] == 1
    assert found.groups[0, USED, ""] == 12, "17 in, less 2 changed, 1 flagged and 1 kept"
    assert {name: (t.rows_in, t.rows_used) for name, t in found.categories.items()} == {
        "": (1, 0), "code": (5, 2), "prose": (15, 14),
    }  # fmt: skip
    assert found.total.rows_in == sum(t.rows_in for t in found.categories.values()) == 21
    assert found.before.everything.rows == 20 and found.after.everything.rows == 16


def test_what_was_taken_back_does_not_count(tmp_path: Path) -> None:
    dataset, _ = mixed(tmp_path / "set")
    dataset.add("undo", 1, {}, [Entry("", "undo", "defects taken back", counterpart="3")])
    found = summarise(dataset)
    assert found.rows_used == 19 and found.count(OUT, 3) == found.count("flag") == 0


def test_an_edit_that_no_longer_applies_is_told(tmp_path: Path) -> None:
    row = stored("Why?", "Becasue.")
    field = "messages.1.content"
    edits = [Entry(row.id, "edit", "a", field, before="Becasue.", after="Because.")]
    more = [Entry(row.id, "edit", "b", field, before="Because.", after="Because of it.")]
    dataset = dataset_of(tmp_path / "set", [row], [("repair", {}, edits), ("defects", {}, more)])
    dataset.add("undo", 1, {}, [Entry("", "undo", "", counterpart="1")])
    assert summarise(dataset).void == 1
    assert "1\u00a0edit no longer applies" in page_of(write_report(dataset))[0].text


def test_tokens_count_as_often_as_they_are_trained_on(tmp_path: Path) -> None:
    rows = [stored("Why?", "one two three four", line=n, category="ab"[n]) for n in range(2)]
    repeats = [Entry(rows[0].id, "repeat", "balance", score=2.5)]
    tallies = summarise(dataset_of(tmp_path / "set", rows, [("balance", {}, repeats)])).categories
    assert tallies["a"].tokens_used == 2.5 * tallies["a"].tokens_in
    assert tallies["b"].tokens_used == tallies["b"].tokens_in > 0


def test_picks_are_the_smallest_ids_up_to_the_cap(tmp_path: Path) -> None:
    rows = [stored(f"Q {n}?", "Yes, of course.", line=n) for n in range(PICKED + PICKED_USED + 200)]
    gone = rows[: PICKED + 50]
    dataset = dataset_of(tmp_path / "set", rows, [("defects", {}, [Entry(r.id, "drop", "short") for r in gone])])
    found = summarise(dataset)
    assert found.picks[1, OUT, "short"] == tuple(sorted(row.id for row in gone)[:PICKED])
    assert len(found.picks[0, USED, ""]) == PICKED_USED
    _, data = page_of(write_report(dataset, summary=found))
    group = next(group for group in data["groups"] if group["reason"] == "short")
    assert (group["shown"], group["rows"]) == (PICKED, PICKED + 50)


def test_the_walk_that_writes_the_dataset_counts_as_well(tmp_path: Path) -> None:
    dataset, _ = mixed(tmp_path / "set")
    counting = Counting(dataset)
    state = materialise(dataset, also=counting.count, found=counting.add)
    assert state == materialise(dataset)
    assert counting.summary() == summarise(dataset)


def test_batches_of_any_size_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.curate.folder.BATCH", 4)
    rows = [stored(f"Question {n}?", f"Answer {n}.", line=n, category="abc"[n % 3]) for n in range(40)]
    drops = [Entry(row.id, "drop", "short") for row in rows[::5]]
    dataset = dataset_of(tmp_path / "set", rows, [("defects", {}, drops)])
    batches = [rows_of(dataset.view, index) for index in range(len(dataset.view.batches))]
    assert [len(batch) for batch in batches] == [4] * 10
    found = summarise(dataset)
    monkeypatch.setattr("luthier.curate.folder.BATCH", 4096)
    again = dataset_of(tmp_path / "again", rows, [("defects", {}, drops)])
    assert found == summarise(again)


# ---- the page ----


def test_the_page_has_every_part_and_its_numbers(tmp_path: Path) -> None:
    dataset, rows = mixed(tmp_path / "set")
    dataset.add("leaks", 1, {"table": [{"set": "gsm8k", "items": 1319, "items_leaked": 2, "rows": 3}]}, [])
    page, data = page_of(write_report(dataset))
    told = ("16 of 21 rows used", "21 read = 16 used + 2 + 1 + 1 + 1", "1,319", "near duplicate", "dedup, near")
    for text in (*told, "line ends early", "luthier data undo DIR --step dedup", "val_size 0.2", "0" * 64):
        assert text in page.text, text
    assert len(data["rows"]) == 21 and {row["id"] for row in data["rows"]} == {row.id for row in rows}
    card = next(row for row in data["rows"] if row["id"] == rows[9].id)
    assert card["state"] == "out" and card["other"]["id"] == rows[10].id
    assert ["~", "9"] in [[kind, text.rstrip("?")] for kind, text in card["texts"][0]["parts"]]
    marked_row = next(row for row in data["rows"] if row["id"] == rows[1].id)
    assert ["!", "Answer"] in marked_row["texts"][1]["parts"]
    edited = next(row for row in data["rows"] if row["id"] == rows[6].id)
    assert ["+", "⟨U+200B⟩"] in edited["edits"][0]["parts"]


def test_texts_from_the_data_never_become_code(tmp_path: Path) -> None:
    rows = [
        stored(f"{EVIL} {n}", f"{EVIL} {n}", source=f"{EVIL}.jsonl", line=n, category=f"{EVIL}{n % 2}")
        for n in range(4)
    ]
    bad = unreadable(EVIL, source=f"{EVIL}.jsonl")
    drop = [Entry(rows[0].id, "drop", EVIL, EVIL, detail=EVIL, counterpart=rows[1].id), Entry(bad.id, "drop", EVIL)]
    flag = [Entry(rows[2].id, "flag", EVIL, detail=EVIL)]
    table = [{"set": EVIL, "items": 1, "items_leaked": 1, "rows": 1}]
    passes = [("read", {EVIL: EVIL}, drop), ("defects", {"kind": EVIL}, flag), ("leaks", {"table": table}, [])]
    dataset = dataset_of(tmp_path / "set", [*rows, bad], passes)
    page, data = page_of(write_report(dataset))
    assert not page.inside, "every element is closed"
    assert not re.search("[<>&\u2028]", page.raw[1]), "nothing in the data can end its element"
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "script"] == ["application/json", None]
    assert not any(tag in ("img", "iframe", "object", "link", "base", "form") for tag, _ in page.tags)
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.tags for name in attributes)
    links = [attributes["href"] or "" for tag, attributes in page.tags if tag == "a"]
    assert links and all(link.startswith("#show/") and re.fullmatch(r"[#\w./%~-]+", link) for link in links)
    assert any(EVIL in part for row in data["rows"] for text in row["texts"] for _, part in text["parts"])


def test_the_page_allows_only_its_own_script_and_style(tmp_path: Path) -> None:
    page, _ = page_of(write_report(mixed(tmp_path / "set")[0]))
    policy = next(a["content"] or "" for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    style, _, script = page.raw
    hashes = [f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in (style, script)]
    assert policy.split("; ")[:3] == ["default-src 'none'", f"style-src {hashes[0]}", f"script-src {hashes[1]}"]
    assert not re.search(r"https?://|@import|url\(", style + script)
    assert "innerHTML" not in script and "eval(" not in script


def test_personal_data_are_nowhere_in_the_page(tmp_path: Path) -> None:
    mail, key = "jane.roe@corp-mail.net", "AKIAQYLPMN5HHHFPZAM2"
    rows = [
        stored(f"Who is {mail}?", f"Write to {mail}.", line=1),
        stored("Sign in?", f"With {key} of course.", line=2),
        stored(f"Who is {mail}", f"Write to {mail} or not.", line=3),
    ]
    field = "messages.1.content"
    passes = [
        ("defects", {}, [Entry(rows[0].id, "duplicate", "near duplicate", counterpart=rows[2].id)]),
        ("personal", {}, [Entry(rows[1].id, "edit", "secret key", field, score=1, before=answer_of(rows[1]),
                                after="With [KEY_1] of course.", detail="KEY: AK…M2")]),
    ]  # fmt: skip
    bad = unreadable(f'{{"mail": "{mail}"')
    path = write_report(dataset_of(tmp_path / "set", [*rows, bad], passes))
    text = path.read_text(encoding="utf-8")
    page, data = page_of(path)
    assert mail not in text and key not in text and "AK…M2" not in text
    assert re.search(r"KEY\s+secret key\s*1", page.text), "the counts are there"
    edits = next(row["edits"] for row in data["rows"] if row["id"] == rows[1].id)
    assert ["-", "•••"] in edits[0]["parts"] and ["+", "[KEY_1]"] in edits[0]["parts"]
    shown = next(row for row in data["rows"] if row["id"] == rows[0].id)
    assert all("field" not in text for text in shown["texts"]), "what is masked cannot be edited"


def test_texts_that_may_be_edited_are_whole(tmp_path: Path) -> None:
    rows = [stored("Short?", "x" * 50_000), stored("Short too?", "An answer.", line=2)]
    _, data = page_of(write_report(dataset_of(tmp_path / "set", rows)))
    long, short = (next(row for row in data["rows"] if row["id"] == r.id)["texts"] for r in rows)
    assert [text.get("field") for text in long] == ["messages.0.content", None]
    assert long[1]["parts"][-1][0] == "…"
    assert [text["field"] for text in short] == ["messages.0.content", "messages.1.content"]


def test_the_page_stays_small(tmp_path: Path) -> None:
    rows = [stored(f"Q {n}? " + "why " * 500, "because " * 280, line=n) for n in range(300)]
    dataset = dataset_of(tmp_path / "set", rows, [("defects", {}, [Entry(r.id, "drop", "long") for r in rows])])
    found = summarise(dataset)
    order = choose(found)
    cards = make_cards(order, fetch_rows(dataset, order), dataset.passes, no_one, most_bytes=100_000)
    assert 0 < len(cards.rows) < 300 and cards.shown[1, OUT, "long"] == len(cards.rows)
    assert len(json.dumps(cards.rows)) < 120_000


def test_the_same_dataset_has_the_same_page_wherever_it_is(tmp_path: Path) -> None:
    pages = [write_report(mixed(tmp_path / name)[0]).read_bytes() for name in ("one", "two")]
    assert pages[0] == pages[1] and str(tmp_path).encode() not in pages[0]


def test_a_dataset_without_decisions_has_a_page(tmp_path: Path) -> None:
    page, data = page_of(write_report(dataset_of(tmp_path / "set", [stored("Why?", "So.")])))
    assert "1 of 1 rows used" in page.text and "No row was taken out." in page.text and len(data["rows"]) == 1


# ---- parts ----


def test_edits_show_what_changed_and_name_what_cannot_be_seen() -> None:
    parts = edit_parts("It doesnâ€™t work.", "It doesn’t work.")
    assert "".join(text for kind, text in parts if kind != "-") == "It doesn’t work."
    assert parts[0] == ["", "It "] and parts[-1][0] == "" and parts[-1][1].endswith(" work.")
    assert ["-", "⟨U+200B⟩"] in edit_parts("a \u200b b", "a  b")
    assert visible("a\nb\u202e\x00") == "a↵\nb⟨U+202E⟩⟨U+0000⟩"
    far = edit_parts("a" + " word" * 400 + " end", "a" + " word" * 400 + " stop")
    assert far[0][0] == "…" and far[-1] == ["+", "stop"]


@pytest.mark.parametrize(
    ("left", "right"), [("a b c", "a x c"), ("", "a"), ("same", "same"), ("x " * 3000, "y " * 3000)]
)
def test_parts_put_together_are_the_text(left: str, right: str) -> None:
    one, other = compare(left, right)
    assert ("".join(text for _, text in one), "".join(text for _, text in other)) == (left, right)
    assert any(kind == "~" for kind, _ in one + other) == (left != right)


def test_clipped_and_marked_parts() -> None:
    assert clip([["", "abcdef"], ["!", "ghi"]], 4) == [["", "abcd"], ["…", "5 more characters"]]
    assert clip([["", "abc"]], 3) == [["", "abc"]]
    assert marked("abcdef", 2, 4) == [["", "ab"], ["!", "cd"], ["", "ef"]]
    assert marked("abc", 0, 0) == marked("abc", 2, 9) == [["", "abc"]]


def test_masking_keeps_track_of_places() -> None:
    text, place = masked("to jane@x.org, now", lambda _: [(3, 13, "EMAIL")])
    assert text == "to [EMAIL], now"
    assert text[place(15) :] == "now" and place(0) == 0


# ---- pictures ----


def test_shares_never_read_as_nothing_or_everything() -> None:
    values = [share_text(part, 1_000_000) for part in (0, 1, 300, 5_000, 999_999, 1_000_000)]
    assert [value.replace("\u00a0", " ") for value in values] == [
        "0 %",
        "0.000 %",
        "0.03 %",
        "0.5 %",
        "100.000 %",
        "100 %",
    ]


def test_pictures_are_whole_and_escaped() -> None:
    stages = [Stage(EVIL, EVIL, [(EVIL, 300, "#a"), ("b", 0, "#b")]), Stage("none", "", [])]
    flow = flow_chart(1000, stages, [("used", 700)], width=904)
    bars = histogram(["0", "1"], [1, 2], [0, 0], title=EVIL, x_label=EVIL)
    for svg in (flow, bars):
        root = ElementTree.fromstring(svg)
        assert {node.tag for node in root.iter()} <= {"svg", "title", "path", "text", "line", "rect", "a"}
    stream = re.search(r'class="stream" d="M0 0L260.00 0.0.*L(\d+\.\d\d) [\d.]+L0', flow)
    assert stream is not None and float(stream[1]) == 182, "70 % of its width at the end"
    assert histogram(["0"], [0], [0], title="", x_label="") == ""
