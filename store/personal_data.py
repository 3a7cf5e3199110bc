"""What personal data and secrets look like: a pattern proposes, a check decides. One rule per kind and form.

Every pattern takes time linear in the text: runs are bounded or possessive, and start only where a run starts. How far
a rule looks is written down with it (`behind`, `reach`), so that a place whose surroundings stay is tried once.
"""

import re
import unicodedata
from collections.abc import Callable
from ipaddress import AddressValueError, IPv6Address
from typing import Final, Literal, NamedTuple

DataKind = Literal["EMAIL", "PHONE", "CARD", "IBAN", "IP", "MAC", "SSN", "KEY"]


class Value(NamedTuple):
    """A value in the text, and the form its token is made from: two spellings of one card have one token."""

    start: int
    end: int
    canonical: str


Find = Callable[[re.Match[str]], Value | None]  # None: it only looked like one; reads nothing outside pos..endpos
Reach = Callable[[str, int, int], int]


class Rule(NamedTuple):
    """How one kind of value is found. No pattern reads past a token of ours: to them it is an end of the text."""

    kind: DataKind
    digits: int  # cheap; the pattern finds nothing in a text with fewer
    sign: re.Pattern[str]  # cheap; where it finds nothing, the pattern finds nothing
    pattern: re.Pattern[str]
    opening: re.Pattern[str]  # the same where nothing stands before it
    find: Find
    reach: Reach  # (text, low, high) -> the first start in [low, high) that may read up to `high`
    behind: int = 1  # how many characters before a start decide about it
    unless: re.Pattern[str] | None = None  # what in those characters, up to the value, says that it is none


TOKEN: Final = re.compile(r"<(?:EMAIL|PHONE|CARD|IBAN|IP|MAC|SSN|KEY):[0-9a-f]{10}>")
SHORTEST: Final = 5  # characters; "a@b.c" and "::123" are the shortest values


def _ahead(characters: int) -> Reach:
    """Of a pattern that reads at most so many characters from its start on, what must not follow included."""
    return lambda _, low, high: max(low, high - characters)


_ASCII_DIGITS: Final = bytes(set(range(256)) - set(b"0123456789"))


def _digits(text: str) -> str:
    if text.isascii():
        return text.encode().translate(None, _ASCII_DIGITS).decode()
    return "".join(str(unicodedata.decimal(char)) for char in text if char.isdecimal())


# Keys and tokens of well-known issuers, bearer tokens, JWTs, private keys.

_KEY_SIGN: Final = (
    r"sk-|k_live_|k_test_|whsec_|AKIA|ASIA|gh[pousr]_|github_pat_|gl[a-z]{2,5}-|xox|xapp-|AIza|ya29\.|GOCSPX-|hf_|npm_"
    r"|pypi-|do[opr]_v1_|SG\.|shp(?:at|ca|pa|ss)_|gsk_|xai-|eyJ|earer |asic |-----BEGIN "
)
_KEY_BEFORE: Final = r"(?<![A-Za-z0-9_-])"
_KEY: Final = r"""
        sk-[A-Za-z0-9_-]{16,}+
      | [sprw]k_(?:live|test)_[A-Za-z0-9]{10,}+
      | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])
      | gh[pousr]_[A-Za-z0-9]{20,}+
      | github_pat_[A-Za-z0-9_]{20,}+
      | gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|imt|oas)-[A-Za-z0-9_-]{20,}+
      | xox[a-z]-[A-Za-z0-9-]{10,}+
      | xapp-[A-Za-z0-9-]{10,}+
      | whsec_[A-Za-z0-9+/=]{20,}+
      | AIza[A-Za-z0-9_-]{35}
      | (?:ya29\.|GOCSPX-)[A-Za-z0-9_-]{20,}+
      | (?:hf|npm|gsk)_[A-Za-z0-9]{20,}+
      | (?:pypi|xai)-[A-Za-z0-9_-]{20,}+
      | do[opr]_v1_[0-9a-f]{40,}+
      | SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+
      | shp(?:at|ca|pa|ss)_[0-9A-Fa-f]{32}
      | eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+)?
      | [Bb]earer[ ][A-Za-z0-9._~+/=-]{15,}[A-Za-z0-9=]
      | [Aa]uthorization:[ ]?[Bb]asic[ ][A-Za-z0-9+/]{8,}+={0,2}
"""
_KEY_BLOCK: Final = r"""
      -----BEGIN[ ][A-Z ]{0,30}PRIVATE[ ]KEY-----[^<-]*+(?:-----END[ ][A-Z ]{0,30}PRIVATE[ ]KEY-----)?
"""
_SURE_KEY: Final = ("AKIA", "ASIA", "-----", "Authorization:", "authorization:")  # these forms cannot be words


