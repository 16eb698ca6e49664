"""How a source's answers end: what breaks with it is flagged, and a source without a habit is left alone."""

import json
from pathlib import Path

import pytest

from helpers_curate import make_dataset, stored, talk
from luthier.curate.clean import Plan, clean
from luthier.curate.conventions import MERGED, OPEN, conventions
from luthier.curate.example import Entry

PLACES = ("mill", "bridge", "harbour", "market", "tower", "well", "garden", "wall", "gate", "church")


def found(folder: Path, rows: list[tuple[str, str]], *more: list[tuple[str, str]]) -> dict[str, Entry]:
    """Answer → its entry, of rows of one source, or of several."""
    made, answers = [], {}
    for number, part in enumerate((rows, *more)):
        here = stored([talk(asked, told) for asked, told in part], source=f"{number}.jsonl")
        made += here
        answers |= {row.id: told for row, (_, told) in zip(here, part, strict=True)}
    return {answers[entry.record]: entry for entry in conventions(make_dataset(folder / "data", made))}


def sums(number: int) -> list[tuple[str, str]]:
    return [
        (
            f"A boat holds {n + 2} nets and a cart {n + 5}. How many do both hold?",
            f"Both hold {n + 2}+{n + 5}=<<{n + 2}+{n + 5}={2 * n + 7}>>{2 * n + 7} nets.\n#### {2 * n + 7}",
        )
        for n in range(number)
    ]


@pytest.mark.parametrize("skip", [(), ("dedup", "leaks", "defects")])
def test_clean_runs_it_with_the_defects(tmp_path: Path, skip: tuple[str, ...]) -> None:
    rows = [{"prompt": asked, "completion": told} for asked, told in sums(120)]
    rows[50]["completion"] = rows[50]["completion"].split("\n")[0]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = clean(
        [tmp_path / "sums.jsonl"], tmp_path / "out", Plan(workers=1, skip=frozenset(skip or ("dedup", "leaks")))
    )
    flagged = [example for batch in dataset.map(list) for example in batch if OPEN in example.flags]
    assert len(flagged) == (0 if skip else 1)


def tales(number: int) -> list[tuple[str, str]]:
    return [
        (
            f"What do you know of place {n}?",
            f"Long ago several people of the {PLACES[n % 10]} met there {n} times a year.",
        )
        for n in range(number)
    ]


def test_an_answer_without_the_mark_that_nearly_all_have_is_flagged(tmp_path: Path) -> None:
    cut = "Both hold 3+6=<<3+6=9>>9"
    entries = found(tmp_path, [*sums(150), ("A boat holds 3 nets and a cart 6. How many do both hold?", cut)])
    assert set(entries) == {cut}
    assert (entries[cut].action, entries[cut].reason) == ("flag", OPEN)
    assert "####" in entries[cut].detail and (entries[cut].start, entries[cut].end) == (0, len(cut))


def test_the_convention_holds_among_other_rows_of_the_source(tmp_path: Path) -> None:
    cut, early = "Both hold 3+6=<<3+6=9>>9", "Both of them hold"
    rows = [*sums(150), *tales(150)]
    rows += [("Say it.", cut), ("A boat holds 3 nets and a cart 6. How many do both hold?", early)]
    assert set(found(tmp_path, rows)) == {cut, early}


def test_a_mark_in_the_middle_as_well_is_a_second_row(tmp_path: Path) -> None:
    both = "It is 4+4=<<4+4=8>>8.\n#### 8\n\nThey are 2+5=<<2+5=7>>7.\n#### 7"
    entries = found(tmp_path, [*sums(150), ("A boat holds 4 nets and a cart 4. How many?", both)])
    assert {told: entry.reason for told, entry in entries.items()} == {both: MERGED}


def test_few_rows_and_mixed_habits_make_no_convention(tmp_path: Path) -> None:
    cut = [(f"How many nets are {n} and {n}?", f"They are {n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}") for n in range(20)]
    assert found(tmp_path / "few", [*sums(60), cut[0]]) == {}
    assert found(tmp_path / "mixed", [*sums(150), *cut]) == {}


def test_every_source_has_its_own(tmp_path: Path) -> None:
    plain = [(asked, told.partition("\n")[0]) for asked, told in sums(150)]
    cut = "Both hold 3+6=<<3+6=9>>9"
    assert set(found(tmp_path, [*sums(150), ("Say it.", cut)], plain)) == {cut}


def test_a_full_stop_is_expected_where_nearly_all_have_one(tmp_path: Path) -> None:
    cut, label = "Long ago many people of the old town met there on every Sunday morning", "Yes"
    entries = found(tmp_path, [*tales(150), ("And then?", cut), ("Is it old?", label)])
    assert set(entries) == {cut}


@pytest.mark.parametrize("last", ["several", "people of the"])
def test_a_word_that_ends_no_sentence_here_ends_no_answer(tmp_path: Path, last: str) -> None:
    bare = [(asked, told.rstrip(".")) for asked, told in tales(150)]  # nobody here writes a full stop
    cut = f"Long ago {last}"
    entries = found(tmp_path, [*bare, ("And then what?", cut), ("And now what?", "They met there 9 times a year")])
    if last == "several":
        assert entries == {}, "an answer of three words says nothing"
        return
    assert set(entries) == {cut}
    assert repr(last.split()[-1]) in entries[cut].detail


def test_what_is_flagged_already_is_not_flagged_again_and_order_does_not_matter(tmp_path: Path) -> None:
    cut = "Both hold 3+6=<<3+6=9>>9"
    rows = stored([talk(asked, told) for asked, told in [*sums(150), ("Say it.", cut)]])
    dataset = make_dataset(tmp_path / "one", rows)
    entries = conventions(dataset)
    assert conventions(make_dataset(tmp_path / "two", rows[::-1])) == entries and len(entries) == 1
    dataset.add("defects", 1, {}, entries)
    assert conventions(dataset) == []


def test_no_answers_no_entries(tmp_path: Path) -> None:
    assert conventions(make_dataset(tmp_path / "data", [talk("Say it.", "")])) == []
