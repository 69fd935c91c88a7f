"""Header values, read back by parsers of other projects."""

from datetime import UTC, datetime, timedelta, timezone
from email.message import EmailMessage, Message
from email.policy import HTTP
from email.utils import collapse_rfc2231_value, parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulpcore.content_star.responses.headers import (
    SECURITY_HEADERS,
    content_disposition,
    http_date,
    parse_http_date,
)


def plain_and_extended(value: str) -> tuple[str | None, str | None]:
    """Return the two forms of the name, each read alone by the standard library."""
    plain, _, extended = value.partition("; filename*=")
    message = Message()
    message["Content-Disposition"] = plain
    first = message.get_param("filename", header="Content-Disposition")
    if not extended:
        return first, None
    message = Message()
    message["Content-Disposition"] = f"attachment; filename*={extended}"
    second = message.get_param("filename", header="Content-Disposition")
    return first, collapse_rfc2231_value(second)


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("foo-1.0-1.noarch.rpm", 'attachment; filename="foo-1.0-1.noarch.rpm"'),
        ("Packages/f/foo.rpm", 'attachment; filename="foo.rpm"'),
        ("a b;c=d,e.txt", 'attachment; filename="a b;c=d,e.txt"'),
        ("../../etc/passwd", 'attachment; filename="passwd"'),
        ("", "attachment"),
        ("folder/", "attachment"),
        ("..", "attachment"),
        # RFC 6266, section 5.
        (
            "\u20ac rates",
            "attachment; filename=\"_ rates\"; filename*=UTF-8''%E2%82%AC%20rates",
        ),
        (
            'say "hi".txt',
            "attachment; filename=\"say _hi_.txt\"; filename*=UTF-8''say%20%22hi%22.txt",
        ),
        ("..\\..\\boot.ini", 'attachment; filename=".._.._boot.ini"'),
        ("100%41.txt", "attachment; filename=\"100%41.txt\"; filename*=UTF-8''100%2541.txt"),
        ("a\r\nSet-Cookie: x", 'attachment; filename="a__Set-Cookie: x"'),
        ("nul\0tab\tdel\x7f", 'attachment; filename="nul_tab_del_"'),
        ("half\ud800", 'attachment; filename="half_"'),
        ("gpj\u202eexe", 'attachment; filename="gpj_exe"'),
    ],
)
def test_content_disposition_by_filename(filename: str, expected: str):
    assert content_disposition(filename, "attachment") == expected


def test_content_disposition_inline():
    assert content_disposition("a.txt", "inline") == 'inline; filename="a.txt"'


@given(st.text())
def test_content_disposition_of_any_name_is_one_header(filename: str):
    value = content_disposition(filename, "attachment")
    assert value.isascii()
    assert value.isprintable()
    plain, extended = plain_and_extended(value)
    for name in (plain, extended):
        if name is not None:
            assert not set(name) & set("/\\\r\n\0")
            assert name not in ("", ".", "..")


@given(st.text().filter(str.isprintable).filter(lambda name: not set(name) & set("/\\")))
def test_content_disposition_round_trips_plain_names(filename: str):
    if filename in ("", ".", ".."):
        return
    plain, extended = plain_and_extended(content_disposition(filename, "attachment"))
    assert (plain if extended is None else extended) == filename
    assert plain is not None
    assert len(plain) == len(filename)


def test_content_disposition_is_read_by_another_parser():
    message = EmailMessage(policy=HTTP)
    message["Content-Disposition"] = content_disposition(
        "na\u00efve \u65e5\u672c.whl", "attachment"
    )
    assert message.get_content_disposition() == "attachment"
    assert message["Content-Disposition"].params["filename"] in (
        "na_ve __.whl",
        "na\u00efve \u65e5\u672c.whl",
    )


def directives() -> dict[str, list[str]]:
    policy = SECURITY_HEADERS["content-security-policy"]
    return {words[0]: words[1:] for words in map(str.split, policy.split(";"))}


def test_security_headers():
    assert SECURITY_HEADERS["x-content-type-options"] == "nosniff"
    assert all(name == name.lower() for name in SECURITY_HEADERS)
    policy = directives()
    assert policy["default-src"] == ["'none'"]
    assert not set(policy["sandbox"]) & {"allow-scripts", "allow-same-origin", "allow-forms"}
    # Chrome refuses every download that starts in a sandbox without it.
    assert "allow-downloads" in policy["sandbox"]
    assert not {"script-src", "connect-src", "frame-src", "object-src", "worker-src"} & set(policy)
    assert "'self'" in policy["img-src"]
    assert "'self'" in policy["style-src"]


def test_http_date_is_imf_fixdate():
    # The example of 5.6.7.
    moment = datetime(1994, 11, 6, 8, 49, 37, 999_999, tzinfo=UTC)
    assert http_date(moment) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert http_date(moment.astimezone(timezone(timedelta(hours=5, minutes=30)))) == (
        "Sun, 06 Nov 1994 08:49:37 GMT"
    )


moments = st.datetimes(datetime(1900, 1, 1), datetime(9999, 12, 30), timezones=st.just(UTC))


@given(moments)
def test_http_date_round_trips(moment: datetime):
    whole = moment.replace(microsecond=0)
    assert parsedate_to_datetime(http_date(moment)) == whole
    assert parse_http_date(http_date(moment)) == whole


@given(moments.filter(lambda moment: 1970 < moment.year < 2070))
def test_http_date_in_obsolete_formats_is_parsed(moment: datetime):
    whole = moment.replace(microsecond=0)
    assert (
        parse_http_date(
            whole.strftime("%a %b ") + f"{whole.day:2} " + whole.strftime("%H:%M:%S %Y")
        )
        == whole
    )
    century = parse_http_date(whole.strftime("%A, %d-%b-%y %H:%M:%S GMT"))
    assert century is not None
    assert century.replace(year=whole.year) == whole
    assert (century.year - whole.year) % 100 == 0
    assert century.year <= datetime.now(UTC).year + 50


@pytest.mark.parametrize(
    "value",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 UT",
        "Sun, 06 Nov 1994 08:49:37 Z",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 -0000",
        "Sun, 06 Nov 1994 09:49:37 +0100",
        "Sun, 06 Nov 1994 03:49:37 EST",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37",
        "sun, 06 nov 1994 08:49:37 gmt",
        "06 Nov 1994 08:49:37 GMT",
        "Sun, 06-Nov-1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 UTC",
        "Sun Nov  6 08:49:37 1994",
        "Sun Nov 06 08:49:37 1994",
        # Internet Explorer and old proxies.
        "Sun, 06 Nov 1994 08:49:37 GMT; length=5",
    ],
)
def test_http_date_forms_and_zones_that_clients_send(value: str):
    assert parse_http_date(value) == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "now",
        "1994-11-06T08:49:37Z",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, \u0660\u0666 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 +9999",
        "Sun, 06 Nov " + "9" * 50 + " 08:49:37 GMT",
        "Fri, 31 Dec 9999 23:59:59 -0100",
        "Sun, 06 Nov 1994 08:49:37 GMT" + " " * 100_000 + "x",
        "0",
        "-1",
    ],
)
def test_http_date_that_is_invalid_is_none(value: str):
    assert parse_http_date(value) is None


def test_http_date_with_a_leap_second_is_parsed():
    leap = parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT")
    assert leap == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)


@given(st.text())
def test_http_date_of_any_text_raises_nothing(value: str):
    assert parse_http_date(value) is None