def _key(match: re.Match[str]) -> Value | None:
    whole = match.group()
    if not whole.startswith(_SURE_KEY) and not any(char.isdecimal() for char in whole):
        return None  # "sk-learn-something-long"
    return Value(match.start(), match.end(), whole)


_LOGIN_BEFORE: Final = r"(?<![A-Za-z0-9+.-])"
_LOGIN: Final = (
    r"[A-Za-z][A-Za-z0-9+.-]{1,20}+://(?P<login>[^\s/?\#:<>\"']{0,64}+:[^\s/?\#<>\"']{1,100})@"  # RFC 3986, 3.2.1
)


def _login(match: re.Match[str]) -> Value | None:
    """A name and a password in an address, which are one secret: "postgres://app:hunter2@db"."""
    return Value(match.start("login"), match.end("login"), match["login"])


_EMAIL_BEFORE: Final = r"(?<![\w.%+'-])"
_EMAIL: Final = r"[\w.%+'-]++@[\w-]++(?:\.[\w-]++)++"


def _email(match: re.Match[str]) -> Value | None:
    address = match.group().lstrip(".%+'-")
    local, _, domain = address.partition("@")
    is_name = any(char.isalpha() for char in domain.rpartition(".")[2])
    if not local or not (is_name or _is_ipv4(domain)):
        return None  # "5@3.50"
    return Value(match.end() - len(address), match.end(), address.casefold())


def _email_start(text: str, low: int, high: int) -> int:
    """Where the address begins whose domain runs up to `high`; else where a domain could have begun."""
    start = high
    while start > low and (text[start - 1].isalnum() or text[start - 1] in "_.-"):
        start -= 1
    if start > low and text[start - 1] == "@":
        start -= 1
        while start > low and (text[start - 1].isalnum() or text[start - 1] in "_.%+'-"):
            start -= 1
    return start


_IBAN_BEFORE: Final = r"(?<![A-Za-z0-9])"
_IBAN: Final = r"[A-Za-z]{2}[0-9]{2}(?:[ ]?[A-Za-z0-9]){11,30}"
_IBAN_DIGITS: Final = 7  # at the least, here: some countries' rules would allow words
_IBAN_LENGTHS: Final = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def _iban(match: re.Match[str]) -> Value | None:
    """ISO 13616: the country's length, and the rearranged number is 1 modulo 97."""
    length = _IBAN_LENGTHS.get(match.group()[:2].upper())
    if length is None:
        return None
    places = [index for index, char in enumerate(match.group()) if char != " "]
    if len(places) < length:
        return None
    end = match.start() + places[length - 1] + 1
    iban = match.string[match.start() : end].replace(" ", "").upper()
    too_wordy = len(_digits(iban)) < _IBAN_DIGITS
    if too_wordy or (end < match.endpos and match.string[end].isalnum()):
        return None
    number = int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4]))
    return Value(match.start(), end, iban) if number % 97 == 1 else None


