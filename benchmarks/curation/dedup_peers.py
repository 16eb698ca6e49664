"""Near and semantic duplicates: Luthier beside semhash and datasketch, on the same rows, in one run.

    python benchmarks/curation/dedup_peers.py --peer-python .venv-peers/bin/python --embeddings smollm2-135m \\
        [--pools FILE ...] [--rows 20000] [--rounds 2]

The peers' environment needs semhash and datasketch. Rows are made (`speed_rows`), or come from files of prompts and
answers. Among them are put, each from another row:

    edited      copies with 2, 5, 10, 20 and 30 % of their words replaced         to be found
    numbers     copies in which every number is another one                       another row, to be left alone
    answers     one row's prompt with another row's answer                        another row, to be left alone

Each contender gets (id, prompt, answer) and says which rows it takes out and which row stays for each. Those that know
texts only get both in one, as their users would have it. Of a pair of copy and source one must go for it to be found.
Precision is the share of right ones among all rows taken out; rows that the pool itself has twice count as wrong, all
but exact copies, which are taken out beforehand. What is to be left alone is left alone by Luthier's own rules, and the
peers have none for it; so precision is also given without the rows of those two kinds.

    luthier     `near_duplicates_in`: MinHash, then every pair compared
    luthier-s   `semantic_duplicates_in`: static embeddings at 0.95, guarded
    datasketch  in the manner of text-dedup: 5-grams of words, 240 permutations, 0.7, groups closed over bands
    datasketch-5 the same with our shingles and bands: 5-grams of characters, 32 bands of 4
    semhash     at its default of 0.9, with the same static embeddings

Each runs alone in its own process, in turn, on one core (`OMP_NUM_THREADS=1` and pinned where the system can). Written
to benchmarks/results: recall by kind, precision, seconds of processor time, rows a second and core, peak memory.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from importlib import metadata
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final

from speed_rows import Row, Words, edit, make_rows, read_real

HERE: Final = Path(__file__).parent
EDITS: Final = (0.02, 0.05, 0.1, 0.2, 0.3)
SHARE: Final = 0.01  # of the rows, a kind
OURS: Final = ("luthier", "luthier-s")
PEERS: Final = ("datasketch", "datasketch-5", "semhash")
NEED_EMBEDDINGS: Final = ("luthier-s", "semhash")
BETWEEN: Final = " \x1f "  # no word, so never edited
NUMBER: Final = re.compile(r"\d+")


def mix(rows: list[Row], seed: int) -> tuple[list[tuple[str, str, str]], dict[str, tuple[str, str]]]:
    """Rows with copies put among them: (id, prompt, answer) in an order that says nothing; copy → (source, kind)."""
    random = Random(seed)
    words = Words(random)
    texts = {f"{row.prompt}\n{row.answer}".lower(): row for row in rows}
    distinct = list(texts.values())
    number = max(5, round(SHARE * len(distinct)))
    order = random.sample(range(len(distinct)), len(distinct))
    with_numbers = [index for index in order if len(NUMBER.findall(distinct[index].prompt)) > 0]
    made: list[tuple[str, str, str, str]] = []  # kind, source, prompt, answer
    for share in EDITS:
        for index in list(islice((index for index in order if _long_enough(distinct[index], share)), number)):
            row = distinct[index]
            order.remove(index)
            prompt, answer = edit(f"{row.prompt}{BETWEEN}{row.answer}", share, words, random).split(BETWEEN)
            made.append((f"{100 * share:g} % edited", str(index), prompt, answer))
    free = set(order)
    for index in list(islice((index for index in with_numbers if index in free), number)):
        free.discard(index)
        other = [
            NUMBER.sub(lambda match: str(int(match.group()) + random.randint(1, 9)), text)
            for text in (distinct[index].prompt, distinct[index].answer)
        ]
        made.append(("numbers", str(index), *other))
    for index in sorted(free)[:number]:
        made.append(("answers", str(index), distinct[index].prompt, distinct[(index + 1) % len(distinct)].answer))
    everything = [("", str(index), row.prompt, row.answer) for index, row in enumerate(distinct)] + made
    random.shuffle(everything)
    ids = {source: f"{place:08}" for place, (kind, source, _, _) in enumerate(everything) if not kind}
    truth = {f"{place:08}": (ids[source], kind) for place, (kind, source, _, _) in enumerate(everything) if kind}
    return [(f"{place:08}", prompt, answer) for place, (_, _, prompt, answer) in enumerate(everything)], truth


def _long_enough(row: Row, share: float) -> bool:
    return share * len(f"{row.prompt} {row.answer}".split()) >= 1


def score(removed: dict[str, str], truth: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Recall of each kind of edit, how much of what was to be left alone was taken, and precision."""
    pairs = {copy: source for copy, (source, kind) in truth.items() if kind.endswith("edited")}
    right = set(pairs.items()) | {(source, copy) for copy, source in pairs.items()}
    total, found = Counter(kind for _, kind in truth.values()), Counter[str]()
    for copy, (source, kind) in truth.items():
        found[kind] += copy in removed or source in removed
    correct = sum(pair in right for pair in removed.items())
    apart = {one for copy, (source, kind) in truth.items() if not kind.endswith("edited") for one in (copy, source)}
    rest = sum(row not in apart for row in removed)
    edited = {kind: round(found[kind] / total[kind], 4) for kind in total if kind.endswith("edited")}
    wrong = {kind: round(found[kind] / total[kind], 4) for kind in total if not kind.endswith("edited")}
    return {
        "recall": dict(sorted(edited.items(), key=lambda item: float(item[0].split()[0]))),
        "wrongly_taken": wrong,
        "removed": len(removed),
        "precision": round(correct / len(removed), 4) if removed else None,
        "precision_without_those": round(correct / rest, 4) if rest else None,
        "pairs_a_kind": dict(total),
    }


