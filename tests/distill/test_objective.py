"""The weighted sum: its value, its names, its complaints."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from worker.distill import methods, objective, spec
from worker.distill.methods import kd
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
    total, values = loss(at)
    ce = F.cross_entropy(at.student_logits, at.labels)
    term = kd.loss(at.student_logits, at.teacher_logits, temperature=4)
    torch.testing.assert_close(total, 0.1 * ce + 0.9 * term)
    assert loss.names == ["total", "ce", "kd"]
    torch.testing.assert_close(torch.stack(values), torch.stack([total, ce, term]))


def test_a_method_that_occurs_twice_gets_two_names():
    loss = build([{"method": "kd", "params": {"temperature": t}} for t in (1, 4)])
    assert loss.names == ["total", "ce", "kd", "kd_2"]
    assert loss.weights == {"ce": 1.0, "kd": 1.0, "kd_2": 1.0}


def test_a_weight_of_zero_takes_a_term_out_of_the_gradient():
    loss = build([{"method": "kd", "weight": 1.0}], task_weight=0.0)
    at = step()
    total, values = loss(at)
    assert total == values[2]
    assert values[1] > 0


def test_the_methods_own_parts_belong_to_the_objective():
    loss = build([{"method": "fitnet", "params": {"student_layer": "body", "teacher_layer": "body"}}])
    assert {name for name, _ in loss.named_parameters()} == {
        "parts.fitnet.bridge.regressor.weight",
        "parts.fitnet.bridge.regressor.bias",
    }
    assert (loss.student_paths, loss.teacher_paths) == (["body"], ["body"])


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
    _, values = objective.build(spec.Objective(label_smoothing=0.2), None)(at)
    torch.testing.assert_close(values[1], F.cross_entropy(at.student_logits, at.labels, label_smoothing=0.2))