_IPV4_BEFORE: Final = r"(?<![\w.])"
_IPV4: Final = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.\w)"
_NUMBERED: Final = re.compile(
    r"(?i)(?:version|release|build|firmware|driver|update|section|chapter|clause|ver|v|§)[.:]?[ ]?$"
)  # at most 10 characters


def _is_ipv4(text: str) -> bool:
    octets = text.split(".")
    return (
        len(octets) == 4  # noqa: PLR2004
        and text.isascii()
        and all(each.isdecimal() and len(each) <= 3 and int(each) <= 255 for each in octets)  # noqa: PLR2004
    )


def _ipv4(match: re.Match[str]) -> Value | None:
    if not _is_ipv4(match.group()):
        return None
    return Value(match.start(), match.end(), ".".join(str(int(octet)) for octet in match.group().split(".")))


_IPV6_BEFORE: Final = r"(?:(?<![\w:.])|(?<=[G-Zg-z]:))"  # "ip:fe80::1", and not from the middle of a longer one
_IPV6: Final = r"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,45}+(?!\w)"
_SURE_HEXTETS: Final = 3  # groups, or digits in a group: "10::30" and "a::b" are no addresses


def _ipv6(match: re.Match[str]) -> Value | None:
    text = match.group().rstrip(".")
    if text.endswith(":") and not text.endswith("::"):
        text = text[:-1]
    try:
        address = IPv6Address(text)
    except AddressValueError:
        return None
    groups = [group for group in text.split(":") if group]
    sure = len(groups) >= _SURE_HEXTETS or any(len(group) >= _SURE_HEXTETS for group in groups)
    if not sure or not any(char.isdecimal() for char in text):
        return None
    return Value(match.start(), match.start() + len(text), address.compressed)


_MAC_BEFORE: Final = r"(?:(?<![\w:.-])|(?<=[G-Zg-z]:))"  # as of IPv6
_MAC: Final = r"""
      [0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}(?![\w]|[:-]\w)
    | (?=(?:[0-9]|-){0,16}[A-Fa-f])[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}(?![\w]|[:-]\w)   # digits alone may be a phone's
    | (?=(?:[0-9]|\.){0,13}[A-Fa-f])[0-9A-Fa-f]{4}(?:\.[0-9A-Fa-f]{4}){2}(?!\w|\.\w)
"""


def _mac(match: re.Match[str]) -> Value | None:
    return Value(match.start(), match.end(), re.sub(r"\W", "", match.group()).lower())


_DASH: Final = "\u2010\u2011\u2012\u2013-"
_CARD_BEFORE: Final = r"(?<![\w.,])"
_CARD: Final = rf"[2-6]\d{{3}}(?:[ .{_DASH}]?\d){{9,15}}(?!\d)"
_CARD_SHAPES: Final = {
    (4, 4, 4, 4), (4, 4, 4, 4, 1), (4, 4, 4, 4, 2), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (8, 8), (6, 13),
    (4, 3, 3, 3),
}  # fmt: skip
_CARD_DIGITS: Final = range(13, 20)
_GROUP: Final = re.compile(r"\d+")


def _card(match: re.Match[str]) -> Value | None:
    """A number in a card's shape with a right check digit (Luhn, ISO/IEC 7812-1), the longest that there is."""
    groups = list(_GROUP.finditer(match.group()))
    shape = tuple(group.end() - group.start() for group in groups)
    for last in range(len(groups), 0, -1):
        if sum(shape[:last]) not in _CARD_DIGITS or (last > 1 and shape[:last] not in _CARD_SHAPES):
            continue
        end = groups[last - 1].end()
        number = _digits(match.group()[:end])
        if _luhn(number):
            return Value(match.start(), match.start() + end, number)
    return None


def _luhn(number: str) -> bool:
    doubled = [int(digit) * 2 for digit in number[-2::-2]]
    return (sum(value - 9 * (value > 9) for value in doubled) + sum(map(int, number[::-2]))) % 10 == 0  # noqa: PLR2004


# American social security and taxpayer numbers: in dashes anywhere, in another form where the words before it say so.

