"""Check digits: pure functions of a string of digits that say whether it can be a number of its kind."""

import hashlib
from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import Final


def luhn(digits: str) -> bool:
    """The Luhn formula (ISO/IEC 7812-1 annex B)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def mod97(text: str) -> bool:
    """MOD 97-10 (ISO/IEC 7064) as an IBAN uses it: four characters moved to the end, letters as 10 to 35."""
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def weighted(digits: str, weights: Sequence[int]) -> int:
    """Sum of digits times weights, over the shorter of the two."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def mod11_10(digits: str) -> bool:
    """MOD 11,10 (ISO/IEC 7064), the last digit checks."""
    product = 10
    for digit in digits[:-1]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[-1])


def mod11_2(text: str) -> bool:
    """MOD 11-2 (ISO/IEC 7064), the last character checks, "X" is 10."""
    total = 0
    for char in text[:-1]:
        total = (total + int(char)) * 2 % 11
    return (total + (10 if text[-1] in "Xx" else int(text[-1]))) % 11 == 1


def _dihedral(left: int, right: int) -> int:
    """Product in the dihedral group of order ten."""
    if left < 5:
        return (left + right) % 5 if right < 5 else 5 + (left + right) % 5
    return 5 + (left - right) % 5 if right < 5 else (left - right) % 5


_VERHOEFF_START: Final = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def verhoeff(digits: str) -> bool:
    """The dihedral check of Verhoeff (1969), the last digit checks."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(index % 8):
            value = _VERHOEFF_START[value]
        total = _dihedral(total, value)
    return total == 0


def repeats_or_counts(digits: str) -> bool:
    """Whether digits are one digit again and again or count up or down ("1234567890"): what people make up."""
    steps = {(int(b) - int(a)) % 10 for a, b in pairwise(digits)}
    return len(steps) <= 1 and steps <= {0, 1, 9}


def is_day(year: int, month: int, day: int) -> bool:
    """Whether there was such a day."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def is_short_day(year: str, month: str, day: str) -> bool:
    """Whether there was such a day in this century or the last, two digits each."""
    return any(is_day(century + int(year), int(month), int(day)) for century in (1900, 2000))


_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def base58check(text: str) -> bool:
    """A Bitcoin address in Base58Check: 25 bytes, the last four begin the double SHA-256 of the others."""
    value = 0
    for char in text:
        value = value * 58 + _BASE58.index(char)
    if value >= 1 << 200:
        return False
    raw = value.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(raw[:21]).digest()).digest()[:4] == raw[21:]


def bech32(text: str) -> bool:
    """A Bitcoin address in Bech32 or Bech32m (BIP 173, BIP 350)."""
    prefix, data = text.lower().split("1", 1)
    values = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]
    values += [_BECH32.index(char) for char in data]
    state = 1
    for value in values:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, constant in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            if top >> bit & 1:
                state ^= constant
    return state in (1, 0x2BC830A3)
