"""presidio itself, not a stand-in, over a spaCy pipeline that is made here: it is not trained and knows a few names."""

from pathlib import Path

import pytest

from helpers_curate import examples, talk
from luthier.core.errors import DataError
from luthier.curate.fold import fold
from luthier.curate.personal_presidio import find_names, load_analyzer, redact_names

spacy = pytest.importorskip("spacy", reason="presidio's spaCy is not installed (pip install 'luthier[presidio]')")
pytest.importorskip("presidio_analyzer", reason="presidio is not installed (pip install 'luthier[presidio]')")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a spaCy pipeline: labels as its trained models for English give them."""
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    known = {"PERSON": ["Rosamund Pike", "PERSON_1"], "GPE": ["Kyle of Lochalsh"], "ORG": ["Orchards Limited"]}
    ruler.add_patterns([{"label": label, "pattern": name} for label, names in known.items() for name in names])
    folder = tmp_path_factory.mktemp("spacy") / "model"
    pipeline.to_disk(folder)
    return folder


def test_names_and_places(model: Path) -> None:
    text = "Rosamund Pike left Orchards Limited on 3 May 2021 for Kyle of Lochalsh; ask [PERSON_1], rp@orchards.org."
    found = find_names(text, load_analyzer(str(model)))
    assert [(text[span.start : span.end], span.kind) for span in found] == [
        ("Rosamund Pike", "PERSON"),
        ("Kyle of Lochalsh", "LOCATION"),
    ]


def test_a_record_keeps_its_placeholders(model: Path) -> None:
    (example,) = examples([talk("I am Rosamund Pike.", "Is Rosamund Pike from Kyle of Lochalsh?")])
    entries = redact_names([example], load_analyzer(str(model)))
    after, _, void = fold(example, entries)
    assert [turn.content for turn in after.record.messages] == [
        "I am [PERSON_1].",
        "Is [PERSON_1] from [LOCATION_1]?",
    ]
    assert not void


def test_a_model_that_is_missing_is_not_downloaded() -> None:
    with pytest.raises(DataError, match=r"en_core_nowhere is not installed\n.*spacy download en_core_nowhere"):
        load_analyzer("en_core_nowhere")