_SSN_BEFORE: Final = rf"(?<![\w\#.,/+{_DASH}])"
_SSN: Final = rf"\d{{3}}(?P<dash>[{_DASH}])\d{{2}}(?P=dash)\d{{4}}(?![\w]|[.,:/{_DASH}]\w)"
_SSN_CALLED: Final = rf"""
    (?i:ssn|ssns|itin|social[ ]security|social[ ]sec|soc[ ]sec|tax[ ]?id|taxpayer[ ]id|taxpayer)\b
    (?:\W{{1,2}}(?i:no|nr|num|number|numbers|id|is|was|my|the|identification|last)\b){{0,4}}
    [:.\s="'#]{{0,4}}
    (?P<number>\d{{3}}[ .{_DASH}]?\d{{2}}[ .{_DASH}]?\d{{4}})(?![\w]|[.,:/{_DASH}]\w)
"""
_SSN_DIGITS: Final = 9
_NO_AREAS: Final = ("000", "666")  # nor 900 to 999, which are a taxpayer's
_NO_PARTS: Final = ("00", "0000")


def _ssn(match: re.Match[str]) -> Value | None:
    """Area, group and serial are each one that is given out (SSA, 2011)."""
    digits = _digits(match.group())
    is_person = digits[:3] not in _NO_AREAS and digits[3:5] != _NO_PARTS[0] and digits[5:] != _NO_PARTS[1]
    return Value(match.start(), match.end(), digits) if is_person and digits[0] != "9" else None


def _ssn_called(match: re.Match[str]) -> Value | None:
    return Value(match.start("number"), match.end("number"), _digits(match["number"]))


_PHONE_BEFORE: Final = rf"(?<![\w\#.,/+{_DASH}])"
_PHONE: Final = rf"""
    (?:
        \+[ ]?[1-9](?:[ ./{_DASH}]?(?:\(\d{{1,4}}\)[ ]?)?\d){{7,14}}                              # +44 (0)20 7946 0958
      | 00[1-9](?:[ ./{_DASH}]?\d){{8,13}}                                                        # 0049 30 1234567
      | (?:1[ .{_DASH}])?(?:\([2-9]\d\d\)[ ]?|[2-9]\d\d[ .{_DASH}])\d{{3}}[ .{_DASH}]\d{{4}}      # (555) 123-4567
      | (?:\(0[1-9]\d{{0,4}}\)|0[1-9]\d{{0,4}})(?:[ ./{_DASH}]\d{{2,8}}){{1,5}}                   # 020 7946 0958
      | 0[1-9]\d{{8,9}}                                                                           # 07700900123
    )(?!\w)(?![.,:/]\d)
"""
_CALLED_BEFORE: Final = r"(?<!\w)"
_CALLED: Final = r"""
    (?i:phone|telephone|tel|mobile|mob|cell|cellphone|landline|pager|hotline|call|text|sms|whatsapp|viber|telegram|fax
      |ring|dial|my[ ]number|contact[ ]number|reach[ ](?:me|us|him|her))\b
    (?:\W{1,2}(?i:me|us|him|her|no|nr|num|number|is|was|at|on|to|my|back)\b){0,4}
    [:.\s="']{0,4}
    (?P<number>\d(?:[ -]?\d){6,10})(?!\w)(?![.,:/]\d)
"""
_DATE: Final = re.compile(
    r"(?:0[1-9]|[12]\d|3[01])([./ -])(?:0[1-9]|[12]\d|3[01])\1(?:(?:19|20)\d\d|\d\d)(?!\d|\1\d)"
    r"|(?:19|20)\d\d([./ -])(?:0[1-9]|1[0-2])\2(?:0[1-9]|[12]\d|3[01])(?!\d)"
    r"|\d{5}-\d{4}$"  # and an American postcode
)
_PHONE_DIGITS: Final = range(7, 16)
_NATIONAL_DIGITS: Final = range(9, 13)


