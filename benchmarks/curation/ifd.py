"""How fast the difficulty of examples is measured (`luthier data score`), and where its tokens go.

    python benchmarks/curation/ifd.py --rows FILE [--model smollm2-135m] [--number 500] [--quick]

FILE is any file of prompts and answers. The first `--number` rows that the reader takes are measured: each once with
its prompt and once without, as `luthier data score` does it. Loading the model is not timed, rendering is. Of the
tokens three numbers are kept:

    tokens     of all rows, with and without prompt
    computed   those that go through the model: what rows of one pass begin with alike goes through once
    labels     those whose loss is measured

There is no padding, so rows of any lengths can share a pass. `fill` is the share of the passes' room that is used. What
a run was expected to take (`stages.score.forward_seconds`) stands beside what it took. `--quick` takes 12 rows, to see
that everything runs. Run it on a quiet machine.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np

from luthier.core.hardware import cpu, memory
from luthier.curate.intake import read_sources
from luthier.curate.stored import QUARANTINED, record_of
from luthier.data.collate import collate
from luthier.data.pack import plan_pass
from luthier.data.records import Message, Record
from luthier.data.render import Renderer, Row
from luthier.evaluate.ifd import Difficulty, answers_alone, difficulty
from luthier.models.device import choose_place, keep_freed_memory
from luthier.models.store import resolve_model
from luthier.models.weights import load_decoder
from luthier.stages.prepare import open_renderer
from luthier.stages.score import forward_seconds
from luthier.train.settings import CPU_MICRO_TOKENS, GPU_MICRO_TOKENS

HERE: Final = Path(__file__).parent
LIBRARIES: Final = ("luthier", "numpy", "torch", "tokenizers")


def read(path: Path, number: int) -> list[Record]:
    """The first conversations of a file."""
    rows = (record_of(row) for row in read_sources([path]).rows if row.kind != QUARANTINED)
    return [record for record in rows if record.kind == "conversation"][:number]


def passes(records: Sequence[Record], renderer: Renderer, micro: int) -> dict[str, Any]:
    """What goes through the model for these records, counted without running it."""
    prefix = np.array(renderer.render_prompt([Message("user", "")]), np.int32)
    rows: list[Row] = []
    for made in renderer.render_many(list(records)):
        if isinstance(made, list):
            rows += [*made, *(answer for row in made for answer in answers_alone(row, prefix))]
    plan = plan_pass([len(row.ids) for row in rows], micro)
    streams = [len(collate([rows[index] for index in microstep]).tokens) for microstep in plan]
    tokens = sum(len(row.ids) for row in rows)
    return {
        "rows": len(rows), "tokens": tokens, "computed": sum(streams), "labels": sum(int(r.mask.sum()) for r in rows),
        "passes": len(plan), "fill": round(tokens / (len(plan) * micro), 3),
    }  # fmt: skip


def facts_of(made: Difficulty, counted: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Rates, and what came out, so that a run that measured nothing is seen."""
    values = made.ifd[~np.isnan(made.ifd)]
    return {
        "seconds": round(seconds, 2),
        "examples_a_second": round(len(made.ifd) / seconds, 2),
        "tokens_a_second": round(counted["tokens"] / seconds, 1),
        "computed_a_second": round(counted["computed"] / seconds, 1),
        "hours_for_10000_examples": round(seconds / len(made.ifd) * 10_000 / 3600, 2),
        "measured": len(values),
        "median_difficulty": round(float(np.median(values)), 3) if len(values) else None,
        "not_helped": int((values >= 1).sum()),
        "skipped": dict(made.skipped),
    }


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="a file of prompts and answers")
    parser.add_argument("--model", default="smollm2-135m", help="a model's name in the store, or a folder")
    parser.add_argument("--number", type=int, default=500, help="rows that are measured")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "curation_ifd.json")
    arguments = parser.parse_args()

    place, folder = choose_place(arguments.device), resolve_model(arguments.model)
    micro = GPU_MICRO_TOKENS if place.device.type == "cuda" else CPU_MICRO_TOKENS
    records = read(arguments.rows, 12 if arguments.quick else arguments.number)
    keep_freed_memory()
    load = os.getloadavg()[0]
    renderer = open_renderer(folder, None, today=date.today())
    try:
        counted = passes(records, renderer, micro)
        decoder = load_decoder(folder, dtype=place.dtype, device=place.device)
        difficulty(records[:2], decoder, renderer, micro_batch_tokens=micro)  # the first pass compiles
        start = time.perf_counter()
        made = difficulty(records, decoder, renderer, micro_batch_tokens=micro)
        seconds = time.perf_counter() - start
    finally:
        if renderer.template is not None:
            renderer.template.close()
    measured = {"counted": counted} | facts_of(made, counted, seconds)
    if place.device.type == "cpu":
        expected = forward_seconds(decoder.spec, counted["tokens"], counted["labels"], place.dtype)
        measured["expected_seconds"] = round(expected, 2)
    shared = 1 - counted["computed"] / counted["tokens"]
    print(
        f"{len(records):,} examples in {seconds:.1f} s: {measured['examples_a_second']:g} examples and "
        f"{measured['tokens_a_second']:,.0f} tokens a second; {100 * shared:.0f} % of the tokens shared with others; "
        f"expected {measured.get('expected_seconds', '–')} s"
    )
    facts = cpu()
    result = {
        "benchmark": "curation_ifd",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": facts.name, "cores": facts.cores, "memory_bytes": memory().total, "system": platform.platform(),
            "load_before": load,
        },
        "versions": {name: metadata.version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        "setting": {
            "model": Path(arguments.model).name, "device": place.device.type, "dtype": str(place.dtype),
            "rows": arguments.rows.name, "number": len(records), "micro_batch_tokens": micro,
            "quick": arguments.quick,
        },
        "measured": measured,
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
