"""Plans: what is refused, what is doubted, and what they become."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from pydantic import ValidationError

from experiments import plan_checks, plan_facts, planning
from experiments.models import (
    ArchitectureProfile,
    Membership,
    Method,
    Project,
    Role,
    Run,
    Student,
    Teacher,
    Worker,
)
from experiments.planning import Plan, PlanError, Problem
from worker.distill.spec import Objective, Term, Training

from . import make

pytestmark = pytest.mark.django_db


@pytest.fixture
def user() -> User:
    """A member of the project, with a living worker, two methods, and a teacher larger than the student."""
    user = User.objects.create_user("mia")
    Membership.objects.create(project=make.a_project(), user=user, role=Role.MEMBER)
    Worker.objects.create(name="w1", host="here", queue="cpu")
    make.methods()
    small, large = make.an_architecture("resnet8"), make.an_architecture("resnet56")
    for row, parameters in ((small, 78_000), (large, 860_000)):
        row.parameters, row.min_image_size = parameters, 8
        row.save()
    make.a_teacher("big", architecture=large, metrics={"top1": 0.98, "parameters": 855_770})
    return user


def a_plan(**values: Any) -> Plan:
    usual = {
        "project": make.a_project().pk,
        "dataset": make.a_dataset().pk,
        "teacher": Teacher.objects.get(name="big").pk,
        "architecture": "resnet8",
        "objective": plan_facts.preset("kd"),
    }
    return Plan(**(usual | values))


def the_problem(plan: Plan, user: User, field: str) -> Problem:
    """The one problem of a field; a good plan has none at all."""
    found = [problem for problem in planning.check(plan, user) if problem.field == field]
    assert len(found) == 1, planning.check(plan, user)
    return found[0]


def test_a_good_plan_has_no_problem(user: User) -> None:
    assert planning.check(a_plan(), user) == []


# --- Each bad input says field, value and fix ---------------------------------------------------------------
def test_without_a_living_worker_it_warns_and_says_how_to_start_one(user: User) -> None:
    Worker.objects.update(heartbeat=timezone.now() - timezone.timedelta(minutes=5))
    problem = the_problem(a_plan(), user, "worker")
    assert problem.level == "warning"
    assert "manage.py up" in problem.fix


def test_an_unknown_architecture_gets_what_was_probably_meant(user: User) -> None:
    problem = the_problem(a_plan(architecture="resnt8"), user, "architecture")
    assert problem.value == "resnt8"
    assert "resnet8" in problem.fix


def test_an_unknown_method_gets_what_was_probably_meant(user: User) -> None:
    plan = a_plan(objective=Objective(terms=[Term(method="fitnets")]))
    problem = the_problem(plan, user, "objective.terms.0.method")
    assert (problem.value, problem.fix) == ("fitnets", "Did you mean fitnet?")


def test_a_method_no_worker_offers_is_refused_with_its_reason(user: User) -> None:
    Method.objects.filter(key="kd").update(available=False, problem="SyntaxError: line 3")
    assert "SyntaxError" in the_problem(a_plan(), user, "objective.terms.0.method").message


def test_class_counts_that_differ_are_both_named(user: User) -> None:
    other = make.a_dataset("cifar100", classes=[str(n) for n in range(100)])
    problem = the_problem(a_plan(dataset=other.pk), user, "teacher")
    assert problem.level == "error"
    assert "10 classes" in problem.message
    assert "cifar100 has 100" in problem.message
    assert problem.fix


def test_other_class_names_are_a_warning(user: User) -> None:
    other = make.a_dataset("letters", classes=list("abcdefghij"))
    assert the_problem(a_plan(dataset=other.pk), user, "teacher").level == "warning"


def test_a_teacher_of_colour_images_cannot_read_grey_ones(user: User) -> None:
    other = make.a_dataset("colour", channels=3)
    assert "3 channels" in the_problem(a_plan(dataset=other.pk), user, "teacher").message


def test_an_image_too_small_for_the_net_names_size_and_minimum(user: User) -> None:
    row = make.an_architecture("vgg8")
    row.min_image_size = 32
    row.save()
    problem = the_problem(a_plan(architecture="vgg8"), user, "architecture")
    assert "8×8" in problem.message
    assert "at least 32×32" in problem.message


def test_a_parameter_out_of_bounds_is_named_by_its_path(user: User) -> None:
    plan = a_plan(objective=Objective(terms=[Term(method="kd", params={"temperature": -1})]))
    problem = the_problem(plan, user, "objective.terms.0.params.temperature")
    assert (problem.value, problem.message) == (-1, "it must be at least 0.05.")
    assert problem.fix == "Use 0.05 or more."


def test_a_parameter_that_does_not_exist_is_refused(user: User) -> None:
    plan = a_plan(objective=Objective(terms=[Term(method="kd", params={"temprature": 4})]))
    assert "temperature" in the_problem(plan, user, "objective.terms.0.params.temprature").fix


def test_negative_epochs_are_refused_in_our_words() -> None:
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate({"project": 1, "dataset": 1, "training": {"epochs": -3}})
    (problem,) = planning.problems_of(caught.value)
    assert (problem.field, problem.value) == ("training.epochs", -3)
    assert (problem.message, problem.fix) == ("it must be at least 1.", "Use 1 or more.")


def test_a_failed_teacher_is_refused_and_one_in_the_making_is_waited_for(user: User) -> None:
    Teacher.objects.update(status=Teacher.Status.FAILED, error="NaN at step 3")
    problem = the_problem(a_plan(), user, "teacher")
    assert problem.level == "error"
    assert "NaN at step 3" in problem.message
    Teacher.objects.update(status=Teacher.Status.PREPARING)
    assert the_problem(a_plan(), user, "teacher").level == "warning"


def test_a_dataset_must_be_ready(user: User) -> None:
    dataset = make.a_dataset()
    dataset.status = "preparing"
    dataset.save()
    assert the_problem(a_plan(), user, "dataset").level == "error"


def test_a_student_as_big_as_its_teacher_is_a_warning_with_both_sizes(user: User) -> None:
    problem = the_problem(a_plan(architecture="resnet56"), user, "architecture")
    assert problem.level == "warning"
    assert "the student has 860,000 parameters, its teacher 860,000" in problem.message


def test_an_objective_of_zeros_is_refused(user: User) -> None:
    plan = a_plan(objective=Objective(task_weight=0, terms=[Term(method="kd", weight=0)]))
    assert the_problem(plan, user, "objective.task_weight").level == "error"


def test_terms_need_a_teacher(user: User) -> None:
    plan = a_plan(purpose="control", teacher=None)
    problem = the_problem(plan, user, "objective.terms")
    assert (problem.level, problem.value) == ("error", "kd")


def test_distilling_needs_a_teacher_and_a_control_has_none(user: User) -> None:
    assert the_problem(a_plan(teacher=None), user, "teacher").message == "no teacher is chosen."
    assert the_problem(a_plan(purpose="control", objective=Objective()), user, "teacher").level == "error"


def test_the_task_loss_alone_under_a_teacher_is_doubted(user: User) -> None:
    assert the_problem(a_plan(objective=Objective()), user, "objective.terms").level == "warning"


def test_a_layer_that_does_not_exist_is_refused_once_the_network_is_known(user: User) -> None:
    plan = a_plan(objective=Objective(terms=[Term(method="fitnet", params={"student_layer": "layr2"})]))
    assert planning.check(plan, user) == []  # nobody has listed the layers yet: the engine will say
    layers = [{"path": f"layer{n}", "kind": "Sequential", "shape": [16 * n, 8, 8]} for n in (1, 2, 3)]
    ArchitectureProfile.objects.filter(architecture="resnet8").update(status="ready", layers=layers)
    problem = the_problem(plan, user, "objective.terms.0.params.student_layer")
    assert problem.value == "layr2"
    assert "layer2" in problem.fix


def test_a_network_that_cannot_be_built_is_refused_with_the_worker_s_reason(user: User) -> None:
    planning.check(a_plan(), user)
    ArchitectureProfile.objects.filter(architecture="resnet8").update(status="failed", error="needs RGB")
    assert "needs RGB" in the_problem(a_plan(), user, "architecture").message


def test_a_profile_is_asked_for_once(
    user: User, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("experiments.queue._send", lambda *message: sent.append(message))
    with django_capture_on_commit_callbacks(execute=True):
        planning.check(a_plan(), user)
        planning.check(a_plan(), user)
    assert [task for task, _, _ in sent] == ["worker.tasks.profile"] * 2  # student and teacher
    assert ArchitectureProfile.objects.count() == 2


# --- Whose rows ---------------------------------------------------------------------------------------------
def test_rows_of_another_project_do_not_exist(user: User) -> None:
    other = Project.objects.create(name="Other", slug="other")
    theirs = make.a_teacher("theirs", project=other)
    assert "no such teacher" in the_problem(a_plan(teacher=theirs.pk), user, "teacher").message


def test_another_project_itself_does_not_exist(user: User) -> None:
    other = Project.objects.create(name="Other", slug="other")
    (problem,) = planning.check(a_plan(project=other.pk), user)
    assert problem.field == "project"


def test_a_viewer_may_not_start_runs(user: User) -> None:
    Membership.objects.update(role=Role.VIEWER)
    assert the_problem(a_plan(), user, "project").level == "error"
    with pytest.raises(PlanError):
        planning.create(a_plan(), user)
    assert not Run.objects.exists()


# --- What a plan becomes ------------------------------------------------------------------------------------
def test_a_distilled_run_comes_with_its_control_under_the_same_budget(user: User) -> None:
    (run,) = planning.create(a_plan(training=Training(epochs=3, seed=7)), user)
    run.refresh_from_db()
    assert run.status == Run.Status.QUEUED
    assert run.name == "resnet8 ← big · kd"
    assert run.method_keys == "kd"
    control = run.control
    assert control is not None
    assert (control.purpose, control.status, control.teacher) == ("control", "queued", None)
    assert control.training == run.training
    assert control.objective == Objective().model_dump()


def test_parameters_are_stored_with_their_defaults(user: User) -> None:
    (run,) = planning.create(a_plan(objective=Objective(terms=[Term(method="kd")])), user)
    assert run.objective["terms"][0]["params"] == {"temperature": 4.0}


def test_an_experiment_is_made_by_its_name_and_found_by_it(user: User) -> None:
    first = planning.create(a_plan(experiment="Which temperature?"), user)[0]
    second = planning.create(a_plan(experiment=" which Temperature? ", control="none"), user)[0]
    assert first.experiment is not None
    assert first.experiment.name == "Which temperature?"
    assert first.experiment == second.experiment == first.control.experiment
    assert planning.create(a_plan(control="none"), user)[0].experiment is None


def test_an_equal_control_is_used_again(user: User) -> None:
    (first,) = planning.create(a_plan(), user)
    (second,) = planning.create(a_plan(objective=plan_facts.preset("kd", 0.5)), user)
    assert second.control == first.control
    for other in (Training(seed=1), Training(epochs=11)):
        (run,) = planning.create(a_plan(training=other), user)
        assert run.control != first.control


def test_a_failed_control_and_one_of_pretrained_weights_are_not_used_again(user: User) -> None:
    (first,) = planning.create(a_plan(), user)
    Run.objects.filter(pk=first.control_id).update(status=Run.Status.FAILED)
    (second,) = planning.create(a_plan(), user)
    assert second.control_id != first.control_id
    student = Student.objects.create(
        project=make.a_project(), name="pre", architecture_id="resnet8", pretrained=True
    )
    (third,) = planning.create(a_plan(student=student.pk, architecture=""), user)
    assert third.control_id not in (first.control_id, second.control_id)


def test_a_finished_control_is_preferred(user: User) -> None:
    (first,) = planning.create(a_plan(), user)
    finished = first.control
    assert finished is not None
    finished.pk, finished.status = None, Run.Status.SUCCEEDED
    finished.save()
    (second,) = planning.create(a_plan(), user)
    assert second.control == finished


def test_a_given_control_must_be_one_of_this_dataset(user: User) -> None:
    control = make.a_run(status=Run.Status.SUCCEEDED)
    (run,) = planning.create(a_plan(control="existing", control_run=control.pk), user)
    assert run.control == control
    plan = a_plan(control="existing", control_run=run.pk)
    assert the_problem(plan, user, "control_run").level == "error"


def test_without_a_control_there_is_none(user: User) -> None:
    (run,) = planning.create(a_plan(control="none"), user)
    assert run.control is None
    assert Run.objects.count() == 1


def test_seeds_make_as_many_runs_and_controls(user: User) -> None:
    runs = planning.create(a_plan(seeds=3, training=Training(seed=5)), user)
    assert [run.training["seed"] for run in runs] == [5, 6, 7]
    assert [run.control.training["seed"] for run in runs if run.control] == [5, 6, 7]
    assert runs[0].name.endswith("· seed 5")


def test_sent_twice_a_submission_makes_runs_once(user: User) -> None:
    plan = a_plan(submission=uuid.uuid4())
    assert planning.create(plan, user) == planning.create(plan, user)
    assert Run.objects.count() == 2  # the run and its control


def test_a_teacher_in_the_making_is_made_with_its_run(user: User) -> None:
    plan = a_plan(
        purpose="teacher", teacher=None, objective=Objective(), name="huge", architecture="resnet56"
    )
    (run,) = planning.create(plan, user)
    assert run.makes is not None
    assert (run.makes.name, run.makes.status, run.makes.source) == ("huge", "preparing", "trained")
    assert "has this name" in the_problem(plan, user, "name").message


def test_a_plan_with_an_error_leaves_nothing_behind(user: User) -> None:
    with pytest.raises(PlanError):
        planning.create(a_plan(objective=Objective(task_weight=0)), user)
    assert not Run.objects.exists()


# --- In words -----------------------------------------------------------------------------------------------
def test_formulas_read_as_in_the_papers() -> None:
    assert plan_facts.formula(plan_facts.preset("kd")) == "L = 0.1·CE + 0.9·KD(T=4)"
    assert plan_facts.formula(plan_facts.preset("two_part", 0.3)) == "L = 0.3·fitnet + 0.7·KD(T=4)"
    assert plan_facts.formula(plan_facts.preset("fitnet")) == "L = 0.1·CE + 0.9·KD(T=4) + fitnet"
    assert plan_facts.formula(plan_facts.preset("task")) == "L = CE"
    assert plan_facts.formula(Objective(task_weight=0)) == "L = 0"


def test_facts_say_what_fits(user: User) -> None:
    parts, _ = planning.gather(a_plan(), user)
    lines = plan_facts.facts(parts)
    assert "digits: 10 classes, images 1×8×8" in lines
    assert "860,000 → 78,000 parameters: 11× smaller" in lines


def test_sizes_are_both_as_published_or_both_measured(user: User) -> None:
    """A published count is for three channels: beside a measured one a student would outgrow its own kind."""
    parts, _ = planning.gather(a_plan(), user)
    assert plan_checks.parameters(parts) == (78_000, 860_000)
    ArchitectureProfile.objects.filter(architecture="resnet8").update(status="ready", parameters=77_754)
    parts, _ = planning.gather(a_plan(), user)
    assert plan_checks.parameters(parts) == (77_754, 855_770)


@pytest.mark.parametrize(
    ("params", "pair"),
    [
        ({}, "layer2 (32×4×4) ↔ block2 (64×4×4)"),  # the middle stage, and the teacher's of its resolution
        ({"student_layer": "layer3"}, "layer3 (64×2×2) ↔ block3 (128×2×2)"),
        ({"teacher_layer": "block1"}, "layer1 (16×8×8) ↔ block1 (32×8×8)"),
        ({"student_layer": "layer1", "teacher_layer": "block3"}, "layer1 (16×8×8) ↔ block3 (128×2×2)"),
    ],
)
def test_the_pair_of_layers_is_shown_once_both_networks_are_known(
    user: User, params: dict[str, str], pair: str
) -> None:
    plan = a_plan(objective=Objective(terms=[Term(method="fitnet", params=params)]))
    parts, _ = planning.gather(plan, user)
    assert "fitnet: a worker is listing the layers" in plan_facts.facts(parts)
    make.profiled("resnet8", "layer", 16)
    make.profiled("resnet56", "block", 32)
    parts, _ = planning.gather(plan, user)
    assert f"fitnet: {pair}" in plan_facts.facts(parts)
