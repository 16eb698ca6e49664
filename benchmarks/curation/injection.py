"""Known defects put into clean pools: what `luthier data clean` catches of each kind, and what it wrongly touches.

    python benchmarks/curation/injection.py --half reported \\
        --pools dolly=DIR/dolly_3k.json gsm8k=DIR/gsm8k_train.jsonl human_eval=DIR/human_eval.jsonl \\
                code=DIR/codegen_instruct.json --personal DIR/pii_synth_v2.json

Only rows of one half of each pool are read. Rules are made while looking at the development half
(`--half development --show 20` prints rows). Results are reported on the other one, whose rows this program refuses to
show. Written to benchmarks/results; the README beside this file says what the numbers mean.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import inject_text
import inject_text_reported
from inject import KINDS, Mixture, inject
from injection_personal import read_sentences, score_personal
from injection_pools import half_of, read_half
from injection_run import Fate, reasons, run_clean, run_split
from injection_score import LONG, Touched, Untouched, Verdict, by_kind, judge, share, untouched
from injection_show import print_rows, print_tables

HERE: Final = Path(__file__).parent
MAX_FALSE, MIN_NEAR, MIN_LEAK = 0.01, 0.95, 1.0  # required: false positives a domain, recall at 10 % edits, exact leaks
LIBRARIES: Final = ("luthier", "ftfy", "lingua-language-detector", "detect-secrets", "rensa", "duckdb", "pyarrow")
EXACT: Final = ("exact", "same prompt")  # leaks whose prompt is in the held-out file to the letter


def requirements(verdicts: list[Verdict], domains: dict[str, Untouched], apart: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked for, what it is, and whether that is enough."""
    asked = []
    for name, one in domains.items():
        made = share(len(one.wrong), one.rows)
        asked.append(
            {"what": f"false positives, {name}", "limit": MAX_FALSE, **made, "met": made["share"] <= MAX_FALSE}
        )
    for least, what in ((LONG, f"recall, 10 % edits, {LONG} words and more"), (0, "recall, 10 % edits, all rows")):
        mine = [one for one in verdicts if one.injection.kind == "near duplicate 10 %"]
        mine = [one for one in mine if one.injection.clean.words >= least]
        made = share(sum(one.result == "removed" for one in mine), len(mine))
        asked.append({"what": what, "limit": MIN_NEAR, **made, "met": made["share"] >= MIN_NEAR})
    for kind in ("cross-split copy", "evaluation copy"):
        mine = [one for one in verdicts if one.injection.kind == kind and one.injection.variant in EXACT]
        made = share(sum(one.result == "removed" for one in mine), len(mine))
        asked.append({"what": f"recall, exact {kind}", "limit": MIN_LEAK, **made, "met": made["share"] == MIN_LEAK})
    made = share(apart["exact_not_across"], apart["exact_pairs"])
    asked.append(
        {"what": "exact copies not across a split", "limit": MIN_LEAK, **made, "met": made["share"] == MIN_LEAK}
    )
    return asked


def across(mixture: Mixture, made: dict[str, Fate]) -> dict[str, Any]:
    """How many pairs of copy and original are on both sides of a split that was made with both in the pool."""
    counts: Counter[str] = Counter()
    for one in mixture.injections:
        if one.kind != "cross-split copy":
            continue
        pair = made[one.key], made[one.partner]
        parted = all(fate.out is None for fate in pair) and pair[0].example.side != pair[1].example.side
        for name in ("pairs", "exact_pairs") if one.variant in EXACT else ("pairs",):
            counts[name] += 1
            counts[name.replace("pairs", "not_across")] += not parted
    return dict(counts)


