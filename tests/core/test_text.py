"""Text from outside, in databases, terminals, pages and logs."""

import json
import os
import sqlite3
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypertune.core.text import (
    MAX_NAME,
    cell,
    markdown,
    metric_names,
    printable,
    redact,
    redact_command,
    storable,
    unstorable,
)

ANY = st.text(alphabet=st.characters())  # lone surrogates among them


@given(ANY)
def test_whatever_is_made_storable_goes_through_sqlite_and_json(text: str) -> None:
    stored = storable(text)

    assert storable(stored) == stored
    assert not unstorable(stored)
    db = sqlite3.connect(":memory:")
    assert db.execute("SELECT ?, length(?)", (stored, stored)).fetchone() == (stored, len(stored))
    db.close()
    assert json.loads(json.dumps(stored, ensure_ascii=False).encode()) == stored


def test_what_can_be_stored_stays_as_it_is() -> None:
    text = "line\n\ttab \x1b[31m \u202e \U0001f600 na\u00efve \\udce9"

    assert storable(text) == text
    assert storable(f"a\x00{os.fsdecode(b'caf' + bytes([0xE9]))}") == "a\\x00caf\\udce9"


def test_texts_that_cannot_be_stored_are_found_at_any_depth() -> None:
    value = {"a": ["ok", {"b\x00": 1}], "c": ("\udce9",), "d": 2.0}

    assert unstorable(value) == ["b\x00", "\udce9"]


@given(ANY)
def test_no_control_character_is_printed(text: str) -> None:
    shown = printable(text)

    assert printable(shown) == shown
    shown.encode()
    assert all(ch in "\n\t" or (ch >= " " and not 0x7F <= ord(ch) < 0xA0) for ch in shown)
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069") & set(shown)


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    assert printable("a\x1b]8;;http://x\x07\r\x9b2J\u202eb\n\tc") == (
        "a\\x1b]8;;http://x\\x07\\r\\x9b2J\\u202eb\n\tc"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("P(a|b)", "P(a\\|b)"),
        ("a\\|b", "a\\\\\\|b"),
        ("<img src=x>", "\\<img src=x>"),
        ("`*x*`", "\\`\\*x\\*\\`"),
        ("[x](javascript:y)", "[x\\](javascript:y)"),
        ("two\nlines\t", "two lines "),
        ("[.8, .9] val_acc_1", "[.8, .9] val_acc_1"),
        ("\x1b", "\\\\x1b"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, shown: str) -> None:
    assert markdown(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("+relu", "'+relu"),
        ("-1.5e-3", "-1.5e-3"),
        ("gru", "gru"),
        ("\x1b[2J", "\\x1b[2J"),
    ],
)
def test_a_cell_is_no_formula(text: str, shown: str) -> None:
    assert cell(text) == shown


