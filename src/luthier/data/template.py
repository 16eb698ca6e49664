"""Chat templates: messages in, the one text the model sees out, rendered in a process of its own.

The template runs in `template_worker.py` under limits of time, memory and output, because it is a program that
somebody else wrote. A template that hits a limit costs its conversation, never the run's process.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from datetime import time as day_time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from luthier.core.errors import DataError, ModelError
from luthier.core.files import hash_json
from luthier.data.tokenizer import Tokenizer

_PROGRAM = Path(__file__).with_name("template_worker.py")
MEMORY_BYTES = 512 * 2**20
SECONDS = 2.0  # for one conversation
START_SECONDS = 30.0  # for the process to start and to compile the template
MAX_KILLS = 3  # a template that runs out of time this often is not worth waiting for
_BATCH_CHARS = 1_000_000  # of one request, so that neither process holds much more than this

Conversation = tuple[Sequence[dict[str, str]], bool]  # messages, add_generation_prompt


class ChatTemplate:
    """A jinja chat template; renders exactly as transformers' `apply_chat_template(tokenize=False)` does.

    Use it as a context manager or call `close`; the worker process also ends with the object.

    Args:
        source: the jinja source.
        bos_token, eos_token, pad_token, unk_token: what the template sees under these names; "" is undefined.
        today: the day that `strftime_now` tells, so that a run can be repeated on another day.
    """

    def __init__(
        self, source: str, *, bos_token: str, eos_token: str, today: date, pad_token: str = "", unk_token: str = ""
    ) -> None:
        self.source = source
        self.today = today
        named = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token, "unk_token": unk_token}
        self._special_tokens = {name: text for name, text in named.items() if text}
        self._worker: _Worker | None = None
        self._kills = 0

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides what it renders; the day counts only where the template asks for it."""
        today = str(self.today) if "strftime_now" in self.source else ""
        return hash_json([self.source, self._special_tokens, today])

    def render(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool) -> str:
        """The text of one conversation: `messages` are {"role", "content"}.

        Raises:
            DataError: the template refuses the messages (with its own words), fails, or hits a limit.
        """
        (result,) = self.render_many([(messages, add_generation_prompt)])
        if isinstance(result, DataError):
            raise result
        return result

    def render_many(self, conversations: Sequence[Conversation]) -> list[str | DataError]:
        """The text of each conversation, or the error that `render` would raise for it.

        Raises:
            DataError: the template is no valid jinja, or ran out of time `MAX_KILLS` times.
        """
        results: list[str | DataError] = []
        for batch in _batches(conversations):
            done = 0
            while done < len(batch):
                answers = self._ask(batch[done:])
                done += len(answers)
                results += answers
        return results

    def close(self) -> None:
        """End the worker process. A later call starts a new one."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, batch: Sequence[Conversation]) -> list[str | DataError]:
        """Answers for the first conversations of `batch`: for all, or up to one that the worker did not survive."""
        if self._worker is None:
            self._worker = self._start()
        answers: list[str | DataError] = []
        self._worker.send({"conversations": [[list(messages), prompt] for messages, prompt in batch]})
        while len(answers) < len(batch):
            try:
                answer = self._worker.receive(SECONDS)
            except (TimeoutError, EOFError) as error:
                answers.append(self._killed(error))
                break
            answers.append(answer["text"] if "text" in answer else DataError(answer["error"]))
        return answers

    def _start(self) -> "_Worker":
        worker = _Worker()
        now = datetime.combine(self.today, day_time())
        worker.send(
            {
                "source": self.source,
                "special_tokens": self._special_tokens,
                "now": now.isoformat(),
                "memory": MEMORY_BYTES,
            }
        )
        try:
            answer = worker.receive(START_SECONDS)
        except (TimeoutError, EOFError):
            answer = {"error": "the process that renders chat templates did not start"}
        if "error" in answer:
            worker.stop()
            raise DataError(answer["error"], fix="mend the template, or set chat_template: FILE.jinja in the recipe")
        return worker

    def _killed(self, error: TimeoutError | EOFError) -> DataError:
        """Ends the worker after a conversation it did not answer."""
        self.close()
        self._kills += 1
        if isinstance(error, TimeoutError):
            what = f"the chat template ran longer than {SECONDS:g} s on one conversation"
        else:
            what = "the chat template brought its process down on one conversation"
        if self._kills >= MAX_KILLS:
            raise DataError(f"{what}, {self._kills} times so far", fix="set chat_template: FILE.jinja in the recipe")
        return DataError(what)


def load_template(tokenizer: Tokenizer, *, today: date, file: Path | None = None) -> ChatTemplate:
    """The template in `file`, else the one that came with the tokenizer.

    Raises:
        DataError: `file` cannot be read.
        ModelError: neither is there.
    """
    source = tokenizer.chat_template
    if file is not None:
        try:
            source = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"chat template cannot be read ({error})", where=str(file)) from None
    if source is None:
        raise missing_template(tokenizer)
    return ChatTemplate(
        source,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        unk_token=tokenizer.unk_token,
        today=today,
    )


def missing_template(tokenizer: Tokenizer) -> ModelError:
    """What to raise where conversations meet a model that came without a template."""
    return ModelError(
        "the model has no chat template, so it is undefined how a conversation is written for it",
        where=str(tokenizer.folder),
        fix="set chat_template: FILE.jinja in the recipe, or train on plain text rows",
    )


def _batches(conversations: Sequence[Conversation]) -> Iterator[list[Conversation]]:
    batch: list[Conversation] = []
    size = 0
    for messages, prompt in conversations:
        batch.append((messages, prompt))
        size += sum(len(message["content"]) for message in messages)
        if size > _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Worker:
    """One worker process and the two pipes to it."""

    def __init__(self) -> None:
        # -P: the worker's own folder stays off its import path, where data/tokenizer.py and others would shadow names.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        self._rest = b""  # received past the last whole line
        self._finalizer = weakref.finalize(self, _end, self._process)

    def send(self, value: dict[str, Any]) -> None:
        """Write one request. The worker reads a whole line before it answers, so this cannot block for good."""
        with contextlib.suppress(BrokenPipeError):  # it is gone: `receive` finds out
            self._in.write(json.dumps(value).encode("ascii") + b"\n")
            self._in.flush()

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next answer.

        Raises:
            TimeoutError: there was none within `seconds`.
            EOFError: the process ended.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._out], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            part = os.read(self._out.fileno(), 1 << 20)
            if not part:
                raise EOFError
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def stop(self) -> None:
        """Kill the process and close the pipes."""
        self._finalizer()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe
        with contextlib.suppress(BrokenPipeError):  # unsent bytes for a process that is gone
            pipe.close()
