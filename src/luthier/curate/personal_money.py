"""Payment cards, bank accounts and Bitcoin addresses, each proven by its check digits."""

import re
from collections.abc import Iterator
from typing import Final

from luthier.curate.personal_checks import base58check, bech32, luhn, mod97
from luthier.curate.personal_span import Span, listed, word_near, words_pattern

# Unbroken, in groups of four, or as American Express (4-6-5) and Diners Club (4-6-4) print it. A digit, a letter or a
# decimal point on either side makes it part of something else.
_CARD = re.compile(
    r"(?<![\w.])(?:\d{12,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{4,5})(?![\w]|[.,]\d)",
    re.ASCII,
)
_DIGITS = re.compile(r"\d*", re.ASCII)
_CARD_WORDS = words_pattern((
    "cards?", "credit", "debit", "visa", "mastercard", "master card", "maestro", "amex", "american express", "discover",
    "diners", "jcb", "unionpay", "cc", "kreditkarte", "karten?nummer", "karte", "carte", "tarjeta", "carta",
    "cart[ãa]o", "kaart", "kort",
))  # fmt: skip

# Issuer ranges (ISO/IEC 7812; the brands' published ranges): first and last prefix, lengths, brand.
_ISSUERS: Final = (
    ("4", "4", (13, 16, 19), "Visa"),
    ("51", "55", (16,), "Mastercard"),
    ("2221", "2720", (16,), "Mastercard"),
    ("34", "34", (15,), "American Express"),
    ("37", "37", (15,), "American Express"),
    ("300", "305", (14,), "Diners Club"),
    ("3095", "3095", (14,), "Diners Club"),
    ("36", "36", (14,), "Diners Club"),
    ("38", "39", (14,), "Diners Club"),
    ("6011", "6011", (16, 19), "Discover"),
    ("644", "659", (16, 19), "Discover"),
    ("3528", "3589", (16, 19), "JCB"),
    ("1800", "1800", (15,), "JCB"),
    ("2131", "2131", (15,), "JCB"),
    ("62", "62", (16, 17, 18, 19), "UnionPay"),
    ("2200", "2204", (16,), "Mir"),
    ("50", "50", range(12, 20), "Maestro"),
    ("56", "58", range(12, 20), "Maestro"),
    ("60", "69", range(12, 20), "Maestro"),
)
# Below 15 digits a card looks like an article number (EAN, ISBN) or a time in milliseconds, and ranges that are this
# wide prove little: there a word has to say that it is a card.
_NEEDS_WORD: Final = frozenset({"Maestro"})
# Numbers that the card schemes and payment services publish for tests; they belong to nobody.
_TEST_CARDS: Final = listed(
    "4111111111111111 4242424242424242 4012888888881881 4222222222222 4000056655665556 4000000000000002 "
    "4000000000000077 4000000000003220 4917610000000000 4917610000000000003 5555555555554444 5105105105105100 "
    "5200828282828210 5454545454545454 2223003122003222 2223000048400011 378282246310005 371449635398431 "
    "378734493671000 341111111111111 30569309025904 38520000023237 3056930009020004 36227206271667 6011111111111117 "
    "6011000990139424 6011981111111113 3530111333300000 3566002020360505 6200000000000005 6304000000000000 "
    "6759649826438453 6799990100000000019"
)


def cards(text: str) -> Iterator[Span]:
    """Payment cards in a folded text: the Luhn formula holds and an issuer has such numbers of that length."""
    place = 0
    while match := _CARD.search(text, place):
        start = match.start()
        place = _DIGITS.match(text, start).end()  # in a row of groups of four, a card may begin at any
        # Four groups of four and a shorter one: a card of 19 digits, or one of 16 and the number after it.
        for end in (match.end(), start + 19) if match[1] else (match.end(),):
            proof = _card_proof(text, start, end)
            if proof:
                yield Span(start, end, "CARD", proof)
                place = end
                break


