"""E-mail addresses and addresses of machines.

Addresses that documentation uses belong to nobody and stay: example.com and its kin (RFC 2606), the documentation
ranges of IP (RFC 5737, RFC 3849) and MAC (RFC 7042), private networks, and the names that examples give their people.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from luthier.curate.personal_checks import repeats_or_counts
from luthier.curate.personal_span import Span, listed, word_near, words_pattern

_LETTER: Final = "A-Za-zÀ-ÖØ-öø-ɏ"  # not every \w: Chinese and Japanese put no space before an address
_LOCAL: Final = re.compile(rf"[{_LETTER}0-9._%+-]")
_DOMAIN: Final = re.compile(
    rf"(?:[{_LETTER}0-9](?:[{_LETTER}0-9-]{{0,61}}[{_LETTER}0-9])?\.){{1,6}}(?:xn--[a-z0-9-]{{2,59}}|[{_LETTER}]{{2,24}})"
    rf"(?![{_LETTER}0-9_@]|-[{_LETTER}0-9])"
)
# Top-level domains with more than two letters that addresses of people end in; two letters are a country.
_TOP: Final = listed(
    "com org net edu gov mil int info biz name pro mobi tel asia cat jobs coop aero museum travel post arpa xyz online "
    "site website tech store shop club email cloud app dev page blog agency live life world today group company media "
    "studio design digital solutions services systems software academy school university center care health clinic "
    "finance bank capital fund legal law consulting management marketing global international network space team "
    "works work news press art music photo photography fun games vip top win icu link click one ltd gmbh inc llc eco "
    "bio green energy earth house city town berlin hamburg koeln bayern wien paris bzh london scot wales amsterdam "
    "nyc tokyo moscow africa swiss frl gal eus madrid barcelona"
)
_FILES: Final = listed("py js ts")  # two letters, but after "icon@2x." a file
_NOBODY_DOMAINS: Final = re.compile(
    r"(?:^|\.)(?:example\d*|exemple|ejemplo|beispiel|test|invalid|localhost|local|lan|internal)(?:$|\.)"
    r"|^(?:\w+\.)?(?:domain|yourdomain|your-domain|mydomain|somedomain|otherdomain|company|yourcompany|mycompany|"
    r"sample|website|yourwebsite|mywebsite|mysite|yoursite|foo|bar|foobar|acme|abc|xyz|host|server|provider)\d*\.\w+$"
)
_NOBODY: Final = listed(
    "you your me user username name yourname your.name your_name youremail your.email your_email email mail myemail "
    "example test testing sample recipient sender receiver from to someone somebody anyone foo bar baz abc xyz git "
    "noreply no-reply donotreply do-not-reply john.doe johndoe john_doe jane.doe janedoe jane_doe jdoe j.doe "
    "alice bob carol dave eve mallory john jane"
)


_IN_URL: Final = re.compile(r"://[^\s\"'<>(),;?]*\Z")


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses in a folded text (RFC 5321, without quoted local parts and address literals)."""
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        if domain:
            start = _local_start(text, at)
            local = text[start:at]
            if local and _is_mailbox(text, start, local, domain[0].lower(), domain.end()):
                yield Span(start, domain.end(), "EMAIL", f"address at .{domain[0].rsplit('.', 1)[1].lower()}")
        at = text.find("@", at + 1)


def _local_start(text: str, at: int) -> int:
    """Where the part before the @ begins; at most 64 characters, so that a text full of @ costs no more."""
    start = at
    while start > max(0, at - 64) and _LOCAL.match(text[start - 1]):
        start -= 1
    while start < at and text[start] in ".-_%+":
        start += 1
    # In "a@x.org\\nb@y.org" as code writes it, the n belongs to the backslash.
    escaped = start and text[start - 1] == "\\" and text[start] in "ntr"
    return start + 1 if escaped else start


