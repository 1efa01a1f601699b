"""What people put on runs to find them again: tags, stars, saved views; and the values runs are sought by."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from .runs import Run
from .team import InProjectQuerySet, Project


class Tag(models.Model):
    """A word on runs of one project. It lives as long as a run bears it."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="tags")
    name = models.CharField(max_length=40)
    runs = models.ManyToManyField(Run, related_name="tags")

    objects = InProjectQuerySet["Tag"].as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="one_tag_a_name")]

    def __str__(self) -> str:
        return self.name


class Star(models.Model):
    """A person's own mark on a run."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="stars")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="stars")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "run"], name="one_star_each")]

    def __str__(self) -> str:
        return f"{self.user} starred {self.run}"


class SavedView(models.Model):
    """The runs page as somebody wants to see it again: all of its state is its query string."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="views")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="views")
    name = models.CharField(max_length=60)
    query = models.TextField(blank=True, help_text="q=…&sort=…&columns=…, as it stands in the address.")
    shared = models.BooleanField(default=False, help_text="The whole project sees it.")
    first = models.BooleanField(default=False, help_text="Its owner's runs page begins with it.")

    objects = InProjectQuerySet["SavedView"].as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["project", "owner", "name"], name="one_view_a_name")]

    def __str__(self) -> str:
        return self.name


class RunValue(models.Model):
    """One parameter or result of a run, where the database can filter, sort and group by it.

    A copy of what stands in the run's JSON, written with it: ten thousand JSON documents cannot be searched
    in the time a page has.
    """

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="values")
    key = models.CharField(max_length=120)
    number = models.FloatField(null=True)
    text = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "key"], name="one_value_a_key")]
        # One key of all runs lies together, with its values: sorting and grouping read nothing else.
        indexes = [models.Index(fields=["key", "run", "number", "text"], name="values_of_a_key")]

    def __str__(self) -> str:
        return f"{self.key} = {self.text or self.number}"
