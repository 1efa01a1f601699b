"""The promises of docs/look.md that can be checked without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CSS = ROOT / "experiments/static/css"
TEMPLATES = sorted((ROOT / "templates").rglob("*.html"))


def tokens(theme: str) -> dict[str, str]:
    """Colours by name; the dark theme redefines the light one's."""
    light, dark = (CSS / "tokens.css").read_text(encoding="utf-8").split('[data-theme="dark"]')
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))
    return found | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", dark)) if theme == "dark" else found


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(theme: str) -> None:
    t = tokens(theme)
    pairs = [(ink, on) for ink in ("ink", "ink-2", "ink-3") for on in ("bg", "surface", "surface-2")]
    meanings = ("ok", "bad", "warn", "info", "prep", "lost", "idle")
    pairs += [(m, on) for m in meanings for on in (f"{m}-soft", "surface", "surface-2")]
    pairs += [("accent-ink", on) for on in ("bg", "surface", "accent-soft")]
    pairs += [("on-accent", on) for on in ("accent", "accent-hover", "bad-solid", "bad-hover")]
    pairs += [(ink, "surface-3") for ink in ("ink", "ink-2")]
    low = {pair: round(ratio, 2) for pair in pairs if (ratio := contrast(t[pair[0]], t[pair[1]])) < 4.5}
    assert not low


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_curves_controls_and_focus_stand_out_from_their_ground(theme: str) -> None:
    t = tokens(theme)
    names = [*(f"series-{n}" for n in range(1, 21)), "teacher", "control", "line-3", "focus"]
    low = {name: round(ratio, 2) for name in names if (ratio := contrast(t[name], t["surface"])) < 3}
    assert not low
    assert len({t[f"series-{n}"] for n in range(1, 21)} | {t["teacher"], t["control"]}) == 22


def test_both_themes_define_the_same_colours() -> None:
    pattern = r"--([\w-]+): (?:#|rgb|0 \d)"
    light, dark = (CSS / "tokens.css").read_text(encoding="utf-8").split('[data-theme="dark"]')
    assert set(re.findall(pattern, light)) == set(re.findall(pattern, dark))


def test_colours_are_named_in_the_tokens_only() -> None:
    for name in ("kdweb.css", "shell.css"):
        rules = re.sub(r"@media print \{.*", "", (CSS / name).read_text(encoding="utf-8"))
        assert re.findall(r"(?:#[0-9a-fA-F]{3,8}\b|rgb\()", rules) == [], name


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_template_needs_an_exception_from_the_content_security_policy(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    assert not re.search(r"<[a-z][^>]*\s(?:style|on[a-z]+)=", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)|<style", text)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_icon_a_template_names_is_in_the_sprite(template: Path) -> None:
    sprite = (ROOT / "experiments/static/img/icons.svg").read_text(encoding="utf-8")
    named = set(re.findall(r'{% icon "([a-z-]+)"', template.read_text(encoding="utf-8")))
    assert named <= set(re.findall(r'<symbol id="([a-z-]+)"', sprite))
