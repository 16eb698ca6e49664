"""Keys and passwords: formats by the plugins of `detect-secrets`, a few it lacks, and random strings after a keyword.

The plugins are used for their patterns alone, on the text in memory: no file is read, no settings are touched, nothing
is verified over a network. A cheap test stands in front of each, so a text without a long word costs a split.

Left alone: what is visibly no secret (AKIAIOSFODNN7EXAMPLE, "your-api-key", a word or a count in the place of random
characters), and short passwords, which cannot be told from the passwords in examples. Left out are the plugins whose
patterns ordinary text meets (Artifactory: "AP" and nine letters; Discord) and those that the keyword rule covers
(Cloudant, SoftLayer, IBM, npm's file).
"""

import math
import re
from collections.abc import Iterator
from functools import cache
from re import Pattern
from typing import Final

from luthier.curate.personal_span import Span

LONG: Final = 16  # characters without a space; the shortest format sought, an AWS key, has 20
_VALUE: Final = re.compile(r"[A-Za-z0-9+/_=.~!@#$%^&*-]{16}", re.ASCII)  # what a random string is made of
_WIDE: Final = re.compile(r"[A-Za-z0-9_.:/=-]{32}", re.ASCII)

# Beginnings of keys and the plugin that knows what follows. A key begins where a run of these characters does:
_RUN: Final = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{16,}", re.ASCII)
_PLUGINS: Final = (
    (("AKIA", "ASIA", "ABIA", "ACCA", "A3T"), "aws", "AWSKeyDetector"),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), "github_token", "GitHubTokenDetector"),
    (("glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "GR1348941", "glcbt-", "glimt-", "glptt-", "glagent-", "gloas-"),
     "gitlab_token", "GitLabTokenDetector"),
    (("xoxa-", "xoxb-", "xoxp-", "xoxo-", "xoxs-", "xoxr-"), "slack", "SlackDetector"),
    (("sk_live_", "rk_live_"), "stripe", "StripeDetector"),
    (("eyJ",), "jwt", "JwtTokenDetector"),
    (("sk-",), "openai", "OpenAIDetector"),
    (("pypi-AgE",), "pypi_token", "PypiTokenDetector"),
    (("sq0csp-",), "square_oauth", "SquareOAuthDetector"),
    (("AC", "SK"), "twilio", "TwilioKeyDetector"),
)  # fmt: skip
# Formats that the plugins lack, from the documentation of those who issue them.
_OWN: Final = (
    (("sk-proj-", "sk-svcacct-", "sk-admin-"), re.compile(r"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{32,}"), "OpenAI"),
    (("sk-ant-",), re.compile(r"sk-ant-[a-z0-9]+-[A-Za-z0-9_-]{32,}"), "Anthropic"),
    (("github_pat_",), re.compile(r"github_pat_[A-Za-z0-9_]{36,}"), "GitHub"),
    (("AIza",), re.compile(r"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"), "Google"),
    (("hf_",), re.compile(r"hf_[A-Za-z0-9]{34}(?![A-Za-z0-9_-])"), "Hugging Face"),
    (("npm_",), re.compile(r"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9_-])"), "npm"),
    (("shpat_", "shpss_", "shpca_"), re.compile(r"shp(?:at|ss|ca)_[a-fA-F0-9]{32}"), "Shopify"),
    (("dop_v1_", "doo_v1_"), re.compile(r"do[op]_v1_[a-f0-9]{64}"), "DigitalOcean"),
)
_BEGINNINGS: Final = tuple(
    {start for starts, *_ in _PLUGINS for start in starts} | {start for starts, *_ in _OWN for start in starts}
)
# Formats that begin anywhere: a literal that the text must hold, and the plugin. Each of these patterns is bounded.
_ANYWHERE: Final = (
    ("SG.", "sendgrid", "SendGridDetector"),
    ("hooks.slack.com", "slack", "SlackDetector"),
    ("AccountKey=", "azure_storage_key", "AzureStorageKeyDetector"),
    ("-us", "mailchimp", "MailchimpDetector"),
    (":", "telegram_token", "TelegramBotTokenDetector"),
)


