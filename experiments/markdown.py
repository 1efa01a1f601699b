"""People's Markdown as HTML that can do no harm.

Raw HTML in the text stays text. What the renderer makes is then passed through a sanitiser that knows the few
tags below, so that a fault in the one is caught by the other. Nothing is fetched from elsewhere: a picture
becomes a link to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

TAGS = {
    "a",
    "blockquote",
    "br",
    "code",
    "del",
    "div",
    "em",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "s",
    "strong",
    "ul",
}
TAGS |= {"ul", "h3", "h4", "h5", "h6", "table", "tbody", "td", "th", "thead", "tr"}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "pre": {"tabindex"}, "div": {"tabindex"}}
ALIGNED = {"right": "num", "center": "middle"}
CLASSES = {"pre": {"code"}, "div": {"table-wrap"}, "li": {"task"}, "table": {"table"}} | {
    cell: set(ALIGNED.values()) for cell in ("td", "th")
}
SCHEMES = {"http", "https", "mailto"}
ADDRESS = re.compile(r"https?://[^\s<>\"']*[^\s<>\"'.,;:!?)\]}]")
BOX = re.compile(r"^\[([ xX])\] ")
BELOW = 2  # levels: a note's largest heading stands under the page's h1 and the card's h2


@lru_cache(maxsize=128)
def render(text: str) -> SafeString:
    """Markdown with tables, task lists and struck text; bare addresses are links."""
    html = nh3.clean(
        _markdown.render(text),
        tags=TAGS,
        attributes=ATTRIBUTES,
        allowed_classes=CLASSES,
        url_schemes=SCHEMES,
        link_rel="nofollow noopener",
    )
    return mark_safe(html)  # noqa: S308 - the sanitiser's output, which is what this module is for


def _made() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False, "linkify": False, "maxNesting": 20})
    made.enable(["table", "strikethrough"])
    made.core.ruler.push("kdweb", _adapt)
    made.add_render_rule("image", _image)
    made.add_render_rule("fence", _code)
    made.add_render_rule("code_block", _code)
    made.add_render_rule(
        "table_open", lambda *_: '<div class="table-wrap" tabindex="0"><table class="table">'
    )
    made.add_render_rule("table_close", lambda *_: "</table></div>")
    return made


def _image(_self: Any, tokens: Sequence[Token], index: int, *_rest: Any) -> str:
    address = str(tokens[index].attrs.get("src", ""))
    return f'<a href="{escape(address)}">{escape(tokens[index].content or address)}</a>'


def _code(_self: Any, tokens: Sequence[Token], index: int, *_rest: Any) -> str:
    return f'<pre class="code" tabindex="0"><code>{escape(tokens[index].content)}</code></pre>\n'


def _adapt(state: StateCore) -> None:
    for place, token in enumerate(state.tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + BELOW, 6)}"
        elif token.type in ("td_open", "th_open"):  # style= is what the content security policy forbids
            side = str(token.attrs.pop("style", "")).removeprefix("text-align:")
            token.attrs |= {"class": ALIGNED[side]} if side in ALIGNED else {}
        elif token.type == "inline" and token.children:
            if place >= 2 and state.tokens[place - 2].type == "list_item_open":
                _tick(state.tokens[place - 2], token.children[0])
            token.children = _linked(token.children)


def _tick(item: Token, first: Token) -> None:
    if first.type == "text" and (box := BOX.match(first.content)):
        item.attrs["class"] = "task"
        first.content = f"{'☐' if box[1] == ' ' else '☑'} {first.content[box.end() :]}"


def _linked(children: list[Token]) -> list[Token]:
    """Bare addresses in the text as links, outside of links."""
    found, depth = [], 0
    for token in children:
        depth += (token.type == "link_open") - (token.type == "link_close")
        found += _split(token) if token.type == "text" and not depth else [token]
    return found


def _split(token: Token) -> list[Token]:
    parts, from_ = [], 0
    for match in ADDRESS.finditer(token.content):
        parts += [
            Token("text", "", 0, content=token.content[from_ : match.start()]),
            Token("link_open", "a", 1, attrs={"href": match.group()}),
            Token("text", "", 0, content=match.group()),
            Token("link_close", "a", -1),
        ]
        from_ = match.end()
    return [*parts, Token("text", "", 0, content=token.content[from_:])] if parts else [token]


_markdown = _made()
