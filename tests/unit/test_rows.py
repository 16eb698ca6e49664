import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers_templates import TEMPLATES
from helpers_tokenizers import model_folder
from luthier.core.errors import DataError
from luthier.data import rows as rows_module
from luthier.data.records import Message, Record
from luthier.data.render import NO_STOP, Renderer
from luthier.data.rows import CUT, CUT_AWAY, NOTHING, SKIPPED, TOO_LONG, RowSet, build_rows, load_or_build_rows
from luthier.data.template import ChatTemplate, load_template
from luthier.data.tokenizer import Tokenizer

TODAY = date(2026, 7, 3)


def chat(question: str, answer: str, **fields: str) -> Record:
    return Record((Message("user", question), Message("assistant", answer)), **fields)


def renderer_for(folder: Path, style: str = "trimmed", source: str | None = None, today: date = TODAY) -> Renderer:
    tokenizer = Tokenizer(model_folder(folder, style))
    if source is None:
        return Renderer(tokenizer, load_template(tokenizer, today=today))
    return Renderer(tokenizer, ChatTemplate(source, bos_token="", eos_token=tokenizer.eos_token, today=today))


@pytest.fixture
def renderer(tmp_path: Path) -> Iterator[Renderer]:
    made = renderer_for(tmp_path / "model")
    assert made.template is not None
    with made.template:
        yield made


RECORDS = [chat("a", "b" * count, where=f"f:{count}", group=f"g{count}") for count in (1, 5, 60)]


def build(renderer: Renderer, records: list[Record] = RECORDS, **settings: Any) -> tuple[list[int], Counter[str]]:
    counts: Counter[str] = Counter()
    rows = build_rows(records, renderer, counts=counts, **{"sequence_len": 64, **settings})
    return [len(row.ids) for row in rows], counts


def test_long_rows_are_cut_and_counted(renderer: Renderer) -> None:
    lengths, _ = build(renderer, sequence_len=1000)
    assert lengths[2] > 64 > lengths[1]
    assert build(renderer) == ([lengths[0], lengths[1], 64], {CUT: 1})
    assert build(renderer, sequence_len=lengths[2]) == (lengths, {})
    assert build(renderer, sequence_len=lengths[2] - 1)[1] == {CUT: 1}


def test_a_cut_row_keeps_its_first_tokens(renderer: Renderer) -> None:
    (whole,) = build_rows(RECORDS[2:], renderer, sequence_len=1000, counts=Counter())
    (cut,) = build_rows(RECORDS[2:], renderer, sequence_len=40, counts=Counter())
    assert cut.ids.tolist() == whole.ids[:40].tolist() and cut.mask.tolist() == whole.mask[:40].tolist()
    assert cut.ids.base is None, "a view would keep the whole row in memory"


def test_long_rows_are_dropped_and_counted(renderer: Renderer) -> None:
    lengths, counts = build(renderer, too_long="drop")
    assert (len(lengths), counts) == (2, {TOO_LONG: 1})


def test_rows_cut_down_to_their_question_are_dropped_and_counted(renderer: Renderer) -> None:
    lengths, counts = build(renderer, [*RECORDS[:1], chat("a" * 100, "b")])
    assert (len(lengths), counts) == (1, {CUT_AWAY: 1})


def test_rows_in_are_rows_out_and_reasons(renderer: Renderer) -> None:
    records = [*RECORDS, chat("a" * 100, "b"), Record((Message("user", "a"),)), Record(text="x")]
    for too_long in ("cut", "drop"):
        lengths, counts = build(renderer, records, too_long=too_long, on_bad_row="skip")
        lost = sum(number for reason, number in counts.items() if reason.startswith(("dropped", "skipped")))
        assert len(lengths) + lost == len(records)


def test_bad_records_stop_or_are_skipped_by_their_reason(renderer: Renderer) -> None:
    records = [*RECORDS[:2], Record((Message("user", "a"),), where="f:9"), chat("\ud800", "a")]
    with pytest.raises(DataError, match="f:9: no assistant message"):
        build(renderer, records)
    lengths, counts = build(renderer, records, on_bad_row="skip")
    assert len(lengths) == 2
    assert counts == {
        SKIPPED + "no assistant message, so there is nothing to train on": 1,
        SKIPPED + "a text holds half a surrogate pair (\\ud800 to \\udfff), which is no character": 1,
    }


