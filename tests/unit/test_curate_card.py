"""The card: what the hub reads from it, numbers that add up, and names from outside that cannot break it."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from helpers_curate_report import EVIL, dataset_of, mixed, stored
from luthier.curate.card import write_card
from luthier.curate.example import Entry
from luthier.curate.folder import Dataset
from luthier.curate.materialise import materialise


def committed(dataset: Dataset) -> Dataset:
    """The dataset with its files written."""
    dataset.commit(materialise(dataset))
    return dataset


def head_and_body(path: Path) -> tuple[dict, str]:
    """The YAML between the dashes, and the Markdown."""
    _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return YAML(typ="safe").load(head), body


def test_the_head_leads_to_the_files_by_split(tmp_path: Path) -> None:
    dataset = committed(mixed(tmp_path / "set")[0])
    head, _ = head_and_body(write_card(dataset))
    files = head["configs"][0]["data_files"]
    assert [item["split"] for item in files] == ["train", "validation"]
    assert all((dataset.path / item["path"]).is_file() for item in files)
    assert head["license"] == "unknown" and head["size_categories"] == ["n<1K"]


def test_the_card_tells_what_was_done_with_numbers_that_add_up(tmp_path: Path) -> None:
    dataset = mixed(tmp_path / "set")[0]
    table = [{"set": "gsm8k", "items": 1319, "items_leaked": 2, "rows": 3}]
    dataset.add("leaks", 1, {"table": table}, [])
    _, body = head_and_body(write_card(committed(dataset)))
    assert "3. **defects**, version 1: 3 taken out: 2 × truncated, 1 × empty answer; 1 for review: 1 × asks" in body
    assert "4. **dedup, near**, version 1: 1 taken out: 1 × near duplicate" in body
    assert "5. **review**, version 1: 1 kept by a person: 1 × reviewed" in body
    assert "6. **split**, version 1 (val_size 0.2): 16 put on a side" in body
    assert "It adds up: 21 rows read = 16 used + 2 truncated + 1 empty answer + 1 near duplicate + 1 not JSON." in body
    assert "| rows | 21 | 16 |" in body and "| gsm8k | 1,319 | 2 | 3 |" in body
    assert "| code | 5 | 2 |" in body and "The step personal was not run." in body


def test_what_was_taken_back_is_told(tmp_path: Path) -> None:
    dataset = mixed(tmp_path / "set")[0]
    dataset.add("undo", 1, {"step": "defects"}, [Entry("", "undo", "defects taken back", counterpart="3")])
    _, body = head_and_body(write_card(committed(dataset)))
    assert "3. **defects**, version 1, taken back: nothing to do" in body and "truncated" not in body


def test_the_same_dataset_has_the_same_card_wherever_it_is(tmp_path: Path) -> None:
    cards = [write_card(committed(mixed(tmp_path / name)[0])).read_bytes() for name in ("one", "two")]
    assert cards[0] == cards[1] and str(tmp_path).encode() not in cards[0]


@pytest.mark.parametrize("license", ["cc-by-sa-3.0", 'a"b\\c\nd: e'])
def test_a_licence_that_is_given_is_told(tmp_path: Path, license: str) -> None:
    head, body = head_and_body(write_card(committed(mixed(tmp_path / "set")[0]), license=license))
    assert head["license"] == license.replace("\n", " ") and "licence of the sources" not in body


def test_names_from_outside_cannot_break_the_card(tmp_path: Path) -> None:
    evil = f"{EVIL}|\n---\n# No\n"
    row = stored("Why?", "So.", source=evil, category=evil)
    rows = [row, stored("Why not?", "So.", line=2)]
    dataset = dataset_of(
        tmp_path / "set", rows, [("defects", {"kind": evil, "x": evil}, [Entry(row.id, "drop", evil)])]
    )
    text = write_card(committed(dataset)).read_text(encoding="utf-8")
    assert text.count("\n---\n") == 1 and "\n# No" not in text and "\u2028" not in text
    outside_code = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "<script" not in outside_code.replace("\\<script", "")
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert tables and all(line.endswith(" |") for line in tables)


def test_many_categories_are_cut_and_said_so(tmp_path: Path) -> None:
    rows = [stored(f"Why {n}?", "So.", line=n, category=f"c{n:03}") for n in range(50)]
    _, body = head_and_body(write_card(committed(dataset_of(tmp_path / "set", rows))))
    assert "20 smaller categories are not shown." in body and "| c029 |" in body and "| c030 |" not in body