def test_names_of_metrics_are_recorded_as_utf8() -> None:
    assert metric_names(["loss", "caf\udce9"]) == {"loss": "loss", "caf\udce9": "caf\\udce9"}


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["\udce9", "\\udce9"], "must differ as UTF-8 spells them"),
        (["x" * (MAX_NAME + 1)], f"at most {MAX_NAME} characters"),
    ],
)
def test_names_of_metrics_that_cannot_be_told_apart_are_refused(
    names: list[str], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        metric_names(names)


# ---- logins ----


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("http://user:pass@host:5000/x", "http://***@host:5000/x"),
        ("to postgresql://u:p%40@db/mlflow failed", "to postgresql://***@db/mlflow failed"),
        ("postgresql://u:p/w@db/mlflow", "postgresql://***@db/mlflow"),
        ("'postgresql://u:p w?@db'", "'postgresql://***@db'"),
        ("http://host:5000/#/x?to=me@work", "http://host:5000/#/x?to=me@work"),
        ("https://host/?password=abc&x=1", "https://host/?password=***&x=1"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("postgresql://u:12/34@db/m", "postgresql://***@db/m"),
        ("postgresql://u:12#34@db/m", "postgresql://***@db/m"),
        ("postgresql://u:12?34@db/m", "postgresql://***@db/m"),
        ("postgresql://u:12 34@db/m", "postgresql://***@db/m"),
        ("postgresql://u:o'h\"a@db/m", "postgresql://***@db/m"),
        ("postgresql://u:p@ss@db/m", "postgresql://***@db/m"),
        ("postgresql://u:a://b@db/m", "postgresql://***@db/m"),
        ("postgresql://u:p@[::1]:5432/m", "postgresql://***@[::1]:5432/m"),
        ("postgresql://u:cut-short", "postgresql://***"),
        ("http://token@host/x", "http://***@host/x"),
        ("mysql://h/db?user=u&passwd=a'b", "mysql://h/db?user=u&passwd=***"),
        ("mssql://h/db?pwd=x", "mssql://h/db?pwd=***"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dx%3B", "mssql+pyodbc:///?odbc_connect=***"),
        ("https://h/?pass%77ord=x", "https://h/?pass%77ord=***"),
        ("x?to=postgresql%3A%2F%2Fu%3Ap%40h&y=1", "x?to=postgresql%3A%2F%2F***&y=1"),
        ("s3://b/p?access_key=a&secret_key=b", "s3://b/p?access_key=***&secret_key=***"),
        (
            "http://a:b@c,http://d:e@f and http://g:h@i",
            "http://***@c,http://***@f and http://***@i",
        ),
        ("Server=h;Uid=u;Pwd=a b;x=1", "Server=h;Uid=u;Pwd=***;x=1"),
        ("host=h password='a b' user=u", "host=h password='***' user=u"),
        ("{'password': 'a b', 'x': 1}", "{'password': '***', 'x': 1}"),
        ("Authorization: Bearer abc", "Authorization: Bearer ***"),
        ("AWS_SECRET_ACCESS_KEY=abc", "AWS_SECRET_ACCESS_KEY=***"),
        ("first\npostgresql://u:p@h\nlast", "first\npostgresql://***@h\nlast"),
    ],
)
def test_logins_are_redacted(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    assert redact(redacted) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "Cannot reach http://host:5000: refused",
        "http://host:5000/api failed (mail me@work)",
        "http://[::1]:5000/x",
        "databricks://scope:prefix",
        "sqlite:///a:b@c.db",
        "--set n_tokens=5 --set key=3",
        "KeyError: 'password'",
        "https://host/#/experiments/1/runs?a=b",
    ],
)
def test_what_is_no_login_stays(text: str) -> None:
    assert redact(text) == text


@given(
    st.sampled_from(["postgresql", "http", "mysql+pymysql"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/")).map(
        lambda text: f"7{text}7"
    ),
    st.sampled_from(["", "see ", "--tracking-uri=", "('", '{"uri": "']),
)
def test_no_password_of_a_url_survives(scheme: str, password: str, before: str) -> None:
    text = redact(f"{before}{scheme}://someone:{password}@db.host:5432/x")

    assert text == f"{before}{scheme}://***@db.host:5432/x"


def test_the_words_of_a_command_are_redacted_one_by_one() -> None:
    words = ["run.py", "--password", "x y", "--tracking-uri", "http://u:1 2@h", "--token", "--ok"]

    assert redact_command(words) == [
        *("run.py", "--password", "***", "--tracking-uri", "http://***@h", "--token", "--ok")
    ]


@pytest.mark.timeout(60)  # a second each; anything steeper than linear would take hours
@pytest.mark.parametrize(
    "hostile",
    [
        lambda n: "a" * n,
        lambda n: "a://" * n,
        lambda n: "://" + "a:" * n,
        lambda n: "http://a:b " * n,
        lambda n: "a=http://" * n,
        lambda n: "=" * n,
        lambda n: "password=" * n,
        lambda n: "password='" * n,
        lambda n: "pass" * n + "=",
        lambda n: "%3a%2f%2f" * n,
        lambda n: "authorization" * n,
        lambda n: "authorization: " + " " * n,
        lambda n: "@:/" * n,
        lambda n: "http://1" + ":1" * n,
        lambda n: "\"'=" * n,
    ],
)
def test_long_hostile_text_takes_no_more_than_linear_time(hostile: Callable[[int], str]) -> None:
    redact(hostile(200_000))