def test_nothing_left_tells_the_lengths(renderer: Renderer) -> None:
    records = [chat("a" * 90, "b" * count) for count in range(1, 101)]
    lengths, _ = build(renderer, records, sequence_len=1000)
    with pytest.raises(DataError) as caught:
        build(renderer, records)
    enough = sorted(lengths)[95]
    assert sum(length <= enough for length in lengths) >= 95
    assert str(caught.value) == (
        "nothing to train on: with sequence_len 64 no row keeps a trained token "
        f"(rows have {max(lengths)} tokens at most, {int(np.median(lengths))} in the middle)\n"
        f"  → sequence_len: {enough} would keep 95 % of the rows whole"
    )


def test_nothing_usable_tells_why(renderer: Renderer) -> None:
    with pytest.raises(DataError, match=r"none of the 1 records can be used \(1 skipped: an empty text\)"):
        build(renderer, [Record()], on_bad_row="skip")
    with pytest.raises(DataError, match="none of the 0 records"):
        build(renderer, [])


def test_a_row_whose_only_trained_token_is_the_first_is_dropped(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = renderer.render_many

    def without_mask(records: list[Record], counts: Counter[str]) -> list[Any]:
        first, *rest = render(records, counts)
        assert not isinstance(first, DataError)
        return [[replace(first[0], mask=np.zeros_like(first[0].mask))], *rest]

    monkeypatch.setattr(renderer, "render_many", without_mask)
    lengths, counts = build(renderer, RECORDS[:2])
    assert (len(lengths), counts) == (1, {NOTHING: 1})


def test_progress_is_told_to_the_end(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_BATCH", 2)
    seen: list[tuple[int, int]] = []
    build(renderer, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]


# The cache


def load(renderer: Renderer, cache: Path, records: list[Record] = RECORDS, **settings: Any) -> RowSet:
    return load_or_build_rows(records, renderer, cache=cache, **{"sequence_len": 64, **settings})


def same(one: RowSet, other: RowSet) -> bool:
    return one.counts == other.counts and all(
        (a.ids.tolist(), a.mask.tolist(), a.record_id, a.group, a.where)
        == (b.ids.tolist(), b.mask.tolist(), b.record_id, b.group, b.where)
        for a, b in zip(one.rows, other.rows, strict=True)
    )


def test_the_same_contents_are_read_back(renderer: Renderer, tmp_path: Path) -> None:
    first = load(renderer, tmp_path / "cache")
    second = load(renderer, tmp_path / "cache")
    assert (first.cached, second.cached) == (False, True)
    assert same(first, second) and second.counts == {CUT: 1}
    assert first.notes == second.notes == []
    row = second.rows[0]
    assert (row.ids.dtype, row.mask.dtype, row.ids.flags.writeable) == (np.int32, np.bool_, True)
    assert second.seconds > 0


def test_a_new_process_hits_too(renderer: Renderer, tmp_path: Path) -> None:
    load(renderer, tmp_path / "cache")
    again = renderer_for(tmp_path / "elsewhere")
    assert again.template is not None
    with again.template:
        assert load(again, tmp_path / "cache").cached


def test_place_and_group_are_those_of_today(renderer: Renderer, tmp_path: Path) -> None:
    load(renderer, tmp_path / "cache")
    moved = [replace(record, where="new:1", group="") for record in RECORDS]
    again = load(renderer, tmp_path / "cache", moved)
    assert again.cached
    assert [(row.where, row.group) for row in again.rows] == [("new:1", record.id) for record in moved]


def test_equal_records_in_different_groups_keep_their_groups(renderer: Renderer, tmp_path: Path) -> None:
    twins = [chat("a", "b", group="one"), chat("a", "b", group="two")]
    for _ in range(2):
        assert [row.group for row in load(renderer, tmp_path / "cache", twins).rows] == ["one", "two"]


def test_records_with_several_rows_and_plain_texts_are_read_back(tmp_path: Path) -> None:
    renderer = renderer_for(tmp_path / "model", "qwen3")
    long = Record((*RECORDS[0].messages, *RECORDS[1].messages), where="f:1")
    assert renderer.template is not None
    with renderer.template:
        first = load(renderer, tmp_path / "cache", [long, Record(text="plain", where="f:2"), RECORDS[0]])
        second = load(renderer, tmp_path / "cache", [long, Record(text="plain", where="f:2"), RECORDS[0]])
    assert len(first.rows) == 4 and second.cached and same(first, second)


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        ("contents", {"records": [*RECORDS[:2], chat("a", "b" * 61)]}),
        ("role boundary", {"records": [chat("ab", "b" * 60), *RECORDS[1:]]}),
        ("order", {"records": RECORDS[::-1]}),
        ("fewer", {"records": RECORDS[:2]}),
        ("length", {"sequence_len": 65}),
        ("policy", {"too_long": "drop"}),
        ("bad rows", {"on_bad_row": "skip"}),
    ],
)
def test_every_setting_is_part_of_the_key(
    part: str, settings: dict[str, Any], renderer: Renderer, tmp_path: Path
) -> None:
    load(renderer, tmp_path / "cache")
    assert not load(renderer, tmp_path / "cache", **settings).cached, part
    assert load(renderer, tmp_path / "cache", **settings).cached, part
    assert load(renderer, tmp_path / "cache").cached, part


