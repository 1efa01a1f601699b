"""The second language: complete, compiled, and shown on every page."""

from __future__ import annotations

import ast
import gettext
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, reverse

from experiments import urls
from experiments.management.commands import messages
from experiments.management.commands.catalogue import ask_engine
from experiments.models import Dataset, Membership, Project, Role, Run, Student, Teacher, Upload

from . import make

Texts = dict[str, list[str]]  # the English text, after its context and before its plural: the translations
PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%[sd]|\{\w*\}|%%|<[^>]*>")
BEGINS = re.compile(r'(msgctxt|msgid|msgid_plural|msgstr)(?:\[\d\])? "(.*)"')


def written(text: str) -> Texts:
    """The entries of a .po file; the key joins context, text and plural as a compiled file does."""
    found: Texts = {}
    for block in text.split("\n\n"):
        parts: dict[str, list[str]] = {}
        field = ""
        for line in block.splitlines():
            if match := BEGINS.match(line):
                field = match[1]
                parts.setdefault(field, []).append(match[2])
            elif line.startswith('"'):
                parts[field][-1] += line[1:-1]
        if parts.get("msgid", [""])[0]:
            context = f"{parts['msgctxt'][0]}\x04" if "msgctxt" in parts else ""
            plural = f"\x00{parts['msgid_plural'][0]}" if "msgid_plural" in parts else ""
            found[_plain(context + parts["msgid"][0] + plural)] = [_plain(one) for one in parts["msgstr"]]
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), text)


def po(domain: str) -> str:
    return messages.catalogue_file(domain).read_text(encoding="utf-8")


domains = pytest.mark.parametrize("domain", sorted(messages.DOMAINS))


@domains
def test_every_text_is_translated_and_none_is_a_guess(domain: str) -> None:
    texts = written(po(domain))
    assert len(texts) > 10
    assert [text for text, translations in texts.items() if not all(translations)] == []
    assert "#, fuzzy" not in po(domain)


@domains
def test_both_languages_fill_in_the_same(domain: str) -> None:
    wrong = []
    for text, translations in written(po(domain)).items():
        english = text.partition("\x04")[2] or text
        # "1 run" need not name its number; Chinese has one form for both
        wanted = sorted(PLACEHOLDER.findall(english.rpartition("\x00")[2]))
        wrong += [text for one in translations if one and sorted(PLACEHOLDER.findall(one)) != wanted]
    assert wrong == []


@domains
def test_the_compiled_file_is_what_the_written_one_says(domain: str) -> None:
    with open(messages.catalogue_file(domain).with_suffix(".mo"), "rb") as file:
        compiled = gettext.GNUTranslations(file)
    for text, translations in written(po(domain)).items():
        context, mark, english = text.rpartition("\x04")
        single, _, plural = english.partition("\x00")
        if plural:
            args = (single, plural, 2)
            said = compiled.npgettext(context, *args) if mark else compiled.ngettext(*args)
        else:
            said = compiled.pgettext(context, single) if mark else compiled.gettext(single)
        assert said == (translations[0] or plural or single)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("xgettext"), reason="gettext's tools are not installed: no xgettext")
@domains
def test_the_files_hold_the_texts_of_the_code(domain: str) -> None:
    further = messages.published(ask_engine()) if domain == "django" else ()
    now, then = written(messages.collected(domain, further)), written(po(domain))
    assert sorted(now.keys() - then.keys()) == [], "not in the file: run `make messages`"
    assert sorted(then.keys() - now.keys()) == [], "no longer in the code: run `make messages`"


MARKS = {"_", "_l", "gettext", "gettext_lazy", "ngettext", "pgettext"}


def texts_in_f_strings(code: str) -> Iterator[int]:
    """The lines of marked texts inside of f-strings."""
    for text in ast.walk(ast.parse(code)):
        for call in ast.walk(text) if isinstance(text, ast.JoinedStr) else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in MARKS:
                yield from [call.lineno] if isinstance(call.args[0], ast.Constant) else []


def test_no_text_stands_where_xgettext_does_not_look() -> None:
    assert list(texts_in_f_strings("f'{_(\"hidden\")} {_(name)}'")) == [1]
    base = Path(settings.BASE_DIR)
    files = [*(base / "experiments").rglob("*.py"), *(base / "kdweb").rglob("*.py")]
    found = {file: list(texts_in_f_strings(file.read_text(encoding="utf-8"))) for file in files}
    assert {str(file): lines for file, lines in found.items() if lines} == {}


NO_PAGES = (None, "login", "logout", "runs_live", "run_live", "health_json")


# --- The pages --------------------------------------------------------------------------------------------
def everything(user: User) -> dict[str, object]:
    """What the pages show, by the beginning of their names."""
    project = make.a_project()
    Membership.objects.create(project=project, user=user, role=Role.MAINTAINER)
    make.methods()
    teacher = make.a_teacher()
    student = Student.objects.create(project=project, name="small", architecture=make.an_architecture())
    run = make.a_run(purpose="distil", teacher=teacher, student=student, status=Run.Status.SUCCEEDED)
    make.a_run(status=Run.Status.QUEUED)
    upload = Upload.objects.create(project=project, owner=user, purpose="teacher", filename="a.pt", size=1)
    dataset = Dataset.objects.get()
    rows = {"run": run, "teacher": teacher, "student": student, "dataset": dataset, "upload": upload}
    return {name: row.pk for name, row in rows.items()}


def addresses(keys: dict[str, object]) -> Iterator[str]:
    """Every address that one key, or none, leads to."""
    for pattern in urls.urlpatterns:
        if not isinstance(pattern, URLPattern) or pattern.name in NO_PAGES:
            continue
        names = set(pattern.pattern.converters)
        if not names:
            yield reverse(pattern.name)
        elif names == {"pk"} and (key := keys.get(pattern.name.partition("_")[0])):
            yield reverse(pattern.name, args=[key])


@pytest.mark.django_db
def test_every_page_speaks_the_language_that_was_chosen(client: Client) -> None:
    user = User.objects.create_superuser("mia")
    client.force_login(user)
    keys = everything(user)
    client.post(reverse("set_language"), {"language": "zh-hans"})
    pages = 0
    for address in addresses(keys):
        response = client.get(address)
        assert response.status_code < 500, address
        if response.status_code == 200 and "<html" in (text := _text(response)):
            assert '<html lang="zh-hans"' in text, address
            pages += 1
    assert pages >= 15
    assert Project.objects.count() == 1
    assert Teacher.objects.count() == 1


def _text(response: object) -> str:
    html = "text/html" in response.headers["Content-Type"] and not response.streaming  # type: ignore[attr-defined]
    return str(response.text) if html else ""  # type: ignore[attr-defined]


@pytest.mark.django_db
def test_the_language_is_the_browsers_until_one_is_chosen(client: Client) -> None:
    login = reverse("login")
    assert '<html lang="en"' in client.get(login).text
    assert '<html lang="zh-hans"' in client.get(login, headers={"Accept-Language": "zh-CN,zh;q=0.9"}).text
    client.post(reverse("set_language"), {"language": "en"})
    assert '<html lang="en"' in client.get(login, headers={"Accept-Language": "zh-CN,zh;q=0.9"}).text
