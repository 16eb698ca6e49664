"""Data of a size that nobody expects: nothing held out, one row, one very long row."""

import json
import resource
from collections import Counter
from datetime import date
from pathlib import Path

import pytest

from helpers_runs import make_recipe, rows_of, talk, write_rows
from luthier.core.errors import DataError
from luthier.data.read import read_records
from luthier.data.rows import CUT, CUT_AWAY, TOO_LONG, build_rows
from luthier.stages.check import check
from luthier.stages.prepare import open_renderer

MIB = 2**20


def test_f30_one_row_cannot_be_split(home: Path, chat_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows_of()[:1])
    with pytest.raises(DataError, match="validation set is empty"):
        check(make_recipe(chat_model, data, tmp_path / "run"))


def test_f30_a_run_without_validation_says_what_it_cannot_tell(home: Path, chat_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows_of()[:1])
    checked = check(make_recipe(chat_model, data, tmp_path / "run", val_set_size=0.0))
    assert len(checked.prepared.train) == 1
    assert any("nothing is held out, so the run cannot tell" in text for text in checked.warnings)


@pytest.mark.parametrize(("too_long", "sentences"), [("cut", 40_000), ("drop", 2_000)])
def test_f32_a_very_long_row_is_cut_or_dropped_and_counted(
    too_long: str, sentences: int, chat_model: Path, tmp_path: Path
) -> None:
    long = talk("Hi", "The quick brown fox jumps over the lazy dog. " * sentences)
    data = write_rows(tmp_path / "rows.jsonl", [*rows_of()[:4], long, talk("Write. " * 2000, "Blue.")])
    size, before = data.stat().st_size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    renderer = open_renderer(chat_model, None, today=date(2026, 1, 1))
    counts: Counter[str] = Counter()
    rows = build_rows(read_records(data).records, renderer, sequence_len=512, too_long=too_long, counts=counts)
    renderer.template.close()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert max(len(row.ids) for row in rows) <= 512
    if too_long == "cut":
        assert size > MIB and grown < 150 * size, f"{grown / MIB:.0f} MiB for {size / MIB:.0f} MiB of text"
        assert len(rows) == 5 and counts == {CUT: 1, CUT_AWAY: 1}
    else:
        assert len(rows) == 4 and counts == {TOO_LONG: 2}
    assert json.loads(data.read_text().splitlines()[4])  # the file itself is as it was