def secrets(text: str, long: str) -> Iterator[Span]:
    """Secrets in a text, given its words of at least `LONG` characters; spans of one secret may overlap."""
    if "PRIVATE KEY" in text or "PuTTY-User-Key-File" in text:
        yield from _private_keys(text)
    if "://" in text and "@" in text:
        yield from _url_passwords(text)
    if not long or not _VALUE.search(long):
        return
    if any(start in long for start in _BEGINNINGS):
        yield from _beginnings(text)
    if _WIDE.search(long):
        yield from _anywhere(text)
    yield from _after_keywords(text)


@cache
def _plugin(module: str, name: str) -> tuple[tuple[Pattern[str], ...], str]:
    """A plugin's patterns and what it calls its secrets. Imported only when a text could hold one."""
    from importlib import import_module

    plugin = getattr(import_module(f"detect_secrets.plugins.{module}"), name)
    return tuple(plugin.denylist), plugin.secret_type


def _beginnings(text: str) -> Iterator[Span]:
    for run in _RUN.finditer(text):
        if not run[0].startswith(_BEGINNINGS):
            continue
        for starts, pattern, owner in _OWN:
            if run[0].startswith(starts) and pattern.match(text, run.start()) and looks_random(run[0]):
                yield Span(*run.span(), "KEY", f"{owner} key format")
        for starts, module, name in _PLUGINS:
            if run[0].startswith(starts):
                yield from _by_plugin(text, run.start(), run.end(), module, name)


def _by_plugin(text: str, start: int, end: int, module: str, name: str) -> Iterator[Span]:
    """The secret that begins where a run of characters does, through the end of the run: no half of a key stays."""
    patterns, what = _plugin(module, name)
    for pattern in patterns:
        match = pattern.match(text, start)
        if not match:
            continue
        stop = max(end, match.end())
        if module == "jwt":
            stop = _jwt_end(text, start)
        elif module in ("aws", "twilio") and end != match.end():
            continue  # these formats have a fixed length, and are short enough to begin any random string
        if stop and looks_random(text[start:stop]):
            yield Span(start, stop, "KEY", f"detect-secrets: {what}")
            return


_JWT: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){1,2}=*", re.ASCII)


def _jwt_end(text: str, start: int) -> int:
    """Where a JSON Web Token ends, signature included, if header and payload decode to JSON; 0 otherwise."""
    from detect_secrets.plugins.jwt import JwtTokenDetector

    match = _JWT.match(text, start)
    head = ".".join(match[0].split(".")[:2]) if match else ""
    return match.end() if match and JwtTokenDetector.is_formally_valid(head) else 0


def _anywhere(text: str) -> Iterator[Span]:
    for literal, module, name in _ANYWHERE:
        if literal not in text:
            continue
        patterns, what = _plugin(module, name)
        for pattern in patterns:
            for match in pattern.finditer(text):
                before, after = text[max(0, match.start() - 1) : match.start()], text[match.end() : match.end() + 1]
                if not _GLUED.match(before) and not _GLUED.match(after) and looks_random(match[0]):
                    yield Span(*match.span(), "KEY", f"detect-secrets: {what}")


_PRIVATE: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?)-----", re.ASCII)
_PUTTY: Final = re.compile(r"PuTTY-User-Key-File-[23]: [^\n]*\n(?:[A-Za-z-]+: [^\n]*(?:\n|$)|[A-Za-z0-9+/=]{16,}\s*)*")
# Lines of base64, where a line may be broken by a written "\\n"; each can be read in one way only, so this is linear.
# Possessive quantifiers would say so, but with groups in them Python 3.11.2 takes in what did not match.
_BASE64_LINES: Final = re.compile(r"(?:(?:\\[rn]|\s){0,4}[A-Za-z0-9+/=]{16,})*(?:(?:\\[rn]|\s){0,4}[A-Za-z0-9+/=]+)?")
_BODY: Final = 16_384  # characters; a 16,384-bit RSA key in PEM has 12,600


