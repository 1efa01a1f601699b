"""Projects, their members, and the rule that decides what a person may see."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

_M = TypeVar("_M", bound=models.Model)


class Role(models.TextChoices):
    VIEWER = "viewer", _("Viewer")
    MEMBER = "member", _("Member")
    MAINTAINER = "maintainer", _("Maintainer")


class ProjectQuerySet(models.QuerySet["Project"]):
    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> ProjectQuerySet:
        """Projects the user is a member of; all of them for a site admin."""
        if getattr(user, "is_superuser", False):
            return self
        return self.filter(memberships__user_id=user.pk) if user.is_authenticated else self.none()


class Project(models.Model):
    name = models.CharField(max_length=100, unique=True)
    slug = models.SlugField(max_length=100, unique=True)
    description = models.TextField(blank=True)
    created = models.DateTimeField(auto_now_add=True)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, through="Membership", related_name="projects")

    objects = ProjectQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def roles(self, user: AbstractBaseUser | AnonymousUser) -> list[Role]:
        """The roles the user holds here: the one given and those below it. All of them for a site admin."""
        order = list(Role)
        if getattr(user, "is_superuser", False):
            return order
        held = self.memberships.filter(user=user.pk or 0).values_list("role", flat=True).first()
        return order[: order.index(Role(held)) + 1] if held is not None else []

    def may(self, user: AbstractBaseUser | AnonymousUser, role: Role) -> bool:
        """Whether the user holds at least `role` here."""
        return role in self.roles(user)


class Membership(models.Model):
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=12, choices=Role, default=Role.MEMBER)

    class Meta:
        ordering = ["project", "user"]
        constraints = [models.UniqueConstraint(fields=["project", "user"], name="one_membership_each")]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.project}"


class InProjectQuerySet(models.QuerySet[_M]):
    """Rows that belong to a project through a field `project`."""

    def for_user(self, user: AbstractBaseUser | AnonymousUser) -> InProjectQuerySet[_M]:
        """Rows of the projects the user may see. Views start from here, so that others' rows are 404."""
        if getattr(user, "is_superuser", False):
            return self
        if not user.is_authenticated:
            return self.none()
        return self.filter(project__memberships__user_id=user.pk)
