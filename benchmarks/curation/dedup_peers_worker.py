"""One contender of `dedup_peers`: reads rows, prints what it takes out, its time and its memory, as JSON.

It runs in the environment of the contender, so it imports nothing of Luthier where that is not asked for. Imports,
reading the rows and loading a table are not timed; everything from the texts to the rows taken out is.
"""

import json
import os
import re
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

Rows = list[tuple[str, str, str]]  # id, prompt, answer
Removed = dict[str, str]  # row taken out → the row that stays for it
WORD = re.compile(r"\W+")


def luthier(_: str) -> Callable[[Rows], Removed]:
    """MinHash, every pair compared."""
    from luthier.curate.near import near_duplicates_in

    near_duplicates_in([("a", "warm", "up"), ("b", "warm", "up")])
    return lambda rows: {entry.record: entry.counterpart for entry in near_duplicates_in(rows)}


def luthier_semantic(table: str) -> Callable[[Rows], Removed]:
    """Static embeddings, guarded."""
    from luthier.curate.semantic import semantic_duplicates_in
    from luthier.curate.semantic_table import open_table

    opened = open_table(Path(table))
    return lambda rows: {entry.record: entry.counterpart for entry in semantic_duplicates_in(rows, opened)}


def datasketch(_: str, *, characters: bool = False) -> Callable[[Rows], Removed]:
    """In the manner of text-dedup: groups closed over everything that shares a band, the first of each stays."""
    from datasketch import MinHash, MinHashLSH

    def shingles(text: str) -> set[bytes]:
        if characters:
            text = " ".join(text.lower().split())
            return {text[start : start + 5].encode() for start in range(max(1, len(text) - 4))}
        words = [word for word in WORD.split(text.lower()) if word]
        return {" ".join(words[start : start + 5]).encode() for start in range(max(1, len(words) - 4))}

    settings = {"params": (32, 4)} if characters else {"threshold": 0.7}
    permutations = 128 if characters else 240

    def dedup(rows: Rows) -> Removed:
        index, parent = MinHashLSH(num_perm=permutations, **settings), {}

        def find(one: str) -> str:
            while parent[one] != one:
                parent[one] = parent[parent[one]]
                one = parent[one]
            return one

        hashes = MinHash.bulk([shingles(f"{prompt}\n{answer}") for _, prompt, answer in rows], num_perm=permutations)
        for (one, _, _), made in zip(rows, hashes, strict=True):
            parent[one] = one
            for other in index.query(made):
                low, high = sorted((find(one), find(other)))
                parent[high] = low
            index.insert(one, made)
        return {one: find(one) for one, _, _ in rows if find(one) != one}

    return dedup


def semhash(table: str) -> Callable[[Rows], Removed]:
    """At its default threshold, with the same static embeddings."""
    from model2vec import StaticModel
    from semhash import SemHash

    model = StaticModel.from_pretrained(table)

    def dedup(rows: Rows) -> Removed:
        records = [{"id": one, "text": f"{prompt}\n{answer}"} for one, prompt, answer in rows]
        made = SemHash.from_records(records, columns=["text"], model=model).self_deduplicate()
        removed = {}
        for item in made.filtered:
            first = item.duplicates[0][0] if item.duplicates else item.record
            removed[item.record["id"]] = first["id"]
        return removed

    return dedup


CONTENDERS = {
    "luthier": (luthier, ("luthier", "rensa", "numpy")),
    "luthier-s": (luthier_semantic, ("luthier", "tokenizers", "numpy")),
    "datasketch": (datasketch, ("datasketch", "numpy")),
    "datasketch-5": (lambda table: datasketch(table, characters=True), ("datasketch", "numpy")),
    "semhash": (semhash, ("semhash", "model2vec", "numpy")),
}


def main() -> None:
    """Make ready, run, print."""
    name, file, table = sys.argv[1:4]
    if hasattr(os, "sched_setaffinity"):  # one core for each, so that time is time of a core
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = [tuple(row) for row in json.loads(Path(file).read_text())]
    make, libraries = CONTENDERS[name]
    dedup = make(table)
    wall, processor = time.perf_counter(), time.process_time()
    removed = dedup(rows)
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - processor
    result = {
        "removed": removed,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu_seconds, 3),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {library: metadata.version(library) for library in libraries},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
