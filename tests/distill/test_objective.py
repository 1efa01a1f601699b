"""The weighted sum: its value, its names, its complaints."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from worker.distill import methods, objective, spec
from worker.distill.assemble import class_weights
from worker.distill.methods import kd
from worker.distill.objective import Target
from worker.distill.spec import SpecError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


PAIR = methods.Pair(Net(), Net(), (1, 8, 8), 3)


def build(terms, **kwargs):
    wanted = spec.Objective(terms=[spec.Term(**term) for term in terms], **kwargs)
    return objective.build(wanted, lambda: PAIR)


def step():
    torch.manual_seed(0)
    zs, zt = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    return methods.Step(torch.tensor([0, 1, 2, 0, 1]), torch.arange(5), zs, zt)


def test_total_is_the_weighted_sum_and_terms_are_reported_raw():
    loss = build([{"method": "kd", "weight": 0.9, "params": {"temperature": 4}}], task_weight=0.1)
    at = step()
    values = loss(at, Target(at.labels))
    ce = F.cross_entropy(at.student_logits, at.labels)
    term = kd.loss(at.student_logits, at.teacher_logits, temperature=4)
    torch.testing.assert_close(values.total, 0.1 * ce + 0.9 * term)
    assert values.weights == {"ce": 0.1, "kd": 0.9}
    torch.testing.assert_close(values.raw, {"ce": ce, "kd": term})


def test_a_method_that_occurs_twice_gets_two_names():
    loss = build([{"method": "kd", "params": {"temperature": t}} for t in (1, 4)])
    at = step()
    assert loss(at, Target(at.labels)).weights == {"ce": 1.0, "kd": 1.0, "kd_2": 1.0}


def test_a_weight_of_zero_takes_a_term_out_of_the_gradient():
    loss = build([{"method": "kd", "weight": 1.0}], task_weight=0.0)
    at = step()
    values = loss(at, Target(at.labels))
    assert values.total == values.raw["kd"]
    assert values.raw["ce"] > 0


def test_the_methods_own_parts_belong_to_the_objective():
    loss = build([{"method": "fitnet", "params": {"student_layer": "body", "teacher_layer": "body"}}])
    assert {name for name, _ in loss.named_parameters()} == {
        "parts.fitnet.bridge.regressor.weight",
        "parts.fitnet.bridge.regressor.bias",
    }
    wanted = loss.wanted(prelude=False)
    assert (wanted.student, wanted.teacher) == (("body",), ("body",))


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ([{"method": "nonsense"}], "objective.terms[0].method"),
        ([{"method": "kd", "params": {"temperature": 0}}], "objective.terms[0].params.temperature"),
        ([{"method": "kd", "params": {"temperature": "hot"}}], "objective.terms[0].params.temperature"),
        ([{"method": "kd", "params": {"heat": 4}}], "objective.terms[0].params.heat"),
        (
            [{"method": "kd"}, {"method": "fitnet", "params": {"teacher_layer": "x"}}],
            "objective.terms[1].params.teacher_layer",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_the_path_of_its_field(terms, field):
    with pytest.raises(SpecError) as refused:
        build(terms)
    assert refused.value.field == field
    assert refused.value.fix


def test_terms_without_a_teacher_are_refused():
    wanted = spec.Objective(terms=[spec.Term(method="kd")])
    with pytest.raises(SpecError, match="needs a teacher"):
        objective.build(wanted, None)


def test_an_objective_without_any_weight_is_refused():
    with pytest.raises(SpecError, match="nothing to learn"):
        objective.build(spec.Objective(task_weight=0), None)


def test_label_smoothing_reaches_the_task_loss():
    at = step()
    values = objective.build(spec.Objective(label_smoothing=0.2), None)(at, Target(at.labels))
    expected = F.cross_entropy(at.student_logits, at.labels, label_smoothing=0.2)
    torch.testing.assert_close(values.raw["ce"], expected)


def test_mixed_images_are_judged_by_both_labels_in_their_shares():
    at = step()
    partner, share = torch.tensor([1, 2, 0, 0, 2]), torch.tensor([0.7, 0.2, 1.0, 0.5, 0.9])
    value = objective.build(spec.Objective(), None).task_loss(
        at.student_logits, Target(at.labels, partner, share)
    )
    each = [F.cross_entropy(at.student_logits, y, reduction="none") for y in (at.labels, partner)]
    torch.testing.assert_close(value, (share * each[0] + (1 - share) * each[1]).mean())


def test_multi_label_is_judged_label_by_label():
    labels = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.uint8)
    loss = objective.build(spec.Objective(label_smoothing=0.1), None, task="multi-label")
    logits = step().student_logits
    smooth = labels * 0.9 + 0.05
    expected = F.binary_cross_entropy_with_logits(logits, smooth)
    torch.testing.assert_close(loss.task_loss(logits, Target(labels)), expected)
    assert objective.f1(labels * 2.0 - 1, labels) == 1


SCHEDULES = {
    "constant": ({}, {0: 1, 5: 1, 9.5: 1}),
    "linear": ({"kind": "linear", "final": 0.5}, {0: 1, 5: 0.75, 10: 0.5}),
    "cosine": ({"kind": "cosine"}, {0: 1, 5: 0.5, 10: 0}),
    "warm-up": ({"warmup_epochs": 4}, {0: 0, 1: 0.25, 4: 1, 9: 1}),
    "stop": ({"stop_epoch": 3}, {2.9: 1, 3: 0, 9: 0}),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_weight_follows_its_schedule(name):
    fields, expected = SCHEDULES[name]
    for epoch, factor in expected.items():
        assert objective.factor(spec.Schedule(**fields), epoch, 10) == pytest.approx(factor)


def test_a_balanced_term_weighs_as_much_as_the_task():
    loss = build([{"method": "kd", "weight": 0.5, "schedule": {"balance": True}}])
    at = step()
    values = loss(at, Target(at.labels))
    weighed = values.weights["kd"] * values.raw["kd"]
    torch.testing.assert_close(weighed, 0.5 * values.raw["ce"])
    values.total.backward()  # the balance itself is no way to lower the loss
    assert not values.weights["kd"].requires_grad


def test_a_balanced_term_that_begins_with_nothing_is_measured_from_its_first_value_on():
    loss = build([{"method": "kd", "weight": 0.5, "schedule": {"balance": True}}])
    equal, at = step(), step()
    equal = replace(equal, teacher_logits=equal.student_logits.detach())
    assert loss(equal, Target(equal.labels)).weights["kd"] == 0.5
    values = loss(at, Target(at.labels))
    weighed = values.weights["kd"] * values.raw["kd"]
    torch.testing.assert_close(weighed, 0.5 * values.raw["ce"])


def test_methods_without_a_form_for_the_task_or_the_teachers_classes_are_refused():
    def refused(term, **about):
        pair = methods.Pair(Net(), Net(), (1, 8, 8), 3, **about)
        with pytest.raises(SpecError) as error:
            objective.build(spec.Objective(terms=[spec.Term(method=term)]), lambda: pair)
        assert error.value.field == "objective.terms[0].method"
        return str(error.value)

    assert "multi-label" in refused("dkd", task="multi-label")
    assert "7 classes" in refused("kd", teacher_classes=7)


def test_rare_classes_weigh_more_and_samples_one_on_average():
    labels = np.array([0] * 6 + [1] * 2 + [3])  # there is no class 2
    about = SimpleNamespace(task="single-label", classes=["a", "b", "c", "d"])
    data = SimpleNamespace(meta=about, split=lambda name: SimpleNamespace(labels=labels))
    weights = class_weights(data, torch.device("cpu"))
    torch.testing.assert_close(weights, torch.tensor([0.5, 1.5, 1.0, 3.0]))
    assert weights[labels].mean() == 1


def test_class_weights_smoothing_and_mixing_come_to_the_same_where_nothing_is_mixed_in():
    at, weights = step(), torch.tensor([0.5, 1.5, 1.25])
    loss = objective.build(spec.Objective(label_smoothing=0.1), None, class_weights=weights)
    alone = loss.task_loss(at.student_logits, Target(at.labels))
    mixed = loss.task_loss(at.student_logits, Target(at.labels, at.labels.roll(1), torch.ones(5)))
    torch.testing.assert_close(mixed * 5 / weights[at.labels].sum(), alone)
