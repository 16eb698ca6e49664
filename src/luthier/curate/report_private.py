"""What a page may not show: personal data and secrets, also in rows that the step that replaces them never saw."""


def private_spans(text: str) -> list[tuple[int, int, str]]:
    """(start, end, kind) of what may not be shown, in order, none overlapping."""
    from luthier.curate.personal import find

    return [(span.start, span.end, span.kind) for span in find(text)]