def _card_proof(text: str, start: int, end: int) -> str:
    """Why text[start:end] is a card; "" when it is none."""
    digits = re.sub("[ -]", "", text[start:end])
    if not luhn(digits) or digits in _TEST_CARDS or len(set(digits)) < 3:
        return ""
    brand = _brand(digits)
    near = word_near(_CARD_WORDS, text, start, end, before=60)
    alone = len(digits) >= 15 and brand and brand not in _NEEDS_WORD and digits[0] != "1" and digits[:4] != "2131"
    # Ranges are handed out and moved every year: beside a word, a first digit that banks and travel have is enough.
    if alone or (near and (brand or (digits[0] in "23456" and len(digits) > 12))):
        return ("Luhn, " + (f"{brand} range" if brand else "no known range")) + (f", near “{near}”" if near else "")
    return ""


def _brand(digits: str) -> str:
    for first, last, lengths, brand in _ISSUERS:
        if first <= digits[: len(first)] <= last and len(digits) in lengths:
            return brand
    return ""


# Length by country, from the IBAN registry of SWIFT.
_IBAN_LENGTHS: Final = {
    country: int(length)
    for length, countries in {
        "15": "NO", "16": "BE", "18": "DK FI FO GL NL SD FK", "19": "MK SI", "20": "AT BA EE KZ LT LU XK MN",
        "21": "CH CR HR LI LV", "22": "BG BH DE GB GE IE ME RS", "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG", "25": "LY PT ST", "26": "IS TR",
        "27": "BI DJ FR GR IT MC MR SM", "28": "AL AZ BY CY DO GT HU LB NI PL SV", "29": "BR EG PS QA UA",
        "30": "JO KW MU YE", "31": "MT SC", "32": "LC", "33": "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
_IBAN_HEAD = re.compile(r"(?<![A-Za-z0-9])(?:[A-Z]{2}|[a-z]{2})\d{2}(?=[ -]?[A-Za-z0-9]{4})", re.ASCII)
# The registry's own examples, which documentation everywhere repeats.
_IBAN_EXAMPLES: Final = listed(
    "DE89370400440532013000 GB29NWBK60161331926819 GB82WEST12345698765432 GB33BUKB20201555555555 NL91ABNA0417164300 "
    "FR1420041010050500013M02606 FR7630006000011234567890189 BE68539007547034 CH9300762011623852957 "
    "ES9121000418450200051332 IT60X0542811101000000123456 AT611904300234573201 PL61109010140000071219812874"
)


def ibans(text: str) -> Iterator[Span]:
    """International bank account numbers in a folded text: MOD 97-10 holds and the country's length is met."""
    for match in _IBAN_HEAD.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2].upper(), 0)
        if not length:
            continue
        end, code = match.start(), ""
        while len(code) < length and end < len(text):
            char = text[end]
            if char.isascii() and char.isalnum():
                code += char
            elif char not in " -" or text[end - 1] in " -":
                break
            end += 1
        if len(code) != length or (end < len(text) and text[end].isascii() and text[end].isalnum()):
            continue
        same_case = code.isupper() or code.islower()
        if same_case and mod97(code) and code.upper() not in _IBAN_EXAMPLES:
            yield Span(match.start(), end, "IBAN", f"MOD 97-10, {length} characters as in {code[:2].upper()}")


_BITCOIN = re.compile(
    r"(?<![A-Za-z0-9])(?:[13][1-9A-HJ-NP-Za-km-z]{25,34}|bc1[02-9ac-hj-np-z]{11,71})(?![A-Za-z0-9])", re.ASCII
)
_GENESIS: Final = "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"


def bitcoin(text: str) -> Iterator[Span]:
    """Bitcoin addresses whose checksum holds."""
    for match in _BITCOIN.finditer(text):
        check = bech32 if match[0].startswith("bc1") else base58check
        if match[0] != _GENESIS and check(match[0]):
            yield Span(match.start(), match.end(), "BTC", "Base58Check" if check is base58check else "Bech32")
