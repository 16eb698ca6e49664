"""How long cleaning takes, and how much memory near duplicates need.

    python benchmarks/curation/speed.py --embeddings smollm2-135m [--real FILE ...] [--quick]

Four measurements, each in a process of its own, on two workers:

    ten thousand      `luthier data clean` from a JSONL file to the folder with its report        limit 5 s
    with embeddings   the same with semantic duplicates                                          limit 15 s
    a million         the same without embeddings, 1,000,000 rows                                limit 180 s
    near              near duplicates alone, on three sizes up to 2,000,000 rows; time and peak memory of all processes
                      together, and what follows for 10,000,000 if both go on growing as between the last two sizes

Rows are made (`speed_rows`); 5 % of them are edited copies. What is extrapolated is marked as such in the result and
is no measurement. `--quick` takes a hundredth of the rows, to see that everything runs. Run it on a quiet machine.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from speed_rows import make_rows, read_real, write_rows

HERE: Final = Path(__file__).parent
WORKERS: Final = 2
LIMITS: Final = {"ten thousand": 5.0, "with embeddings": 15.0, "a million": 180.0}
NEAR_SIZES: Final = (500_000, 1_000_000, 2_000_000)
TARGET: Final = 10_000_000
LIMIT_BYTES: Final = 8e9
LIBRARIES: Final = ("luthier", "numpy", "pyarrow", "rensa", "tokenizers")


class PeakMemory:
    """The largest memory this process and its children had together, in bytes (proportional set size), while inside."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self.bytes = max(self.bytes, sum(_set_size(process) for process in _family(os.getpid())))


def _family(process: int) -> list[int]:
    made = [process]
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            made += [one for child in task.read_text().split() for one in _family(int(child))]
        except OSError:  # it has ended meanwhile
            continue
    return made


def _set_size(process: int) -> int:
    """Pages that processes share count in parts; mapped files count as far as they are in memory."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def clean_task(rows: Path, folder: Path, embeddings: str) -> dict[str, Any]:
    """`clean` as a user would run it, import and process start included in the time that the caller takes."""
    from luthier.curate.clean import Plan, clean

    plan = Plan(workers=WORKERS, embeddings=Path(embeddings) if embeddings else None)
    dataset = clean([rows], folder / "out", plan)
    return {"passes": [made.step for made in dataset.passes]}


def near_task(rows: Path, folder: Path) -> dict[str, Any]:
    """Near duplicates of a dataset folder; reading the file into it is not timed."""
    from luthier.curate.folder import create
    from luthier.curate.intake import read_sources
    from luthier.curate.near import near_duplicates

    (folder / "out").mkdir()
    intake = read_sources([rows])
    dataset = create(folder / "out", intake.rows, intake.sources, "0")
    del intake
    notes: Counter[str] = Counter()
    with PeakMemory() as peak:
        start = time.perf_counter()
        entries = near_duplicates(dataset, workers=WORKERS, notes=notes)
        seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 2), "peak_bytes": peak.bytes, "duplicates": len(entries), "notes": dict(notes)}


def run(task: str, number: int, arguments: argparse.Namespace, embeddings: str = "") -> dict[str, Any]:
    """A task in a process of its own, on fresh rows."""
    real = [row for path in arguments.real for row in read_real(path)]
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        rows = Path(folder) / "rows.jsonl"
        write_rows(rows, make_rows(number, real=real))
        command = [sys.executable, str(HERE / "speed.py"), "--task", task, "--rows", str(rows), "--scratch", folder]
        command += ["--embeddings", embeddings] if embeddings else []
        start = time.perf_counter()
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if result.returncode:
            sys.exit(f"{task} of {number:,} rows failed:\n{result.stderr[-3000:]}")
        made = {"rows": number, "seconds": round(seconds, 2)} | json.loads(result.stdout.splitlines()[-1])
    made["microseconds_a_row"] = round(made["seconds"] / number * 1e6, 1)
    return made


def extrapolate(small: dict[str, Any], large: dict[str, Any]) -> dict[str, Any]:
    """What `TARGET` rows would take if time and memory went on growing in a straight line."""
    made: dict[str, Any] = {"rows": TARGET, "extrapolated": True}
    for name in ("seconds", "peak_bytes"):
        slope = (large[name] - small[name]) / (large["rows"] - small["rows"])
        made[name] = round(large[name] + slope * (TARGET - large["rows"]))
    return made | {"limit_bytes": LIMIT_BYTES, "within": made["peak_bytes"] < LIMIT_BYTES}


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", default="", help="folder of static embeddings, or the name of a stored model")
    parser.add_argument("--real", type=Path, nargs="*", default=[], help="files of prompts and answers to mix in")
    parser.add_argument("--only", nargs="*", default=[*LIMITS, "near"], help="which of the measurements")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--scratch", type=Path, help="where temporary files go: 25 GB for all of it")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "curation_speed.json")
    parser.add_argument("--task", choices=("clean", "near"), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task == "clean":
        print(json.dumps(clean_task(arguments.rows, arguments.scratch, arguments.embeddings)))
        return
    if arguments.task == "near":
        print(json.dumps(near_task(arguments.rows, arguments.scratch)))
        return

    shrink = 100 if arguments.quick else 1
    made: dict[str, Any] = {}
    for name, number in (("ten thousand", 10_000), ("with embeddings", 10_000), ("a million", 1_000_000)):
        if name not in arguments.only or (name == "with embeddings" and not arguments.embeddings):
            continue
        embeddings = _folder(arguments.embeddings) if name == "with embeddings" else ""
        made[name] = run("clean", number // shrink, arguments, embeddings) | {"limit_seconds": LIMITS[name]}
        made[name]["within"] = made[name]["seconds"] < LIMITS[name]
        print(
            f"{name:16} {made[name]['rows']:>10,} rows {made[name]['seconds']:8.2f} s (limit {LIMITS[name]:g})",
            flush=True,
        )
        write(arguments, made)
    if "near" in arguments.only:
        made["near"] = [run("near", number // shrink, arguments) for number in NEAR_SIZES]
        for one in made["near"]:
            print(f"{'near':16} {one['rows']:>10,} rows {one['seconds']:8.2f} s, peak {one['peak_bytes'] / 1e9:.2f} GB")
        made["near_extrapolated"] = extrapolate(*made["near"][-2:])
        guess = made["near_extrapolated"]
        print(
            f"{'extrapolated':16} {TARGET:>10,} rows {guess['seconds']:8.0f} s, peak {guess['peak_bytes'] / 1e9:.2f} GB"
        )
        write(arguments, made)


def write(arguments: argparse.Namespace, made: dict[str, Any]) -> None:
    """The result so far: the long measurements come last, and what is measured is not lost with them."""
    from luthier.core.hardware import cpu, memory

    facts = cpu()
    result = {
        "benchmark": "curation_speed",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": facts.name, "cores": facts.cores, "memory_bytes": memory().total, "system": platform.platform(),
            "load_before": os.getloadavg()[0],
        },
        "versions": {name: metadata.version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        "setting": {
            "workers": WORKERS, "quick": arguments.quick, "embeddings": Path(arguments.embeddings).name,
            "real": [path.name for path in arguments.real],
        },
        "measured": made,
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _folder(name: str) -> str:
    if Path(name).is_dir():
        return name
    from luthier.models.store import resolve_model

    return str(resolve_model(name))


if __name__ == "__main__":
    main()