def test_text_and_messages_do_not_share_a_key(tmp_path: Path) -> None:
    renderer = renderer_for(tmp_path / "model")
    load(renderer, tmp_path / "cache", [Record(text="user")])
    assert not load(renderer, tmp_path / "cache", [Record(text="user ")]).cached


def test_tokenizer_template_day_and_version_are_part_of_the_key(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hit(other: Renderer) -> bool:
        assert other.template is not None
        with other.template:
            return load(other, tmp_path / "cache").cached

    load(renderer, tmp_path / "cache")
    other_day = date(2026, 7, 4)
    assert hit(renderer_for(tmp_path / "a"))
    assert hit(renderer_for(tmp_path / "a", today=other_day)), "this template does not ask for the day"
    assert not hit(renderer_for(tmp_path / "b", "chatml"))
    assert not hit(renderer_for(tmp_path / "c", "trimmed", TEMPLATES["no-prompt"]))
    tokenizer_changed = renderer_for(tmp_path / "d")
    (tmp_path / "d" / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    assert not hit(Renderer(Tokenizer(tmp_path / "d"), tokenizer_changed.template))

    dated = renderer_for(tmp_path / "e", "dated")
    assert not hit(dated)
    assert hit(renderer_for(tmp_path / "e", "dated"))
    assert not hit(renderer_for(tmp_path / "e", "dated", today=other_day))

    monkeypatch.setattr(rows_module, "RENDER_VERSION", rows_module.RENDER_VERSION + 1)
    assert not hit(renderer_for(tmp_path / "a"))


@pytest.mark.parametrize(
    "damage", ["flip", "cut", "tensors gone", "facts gone", "facts broken", "counts changed", "empty"]
)
def test_a_damaged_entry_is_made_anew_and_noted(damage: str, renderer: Renderer, tmp_path: Path) -> None:
    first = load(renderer, tmp_path / "cache")
    (entry,) = (tmp_path / "cache").iterdir()
    tensors, facts = entry / "rows.safetensors", entry / "rows.json"
    data = bytearray(tensors.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        tensors.write_bytes(data)
    elif damage == "cut":
        tensors.write_bytes(data[:-1])
    elif damage == "tensors gone":
        tensors.unlink()
    elif damage == "facts gone":
        facts.unlink()
    elif damage == "facts broken":
        facts.write_text("[")
    elif damage == "counts changed":
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "counts": {}}))
    else:
        shutil.rmtree(entry)
        entry.mkdir()
    again = load(renderer, tmp_path / "cache")
    assert not again.cached and same(first, again)
    assert len(again.notes) == 1 and "damaged and have been made anew" in again.notes[0]
    last = load(renderer, tmp_path / "cache")
    assert last.cached and last.notes == [] and same(first, last)


def test_a_cache_that_cannot_be_written_costs_only_the_cache(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("luthier.core.disk.os.replace", full)
    result = load(renderer, tmp_path / "cache")
    assert len(result.rows) == 3
    assert "could not be cached" in result.notes[0] and "No space left on device" in result.notes[0]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_failed_build_leaves_no_entry(renderer: Renderer, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load(renderer, tmp_path / "cache", [Record()])
    assert not (tmp_path / "cache").exists()


def test_counts_of_additions_are_kept(tmp_path: Path) -> None:
    renderer = renderer_for(tmp_path / "model", "alpaca")
    assert renderer.template is not None
    with renderer.template:
        for cached in (False, True):
            result = load(renderer, tmp_path / "cache", sequence_len=1000)
            assert (result.cached, result.counts) == (cached, {NO_STOP.format(eos="</s>"): 3})


def test_the_cache_is_in_luthier_s_folder(renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "cache_dir", lambda: tmp_path / "home")
    load_or_build_rows(RECORDS, renderer, sequence_len=64)
    assert len(list((tmp_path / "home" / "rows").iterdir())) == 1
