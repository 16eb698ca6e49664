"""Telephone numbers. They have no check digits: form, country code, length and the words around them must do.

Accepted are numbers with a country code (ITU-T E.164), numbers in the forms of the North American, British and French
plans that hardly anything else has, and any number of seven to fifteen digits beside a word that says it is one.
Numbers set aside for fiction (555-01xx, Ofcom's drama numbers) and made-up ones (123-456-7890) stay.
"""

import re
from collections.abc import Iterator
from typing import Final

from luthier.curate.personal_checks import repeats_or_counts
from luthier.curate.personal_span import Span, listed, word_near, words_pattern

# Digits joined by at most three characters of punctuation; a joint is never empty, so there is one way to read a text.
# At most 17 digits are looked at: a longer row of numbers is none, and each place in it would be tried anew.
_EDGE: Final = r"(?<![\w.$€£¥#=*^<>/\\@-])(?<!\d,)"
_NUMBER = re.compile(
    _EDGE + r"(?:\+|\(\+|\()?\d+(?:(?:[ .\-/]|\) ?| ?\(0?|-\()\d+){0,8}"
    r"(?![\w%°€$£]|[.,:]\d| ?[*=^<>]|\+| \+ |-\d)(?:[ ,]{0,2}(?:x|ext\.? ?)\d{1,5}(?!\w))?"
    r"|" + _EDGE + r"\(?\d{3}\)?[ .-]?\d{3}[ .-]?\d{4}x\d{1,5}(?!\w)",
    re.ASCII | re.IGNORECASE,
)
_EXTENSION: Final = re.compile("[ ,]{0,2}(?:x|ext)", re.IGNORECASE)
_PIECE: Final = re.compile(r"[^ ]{7,}")
_ENOUGH: Final = re.compile(r"\d(?:[ ().\-/]{0,3}\d){6}", re.ASCII)

# Country codes of the E.164 plan; of those with one digit, 1 and 7.
_COUNTRY_CODES: Final = listed(
    "1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84 "
    "86 90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236 "
    "237 238 239 240 241 242 243 244 245 246 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 264 265 266 "
    "267 268 269 290 291 297 298 299 350 351 352 353 354 355 356 357 358 359 370 371 372 373 374 375 376 377 378 380 "
    "381 382 383 385 386 387 389 420 421 423 500 501 502 503 504 505 506 507 508 509 590 591 592 593 594 595 596 597 "
    "598 599 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686 687 688 689 690 691 692 850 852 853 855 856 "
    "880 886 960 961 962 963 964 965 966 967 968 970 971 972 973 974 975 976 977 992 993 994 995 996 998"
)
_STRONG: Final = words_pattern((
    r"(?:tele)?phones?(?: (?:number|no))?", r"tel", r"mobiles?", r"cell(?:phone)?", r"fax", r"whats ?app", r"sms",
    r"hotline", r"landline", r"telefon\w*", r"t[eé]l[eé]phone", r"portable", r"handy(?:nummer)?", r"m[oó]vil",
    r"celular", r"tel[eé]fono", r"telefone", r"cellulare", r"mobiel", r"rufnummer", r"电话", r"手机", r"電話", r"携帯",
    r"телефон",
))  # fmt: skip
_WEAK: Final = words_pattern((
    r"call(?:ed|ing)?", r"dial(?:ed|ing)?", r"text(?:ed)?", r"ring", r"rang", r"reach(?:ed)?", r"answering", r"contact",
    r"messages?", r"registered", r"desk", r"office", r"extension", r"anrufen", r"appele[rz]", r"llam(?:ar|e|a)",
))  # fmt: skip
_NANP = re.compile(r"(?:\+?1[ .-]?)?\(?([2-9]\d{2})\)?([ .-]?)([2-9]\d{2})([ .-])(\d{4})$", re.ASCII)
_NATIONAL: Final = (
    (re.compile(r"0[1-79](?:([ .])\d{2})(?:\1\d{2}){3}$", re.ASCII), "French form, 10 digits"),
    (re.compile(r"07\d{3} (?:\d{6}|\d{3} \d{3})$", re.ASCII), "British mobile form, 11 digits"),
    (re.compile(r"\(?0(?:2\d\)? \d{4}|1\d1\)? \d{3}|1\d{3}\)? \d{2}) \d{4}$", re.ASCII), "British form, 11 digits"),
    (re.compile(r"\(?01\d{3}\)? \d{6}$", re.ASCII), "British form, 11 digits"),
    (re.compile(r"01[567]\d[ /-]\d{7,8}$", re.ASCII), "German mobile form"),
)  # fmt: skip
_DATE = re.compile(  # a date first, or two years
    r"(?:[12]\d{3}([-./ ])\d{1,2}\1\d{1,2}|\d{1,2}([-./ ])\d{1,2}\2[12]\d{3}|[12]\d{3} ?[-/] ?[12]\d{3})(?!\d)",
    re.ASCII,
)
# Set aside for drama by Ofcom (07700 900xxx, 01632 960xxx, 020 7946 0xxx …), without trunk zero.
_DRAMA: Final = ("7700900", "1632960", "2079460", "1134960", "1144960", "1154960", "1164960", "1174960", "1184960")
_DRAMA_LATER: Final = ("1214960", "1314960", "1414960", "1514960", "1614960", "1914980", "8081570", "9098790")


