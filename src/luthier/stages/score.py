"""How hard the examples of a dataset folder are for a model, written into its ledger."""

import math
from collections import Counter
from collections.abc import Callable
from datetime import date

import torch

from luthier.curate.difficulty import DIFFICULTY, difficulty_entries, record_to_score
from luthier.curate.folder import Dataset
from luthier.evaluate.ifd import difficulty
from luthier.models.device import choose_place, keep_freed_memory
from luthier.models.fallback_spec import AnySpec
from luthier.models.measure import matmul_flops
from luthier.models.store import resolve_model
from luthier.models.weights import load_decoder
from luthier.stages.prepare import open_renderer
from luthier.train.settings import CPU_MICRO_TOKENS, GPU_MICRO_TOKENS


def forward_seconds(spec: AnySpec, tokens: int, labels: int, dtype: torch.dtype) -> float:
    """A rough time of passing so many tokens forward on the CPU, and predicting so many of them: the products' work at
    the measured speed, and half as much again for the rest.
    """
    head = spec.vocab_size * spec.hidden_size
    linears = spec.num_parameters - head * (1 if spec.tied else 2)
    return 1.5 * (2 * linears * tokens + 2 * head * labels) / matmul_flops(dtype)


def score_difficulty(
    dataset: Dataset,
    model: str,
    *,
    device: str = "auto",
    expect: Callable[[float], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Counter[str]:
    """Measure the difficulty of every conversation in the dataset for a model (`evaluate.ifd`), as a pass.

    Args:
        dataset: open for work.
        model: a model's name in the store, or a folder: the one that is going to be trained.
        expect: called once, on a CPU, with the seconds that it will take, roughly (`forward_seconds`).
        progress: called with rows done and rows in all.

    Returns:
        reason → examples that were not measured.

    Raises:
        ModelError: no such model, or one without a template.
    """
    place, folder = choose_place(device), resolve_model(model)
    pairs = [(example.id, record_to_score(example)) for batch in dataset.map(list) for example in batch]
    measured = [(key, record) for key, record in pairs if record is not None]
    keep_freed_memory()
    renderer = open_renderer(folder, None, today=date.today())
    decoder = load_decoder(folder, dtype=place.dtype, device=place.device)

    def announce(tokens: int, labels: int) -> None:
        if expect is not None and place.device.type == "cpu":
            expect(forward_seconds(decoder.spec, tokens, labels, place.dtype))

    try:
        made = difficulty(
            [record for _, record in measured],
            decoder,
            renderer,
            micro_batch_tokens=GPU_MICRO_TOKENS if place.device.type == "cuda" else CPU_MICRO_TOKENS,
            expect=announce,
            progress=progress,
        )
    finally:
        if renderer.template is not None:
            renderer.template.close()
    values = [None if math.isnan(value) else float(value) for value in made.ifd]
    entries = difficulty_entries([key for key, _ in measured], values, made.tokens.tolist())
    skipped = made.skipped + Counter({"plain text, or an answer that is not wanted": len(pairs) - len(measured)})
    notes = [f"{number:,} × not measured: {reason}" for reason, number in sorted(skipped.items())]
    dataset.add(DIFFICULTY, 1, {"model": model, "notes": notes}, entries)
    return skipped
