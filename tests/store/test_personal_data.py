"""Kinds of personal data by the contexts they stand in: each is seen, and each near miss is left alone."""

import re
import unicodedata
from collections.abc import Iterator

import pytest

from store.event import canonical_text
from store.redact import redact

KEY = b"k" * 32
CONTEXTS = (
    "{}",
    "it is {}",
    "{} is mine",
    "please see {} and help",
    "({})",
    "[{}]",
    '"{}"',
    "'{}'",
    '{{"value": "{}"}}',
    "value={}&next=1",
    "value: {}; next",
    "<b>{}</b>",
    "{}.",
    "{}, please",
    "{}!",
    "line one\n{}\nline three",
    "\u201c{}\u201d",
    "mine:\t{}",
    "its:{}",
    "<EMAIL:0123456789> {} <CARD:0123456789>",
)
DASHES = "-\u2010\u2011\u2012\u2013"


def luhn(first: str) -> str:
    """The number with its check digit, worked out digit by digit (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(first)):
        twice = int(digit) * (2 if place % 2 == 0 else 1)
        total += twice // 10 + twice % 10
    return first + str(-total % 10)


def cut(number: str, shape: tuple[int, ...], between: str) -> str:
    """The number in groups."""
    starts = [sum(shape[:index]) for index in range(len(shape))]
    return between.join(number[start : start + length] for start, length in zip(starts, shape, strict=True))


SHAPES = (
    (4, 4, 4, 4), (4, 4, 4, 4, 1), (4, 4, 4, 4, 2), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (8, 8), (6, 13), (4, 3, 3,
    3),
)  # fmt: skip


def cards() -> Iterator[str]:
    """Of every length and first digit in one run; of every shape with every separator."""
    for length in range(13, 20):
        for first in "23456":
            yield luhn((first + "0123987654321076543")[: length - 1])
    for shape in SHAPES:
        number = luhn(("4" + "917305826419738205")[: sum(shape) - 1])
        for between in (" ", ".", *DASHES, "\u00a0", "\u2009"):
            yield cut(number, shape, between)


def wrong_cards() -> Iterator[str]:
    """One digit off; of a first digit that no issuer has; too short; too long; in groups of no card."""
    right = luhn("491730582641973")
    for place in range(16):
        yield f"order {right[:place]}{(int(right[place]) + 1) % 10 if place else 5}{right[place + 1 :]}"
    yield from (luhn("7" + "30582641973820"), luhn("9" + "30582641973820"), luhn("8" + "305826419738"))
    yield luhn("49173058264")  # 12 digits
    yield luhn("4917305826419738205")  # 20 digits
    yield luhn("491730582641973820") + "7"  # which begin with 19 in order
    yield from (f"0.{right}", f"1,{right}", f"x{right}", f"{right}7", f"_{right}")
    for shape in ((2, 2, 4, 4, 4), (1, 15), (4, 4, 8)):
        number = luhn(("4" + "917305826419738205")[: sum(shape) - 1])
        yield cut(number, shape, " ")


_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24"
    " FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32"
    " LI21"
    " LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24"
    " RS22"
    " RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
)
IBAN_LENGTHS = {each[:2]: int(each[2:]) for each in _LENGTHS.split()}  # ISO 13616 registry


def iban(country: str, length: int, rest: str = "3704004405320130005718264905331") -> str:
    """A number of the country with right check digits (ISO 7064, 97-10)."""
    rest = rest[: length - 4]
    as_number = "".join(str(int(char, 36)) for char in f"{rest}{country}00")
    return f"{country}{98 - int(as_number) % 97:02d}{rest}"


def ibans() -> Iterator[str]:
    """Of every country, in one run and in fours."""
    for country, length in IBAN_LENGTHS.items():
        number = iban(country, length)
        yield number
        yield " ".join(number[start : start + 4] for start in range(0, length, 4))
    yield iban("MT", 31, "MALTABCDE12345ABCDEFGHIJKLM")  # the fewest digits that are no words


def wrong_ibans() -> Iterator[str]:
    """One too short or too long though the check digits are right; of no country; one digit off; within a word."""
    for country, length in IBAN_LENGTHS.items():
        yield f"ref {iban(country, length - 1)}"
        if iban(country, length + 1)[:length] != iban(country, length):
            yield f"ref {iban(country, length + 1)}"
    yield iban("MT", 31, "MALTABCDEF1234ABCDEFGHIJKLM")
    for country in ("XX", "US", "ZZ"):
        yield iban(country, 22)
    right = iban("DE", 22)
    yield from (right[:-1] + str((int(right[-1]) + 1) % 10), f"a{right}", f"{right}a")


TOKENS = {
    "AWS": "AKIAIOSFODNN7EXAMPLE ASIAIOSFODNN7EXAMPLE ASIAABCDEFGHIJKLMNOP",  # the latter two are temporary
    "GitHub": " ".join(f"gh{kind}_16C7e42F292c6912E771" for kind in "pousr") + " github_pat_11ABCDEFG0abcdefghij_Kl",
    "GitLab": " ".join(
        f"gl{kind}-abcdefghij1234567890"
        for kind in ["pat", "dt", "rt", "cbt", "ptt", "ft", "soat", "agent", "imt", "oas"]
    ),
    "Slack": " ".join(f"xox{kind}-123456789012-abcdef" for kind in "bpasre") + " xapp-1-A012BC345-678",
    "Stripe": " ".join(f"{kind}k_{mode}_4eC39HqLyjWDarjtT1" for kind in "spr" for mode in ("live", "test"))
    + " whsec_4eC39HqLyjWDarjtT1abcd",
    "Google": "AIzaSyA1234567890abcdefghijklmnopqrstuv ya29.a0AfH6SMBx12345678901234 GOCSPX-a1b2c3d4e5f6g7h8i9j0k1",
    "models": "sk-abcd1234abcd1234 sk-ant-api03-abc_DEF123456 sk-proj-abcd1234abcd1234 hf_abcdefghijKLMNOPqrst1"
    " gsk_abcdefghijKLMNOPqrst1 xai-abcdefghijKLMNOPqrst1",
    "registries": "npm_abcdefghijKLMNOPqrst1 pypi-AgEIcHlwaS5vcmcCJDEy",
    "hosts": "dop_v1_" + "0123456789abcdef" * 4 + " doo_v1_" + "0123456789abcdef" * 4 + " dor_v1_" + "f0" * 32,
    "mail and shops": "SG.abcdefghij012345KLMNOP.qrstuvwxyz012345ABCDEF "
    + " ".join(f"shp{kind}_{'0a1b2c3d' * 4}" for kind in ("at", "ca", "pa", "ss")),
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.dozjgNryP4J3jVmNHl0w5N eyJhbGciOiJub25lIn0.eyJzdWIiOiIxMjM0NSJ9.",
}
HEADERS = [
    "Bearer abcdef0123456789abcdef",
    "bearer abcdef0123456789abcdef",
    "Authorization: Basic dXNlcjpwYXNzd29yZA==",
    "authorization: basic YWxhZGRpbjpvcGVuc2VzYW1l",
    *(
        f"-----BEGIN {kind}PRIVATE KEY----- MIIEowIBAAKC -----END {kind}PRIVATE KEY-----"
        for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED ")
    ),
]
WRONG_TOKENS = [
    "AKIAIOSFODNN7EXAMPL", "ASIAIOSFODNN7EXAMPLE7", "asiaiosfodnn7example", "ghx_16C7e42F292c6912E771", "ghp_16C7e42F",
    "github_patience_is_a_virtue", "glpat-abc1", "glacial-abcdefghij1234567890", "gloat-abcdefghij1234567890",
    "xoxb-12345", "xapp-1-A01", "sk_live_4eC39", "sk_prod_4eC39HqLyjWDarjtT1", "whsec_4eC39", "AIzaSyA123456789",
    "ya29.short1", "hf_short1", "npm_install_everything_please", "gsk_short1", "pypi-package-name1", "dop_v2_0a1b2c3d",
    "dop_v1_" + "0a1b2c3d" * 3, "SG.1234", "SG.abcdefghij012345KLMNOP", "shpat_0a1b2c3d", "eyJhbGc1",
    "sk-learn-something-long-and-wordy", "task-1234567890123456", "sk-abcd1234abcd123", "disk-0123456789abcdefghij",
    "bearer responsibilities-of-the-office", "basic requirements2024andmore",
    "-----BEGIN PUBLIC KEY----- MIIBIjANBgkqh",
    "GOCSPX-1", "Basic dXNlcjpwYXNzd29yZA==",
    "d41d8cd98f00b204e9800998ecf8427e", "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "sha256:e3b0c44298fc1c149afbf4c8996fb924",
    "123e4567-e89b-42d3-a456-426614174000", "commit 4f2a9c1e77", "#a1b2c3", "0x7f3a90b1c2d3",
]  # fmt: skip
EMAILS = [
    "jane@example.com",
    "jane.doe@example.com",
    "jane+tag@example.co.uk",
    "o'brien@example.ie",
    "JANE_DOE@EXAMPLE.COM",
    "j%x@example.org",
    "1@example.com",
    "jane@sub-domain.example.museum",
    "jörg@müller.de",
    "root@10.0.0.1",
    "jane@192.168.17.4",
    "x-y@e.io",
]
WRONG_EMAILS = ["jane@example", "@example.com", "jane@", "5@3.50", "a @ b.com", "jane at example.com", "@home", "me@@x"]
IPS = [
    "8.8.8.8",
    "192.168.17.4",
    "10.0.0.255",
    "255.255.255.255",
    "010.001.002.003",
    "2001:db8::8a2e:370:7334",
    "fe80::1",
    "::ffff:10.1.2.3",
    "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
    "2001:DB8::1",
    "64:ff9b::192.0.2.33",
    "::1234",
]
WRONG_IPS = [
    *(
        f"{word} 10.2.3.4"
        for word in ("version", "Release", "build", "firmware", "driver", "update", "ver.", "VER", "v")
    ),
    *("section 4.3.2.1", "chapter 1.2.3.4", "clause 1.2.3.4", "\u00a7 1.2.3.4", "v10.2.3.4", "version: 10.2.3.4"),
    *(
        "256.1.1.1",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.4a",
        "a1.2.3.4",
        "1.2.3.1000",
        "10:30",
        "12:30:45",
        "a::b",
        "std::vector",
    ),
    *("dead::beef", "10::30", "1:2:3", "face::", "2001:db8", "ratio 16:9", "genesis 1:1-3"),
    *("1:2:3:4:5:6:7:8:9", "f1:2001:db8::1::2"),
]
PHONES = [
    "+44 20 7946 0958", "+ 44 20 7946 0958", "+44 (0)20 7946 0958", "+1 (555) 123-4567", "+1.555.123.4567",
    "+4917112345678",
    "+49/171/1234567", "+33 6 12 34 56 78", "+86 138 0013 8000", "+5511987654321", "+1234567890", "0049 30 1234567",
    "00442079460958", "(555) 123-4567", "555-123-4567", "555.123.4567", "555 123 4567", "1-800-555-0199",
    "1 (800) 555-0199",
    "020 7946 0958", "(020) 7946 0958", "07700900123", "07700 900123", "0171/1234567", "030 12345678", "06 12 34 56 78",
    "06.12.34.56.78", "06-12-34-56-78", *(f"555{dash}123{dash}4567" for dash in DASHES), "0301 234 567",
    *(f"+44{dash}20{dash}7946{dash}0958" for dash in DASHES), *(f"020{dash}7946{dash}0958" for dash in DASHES),
]  # fmt: skip
WRONG_PHONES = [
    "+1", "+100 points", "+1234567", "555-1234", "5551234567", "1234567", "order 4821390127", "order #5551234567",
    "0123 456", "0171 1234", "0171 1234567 8901", "00 1234", "012345678901", "100-200-3000", "155-123-4567",
    "555 123 456",
    "2024-01-15", "15/01/2024", "15.01.2024", "01.02.2024 10:30", "05/06/2024", "01-02-2024", "2024 01 15", "01 02 24",
    "12 34 56 78", "1 234 567,89", "1,234,567.89", "$5551234", "\u20ac 12.50", "02139-4307", "0.123456789", "1999-2004",
    "ISBN 0-306-40615-2", "9780306406157", "1Z999AA10123456784", "v0.12.34.56", "3.14159265", "10-12", "24/7", "7:30",
    "#07700900123", "x07700900123", "07700900123x", "0171 1234567.5",
]  # fmt: skip
CALLED = [
    "phone",
    "telephone",
    "tel",
    "mobile",
    "mob",
    "cell",
    "cellphone",
    "landline",
    "pager",
    "hotline",
    "call",
    "text",
    "sms",
    "whatsapp",
    "viber",
    "telegram",
    "fax",
    "ring",
    "dial",
]
SAID = [
    *(f"{word} {{}}" for word in CALLED),
    *(f"{word.upper()}: {{}}" for word in CALLED),
    *(f"call {who} on {{}}" for who in ("me", "us", "him", "her", "back")),
    *(f"my phone {word} {{}}" for word in ("no", "no.", "nr", "num", "number", "is", "was", "number is", "no is")),
    *(f"text me {word} {{}}" for word in ("at", "on", "to")),
    *("my number is {}", "my number: {}", "contact number {}", "Contact number is {}", "my number was {}"),
    *(f"reach {who} at {{}}" for who in ("me", "us", "him", "her")),
    *("phone={}", '{{"phone": "{}"}}', "phone:{}", "tel.{}", "call my mobile at {}", "fax number is: {}"),
]
NUMBERS = ["5551234", "555 1234", "555-1234", "5551234567", "55 51 23 45 67", "12345678901"]
NOT_CALLED = [
    "call about order 5551234", "text of 5551234 words", "smartphone 5551234", "recall 5551234", "ticket 5551234",
    "phone me in 123456 days", "call 555123", "call me on 2024-01-15", "call me on 15 01 2024", "fax of 2024-01-15",
    "text 123456789012", "call 5551234x", "call 5551234.50", "dial-in at 10:30", "reach 5551234 people",
    "my order number 5551234", "account number is 5551234", "number 5551234", "call me at 5551234:30",
]  # fmt: skip

MACS = [
    "00:1A:2B:3C:4D:5E", "00:1a:2b:3c:4d:5e", "00-1A-2B-3C-4D-5E", "de:ad:be:ef:00:01", "aabb.ccdd.eeff",
    "0011.2233.445f", "10:20:30:40:50:55", "FF-FF-FF-FF-FF-FF",
]  # fmt: skip
WRONG_MACS = [
    "00:1A:2B:3C:4D", "00:1A:2B:3C:4D:5E:6F", "00-1A-2B-3C-4D", "00:1A:2B:3C:4D:5G", "x00:1A:2B:3C:4D:5E",
    "00:1A-2B:3C-4D:5E", "aabb.ccdd", "aabb.ccdd.eeff.0011", "face.book", "12:30:45:10",
    "2024-aa-bb-cc-dd-ee", "0a:1A:2B:3C:4D:5E5",
]  # fmt: skip
SSNS = ["123-45-6789", "001-01-0001", "899-99-9999", *(f"219{dash}09{dash}9998" for dash in DASHES)]
WRONG_SSNS = [
    "000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "123 45 6789", "123456789",
    "12-345-6789",
    "1234-56-7890", "123-45-67890", "123-45-6789-1", "A123-45-6789", "123-45-6789a", "#123-45-6789",
    "123-45\u20116789", "CAS 7732-18-5", "ISBN 978-3-16-148410-0",
]  # fmt: skip
SSN_SAID = [
    *(
        f"{word} {{}}"
        for word in ("ssn", "SSN:", "itin", "social security", "Social Security number", "tax id", "taxid")
    ),
    *("my social security number is {}", "SSN is {}", "my SSN: {}", "ssn={}", "social security no. {}", "soc sec # {}"),
]
NOT_SSN_SAID = [
    "ssn 12345678", "ssn 1234567890", "ssn of order 123456789", "social security office 123456789", "lesson 123456789",
    "tax 123456789", "ssn 123456789x", "social 123456789",
]  # fmt: skip
LOGINS = [
    ("https://{}@example.com/path", "jane:hunter2"),
    ("redis://{}@localhost:6379/0", ":s3cret"),
    ("postgres://{}@db/x", "app:p@ss!w0rd"),
    ("see ftp://{}@10x.example now", "a:b"),
    ("git clone https://{}@github.com/a/b.git", "user:word"),
    ("proxy=http://{}@proxy:3128", "m%40e:p%2Fw"),
    ("amqps://{}@[x]:5671", "guest:guest"),
    ("(https://{}@h)", "jane:x:y"),
]
WRONG_LOGINS = [
    "https://example.com/@jane", "http://localhost:8080/a@b", "https://jane@example", "https://example.com:443/",
    "user:password", "https://medium.com/@a:b", "at 10:30 @ home", "://a:b@c", "http://a:b c@d", "note: x@y",
]  # fmt: skip

SEEN = [
    *(("MAC", value) for value in MACS),
    *(("SSN", value) for value in SSNS),
    *(("CARD", value) for value in cards()),
    *(("IBAN", value) for value in ibans()),
    *(("KEY", value) for values in TOKENS.values() for value in values.split()),
    *(("KEY", value) for value in HEADERS),
    *(("EMAIL", value) for value in EMAILS),
    *(("IP", value) for value in IPS),
    *(("PHONE", value) for value in PHONES),
]
LEFT_ALONE = [
    *wrong_cards(), *wrong_ibans(), *WRONG_TOKENS, *WRONG_EMAILS, *WRONG_IPS, *WRONG_PHONES, *NOT_CALLED,
    *WRONG_MACS, *WRONG_SSNS, *NOT_SSN_SAID, *WRONG_LOGINS,
]  # fmt: skip


@pytest.mark.parametrize("context", CONTEXTS)
def test_each_kind_is_seen_in_each_context(context: str) -> None:
    missed = []
    for kind, value in SEEN:
        expected = unicodedata.normalize("NFC", context.format(f"<{kind}>"))
        found = re.sub(rf"<{kind}:[0-9a-f]{{10}}>", f"<{kind}>", redact(context.format(value), KEY))
        found, expected = (re.sub(r"<(EMAIL|CARD):0123456789>", r"<\1>", text) for text in (found, expected))
        if found != expected:
            missed.append((kind, value, found))
    assert not missed


@pytest.mark.parametrize("context", CONTEXTS)
def test_each_near_miss_is_left_alone_in_each_context(context: str) -> None:
    harmed = [
        (text, found)
        for text in LEFT_ALONE
        if (found := redact(context.format(text), KEY)) != unicodedata.normalize("NFC", context.format(text))
    ]
    assert not harmed


@pytest.mark.parametrize("said", SAID)
def test_a_bare_number_is_a_phones_in_a_context_of_words_that_say_so(said: str) -> None:
    for number in NUMBERS:
        found = re.sub(r"<PHONE:[0-9a-f]{10}>", "<PHONE>", redact(said.format(number), KEY))
        assert found == canonical_text(said.format("<PHONE>")), number


@pytest.mark.parametrize("said", SSN_SAID)
@pytest.mark.parametrize("number", ["123 45 6789", "123456789", "123.45.6789", "912-34-5678", "123-45-6789"])
def test_a_social_security_number_is_one_in_any_form_where_the_words_before_it_say_so(said: str, number: str) -> None:
    found = re.sub(r"<SSN:[0-9a-f]{10}>", "<SSN>", redact(said.format(number), KEY))
    assert found == canonical_text(said.format("<SSN>"))


@pytest.mark.parametrize(("address", "login"), LOGINS)
def test_a_password_in_an_address_goes_with_its_user_and_the_host_stays(address: str, login: str) -> None:
    found = re.sub(r"<KEY:[0-9a-f]{10}>", "<KEY>", redact(address.format(login), KEY))
    assert found == canonical_text(address.format("<KEY>"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("00:1A:2B:3C:4D:5E", "001a.2b3c.4d5e"),
        ("123-45-6789", "123\u201345\u20136789"),
        ("8.8.8.8", "008.8.08.8"),
        ("2001:db8:0:0:0:0:0:1", "2001:DB8::1"),
        ("4111 1111 1111 1111", "4111111111111111"),
        ("DE89 3704 0044 0532 0130 00", "de89370400440532013000"),
        ("+44 20 7946 0958", "0044-20-7946-0958"),
        ("Jane@Example.com", "jane@example.COM"),
    ],
)
def test_two_spellings_of_one_value_have_one_token_and_another_lanes_key_another(one: str, other: str) -> None:
    found = redact(one, KEY)
    assert found == redact(other, KEY) != canonical_text(one)
    assert found != redact(one, b"l" * 32)
