"""Text from outside, made fit for where it goes: databases, terminals, pages, logs.

Names, error messages and printed lines come from a user's code, from file names and from
libraries. `storable` is applied where text enters the records, `printable`, `markdown` and `cell`
where it leaves them, and `redact` wherever a text may hold a login.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

MAX_NAME = 500
"""Characters of a metric's name at most."""

# Lone surrogates are what Python makes of bytes that it cannot decode; UTF-8 has no form for them.
# At a NUL, databases and command lines cut a text, or refuse it.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
# Control characters but for newline and tab, separators of lines, what turns the direction of text.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def storable(text: str) -> str:
    r"""Return a text that UTF-8 and every database can hold: what they cannot is spelled out.

    Example:
        >>> storable("caf\udce9")
        'caf\\udce9'
    """
    return _UNSTORABLE.sub(_spelled, text)


def unstorable(value: Any) -> list[str]:
    """Return the texts in a plain value that could be stored only in other words."""
    if isinstance(value, str):
        return [value] if _UNSTORABLE.search(value) else []
    if isinstance(value, Mapping):
        return [text for item in value.items() for text in unstorable(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in unstorable(item)]
    return []


def printable(text: str) -> str:
    r"""Return a text that a terminal shows as it is, and does not obey; lines and tabs stay.

    Example:
        >>> printable("\x1b[2J")
        '\\x1b[2J'
    """
    return _UNPRINTABLE.sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def markdown(text: str) -> str:
    r"""Return a text that Markdown shows as it is, on one line, also in a cell of a table.

    Example:
        >>> markdown("P(a|b)")
        'P(a\\|b)'
    """
    line = " ".join(printable(text).split("\n")).replace("\t", " ")
    return re.sub(r"[\\`*|<]|\](?=\()", r"\\\g<0>", line)


def cell(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula, and a terminal obeys not."""
    if text.startswith(_FORMULA) and not _is_number(text):
        text = f"'{text}"
    return printable(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def metric_names(names: Iterable[str]) -> dict[str, str]:
    """Return the names under which metrics are recorded, by those under which they are reported.

    Raises:
        ValueError: A name is too long, or two of them are recorded as one.
    """
    known: dict[str, str] = {}
    for name in names:
        if len(name) > MAX_NAME:
            raise ValueError(
                f"names of metrics must have at most {MAX_NAME} characters, but '{name[:50]}...' "
                f"has {len(name)}"
            )
        recorded = storable(name)
        if recorded in known.values():
            raise ValueError(
                f"names of metrics must differ as UTF-8 spells them, but two are '{recorded}'"
            )
        known[name] = recorded
    return known


# ---- logins ----

_SECRET = re.compile(
    "pass(word|wd|phrase)|pwd|secret|token$|credential|odbc_connect"
    "|(access|account|api|auth|private|shared)[-_]?key",
    re.IGNORECASE,
)
_SECRET_IN_QUERY = re.compile(f"{_SECRET.pattern}|pass|token|key|sig|auth", re.IGNORECASE)
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-%")
_SCHEME = _NAME - set("_%") | {"+"}
_LONGEST_NAME = 100
_CLOSING = {"'": "'", '"': '"', "{": "}"}
_ENCODED_URL = re.compile(r"%3a%2f%2f[^\s&]*", re.IGNORECASE)
_IN_QUERY, _IN_LIST, _IN_TEXT = re.compile(r"[\s&]"), re.compile(";"), re.compile(r"\s")
_HEADER = re.compile(r"(authorization\W{1,4}(?:basic|bearer) )\S+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return a text without the logins in it: ``***`` stands for them.

    These are what stands before the host of every URL, and the values that follow a name such as
    ``password=``. What cannot be told apart from a login is taken for one. The time it takes grows
    with the length of the text, and no faster.

    Example:
        >>> redact("postgresql://me:pa/ss@host/db?sslpassword=x is down")
        'postgresql://***@host/db?sslpassword=*** is down'
    """
    text = _HEADER.sub(r"\1***", _ENCODED_URL.sub(_redact_encoded, text))
    return "\n".join(_redact_values(_redact_urls(line)) for line in text.split("\n"))


def redact_command(words: Iterable[str]) -> list[str]:
    """Return the words of a command without logins; the one after ``--password`` is one too."""
    said: list[str] = []
    secret = False
    for word in words:
        said.append("***" if secret and not word.startswith("-") else redact(word))
        secret = word.startswith("-") and "=" not in word and bool(_SECRET.search(word))
    return said


def _redact_encoded(found: re.Match[str]) -> str:
    """Redact a URL that is itself part of another one."""
    return f"{found[0][:9]}***" if "@" in unquote(found[0]) else found[0]


def _redact_urls(line: str) -> str:
    out, done, urls = [], 0, list(_urls(line))
    nexts = [*(first for first, _, _ in urls[1:]), len(line)]
    for (first, start, end), following in zip(urls, nexts, strict=False):
        rest = line[start:end]
        length = _login_length(rest)
        stop = start + (length or 0)
        if length is None or re.fullmatch(r"[^/@]+:\d+", rest):
            at = line.rfind("@", end, following)  # a password may hold spaces
            stop = max(stop, at)
            # databricks://scope:prefix names where a login is kept.
            if length is None and at < 0 and line[first:start] != "databricks://":
                stop = end
        if stop > start:
            out += [line[done:start], "***"]
            done = stop
    return "".join([*out, line[done:]])


def _urls(line: str) -> Iterator[tuple[int, int, int]]:
    """Yield where each URL begins, where what follows its ``://`` does, and where that ends."""
    for word in re.finditer(r"\S+", line):
        starts: list[tuple[int, int]] = []  # of the scheme, and of what follows it
        mark = line.find("://", word.start(), word.end())
        while mark >= 0:
            least = starts[-1][1] if starts else word.start()
            first = _back(line, mark, least, _SCHEME)
            # Within a URL another one begins after a comma and the like: else it may be a password.
            if not starts or line[first - 1] in ",;|=&<>()[]{}'\"":
                starts.append((first, mark + 3))
            mark = line.find("://", mark + 3, word.end())
        ends = [*(first for first, _ in starts[1:]), word.end()]
        for (first, start), end in zip(starts, ends, strict=False):
            yield first, start, end


def _back(line: str, end: int, least: int, chars: frozenset[str]) -> int:
    """Return where the characters begin that stand before a place."""
    start = end
    while start > least and line[start - 1] in chars:
        start -= 1
    return start


def _login_length(rest: str) -> int | None:
    """Return how much of what follows ``://`` is a login; None if that cannot be told."""
    before_path, last_at = rest.partition("/")[0], rest.rfind("@")
    if ":" in before_path and last_at >= 0:
        # A password may hold what else ends a host's name; the pages of MLflow's server go on
        # with /#/ after its port.
        port, path = before_path.partition(":")[2], rest[len(before_path) :]
        return 0 if port.isdigit() and path.startswith("/#/") else last_at
    if "@" in before_path:
        return before_path.rfind("@")
    try:
        _ = urlsplit(f"x://{rest}".rstrip("'\"`)>],;:.")).port
    except ValueError:
        return None
    return 0


def _redact_values(line: str) -> str:
    out, done = [], 0
    for sign in re.finditer(r"""=|['"]:\s?""", line):
        if sign.start() < done:
            continue
        first = _back(line, sign.start(), max(done, sign.start() - _LONGEST_NAME), _NAME)
        before = line[first - 1 : first]
        name = unquote(line[first : sign.start()])
        if not (_SECRET_IN_QUERY if before in ("?", "&") else _SECRET).search(name):
            continue
        start, end = _value(line, sign.end(), before)
        if end > start:
            out += [line[done:start], "***"]
            done = end
    return "".join([*out, line[done:]])


def _value(line: str, start: int, before: str) -> tuple[int, int]:
    """Return from where to where a value goes, by what stands before its name."""
    if closing := _CLOSING.get(line[start : start + 1]):
        end = line.find(closing, start + 1)
        return start + 1, len(line) if end < 0 else end
    ends = {"?": _IN_QUERY, "&": _IN_QUERY, ";": _IN_LIST}.get(before, _IN_TEXT)
    found = ends.search(line, start)
    return start, len(line) if found is None else found.start()
