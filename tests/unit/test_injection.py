"""The injection benchmark's own truth: every kind is what it says, and the counts add up."""

import json
import re
import sys
import zlib
from collections import Counter
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "curation"))

import inject
import inject_kinds as kinds
import inject_private
import inject_text
import inject_text_reported
import injection_personal
import injection_pools
import injection_score
from injection_run import Fate

from luthier.curate.example import LEAVES, Entry, Example
from luthier.data.records import Message, Record

TABLES = inject_text.TABLES
TEXT = "the river ran past green hills while seven quiet birds watched a small boat drift slowly home again"
WORDS = TEXT.split()


def _row(number, domain="prose"):
    random = Random(number)
    answer = " ".join(" ".join(random.choices(WORDS, k=9)).capitalize() + "." for _ in range(8))
    return kinds.Row(
        f"{domain}:{number}",
        domain,
        f"Question {number} about {random.choice(WORDS)}?",
        f"{answer} It took {number} days.",
    )


@pytest.fixture(scope="module")
def pool():
    return [_row(number, domain) for domain in ("prose", "code") for number in range(200)]


@pytest.fixture(scope="module")
def mixture(pool):
    return inject.inject(pool, rate=0.01, seed=3)


def _shown(mixture):
    return [(row, injection) for injection in mixture.injections for row in mixture.rows if row.key == injection.key]


def test_the_same_seed_gives_the_same_mixture_and_another_seed_another(pool, mixture):
    again = inject.inject(pool, rate=0.01, seed=3)
    assert again == mixture
    assert inject.inject(pool, rate=0.01, seed=4).injections != mixture.injections


def test_the_truth_adds_up(pool, mixture):
    assert not mixture.short
    counts = Counter(injection.kind for injection in mixture.injections)
    assert counts == dict.fromkeys(inject.KINDS, 4)  # 1 % of 200 rows in each of two domains
    assert len({injection.key for injection in mixture.injections}) == len(mixture.injections)
    assert len(_shown(mixture)) == len(mixture.injections), "every injected row is in the mixture once"
    keys = Counter(row.key for row in (*mixture.rows, *mixture.validation, *mixture.evaluation))
    assert set(keys.values()) == {1}
    copies = sum(bool(injection.partner) for injection in mixture.injections)
    gone = sum(injection.kind in inject.WITH_OTHER for injection in mixture.injections)  # those that ran into another
    assert keys.total() == len(pool) + copies - gone
    held_out = 2 * 4 * (1 + inject.HELD_OUT_MORE)
    assert len(mixture.validation) + len(mixture.evaluation) == held_out


def test_rows_without_an_injection_are_untouched(pool, mixture):
    wrong = {injection.key for injection in mixture.injections}
    original = {row.key: row for row in pool}
    for row in (*mixture.rows, *mixture.validation, *mixture.evaluation):
        assert (original.get(row.key) == row) == (row.key not in wrong)


def test_damage_differs_from_what_it_was_and_a_copy_stands_apart_from_its_original(mixture):
    place = {row.key: number for number, row in enumerate(mixture.rows)}
    for row, injection in _shown(mixture):
        if injection.variant != "exact":
            assert (row.prompt, row.answer) != (injection.clean.prompt, injection.clean.answer), injection
        if injection.partner in place:
            assert abs(place[injection.key] - place[injection.partner]) > 1


def test_the_original_of_a_copy_is_where_it_belongs(mixture):
    where = {"cross-split copy": mixture.validation, "evaluation copy": mixture.evaluation}
    for injection in mixture.injections:
        if injection.partner:
            assert injection.clean in where.get(injection.kind, mixture.rows)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2, 0.3])
def test_edits_are_of_the_share_that_is_named_and_leave_numbers_alone(share):
    for number in range(30):
        row = _row(number)
        made = kinds.edit_words(row, share, WORDS, Random(number)).row
        before, after = ([*kinds.WORD.findall(r.prompt), "|", *kinds.WORD.findall(r.answer)] for r in (row, made))
        assert len(before) == len(after)
        changed = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
        assert len(changed) == round(share * row.words)
        assert not any(character.isdigit() for pair in changed for word in pair for character in word)


