"""Curation as a person types it: files to a folder, why, undo, balance, other formats, review, and what goes wrong."""

import json
import re
from pathlib import Path

import pytest

from helpers_cli import Desk
from helpers_runs import write_rows

FRUIT = ("apple", "pear", "plum", "cherry", "quince", "fig", "grape", "lemon", "melon", "peach", "medlar", "olive")
TEXTS = {
    "code": ("Write a Python function that returns the word {}.", 'def word():\n    """The word."""\n    return "{}"'),
    "docs": ("How would you describe a {} to somebody who never saw one?", "A {} is a fruit that grows on a tree."),
}


def rows() -> list[dict[str, str] | str]:
    made: list[dict[str, str] | str] = [
        {"instruction": ask.format(fruit), "input": "", "output": answer.format(fruit), "category": category}
        for category, (ask, answer) in TEXTS.items()
        for fruit in FRUIT
        if category == "code" or fruit < "f"
    ]
    copy = dict(made[0])
    mail = {
        "instruction": "Whom do I write to about the orchard in the valley?",
        "input": "",
        "output": "Write to rosamund.pike@orchards-of-kent.co.uk, who answers within a day or two.",
        "category": "docs",
    }
    return [*made, copy, mail, '{"instruction": "broken']


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One desk for the module: its tests are steps of one piece of work, and each leaves what the next one uses."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    write_rows(desk.folder / "fruit.jsonl", rows())
    return desk


def test_clean(desk: Desk) -> None:
    out, _ = desk.run("data", "clean", "fruit.jsonl", "--out", "made", "--val-size", "0.2")
    assert re.search(rf"^{len(rows())}\s+read", out, re.M)
    assert "exact duplicate" in out and "broken line" in out
    state = json.loads((desk.folder / "made" / "dataset.json").read_text())
    counts = state["counts"]
    assert counts["rows_in"] == len(rows()) == sum(counts["used"].values()) + sum(counts["out"].values())
    assert counts["out"]["exact duplicate"] == 1 and counts["used"]["validation"] >= 1
    assert {file.name for file in (desk.folder / "made").iterdir()} >= {"README.md", "report.html", "records", "data"}
    assert "rosamund" not in (desk.folder / "made" / "report.html").read_text()


def test_why_and_undo(desk: Desk) -> None:
    (copy,) = [entry for entry in entries_of_dedup(desk) if entry["reason"] == "exact duplicate"]
    out, _ = desk.run("data", "why", "made", copy["record"][:10])
    assert "exact duplicate" in out and copy["counterpart"] in out and "Not in the dataset" in out
    before = files(desk)
    out, _ = desk.run("data", "undo", "made", "--step", "dedup")
    assert "Taken back" in out and files(desk) != before
    out, _ = desk.run("data", "dedup", "made")
    assert files(desk) == before
    _, err = desk.run("data", "undo", "made", "--step", "deduplicate", code=1)
    assert "nothing to take back" in err and "dedup" in err


def entries_of_dedup(desk: Desk) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    found = sorted((desk.folder / "made" / "ledger").glob("*-dedup.parquet"))
    return [entry for file in found for entry in pq.read_table(file).to_pylist()]


def files(desk: Desk) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (desk.folder / "made" / "data").iterdir()}


def test_a_step_that_was_done_changes_nothing_when_done_again(desk: Desk) -> None:
    before = files(desk)
    for step in ("repair", "personal", "defects", "slop", "language", "leaks"):
        out, _ = desk.run("data", step, "made")
        assert "nothing new" in out, step
    out, _ = desk.run("data", "split", "made", "--val-size", "0.2")
    assert "nothing new" in out
    assert files(desk) == before


def test_categories_and_balance(desk: Desk) -> None:
    rules = desk.folder / "rules.yaml"
    rules.write_text("- {category: python, field: answer, regex: '^def '}\n")
    desk.run("data", "categories", "made", "--rules", "rules.yaml")
    out, _ = desk.run("data", "balance", "made", "--temperature", "2", "--cap", "0.9")
    assert re.search(r"^python\s", out, re.M) and re.search(r"^docs\s", out, re.M)
    _, err = desk.run("data", "balance", "made", "--share", "python", code=1)
    assert "NAME=NUMBER" in err


