"""Schedules, layers and training: what is refused or doubted before a run is queued, and what is shown."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User

from experiments import plan_facts, plan_layers, planning
from experiments.models import ArchitectureProfile, Method, Run, Student
from experiments.plan_layers import Pairs
from experiments.planning import Plan, Problem
from worker.distill.spec import Objective, Schedule, Term, Training

from . import make
from .test_planning import a_plan, the_problem, user  # noqa: F401  # the fixture

pytestmark = pytest.mark.django_db


@pytest.fixture
def known(user: User) -> User:  # noqa: F811
    """Both networks have been listed, and there is a method of several layers."""
    Method.objects.create(key="at", title="Attention", schema=make.AT, needs=["features"], tasks=make.BOTH)
    make.profiled("resnet8", "layer", 16)
    make.profiled("resnet56", "block", 32)
    return user


def with_term(method: str, params: dict[str, Any] | None = None, **values: Any) -> Plan:
    return a_plan(objective=Objective(terms=[Term(method=method, params=params or {})]), **values)


def with_training(**values: Any) -> Plan:
    return a_plan(training=Training(**values))


def told(pairs: Pairs) -> list[tuple[Any, ...]]:
    return [(ours.path, ours.shape, hint.path, hint.shape) for ours, hint in pairs]


def facts(plan: Plan, user: User) -> list[str]:  # noqa: F811
    return plan_facts.facts(planning.gather(plan, user)[0])


# --- Schedules ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (Schedule(), ""),
        (Schedule(warmup_epochs=5), "↗5 ep"),
        (Schedule(kind="linear"), " →0 linear"),
        (Schedule(kind="cosine", final=0.1, warmup_epochs=2.5), "↗2.5 ep →0.1 cosine"),
        (Schedule(stop_epoch=150, balance=True), " until ep 150 balanced"),
    ],
)
def test_the_formula_tells_how_a_weight_moves(schedule: Schedule, said: str) -> None:
    objective = Objective(
        task_weight=0.1,
        terms=[Term(method="kd", weight=0.9, schedule=schedule, params={"temperature": 4.0})],
    )
    assert plan_facts.formula(objective) == f"L = 0.1·CE + 0.9·KD(T=4){said}"


def test_a_term_that_never_reaches_its_weight_is_doubted(known: User) -> None:
    plan = with_term("kd")
    plan.objective.terms[0].schedule = Schedule(warmup_epochs=10)
    problem = the_problem(plan, known, "objective.terms.0.schedule.warmup_epochs")
    assert (problem.level, problem.value) == ("warning", 10)


# --- Layers -------------------------------------------------------------------------------------------------
def test_a_pair_for_every_stage_is_proposed_with_both_shapes(known: User) -> None:
    assert (
        "at: layer1 (16×8×8) ↔ block1 (32×8×8), layer2 (32×4×4) ↔ block2 (64×4×4), "
        "layer3 (64×2×2) ↔ block3 (128×2×2)"
    ) in facts(with_term("at"), known)


def test_named_layers_are_paired_in_their_order(known: User) -> None:
    params = {"student_layers": ["layer3", "layer1"], "teacher_layers": ["block1", "block3"]}
    assert "at: layer3 (64×2×2) ↔ block1 (32×8×8), layer1 (16×8×8) ↔ block3 (128×2×2)" in facts(
        with_term("at", params), known
    )


def test_a_method_of_last_features_is_shown_with_the_last_stages(known: User) -> None:
    schema = make.FITNET | {"proposed": "last"}
    Method.objects.create(key="rkd", title="RKD", schema=schema, needs=["features"], tasks=make.BOTH)
    assert "rkd: layer3 (64×2×2) ↔ block3 (128×2×2)" in facts(with_term("rkd"), known)
    assert "rkd: layer1 (16×8×8) ↔ block3 (128×2×2)" in facts(
        with_term("rkd", {"student_layer": "layer1"}), known
    )


def test_unequal_numbers_of_layers_are_refused(known: User) -> None:
    plan = with_term("at", {"student_layers": ["layer1", "layer2"], "teacher_layers": ["block1"]})
    problem = the_problem(plan, known, "objective.terms.0.params.student_layers")
    assert "2 layers of the student are named and 1 of the teacher" in problem.message


def test_each_missing_layer_of_a_list_is_named(known: User) -> None:
    plan = with_term("at", {"student_layers": ["layer1"], "teacher_layers": ["blck1"]})
    problem = the_problem(plan, known, "objective.terms.0.params.teacher_layers")
    assert problem.value == "blck1"
    assert "block1" in problem.fix


def test_what_is_no_feature_is_refused_with_both_shapes(known: User) -> None:
    strange = [{"path": "scores", "kind": "Attention", "shape": [4, 3, 17, 17]}]
    profile = ArchitectureProfile.objects.get(architecture="resnet56")
    ArchitectureProfile.objects.filter(pk=profile.pk).update(layers=[*profile.layers, *strange])
    plan = with_term("fitnet", {"student_layer": "layer2", "teacher_layer": "scores"})
    problem = the_problem(plan, known, "objective.terms.0.params.teacher_layer")
    assert "layer2 (32×4×4)" in problem.message
    assert "scores (4×3×17×17)" in problem.message
    assert problem.level == "error"


@pytest.mark.parametrize(
    ("small", "large"), [("resnet8", "resnet20"), ("vgg8", "wrn-16-2"), ("resnet8", "vgg8")]
)
def test_the_pairs_that_are_shown_are_the_pairs_the_engine_takes(known: User, small: str, large: str) -> None:
    from worker.distill import models
    from worker.distill.methods import Pair
    from worker.distill.methods._features import OnePair, SeveralPairs, one_pair, several_pairs
    from worker.distill.profile import profile
    from worker.distill.spec import ProfileSpec

    for key in (small, large):
        spec = ProfileSpec(architecture=key, num_classes=10, in_channels=1, image_size=32)
        ArchitectureProfile.objects.update_or_create(
            architecture=make.an_architecture(key), num_classes=10, in_channels=1, image_size=32,
            defaults={"status": "ready", **profile(spec)},
        )  # fmt: skip
    data = make.a_dataset("large digits", height=32, width=32)
    teacher = make.a_teacher("theirs", architecture=make.an_architecture(large), dataset=data)
    objective = Objective(terms=[Term(method="fitnet"), Term(method="at")])
    plan = a_plan(architecture=small, teacher=teacher.pk, dataset=data.pk, objective=objective)
    shown = plan_facts.term_pairs(planning.gather(plan, known)[0])
    nets = [models.build(key, num_classes=10, in_channels=1, image_size=32) for key in (small, large)]
    pair = Pair(*nets, (1, 32, 32), 10)
    taken = [[one_pair(pair, OnePair())], several_pairs(pair, SeveralPairs())]
    assert list(map(told, shown)) == list(map(told, taken))


def test_every_method_is_shown_with_the_layers_it_takes() -> None:
    """Some listen just before the activation that ends the layer which is shown."""
    from torch import arange

    from worker.distill import methods, models
    from worker.distill.methods import Pair

    nets = [
        models.build(key, num_classes=10, in_channels=3, image_size=32) for key in ("resnet8", "wrn-16-2")
    ]
    pair = Pair(*nets, (3, 32, 32), 10, labels=arange(64) % 10)
    known = plan_layers.Networks(pair.student_layers, pair.teacher_layers, 32)
    told_of = 0
    for key, kind in methods.discover().methods.items():
        row = Method(key=key, schema=kind.Params.model_json_schema())
        if not (shown := plan_layers.pairs(Term(method=key), row, known)):
            continue
        method = kind(kind.Params())
        method.setup(pair)
        taken = (
            method.student_paths or method.student_vectors,
            method.teacher_paths or method.teacher_vectors,
        )
        for side, paths in enumerate(taken):
            for layer, path in zip([one[side] for one in shown], paths, strict=True):
                assert path == layer.path or path.startswith(f"{layer.path}."), key
        told_of += 1
    assert told_of >= 10


# --- Training -----------------------------------------------------------------------------------------------
def test_warm_up_must_leave_something_of_the_run(known: User) -> None:
    problem = the_problem(with_training(epochs=5, warmup_epochs=5), known, "training.warmup_epochs")
    assert (problem.level, problem.fix) == ("error", "Make it less than the epochs (5).")


def test_a_batch_must_not_be_larger_than_the_training_split(known: User) -> None:
    data = make.a_dataset()
    data.info = {"sizes": {"train": 100}}
    data.save()
    problem = the_problem(with_training(batch_size=128), known, "training.batch_size")
    assert (problem.level, problem.fix) == ("error", "Use 100 or less.")
    assert planning.check(with_training(batch_size=100), known) == []


@pytest.mark.parametrize(
    ("values", "field"), [({"batch_size": 1}, "batch_size"), ({"views": 4, "augment": False}, "views")]
)
def test_what_says_little_is_a_warning(known: User, values: dict[str, Any], field: str) -> None:
    assert the_problem(with_training(**values), known, f"training.{field}").level == "warning"


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_is_refused_where_a_method_compares_two_views(known: User, name: str) -> None:
    assert planning.check(with_training(**{name: 0.2}), known) == []
    Method.objects.filter(key="kd").update(needs=["logits", "views"])
    problem = the_problem(with_training(**{name: 0.2}), known, f"training.{name}")
    assert problem.level == "error"
    assert "kd needs two views" in problem.message


# --- Tasks and transfer -------------------------------------------------------------------------------------
def test_a_method_without_a_multi_label_form_is_refused_on_multi_label_data(known: User) -> None:
    Method.objects.filter(key="kd").update(tasks=["single-label"])
    assert planning.check(a_plan(), known) == []
    data = make.a_dataset()
    data.info = {"task": "multi-label"}
    data.save()
    problem = the_problem(a_plan(), known, "objective.terms.0.method")
    assert "no form for multi-label data" in problem.message
    assert planning.check(with_term("fitnet"), known) == []


def the_freezing(plan: Plan, user: User) -> Problem:  # noqa: F811
    return the_problem(plan, user, "frozen_stages")


def test_no_more_stages_are_frozen_than_there_are(known: User) -> None:
    problem = the_freezing(a_plan(frozen_stages=4), known)
    assert (problem.level, problem.fix) == ("error", "Freeze at most 3: layer1, layer2, layer3.")


def test_freezing_random_weights_is_doubted_and_pretrained_ones_are_kept_in_run_and_control(
    known: User,
) -> None:
    assert the_freezing(a_plan(frozen_stages=2), known).level == "warning"
    row = Student.objects.create(
        project=make.a_project(), name="pre", architecture_id="resnet8", pretrained=True
    )
    plan = a_plan(frozen_stages=2, student=row.pk, architecture="")
    assert planning.check(plan, known) == []
    (run,) = planning.create(plan, known)
    assert run.control is not None
    assert (run.frozen_stages, run.control.frozen_stages) == (2, 2)
    thawed = planning.create(plan.model_copy(update={"frozen_stages": 0}), known)[0]
    assert thawed.control_id != run.control_id


def test_the_control_weighs_classes_alike(known: User) -> None:
    plan = a_plan(objective=Objective(class_weights="balanced", terms=[Term(method="kd")]))
    control = planning.create(plan, known)[0].control
    assert control is not None
    assert control.objective == Objective(class_weights="balanced").model_dump()


def test_a_control_of_an_earlier_version_is_still_an_equal_one(known: User) -> None:
    (first,) = planning.create(a_plan(), known)
    control = Run.objects.get(pk=first.control_id)
    del control.training["clip_norm"], control.objective["class_weights"]
    control.save()
    assert planning.create(a_plan(), known)[0].control == control
