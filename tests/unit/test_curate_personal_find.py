"""What counts as personal data: each kind valid, with a wrong check digit, and as part of something else."""

from typing import Any

import pytest

from luthier.curate.personal import find
from luthier.curate.personal_checks import base58check, bech32, luhn, mod11_2, mod11_10, mod97, verhoeff
from luthier.curate.personal_span import Span, fold_text, mask, settle


def found(text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in find(text)]


def one(kind: str, value: str, text: str) -> Any:
    return pytest.param(kind, value, text.format(value), id=f"{kind}: {value}")


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        one("CARD", "4539578763621486", "My card {} is lost"),
        one("CARD", "4539 5787 6362 1486", "pay with {}, please"),
        one("CARD", "5425-2334-3010-9903", "{} is the one"),
        one("CARD", "3782 946341 20037", "Amex: {}"),
        one("CARD", "6759649826438461", "Maestro card {}"),
        one("IBAN", "DE44500105175407324931", "Bitte an {} überweisen"),
        one("IBAN", "GB94 BARC 1020 1530 0934 59", "wire to {} to pay"),
        one("IBAN", "gb94barc10201530093459", "iban {}"),
        one("BTC", "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "send to {} now"),
        one("BTC", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", "send to {} now"),
        one("EMAIL", "maria.schmidt+bank@post.firma.de", "Write to {}."),
        one("EMAIL", "J_Smith99@gmail.com", "<{}>"),
        one("EMAIL", "tanaka@firma.co.jp", "メールは{}です"),
        one("EMAIL", "jürgen@müller.de", "an {}!"),
        one("IP", "81.169.145.30", "client ip {} was blocked"),
        one("IP", "81.169.145.30", "[{}] GET /index.html"),
        one("IP", "2a02:8109:9a40:1f2c::17", "from {} at noon"),
        one("MAC", "3c:22:fb:9a:01:7e", "device {} joined"),
        one("PHONE", "+49 (0)89 636-48018", "Tel. {}"),
        one("PHONE", "+14155552671", "{}"),
        one("PHONE", "(415) 867-5309", "It's {}, ok?"),
        one("PHONE", "415-867-5309", "it is {}."),
        one("PHONE", "020 7183 8750", "London {}"),
        one("PHONE", "06 81 42 97 53", "mon numéro {}"),
        one("PHONE", "0151 24681357", "Ruf an: {}"),
        one("PHONE", "450 0840", "Call me on {} tonight"),
        one("PHONE", "579-888-3058 ext. 36", "phone {}"),
        one("ID_US_SSN", "512-48-7736", "{}"),
        one("ID_US_SSN", "512487736", "my social security number is {}"),
        one("ID_UK_NINO", "CE 38 41 07 B", "National Insurance {}"),
        one("ID_UK_NHS", "943 476 5919", "NHS number {}"),
        one("ID_DE_STEUER", "86 095 742 719", "Steuer-ID: {}"),
        one("ID_FR_NIR", "2 55 08 14 168 025 38", "{}"),
        one("ID_ES_DNI", "54362315K", "DNI {}"),
        one("ID_ES_DNI", "X2482300W", "mi NIE es {}"),
        one("ID_IT_CF", "VRDGPP13R10B293P", "{}"),
        one("ID_NL_BSN", "111222333", "BSN {}"),
        one("ID_BE_RRN", "85.07.30-033.28", "{}"),
        one("ID_CH_AHV", "756.9217.0769.85", "{}"),
        one("ID_PL_PESEL", "44051401359", "PESEL: {}"),
        one("ID_SE_PNR", "880320-0016", "{}"),
        one("ID_FI_HETU", "240578-4217", "{}"),
        one("ID_NO_FNR", "15108695088", "fødselsnummer {}"),
        one("ID_DK_CPR", "211062-5629", "CPR {}"),
        one("ID_PT_NIF", "501964843", "NIF {}"),
        one("ID_BR_CPF", "390.533.447-05", "{}"),
        one("ID_MX_CURP", "BOXW310820HNERXN09", "{}"),
        one("ID_IN_AADHAAR", "2341 2341 2346", "Aadhaar {}"),
        one("ID_IN_PAN", "ACUPA7085R", "my PAN is {}"),
        one("ID_CN_RESIDENT", "11010519491231002X", "{}"),
        one("ID_KR_RRN", "971013-9019902", "RRN {}"),
        one("ID_CA_SIN", "130 692 544", "my SIN is {}"),
        one("ID_AU_TFN", "459 599 230", "TFN {}"),
        one("ID_AU_MEDICARE", "2428 77813 2", "Medicare card {}"),
        one("ID_TR_KIMLIK", "17291716060", "kimlik no {}"),
        one("ID_ZA_ID", "7503305044089", "ID number {}"),
        one("ID_PASSPORT", "C01X00T47", "Passport number: {}"),
        one("ID_DRIVER", "2270-66-1551", "my driver's license number is {}"),
    ],
)
def test_valid(kind: str, value: str, text: str) -> None:
    assert (kind, value) in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "My card 4539578763621487 is lost",  # Luhn
        "My card 9539578763621489 is lost",  # nobody issues 9
        "https://shop.org/items/45395787636214860001",  # longer than any card
        "IBAN DE45500105175407324931",  # mod 97
        "IBAN DE4450010517540732493",  # too short for Germany
        "IBAN ZZ44500105175407324931",  # no such country
        "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN3 bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdr",  # checksums
        "1.300.81.2 and 256.1.1.1 and 10.0.0.7 and 192.168.4.20 and 127.0.0.1 and ip 203.0.113.7",
        "version 81.169.145.30",
        "see section 3.2.1.4",
        "route 81.169.0.0/16",
        "2001:db8::8a2e:370:7334 fd12:3456:789a:1:2:3:4:5678 fe80::1 ::1 std::cout a::b 12:34:56",
        "00:11:22:33:44:55 ff:ff:ff:ff:ff:ff 01-02-03-04-05-06",
        "+49 12 and +999 123 456 789 and +1 023 456 7890",
        "call 123-456-7890 or 415-555-0132 or (555) 555-5555 or 555-123-4567",
        "phone 2021-05-06, tel 1990 - 1994",
        "social security 000-12-3456 666-12-3456 912-12-3456 512-00-7736 512-48-0000 123-45-6789",
        "National Insurance GB384107B",
        "NHS number 943 476 5918",
        "Steuer-ID: 86 095 742 718",
        "2 55 08 14 168 025 39",
        "DNI 54362315A, NIE X2482300A",
        "VRDGPP13R10B293Q",
        "BSN 111222334",
        "85.07.30-033.29",
        "756.9217.0769.84",
        "PESEL: 44051401358",
        "880320-0018",
        "240578-4218",
        "fødselsnummer 15108695089",
        "CPR 311362-5629",  # no 13th month
        "NIF 501964842",
        "231.002.999-00",
        "BOXW310820HNERXN08",
        "Aadhaar 2341 2341 2347",
        "110105194912310021",
        "971013-9019903",
        "my SIN is 130 692 545",
        "TFN 459 599 231",
        "Medicare card 2428 77823 2",
        "kimlik no 17291716061",
        "ID number 7503305044088",
    ],
)
def test_a_wrong_check_or_an_impossible_number_stays(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "943 476 5919",
        "86095742719",
        "54362315K",
        "111222333",
        "44051401359",
        "2341 2341 2346",
        "sin(130692544)",
        "459599230",
        "17291716060",
        "4539578763621486.5",
        "x = 0x4539578763621486",
        "π = 3.14159265358979323846264338327950288419716939937510",
    ],
)
def test_a_weak_check_needs_a_word(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Natalia sold 48/2 = <<48/2=24>>24 clips in May. 48+24 = <<48+24=72>>72\n#### 72",
        "So 12,345,678 * 1,000 - 4539 = 12345673461 and 1000000007 is prime; 2^31-1 = 2147483647",
        "The years 1939-1945, 1990 – 1994 and 2021-12-24 10:30:00; $ 1 234 567 890 12",
        "values = [10, 9876543210, 1618250391, 4539578763621487]  # 9007199254740993",
        "@app.route('/x')\ndef f(a, b): return a@b.T + A@B.to(device) + x @ w.sum()",
        "import x from 'pkg@1.2.3'; icon@2x.png; git clone git@github.com:a/b.git",
        "user@localhost john.doe@gmail.com you@yourdomain.com a@example.com b@sub.example.org c@foo.test",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
        "01 02 03 04 05 06 07",
        "ISBN 978-3-16-148410-0, EAN 4006381333931, DOI 10.1000/182, RFC 2822",
        "sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709 uuid 123e4567-e89b-12d3-a456-426614174000",
        "stripe test cards: 4242424242424242, 4111 1111 1111 1111, 378282246310005",
        "IBAN such as DE89370400440532013000",
    ],
)
def test_maths_code_and_documentation_stay(text: str) -> None:
    assert found(text) == []


