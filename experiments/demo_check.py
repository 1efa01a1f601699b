"""What a person would look at, asked through HTTP: log in, the run's page, its chart data, its CSV."""

from __future__ import annotations

import http.cookiejar
import json
import re
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

from django.contrib.auth import get_user_model

from experiments.models import Membership, Project, Role, Run


class Visitor:
    """A browser without a window."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.cookies = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def get(self, path: str) -> str:
        with self.opener.open(self.base + path, timeout=30) as answer:
            return str(answer.read().decode())

    def log_in(self, user: str, password: str) -> bool:
        page = self.get("/login/")
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        form = {"username": user, "password": password, "csrfmiddlewaretoken": token[1] if token else ""}
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{self.base}/login/", urllib.parse.urlencode(form).encode(), {"Referer": f"{self.base}/login/"}
        )
        with self.opener.open(request, timeout=30):
            return any(cookie.name.endswith("sessionid") for cookie in self.cookies)


def check_by_http(url: str, project: Project, runs: list[Run]) -> list[str]:
    """What is not as it should be. A visitor with a password of one use looks, and is removed again."""
    name, password = f"demo-check-{secrets.token_hex(4)}", secrets.token_urlsafe(18)
    user = get_user_model()(username=name)
    user.set_password(password)
    user.save()
    Membership.objects.create(project=project, user=user, role=Role.VIEWER)
    try:
        visitor = Visitor(url)
        if not visitor.log_in(name, password):
            return ["logging in did not give a session"]
        return [problem for run in runs for problem in problems_with(visitor, run)]
    except (urllib.error.URLError, OSError, ValueError) as error:
        return [f"the web server did not answer as expected: {error}"]
    finally:
        user.delete()


def problems_with(visitor: Visitor, run: Run) -> Iterator[str]:
    if run.name not in visitor.get(f"/runs/{run.pk}/"):
        yield f"{run.name}: its page does not show its name"
    charts = json.loads(visitor.get(f"/api/runs/{run.pk}/charts"))
    if not charts.get("charts"):
        yield f"{run.name}: no charts"
    data = json.loads(visitor.get(f"/api/runs/{run.pk}/series?names=loss/total,{run.score_series}"))
    for series in ("loss/total", run.score_series):
        if not data["series"].get(series, {}).get("s"):
            yield f"{run.name}: no points of {series}"
    lines = visitor.get(f"/api/runs/{run.pk}/series.csv").splitlines()
    if len(lines) < run.total_steps:
        yield f"{run.name}: its CSV has {len(lines)} lines for {run.total_steps} steps"
