"""Does a test fail when a guard is broken? Small changes to the code, one at a time, and the tests that answer for it.

    python benchmarks/steady/mutations.py [--number 120] [--only train/guards.py] [--jobs 2] [--list]

Works on a copy of src and tests in a temporary folder. A change is one of: a comparison turned or its border moved,
`and` for `or`, a `not` left out, a condition that never holds, a call or a `raise` left out (so: a sync, a hash check),
a sign or product turned, True for False, a number made larger. `--number` of them are drawn with `--seed`, spread over
the files by their size. Written are the share that some test noticed and a list of the survivors.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).parent.parent.parent
STEADY = ["tests/faults/test_guards_run.py", "tests/unit/test_fit*.py", "tests/unit/test_loop*.py"]
DISK = ["tests/unit/test_disk*.py", "tests/unit/test_files*.py", "tests/unit/test_core.py"]
SAVING = ["tests/unit/test_checkpoint*.py", "tests/faults/test_disk_*.py", "tests/faults/test_checkpoint_*.py"]
TARGETS = {  # file of the package → the tests that answer for it, quick ones first
    "train/guards.py": ["tests/unit/test_guards*.py", *STEADY],
    "train/step.py": ["tests/unit/test_step*.py", *STEADY],
    "train/keeper.py": ["tests/unit/test_keeper*.py", *STEADY, *SAVING],
    "train/loop.py": [*STEADY, "tests/invariants/test_resume.py"],
    "train/checkpoint.py": SAVING,
    "train/checkpoint_folder.py": SAVING,
    "core/disk.py": [*DISK, *SAVING],
    "core/files.py": [*DISK, *SAVING],
    "stages/facts.py": ["tests/unit/test_facts.py", "tests/invariants/test_resume*.py"],
    "evaluate/overfitting.py": ["tests/unit/test_overfitting*.py"],
    "stages/publish.py": ["tests/faults/test_bad_stages.py"],
    "stages/forgetting_rule.py": ["tests/unit/test_forgetting*.py"],
    "stages/prompt_rule.py": ["tests/unit/test_prompt_rule.py", "tests/unit/test_forgetting*.py"],
    "evaluate/other_prompts.py": ["tests/unit/test_prompt_rule.py"],
    "stages/forgetting_probes.py": ["tests/unit/test_forgetting*.py", "tests/faults/test_forgetting_run.py"],
    "stages/forgetting.py": ["tests/unit/test_forgetting*.py", "tests/faults/test_forgetting_run.py"],
}
TURNED = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is": "is not", "is not": "is", "in": "not in",
    "not in": "in",
}  # fmt: skip
SIGNS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*")}


@dataclass(frozen=True)
class Mutant:
    """A file with the characters `start` to `end` replaced by `new`."""

    file: str
    line: int
    what: str
    old: str
    new: str
    start: int
    end: int


class Text:
    """A source file, whose characters are addressed as `ast` does: line, and byte within the line."""

    def __init__(self, file: str, source: str) -> None:
        self.file, self.source = file, source
        self.lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def at(self, line: int, byte: int) -> int:
        """The index of a place in the source."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:byte].decode())

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Begin and end of a node."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str, what: str) -> Iterator[Mutant]:
        """The operator `old` between two nodes, replaced."""
        begin, end = self.span(left)[1], self.span(right)[0]
        place = self.source.find(old, begin, end)
        if place >= 0:
            yield self.mutant(place, place + len(old), new, what)

    def mutant(self, start: int, end: int, new: str, what: str) -> Mutant:
        """A replacement, with the line it begins in."""
        return Mutant(self.file, self.source.count("\n", 0, start) + 1, what, self.source[start:end], new, start, end)


def mutants(file: str, source: str) -> list[Mutant]:
    """Every change of the file that still parses."""
    text, found = Text(file, source), []
    stack: list[ast.AST] = [ast.parse(source)]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            continue
        found += _of(node, text)
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list"):
                children = value if isinstance(value, list) else [value]
                stack += [child for child in children if isinstance(child, ast.AST)]
    return sorted((m for m in found if _parses(source, m)), key=lambda m: (m.start, m.new))


def _of(node: ast.AST, text: Text) -> Iterator[Mutant]:
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for left, right, operator in zip(sides, sides[1:], node.ops, strict=False):
            old = _OPERATORS[type(operator)]
            yield from text.between(left, right, old, TURNED[old], "comparison")
    elif isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from text.between(left, right, old, new, "and/or")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        start, end = text.span(node)
        yield text.mutant(start, end, f"({text.source[slice(*text.span(node.operand))]})", "not")
    elif isinstance(node, ast.If | ast.IfExp):
        yield text.mutant(*text.span(node.test), "False", "condition")
    elif isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield text.mutant(*text.span(node), "pass", "left out")
    elif isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
        old, new = SIGNS[type(node.op)]
        yield from text.between(node.left, node.right, old, new, "arithmetic")
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield text.mutant(*text.span(node), str(not node.value), "constant")
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield text.mutant(*text.span(node), repr(node.value * 2 + 1), "number")


