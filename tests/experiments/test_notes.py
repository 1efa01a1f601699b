"""Notes in Markdown: what they may hold, what a hostile one comes to, who wrote them last."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from experiments.markdown import SCHEMES, TAGS, render
from experiments.models import Role, Run

from . import make
from .people import a_user, browser

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "[x](file:///etc/passwd)",
    "<javascript:alert(1)>",
    "![x](javascript:alert(1))",
    "![x](https://evil.example/pixel.png)",
    '![x"onerror="alert(1)](https://evil.example/a.png)',
    '[x](https://evil.example/"onmouseover="alert(1))',
    "[x]: javascript:alert(1)\n\n[x]",
    '```"><script>alert(1)</script>\nx\n```',
    "```\n</code></pre><script>alert(1)</script>\n```",
    "| <img src=x onerror=alert(1)> |\n|---|\n| <b hx-get='/x' hx-trigger='load'>x</b> |",
    "<div hx-get='/logout/' hx-trigger='load'>x</div>",
    "<form action='/logout/' method='post'><button>x</button></form>",
    "<style>body{display:none}</style>",
    "<iframe src='https://evil.example'></iframe>",
    "<!-- --><script>alert(1)</script>",
    "https://evil.example/<script>alert(1)</script>",
    'https://evil.example/"onmouseover=alert(1)',
    "- [x] <script>alert(1)</script>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
]


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def harmless(html: str) -> None:
    """Every element and attribute is one of the few, every address of a kind that opens nothing else."""
    parser = Elements()
    parser.feed(html)
    for tag, attributes in parser.found:
        assert tag in TAGS, (tag, html)
        assert set(attributes) <= {"href", "title", "rel", "start", "class", "tabindex"}, (attributes, html)
        if tag == "a":
            assert attributes["rel"] == "nofollow noopener"
            scheme = re.match(r"\s*([a-zA-Z][\w+.-]*):", attributes.get("href") or "")
            assert scheme is None or scheme[1].lower() in SCHEMES, html


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_note_comes_to_nothing(text: str) -> None:
    html = str(render(text))
    harmless(html)
    assert "<script" not in html
    assert "<img" not in html


@given(st.text(alphabet="<>&\"'`[]()!:/|-*_#\\ \nabjscript=x1.", max_size=200))
def test_no_text_at_all_comes_to_more_than_the_few_tags(text: str) -> None:
    harmless(str(render(text)))


def test_what_people_write_is_drawn() -> None:
    html = render(
        "# Why\n\nSee https://arxiv.org/abs/1503.02531. And [run 7](/runs/7/).\n\n- [x] done\n- [ ] open\n\n"
        "| T | top-1 |\n|---|--:|\n| 4 | 0.9 |\n\n```python\nT < 4\n```\n\n~~no~~ **yes**"
    )
    for part in (
        "<h3>Why</h3>",
        '<a href="https://arxiv.org/abs/1503.02531" rel="nofollow noopener">https://arxiv.org/abs/1503.02531</a>.',
        '<a href="/runs/7/" rel="nofollow noopener">run 7</a>',
        '<li class="task">☑ done</li>',
        '<td class="num">0.9</td>',
        "<code>T &lt; 4\n</code>",
        "<s>no</s> <strong>yes</strong>",
    ):
        assert part in html
    assert '<a href="https://x.example/p.png" rel="nofollow noopener">curve</a>' in render(
        "![curve](https://x.example/p.png)"
    )


# --- On the page --------------------------------------------------------------------------------------------
@pytest.fixture
def ann(db: None) -> Client:
    return browser(a_user("ann"))


def post(client: Client, run: Run, **data: str) -> str:
    headers = {"HX-Request": "true"}
    return client.post(reverse("run_notes", args=[run.pk]), data, headers=headers).content.decode()


def test_the_page_says_who_saved_last(ann: Client) -> None:
    run = make.a_run(notes="from before")
    page = reverse("run_detail", args=[run.pk])
    assert "Saved by" not in ann.get(page).content.decode()
    assert "Saved by ann" in post(ann, run, text="**new**", version="0")
    text = ann.get(page).content.decode()
    assert "<strong>new</strong>" in text
    assert "Saved by ann" in text


def test_a_preview_saves_nothing_and_keeps_what_it_was_begun_from(ann: Client) -> None:
    run = make.a_run(notes="old", notes_version=3)
    text = post(ann, run, text="*new* <b>x</b>", version="2", show="preview", conflict="1")
    assert "<em>new</em> &lt;b&gt;x&lt;/b&gt;" in text
    assert 'name="version" value="2"' in text
    assert "Somebody else has saved" in text
    assert "*new* &lt;b&gt;x&lt;/b&gt;</textarea>" in post(
        ann, run, text="*new* <b>x</b>", version="2", show="write"
    )
    assert "write at most 20,000" in post(ann, run, text="x" * 20_001, version="3", show="preview")
    assert Run.objects.get(pk=run.pk).notes == "old"
    vic = browser(a_user("vic", Role.VIEWER))
    assert vic.post(reverse("run_notes", args=[run.pk]), {"show": "preview", "text": "x"}).status_code == 403