def test_an_edit_of_less_than_a_word_is_refused():
    row = kinds.Row("a", "prose", "How long is it?", "About seven metres long.")
    assert kinds.edit_words(row, 0.1, WORDS, Random(0)) is None
    assert kinds.edit_words(row, 0.2, WORDS, Random(0)) is not None


def test_a_truncated_answer_is_a_true_beginning_that_ends_with_a_whole_word():
    for number in range(30):
        row = _row(number)
        made = kinds.truncate(row, Random(number))
        rest = row.answer.removeprefix(made.row.answer)
        assert row.answer.startswith(made.row.answer) and rest and not re.match(r"\w", rest)
        assert (made.variant == "end of sentence") == rest.startswith(".")


@pytest.mark.parametrize("ascii_only", [True, False])
def test_mojibake_can_be_undone_to_the_clean_text(ascii_only):
    row = _row(1) if ascii_only else kinds.replace(_row(1), answer="Zoë’s naïve café – “déjà vu” costs 5 €…")
    seen = set()
    for number in range(40):
        clean, made = kinds.mojibake(row, Random(number))
        seen.add(made.variant)
        assert not clean.answer.isascii() and made.row.answer != clean.answer
        assert (clean == row) == (not ascii_only)
        text = made.row.answer
        for _ in range(2 if made.variant == "cp1252 twice" else 1):
            text = b"".join(_byte(sign, made.variant) for sign in text).decode("utf-8")
        assert text == clean.answer
    assert len(seen) == 3


def _byte(sign, variant):
    if variant == "latin-1" or sign in "\x81\x8d\x8f\x90\x9d":
        return sign.encode("latin-1")
    return sign.encode("cp1252")


def test_a_wrong_number_is_the_only_difference():
    row = kinds.Row("a", "prose", "How many?", "He had 3 + 4.5 apples, so the answer is 128.")
    made = kinds.wrong_number(row, Random(0)).row
    assert re.sub("128", "N", row.answer) == re.sub(r"\d{3}", "N", made.answer) and "128" not in made.answer
    assert kinds.wrong_number(kinds.replace(row, answer="None at all."), Random(0)) is None


def test_swapped_answers_change_places(mixture):
    swapped = [(row, injection) for row, injection in _shown(mixture) if injection.kind == "swapped answers"]
    assert Counter(row.answer for row, _ in swapped) == Counter(injection.clean.answer for _, injection in swapped)
    assert all(row.prompt == injection.clean.prompt for row, injection in swapped)


def test_what_must_vanish_is_in_the_row(mixture):
    found = [(row, injection) for row, injection in _shown(mixture) if injection.kind in ("personal data", "secret")]
    assert all(injection.values for _, injection in found)
    assert all(value in f"{row.prompt}\n{row.answer}" for row, injection in found for value in injection.values)


def test_wrong_language_is_from_the_table_and_never_where_a_language_may_be_asked_for():
    made = kinds.wrong_language(_row(1), Random(0), TABLES)
    assert all(part in " ".join(TABLES.languages[made.variant]) for part in made.row.answer.split(". ")[:1])
    assert kinds.wrong_language(kinds.replace(_row(1), prompt="Say it in French."), Random(0), TABLES) is None


def test_the_halves_share_no_words_of_their_tables():
    mine, theirs = TABLES, inject_text_reported.TABLES
    assert not set(mine.refusals) & set(theirs.refusals)
    assert not mine.languages.keys() & theirs.languages.keys()
    for name in ("leaks_after", "leaks_before", "merges"):
        assert not set(getattr(mine, name).values()) & set(getattr(theirs, name).values())


def test_every_table_can_be_filled_in(pool):
    for tables in (TABLES, inject_text_reported.TABLES):
        for number in range(60):
            row, other, random = pool[number], pool[number + 1], Random(number)
            for make in (kinds.merge, kinds.prompt_leak):
                made = make(row, other, random, tables)
                assert row.answer in made.row.answer and made.row.answer != row.answer
            assert "{" not in kinds.refuse(row, random, tables).row.answer


def _luhn(number):
    doubled = [int(d) * (1 + at % 2) for at, d in enumerate(reversed(number))]
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0


def _iban(value):
    return int("".join(str(int(sign, 36)) for sign in value[4:] + value[:4])) % 97 == 1


