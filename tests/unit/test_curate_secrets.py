"""Keys and passwords: formats, random strings after keywords, and the look-alikes of examples."""

import base64
import json
import sys

import pytest

from luthier.curate.personal import find
from luthier.curate.secrets import looks_random

# Written in pieces, so that nobody's scanner takes this file for a leak.
A = "q7Xk2Lm9Vb4Rz8Wc1Tn6Hd3Jf5Gs0PyAeUiOoQwErTyZxCvBnMk"
HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def jwt() -> str:
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": "u-81", "iat": 1516239022}]
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join((*coded, A[:43]))


def pem(kind: str = "RSA ") -> str:
    dashes = "-" * 5
    body = "\n".join(f"MIIE{A[index:]}{HEX[:20]}"[:64] for index in range(6))
    return f"{dashes}BEGIN {kind}PRIVATE KEY{dashes}\n{body}\n{dashes}END {kind}PRIVATE KEY{dashes}"


KEYS = {
    "aws": "AK" + "IA" + "Q7XK2LM9VB4RZ8WC",
    "github": "gh" + "p_" + A[:36],
    "github fine-grained": "github" + "_pat_" + A[:22] + "_" + A[5:45],
    "gitlab": "gl" + "pat-" + A[:20],
    "slack": "xo" + "xb-" + "263594206564-2343594206574-" + A[:24].lower(),
    "stripe": "sk_" + "live_" + A[:32],
    "openai": "sk-" + A[:20] + "T3Blbk" + "FJ" + A[10:30],
    "openai project": "sk-" + "proj-" + A,
    "anthropic": "sk-" + "ant-" + "api03-" + A,
    "google": "AI" + "za" + A[:35],
    "hugging face": "h" + "f_" + A[:34],
    "npm": "np" + "m_" + A[:36],
    "pypi": "pypi-" + "AgEIcHlwaS5vcmc" + A + A[::-1],
    "sendgrid": "S" + "G." + A[:22] + "." + A[:43],
    "twilio": "S" + "K" + HEX[:32],
    "mailchimp": HEX[:32] + "-us" + "12",
    "telegram": "1104" + "56789:" + A[:35],
    "slack webhook": "https://hooks.slack.com/" + "services/T024BE7LD/B024BE7LE/" + A[:24],
    "jwt": jwt(),
    "pem": pem(),
    "openssh": pem("OPENSSH "),
}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("text", ["{}", 'client = Client("{}")\n', "Here it is: {} .", "export K={}"])
def test_formats(name: str, text: str) -> None:
    written = text.format(KEYS[name])
    assert [(span.kind, written[span.start : span.end]) for span in find(written)] == [("KEY", KEYS[name])]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f'api_key = "{A[:24]}"', A[:24]),
        (f"API-Key: {HEX[:32]}", HEX[:32]),
        (f"My access token is {A[:40]}.", A[:40]),
        (f"Authorization: Bearer {A[:40]}", A[:40]),
        (f"{{'client_secret': '{A[:30]}'}}", A[:30]),
        ("postgres" + f"://anna:{A[:14]}@db.firma.de:5432/x", A[:14]),
        ("aws_secret_access_key = '" + (A + A)[:40] + "'", (A + A)[:40]),
    ],
)
def test_after_a_keyword_or_in_a_url(text: str, secret: str) -> None:
    assert [(span.kind, text[span.start : span.end]) for span in find(text)] == [("KEY", secret)]


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",  # AWS's own example
        "password = 'hunter2'; password: correcthorsebatterystaple",
        "api_key = 'your-api-key-goes-here-1234567'",
        "token = os.environ['SERVICE_TOKEN_FOR_PRODUCTION_1']",
        "secret: xxxxxxxxxxxxxxxxxxxxxxxx99",
        "password = generate_random_password(length=24)",
        "tokens = tokenizer.encode(text2)[:max_length_of_sequence]",
        f"hash = {HEX}",  # no keyword
        "sk-learn-is-a-library-for-machine-learning-in-python",
        "eyJhbGciOiJIUzI1NiJ9.notjsonatall.signature",
        "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
        "A file that starts with -----BEGIN PRIVATE KEY----- is a key.",
        "https://user:password@localhost/ and https://user:${PASSWORD}@host.org/",
        "pneumonoultramicroscopicsilicovolcanoconiosis is a keyword in this secret dictionary",
        "public key: ssh-rsa AAAAB3NzaC1yc2E",
        "SKILLS" + "abcdefghijklmnopqrstuvwxyz123456",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert find(text) == []


def test_no_half_of_a_key_stays() -> None:
    text = f"a {KEYS['github']}Zz09 b"
    assert [text[span.start : span.end] for span in find(text)] == [KEYS["github"] + "Zz09"]
    cut = KEYS["pem"][:300]
    assert [cut[span.start : span.end] for span in find(cut)] == [cut]
    escaped = KEYS["pem"].replace("\n", "\\n")
    assert [escaped[span.start : span.end] for span in find(f'{{"key": "{escaped}"}}'[9:-2])] == [escaped]


def test_two_keys_of_which_one_is_cut() -> None:
    text = KEYS["pem"][:250] + "\n\n" + KEYS["pem"]
    assert [text[span.start : span.end] for span in find(text)] == [KEYS["pem"][:250], KEYS["pem"]]


def test_looks_random() -> None:
    assert looks_random(A) and looks_random(HEX)
    assert not looks_random("aaaaaaaaaaaaaaaa1") and not looks_random(A[:15]) and not looks_random("exam" + "ple" + A)


def test_ordinary_text_never_imports_the_plugins() -> None:
    kept = {name: module for name, module in sys.modules.items() if not name.startswith("detect_secrets")}
    assert "luthier.curate.secrets" in kept
    import subprocess

    code = "import sys, luthier.curate.personal as p; p.find('call me'); print('detect_secrets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