def _private_keys(text: str) -> Iterator[Span]:
    """Private keys from BEGIN through END, or as far as they go. One whose middle is "..." or a word is an example."""
    for match in _PUTTY.finditer(text):
        if "Private-Lines" in match[0] and looks_random(match[0]):
            yield Span(*match.span(), "KEY", "private key in PuTTY form")
    for match in _PRIVATE.finditer(text):
        closing = f"-----END {match[1]}-----"
        following = text.find("-----BEGIN", match.end(), match.end() + _BODY)
        body = text.find(closing, match.end(), following if following >= 0 else match.end() + _BODY)
        if body >= 0:
            end = body + len(closing)
        else:
            end = body = _BASE64_LINES.match(text, match.end()).end()
        middle = text[match.end() : body]
        if len(middle) >= 40 and looks_random(middle):
            yield Span(match.start(), end, "KEY", "private key in PEM form")


_URL: Final = re.compile(r"(?<=://)[^\s:/?#\[\]@'\"<>]{0,64}:([^\s:/?#\[\]@'\"<>]{4,128})@(?=[\w.-])")


def _url_passwords(text: str) -> Iterator[Span]:
    """Passwords in URLs, as in https://user:password@host; names of variables and example words stay."""
    for match in _URL.finditer(text):
        made_up = _WORDS.search(match[1]) or match[1].startswith(("$", "{", "<", "%"))
        if looks_random(match[1], least=6, bits=2.2) and not made_up:
            yield Span(*match.span(1), "KEY", "password in a URL")


_KEYWORD: Final = re.compile(
    r"(?:api[ _-]?key|access[ _-]?key|secret|token|passw(?:or)?d|passphrase|pwd|credential|private[ _-]?key|"
    r"auth[ _-]?key|account[ _-]?key|bearer|client[ _-]?key|encryption[ _-]?key|signing[ _-]?key)"
    r"[\w-]{0,24}[\"'`\]]{0,2}\s{0,2}(?:is\s|was\s|:=|=>|={1,3}|:|\s)\s{0,2}(?:bearer\s)?[\"'`]?"
    r"([A-Za-z0-9+/_=.~!@#$%^&*-]{16,256}+)(?![A-Za-z0-9+/_(\[])",
    re.IGNORECASE | re.ASCII,
)
_KEYWORD_PARTS: Final = ("key", "secret", "token", "passw", "passphrase", "pwd", "credential", "bearer")


def _after_keywords(text: str) -> Iterator[Span]:
    """Random strings that a keyword announces: `api_key = "…"`, `my token is …`."""
    lower = text.lower()
    if not any(part in lower for part in _KEYWORD_PARTS):
        return
    for match in _KEYWORD.finditer(text):
        start, end = match.span(1)
        while text[end - 1] in ".!&":
            end -= 1
        value = text[start:end]
        if looks_random(value) and any(map(str.isdigit, value)) and not _WORDS.search(value):
            yield Span(start, end, "KEY", f"random string of {len(value)} characters after a keyword")


_GLUED: Final = re.compile(r"[A-Za-z0-9]")
# What stands in examples in the place of random characters; in random ones it comes by chance once in many thousands.
# Short words are looked for only where a keyword is all that speaks for a secret: in a long key they do occur.
_EXAMPLE: Final = re.compile(r"example|placeholder|x{6}|\*{4}|\.\.\.|0{6}|12345678|abcdefgh", re.IGNORECASE)
_WORDS: Final = re.compile(
    r"sample|your|my[_-]|insert|replace|change|dummy|fake|test|here|xxxx|12345|23456|abcd|qwerty|password|secret|token|"
    r"api[_-]?key|process\.env|os\.environ|getenv|config|\$\{|<",
    re.IGNORECASE,
)


def looks_random(value: str, *, least: int = LONG, bits: float = 3.0) -> bool:
    """Whether a string looks drawn at random: long enough, bits of entropy a character, no example's words.

    Three bits are the limit of `detect-secrets` for hexadecimal strings; base64 is held to it too, with at least two
    of small letters, capitals and digits, because its limit of 4.5 bits is out of reach below 23 characters.
    """
    if len(value) < least or _EXAMPLE.search(value):
        return False
    counts = [value.count(char) for char in set(value)]
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
    kinds = sum((any(map(str.islower, value)), any(map(str.isupper, value)), any(map(str.isdigit, value))))
    return entropy >= bits and kinds >= 2
