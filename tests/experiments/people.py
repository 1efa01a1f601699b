"""People in front of a browser, with a role in a project."""

from __future__ import annotations

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from experiments.models import Membership, Project, Role

from .make import a_project


def a_user(name: str = "ann", role: Role | None = Role.MEMBER, project: Project | None = None) -> User:
    """A member of the team's project; without a role, of none."""
    user, _ = get_user_model().objects.get_or_create(username=name)
    if role is not None:
        Membership.objects.update_or_create(
            user=user, project=project or a_project(), defaults={"role": role}
        )
    return user


def an_admin() -> User:
    return get_user_model().objects.create_superuser("root")


def browser(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def queries(client: Client, url: str) -> int:
    """How many the page costs, once everything that is kept between requests is there."""
    client.get(url)
    with CaptureQueriesContext(connection) as seen:
        assert client.get(url).status_code == 200
    return len(seen)
