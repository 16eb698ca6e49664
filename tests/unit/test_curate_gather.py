"""What is gathered on the first walk of `clean` must be what each step would have found on a walk of its own."""

import json
import re
from pathlib import Path
from random import Random

import pytest

from helpers_curate import make_dataset, talk
from luthier.curate.clean import Plan, _intake, _run, clean
from luthier.curate.exact import exact_duplicates
from luthier.curate.example import Entry
from luthier.curate.folder import start
from luthier.curate.gather import Gathered
from luthier.curate.groups import read_ties
from luthier.curate.ledger import read_pass
from luthier.curate.near import near_duplicates

TEXT = "the river town of old boats has many small houses where people sell bread and tea to those who come there"
WORDS = tuple(re.findall(r"\w+", TEXT))


def rows() -> list[dict[str, object]]:
    """Of every kind that a step after the walk says something about, many of them said something about before it."""
    random = Random(7)
    made: list[dict[str, object]] = []
    for number in range(300):
        prompt = f"Tell me about {' '.join(random.choices(WORDS, k=12))} in {number}?"
        answer = " ".join(random.choices(WORDS, k=40)).capitalize() + f". Write to a{number}@web-shop.net for more."
        made.append({"prompt": prompt, "completion": f"{answer}\n#### {number}", "meta": {"document": number // 3}})
    for number in range(0, 60, 3):
        copy = dict(made[number])
        made.append(copy)  # exact
        words = str(made[number + 1]["completion"]).split(" ")
        made.append(made[number + 1] | {"completion": " ".join([*words[:10], "indeed", *words[10:]])})  # near
        if number % 15 == 0:
            made.append(made[number + 2] | {"completion": str(made[number + 2]["completion"]).rpartition("\n")[0]})
    # Copies of which the one that would stay is flagged after the walk, because it alone lacks its end.
    made.append(made[290] | {"completion": str(made[290]["completion"]).replace("#### ", "and again and again #")})
    refusal = "I'm sorry, but I can't assist with that request."  # taken out on the walk
    made.append({"prompt": "Write a poem about a river.", "completion": refusal, "meta": {"document": 5}})
    made += [{"prompt": "Say it.", "completion": ""}, {"prompt": "Say it.", "completion": ""}, {"what": 1}]
    return made


@pytest.mark.parametrize("workers", [1, 2])
def test_gathered_or_walked_for_the_ledger_is_the_same(tmp_path: Path, workers: int) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    plan = Plan(workers=workers, val_size=0.2)
    gathered = clean([file], tmp_path / "gathered", plan)
    (tmp_path / "walked").mkdir()
    walked = start(tmp_path / "walked", "0")
    intake = _intake(walked, [file], plan)
    walked.add_tables(intake.tables, intake.sources)
    walked.add("read", 1, {"format": plan.format, "notes": intake.notes}, intake.entries)
    _run(walked, plan, None, None)
    walked.close()
    assert gathered.passes == walked.passes
    for made in walked.passes:
        there, here = (read_pass(dataset.path / made.file) for dataset in (gathered, walked))
        assert there.equals(here), made
    said = {made.number: read_pass(walked.path / made.file) for made in walked.passes}
    names = [made.step if made.step != "dedup" else made.parameters["kind"] for made in walked.passes]
    numbers = {name: len(table) for name, table in zip(names, said.values(), strict=True)}
    assert numbers["exact"] >= 20 and numbers["near"] >= 15 and numbers["split"] > 300, numbers
    assert "needless refusal" in said[1 + names.index("defects")]["reason"].to_pylist()
    conventions = said[1 + names.index("defects", names.index("defects") + 1)]
    assert len(conventions) >= 4


def test_what_was_said_after_the_walk_counts(tmp_path: Path) -> None:
    """A flag makes another copy the one to keep; what is out is not compared, and is no group to put on a side."""
    prompt, said = " ".join(WORDS), " ".join(WORDS * 3)
    answers = (said, said, said, f"{said} indeed", f"{said} though", "No.")
    dataset = make_dataset(tmp_path / "data", [talk(prompt, answer) for answer in answers])
    ids = [example.id for example in dataset.view.examples(0)]
    with Gathered(dataset, {"dedup", "split"}, 0) as gathered:
        gathered.add(gathered.look(dataset.view.examples(0), []))
        gathered.complete()
        best = min(ids[:3])
        dataset.add("mark", 1, {}, [Entry(best, "flag", "a"), Entry(ids[3], "flag", "a")])
        entries = exact_duplicates(dataset, **gathered.for_exact())
        assert entries == exact_duplicates(dataset) and best in {entry.record for entry in entries}
        dataset.add("dedup", 1, {}, entries)
        entries = near_duplicates(dataset, **gathered.for_near())
        assert entries == near_duplicates(dataset) and ids[3] in {entry.record for entry in entries}
        dataset.add("dedup", 1, {}, [*entries, Entry(ids[5], "drop", "b")])
        known = gathered.for_split()
        ties, walked = read_ties(dataset, seed=0, **known), read_ties(dataset, seed=0)
        assert ties.live.tolist() == walked.live.tolist() and ties.live.sum() == 1
        assert ties.ids.tolist() == walked.ids.tolist() and ties.names.tolist() == walked.names.tolist()