def phones(text: str) -> Iterator[Span]:
    """Telephone numbers in a folded text."""
    if not _ENOUGH.search(text):
        return
    for match in _NUMBER.finditer(text):
        proof = _proof(text, *match.span())
        start, end = match.span()
        if proof:
            yield Span(start + (match[0][0] == "(" and ")" not in match[0]), end, "PHONE", proof)
        elif sum(map(str.isdigit, match[0])) > 13:  # perhaps two numbers with a space between
            for piece in _PIECE.finditer(text, start, end):
                proof = _proof(text, *piece.span())
                if proof:
                    yield Span(*piece.span(), "PHONE", proof)


def _proof(text: str, start: int, end: int) -> str:
    """Why text[start:end] is a telephone number; "" when it is none."""
    body = _EXTENSION.split(text[start:end], maxsplit=1)[0]
    digits = re.sub(r"\D", "", body, flags=re.ASCII)
    if not 7 <= len(digits) <= 17 or _is_made_up(digits) or _DATE.match(body):
        return ""
    return _by_form(body, digits) or _by_word(text, body, digits, start, end)


def _is_made_up(digits: str) -> bool:
    """Whether nobody has this number."""
    national = digits.removeprefix("44").removeprefix("0")
    if national.startswith(_DRAMA + _DRAMA_LATER) and len(national) in (9, 10):
        return True
    ten = digits.removeprefix("1")
    if len(ten) == 10 and ten[3:8] == "55501":
        return True
    return repeats_or_counts(digits[-7:]) or len(set(digits)) < 3 or ten == "5551234567" or digits[-7:] == "5551234"


def _by_form(body: str, digits: str) -> str:
    """Why the number is one by itself; "" when it is not."""
    if "+" in body or (body.startswith("00") and len(digits) > 9):
        number = digits.removeprefix("00")
        code = next((number[:size] for size in (1, 2, 3) if number[:size] in _COUNTRY_CODES), "")
        rest = number[len(code) :]
        if code == "1":
            return "country code +1, 10 digits" if len(rest) == 10 and rest[0] in "23456789" else ""
        if code and 7 <= len(rest) <= 13:
            return f"country code +{code}, {len(rest)} digits"
        return ""
    match = _NANP.match(body)
    if match and match[1][1:] != "11" and match[3][1:] != "11" and ("(" in body or match[2] == match[4] == "-"):
        return "North American form, 10 digits"
    if len(set(re.findall(r"\d\d", body))) > 3:
        return next((proof for pattern, proof in _NATIONAL if pattern.match(body)), "")
    return ""


def _by_word(text: str, body: str, digits: str, start: int, end: int) -> str:
    """Why the number is one by the words beside it; "" when it is not."""
    if len(digits) > 15:
        return ""
    before = text[max(0, start - 28) : start]
    cut = max(before.rfind(mark) for mark in "0123456789") + 1  # a word belongs to the number that follows it first
    near = word_near(_STRONG, text, start, end, before=len(before) - cut, after=10)
    if not near and len(digits) != len(body):  # a weak word is not enough for a bare row of digits
        near = word_near(_WEAK, text, start, end, before=len(before) - cut, after=8)
    return f"{len(digits)} digits near “{near}”" if near else ""
