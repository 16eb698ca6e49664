"""A few held-out prompts, answered before and after training, for a person to read."""

from collections.abc import Sequence
from typing import Any

from luthier.core.files import hash_bytes
from luthier.data.records import Record
from luthier.data.render import Renderer
from luthier.models.decoder import Decoder
from luthier.models.generate import generate_batch
from luthier.models.lora import Adapter
from luthier.stages.prepare import Say


def choose_samples(records: Sequence[Record], number: int, *, seed: int) -> list[Record]:
    """Conversations to answer: picked by hash, at most one of a group while there are groups enough."""
    chats = [record for record in records if record.messages]
    chats.sort(key=lambda record: hash_bytes(str(seed).encode(), record.id.encode()))
    first_of_group: dict[str, Record] = {}
    for record in chats:
        first_of_group.setdefault(record.group or record.id, record)
    picked = list(first_of_group.values())
    picked += [record for record in chats if record not in picked]
    return picked[:number]


def answer_samples(
    decoder: Decoder,
    adapter: Adapter | None,
    renderer: Renderer,
    records: Sequence[Record],
    *,
    max_new_tokens: int,
    say: Say | None = None,
) -> list[dict[str, Any]]:
    """Greedy answers to each record's last user turn, all at once: prompt, answer, expected, record_id, complete."""
    if not records:
        return []
    answers = generate_batch(
        decoder,
        [renderer.render_prompt(record.messages[:-1]) for record in records],
        decode=renderer.tokenizer.decode,
        stop_ids=renderer.stop_ids(),
        max_new_tokens=max_new_tokens,
        adapter=adapter,
        progress=None if say is None else lambda done, total: say("sample answers", done, total),
    )
    return [
        {
            "prompt": record.messages[-2].content,
            "answer": answer.text,
            "expected": record.messages[-1].content,
            "complete": answer.complete,
            "record_id": record.id,
        }
        for record, answer in zip(records, answers, strict=True)
    ]
