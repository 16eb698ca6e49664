"""Tool schemas and tool calls in the ways files write them, and the one way records hold them.

Schemas are held as a JSON list of {"name", "description", "parameters"}: OpenAI's wrapper {"type": "function",
"function": {...}} is taken off. Calls are held as a JSON list of {"name", "arguments"}: arguments that are written as
JSON in a text are read, and ids, which only link a result to its call, are used for that and not kept.
"""

import ast
from collections.abc import Mapping
from typing import Any, Final

from luthier.core.errors import DataError
from luthier.data.formats_values import PYTHON_CALL, TOO_DEEP, Repair, compact, is_deep, kind_name, parse_json, text_of

TOOLS: Final = ("tools", "functions")  # spellings of the column that holds the schemas
_CALL_FIX: Final = 'a call is {"name": "...", "arguments": {...}}'
_NO_TOOLS: Final = (None, "", "[]", [])


def read_tools(row: Mapping[str, Any]) -> str:
    """The schemas of a row as records hold them, "" for none.

    Raises:
        DataError: they are not a list of schemas with names.
    """
    value = next((row[key] for key in TOOLS if row.get(key) not in _NO_TOOLS), None)
    if value is None:
        return ""
    if isinstance(value, str):
        value, error = parse_json(value)
        if error:
            raise DataError(f"broken tools: {error}", fix="tools is a JSON list of tool schemas")
    if not isinstance(value, list):
        raise DataError(f"broken tools: they are {kind_name(value)}", fix="tools is a JSON list of tool schemas")
    tools = [_unwrapped(tool) for tool in value]
    for number, tool in enumerate(tools, 1):
        if not isinstance(tool, dict) or not isinstance(tool.get("name", tool.get("type")), str):
            raise DataError(
                f"broken tools: tool {number} has no name", fix='a tool is {"name": "...", "parameters": {...}}'
            )
    return text_of(compact(tools), "tools") if tools else ""


def _unwrapped(tool: Any) -> Any:
    if isinstance(tool, dict) and tool.get("type") == "function" and tool.keys() == {"type", "function"}:
        return tool["function"]
    return tool


def wrapped(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema as OpenAI writes it. Tools of other types than functions have no name and stay as they are."""
    return {"type": "function", "function": tool} if "name" in tool else tool


def read_calls(value: Any, repairs: list[Repair]) -> list[dict[str, Any]]:
    """Calls as files write them, to [{"name", "arguments", "id"}, ...]; the id is "" where the file gives none.

    Args:
        value: OpenAI's `tool_calls` list or `function_call` object, or JSON in a text, of one call or a list of calls.
        repairs: receives what had to be changed.

    Raises:
        DataError: "broken tool call".
    """
    if isinstance(value, str):
        value = _parsed(value, repairs)
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise DataError("broken tool call: the list of calls is empty", fix=_CALL_FIX)
    return [_call(call, repairs) for call in calls]


def _call(call: Any, repairs: list[Repair]) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise DataError(f"broken tool call: it is {kind_name(call)}", fix=_CALL_FIX)
    function = call["function"] if isinstance(call.get("function"), dict) else call
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise DataError("broken tool call: it has no name", fix=_CALL_FIX)
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = _parsed(arguments, repairs) if arguments.strip() else {}
    if arguments is None:  # a tool without parameters
        arguments = {}
    if not isinstance(arguments, dict):
        raise DataError(f"broken tool call: the arguments of {name} are {kind_name(arguments)}", fix=_CALL_FIX)
    identifier = call.get("id")
    return {"name": name, "arguments": arguments, "id": identifier if isinstance(identifier, str) else ""}


def _parsed(text: str, repairs: list[Repair]) -> Any:
    value, error = parse_json(text)
    if not error:
        return value
    try:
        value = ast.literal_eval(text.strip())  # reads literals only, it runs nothing
        compact(value)
        if is_deep(value):
            raise ValueError(TOO_DEEP)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise DataError(f"broken tool call: {error}", fix=_CALL_FIX) from None
    repairs.append(Repair(PYTHON_CALL, text))
    return value


def calls_json(calls: list[dict[str, Any]]) -> str:
    """Calls as records hold them."""
    if not calls:
        return ""
    plain = [{"name": call["name"], "arguments": call["arguments"]} for call in calls]
    return text_of(compact(plain), "tool_calls")
