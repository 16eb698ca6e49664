"""Personal data with valid checksums and keys of the shapes that services issue, all drawn at run time.

Nothing here belongs to anyone, and no text in this file has the shape of a key: prefixes are put together only when a
value is made, so that scanners have nothing to find in the repository.
"""

import base64
import json
import string
import zlib
from collections.abc import Callable
from random import Random
from typing import Final

FIRST: Final = ("maria", "john", "li", "amara", "tomasz", "ingrid", "yusuf", "claire", "diego", "noor")
LAST: Final = ("becker", "smith", "wang", "okafor", "nowak", "larsen", "demir", "dubois", "alvarez", "haddad")
DOMAINS: Final = ("gmail.com", "outlook.com", "web.de", "orange.fr", "btinternet.com", "fastmail.com")
ALNUM: Final = string.ascii_letters + string.digits


def digits(random: Random, number: int) -> str:
    """So many random decimal digits, the first not 0."""
    return str(random.randint(1, 9)) + "".join(random.choices(string.digits, k=number - 1))


def luhn_digit(body: str) -> str:
    """The check digit of ISO/IEC 7812 for the digits before it."""
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def email(random: Random) -> str:
    """An address at a provider that exists, so that no rule for example.com applies."""
    first, last = random.choice(FIRST), random.choice(LAST)
    local = random.choice((f"{first}.{last}", f"{first}{last}{random.randint(1, 99)}", f"{first[0]}_{last}"))
    return f"{local}@{random.choice(DOMAINS)}"


def phone(random: Random) -> str:
    """A number as people write it: US, international, British or German."""
    area, first, last = random.randint(201, 989), random.randint(200, 998), random.randint(1000, 9999)
    return random.choice(
        (
            f"({area}) {first}-{last}",
            f"+1 {area}-{first}-{last}",
            f"{area}-{first}-{last}",
            f"+44 20 7{digits(random, 3)} {digits(random, 4)}",
            f"+49 30 {digits(random, 8)}",
            f"+33 6 {digits(random, 2)} {digits(random, 2)} {digits(random, 2)} {digits(random, 2)}",
        )
    )


def card(random: Random) -> str:
    """A card number with a valid check digit, in the groups it is printed in, or in one."""
    prefix, length = random.choice((("4", 16), ("51", 16), ("55", 16), ("34", 15), ("37", 15), ("6011", 16)))
    body = prefix + "".join(random.choices(string.digits, k=length - 1 - len(prefix)))
    number = body + luhn_digit(body)
    if length == 15:
        parts = (number[:4], number[4:10], number[10:])
    else:
        parts = tuple(number[at : at + 4] for at in range(0, 16, 4))
    return random.choice((number, " ".join(parts), "-".join(parts)))


def iban(random: Random) -> str:
    """An IBAN with valid check digits (ISO 13616), with or without its spaces."""
    country, bban = random.choice(
        (
            ("DE", digits(random, 18)),
            ("FR", digits(random, 20) + "0" + digits(random, 2)),
            ("NL", "ABNA" + digits(random, 10)),
            ("GB", "BARC" + digits(random, 14)),
            ("ES", digits(random, 20)),
        )
    )
    rest = int("".join(str(int(sign, 36)) for sign in f"{bban}{country}00")) % 97
    value = f"{country}{98 - rest:02}{bban}"
    return random.choice((value, " ".join(value[at : at + 4] for at in range(0, len(value), 4))))


def us_ssn(random: Random) -> str:
    """A US social security number in the ranges that are issued."""
    area = random.choice([*range(1, 666), *range(667, 900)])
    return f"{area:03}-{random.randint(1, 99):02}-{random.randint(1, 9999):04}"


def es_dni(random: Random) -> str:
    """A Spanish DNI: eight digits and the letter of their remainder by 23."""
    number = random.randint(10_000_000, 99_999_999)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def nl_bsn(random: Random) -> str:
    """A Dutch BSN: nine digits whose weighted sum is a multiple of 11 ("elfproef")."""
    while True:
        body = digits(random, 8)
        check = sum(int(digit) * weight for digit, weight in zip(body, range(9, 1, -1), strict=True)) % 11
        if check < 10:
            return f"{body}{check}"