def _de(number):
    product = 10
    for digit in number[:10]:
        product = ((product + int(digit)) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(number[10]) and sorted(Counter(number[:10]).values()) == [1] * 8 + [2]


CHECKS = {
    "email": lambda value: re.fullmatch(r"[\w.]+@[a-z]+\.[a-z]+", value),
    "phone": lambda value: 10 <= len(re.sub(r"\D", "", value)) <= 12,
    "card": lambda value: _luhn(re.sub(r"\D", "", value)),
    "iban": lambda value: _iban(value.replace(" ", "")),
    "us_ssn": lambda value: re.fullmatch(r"(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}", value),
    "es_dni": lambda value: "TRWAGMYFPDXBNJZSQVHLCKE"[int(value[:8]) % 23] == value[8],
    "nl_bsn": lambda value: sum(int(d) * w for d, w in zip(value, (9, 8, 7, 6, 5, 4, 3, 2, -1), strict=True)) % 11 == 0,
    "pl_pesel": lambda value: (
        sum(int(d) * w for d, w in zip(value, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), strict=True)) % 10 == 0
    ),
    "de_tax_id": _de,
}


@pytest.mark.parametrize("sort", inject_private.PERSONAL)
def test_personal_data_has_valid_checksums(sort):
    random = Random(7)
    assert all(CHECKS[sort](inject_private.PERSONAL[sort](random)) for _ in range(200))


def test_a_github_token_carries_its_checksum():
    signs = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    token = inject_private.github(Random(1))
    value = 0
    for sign in token[-6:]:
        value = value * 62 + signs.index(sign)
    assert re.fullmatch(r"ghp_\w{36}", token) and value == zlib.crc32(token[4:-6].encode())


def test_every_secret_differs_from_draw_to_draw_and_no_source_file_holds_one():
    source = "".join(path.read_text() for path in Path(inject.__file__).parent.glob("inject*.py"))
    for _, make in inject_private.SECRETS.values():
        values = {make(Random(number)) for number in range(20)}
        assert len(values) == 20 and not any(value in source for value in values)
    assert not re.search(r"ghp_\w{36}|AKIA\w{16}|sk_live_\w+|xoxb-\d|PRIVATE KEY", source)


def test_a_row_is_in_one_half_whatever_file_it_is_in(tmp_path):
    rows = [{"question": f"How many {n}?", "answer": f"{n} of them."} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "b.json").write_text(
        json.dumps([{"instruction": r["question"], "output": r["answer"]} for r in rows[::-1]])
    )
    halves = {}
    for half in ("development", "reported"):
        one, other = (injection_pools.read_half({"p": tmp_path / name}, half) for name in ("a.jsonl", "b.json"))
        halves[half] = {row.prompt for row in one}
        assert halves[half] == {row.prompt for row in other} and 8 < len(one) < 32
    assert not halves["development"] & halves["reported"] and len(halves["development"] | halves["reported"]) == 40


def test_an_input_column_becomes_part_of_the_prompt(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "Add.", "input": "1, 2", "response": "3"}]))
    row = injection_pools.read_pool("p", tmp_path / "a.json")[0]
    assert (row.prompt, row.answer, row.key) == ("Add.\n\n1, 2", "3", "p:0")


def _fate(row, *decisions, text=None):
    """What became of a row: decisions are (step, entry)."""
    turns = zip(("user", "assistant"), text or (row.prompt, row.answer), strict=True)
    record = Record(messages=tuple(Message(role, content) for role, content in turns))
    out = next((entry for _, entry in decisions if entry.action in LEAVES), None)
    return Fate(Example("0", record), out, decisions)


def test_one_of_a_pair_of_copies_must_stay():
    row, copy = _row(1), kinds.replace(_row(1), key="prose:1+")
    injection = inject.Injection("near duplicate 10 %", copy.key, row, partner=row.key)
    gone = ("dedup", Entry("0", "duplicate", "near duplicate", counterpart="1"))
    lost = ("leaks", Entry("0", "drop", "leak: held_out"))
    judged = {}
    for name, mine, theirs in (
        ("copy", [gone], []),
        ("original", [], [gone]),
        ("none", [], []),
        ("both", [gone], [lost]),
    ):
        fates = {copy.key: _fate(copy, *mine), row.key: _fate(row, *theirs)}
        verdict = injection_score.judge(injection, fates)
        judged[name] = verdict.result, verdict.right
    assert judged["copy"] == judged["original"] == ("removed", True)
    assert judged["none"] == ("missed", False)
    assert judged["both"] == ("removed", False)


