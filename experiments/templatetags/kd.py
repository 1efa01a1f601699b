"""How kdweb writes numbers, times and states. `{% load kd %}`.

Filters turn a value into text: three or four significant digits, a no-break space before the unit, a true
minus sign, and an en dash where there is no value. Tags draw the reusable parts (status, icon, form field).
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from django import template
from django.conf import settings
from django.contrib.humanize.templatetags.humanize import ordinal
from django.forms import BoundField, CheckboxInput
from django.template.context import Context
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import get_language, gettext_lazy, ngettext, pgettext, to_locale
from django.utils.translation import gettext as _

from experiments.markdown import render as render_markdown
from experiments.states import STATUS_LIKE as STATUS_LIKE
from experiments.states import STATUSES as STATUSES
from kdweb.version import version

register = template.Library()

NOTHING = "–"
NBSP = "\u00a0"
MINUS = "\u2212"
SERIES_COLOURS = 20


# Numbers


def as_float(value: object) -> float | None:
    """The value as a number; None for what is no number at all (None, "", a word)."""
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def significant(value: float, digits: int) -> str:
    """3 digits of 0.0123456 are 0.0123; a whole number is never cut short (123456 stays)."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == 0:
        return "0"
    # Of the rounded number: 999.6 at three digits is 1000, a digit longer than it looks.
    size = int(f"{value:.{digits - 1}e}".split("e")[1])
    if size < -4 or size >= 7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{value:.{max(0, digits - 1 - size)}f}"
    return text.replace("-", MINUS)


def scaled(value: object, units: tuple[str, ...], digits: int = 3, base: float = 1000.0) -> str:
    """The number with the largest unit that keeps it above one: 1234567 -> 1.23 M."""
    number = as_float(value)
    if number is None:
        return NOTHING
    if not math.isfinite(number):
        return significant(number, digits)
    step = 0
    while step < len(units) - 1 and abs(float(f"{number:.{digits}g}")) >= base:
        number, step = number / base, step + 1
    text = f"{number:.0f}" if step == 0 and number == int(number) else significant(number, digits)
    return f"{text}{NBSP}{units[step]}".rstrip(NBSP)


@register.filter
def sig(value: object, digits: int = 4) -> str:
    """A number at four (or `digits`) significant digits; whole numbers in full, thousands apart."""
    number = as_float(value)
    if number is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f").replace("-", MINUS)
    return significant(number, digits)


@register.filter
def count(value: object) -> str:
    """Parameters, samples, steps: 1.23 M."""
    return scaled(value, ("", "k", "M", "B", "T"))


@register.filter
def filesize(value: object) -> str:
    """Bytes in decimal units, as disks and the literature count: 1.23 MB."""
    return scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"))


