"""The pages of students."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from experiments.models import Architecture, Role, Run, Student

from .make import a_project, a_run, an_architecture
from .people import a_user, browser, queries

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> Client:
    return browser(a_user())


def a_student(name: str = "<b>tiny</b>") -> Student:
    return Student.objects.create(project=a_project(), name=name, architecture=an_architecture("resnet8"))


def test_the_list_says_what_to_do_when_there_is_none_and_compares_distilled_with_alone(
    client: Client,
) -> None:
    assert b"No student yet" in client.get(reverse("student_list")).content
    student = a_student()
    for purpose, accuracy in ((Run.Purpose.CONTROL, 0.9015), (Run.Purpose.DISTIL, 0.9127)):
        a_run(student=student, purpose=purpose, status=Run.Status.SUCCEEDED, accuracy=accuracy)
    a_run(student=student, purpose=Run.Purpose.DISTIL, status=Run.Status.RUNNING, accuracy=0.9999)
    page = client.get(reverse("student_list")).content.decode()
    for shown in ("&lt;b&gt;tiny", "91.27", "90.15"):
        assert shown in page, shown
    assert "<b>tiny" not in page
    assert "99.99" not in page


def test_lists_and_pages_cost_the_same_queries_however_many_rows(client: Client) -> None:
    student = a_student()
    urls = [reverse("student_list"), reverse("student_detail", args=[student.pk])]
    a_run(student=student, control=a_run())
    one = [queries(client, url) for url in urls]
    for n in range(15):
        a_run(student=student, control=a_run())
        a_run(student=a_student(f"s{n}"))
    assert [queries(client, url) for url in urls] == one


def test_the_page_shows_the_best_measured_run_and_its_gain(client: Client) -> None:
    student = a_student()
    assert client.get(reverse("student_detail", args=[student.pk])).status_code == 200
    alone = a_run(name="alone", student=student, status=Run.Status.SUCCEEDED, accuracy=0.90)
    a_run(
        name="taught",
        student=student,
        purpose=Run.Purpose.DISTIL,
        status=Run.Status.SUCCEEDED,
        accuracy=0.92,
        control=alone,
    )
    page = client.get(reverse("student_detail", args=[student.pk])).content.decode()
    for shown in ("92.00", "+2.00", "taught", "alone"):
        assert shown in page, shown


def test_a_student_is_saved_with_its_architecture_and_owner(client: Client) -> None:
    an_architecture("resnet8")
    wish = {"name": " tiny ", "architecture": "resnet8", "description": "for phones"}
    answer = client.post(reverse("student_new"), wish)
    student = Student.objects.get(name="tiny")
    assert answer["Location"] == reverse("student_detail", args=[student.pk])
    assert (student.architecture_id, student.owner.username, student.pretrained) == ("resnet8", "ann", False)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (
            {"name": "a", "architecture": "resnet9"},
            "No architecture is called “resnet9”. Did you mean resnet8?",
        ),
        ({"name": "a", "architecture": "<script>"}, "“&lt;script&gt;”. Is a worker running?"),
        (
            {"name": "TAKEN", "architecture": "resnet8"},
            "“TAKEN” is taken in this project. Choose another name.",
        ),
        ({"name": "a", "architecture": "resnet8", "pretrained": "on"}, "resnet8 has no pretrained weights."),
        ({"name": "", "architecture": ""}, "This field is required."),
        ({"name": "x" * 101, "architecture": "resnet8"}, "at most 100 characters"),
        ({"name": "a\0b", "architecture": "resnet8"}, "Null characters are not allowed."),
    ],
)
def test_a_refusal_names_the_value_and_the_way_out(client: Client, wish: dict[str, str], words: str) -> None:
    a_student("taken")
    answer = client.post(reverse("student_new"), wish)
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert Student.objects.count() == 1


def test_pretrained_weights_are_for_the_libraries_networks(client: Client) -> None:
    Architecture.objects.create(
        key="torchvision/resnet18", title="ResNet-18", family="resnet", source="torchvision"
    )
    wish = {"name": "a", "architecture": "torchvision/resnet18", "pretrained": "on"}
    assert client.post(reverse("student_new"), wish).status_code == 302
    assert Student.objects.get().pretrained


def test_the_second_of_two_who_take_a_name_at_once_is_told_so(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_student("tiny")
    monkeypatch.setattr(
        "experiments.forms.catalogue.StudentForm.clean_name", lambda form: form.cleaned_data["name"]
    )
    answer = client.post(reverse("student_new"), {"name": "tiny", "architecture": "resnet8"})
    assert answer.status_code == 422
    assert "is taken" in answer.content.decode()


def test_deleting_is_refused_while_runs_use_it() -> None:
    keeper, student = browser(a_user("kay", Role.MAINTAINER)), a_student("tiny")
    run, url = a_run(student=student), reverse("student_delete", args=[student.pk])
    assert "would lose what they were measured with" in keeper.post(url, follow=True).content.decode()
    run.delete()
    assert "Student “tiny” is deleted" in keeper.post(url, follow=True).content.decode()


def test_viewers_look_members_make_maintainers_delete_and_strangers_see_nothing() -> None:
    student = a_student()
    viewer, member = browser(a_user("vic", Role.VIEWER)), browser(a_user("mem"))
    stranger = browser(a_user("sam", Role.MAINTAINER, a_project("Other")))
    page, delete = (reverse(name, args=[student.pk]) for name in ("student_detail", "student_delete"))
    assert viewer.get(page).status_code == 200
    assert viewer.get(reverse("student_new")).status_code == 403
    assert member.get(reverse("student_new")).status_code == 200
    assert member.post(delete).status_code == 403
    assert stranger.get(page).status_code == 404
    assert stranger.post(delete).status_code == 404
    assert b"No student yet" in stranger.get(reverse("student_list")).content