def test_adding_moves_nothing(desk: Desk) -> None:
    import pyarrow.parquet as pq

    def sides() -> dict[str, str]:
        return {
            row["id"]: file.name.split("-")[0]
            for file in (desk.folder / "made" / "data").iterdir()
            for row in pq.read_table(file).to_pylist()
        }

    before = sides()
    more = [
        {"instruction": f"Which month is best for planting a {fruit}?", "output": f"Plant the {fruit} in {month}."}
        for fruit, month in zip(FRUIT, ("March", "May", "June", "July") * 3, strict=True)
    ]
    write_rows(desk.folder / "more.jsonl", more)
    desk.run("data", "add", "made", "more.jsonl", "--val-size", "0.2")
    after = sides()
    assert len(after) > len(before)
    assert {key: after.get(key) for key in before} == before
    out, _ = desk.run("data", "add", "made", "more.jsonl", "--val-size", "0.2")
    assert "12 rows are in the folder already" in out and "nothing new" in out


def test_convert(desk: Desk) -> None:
    out, _ = desk.run("data", "convert", "made", "--to", "sharegpt", "--out", "out.jsonl", "--side", "train")
    written = [json.loads(line) for line in (desk.folder / "out.jsonl").read_text().splitlines()]
    assert f"Wrote {len(written)} of {len(written)} rows" in out
    assert {turn["from"] for row in written for turn in row["conversations"]} == {"human", "gpt"}
    _, err = desk.run("data", "convert", "fruit.jsonl", "--to", "sharegpd", "--out", "out2.jsonl", code=1)
    assert "did you mean sharegpt?" in err
    _, err = desk.run("data", "convert", "made", "--to", "sharegpt", "--out", "out.jsonl", code=1)
    assert "exists already" in err


def test_a_recipe_names_its_data_and_its_split(desk: Desk) -> None:
    text = "base_model: nowhere\ndatasets: [more.jsonl]\nval_set_size: 0.4\nseed: 3\noutput_dir: run\n"
    (desk.folder / "more.yaml").write_text(text)
    out, _ = desk.run("data", "clean", "more.yaml", "--out", "from-recipe")
    assert "val_set_size 0.4 and seed 3 are used" in out
    state = json.loads((desk.folder / "from-recipe" / "dataset.json").read_text())
    assert [source["name"] for source in state["sources"]] == ["more.jsonl"]
    (split,) = [made for made in state["passes"] if made["step"] == "split"]
    assert split["parameters"] == {"val_size": 0.4, "seed": 3}


def test_diff(desk: Desk) -> None:
    desk.run("data", "clean", "fruit.jsonl", "--out", "other", "--val-size", "0.2", "--skip", "dedup")
    out, _ = desk.run("data", "diff", "other", "made")
    assert re.search(r"\d+ examples are the same", out) and "only in made" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("clean", "fruit.jsonl", "--out", "made"), "exists already"),
        (("clean", "nowhere.jsonl", "--out", "x"), "no such file"),
        (("clean", "fruit.jsonl", "--out", "x", "--skip", "deduping"), "no step deduping"),
        (("clean", "fruit.jsonl", "--out", "x", "--max-drop", "0.01"), "would take out"),
        (("clean", "fruit.jsonl", "fruit.jsonl", "--out", "x"), "fruit.jsonl"),
        (("why", "nothing", "abc"), "no dataset folder"),
        (("why", "made", "xyz"), "no example has an id that begins with xyz"),
        (("undo", "made"), "nothing to take back is named"),
        (("apply", "made", "fruit.jsonl"), "fruit.jsonl"),
        (("select", "made", "--target", "3", "--embeddings", "nowhere"), "nowhere"),
        (("categories", "made"), "--rules FILE or --clusters NUMBER"),
        (("leaks", "made", "--eval", "a=x.jsonl"), "x.jsonl"),
    ],
)
def test_mistakes(desk: Desk, words: tuple[str, ...], message: str) -> None:
    before = files(desk)
    _, err = desk.run("data", *words, code=1)
    assert message in err
    assert files(desk) == before
    assert not (desk.folder / "x").exists()


def test_training_takes_the_folder(desk: Desk) -> None:
    recipe = desk.folder / "recipe.yaml"
    recipe.write_text("base_model: nowhere\ndatasets: [made]\noutput_dir: run\n")
    _, err = desk.run("check", "recipe.yaml", code=1)
    assert "nowhere" in err
    assert not Path(desk.folder / "run").exists()