@register.filter
def flops(value: object) -> str:
    """Floating-point operations of one forward pass: 82.4 MFLOPs."""
    return scaled(value, ("FLOPs", "kFLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "PFLOPs"))


@register.filter
def pct(value: object, places: int = 2) -> str:
    """A fraction as percentage, places fixed so that columns align: 0.9341 -> 93.41 %."""
    number = as_float(value)
    if number is None:
        return NOTHING
    if not math.isfinite(number):
        return significant(number, 3)
    return f"{100 * number:.{places}f}{NBSP}%".replace("-", MINUS)


@register.filter
def points(value: object, places: int = 2) -> str:
    """A difference of two fractions in percentage points, always signed: 0.0083 -> +0.83."""
    number = as_float(value)
    if number is None or not math.isfinite(number):
        return NOTHING
    text = f"{100 * number:+.{places}f}"
    zero = float(text) == 0
    return f"±{text[1:]}" if zero else text.replace("-", MINUS)


@register.filter
def ratio(value: object) -> str:
    """How many times smaller or faster: 4.21 -> 4.21×."""
    number = as_float(value)
    return NOTHING if number is None else f"{significant(number, 3)}×"


@register.filter
def milliseconds(value: object) -> str:
    """A latency given in milliseconds: 0.84 ms, 12.3 ms, 1.20 s."""
    number = as_float(value)
    if number is None:
        return NOTHING
    return f"{significant(number, 3)}{NBSP}ms" if number < 1000 else f"{significant(number / 1000, 3)}{NBSP}s"


@register.filter
def duration(value: object) -> str:
    """Seconds in the two largest units: 820 ms, 45.2 s, 3 min 05 s, 1 h 12 min, 2 d 4 h."""
    number = as_float(value.total_seconds() if hasattr(value, "total_seconds") else value)
    if number is None or not math.isfinite(number):
        return NOTHING
    if number < 1:
        return f"{number * 1000:.0f}{NBSP}ms"
    if number < 59.95:
        return f"{significant(number, 3)}{NBSP}s"
    seconds = round(number)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 60:
        return f"{minutes}{NBSP}min{NBSP}{seconds % 60:02d}{NBSP}s"
    if hours < 24:
        return f"{hours}{NBSP}h{NBSP}{minutes % 60:02d}{NBSP}min"
    return f"{days}{NBSP}d{NBSP}{hours % 24}{NBSP}h"


def relative(moment: datetime, now: datetime) -> str:
    seconds = (now - moment).total_seconds()
    if abs(seconds) < 45:
        return _("just now")
    amount = abs(seconds)
    if amount < 3570:
        n = max(1, round(amount / 60))
        text = _("%(n)s min") % {"n": n}
    elif amount < 84600:
        n = max(1, round(amount / 3600))
        text = _("%(n)s h") % {"n": n}
    elif amount < 86400 * 30:
        n = max(1, round(amount / 86400))
        text = ngettext("%(n)s day", "%(n)s days", n) % {"n": n}
    else:
        return timezone.localtime(moment).strftime("%Y-%m-%d")
    template_text = pgettext("time", "%s ago") if seconds > 0 else pgettext("time", "in %s")
    return template_text % text.replace(" ", NBSP)


@register.filter
def ago(moment: datetime | None) -> SafeString | str:
    """3 min ago, with the exact time on hover and for machines; shell.js keeps it current."""
    if moment is None:
        return NOTHING
    aware = moment if timezone.is_aware(moment) else moment.replace(tzinfo=UTC)
    exact = timezone.localtime(aware).strftime("%Y-%m-%d %H:%M:%S %Z")
    said = escape(relative(aware, timezone.now()))
    return mark_safe(f'<time datetime="{aware.isoformat()}" title="{exact}">{said}</time>')  # noqa: S308 - ours


@register.filter
def series_class(index: int) -> str:
    """The colour class of the n-th series, counted from 0; beyond twenty the colours repeat."""
    return f"series-{int(index) % SERIES_COLOURS + 1}"


register.filter("ordinal", ordinal)  # a place in a row: 1st, 12th


@register.filter
def spoken(text: object) -> str:
    """What is kept in English (what workers publish, a stored sentence) in the reader's language."""
    english = str(text or "")
    if not english or (said := _(english)) != english:
        return said if english else ""
    numbers = re.findall(r"\d+", english)
    pattern = english.replace(numbers[0], "%(n)s") if len(numbers) == 1 else ""
    if pattern and (said := _(pattern)) != pattern:  # Attempt 2 begins.
        return said % {"n": numbers[0]}
    head, colon, rest = english.partition(": ")  # Failed: its reason
    return f"{_(head)}{colon}{spoken(rest)}" if head and rest else english


@register.filter
def run_state(run: Any) -> str:
    """A run's state as shown: what somebody has asked of it comes before what it still does."""
    asked = {"pause": "pausing", "stop": "stopping"}.get(run.asked, "")
    return asked if asked and run.state in run.ACTIVE else str(run.state)


@register.filter
def markdown(text: str) -> SafeString:
    """People's Markdown, sanitised."""
    return render_markdown(text)


# Reusable parts


@cache
def _words_version(language: str) -> str:
    """Changes with the catalogue: a browser keeps what it has read under an address."""
    file = Path(settings.LOCALE_PATHS[0]) / to_locale(language) / "LC_MESSAGES" / "djangojs.mo"
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.exists() else version()


@register.simple_tag
def script_words() -> str:
    """The address of what scripts say in the page's language."""
    language = get_language() or "en"
    return reverse("script_words", args=[language, _words_version(language)])


@cache
def _sprite() -> str:
    """Its address, the same as long as the process lives; a page has a hundred icons."""
    return escape(static("img/icons.svg"))


@register.simple_tag
def icon(name: str, label: str = "") -> SafeString:
    """A 16-px icon of the sprite. Without a label it is decoration and hidden from screen readers."""
    said = f'role="img" aria-label="{escape(label)}"' if label else 'aria-hidden="true"'
    address = f"{_sprite()}#{escape(name)}"
    return mark_safe(f'<svg class="icon" {said}><use href="{address}"></use></svg>')  # noqa: S308 - escaped


@register.simple_tag
def status_icon(status: str) -> SafeString:
    """Only the shape of a state, in its colour; its name is read aloud."""
    name, like = str(STATUSES.get(status, status)), STATUS_LIKE.get(status, status)
    return format_html(
        '<span class="status only" data-status="{}" title="{}">{}</span>', like, name, icon(like, name)
    )


@register.simple_tag
def status_badge(status: str, pill: bool = False) -> SafeString:
    """Shape, colour and name of a state."""
    like = STATUS_LIKE.get(status, status)
    return format_html(
        '<span class="status{}" data-status="{}">{}{}</span>',
        " pill" if pill else "",
        like,
        icon(like),
        STATUSES.get(status, status),
    )


@register.simple_tag
def delta(value: object, places: int = 2) -> SafeString | str:
    """A signed difference in percentage points, green when up and red when down."""
    number, text = as_float(value), points(value, places)
    if number is None or text.startswith(("±", NOTHING)):
        return text
    way = "up" if number > 0 else "down"
    return mark_safe(f'<span class="delta num {way}">{text}</span>')  # noqa: S308 - digits


@register.inclusion_tag("partials/field.html")
def field(bound: BoundField, suffix: str = "") -> dict[str, Any]:
    """One form field: label, control, unit, help, errors. Check boxes stand before their label."""
    widget = bound.field.widget
    return {
        "field": bound,
        "suffix": suffix,
        "check": isinstance(widget, CheckboxInput),
        "group": widget.use_fieldset,
        "optional": not bound.field.required and not getattr(bound.field, "has_default", False),
    }


# Navigation


@dataclass(frozen=True)
class Page:
    """An entry of the navigation; its section is also current on the pages whose URL names it covers."""

    url_name: str
    label: Promise
    icon: str
    keys: str
    covers: tuple[str, ...] = ()
    phone: bool = False
    starts_group: bool = False


PAGES = (
    Page("home", gettext_lazy("Home"), "home", "g h", phone=True),
    Page("run_list", gettext_lazy("Runs"), "runs", "g r", ("run_", "trash"), phone=True),
    Page("run_new", gettext_lazy("New run"), "plus", "n", phone=True),
    Page("run_compare", gettext_lazy("Compare"), "compare", "c", phone=True),
    Page("teacher_list", gettext_lazy("Teachers"), "teacher", "g t", ("teacher_",), starts_group=True),
    Page("student_list", gettext_lazy("Students"), "student", "g s", ("student_",)),
    Page("dataset_list", gettext_lazy("Datasets"), "dataset", "g d", ("dataset_",)),
    Page("method_list", gettext_lazy("Methods"), "method", "g m", ("method_",)),
    Page("worker_list", gettext_lazy("Workers"), "worker", "g w", ("worker_", "health")),
)


def current_page(url_name: str) -> Page | None:
    """The entry of exactly this name, else the one whose section covers it."""
    exact = next((page for page in PAGES if page.url_name == url_name), None)
    return exact or next((page for page in PAGES if page.covers and url_name.startswith(page.covers)), None)


@register.simple_tag(takes_context=True)
def navigation(context: Context) -> list[dict[str, Any]]:
    """The navigation's entries with their addresses; what this installation does not serve is left out."""
    match = getattr(context.get("request"), "resolver_match", None)
    current = current_page(match.url_name or "") if match else None
    entries = []
    for page in PAGES:
        try:
            url = reverse(page.url_name)
        except NoReverseMatch:
            continue
        entries.append({"page": page, "url": url, "current": page is current})
    return entries
