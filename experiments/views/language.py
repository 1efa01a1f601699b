"""What the scripts of a page say, in the reader's language."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponseBase
from django.utils import translation
from django.utils.translation import check_for_language
from django.views.decorators.cache import cache_control
from django.views.i18n import JavaScriptCatalog

_catalogue = JavaScriptCatalog.as_view(packages=["experiments"])


@login_not_required
@cache_control(max_age=31_536_000, immutable=True)
def script_words(request: HttpRequest, language: str, version: str) -> HttpResponseBase:
    """`gettext` and its kin for scripts. The address carries language and version, so it is kept for long."""
    with translation.override(language if check_for_language(language) else "en"):
        return _catalogue(request)
