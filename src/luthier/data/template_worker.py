"""The process in which chat templates run: `python template_worker.py`, JSON lines in, JSON lines out.

A chat template is a program that came with a model. It runs here in jinja2's sandbox, in a process that holds no
data but the conversation, has little memory, and can be killed. Only the standard library and jinja2 are imported.

    in   {"source", "special_tokens", "now", "memory"}              once, at the start
    out  {"ok": true} or {"error": text}
    in   {"conversations": [[messages, add_generation_prompt], …]}  any number of times
    out  {"text": text} or {"error": text}                          one line a conversation, in order

The environment is that of transformers' apply_chat_template (`transformers/utils/chat_template_utils.py`), except
that `strftime_now` knows one fixed day.
"""

import json
import resource
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

ERROR_CHARS = 2_000
OUTPUT_FACTOR, OUTPUT_SPARE = 4, 65_536  # a render may be this many times its messages, and this many characters more


class Refused(jinja2.TemplateError):
    """The template called raise_exception."""


class Generation(jinja2.ext.Extension):
    """Accepts {% generation %} … {% endgeneration %} and renders what is inside, as if the tags were not there."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        """Replace the block by its own statements. A scope keeps `set` inside, as the original's macro does."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class Namespace(jinja2.utils.Namespace):
    """`namespace()` without names that start with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that namespace(self=…) works, as in jinja2
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class PlainDict:
    """`dict()` and `dict.fromkeys()`, and no other attribute of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """`dict.fromkeys`."""
        return dict.fromkeys(*args)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _raise_exception(message: Any) -> None:
    raise Refused(str(message))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def compile_template(source: str, now: datetime) -> jinja2.Template:
    """The template in the sandbox. Raises jinja2.TemplateSyntaxError."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = now.strftime
    environment.globals["dict"] = PlainDict()
    environment.globals["namespace"] = Namespace
    return environment.from_string(source)


def render(
    template: jinja2.Template, special_tokens: dict[str, str], messages: list[dict[str, str]], prompt: bool
) -> str:
    """One conversation as text. Raises OverflowError when the text grows past the limit."""
    limit = OUTPUT_FACTOR * sum(len(message["content"]) for message in messages) + OUTPUT_SPARE
    parts, length = [], 0
    for part in template.generate(
        messages=messages, tools=None, documents=None, add_generation_prompt=prompt, **special_tokens
    ):
        length += len(part)
        if length > limit:
            raise OverflowError(f"it wrote more than {limit:,} characters")
        parts.append(part)
    return "".join(parts)


def _guarded(work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """What `work` returns, or what went wrong in it as {"error": text}."""
    try:
        return work(*args)
    except Refused as error:
        what = f"the chat template refuses this conversation: {error.message}"
    except jinja2.TemplateSyntaxError as error:
        what = f"the chat template is no valid jinja: line {error.lineno}: {error.message}"
    except jinja2.exceptions.SecurityError as error:
        what = f"the chat template tried something that the sandbox forbids: {error}"
    except MemoryError:
        what = "the chat template needs more memory than it may have"
    except RecursionError:
        what = "the chat template calls itself without end"
    # A template is a program and can make any mistake a program can; here all the others mean the same.
    except Exception as error:
        what = f"the chat template failed: {type(error).__name__}: {error}"
    return {"error": what[:ERROR_CHARS]}


def main() -> None:
    """Answer requests until stdin ends."""
    requests, out = sys.stdin.buffer, sys.stdout.buffer

    def answer(value: dict[str, Any]) -> None:
        out.write(json.dumps(value).encode("ascii") + b"\n")
        out.flush()

    start = json.loads(requests.readline())
    resource.setrlimit(resource.RLIMIT_AS, (start["memory"], start["memory"]))
    templates: list[jinja2.Template] = []

    def prepare() -> dict[str, Any]:
        templates.append(compile_template(start["source"], datetime.fromisoformat(start["now"])))
        return {"ok": True}

    def text_of(messages: list[dict[str, str]], prompt: bool) -> dict[str, Any]:
        return {"text": render(templates[0], start["special_tokens"], messages, prompt)}

    answer(_guarded(prepare))
    while line := requests.readline():
        for messages, prompt in json.loads(line)["conversations"]:
            answer(_guarded(text_of, messages, prompt))


if __name__ == "__main__":
    main()
