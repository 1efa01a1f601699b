"""Several teachers, and teachers of another label set: on the form's plan, in the queue, for the engine."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db.models import ProtectedError
from django.test import Client
from django.urls import reverse

from experiments import lifecycle, plan_facts, planning, run_config, run_filter, runspec
from experiments.models import ArchitectureProfile, Run, Teacher
from experiments.planning import Plan
from worker.distill.spec import Mixing, Objective, Term

from . import make
from .test_planning import a_plan, the_problem, user  # noqa: F401  # the fixture

pytestmark = pytest.mark.django_db
FITNET = Objective(terms=[Term(method="fitnet")])


def hundred() -> Teacher:
    data = make.a_dataset("cifar100", classes=[str(n) for n in range(100)])
    return make.a_teacher("hundred", architecture=make.an_architecture("resnet56"), dataset=data)


def beside(*names: str) -> list[int]:
    made = [make.a_teacher(name, architecture=make.an_architecture("resnet56")) for name in names]
    return [teacher.pk for teacher in made]


def a_group(user: User, *names: str, **mixing: object) -> Run:  # noqa: F811
    plan = a_plan(more_teachers=beside(*names), mixing=Mixing.model_validate(mixing), control="none")
    return planning.create(plan, user)[0]


# --- Together -----------------------------------------------------------------------------------------------
def test_more_teachers_are_kept_in_their_order_and_given_to_the_engine(user: User) -> None:  # noqa: F811
    run = a_group(user, "third", "second", kind="weighted", weights=[2, 1, 1])
    assert [teacher.name for teacher in Run.objects.get(pk=run.pk).teachers] == ["big", "third", "second"]
    assert run.name == "resnet8 ← big + third + second · kd"
    asked = runspec.build(run)
    assert asked.teacher is not None
    assert [ref.architecture for ref in asked.more_teachers] == ["resnet56", "resnet56"]
    assert asked.mixing == Mixing(kind="weighted", weights=[2, 1, 1])


def test_a_control_has_no_teachers_at_all(user: User) -> None:  # noqa: F811
    control = planning.create(a_plan(more_teachers=beside("second")), user)[0].control
    assert control is not None
    assert (control.teachers, runspec.build(control).more_teachers) == ([], [])


def test_a_teacher_is_chosen_once(user: User) -> None:  # noqa: F811
    big = Teacher.objects.get(name="big").pk
    assert the_problem(a_plan(more_teachers=[big]), user, "more_teachers").message == "it is chosen twice."


def test_more_teachers_need_a_first(user: User) -> None:  # noqa: F811
    plan = a_plan(teacher=None, more_teachers=beside("second"))
    assert the_problem(plan, user, "more_teachers").message == "there is no first teacher."


@pytest.mark.parametrize(
    ("weights", "said"),
    [([], "2 teachers and 0 weights"), ([1, 1, 1], "2 teachers and 3 weights"), ([0, 0], "weight is 0")],
)
def test_weights_are_one_a_teacher(user: User, weights: list[float], said: str) -> None:  # noqa: F811
    mixing = Mixing(kind="weighted", weights=weights)
    plan = a_plan(more_teachers=beside("second"), mixing=mixing)
    assert said in the_problem(plan, user, "mixing.weights").message


def test_each_is_judged_as_the_first_is(user: User) -> None:  # noqa: F811
    (second,) = beside("second")
    plan = a_plan(more_teachers=[second])
    assert planning.check(plan, user) == []
    Teacher.objects.filter(pk=second).update(status="preparing")
    assert the_problem(plan, user, "more_teachers").level == "warning"
    Teacher.objects.filter(pk=second).update(status="failed", error="NaN at step 3")
    assert "NaN at step 3" in the_problem(plan, user, "more_teachers").message


def test_teachers_of_different_classes_cannot_be_mixed(user: User) -> None:  # noqa: F811
    plan = a_plan(more_teachers=[hundred().pk], objective=FITNET)
    problem = the_problem(plan, user, "more_teachers")
    assert "it tells 100 classes apart (of cifar100), the teacher big 10 classes" in problem.message


# --- Another label set --------------------------------------------------------------------------------------
def test_answers_of_other_classes_are_refused_and_features_are_not(user: User) -> None:  # noqa: F811
    teacher = hundred()
    problem = the_problem(a_plan(teacher=teacher.pk), user, "teacher")
    assert "kd compares their answers" in problem.message
    plan = a_plan(teacher=teacher.pk, objective=FITNET)
    assert planning.check(plan, user) == []
    assert "hundred has 100 classes of its own: its features teach" in plan_facts.facts(
        planning.gather(plan, user)[0]
    )
    (run,) = planning.create(plan, user)
    asked = runspec.build(run).teacher
    assert asked is not None
    assert asked.classes == 100


def test_its_layers_are_listed_with_its_own_classes(user: User) -> None:  # noqa: F811
    planning.check(a_plan(teacher=hundred().pk, objective=FITNET), user)
    asked = ArchitectureProfile.objects.values_list("architecture", "num_classes")
    assert set(asked) == {("resnet8", 10), ("resnet56", 100)}


def test_as_many_labels_of_which_several_hold_are_another_question(user: User) -> None:  # noqa: F811
    data = make.a_dataset("scenes", info={"task": "multi-label"})
    teacher = make.a_teacher("scenes", architecture=make.an_architecture("resnet56"), dataset=data)
    assert "10 labels (several an image)" in the_problem(a_plan(teacher=teacher.pk), user, "teacher").message
    (run,) = planning.create(a_plan(teacher=teacher.pk, objective=FITNET), user)
    asked = runspec.build(run).teacher
    assert asked is not None
    assert asked.classes == 10


def test_a_teacher_of_the_dataset_has_no_classes_of_its_own(user: User) -> None:  # noqa: F811
    asked = runspec.build(planning.create(a_plan(), user)[0]).teacher
    assert asked is not None
    assert asked.classes is None


# --- The queue waits for all of them ------------------------------------------------------------------------
def test_a_run_waits_for_every_teacher_and_is_woken_by_the_last(
    user: User,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = a_group(user, "second", "third")
    maker = make.a_running_run(makes=Teacher.objects.get(name="third"))
    Teacher.objects.filter(name="third").update(status="preparing")
    assert run not in lifecycle.startable()
    woken: list[int] = []
    monkeypatch.setattr("experiments.queue.send_run", woken.append)
    maker.artifacts.create(kind="student", path="x.safetensors", sha256="0", bytes=1, step=1, fence=1)
    lifecycle.succeed(maker.pk, 1, {"student": {"top1": 0.9}, "steps": 1})
    assert woken == [run.pk]
    assert run in lifecycle.startable()


def test_a_run_whose_further_teacher_failed_fails_with_its_name(user: User) -> None:  # noqa: F811
    run = a_group(user, "second")
    Teacher.objects.filter(name="second").update(status="failed", error="NaN at step 3")
    lifecycle.fail_orphans()
    run.refresh_from_db()
    assert (run.status, run.reason) == ("failed", "Its teacher “second” is not there: NaN at step 3")


def test_a_teacher_in_use_is_not_deleted(user: User) -> None:  # noqa: F811
    run = a_group(user, "second")
    with pytest.raises(ProtectedError):
        Teacher.objects.get(name="second").delete()
    run.delete()
    Teacher.objects.get(name="second").delete()


# --- Where they are named -----------------------------------------------------------------------------------
def test_pages_name_all_teachers(user: User, client: Client) -> None:  # noqa: F811
    run = a_group(user, "second", kind="entropy")
    run = Run.objects.get(pk=run.pk)
    config = run_config.flatten(run)
    assert (config["teacher"], config["more teachers"], config["teachers mixed by"]) == (
        "big",
        "second",
        "entropy",
    )
    client.force_login(user)
    second = Teacher.objects.get(name="second")
    assert (
        reverse("teacher_detail", args=[second.pk]) in client.get(reverse("run_detail", args=[run.pk])).text
    )
    assert run.name in client.get(reverse("teacher_detail", args=[second.pk])).text
    listed = client.get(reverse("teacher_list")).context["teachers"]
    assert {teacher.name: teacher.n_runs for teacher in listed} == {"big": 1, "second": 1}
    told = client.get(f"/api/runs/{run.pk}").json()
    assert [one["name"] for one in told["more_teachers"]] == ["second"]
    found = run_filter.filtered(Run.objects.all(), "teacher:second", "-created")
    assert list(found) == [run]


def test_a_clone_keeps_teachers_and_mixing(user: User) -> None:  # noqa: F811
    from experiments.views.run_start import clone

    run = a_group(user, "second", kind="weighted", weights=[3, 1])
    plan: Plan = clone(run)
    assert plan.more_teachers == [Teacher.objects.get(name="second").pk]
    assert plan.mixing.weights == [3, 1]
