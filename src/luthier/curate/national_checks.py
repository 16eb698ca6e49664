"""What makes a number a possible national id: one function a country, of the number without its separators.

Sources: the issuing authorities' published rules, as collected in the documentation of python-stdnum.
"""

from luthier.curate.personal_checks import (
    is_day,
    is_short_day,
    luhn,
    mod11_2,
    mod11_10,
    repeats_or_counts,
    verhoeff,
    weighted,
)


def us_ssn(text: str) -> bool:
    """No area 000, 666 or 9xx, no group 00, no serial 0000; not the three numbers that advertisements made famous."""
    made_up = (
        text in ("078051120", "219099999", "457555462", "123456789", "111223333", "123121234") or len(set(text)) < 3
    )
    return not (text[:3] in ("000", "666") or text[0] == "9" or text[3:5] == "00" or text[5:] == "0000" or made_up)


def us_itin(text: str) -> bool:
    """9xx with a group of 50–65, 70–88, 90–92 or 94–99."""
    group = int(text[3:5])
    return text[0] == "9" and (50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or 94 <= group <= 99)


def uk_nino(text: str) -> bool:
    """Prefixes that are issued; QQ and AB 123456 C are what forms show."""
    text = text.upper()
    barred = text[:2] in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ") or text[0] in "DFIQUV" or text[1] in "DFIOQUV"
    return not barred and text[2:8] != "123456"


def uk_nhs(text: str) -> bool:
    """MOD 11 over weights 10 to 2."""
    check = (11 - weighted(text, range(10, 1, -1)) % 11) % 11
    return check == int(text[9]) and not repeats_or_counts(text)


def de_steuer_id(text: str) -> bool:
    """MOD 11,10, and among the first ten digits one occurs twice or three times, the others at most once."""
    counts = sorted(text[:10].count(digit) for digit in set(text[:10]))
    return text[0] != "0" and counts[-1] in (2, 3) and counts[-2] == 1 and mod11_10(text)


def fr_nir(text: str) -> bool:
    """Key 97 − number mod 97; sex, month and department possible. Corsica's 2A and 2B count as 19 and 18."""
    number = text[:13].upper().replace("2A", "19").replace("2B", "18")
    month = int(number[3:5])
    possible = text[0] in "123478" and (1 <= month <= 12 or 20 <= month <= 42 or month >= 50)
    return possible and number[5:7] != "00" and 97 - int(number) % 97 == int(text[13:])


def es_dni(text: str) -> bool:
    """Letter by the number mod 23; a foreigner's X, Y or Z counts as 0, 1 or 2. 12345678Z is everybody's example."""
    text = text.upper()
    number = int(text[:-1].translate(str.maketrans("XYZ", "012")))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == text[-1] and text not in ("12345678Z", "00000000T", "X1234567L")


def it_codice_fiscale(text: str) -> bool:
    """Check letter mod 26, day of birth possible."""
    text = text.upper()
    odd = dict(
        zip("0123456789ABCDEFGHIJ", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21), strict=True)
    )
    odd |= dict(zip("KLMNOPQRSTUVWXYZ", (2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23), strict=True))
    total = sum(
        odd[char] if index % 2 == 0 else (int(char) if char.isdigit() else ord(char) - 65)
        for index, char in enumerate(text[:15])
    )
    day = int(text[9:11])
    return chr(65 + total % 26) == text[15] and (1 <= day <= 31 or 41 <= day <= 71) and text != "RSSMRA85T10A562S"


