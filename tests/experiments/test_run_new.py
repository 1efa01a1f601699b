"""The form of a new run, as a browser sends it."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse

from experiments.forms.runs import RunForm
from experiments.forms.schema import build_fields, check_values
from experiments.models import (
    ArchitectureProfile,
    Dataset,
    Membership,
    Method,
    Project,
    Role,
    Run,
    Student,
    Teacher,
    Worker,
)
from worker.distill.spec import Schedule, Training

from . import make

pytestmark = pytest.mark.django_db
XSS = "<script>alert(1)</script>"


@pytest.fixture
def mia() -> Client:
    """A member, with everything a run needs: a dataset, a teacher, methods, a worker."""
    user = User.objects.create_user("mia")
    Membership.objects.create(project=make.a_project(), user=user, role=Role.MEMBER)
    Worker.objects.create(name="w1", host="here", queue="cpu")
    make.methods()
    large = make.an_architecture("resnet56")
    make.a_teacher("big", architecture=large, metrics={"top1": 0.98, "parameters": 855_770})
    make.an_architecture("resnet8")
    client = Client()
    client.force_login(user)
    return client


def sent(**changed: Any) -> dict[str, Any]:
    """What the browser sends for a plain Hinton run."""
    usual = {
        "purpose": "distil",
        "dataset": Dataset.objects.get(name="digits").pk,
        "teacher": Teacher.objects.get(name="big").pk,
        "network": "resnet8",
        "task_weight": "0.1",
        "label_smoothing": "0",
        "term": ["0"],
        "t0-method": "kd",
        "t0-weight": "0.9",
        "t0-p-temperature": "4",
        "training-epochs": "3",
        "training-batch_size": "64",
        "training-optimizer": "adam",
        "training-learning_rate": "0.01",
        "training-momentum": "0.9",
        "training-weight_decay": "0.0005",
        "training-schedule": "cosine",
        "training-warmup_epochs": "0",
        "training-seed": "5",
        "seeds": "1",
        "control": "run",
        "submission": str(uuid.uuid4()),
    }
    return usual | {key.replace("__", "-"): value for key, value in changed.items()}


def start(client: Client, **changed: Any) -> Any:
    return client.post(reverse("run_new"), sent(**changed))


# --- It begins with something sensible ----------------------------------------------------------------------
def test_the_form_begins_with_a_pair_that_can_start_at_once(mia: Client) -> None:
    text = mia.get(reverse("run_new")).text
    assert 'value="resnet8"' in text
    assert "L = 0.1·CE + 0.9·KD(T=4)" in text
    assert "all good" in text


def test_without_a_dataset_the_way_to_one_is_shown(mia: Client) -> None:
    Teacher.objects.all().delete()
    Dataset.objects.all().delete()
    text = mia.get(reverse("run_new")).text
    assert "A run needs a dataset first" in text


def test_other_pages_choose_through_the_address(mia: Client) -> None:
    student = Student.objects.create(
        project=make.a_project(), name="tiny net", architecture=make.an_architecture("resnet8")
    )
    assert 'value="tiny net"' in mia.get(reverse("run_new"), {"student": student.pk}).text
    text = mia.get(reverse("run_new"), {"purpose": "teacher"}).text
    assert re.search(r'name="purpose" value="teacher"[^>]* checked', text)
    other = make.a_dataset("letters")
    text = mia.get(reverse("run_new"), {"dataset": other.pk}).text
    assert f'<option value="{other.pk}" selected>' in text
    assert mia.get(reverse("run_new"), {"teacher": 999_999}).status_code == 404


def test_a_clone_begins_with_the_run_s_own_values(mia: Client) -> None:
    start(mia, t0__p__temperature="7.5", training__epochs="42")
    run = Run.objects.get(purpose="distil")
    text = mia.get(reverse("run_new"), {"from": run.pk}).text
    assert "Clone a run" in text
    for value in ('value="42"', 'value="7.5"', f'name="parent" value="{run.pk}"'):
        assert value in text
    start(mia, parent=run.pk, network="resnet8", name="again")
    assert Run.objects.get(name="again").parent == run


def test_names_that_people_gave_are_escaped(mia: Client) -> None:
    make.a_teacher(XSS, dataset=make.a_dataset(XSS))
    Student.objects.create(project=make.a_project(), name=XSS, architecture=make.an_architecture("resnet8"))
    assert XSS not in mia.get(reverse("run_new")).text
    assert XSS not in mia.post(reverse("run_check"), sent(network=XSS, name=XSS)).text


# --- Starting -----------------------------------------------------------------------------------------------
def test_start_queues_what_was_typed_and_leads_to_it(mia: Client) -> None:
    response = start(mia)
    run = Run.objects.get(purpose="distil")
    assert response.url == reverse("run_detail", args=[run.pk])
    assert run.status == "queued"
    assert run.training["optimizer"] == "adam"
    assert run.training["augment"] is False  # the box was not ticked
    (term,) = run.objective["terms"]
    assert (term["method"], term["weight"], term["params"]) == ("kd", 0.9, {"temperature": 4.0})
    assert term["schedule"] == Schedule().model_dump()
    assert run.control is not None


def test_schedules_transfer_and_lists_of_numbers_are_started_as_typed(mia: Client) -> None:
    start(
        mia,
        t0__s__kind="cosine",
        t0__s__warmup_epochs="1",
        t0__s__balance="on",
        training__milestones="0.25, 0.5",
        training__clip_norm="5",
        frozen_stages="2",
        class_weights="balanced",
    )
    run = Run.objects.get(purpose="distil")
    wanted = Schedule(kind="cosine", warmup_epochs=1, balance=True)
    assert run.objective["terms"][0]["schedule"] == wanted.model_dump()
    assert run.objective["class_weights"] == "balanced"
    assert (run.training["milestones"], run.training["clip_norm"]) == ([0.25, 0.5], 5.0)
    assert run.frozen_stages == 2


def test_weights_of_teachers_are_judged_at_their_field(mia: Client) -> None:
    twin = make.a_teacher("twin", architecture=make.an_architecture("resnet56"))
    changed = {"more_teachers": [twin.pk], "mixing__kind": "weighted", "mixing__weights": "1"}
    response = start(mia, **changed)
    error = response.text.split('id="id_mixing-weights_error"')[1].split("</div>")[0]
    assert "there are 2 teachers and 1 weights" in error
    start(mia, **changed | {"mixing__weights": "1, 3"})
    assert [teacher.name for teacher in Run.objects.get(purpose="distil").teachers] == ["big", "twin"]


def test_every_field_of_training_stands_somewhere_on_the_form(mia: Client) -> None:
    text = mia.get(reverse("run_new")).text
    for name in Training.model_fields:
        assert text.count(f'name="training-{name}"') == 1, name
    form = RunForm(make.a_project())
    assert "Further" not in form.more_training  # each has a group that a person would look into


def test_a_double_click_makes_one_run(mia: Client) -> None:
    data = sent()
    first, second = (mia.post(reverse("run_new"), data) for _ in range(2))
    assert first.url == second.url
    assert Run.objects.filter(purpose="distil").count() == 1


def test_several_seeds_lead_to_the_list(mia: Client) -> None:
    assert start(mia, seeds="3").url == reverse("run_list")
    assert Run.objects.filter(purpose="distil").count() == 3


def test_a_saved_student_is_known_by_its_name(mia: Client) -> None:
    student = Student.objects.create(
        project=make.a_project(), name="tiny net", architecture=make.an_architecture("resnet8")
    )
    start(mia, network="tiny net")
    assert Run.objects.get(purpose="distil").student == student


def test_a_teacher_is_trained_without_terms_even_if_their_rows_are_sent(mia: Client) -> None:
    start(mia, purpose="teacher", network="resnet56", name="huge")
    run = Run.objects.get()
    assert (run.purpose, run.teacher, run.objective["terms"], run.objective["task_weight"]) == (
        "teacher",
        None,
        [],
        1.0,
    )
    assert run.makes is not None


def test_a_viewer_may_not(mia: Client) -> None:
    Membership.objects.update(role=Role.VIEWER)
    assert start(mia).status_code == 403
    assert mia.post(reverse("run_check"), sent()).status_code == 403
    assert not Run.objects.exists()


def test_another_project_s_rows_are_no_choices(mia: Client) -> None:
    other = Project.objects.create(name="Other", slug="other")
    theirs = make.a_teacher("theirs", project=other)
    response = start(mia, teacher=theirs.pk)
    assert response.status_code == 422
    assert "theirs" not in response.text
    assert not Run.objects.exists()


# --- Errors stand at their field ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changed", "field", "said"),
    [
        ({"training__epochs": "-3"}, "training-epochs", "Use 1 or more."),
        ({"training__learning_rate": "0"}, "training-learning_rate", "Use a value above 0."),
        ({"training__batch_size": "many"}, "training-batch_size", "Use a whole number."),
        ({"network": "resnt8"}, "network", "Did you mean resnet8"),
        ({"network": ""}, "network", "No student is chosen."),
        ({"teacher": ""}, "teacher", "No teacher is chosen."),
        ({"t0__p__temperature": "-1"}, "t0-p-temperature", "Use 0.05 or more."),
        ({"t0__weight": "0", "task_weight": "0"}, "task_weight", "there is nothing to learn"),
        ({"seeds": "1000"}, "seeds", "20"),
        ({"training__milestones": "0.5, 1.5"}, "training-milestones", "1.5: Use a value below 1."),
        ({"training__milestones": "half"}, "training-milestones", "half: Use a number."),
        ({"training__warmup_epochs": "3"}, "training-warmup_epochs", "Make it less than the epochs (3)."),
        ({"t0__s__warmup_epochs": "-1"}, "t0-s-warmup_epochs", "Use 0 or more."),
        ({"t0__s__kind": "zigzag"}, "t0-s-kind", "zigzag"),
        ({"frozen_stages": "101"}, "frozen_stages", "100"),
    ],
)
def test_a_bad_value_is_marked_and_nothing_starts(
    mia: Client, changed: dict[str, Any], field: str, said: str
) -> None:
    response = start(mia, **changed)
    assert response.status_code == 422
    error = response.text.split(f'id="id_{field}_error"')[1].split("</div>")[0]
    assert said in error
    assert not Run.objects.exists()


def test_the_wrong_teacher_is_marked_with_both_class_counts(mia: Client) -> None:
    other = make.a_dataset("cifar100", classes=[str(n) for n in range(100)])
    response = start(mia, dataset=other.pk)
    error = response.text.split('id="id_teacher_error"')[1].split("</div>")[0]
    assert "10 classes" in error
    assert "cifar100 has 100" in error


# --- Live checks --------------------------------------------------------------------------------------------
def test_checks_say_what_fits_and_what_does_not(mia: Client) -> None:
    ArchitectureProfile.objects.create(
        architecture=make.an_architecture("resnet8"), num_classes=10, in_channels=1, image_size=8,
        status="ready", parameters=78_042, stages=[{"path": "layer1", "shape": [16, 8, 8]}],
    )  # fmt: skip
    text = mia.post(reverse("run_check"), sent(training__epochs="0")).text
    assert "855,770 → 78,042 parameters" in text
    assert "Use 1 or more." in text
    assert "L = 0.1·CE + 0.9·KD(T=4)" in text
    assert '<option value="layer1">16×8×8</option>' in text
    assert not Run.objects.exists()


def test_checks_live_with_anything_that_is_typed(mia: Client) -> None:
    broken = sent(t0__weight="x", training__seed="", dataset="zzz", term=["0", "<", "q" * 9], submission="no")
    for data in ({}, broken):
        assert mia.post(reverse("run_check"), data).status_code == 200


def test_checks_ask_again_while_a_living_worker_lists_the_layers(mia: Client) -> None:
    assert "load delay:2s" in mia.post(reverse("run_check"), sent()).text
    Worker.objects.all().delete()
    assert "load delay:2s" not in mia.post(reverse("run_check"), sent()).text


# --- Parts --------------------------------------------------------------------------------------------------
def test_teachers_of_other_datasets_say_what_they_cannot_do_and_those_of_other_images_are_greyed(
    mia: Client,
) -> None:
    make.a_teacher("hundred", dataset=make.a_dataset("cifar100", classes=[str(n) for n in range(100)]))
    make.a_teacher("colour", dataset=make.a_dataset("svhn", channels=3))
    text = mia.get(reverse("run_teachers"), {"dataset": make.a_dataset().pk}).text
    options = {
        name: next(re.finditer(rf"<option[^>]*>{name}[^<]*", text))[0] for name in ("hundred", "colour")
    }
    assert "100 classes; digits has 10: features only" in options["hundred"]
    assert "disabled" not in options["hundred"]
    assert "3 channels; digits has 1" in options["colour"]
    assert "disabled" in options["colour"]


def test_a_row_shows_the_parameters_of_its_method(mia: Client) -> None:
    text = mia.get(reverse("run_term"), {"row": "7", "t7-method": "fitnet", "t7-weight": "2.5"}).text
    assert 'name="t7-p-student_layer"' in text
    assert 'value="2.5"' in text
    for strange in ({"row": '"><script>'}, {"row": "7", "t7-method": "none", "t7-weight": "nan"}, {}):
        response = mia.get(reverse("run_term"), strange)
        assert response.status_code == 200
        assert "<script>" not in response.text


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ({"preset": "kd"}, "L = 0.1·CE + 0.9·KD(T=4)"),
        ({"preset": "two_part", "alpha": "0.25"}, "L = 0.25·fitnet + 0.75·KD(T=4)"),
        ({"preset": "kd", "alpha": "7", "t0-p-temperature": "2"}, "L = KD(T=2)"),
        ({"preset": "task"}, "L = CE"),
        ({"preset": "none", "alpha": "x"}, "L = 0.1·CE + 0.9·KD(T=4)"),
    ],
)
def test_presets(mia: Client, asked: dict[str, str], shown: str) -> None:
    assert f"{shown}</p>" in mia.get(reverse("run_objective"), asked).text


def test_networks_are_searched(mia: Client) -> None:
    make.an_architecture("timm/vit_tiny")
    text = mia.get(reverse("run_networks"), {"network": "vit ti"}).text
    assert "timm/vit_tiny" in text
    assert "resnet8" not in text


def test_rows_change_without_javascript(mia: Client) -> None:
    more = mia.post(reverse("run_new"), sent(add_term="1"))
    assert more.status_code == 200
    assert more.text.count('name="term"') == 2
    none = mia.post(reverse("run_new"), sent(remove_term="0"))
    assert none.text.count('name="term"') == 0
    preset = mia.post(reverse("run_new"), sent(apply_preset="1", preset="two_part", training__epochs="17"))
    assert 'name="t0-p-student_layer"' in preset.text
    assert 'value="17"' in preset.text
    assert not Run.objects.exists()


# --- JSON Schema → fields -----------------------------------------------------------------------------------
SCHEMA = {
    "type": "object",
    "properties": {
        "rate": {
            "type": "number",
            "exclusiveMinimum": 0,
            "default": 0.5,
            "title": "Rate",
            "description": "How.",
        },
        "count": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
        "mode": {"enum": ["a", "b"], "default": "a"},
        "size": {"enum": [1, 2]},
        "on": {"type": "boolean", "default": True},
        "names": {"type": "array", "items": {"type": "string"}, "default": [], "maxItems": 2},
        "shares": {"type": "array", "items": {"type": "number", "minimum": 0}, "default": [0.5, 0.75]},
        "maybe": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        "kind": {"$ref": "#/$defs/Kind", "default": "x"},
        "layer": {"type": "string", "default": "", "layer_of": "teacher"},
    },
    "$defs": {"Kind": {"enum": ["x", "y"], "type": "string"}},
}


def test_a_schema_becomes_fields_with_bounds_and_help() -> None:
    fields: dict[str, Any] = build_fields(SCHEMA, "p")
    assert list(fields) == [f"p-{name}" for name in SCHEMA["properties"]]  # type: ignore[attr-defined]
    assert (fields["p-rate"].label, fields["p-rate"].help_text, fields["p-rate"].initial) == (
        "Rate",
        "How.",
        0.5,
    )
    assert fields["p-count"].clean("9") == 9
    assert fields["p-size"].clean("2") == 2  # the schema's own type
    assert fields["p-names"].clean("a, b,") == ["a", "b"]
    assert fields["p-shares"].clean("0.25, 1") == [0.25, 1.0]
    assert fields["p-shares"].prepare_value([0.5, 0.75]) == "0.5, 0.75"
    assert fields["p-maybe"].clean("") is None
    assert fields["p-kind"].clean("y") == "y"
    assert fields["p-layer"].widget.attrs["list"] == "teacher-layers"
    for name, wrong in (
        ("rate", "0"),
        ("count", "10"),
        ("count", "2.5"),
        ("mode", "c"),
        ("size", "3"),
        ("names", "a, b, c"),
        ("shares", "0.5, -1"),
        ("shares", "0.5, nan"),
    ):
        with pytest.raises(ValidationError):
            fields[f"p-{name}"].clean(wrong)


def test_values_are_checked_and_completed() -> None:
    values, errors = check_values(SCHEMA, {"p-rate": 0.25, "p-names": []}, "p")
    assert errors == {}
    assert values["rate"] == 0.25
    assert values["count"] == 3
    _, errors = check_values(SCHEMA, {"p-rate": -1.0}, "p")
    assert errors == {"p-rate": "it must be above 0. Use a value above 0."}


@pytest.mark.parametrize(
    ("method", "formula"),
    [
        ("kd", "L = 0.1·CE + 0.9·KD(T=4)"),
        ("fitnet", "L = 0.1·CE + 0.9·KD(T=4) + fitnet"),
        ("crd", "L = CE + CRD"),
        ("unheard", "L = 0.1·CE + 0.9·KD(T=4)"),
    ],
)
def test_the_page_of_methods_begins_a_run_with_its_method(mia: Client, method: str, formula: str) -> None:
    Method.objects.create(key="crd", title="CRD", schema={})
    assert formula in mia.get(reverse("run_new"), {"method": method}).content.decode()
