"""docs/faults.md is true: every fault is listed once, and every test it names is there for pytest to find."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8")
HEADER = "| no. | fault | what happens | proof |"
NUMBERS = [f"F{number}" for number in range(1, 49)]
WITHOUT_PROOF = "Does not apply: "


def rows(page: str) -> dict[str, tuple[str, list[str]]]:
    """What happens and the tests that prove it, by number; a number that comes twice is an error."""
    found: dict[str, tuple[str, list[str]]] = {}
    inside = False
    for line in page.splitlines():
        inside = line == HEADER or (inside and line.startswith("|"))
        if inside and line != HEADER and not line.startswith("|---"):
            number, _, happens, proof = (cell.strip() for cell in line.strip("|").split("|"))
            assert number not in found, f"{number} is listed twice"
            found[number] = happens, re.findall(r"`([^`]+)`", proof)
    return found


@cache
def functions(file: str) -> set[str]:
    """The test functions of a file, as pytest would collect them."""
    path = TESTS / file
    if not path.is_file() or not path.name.startswith("test_"):
        return set()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def wrong(happens: str, proofs: list[str]) -> list[str]:
    """What is wrong with a row: a test that is not there, or no test without a reason."""
    if not proofs:
        return [] if happens.startswith(WITHOUT_PROOF) else ["no proof, and no reason why it does not apply"]
    files = ((proof, *proof.split("::")) for proof in proofs)
    return [f"{proof} does not exist" for proof, file, *name in files if set(name) - functions(file) or not name]


MATRIX = rows(PAGE)


def test_every_fault_is_listed_once() -> None:
    assert list(MATRIX) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_its_proof_exists(number: str) -> None:
    assert wrong(*MATRIX[number]) == []


def test_files_with_tests_of_a_fault_are_named_in_its_row() -> None:
    missing = []
    for path in sorted(TESTS.glob("*/test_*.py")):
        file = path.relative_to(TESTS).as_posix()
        numbers = {int(number) for name in functions(file) for number in re.findall(r"_f(\d+)(?=_)", name)}
        named = {number for number in numbers if any(file in proof for proof in MATRIX[f"F{number}"][1])}
        missing += [f"F{number}: {file}" for number in sorted(numbers - named)]
    assert missing == []


def test_a_wrong_page_is_seen() -> None:
    line = "| F1 | a | b | `faults/test_matrix.py::test_every_fault_is_listed_once` |"
    assert rows(f"{HEADER}\n|---|---|---|---|\n{line}") == {
        "F1": ("b", ["faults/test_matrix.py::test_every_fault_is_listed_once"])
    }
    with pytest.raises(AssertionError, match="twice"):
        rows(f"{HEADER}\n{line}\n{line}")
    assert wrong("b", ["faults/test_matrix.py::test_gone"]) == ["faults/test_matrix.py::test_gone does not exist"]
    assert wrong("b", ["faults/test_gone.py::test_a", "faults/test_matrix.py"]) != []
    assert wrong("Something happens.", []) != [] and wrong("Does not apply: there is no such thing.", []) == []