_OPERATORS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.Is: "is",
    ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip


def applied(source: str, mutant: Mutant) -> str:
    """The source with the change."""
    return source[: mutant.start] + mutant.new + source[mutant.end :]


def _parses(source: str, mutant: Mutant) -> bool:
    try:
        return ast.dump(ast.parse(applied(source, mutant))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


def draw(pool: dict[str, list[Mutant]], number: int, seed: int) -> list[Mutant]:
    """`number` changes, drawn without putting back."""
    every = [mutant for found in pool.values() for mutant in found]
    return random.Random(seed).sample(every, min(number, len(every)))


def tests_of(root: Path, file: str) -> list[str]:
    """The test files there are for a file, each once, in order."""
    found = [path for pattern in TARGETS[file] for path in sorted(root.glob(pattern))]
    return list(dict.fromkeys(str(path.relative_to(root)) for path in found))


def run_tests(root: Path, tests: list[str], limit: float) -> str:
    """What noticed: a test, or the time limit; empty if all tests pass."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for test in tests:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-qx",
            "-m",
            "not gpu and not faults",
            "-p",
            "no:cacheprovider",
            test,
        ]
        try:
            done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return f"{test}: longer than {limit:.0f} s"
        if done.returncode not in (0, 5):  # 5: nothing was collected
            failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            return failed[0].partition(" - ")[0] if failed else f"{test}: exit {done.returncode}"
    return ""


def copy_of(root: Path, to: Path) -> Path:
    """src, tests and the settings of pytest."""
    for folder in ("src", "tests"):
        shutil.copytree(root / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", to)
    return to


def main() -> None:
    """Draw, break, test, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--list", action="store_true", help="print what there is and stop")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "steady_mutations.json")
    arguments = parser.parse_args()

    package = ROOT / "src" / "luthier"
    files = [file for file in arguments.only if (package / file).is_file()]
    sources = {file: (package / file).read_text() for file in files}
    pool = {file: mutants(file, source) for file, source in sources.items()}
    for file, found in pool.items():
        print(f"{file}: {len(found)} changes, tests: {' '.join(tests_of(ROOT, file)) or 'none'}")
    if arguments.list:
        return
    drawn = draw(pool, arguments.number, arguments.seed)
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        roots: Queue[Path] = Queue()
        for job in range(arguments.jobs):
            roots.put(copy_of(ROOT, Path(name) / str(job)))
        # Times without a change, and proof that the tests pass.
        limits: dict[str, float] = {}
        first = roots.get()
        for file in dict.fromkeys(mutant.file for mutant in drawn):
            began = time.monotonic()
            if noticed := run_tests(first, tests_of(ROOT, file), 1800):
                sys.exit(f"the tests of {file} fail without any change: {noticed}")
            limits[file] = 60 + 5 * (time.monotonic() - began)
            print(f"{file}: its tests take {time.monotonic() - began:.0f} s", flush=True)
        roots.put(first)

        def judge(mutant: Mutant) -> str:
            root = roots.get()
            target = root / "src" / "luthier" / mutant.file
            try:
                target.write_text(applied(sources[mutant.file], mutant))
                return run_tests(root, tests_of(ROOT, mutant.file), limits[mutant.file])
            finally:
                target.write_text(sources[mutant.file])
                roots.put(root)

        with ThreadPoolExecutor(arguments.jobs) as threads:
            results = []
            for mutant, noticed in zip(drawn, threads.map(judge, drawn), strict=True):
                results.append((mutant, noticed))
                mark = f"noticed by {noticed}" if noticed else "SURVIVED"
                print(f"{mutant.file}:{mutant.line} {mutant.what}: {mutant.old!r} → {mutant.new!r}: {mark}", flush=True)
    survivors = [mutant for mutant, noticed in results if not noticed]
    print(f"\n{len(results) - len(survivors)} of {len(results)} changes were noticed; survivors:\n")
    print("| file | line | change |\n|---|---|---|")
    for mutant in sorted(survivors, key=lambda m: (m.file, m.line)):
        print(f"| {mutant.file} | {mutant.line} | {mutant.what}: `{_short(mutant.old)}` → `{mutant.new}` |")
    written = {
        "benchmark": "steady_mutations",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": arguments.seed,
        "number": len(results),
        "noticed": len(results) - len(survivors),
        "files": {file: len(found) for file, found in pool.items()},
        "changes": [{**asdict(mutant), "noticed_by": noticed} for mutant, noticed in results],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(written, indent=1) + "\n")
    print(f"\nwritten to {arguments.out}")


def _short(code: str) -> str:
    line = " ".join(code.split())
    return line if len(line) <= 80 else line[:77] + "…"


if __name__ == "__main__":
    main()