def _is_mailbox(text: str, start: int, local: str, domain: str, end: int) -> bool:
    """Whether a local part and a domain look like somebody's address, and not like code, a URL or an example."""
    top = domain.rsplit(".", 1)[1]
    if not (top in _TOP or top.startswith("xn--") or (len(top) == 2 and top.isascii() and top not in _FILES)):
        return False
    if ".." in local or local.endswith(".") or text[end : end + 1] in ("(", "["):  # A@B.to(device) is a product
        return False
    if _IN_URL.search(text, max(0, start - 80), start):  # user:password@host; the password is the business of secrets
        return False
    return local.lower() not in _NOBODY and not _NOBODY_DOMAINS.search(domain)


_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d|/\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:{1,2}){2,7}[0-9A-Fa-f]{1,4}(?![\w:]|\.\d|/\d)", re.ASCII)
_IP_WORDS = words_pattern((
    r"ips?", r"ip[ _-]?v?[46]?", r"address(?:es)?", r"addr", r"hosts?", r"server", r"client", r"ping", r"ssh",
    r"subnet", r"gateway", r"router", r"dns", r"login", r"logged in", r"https?", r"firewall", r"blocked", r"adresse",
    r"dirección", r"adresse ip", r"client[_-]?ip", r"remote[_-]?addr",
))  # fmt: skip
_VERSION_WORDS = words_pattern((r"v", r"ver", r"version", r"release", r"build", r"section", r"chapter", r"§"))
# Public resolvers, and what people make up.
_PUBLIC: Final = listed("8.8.8.8 8.8.4.4 1.1.1.1 1.0.0.1 9.9.9.9 208.67.222.222 208.67.220.220 1.2.3.4 4.3.2.1")
_DOCUMENTATION: Final = ipaddress.ip_network("2001:db8::/32")


def ips(text: str) -> Iterator[Span]:
    """Public IPv4 and IPv6 addresses: those that reach a machine somewhere, and so perhaps a person."""
    if text.count(".") > 2:
        for match in _IPV4.finditer(text):
            if _is_public_v4(match[0]) and not word_near(_VERSION_WORDS, text, match.start(), match.end(), before=12):
                near = word_near(_IP_WORDS, text, match.start(), match.end())
                if near or max(int(part) for part in match[0].split(".")) >= 64:  # else as likely a version or section
                    yield Span(match.start(), match.end(), "IP", "public IPv4" + (f", near “{near}”" if near else ""))
    if text.count(":") > 3:
        for match in _IPV6.finditer(text):
            if _is_public_v6(match[0]):
                yield Span(match.start(), match.end(), "IP", "public IPv6")


def _is_public_v4(address: str) -> bool:
    parts = address.split(".")
    if address in _PUBLIC or repeats_or_counts("".join(parts)):
        return False
    if any((len(part) > 1 and part[0] == "0") or int(part) > 255 for part in parts):
        return False
    value = ipaddress.IPv4Address(address)
    return value.is_global and not value.is_multicast


def _is_public_v6(address: str) -> bool:
    """Whether it can be an address in use; one that is shortened must begin as those that are handed out (2000::/3)."""
    try:
        value = ipaddress.IPv6Address(address)
    except ValueError:
        return False
    if value in _DOCUMENTATION or not value.is_global or value.is_multicast:
        return False
    if "::" in address:
        return address[0] in "23" and address.find(":") == 4 and address.count(":") > 2
    return len(address) >= 15


_MAC = re.compile(r"(?<![\w:-])[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}(?![\w]|[:-]\w)", re.ASCII)
_MADE_UP: Final = ("001122334455", "AABBCCDDEEFF", "0123456789AB", "123456789ABC", "DEADBEEF")


def macs(text: str) -> Iterator[Span]:
    """MAC addresses (EUI-48) of single devices; six pairs of digits with hyphens only are left to dates."""
    for match in _MAC.finditer(text):
        digits = match[0].replace(match[1], "").upper()
        group = int(digits[:2], 16) & 1
        if group or len(set(digits)) < 4 or digits.startswith((*_MADE_UP, "00005E0053")):
            continue
        if match[1] == ":" or not digits.isdigit():
            yield Span(match.start(), match.end(), "MAC", "EUI-48 of a single device")
