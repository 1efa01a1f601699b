"""The grammar of the query line: from a text to a tree, with the place of every word.

    method:kd,dkd (acc>90% or tag:ship) -status:failed "two words"

Terms side by side are joined by and; `or` and brackets say otherwise; a comma inside a value means or; a
minus (or `not`) before a term or a bracket means not. Quotation marks take away every special meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.utils.translation import gettext as _

LONGEST = 500
SIGNS = (">=", "<=", "!=", ">", "<", "=", ":")  # longer ones first
QUOTES = "\"'"


@dataclass(frozen=True)
class Place:
    """A part of the line: text[start:end]."""

    start: int
    end: int


class BadQuery(ValueError):
    """One sentence for the person who typed it, and the part of the line it is about."""

    def __init__(self, text: str, place: Place | None = None) -> None:
        super().__init__(text)
        self.place = place


@dataclass(frozen=True)
class Term:
    """`key sign values` of a condition; without a key one word that is sought in names."""

    key: str
    sign: str
    values: tuple[str, ...]
    place: Place
    value_at: int  # where the value begins

    @property
    def text(self) -> str:
        return ",".join(self.values)


@dataclass(frozen=True)
class Not:
    of: Tree


@dataclass(frozen=True)
class All:
    of: tuple[Tree, ...]


@dataclass(frozen=True)
class Any:
    of: tuple[Tree, ...]


Tree = Term | Not | All | Any


@dataclass(frozen=True)
class Token:
    """A bracket, a minus that stands alone before one, or a word."""

    kind: str  # ( ) - or word
    text: str
    place: Place


def tokens(text: str) -> Iterator[Token]:
    """BadQuery where a quotation mark is not closed."""
    at, depth = 0, 0
    while at < len(text):
        sign = text[at]
        if sign.isspace():
            at += 1
        elif sign == "(" or (sign == ")" and depth) or (sign == "-" and text[at + 1 : at + 2].strip()):
            depth += {"(": 1, ")": -1, "-": 0}[sign]
            yield Token(sign, sign, Place(at, at + 1))
            at += 1
        else:
            end = _end_of_word(text, at, depth)
            yield Token("word", text[at:end], Place(at, end))
            at = end


def _end_of_word(text: str, start: int, depth: int) -> int:
    """A bracket inside a word belongs to it; a closing one that it did not open ends it."""
    quote, opened = "", 0
    for at in range(start, len(text)):
        sign = text[at]
        if quote:
            quote = "" if sign == quote else quote
        elif sign in QUOTES and (at == start or text[at - 1] in ":=<>,"):  # else an apostrophe
            quote = sign
        elif sign.isspace() or (sign == ")" and depth and not opened):
            return at
        else:
            opened += {"(": 1, ")": -1}.get(sign, 0)
    if quote:
        place = Place(text.index(quote, start), len(text))
        raise BadQuery(_("A quotation mark is not closed. Put one at the end of the words it holds."), place)
    return len(text)


def term(token: Token) -> Term:
    """The word's parts. BadQuery where a sign has nothing before it."""
    text, start = token.text, token.place.start
    quoted_from = next((at for at, sign in enumerate(text) if sign in QUOTES), len(text))
    signs = [(at, sign) for sign in SIGNS if 0 <= (at := text.find(sign)) < quoted_from]
    if not signs:
        return Term("", "", (_unquoted(text),), token.place, start)
    at, sign = min(signs, key=lambda found: (found[0], -len(found[1])))
    if at == 0:
        words = _("“%(word)s” has no key before %(sign)s. Write for example acc>0.9.")
        raise BadQuery(words % {"word": text, "sign": sign}, token.place)
    value_at = at + len(sign)
    values = tuple(part for part in _parts(text[value_at:]) if part)
    return Term(text[:at], sign, values, token.place, start + value_at)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] in QUOTES and text[-1] == text[0] else text


def _parts(text: str) -> Iterator[str]:
    """At commas outside quotation marks."""
    begin, quote = 0, ""
    for at, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in QUOTES and at == begin:
            quote = sign
        elif sign == ",":
            yield _unquoted(text[begin:at])
            begin = at + 1
    yield _unquoted(text[begin:])


def parse(text: str) -> Tree:
    """The line as a tree. BadQuery says what is wrong with it, and where."""
    if len(text) > LONGEST:
        raise BadQuery(_("The filter is longer than %(most)s characters. Shorten it.") % {"most": LONGEST})
    return _Parser(list(tokens(text)), len(text)).whole()


class _Parser:
    def __init__(self, found: list[Token], end: int) -> None:
        self.left, self.end = found[::-1], end

    def whole(self) -> Tree:
        tree = self._any()
        if self.left:  # only a bracket that nothing opened can be left over
            raise BadQuery(_("This bracket closes nothing. Take it out."), self.left[-1].place)
        return tree

    def _next(self) -> Token | None:
        return self.left[-1] if self.left else None

    def _any(self) -> Tree:
        of = [self._all()]
        while (token := self._next()) and _says(token, "or"):
            self.left.pop()
            if not of[-1].of or not self._begins():
                raise BadQuery(_("“or” needs a condition on both sides. Add one, or quote it."), token.place)
            of.append(self._all())
        return of[0] if len(of) == 1 else Any(tuple(of))

    def _begins(self) -> bool:
        token = self._next()
        return token is not None and token.kind != ")" and not _says(token, "or")

    def _all(self) -> All:
        of: list[Tree] = []
        while self._begins():
            if _says(self.left[-1], "and"):
                self.left.pop()
            else:
                of.append(self._one())
        return All(tuple(of))

    def _one(self) -> Tree:
        token = self.left.pop()
        if token.kind == "-" or _says(token, "not"):
            if not self._begins():
                raise BadQuery(_("There is nothing after “not”. Add a condition, or quote it."), token.place)
            return Not(self._one())
        if token.kind == "(":
            inner = self._any()
            if not self.left:
                raise BadQuery(_("This bracket is not closed. Add a “)”."), token.place)
            self.left.pop()
            return inner
        return term(token)


def _says(token: Token, word: str) -> bool:
    return token.kind == "word" and token.text.lower() == word


def terms(tree: Tree) -> Iterator[Term]:
    """All of them, in the order of the line."""
    match tree:
        case Term():
            yield tree
        case Not():
            yield from terms(tree.of)
        case All() | Any():
            for one in tree.of:
                yield from terms(one)


def without(text: str, key: str) -> str:
    """The line without its plain terms of this key; as it is where it cannot be read, or says more."""
    try:
        tree = parse(text)
    except BadQuery:
        return text
    if not isinstance(tree, All):
        return text
    cut = [one.place for one in tree.of if isinstance(one, Term) and one.key.lower() == key]
    for place in reversed(cut):
        text = text[: place.start] + text[place.end :]
    return " ".join(text.split()) if cut else text