def nl_bsn(text: str) -> bool:
    """Eleven test: weights 9 to 2 and −1."""
    text = text.zfill(9)
    return weighted(text, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0 and not repeats_or_counts(text)


def be_rijksregister(text: str) -> bool:
    """97 − number mod 97, with a 2 in front for those born since 2000; the day of birth possible."""
    month = int(text[2:4]) % 20
    keys = (97 - int(text[:9]) % 97, 97 - int("2" + text[:9]) % 97)
    return month <= 12 and int(text[4:6]) <= 31 and int(text[9:]) in keys


def ch_ahv(text: str) -> bool:
    """EAN-13 that begins with 756."""
    return text.startswith("756") and (10 - weighted(text[:12], (1, 3) * 6) % 10) % 10 == int(text[12])


def pl_pesel(text: str) -> bool:
    """Weights 1 3 7 9, and a day of birth whose century is in the month."""
    month = int(text[2:4])
    century = {0: 1900, 1: 2000, 2: 2100, 3: 2200, 4: 1800}[month // 20]
    check = (10 - weighted(text[:10], (1, 3, 7, 9) * 3) % 10) % 10
    return check == int(text[10]) and is_day(century + int(text[:2]), month % 20, int(text[4:6]))


def se_personnummer(text: str) -> bool:
    """Luhn over the last ten digits, and a day of birth (plus 60 in a coordination number)."""
    text = text[-10:]
    return luhn(text) and is_short_day(text[:2], text[2:4], str(int(text[4:6]) % 60))


def fi_hetu(text: str) -> bool:
    """Check character by the nine digits mod 31, and a day of birth."""
    check = "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(text[:6] + text[7:10]) % 31]
    return check == text[10].upper() and is_short_day(text[4:6], text[2:4], text[:2]) and text.upper() != "131052-308T"


def no_fodselsnummer(text: str) -> bool:
    """Two checks mod 11, and a day of birth (plus 40 in a D number)."""
    first = weighted(text, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11
    second = weighted(text, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11
    return first == second == 0 and is_short_day(text[4:6], text[2:4], str(int(text[:2]) % 40))


def dk_cpr(text: str) -> bool:
    """A day of birth; the check digit was given up in 2007."""
    return is_short_day(text[4:6], text[2:4], text[:2])


def pt_nif(text: str) -> bool:
    """Weights 9 to 2 mod 11."""
    return (11 - weighted(text, range(9, 1, -1)) % 11) % 11 % 10 == int(text[8]) and not repeats_or_counts(text)


def br_cpf(text: str) -> bool:
    """Two checks mod 11. 123.456.789-09 is everybody's example."""
    first = weighted(text, range(10, 1, -1)) * 10 % 11 % 10
    second = weighted(text, range(11, 1, -1)) * 10 % 11 % 10
    return (first, second) == (int(text[9]), int(text[10])) and len(set(text)) > 2 and text != "12345678909"


def mx_curp(text: str) -> bool:
    """Check digit over an alphabet with Ñ, and a day of birth."""
    alphabet = "0123456789ABCDEFGHIJKLMNÑOPQRSTUVWXYZ"
    total = sum(alphabet.index(char) * (18 - index) for index, char in enumerate(text[:17].upper()))
    return (10 - total % 10) % 10 == int(text[17]) and is_short_day(text[4:6], text[6:8], text[8:10])


def in_aadhaar(text: str) -> bool:
    """Verhoeff, first digit 2 to 9."""
    return text[0] not in "01" and verhoeff(text) and len(set(text)) > 2


def cn_resident(text: str) -> bool:
    """MOD 11-2, a province's code and a day of birth."""
    born = 1900 <= int(text[6:10]) <= 2100 and is_day(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    return born and 11 <= int(text[:2]) <= 82 and mod11_2(text)


def kr_rrn(text: str) -> bool:
    """Weights 2 to 9 and again from 2, mod 11, and a day of birth. Numbers since October 2020 are random at the end."""
    check = (11 - weighted(text, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10
    return check == int(text[12]) and is_short_day(text[:2], text[2:4], text[4:6])


def ca_sin(text: str) -> bool:
    """Luhn; 0 and 8 are not issued to people. 046 454 286 is the government's example."""
    return text[0] not in "08" and luhn(text) and not repeats_or_counts(text)


def au_tfn(text: str) -> bool:
    """Weights 1 4 3 7 5 8 6 9 10, a multiple of 11."""
    return weighted(text, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0 and not repeats_or_counts(text)


def au_medicare(text: str) -> bool:
    """First digit 2 to 6; the ninth checks the eight before it with weights 1 3 7 9."""
    return text[0] in "23456" and weighted(text[:8], (1, 3, 7, 9) * 2) % 10 == int(text[8]) and len(set(text)) > 2


def tr_kimlik(text: str) -> bool:
    """Two checks mod 10, the first digit not 0."""
    digits = [int(char) for char in text]
    tenth = (sum(digits[0:9:2]) * 7 - sum(digits[1:8:2])) % 10
    return digits[0] != 0 and digits[9] == tenth and sum(digits[:10]) % 10 == digits[10] and len(set(text)) > 2


def za_id(text: str) -> bool:
    """Luhn, a day of birth, and 0, 1 or 2 for citizenship."""
    return text[10] in "012" and luhn(text) and is_short_day(text[:2], text[2:4], text[4:6])


def possible(text: str) -> bool:
    """Enough digits that are not made up; for numbers that have no rule of their own."""
    digits = "".join(char for char in text if char.isdigit())
    return len(digits) >= 4 and len(set(digits)) > 2 and not repeats_or_counts(digits)
