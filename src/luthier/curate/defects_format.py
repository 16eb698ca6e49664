"""Answers in a format that a machine reads, and that none could read: JSON that was asked for, Python in a fence."""

import ast
import json
import re
import textwrap
import warnings
from typing import Final

from luthier.curate.pair import Evidence, Pair

_ASKS_JSON: Final = re.compile(
    r"\b(?:in|as|into|to|valid|return|output|respond (?:with|in)|provide|produce|give|generate|create|only"
    r"|with) (?:me )?"
    r"(?:a |an |the |only |raw |valid |strict )*json\b(?! (?:file|web token|schema valid|pars|lib))"
    r"|\bjson (?:format|object|output|array|response)\b",
    re.IGNORECASE,
)
_OTHER_TASK: Final = re.compile(
    r"\b(?:function|script|program|code|python|javascript|java|typescript|ruby|php|go|rust|c#|sql|bash|parse"
    r"|parser|read"
    r"|explain|what is|describe|difference|convert (?:the |this |following )*json|api|endpoint|class|library"
    r"|command|why"
    r"|how (?:do|can|to|would)|json to|from json|fix|validate|xml|csv|yaml|html|tutorial|article|essay|server"
    r"|service|app|application|node|\w*\.js|react|flask|django|express|framework|requests?|curl|database"
    r"|tables?|form|page|website|implement|load|decode|serialize|stringify|dataframe|pandas)\b",
    re.IGNORECASE,
)
_FENCE: Final = re.compile(r"^[ \t]*```[ \t]*([\w+#-]*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)


def _reads(text: str) -> json.JSONDecodeError | None:
    """None when it is JSON, or one JSON value a line."""
    try:
        json.loads(text)
        return None
    except json.JSONDecodeError as error:
        first = error
    except RecursionError:
        return None
    try:
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (json.JSONDecodeError, RecursionError):
        return first
    return None if len(lines) > 1 else first


def _json(pair: Pair) -> tuple[str, json.JSONDecodeError | None] | None:
    """The JSON of an answer that should be JSON and what is wrong with it; (text, None) when there is none at all."""
    if not pair.answer or pair.kind == "text" or "json" not in pair.asked:
        return None
    if not _ASKS_JSON.search(pair.prompt) or _OTHER_TASK.search(pair.prompt):
        return None
    text = pair.answer.strip()
    blocks = [match[2] for match in _FENCE.finditer(text) if match[1].lower() in ("", "json", "jsonl", "json5")]
    if not blocks and text.startswith("```"):
        blocks = [text.partition("\n")[2]]
    if not blocks:
        at = min((found for found in (text.find("{"), text.find("[")) if found >= 0), default=-1)
        if at < 0:
            try:
                json.loads(text)
            except json.JSONDecodeError:
                return text, None
            return None
        tail = max(text.rfind("}"), text.rfind("]")) + 1
        blocks = [text[at:tail] if tail > at and text[tail:].strip()[:1].isalpha() else text[at:]]
    wrong = [(block.strip(), error) for block in blocks if (error := _reads(block.strip())) is not None]
    return wrong[0] if len(wrong) == len(blocks) else None


def cut_json(pair: Pair) -> Evidence | None:
    """JSON was asked for, and the answer is JSON that ends before its brackets close: it was cut.

    Not a defect: a refusal or question instead of JSON (its own reasons).
    """
    found = _json(pair)
    if found is None or found[1] is None:
        return None
    text, error = found
    if error.pos < len(text.rstrip()) - 1 and not error.msg.startswith("Unterminated string"):
        return None
    if text.count("{") + text.count("[") <= text.count("}") + text.count("]"):
        return None
    return Evidence(f"{error.msg} at its end", score=None)


def broken_json(pair: Pair) -> Evidence | None:
    """JSON was asked for, and no part of the answer is JSON. For review: some want to see a shape ("...").

    Not a defect, so not flagged: prompts about JSON, or about programs that read or write it. A value inside prose
    counts as JSON, and so does one value a line.
    """
    found = _json(pair)
    if found is None or cut_json(pair) is not None:
        return None
    text, error = found
    if error is None:
        return Evidence("the answer holds no JSON")
    if "..." in text or "…" in text or ("//" in text and "://" not in text):
        return None
    return Evidence(f"{error.msg} (line {error.lineno})")


_PYTHON: Final = ("python", "py", "python3")
_NOT_PLAIN: Final = re.compile(
    r"^\s*(?:>>>|\.\.\.(?=[ \t]*\S)|[%!$]|In \[\d+\]:|Out\[\d+\]:|print [\"'\w(]|exec [\"'\w]|raise \w+, )|<[a-z_ ]+>"
    r"|\[(?:your|insert)|(?<!\w)\.\.\.(?=[,)\]}]|\s*$)|…|^\s*(?:\+|-) |\{\{|\{%|except \w+, \w+:",
    re.IGNORECASE | re.MULTILINE,
)
LONGEST: Final = 20_000  # characters of a block that is parsed


def broken_python(pair: Pair) -> Evidence | None:
    """A fence marked as Python that Python cannot parse. For review: it may be meant as a sketch.

    Not a defect, so not flagged: a console session, notebook commands, Python 2, a template, a difference, dots or
    <names> as placeholders, an indented snippet, a `def` line alone; prompts about errors in code. Not caught: code
    without a fence, and all that only running shows.
    """
    text = pair.answer
    if not text or "```py" not in pair.low or pair.kind == "text":
        return None
    for match in _FENCE.finditer(text):
        if match[1].lower() not in _PYTHON or len(match[2]) > LONGEST:
            continue
        error = _parse(match[2])
        if error is None or _NOT_PLAIN.search(match[2]):
            continue
        if re.search(r"\berrors?\b|\bbug|\bsyntax|wrong|python ?2|pseudo", pair.asked):
            continue
        return Evidence(f"{error.msg} (line {error.lineno})", match.start(), match.end())
    return None


def _parse(code: str) -> SyntaxError | None:
    """What Python says to the code, whole, without its indentation, or with a body for a last line that needs one."""
    code = textwrap.dedent(code).strip("\n")
    first = None
    for attempt in (code, f"{code}\n    pass", f"if 1:\n{textwrap.indent(code, ' ')}"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(attempt)
            return None
        except SyntaxError as error:
            first = first or error
        except (ValueError, RecursionError, MemoryError):  # nul bytes, or nested deeper than the parser goes
            return None
    return first
