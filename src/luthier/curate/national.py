"""National ids by country: form, check digits, and where those are weak, a word nearby that says what the number is.

A form that one number in a thousand or fewer meets by chance stands by itself; any other needs its word. What chance
means: a check digit lets one in ten pass, mod 97 one in a hundred, a day of birth one in thirty.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from re import Match, Pattern
from typing import Final

from luthier.curate import national_checks as checks
from luthier.curate.personal_span import Span, word_near, words_pattern


@dataclass(frozen=True, slots=True)
class National:
    """A kind of national id.

    Attributes:
        kind: country and name, as in "US_SSN"; the placeholder says "ID_US_SSN".
        form: what it looks like.
        check: whether it can be one, of the characters without separators.
        proof: what the check proves, for people.
        alone: forms of it that need no word nearby; None when all of them do.
        words: words that say what it is.
    """

    kind: str
    form: Pattern[str]
    check: Callable[[str], bool]
    proof: str
    alone: Pattern[str] | None
    words: Pattern[str]


def _national(
    kind: str, form: str, check: Callable[[str], bool], proof: str, words: tuple[str, ...], alone: str = ""
) -> National:
    edges = rf"(?<![\w.-])(?:{form})(?![\w]|[.-]\d)"
    pattern = re.compile(edges, re.ASCII | re.IGNORECASE)
    return National(kind, pattern, check, proof, re.compile(alone, re.ASCII) if alone else None, words_pattern(words))


_ANY: Final = r"[\s\S]+"
NATIONALS: Final = (
    _national("US_SSN", r"\d{3}([ -]?)\d{2}\1\d{4}", checks.us_ssn, "area, group and serial issued",
              ("SSN", "ssn", r"social security", r"soc\.? sec"), alone=r"\d{3}-\d{2}-\d{4}$"),
    _national("US_ITIN", r"9\d{2}([ -]?)\d{2}\1\d{4}", checks.us_itin, "group issued",
              ("ITIN", "itin", r"taxpayer identification", "SSN", r"social security")),
    _national("UK_NINO", r"[a-z]{2} ?\d{2} ?\d{2} ?\d{2} ?[a-d]", checks.uk_nino, "prefix issued",
              ("NINO", "nino", "NI", r"national insurance")),
    _national("UK_NHS", r"\d{3}([ -]?)\d{3}\1\d{4}", checks.uk_nhs, "MOD 11", ("NHS", "nhs")),
    _national("DE_STEUER", r"\d{2} ?\d{3} ?\d{3} ?\d{3}", checks.de_steuer_id, "MOD 11,10",
              (r"steuer-?id\w*", r"steuer\w*nummer", r"tax id", "IdNr", r"steuerliche")),
    _national("FR_NIR", r"[1-478] ?\d{2} ?\d{2} ?(?:\d{2}|2[ab]) ?\d{3} ?\d{3} ?\d{2}", checks.fr_nir,
              "key mod 97", ("NIR", r"s[ée]curit[ée] sociale", r"num[ée]ro de s[ée]cu", "INSEE"), alone="[12]"),
    _national("ES_DNI", r"(?:[xyz]-?\d{7}|\d{2}\.?\d{3}\.?\d{3})[ -]?[a-z]", checks.es_dni, "letter mod 23",
              ("DNI", "NIE", "NIF", "dni", "nie", "nif", r"documento nacional", r"documento de identidad")),
    _national("IT_CF", r"[a-z]{6}\d{2}[a-ehlmprst]\d{2}[a-z]\d{3}[a-z]", checks.it_codice_fiscale,
              "letter mod 26, day of birth", (r"codice fiscale",), alone=_ANY),
    _national("NL_BSN", r"\d{9}|\d{4}[. ]\d{2}[. ]\d{3}|\d{3}[. ]\d{3}[. ]\d{3}", checks.nl_bsn, "eleven test",
              ("BSN", "bsn", r"burgerservicenummer", r"sofi-?nummer")),
    _national("BE_RRN", r"\d{2}([. -]?)\d{2}\1\d{2}[ -]?\d{3}[ .-]?\d{2}", checks.be_rijksregister, "key mod 97, date",
              (r"rijksregister\w*", r"registre national", r"num[ée]ro national", "INSZ", "NISS"),
              alone=r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}$"),
    _national("CH_AHV", r"756([. ]?)\d{4}\1\d{4}\1\d{2}", checks.ch_ahv, "EAN-13, 756",
              ("AHV", "AVS", "ahv", "avs", r"sozialversicherungsnummer"), alone=r"756[. ]"),
    _national("PL_PESEL", r"\d{11}", checks.pl_pesel, "weights 1 3 7 9, day of birth", ("PESEL", "pesel")),
    _national("SE_PNR", r"(?:\d{2})?\d{6}[-+]?\d{4}", checks.se_personnummer, "Luhn, day of birth",
              (r"person-?n(?:ummer|r)", r"samordningsnummer", r"personal identity number"), alone=r"\d{6,8}[-+]\d{4}$"),
    _national("FI_HETU", r"\d{6}[-+a]\d{3}[0-9a-y]", checks.fi_hetu, "MOD 31, day of birth",
              (r"henkil[öo]tunnus", "hetu", "HETU"), alone=_ANY),
    _national("NO_FNR", r"\d{6} ?\d{5}", checks.no_fodselsnummer, "MOD 11 twice, day of birth",
              (r"f[øo]dselsnummer", r"personnummer", "fnr")),
    _national("DK_CPR", r"\d{6}-?\d{4}", checks.dk_cpr, "day of birth", ("CPR", "cpr", r"cpr-?nummer")),
    _national("PT_NIF", r"\d{3} ?\d{3} ?\d{3}", checks.pt_nif, "MOD 11",
              ("NIF", "nif", "contribuinte", "número de contribuinte")),
    _national("BR_CPF", r"\d{3}(\.?)\d{3}\1\d{3}-?\d{2}", checks.br_cpf, "MOD 11 twice", ("CPF", "cpf"),
              alone=r"\d{3}\.\d{3}\.\d{3}-\d{2}$"),
    _national("MX_CURP", r"[a-z]{4}\d{6}[hmx][a-z]{5}[0-9a-z]\d", checks.mx_curp, "MOD 10, day of birth",
              ("CURP", "curp"), alone=_ANY),
    _national("IN_AADHAAR", r"\d{4}([ -]?)\d{4}\1\d{4}", checks.in_aadhaar, "Verhoeff",
              (r"aadhaa?r", "UIDAI", "UID", "आधार")),
    _national("IN_PAN", r"[a-z]{3}[abcfghljpt][a-z]\d{4}[a-z]", checks.possible, "form", ("PAN", r"permanent account")),
    _national("CN_RESIDENT", r"\d{17}[0-9x]", checks.cn_resident, "MOD 11-2, province, day of birth",
              (r"身份证", r"resident id"), alone=_ANY),
    _national("KR_RRN", r"\d{6}-?\d{7}", checks.kr_rrn, "MOD 11, day of birth",
              (r"주민등록번호", r"resident registration", "RRN"), alone=r"\d{6}-\d{7}$"),
    _national("CA_SIN", r"\d{3}([ -]?)\d{3}\1\d{3}", checks.ca_sin, "Luhn",
              ("SIN", r"social insurance", r"assurance sociale", "NAS")),
    _national("AU_TFN", r"\d{3} ?\d{3} ?\d{3}", checks.au_tfn, "weights mod 11", ("TFN", "tfn", r"tax file")),
    _national("AU_MEDICARE", r"\d{4}[ -]?\d{5}[ -]?\d(?:[/-]\d)?", checks.au_medicare, "MOD 10", (r"medicare",)),
    _national("TR_KIMLIK", r"\d{11}", checks.tr_kimlik, "MOD 10 twice",
              (r"kimlik", "TCKN", "tckn", r"T\.?C\.? no")),
    _national("ZA_ID", r"\d{13}", checks.za_id, "Luhn, day of birth",
              (r"south african id", r"identity (?:number|document)", r"id (?:number|no)", "RSA ID")),
)  # fmt: skip

# Numbers that have no public rule: only where the text says in so many words that the number follows.
_NAMED: Final = re.compile(
    r"\b(passport|reisepass|passeport|pasaporte|driv(?:er'?s?|ing) licen[cs]e|driver’s license|driver permit|dl|"
    r"führerschein|permis de conduire)"
    r"(?:[ -]?(?:number|no\.?|num|nr\.?|#|nummer|id))?\s{0,2}(?:is|was|:|=|#|)\s{0,2}"
    r"([A-Z]{0,3}\d[A-Z0-9]{0,2}-?[A-Z0-9]{2,6}(?:-[A-Z0-9]{2,6}){0,2})(?![\w-])",
    re.IGNORECASE,
)
# Rows of digits long enough for an id, and the ends or middles that ids with letters have.
_NUMBERS: Final = re.compile(r"\d(?:[ .+/-]{0,2}\d){6,}", re.ASCII)
_GROUP: Final = re.compile(r"\d+", re.ASCII)
_LETTERED: Final = re.compile(
    r"\d(?:(?:[ .]?\d){5,7}[ .-]?[A-Za-z](?![A-Za-z0-9])|(?<=[A-Za-z]\d)\d{3}[A-Za-z]|\d[A-Za-z]\d{3}[A-Za-z]"
    r"|\d{5}[HMXAhmxa+-])",
    re.ASCII,
)
_WITH_LETTERS: Final = frozenset({"UK_NINO", "ES_DNI", "IT_CF", "MX_CURP", "IN_PAN", "FI_HETU"})
_LETTERS: Final = tuple(national for national in NATIONALS if national.kind in _WITH_LETTERS)
_OF_DIGITS: Final = tuple(national for national in NATIONALS if national.kind not in ("IT_CF", "MX_CURP", "IN_PAN"))


def nationals(text: str) -> Iterator[Span]:
    """National ids that begin with a digit, in a folded text; two kinds may claim the same characters."""
    for row in _NUMBERS.finditer(text):
        for group in _GROUP.finditer(text, row.start(), row.end()):
            for national in _OF_DIGITS:
                match = national.form.match(text, group.start())
                if match:
                    yield from _judged(national, text, match)


def lettered_nationals(text: str) -> Iterator[Span]:
    """National ids that begin with or hold a letter, in a folded text."""
    if _LETTERED.search(text):
        for national in _LETTERS:
            for match in national.form.finditer(text):
                yield from _judged(national, text, match)


def named_ids(text: str) -> Iterator[Span]:
    """Passport and driver's licence numbers right after the words that announce them, in a folded text."""
    lower = text.lower()
    if not (
        "passport" in lower
        or "passeport" in lower
        or "pasaporte" in lower
        or "reisepass" in lower
        or "licen" in lower
        or "permi" in lower
        or "hrersch" in lower
        or "dl " in lower
    ):
        return
    for match in _NAMED.finditer(text):
        if checks.possible(match[2]):
            kind = "ID_PASSPORT" if match[1].lower().startswith(("pas", "reise")) else "ID_DRIVER"
            yield Span(*match.span(2), kind, f"after “{match[1].lower()}”")


def _judged(national: National, text: str, match: Match[str]) -> Iterator[Span]:
    near = word_near(national.words, text, *match.span())
    stands = national.alone is not None and national.alone.match(match[0])
    if (near or stands) and national.check(_bare(national, match[0])):
        yield Span(*match.span(), f"ID_{national.kind}", national.proof + (f", near “{near}”" if near else ""))


def _bare(national: National, text: str) -> str:
    """Without separators; the sign in the middle of a Finnish number is part of it, and so stays."""
    return text if national.kind == "FI_HETU" else re.sub(r"[ .+/-]", "", text)