def _phone(match: re.Match[str]) -> Value | None:
    text, digits = match.group(), _digits(match.group())
    national = text.lstrip("(").startswith("0") and not digits.startswith("00")
    if len(digits) not in (_NATIONAL_DIGITS if national else _PHONE_DIGITS) or _DATE.match(text) is not None:
        return None
    if text.startswith("+") or digits.startswith("00"):
        digits = "+" + digits.removeprefix("00")
    return Value(match.start(), match.end(), digits)


def _called(match: re.Match[str]) -> Value | None:
    """A bare number is a phone's only where the words before it say so: it may as well be an order's."""
    if _DATE.match(match["number"]) is not None:
        return None
    return Value(match.start("number"), match.end("number"), _digits(match["number"]))


def _rule(
    kind: DataKind,
    digits: int,
    sign: str,
    before: str,
    value: str,
    find: Find,
    reach: Reach,
    *,
    anywhere: str | None = None,
    behind: int = 1,
    unless: re.Pattern[str] | None = None,
) -> Rule:
    """A rule from what must not stand before a value, the value, and a form that may follow anything."""
    also = "" if anywhere is None else f"|{anywhere}"
    pattern, opening = (re.compile(f"{start}(?:{value}){also}", re.VERBOSE) for start in (before, ""))
    return Rule(kind, digits, re.compile(sign), pattern, opening, find, reach, behind, unless)


# The reach of KEY: its longer forms, cut short, are no keys; of those that are bounded none is longer.
RULES: Final = (
    _rule("KEY", 0, _KEY_SIGN, _KEY_BEFORE, _KEY, _key, _ahead(64), anywhere=_KEY_BLOCK),
    _rule("KEY", 0, "://", _LOGIN_BEFORE, _LOGIN, _login, _ahead(190)),
    _rule("EMAIL", 0, "@", _EMAIL_BEFORE, _EMAIL, _email, _email_start),
    _rule("IBAN", _IBAN_DIGITS, "[0-9]{2}[ ]?[A-Za-z0-9]{4}", _IBAN_BEFORE, _IBAN, _iban, _ahead(66)),
    _rule("MAC", 0, r"[0-9A-Fa-f]{2}[:.-][0-9A-Fa-f]{2}", _MAC_BEFORE, _MAC, _mac, _ahead(19), behind=2),
    _rule("IP", 1, ":[0-9A-Fa-f]{0,4}:", _IPV6_BEFORE, _IPV6, _ipv6, _ahead(52), behind=2),
    _rule("IP", 4, r"[0-9]\.[0-9]{1,3}\.[0-9]", _IPV4_BEFORE, _IPV4, _ipv4, _ahead(18), behind=12, unless=_NUMBERED),
    _rule("CARD", _CARD_DIGITS.start, r"\d", _CARD_BEFORE, _CARD, _card, _ahead(36)),
    _rule("SSN", _SSN_DIGITS, r"\d", _SSN_BEFORE, _SSN, _ssn, _ahead(13)),
    _rule("SSN", _SSN_DIGITS, r"\d", _CALLED_BEFORE, _SSN_CALLED, _ssn_called, _ahead(100)),
    _rule("PHONE", _PHONE_DIGITS.start, r"\d", _PHONE_BEFORE, _PHONE, _phone, _ahead(132)),
    _rule("PHONE", _PHONE_DIGITS.start, r"\d", _CALLED_BEFORE, _CALLED, _called, _ahead(80)),
)


def count_digits(text: str) -> int:
    """How many decimal digits, of any script: most questions have too few for most rules."""
    if text.isascii():
        return len(text.encode().translate(None, _ASCII_DIGITS))
    return sum(map(str.isdecimal, text))


def may_hold(rule: Rule, text: str, digits: int) -> bool:
    """Whether the rule is worth trying on a text with so many digits."""
    return digits >= rule.digits and rule.sign.search(text) is not None
