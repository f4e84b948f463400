"""The one parser of timestamps: what Go, Java and .NET write, and what RFC 3339 does not allow."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerservice.domain.timestamps import parse_timestamp

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)

ACCEPTED = {
    "2026-11-01T12:00:00Z": NOON,
    "2026-11-01t12:00:00z": NOON,
    "2026-11-01T17:30:00+05:30": NOON,
    "2026-11-01T12:00:00-00:00": NOON,
    "2026-11-01T12:00:00.5Z": NOON + timedelta(milliseconds=500),
    "2026-11-01T12:00:00.123456789Z": NOON + timedelta(microseconds=123456),
    "2026-11-01T12:00:00.9999999Z": NOON + timedelta(microseconds=999999),
    "2026-11-01T17:30:00.1234567+05:30": NOON + timedelta(microseconds=123456),
    "2026-11-02T11:59:00+23:59": NOON,
}
REFUSED = {
    "2026-11-01T12:00:00": "no time zone",
    "2026-11-01T12:00:00+00:60": "minutes of its offset",
    "2026-11-01T12:00:00+24:00": "hours of its offset",
    "2026-11-01T24:00:00Z": "hour must be",
    "2026-11-01T12:60:00Z": "minute must be",
    "2026-12-31T23:59:60Z": "leap second",
    "2026-02-29T12:00:00Z": "day that exists",
    "0000-01-01T12:00:00Z": "day that exists",
    "0001-01-01T00:00:00+00:01": "years 0001 to 9999",
    "9999-12-31T23:59:59-00:01": "years 0001 to 9999",
    "2026-11-01 12:00:00Z": "such as",
    "2026-11-01 00:00": "such as",
    "2026-11-01T12:00:00.Z": "such as",
    "2026-11-01T12:00:00,5Z": "such as",
    "2026-11-01T12:00:00+0530": "such as",
    "2026-11-01T12:00Z": "such as",
    "2026-W44-7T12:00:00Z": "such as",
    "\u0662026-11-01T12:00:00Z": "such as",
    "2026-11-01T12:00:00Z\n": "such as",
    "": "such as",
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_it_is_accepted(text: str) -> None:
    parsed = parse_timestamp(text)
    assert parsed == ACCEPTED[text]
    assert parsed.tzinfo is UTC


@pytest.mark.parametrize("text", REFUSED)
def test_it_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[text]):
        parse_timestamp(text)


@pytest.mark.parametrize("value", [None, 1, 1.5, True, NOON, ["2026-11-01T12:00:00Z"]])
def test_only_a_text_is_a_timestamp(value: object) -> None:
    with pytest.raises(ValueError, match="timestamp"):
        parse_timestamp(value)


EARLY, LATE = (datetime(year, 1, 1) for year in (2, 9998))  # noqa: DTZ001  (zones are drawn)
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(EARLY, LATE, timezones=zones), st.integers(0, 9))
def test_what_python_writes_is_read(time: datetime, digits: int) -> None:
    written = time.isoformat(timespec="microseconds")
    longer = f"{written[:26]}{'7' * digits}{written[26:]}"
    assert parse_timestamp(longer) == time
    assert parse_timestamp(longer.lower()) == time
