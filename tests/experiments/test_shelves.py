"""Archive, trash, restore and purge; tags and stars; the same for many, and taking it back."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from experiments import bulk, lifecycle, shelves
from experiments.models import Artifact, Project, Role, Run, Star, Tag

from . import make
from .lives import swept
from .people import a_user, browser

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("sent")]


@pytest.fixture
def ann() -> Client:
    return browser(a_user("ann"))


def fresh(run: Run) -> Run:
    return Run.objects.get(pk=run.pk)


def many(client: Client, action: str, *runs: Run, **data: Any) -> dict[str, Any]:
    """The toast that the person sees."""
    response = client.post(reverse("run_bulk", args=[action]), {"run": [run.pk for run in runs]} | data)
    assert response.status_code == 204
    toast: dict[str, Any] = json.loads(response["HX-Trigger"])["kd:toast"]
    return toast


def undo(client: Client, toast: dict[str, Any]) -> dict[str, Any]:
    """As the button of the toast does it."""
    response = client.post(toast["action"]["url"], toast["action"]["values"])
    undone: dict[str, Any] = json.loads(response["HX-Trigger"])["kd:toast"]
    return undone


# --- Many at once, and back ---------------------------------------------------------------------------------
def test_undo_touches_exactly_what_was_changed(ann: Client) -> None:
    old, new, busy = (
        make.a_run(name="old", status="failed", shelf="archive", shelved=timezone.now()),
        make.a_run(name="new", status="succeeded"),
        make.a_running_run(name="busy"),
    )
    toast = many(ann, "archive", old, new, busy)
    assert toast["text"] == (
        "1 of 3 archived. old is archived already. busy has not ended: stop it first, then archive it."
    )
    assert toast["action"]["values"] == {"runs": str(new.pk)}
    assert undo(ann, toast)["text"] == "new is out of the archive."
    assert [fresh(run).shelf for run in (old, new, busy)] == ["archive", "", ""]
    assert "action" not in many(ann, "archive", old)
    assert [(e.text, e.actor) for e in new.events.all()] == [
        ("Archived.", "ann"),
        ("Taken out of the archive.", "ann"),
    ]


def test_what_waits_is_cancelled_on_its_way_into_the_trash_and_what_works_stays(ann: Client) -> None:
    waits, busy = make.a_run(name="waits", status="queued"), make.a_running_run(name="busy")
    toast = many(ann, "trash", waits, busy)
    assert toast["text"] == (
        "1 of 2 moved to the trash. busy is running: stop it first, then move it to the trash."
    )
    assert (fresh(waits).status, fresh(waits).shelf) == ("cancelled", "trash")
    assert list(Run.objects.shown()) == [busy]
    assert many(ann, "trash", waits)["text"] == "waits is in the trash already."
    assert undo(ann, toast)["text"] == "waits is restored."
    assert (fresh(waits).shelf, fresh(waits).shelved) == ("", None)


def test_tags_are_put_on_and_taken_off_many(ann: Client) -> None:
    a, b = make.a_run(name="a"), make.a_run(name="b")
    many(ann, "tag", a, tag="Ship/v1.0")
    toast = many(ann, "tag", a, b, tag=" ship/V1.0 ")
    assert toast["text"] == "1 of 2 tagged. a is tagged ship/V1.0 already."
    assert [tag.name for tag in Tag.objects.all()] == ["Ship/v1.0"]
    undo(ann, toast)
    assert [list(run.tags.values_list("name", flat=True)) for run in (a, b)] == [["Ship/v1.0"], []]
    assert many(ann, "untag", a, b, tag="SHIP/v1.0")["text"].startswith("1 of 2 no longer tagged.")
    assert not Tag.objects.exists()


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("", "there is none"),
        ("   ", "there is none"),
        ("x" * 41, "41 characters; write at most 40."),
        ("two words", "“ ” cannot be in a tag. Use letters, digits"),
        ("<b>", "“<” cannot be in a tag"),
    ],
)
def test_what_is_no_tag_is_refused_with_what_to_write(ann: Client, tag: str, said: str) -> None:
    toast = many(ann, "tag", make.a_run(), tag=tag)
    assert (toast["kind"], said in toast["text"]) == ("bad", True)
    assert not Tag.objects.exists()


def test_a_run_bears_twenty_tags_and_no_more(ann: Client) -> None:
    run = make.a_run(name="r")
    for n in range(20):
        assert many(ann, "tag", run, tag=f"t{n}")["kind"] == "ok"
    assert many(ann, "tag", run, tag="最后")["text"] == (
        "r has 20 tags, which is the most: take one off first."
    )
    assert run.tags.count() == 20


def test_a_viewer_stars_but_neither_tags_nor_puts_away() -> None:
    run = make.a_run(name="r", status="failed")
    vic = browser(a_user("vic", Role.VIEWER))
    for action in ("archive", "trash", "tag", "untag", "pause"):
        assert "1 is not there or not yours" in many(vic, action, run, tag="x")["text"]
    assert many(vic, "star", run)["text"] == "r is starred."
    assert Star.objects.get().user.username == "vic"
    assert (fresh(run).shelf, run.tags.count()) == ("", 0)
    theirs = make.a_run(project=Project.objects.create(name="Other", slug="other"))
    assert "not yours" in many(vic, "star", theirs)["text"]


def test_more_than_can_be_done_at_once_is_done_to_none(ann: Client) -> None:
    run = make.a_run(status="failed")
    toast = many(ann, "trash", run, runs=f"1-{run.pk + 100_000_000_000}")
    assert (toast["kind"], fresh(run).shelf) == ("bad", "")
    assert "at most so many at once" in toast["text"]


def test_keys_are_packed_and_nonsense_is_no_key() -> None:
    assert bulk.packed([9, 1, 2, 3]) == "1-3,9"
    assert bulk.unpacked("1-3,9") == {1, 2, 3, 9}
    assert bulk.unpacked(f"x,-1,1-x,3-1,,{'9' * 5000}") == set()


# --- One run ------------------------------------------------------------------------------------------------
def test_a_star_is_ones_own_and_asking_twice_is_asking_once(ann: Client) -> None:
    run = make.a_run()
    address, htmx = reverse("run_star", args=[run.pk]), {"HX-Request": "true"}
    for _ in range(2):
        assert 'aria-pressed="true"' in ann.post(address, {"on": "1"}, headers=htmx).content.decode()
    assert Star.objects.count() == 1
    assert 'aria-pressed="false"' in ann.post(address, headers=htmx).content.decode()
    assert not Star.objects.exists()
    assert ann.post(address).status_code == 302
    assert Star.objects.exists()


def test_tags_of_one_run_are_edited_in_place_with_completion(ann: Client) -> None:
    run, other = make.a_run(), make.a_run()
    other.tags.add(Tag.objects.create(project=run.project, name="baseline"))
    address, htmx = reverse("run_tags", args=[run.pk]), {"HX-Request": "true"}
    assert '<option value="baseline">' in ann.get(address + "?edit", headers=htmx).content.decode()
    assert "cannot be in a tag" in ann.post(address, {"add": "a b"}, headers=htmx).content.decode()
    assert 'value="remove"' not in ann.post(address, {"add": "Baseline"}, headers=htmx).content.decode()
    assert [tag.name for tag in run.tags.all()] == ["baseline"]
    ann.post(address, {"remove": "baseline"}, headers=htmx)
    assert not run.tags.exists()
    vic = browser(a_user("vic", Role.VIEWER))
    assert vic.post(address, {"add": "x"}).status_code == 403
    assert vic.get(address, headers=htmx).status_code == 200


def test_what_is_in_the_trash_is_not_tried_again(ann: Client) -> None:
    run = make.a_run(name="r", status="failed")
    many(ann, "trash", run)
    text = ann.post(reverse("run_retry", args=[run.pk]), follow=True).content.decode()
    assert "r is in the trash: restore it first." in text
    assert fresh(run).status == "failed"
    many(ann, "restore", run)
    ann.post(reverse("run_retry", args=[run.pk]))
    assert fresh(run).status == "queued"


# --- For good -----------------------------------------------------------------------------------------------
def thrown_away(days: int = 0, **values: Any) -> Run:
    when = timezone.now() - timedelta(days=days)
    run = make.a_run(**({"status": "failed", "shelf": "trash", "shelved": when} | values))
    lifecycle.remark(run.pk, shelves.TRASHED, "ann")
    return run


def test_the_sweep_empties_what_has_lain_long_enough(settings: Any) -> None:
    old, new, kept = thrown_away(31), thrown_away(29), make.a_run(status="failed")
    settings.KDWEB_TRASH_DAYS = 0
    assert shelves.sweep() == 0
    settings.KDWEB_TRASH_DAYS = 30
    assert shelves.sweep() == 1
    assert set(Run.objects.all()) == {new, kept}
    assert old.pk not in Run.objects.values_list("pk", flat=True)


def test_a_purge_takes_files_curves_and_the_last_of_a_tag_but_nothing_outside_the_trash(
    settings: Any, tmp_path: Path, django_capture_on_commit_callbacks: Any
) -> None:
    settings.KDWEB_DATA = tmp_path
    run = thrown_away(name="r")
    run.tags.add(Tag.objects.create(project=run.project, name="t"))
    run.folder.mkdir(parents=True)
    Artifact.objects.create(run=run, kind="resume", path="x", sha256="0", bytes=123, step=1, fence=1)
    assert [(one.by, one.files) for one in shelves.in_trash(Run.objects.all())] == [("ann", 123)]
    with django_capture_on_commit_callbacks(execute=True):
        shelves.purge(run, "ann")
    assert not Run.objects.exists()
    assert not Tag.objects.exists()
    assert not run.folder.exists()
    with pytest.raises(lifecycle.Refused, match="move it there first"):
        shelves.purge(make.a_run(status="failed"), "ann")


def test_a_run_that_a_teacher_lives_of_does_not_get_into_the_trash(ann: Client) -> None:
    maker = make.a_run(name="maker", status="succeeded", makes=make.a_teacher("big"))
    said = many(ann, "trash", maker)["text"]
    assert said == "maker holds the weights of the teacher big: delete the teacher first."
    assert fresh(maker).shelf == ""


def test_the_sweep_of_a_process_looks_into_the_trash(sent: Any) -> None:
    thrown_away(31)
    swept()
    swept()
    assert not Run.objects.exists()


# --- The page of the trash ----------------------------------------------------------------------------------
def test_the_trash_says_what_lies_there_since_when_by_whom_and_what_would_be_lost(ann: Client) -> None:
    run = thrown_away(3, name="old one")
    Artifact.objects.create(run=run, kind="resume", path="x", sha256="0", bytes=2_500_000, step=1, fence=1)
    thrown_away(0, name="other one", project=Project.objects.create(name="Other", slug="other"))
    text = ann.get(reverse("trash")).content.decode()
    for said in ("old one", "3\u00a0days ago", "ann", "2.50\u00a0MB", "in 27\u00a0days"):
        assert said in text
    assert "other one" not in text
    assert 'data-confirm-name="old one"' in text
    assert 'data-confirm-name="Team"' in text
    vic = browser(a_user("vic", Role.VIEWER)).get(reverse("trash")).content.decode()
    assert "old one" in vic
    assert reverse("run_purge", args=[run.pk]) not in vic
    assert reverse("trash_empty") not in vic


def test_one_is_purged_and_the_rest_emptied_by_members_alone(ann: Client) -> None:
    one, two, kept = (
        thrown_away(name="one"),
        thrown_away(name="two"),
        make.a_run(name="kept", status="failed"),
    )
    theirs = thrown_away(name="theirs", project=Project.objects.create(name="Other", slug="other"))
    vic = browser(a_user("vic", Role.VIEWER))
    assert vic.post(reverse("run_purge", args=[one.pk])).status_code == 403
    assert vic.post(reverse("trash_empty")).status_code == 403
    assert "one is deleted." in ann.post(reverse("run_purge", args=[one.pk]), follow=True).content.decode()
    said = ann.post(reverse("run_purge", args=[theirs.pk]), follow=True).content.decode()
    assert "The run is not there" in said
    said = ann.post(reverse("run_purge", args=[kept.pk]), follow=True).content.decode()
    assert "kept is not in the trash: move it there first." in said
    assert "1 run is deleted." in ann.post(reverse("trash_empty"), follow=True).content.decode()
    assert set(Run.objects.all()) == {kept, theirs}
    assert two.pk not in Run.objects.values_list("pk", flat=True)