def test_digits_spaces_and_hyphens_of_unicode() -> None:
    assert found("card ４５３９５７８７６３６２１４８６") == [("CARD", "４５３９５７８７６３６２１４８６")]
    assert found("card ٤٥٣٩٥٧٨٧٦٣٦٢١٤٨٦") == [("CARD", "٤٥٣٩٥٧٨٧٦٣٦٢١٤٨٦")]
    assert found("SSN 512‑48‑7736") == [("ID_US_SSN", "512‑48‑7736")]
    assert found("DE44\u00a05001\u00a00517\u00a05407\u00a03249\u00a031 ok") == [
        ("IBAN", "DE44\u00a05001\u00a00517\u00a05407\u00a03249\u00a031")
    ]
    assert found("我的卡号4539578763621486。") == [("CARD", "4539578763621486")]
    text = "naïve — “x”\u2009１２３ ＠ ٣"
    assert len(fold_text(text)) == len(text) and fold_text(text).endswith("123 @ 3")


def test_a_written_line_break_is_not_part_of_an_address() -> None:
    assert found(r'"anna@web.de\nberta@web.de"') == [("EMAIL", "anna@web.de"), ("EMAIL", "berta@web.de")]


def test_an_address_after_a_url_is_one_and_the_host_of_a_url_is_none() -> None:
    assert found("see https://firma.de/\nanna@web.de") == [("EMAIL", "anna@web.de")]
    assert found("https://firma.de/?to=anna@web.de") == [("EMAIL", "anna@web.de")]
    assert found("ssh://anna@web.de/x") == []


