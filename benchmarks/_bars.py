"""A bar chart as a small SVG that reads on light and on dark: mid-tones on nothing."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LABELS, VALUES = 760, 292, 56  # of the whole; kept for the labels at the left, the values at the right
ROW, BAR, HEAD = 26, 16, 34
STYLE = """<style>
text { font: 14px system-ui, sans-serif; fill: #767b84; }
.value { font-weight: 600; } .head { font-size: 13px; font-style: italic; }
.solid { fill: #4c6ef5; } .muted { fill: #8a9099; }
.dashed { fill: none; stroke: #8a9099; stroke-width: 1.5; stroke-dasharray: 4 3; }
.line { stroke: #767b84; stroke-dasharray: 2 3; }
</style>"""


@dataclass(frozen=True)
class Group:
    """Bars under one heading; solid, muted and dashed are how they may be drawn."""

    heading: str
    bars: list[tuple[str, float, str]]  # label, value, drawn how


def svg(title: str, groups: list[Group], line: float) -> str:
    """The chart; a dotted line stands at the value `line`."""
    scale = (WIDTH - LABELS - VALUES) / max(line, *(value for group in groups for _, value, _ in group.bars))
    mark = LABELS + line * scale
    parts: list[str] = []
    y = 0
    for group in groups:
        parts.append(_text(0, y + 22, group.heading, "head"))
        top = y = y + HEAD
        for label, value, drawn in group.bars:
            end = LABELS + value * scale
            words = max(end, mark) if end > mark - VALUES else end  # never across the line
            parts.append(_text(LABELS - 10, y + BAR - 3, label, "label", anchor="end"))
            parts.append(
                f'<rect class="{drawn}" x="{LABELS}" y="{y}" width="{end - LABELS:.1f}" height="{BAR}"/>'
            )
            parts.append(_text(words + 8, y + BAR - 3, f"{value:.2f}", "value"))
            y += ROW
        parts.append(f'<line class="line" x1="{mark:.1f}" y1="{top - 4}" x2="{mark:.1f}" y2="{y - 6}"/>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" '
        f'role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", STYLE, *parts, "</svg>", ""])


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
