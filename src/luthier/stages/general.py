"""What a run must not forget: general rows to measure and to replay, frozen when the run begins.

    run/general/
        records.jsonl   the records, one a line; "side" in it is probe or replay
        facts.json      where they come from, what was left out, and the hash of records.jsonl

The user's `general_datasets`, or texts that the base wrote (`general_own`), which are kept in the cache under a hash of
all that decides them and written anew only for another base, tokenizer, template or method.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import DataError, RunError
from luthier.core.files import atomic_folder, canonical_json, hash_bytes, hash_json
from luthier.core.paths import cache_dir
from luthier.core.readable import duration
from luthier.data.records import Record, record_from_json
from luthier.data.render import Renderer, Row
from luthier.data.rows import load_or_build_rows
from luthier.evaluate.choices import Item, load_items
from luthier.models.decoder import Decoder
from luthier.recipe import Recipe
from luthier.stages.general_data import divide, records_hash
from luthier.stages.general_own import ANSWER_TOKENS, PROMPT_TOKENS, VERSION, WANTED, own_texts
from luthier.stages.prepare import Say

FOLDER = "general"
RECORDS, FACTS = "records.jsonl", "facts.json"
PROBE, REPLAY = "probe", "replay"
FEWEST = 24  # records; of fewer that the base wrote nothing is measured or replayed


@dataclass(frozen=True)
class General:
    """General rows, which no training or validation record repeats.

    Attributes:
        probe_rows: measured at every evaluation and never trained on; empty where the base could write nothing.
        replay_rows: what a share of the loss tokens comes from.
        choices: questions with options.
        why: one sentence on where the rows come from.
        notes: what was left out, for a person.
        hash: over every id and mask, probe first.
        own: the base wrote the rows itself.
    """

    probe_rows: list[Row]
    replay_rows: list[Row]
    choices: list[Item]
    why: str
    notes: list[str]
    hash: str
    own: bool = False


def prepare_general(
    recipe: Recipe,
    *,
    run_dir: Path,
    decoder: Decoder,
    renderer: Renderer,
    base_hash: str,
    given: Sequence[Record] = (),
    say: Say | None = None,
) -> General:
    """The general rows of a run: those that it began with, else the user's, else those that the base writes now.

    Args:
        run_dir: gets the frozen copy; a resumed run reads it back.
        base_hash: of the base's weights and config, however they are held.
        given: what `general_data.read_general` found, nothing without `general_datasets`.
        say: receives progress of writing and rendering.

    Raises:
        RunError: the user's general data has changed since the run began.
        DataError: a record of the user cannot be rendered.
    """
    folder = run_dir / FOLDER
    frozen = _load(folder)
    if frozen is not None and given and frozen[1]["given"] != records_hash(given):
        raise RunError(
            "the general data has changed since this run began, so it cannot go on as it was",
            where=str(run_dir),
            fix="put general_datasets back as they were, or start a new run with another output_dir",
        )
    if frozen is None:
        records, facts = _from_user(given) if given else _own(decoder, renderer, base_hash, say)
        _save(folder, records, facts)
        frozen = records, facts
    records, facts = frozen
    probe, replay, counts = _rows(records, recipe, renderer, say, own=not facts["given"])
    left_out = Counter(facts["dropped"]) + counts
    return General(
        probe_rows=probe,
        replay_rows=replay,
        choices=load_items(),
        why=facts["why"],
        notes=[f"general texts: {number:,} {reason}" for reason, number in sorted(left_out.items())],
        hash=hash_bytes(*(part.tobytes() for row in [*probe, *replay] for part in (row.ids, row.mask))),
        own=not facts["given"],
    )


def _from_user(given: Sequence[Record]) -> tuple[list[Record], dict[str, Any]]:
    probe, replay, left_out = divide(given)
    why = f"general_datasets: {len(probe):,} records held out to measure forgetting, {len(replay):,} to replay"
    return _sided(probe, replay), {"given": records_hash(given), "why": why, "dropped": dict(left_out)}


def _own(decoder: Decoder, renderer: Renderer, base_hash: str, say: Say | None) -> tuple[list[Record], dict[str, Any]]:
    """From the cache, or written now and put there; a cache that cannot be written costs the next run a minute."""
    template = renderer.template.fingerprint if renderer.template else ""
    made_of = [VERSION, base_hash, renderer.tokenizer.fingerprint, template, WANTED, PROMPT_TOKENS, ANSWER_TOKENS]
    entry = cache_dir() / FOLDER / hash_json(made_of)
    if (found := _load(entry)) is not None:
        return found
    began = time.monotonic()
    records, dropped = own_texts(decoder, renderer, say=say)
    if len(records) < FEWEST:
        why = f"the base wrote only {len(records)} general texts that can be used, so none are: give general_datasets"
        probe, replay = [], []
    else:
        probe, replay, repeats = divide(records)
        dropped += repeats
        why = (
            f"the base wrote {len(records)} general texts in {duration(time.monotonic() - began)}: {len(probe)} to "
            f"measure forgetting, {len(replay)} to replay"
        )
    made = _sided(probe, replay), {"given": "", "why": why, "dropped": dict(dropped)}
    try:
        _save(entry, *made)
    except OSError:
        if not entry.exists():  # it does where another run has just written the same
            made[1]["dropped"]["texts that could not be kept in the cache"] = len(records)
    return made


def _sided(probe: Sequence[Record], replay: Sequence[Record]) -> list[Record]:
    return [
        replace(record, meta={**record.meta, "side": side})
        for side, records in ((PROBE, probe), (REPLAY, replay))
        for record in records
    ]


def _rows(
    records: Sequence[Record], recipe: Recipe, renderer: Renderer, say: Say | None, *, own: bool
) -> tuple[list[Row], list[Row], Counter[str]]:
    """Rows of each side. What the base wrote stops no run: what cannot be used of it is left out and counted."""
    if not records:
        return [], [], Counter()
    try:
        made = load_or_build_rows(
            records,
            renderer,
            sequence_len=recipe.sequence_len,
            too_long=recipe.too_long,
            on_bad_row="skip" if own else recipe.on_bad_row,
            progress=None if say is None else lambda done, total: say("general rows", done, total),
        )
    except DataError as error:
        if not own:
            raise
        return [], [], Counter({error.what: len(records)})
    of = {record.id: record.meta for record in records}
    sides: dict[str, list[Row]] = {PROBE: [], REPLAY: []}
    for row in made.rows:
        meta = of[row.record_id]
        sides[meta["side"]].append(without_end(row) if meta.get("cut") else row)
    return sides[PROBE], sides[REPLAY], made.counts


def without_end(row: Row) -> Row:
    """The row up to its last trained token, which is the stop token of a text that was cut."""
    last = int(np.flatnonzero(row.mask)[-1])
    return replace(row, ids=row.ids[:last].copy(), mask=row.mask[:last].copy()) if row.mask[:last].any() else row


def _save(folder: Path, records: Sequence[Record], facts: dict[str, Any]) -> None:
    lines = [
        canonical_json({"content": record.as_json(), "group": record.group, "meta": dict(record.meta)})
        for record in records
    ]
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
    with atomic_folder(folder) as made:
        (made / RECORDS).write_bytes(data)
        whole = {**facts, "hash": hash_bytes(data, hash_json(facts).encode())}
        (made / FACTS).write_text(json.dumps(whole, indent=2, ensure_ascii=False), encoding="utf-8")


def _load(folder: Path) -> tuple[list[Record], dict[str, Any]] | None:
    """What `_save` wrote; None if there is nothing, or if it is damaged: then it is taken away and made anew."""
    if not folder.exists():
        return None
    try:
        data = (folder / RECORDS).read_bytes()
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        whole = facts.pop("hash") == hash_bytes(data, hash_json(facts).encode())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        shutil.rmtree(folder)
        return None
    rows = [json.loads(line) for line in data.decode("utf-8", "surrogatepass").splitlines()]
    records = [record_from_json(row["content"], group=row["group"], meta=row["meta"], where=FOLDER) for row in rows]
    return records, facts