def pl_pesel(random: Random) -> str:
    """A Polish PESEL of someone born in the 20th century."""
    born = f"{random.randint(40, 99):02}{random.randint(1, 12):02}{random.randint(1, 28):02}"
    body = born + "".join(random.choices(string.digits, k=4))
    total = sum(int(digit) * weight for digit, weight in zip(body, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), strict=True))
    return f"{body}{-total % 10}"


def de_tax_id(random: Random) -> str:
    """A German Steuer-ID: ten digits of which exactly one occurs twice, and an ISO 7064 MOD 11,10 check digit."""
    chosen = random.sample(string.digits, 9)
    body = [*chosen, random.choice(chosen)]
    while body[0] == "0":
        random.shuffle(body)
    product = 10
    for digit in body:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return "".join(body) + str((11 - product) % 10)


PERSONAL: Final[dict[str, Callable[[Random], str]]] = {
    "email": email, "phone": phone, "card": card, "iban": iban, "us_ssn": us_ssn, "es_dni": es_dni, "nl_bsn": nl_bsn,
    "pl_pesel": pl_pesel, "de_tax_id": de_tax_id,
}  # fmt: skip


def _letters(random: Random, number: int, signs: str = ALNUM) -> str:
    return "".join(random.choices(signs, k=number))


def _base62(value: int, width: int) -> str:
    signs = string.digits + string.ascii_uppercase + string.ascii_lowercase
    made = ""
    for _ in range(width):
        value, rest = divmod(value, 62)
        made = signs[rest] + made
    return made


def github(random: Random) -> str:
    """A personal access token with the checksum GitHub puts into its last six characters."""
    body = _letters(random, 30)
    return f"{'gh'}{'p_'}{body}{_base62(zlib.crc32(body.encode()), 6)}"


def jwt(random: Random) -> str:
    """A JSON web token with a readable header and claims and a random signature."""

    def part(value: dict[str, str]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    head = part({"alg": "HS256", "typ": "JWT"})
    return f"{head}.{part({'sub': digits(random, 10), 'name': random.choice(FIRST)})}.{_letters(random, 43)}"


def private_key(random: Random) -> str:
    """A PEM block of random bytes."""
    body = base64.b64encode(random.randbytes(600)).decode()
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    begin, end = (f"-----{word} RSA PRIVATE{' '}KEY-----" for word in ("BEGIN", "END"))
    return f"{begin}\n{lines}\n{end}"


def database_url(random: Random) -> str:
    """A connection string with a password in it."""
    return f"postgresql:{'//'}{random.choice(FIRST)}:{_letters(random, 14)}@db{random.randint(1, 9)}.internal:5432/main"


SECRETS: Final[dict[str, tuple[str, Callable[[Random], str]]]] = {  # name: (variable, maker)
    "aws_key_id": (
        "AWS_ACCESS_KEY_ID",
        lambda random: "AK" + "IA" + _letters(random, 16, string.ascii_uppercase + "234567"),
    ),
    "aws_secret": ("AWS_SECRET_ACCESS_KEY", lambda random: _letters(random, 40, ALNUM + "/+")),
    "github": ("GITHUB_TOKEN", github),
    "gitlab": ("GITLAB_TOKEN", lambda random: "gl" + "pat-" + _letters(random, 20)),
    "slack": (
        "SLACK_BOT_TOKEN",
        lambda random: "xo" + f"xb-{digits(random, 12)}-{digits(random, 12)}-{_letters(random, 24)}",
    ),
    "stripe": ("STRIPE_SECRET_KEY", lambda random: "sk" + "_live_" + _letters(random, 24)),
    "google": ("GOOGLE_API_KEY", lambda random: "AI" + "za" + _letters(random, 35, ALNUM + "_-")),
    "openai": (
        "OPENAI_API_KEY",
        lambda random: "sk" + "-proj-" + _letters(random, 20) + "T3Blbk" + "FJ" + _letters(random, 20),
    ),
    "npm": ("NPM_TOKEN", lambda random: "np" + "m_" + _letters(random, 36)),
    "jwt": ("AUTH_TOKEN", jwt),
    "private_key": ("PRIVATE_KEY", private_key),
    "database_url": ("DATABASE_URL", database_url),
}
