"""The text about stock phrases: numbers with intervals, a reference, and what the measure cannot tell."""

import json
from pathlib import Path

import pytest

from luthier.core.errors import DataError
from luthier.curate.logodds import Marker
from luthier.curate.slop_report import count_jargon, reference_texts, slop_text

PLAIN = "The mill stood by the river and ground corn for nine farms."
HEAVY = "We leverage synergies to foster a culture of trust."


def test_the_text_says_what_was_counted() -> None:
    everything = count_jargon([PLAIN, HEAVY])
    text = slop_text(everything, {"a|b": count_jargon([PLAIN]), "c": count_jargon([HEAVY])})
    assert "| whole dataset | 2 | 21 |" in text
    assert "| source a\\|b | 1 | 12 | 0.00 |" in text  # a bar in a name does not break the table
    assert "| source c | 1 | 9 |" in text and "human reference" not in text
    assert "Found most: foster a culture of (1), leverage (1)" in text
    assert "AUC of 0.57 to 0.74" in text and "no row is dropped" in text
    assert "mark this dataset" not in text


def test_a_single_source_is_the_dataset() -> None:
    assert "source" not in slop_text(count_jargon([PLAIN]), {"a": count_jargon([PLAIN])}).split("\n\n")[0]


def test_with_a_reference() -> None:
    marks = [Marker("seamless", 5.0, 3.0, 12.5, 0.25, 9)]
    text = slop_text(count_jargon([HEAVY]), {}, reference=count_jargon([PLAIN]), marks=marks)
    assert "| human reference | 1 | 12 | 0.00 |" in text
    assert "seamless 12.5 (0.2)" in text


def test_references_are_the_answers_in_files(tmp_path: Path) -> None:
    file = tmp_path / "people.jsonl"
    file.write_text(json.dumps({"prompt": "Where?", "completion": PLAIN}) + "\n")
    assert reference_texts([file, file]) == [PLAIN, PLAIN]
    with pytest.raises(DataError):
        reference_texts([tmp_path / "none.jsonl"])