def summary(domains: dict[str, Untouched]) -> dict[str, Any]:
    """Domain → shares of rows that were wrongly taken out or edited, rightly taken out as copies, and marked."""

    def counted(found: list[Touched]) -> dict[str, int]:
        return dict(Counter(one.why for one in found).most_common())

    return {
        name: {
            "rows": one.rows,
            "taken_out_or_edited": share(len(one.wrong), one.rows) | {"why": counted(one.wrong)},
            "copies_in_the_pool": share(len(one.copies), one.rows) | {"why": counted(one.copies)},
            "marked_for_review": share(len(one.marked), one.rows) | {"why": counted(one.marked)},
        }
        for name, one in domains.items()
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", nargs="+", required=True, metavar="NAME=FILE", help="clean pools, by domain")
    parser.add_argument("--personal", type=Path, help="sentences with marked personal data")
    parser.add_argument("--half", choices=("development", "reported"), default="development")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.01, help="share of a domain's rows for each kind")
    parser.add_argument("--sample", type=int, default=0, help="only the first so many rows of each pool's half")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, help="print so many rows of each sort of mistake")
    parser.add_argument("--out", type=Path, help="where the result goes; reported runs have a place for it")
    arguments = parser.parse_args()
    if arguments.show and arguments.half == "reported":
        parser.error("rows of the reported half are not shown: a rule made while looking at them would not be tested")
    arguments.pools = {name: Path(path) for name, _, path in (pool.partition("=") for pool in arguments.pools)}
    if arguments.half == "reported" and arguments.out is None:
        arguments.out = HERE.parent / "results" / "curation_injection.json"
    return arguments


def main() -> None:
    """Inject, clean, compare, print, write."""
    arguments = parse()
    from luthier.core.files import hash_file, write_json
    from luthier.core.hardware import cpu

    pool = read_half(arguments.pools, arguments.half)
    if arguments.sample:
        seen: Counter[str] = Counter()
        pool = [row for row in pool if seen.update([row.domain]) or seen[row.domain] <= arguments.sample]
    assert all(half_of(row) == arguments.half for row in pool)
    tables = inject_text if arguments.half == "development" else inject_text_reported
    mixture = inject(pool, rate=arguments.rate, seed=arguments.seed, tables=tables.TABLES)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        fates, ids = run_clean(mixture, Path(folder), workers=arguments.workers)
        seconds = time.perf_counter() - start
        split, _ = run_split(mixture, Path(folder), workers=arguments.workers)
    verdicts = [judge(one, fates) for one in mixture.injections]
    domains = untouched(mixture, fates, ids)
    table = by_kind(verdicts, fates, [one for domain in domains.values() for one in domain.copies])
    apart = across(mixture, split)
    result: dict[str, Any] = {
        "benchmark": "curation_injection",
        "half": arguments.half,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu().name, "cores": cpu().cores, "system": platform.platform()},
        "versions": {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in LIBRARIES},
        "setting": {
            "seed": arguments.seed,
            "rate": arguments.rate,
            "sample": arguments.sample,
            "workers": arguments.workers,
            "pools": {name: {"file": path.name, "sha256": hash_file(path)} for name, path in arguments.pools.items()},
            "rows": dict(Counter(row.domain for row in pool)),
            "rows_with_injections": len(mixture.rows),
            "not_enough_fit_rows": dict(mixture.short),
        },
        "seconds": round(seconds, 1),
        "requirements": requirements(verdicts, domains, apart),
        "kinds": {kind: table[kind] for kind in KINDS if kind in table},
        "split_with_both_in_the_pool": apart,
        "untouched": summary(domains),
        "decisions": {" · ".join(name): number for name, number in reasons(fates).items()},
    }
    if arguments.personal:
        from luthier.curate.personal import find

        sentences = read_sentences(arguments.personal, arguments.half)
        file = {"file": arguments.personal.name, "sha256": hash_file(arguments.personal)}
        result["personal"] = file | score_personal(sentences, find)
    print_tables(result)
    if arguments.show:
        print_rows(arguments.show, verdicts, domains, mixture, fates)
    if arguments.out:
        write_json(arguments.out, result)
        print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
