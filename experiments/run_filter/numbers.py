"""Numbers and days as people type them: 90%, 1.2M, 3 ms, 2h; 2026-11-01, 2026-11, today, 7d."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import NamedTuple

from django.utils import timezone

THOUSANDS = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
PARTS = re.compile(r"([-+]?(?:\d[\d,_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z%×]*)", re.IGNORECASE)
SPAN = re.compile(r"(\d+(?:\.\d+)?)(min|h|d|w)", re.IGNORECASE)
EXAMPLES = {
    "share": "90%", "acc": "90%", "points": "0.5", "gain": "0.5", "ratio": "10", "count": "1M",
    "bytes": "2MB", "flops": "30M", "ms": "2", "seconds": "2h", "moment": "2026-11-01", "number": "10",
}  # fmt: skip


def number(text: str, kind: str) -> float | None:
    """In the unit the database has: shares of 1, bytes, milliseconds, seconds. None: it is no number."""
    found = PARTS.fullmatch(text.strip().replace("−", "-"))
    if not found:
        return None
    value, unit = float(re.sub("[,_]", "", found[1])), found[2].lower()
    if abs(value) == float("inf"):
        return None
    match kind:
        case "share" | "acc" if unit in ("", "%"):
            return value / 100 if unit or value > 1 else value
        case "points" | "gain" if unit in ("", "%"):
            return value / 100
        case "ratio" if unit in ("", "x", "×"):
            return value
        case "ms" if unit in ("", "ms", "s"):
            return value * 1000 if unit == "s" else value
        case "seconds":
            return value * SECONDS[unit] if unit in SECONDS else None
    if kind in EXAMPLES and kind not in ("number", "count", "bytes", "flops"):
        return None
    return _scaled(value, unit.removesuffix("flops") if kind == "flops" else unit, kind == "bytes")


def _scaled(value: float, unit: str, is_bytes: bool) -> float | None:
    if is_bytes:
        unit = "" if unit == "b" else unit.removesuffix("b")
    return value * THOUSANDS[unit] if unit in THOUSANDS else None if unit else value


class Days(NamedTuple):
    """A stretch of time; without an end it goes on until now."""

    begin: datetime
    end: datetime | None


def days(text: str) -> Days | None:
    """The day, month or year; `7d`: the last seven days. None: it is none of these."""
    now = timezone.localtime()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("today", "yesterday"):
        begin = today - timedelta(days=text == "yesterday")
        return Days(begin, begin + timedelta(days=1))
    if span := SPAN.fullmatch(text):
        try:
            return Days(now - timedelta(seconds=float(span[1]) * SECONDS[span[2].lower()]), None)
        except OverflowError:
            return None
    return _calendar(text)


def _calendar(text: str) -> Days | None:
    here = timezone.get_current_timezone()
    try:
        if re.fullmatch(r"\d{4}", text):
            begin, end = date(int(text), 1, 1), date(int(text) + 1, 1, 1)
        elif re.fullmatch(r"\d{4}-\d{1,2}", text):
            year, month = map(int, text.split("-"))
            begin, end = date(year, month, 1), date(year + month // 12, month % 12 + 1, 1)
        elif "t" in text.lower():
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=here)
            return Days(moment, moment + timedelta(minutes=1))
        else:
            begin = date.fromisoformat(text)
            end = begin + timedelta(days=1)
    except (ValueError, OverflowError):
        return None
    return Days(*(datetime(day.year, day.month, day.day, tzinfo=here) for day in (begin, end)))
