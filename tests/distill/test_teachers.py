"""Several teachers as one."""

import pytest
import torch
from torch import nn

from worker.distill.objective import Wanted
from worker.distill.spec import Mixing, SpecError
from worker.distill.teachers import Look, Teachers


class Saying(nn.Module):
    """A network that always gives these logits."""

    def __init__(self, *logits):
        super().__init__()
        self.body = nn.Identity()
        self.said = nn.Parameter(torch.tensor([logits]))

    def forward(self, x):
        return self.said.expand(len(self.body(x)), -1)


SURE, UNSURE = Saying(9.0, 0.0, 0.0), Saying(0.0, 0.0, 0.1)
X = torch.zeros(2, 3)


def probabilities(mixing, *members, task="single-label"):
    logits = Teachers(members, mixing, task)(X)
    return torch.softmax(logits, 1) if task == "single-label" else torch.sigmoid(logits)


def test_one_teacher_is_taken_at_its_word():
    assert torch.equal(Teachers([SURE], Mixing(), "single-label")(X), SURE(X))


def test_the_mean_is_of_probabilities():
    expected = (torch.softmax(SURE(X), 1) + torch.softmax(UNSURE(X), 1)) / 2
    torch.testing.assert_close(probabilities(Mixing(), SURE, UNSURE), expected)


def test_weights_are_shares_of_their_sum():
    mixed = probabilities(Mixing(kind="weighted", weights=[3, 1]), SURE, UNSURE)
    expected = 0.75 * torch.softmax(SURE(X), 1) + 0.25 * torch.softmax(UNSURE(X), 1)
    torch.testing.assert_close(mixed, expected)


def test_the_surer_teacher_counts_more():
    mixed = probabilities(Mixing(kind="entropy"), SURE, UNSURE)
    torch.testing.assert_close(mixed, torch.softmax(SURE(X), 1), rtol=0, atol=0.01)
    alike = probabilities(Mixing(kind="entropy"), UNSURE, UNSURE)  # none is sure: all count alike
    torch.testing.assert_close(alike, torch.softmax(UNSURE(X), 1))


@pytest.mark.parametrize("kind", ["mean", "entropy"])
def test_multi_label_answers_are_mixed_label_by_label(kind):
    mixed = probabilities(Mixing(kind=kind), SURE, SURE, task="multi-label")
    torch.testing.assert_close(mixed, torch.sigmoid(SURE(X)))


@pytest.mark.parametrize("weights", [[], [1], [0, 0]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(SpecError) as refused:
        Teachers([SURE, UNSURE], Mixing(kind="weighted", weights=weights), "single-label")
    assert refused.value.field == "mixing.weights"


def test_features_are_the_first_teachers_and_nothing_carries_a_gradient():
    wanted = Wanted((), ("body",), {}, {})
    with Look(Teachers([SURE, UNSURE], Mixing(), "single-label"), wanted) as look:
        said = look(X + 1)
    assert set(said) == {"logits", "feature:body"}
    assert torch.equal(said["feature:body"], X + 1)
    assert not any(value.requires_grad or value.is_inference() for value in said.values())
