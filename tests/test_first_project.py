"""What a first start leaves in the database for the newcomer."""

from __future__ import annotations

import pytest

from experiments.models import Membership, Project, Role
from kdweb.stack import ADMIN, prepare

pytestmark = pytest.mark.django_db


def silent(line: str) -> None:
    """Nobody listens."""


def test_the_first_admin_maintains_a_first_project() -> None:
    assert prepare(silent)
    mine = Membership.objects.get(project__name="First project")
    assert (mine.user.username, mine.role) == (ADMIN, Role.MAINTAINER)


def test_a_second_start_makes_nothing() -> None:
    prepare(silent)
    assert prepare(silent) is None
    assert Project.objects.count() == 1


def test_where_a_project_is_none_is_made() -> None:
    Project.objects.create(name="Ours", slug="ours")
    prepare(silent)
    assert [project.name for project in Project.objects.all()] == ["Ours"]


def test_a_script_that_brings_a_project_is_left_alone() -> None:
    prepare(silent, with_project=False)
    assert not Project.objects.exists()