def test_mojibake_must_become_what_it_was_to_the_letter():
    row = kinds.replace(_row(1), answer="Zoë’s café")
    injection = inject.Injection("mojibake", row.key, row)
    edit = ("repair", Entry("0", "edit", "broken encoding"))
    for text, result, right in (
        ((row.prompt, row.answer), "repaired", True),
        ((row.prompt, "Zoë's café"), "repaired", False),
    ):
        verdict = injection_score.judge(injection, {row.key: _fate(row, edit, text=text)})
        assert (verdict.result, verdict.right) == (result, right)


def test_personal_data_must_be_gone_from_the_row():
    row = kinds.replace(_row(1), answer="Call 030 1234567.")
    injection = inject.Injection("personal data", row.key, row, values=("030 1234567",))
    judge = injection_score.judge
    assert judge(injection, {row.key: _fate(row, text=(row.prompt, "Call [PHONE_1]."))}).right
    assert judge(injection, {row.key: _fate(row)}).result == "missed"
    moved = _fate(row, text=("030 1234567", "Call [PHONE_1]."))
    assert not judge(injection, {row.key: moved}).right


def test_a_row_that_leaves_for_another_reason_is_luck_and_no_catch():
    row = _row(1)
    fate = _fate(row, ("defects", Entry("0", "drop", "repetition loop")))
    verdict = injection_score.judge(inject.Injection("refusal", row.key, row), {row.key: fate})
    assert (verdict.result, verdict.luck) == ("missed", "drop: repetition loop")
    fate = _fate(row, ("defects", Entry("0", "flag", "refusal")))
    assert injection_score.judge(inject.Injection("refusal", row.key, row), {row.key: fate}).result == "flagged"


def test_untouched_rows_count_as_wrong_unless_the_copy_is_real(mixture):
    clean = [row for row in mixture.rows if row.domain == "prose" and not row.key.endswith("+")]
    wrong = {injection.key for injection in mixture.injections} | {one.partner for one in mixture.injections}
    one, two, three, four = [row for row in clean if row.key not in wrong][:4]
    fates = {row.key: _fate(row) for row in mixture.rows}
    ids = {"2": two.key}
    fates[one.key] = _fate(one, ("dedup", Entry("1", "duplicate", "near duplicate", counterpart="2")))
    fates[three.key] = _fate(three, ("defects", Entry("3", "flag", "refusal")))
    fates[four.key] = _fate(four, ("repair", Entry("4", "edit", "broken encoding")))
    found = injection_score.untouched(mixture, fates, ids)["prose"]
    assert [one_touched.row for one_touched in found.wrong] == sorted((one, four), key=mixture.rows.index)
    assert [touched.row for touched in found.marked] == [three] and not found.copies
    twin = kinds.replace(two, key="twin")
    edited = kinds.edit_words(two, 0.3, WORDS, Random(0)).row
    assert injection_score.same_words(two, twin) and not injection_score.same_words(two, edited)
    assert not injection_score.same_words(one, two)


def test_the_interval_is_wilsons():
    low, high = injection_score.wilson(70, 76)
    assert (round(low, 4), round(high, 4)) == (0.8383, 0.9633)  # by hand, z = 1.959964
    assert injection_score.wilson(0, 10)[0] == pytest.approx(0) and injection_score.wilson(0, 0) == (0.0, 1.0)


def test_personal_scores_count_overlap_and_kind():
    class Span:
        def __init__(self, start, end, kind):
            self.start, self.end, self.kind = start, end, kind

    text = "Card 4111 and mail a@b.cd, Anna"
    marked = [(5, 9, "CREDIT_CARD"), (19, 25, "EMAIL_ADDRESS"), (27, 31, "PERSON")]
    found = injection_personal.score_personal([(text, marked)], lambda _: [Span(5, 9, "CARD"), Span(10, 13, "PHONE")])
    assert found["precision"]["hits"] == 1 and found["precision"]["of"] == 2
    assert found["recall_of_kinds_looked_for"]["share"] == 0.5
    assert found["recall_of_all_marked"]["of"] == 3 and found["kinds"]["PERSON"]["looked_for"] is False
    assert injection_personal.f_beta(0.5, 1.0) == pytest.approx(5 / 6)