def test_what_is_proven_wins_over_what_is_plausible() -> None:
    assert found("phone or card? 4539 5787 6362 1486") == [("CARD", "4539 5787 6362 1486")]
    spans = [Span(0, 9, "A", ""), Span(8, 12, "B", ""), Span(12, 14, "A", ""), Span(2, 4, "A", "")]
    assert settle(spans, {"A": 1, "B": 0}) == [Span(2, 4, "A", ""), Span(8, 12, "B", ""), Span(12, 14, "A", "")]


def test_proof_names_the_reason_and_not_the_value() -> None:
    (span,) = find("My card 4539578763621486")
    assert span.proof == "Luhn, Visa range, near “card”"
    assert mask("4539578763621486") == "45…86" and mask("abc") == "…" and mask("abcdefg") == "a…g"


def test_check_digits_catch_every_single_error() -> None:
    for check, good in [
        (luhn, "4539578763621486"), (verhoeff, "234123412346"), (mod11_10, "86095742719"),
        (mod11_2, "110105194912310021"[:17] + "X"), (mod97, "DE44500105175407324931"),
    ]:  # fmt: skip
        assert check(good)
        for index, char in enumerate(good):
            if char.isdigit():
                wrong = good[:index] + str((int(char) + 1) % 10) + good[index + 1 :]
                assert not check(wrong), (check.__name__, wrong)
    assert base58check("1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2") and not base58check("z" * 35)
    assert bech32("bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq")


@pytest.mark.parametrize(
    "unit",
    [
        "@", "a@", "a.", "x@a.b", "eyJ", "eyJaaaaaaaaaaaaaaaa.", "1 ", "1-", "(1", "+1 ", "1.", "ab:", "token=", "sk-",
        "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----example", "://a:", "DE12 ", "xoxb-1-", "//", "dl 1a",
        "https://hooks.slack.com/services/T", "PuTTY-User-Key-File-2: a\n", "4111 ", "joe.smith@web.de ", "１", "[A_",
    ],
)  # fmt: skip
def test_long_rows_of_anything_end(unit: str) -> None:
    # 100,000 characters: a search that is quadratic in them takes minutes, a linear one less than a second.
    find(unit * (100_000 // len(unit)))
