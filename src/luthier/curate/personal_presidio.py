"""Names of people and places, which no pattern finds, through Microsoft's `presidio` and a language model of spaCy.

An extra (`pip install 'luthier[presidio]'`), because it needs hundreds of megabytes and a thousand times the time of
the patterns; nothing here downloads a model. It also replaces Winston Churchill and Paris: for conversations about
customers that is the purpose, for general knowledge it does harm. So it is a step of its own, never part of `clean`.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

from luthier.core.errors import DataError
from luthier.curate.example import Entry, Example
from luthier.curate.personal import redact
from luthier.curate.personal_span import Span, settle
from luthier.curate.step import Step

ENTITIES: Final = ("PERSON", "LOCATION")
MODEL: Final = "en_core_web_lg"  # the model presidio's own documentation takes
_LEAST: Final = 0.6  # presidio gives what spaCy finds 0.85, and 0.4 times that where it is weak


class Analyzer(Protocol):
    """What is used of presidio's `AnalyzerEngine`."""

    def analyze(self, text: str, language: str, entities: list[str]) -> Sequence[Any]:
        """Results with `entity_type`, `start`, `end` and `score`."""
        ...


def load_analyzer(model: str = MODEL) -> Analyzer:
    """presidio's analyzer over a spaCy model for English.

    Args:
        model: an installed model's name, or the folder of one.

    Raises:
        DataError: presidio or the model is not installed; says what to run.
    """
    try:
        import spacy.util
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ImportError as error:
        raise DataError(
            f"names cannot be found without presidio ({error.name} is not installed)",
            fix=f"pip install 'luthier[presidio]' && python -m spacy download {MODEL}",
        ) from error
    if not (spacy.util.is_package(model) or Path(model).is_dir()):  # presidio would download it
        raise DataError(f"spaCy's model {model} is not installed", fix=f"python -m spacy download {model}")
    models = [{"lang_code": "en", "model_name": model}]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])


def find_names(text: str, analyzer: Analyzer) -> list[Span]:
    """Names of people and places in an English text, in order, not overlapping. Placeholders are left alone."""
    found = analyzer.analyze(text=text, language="en", entities=list(ENTITIES))
    spans = [
        Span(result.start, result.end, result.entity_type, f"presidio, score {result.score:.2f}")
        for result in found
        if result.score >= _LEAST and result.entity_type in ENTITIES and result.start < result.end
    ]
    return settle([span for span in spans if not set("[]") & set(text[max(0, span.start - 1) : span.end + 1])], {})


def redact_names(examples: Sequence[Example], analyzer: Analyzer) -> list[Entry]:
    """Edits that replace names by "[PERSON_1]" and places by "[LOCATION_1]", as `personal.redact` makes them."""
    return redact(examples, lambda text: find_names(text, analyzer))


def personal_names(examples: Sequence[Example]) -> list[Entry]:
    """`redact_names` with the installed analyzer, loaded once in each process."""
    return redact_names(examples, _installed())


@cache
def _installed() -> Analyzer:
    return load_analyzer()


PERSONAL_NAMES = Step("personal-names", 1, personal_names)
