"""Results for people: tables, and rows of the development half with what was done to them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from inject import Mixture
from inject_kinds import Row
from injection_run import Fate
from injection_score import BRIEF, Touched, Untouched, Verdict


def percent(value: Mapping[str, Any]) -> str:
    """A share with its interval, as in "97.4 % [91–99] (74/76)"."""
    if value["share"] is None:
        return "–"
    low, high = (100 * edge for edge in value["interval"])
    return f"{100 * value['share']:.1f} % [{low:.0f}–{high:.0f}] ({value['hits']}/{value['of']})"


def print_tables(result: Mapping[str, Any]) -> None:
    """Everything in a result, as text."""
    print(f"\n{result['half']} half, {result['setting']['rows_with_injections']} rows, {result['seconds']} s\n")
    head = (
        "kind",
        "removed or repaired",
        "flagged for review",
        "precision (at least)",
        "F1",
        "as it should be",
        "luck",
    )
    print("{:20} {:>26} {:>26} {:>26} {:>5} {:>26} {:>4}".format(*head))
    for kind, one in result["kinds"].items():
        note = "" if one["a_rule_looks_for_it"] else "   no rule looks for it"
        print(
            f"{kind:20} {percent(one['removed_or_repaired']):>26} {percent(one['flagged_for_review']):>26} "
            f"{percent(one['precision']):>26} {one['f1']:5.2f} {percent(one['as_it_should_be']):>26} "
            f"{one['another_rule_took_or_marked_it']:4}{note}"
        )
        for name, caught in one["by_variant"].items():
            if len(one["by_variant"]) > 1:
                print(f"    {name}: {caught}")
    print("\nuntouched rows")
    for name, one in result["untouched"].items():
        for what in ("taken_out_or_edited", "copies_in_the_pool", "marked_for_review"):
            why = ", ".join(f"{count} × {reason}" for reason, count in list(one[what]["why"].items())[:8])
            print(f"{name:13} {what.replace('_', ' '):22} {percent(one[what]):28} {why}")
    apart = result["split_with_both_in_the_pool"]
    print(
        f"\nsplit with copies and originals in one pool: {apart['not_across']} of {apart['pairs']} pairs not across it"
    )
    if "personal" in result:
        print_personal(result["personal"])
    print("\nrequired")
    for one in result["requirements"]:
        print(
            f"{'met   ' if one['met'] else 'MISSED'} {one['what']:36} {percent(one):28} limit {100 * one['limit']:g} %"
        )


def print_personal(made: Mapping[str, Any]) -> None:
    """The scores on marked sentences."""
    print(f"\npersonal data in {made['sentences']} marked sentences")
    print(f"precision {percent(made['precision'])}")
    print(
        f"kinds looked for: recall {percent(made['recall_of_kinds_looked_for'])}, F2 {made['f2_of_kinds_looked_for']}"
    )
    print(f"all that is marked: recall {percent(made['recall_of_all_marked'])}, F2 {made['f2_of_all_marked']}")
    for kind, one in made["kinds"].items():
        note = "" if one["looked_for"] else "   not looked for"
        print(
            f"{kind:20} recall {percent(one['recall']):28} precision {percent(one['precision']):28} "
            f"F2 {one['f2']:.2f}{note}"
        )


def print_rows(
    number: int,
    verdicts: Sequence[Verdict],
    domains: Mapping[str, Untouched],
    mixture: Mixture,
    fates: Mapping[str, Fate],
) -> None:
    """So many rows of each sort of mistake: untouched rows that were touched, by reason, and misses, by kind."""
    grouped: dict[str, list[Touched]] = defaultdict(list)
    for name, one in domains.items():
        if name == BRIEF:  # shown with their domains
            continue
        for sort, found in (("WRONG", one.wrong), ("marked", one.marked), ("copy", one.copies)):
            for touched in found:
                grouped[f"{sort} {name} · {touched.why}"].append(touched)
    for title, found in grouped.items():
        print(f"\n=== {title}: {len(found)}")
        for touched in found[:number]:
            _print_touched(touched)
    rows = {row.key: row for row in mixture.rows}
    for kind in dict.fromkeys(verdict.injection.kind for verdict in verdicts):
        missed = [one for one in verdicts if one.injection.kind == kind and not one.right]
        print(f"\n=== not as it should be: {kind}: {len(missed)}")
        for verdict in missed[:number]:
            injection = verdict.injection
            print(f"--- {injection.key} {injection.variant} {verdict.result} {verdict.luck} {injection.values or ''}")
            print(_short(rows[injection.key]))
            for step, entry in fates[injection.key].decisions:
                print(f"    {step} · {entry.action} · {entry.reason} {entry.detail[:120]}")


def _print_touched(touched: Touched) -> None:
    entry = touched.entry
    print(f"--- {touched.row.key} {entry.score if entry.score is not None else ''} {entry.detail[:200]}")
    if entry.action == "edit":
        at = next((i for i, (a, b) in enumerate(zip(entry.before, entry.after, strict=False)) if a != b), 0)
        print(f"    {entry.before[max(0, at - 60) : at + 100]!r}\n  → {entry.after[max(0, at - 60) : at + 100]!r}")
    else:
        print(_short(touched.row))
    if touched.counterpart:
        print(f"    AGAINST {touched.counterpart.key}\n{_short(touched.counterpart)}")


def _short(row: Row) -> str:
    def cut(text: str) -> str:
        return repr(text if len(text) < 700 else f"{text[:350]} … {text[-300:]}")

    return f"    Q {cut(row.prompt)}\n    A {cut(row.answer)}"