def run(python: str, contender: str, rows: Path, embeddings: str) -> dict[str, Any]:
    """One run of a contender in its own process."""
    command = [python, str(HERE / "dedup_peers_worker.py"), contender, str(rows), embeddings]
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")}
    environment = os.environ | threads | {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        sys.exit(f"{contender} failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Parse, run in turn, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python with semhash and datasketch; without it Luthier runs alone")
    parser.add_argument("--embeddings", default="", help="folder of static embeddings, or the name of a stored model")
    parser.add_argument("--pools", type=Path, nargs="*", default=[], help="files of prompts and answers")
    parser.add_argument("--rows", type=int, default=20_000, help="made rows, where there are no pools")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "curation_dedup_peers.json")
    arguments = parser.parse_args()

    from luthier.core.hardware import cpu

    pool = [row for path in arguments.pools for row in read_real(path)]
    pool = pool or list(make_rows(arguments.rows, seed=arguments.seed, copies=0))
    rows, truth = mix(pool, arguments.seed)
    contenders = {name: sys.executable for name in OURS}
    if arguments.peer_python:
        contenders |= {name: arguments.peer_python for name in PEERS}
    if not arguments.embeddings:
        contenders = {name: python for name, python in contenders.items() if name not in NEED_EMBEDDINGS}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        file, table = Path(folder) / "rows.json", ""
        file.write_text(json.dumps(rows))
        if arguments.embeddings:
            table = str(write_table(arguments.embeddings, Path(folder) / "table"))
        for number in range(arguments.rounds):
            for name, python in contenders.items():
                made = run(python, name, file, table)
                runs[name].append(made | score(made.pop("removed"), truth))
                _print(number, name, runs[name][-1], len(rows))
    result = {
        "benchmark": "curation_dedup_peers",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu().name, "cores": cpu().cores, "system": platform.platform(), "load": os.getloadavg()[0]},
        "setting": {
            "rows": len(rows), "pools": [path.name for path in arguments.pools], "seed": arguments.seed,
            "rounds": arguments.rounds, "embeddings": Path(arguments.embeddings).name,
            "luthier": metadata.version("luthier"),
        },
        "summary": {name: summarise(made, len(rows)) for name, made in runs.items()},
        "runs": runs,
    }  # fmt: skip
    for name in set(PEERS) & result["summary"].keys():
        mine = result["summary"]["luthier-s" if name == "semhash" else "luthier"]["rows_a_second_and_core"]
        ratio = mine / result["summary"][name]["rows_a_second_and_core"]
        result["summary"][name]["luthier_is_faster_by"] = round(ratio, 2)
        print(f"luthier is {ratio:.1f} times as fast as {name}, per core")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {arguments.out}")


def summarise(made: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    """Speed over all rounds; what was found is the same in each, or said not to be."""
    kept = ("recall", "wrongly_taken", "removed", "precision", "precision_without_those", "versions")
    return {
        "rows_a_second_and_core": round(rows / median(one["cpu_seconds"] for one in made)),
        "cpu_seconds": [one["cpu_seconds"] for one in made],
        "peak_rss_bytes": max(one["peak_rss_bytes"] for one in made),
        "same_in_every_round": all(one["recall"] == made[0]["recall"] for one in made),
    } | {name: made[0][name] for name in kept}


def write_table(embeddings: str, folder: Path) -> Path:
    """The embeddings as a folder that both sides can open, so that nobody pays for making the table."""
    from luthier.curate.semantic_table import open_table, save_table
    from luthier.models.store import resolve_model

    source = Path(embeddings) if Path(embeddings).is_dir() else resolve_model(embeddings)
    save_table(open_table(source), folder)
    return folder


def _print(number: int, name: str, made: dict[str, Any], rows: int) -> None:
    recall = "  ".join(f"{kind.split(' e')[0]} {value:.3f}" for kind, value in made["recall"].items())
    wrong = "  ".join(f"{kind} {value:.3f}" for kind, value in made["wrongly_taken"].items())
    precision = "–" if made["precision"] is None else f"{made['precision']:.3f}"
    print(
        f"round {number + 1}  {name:12} {rows / made['cpu_seconds']:8.0f} rows/s and core  recall {recall}  "
        f"precision {precision} ({made['precision_without_those']} without those)  wrongly {wrong}",
        flush=True,
    )


if __name__ == "__main__":
    main()
