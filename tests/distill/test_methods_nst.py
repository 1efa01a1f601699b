"""Neuron selectivity transfer: the reference's numbers, by positions and by channels."""

import pytest
import torch

from tests.distill import tiny
from worker.distill.methods.nst import Method, loss


def test_value_and_gradient_are_the_reference_implementations(oracle):
    case, arrays = oracle("NST.RepDistiller.df")
    student = torch.from_numpy(arrays[case["inputs"]["s"]]).requires_grad_()
    value = loss(student, torch.from_numpy(arrays[case["inputs"]["t"]]))
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    expected = torch.from_numpy(arrays[f"g/{case['id']}/s"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("c_s", "c_t"), [(20, 30), (3, 30), (3, 5)])  # 4 × 4 positions
def test_both_ways_to_sum_give_the_definition(c_s, c_t):
    torch.manual_seed(0)
    maps = [torch.randn(2, c, 4, 4, dtype=torch.float64) for c in (c_s, c_t)]
    s, t = (m.flatten(2) / m.flatten(2).norm(dim=2, keepdim=True) for m in maps)

    def mean(a, b):
        return torch.einsum("bcp,bdp->bcd", a, b).pow(2).mean()

    expected = mean(t, t) + mean(s, s) - 2 * mean(s, t)
    assert loss(*maps).item() == pytest.approx(expected.item(), rel=1e-9)


def test_the_order_of_channels_does_not_count():
    torch.manual_seed(1)
    teacher = torch.randn(2, 6, 4, 4, dtype=torch.float64)
    assert loss(teacher.flip(1), teacher).item() == pytest.approx(0, abs=1e-15)


def test_dead_channels_are_finite():
    for dead in (slice(None), slice(0, 1)):
        student = torch.randn(2, 3, 4, 4)
        student[:, dead] = 0
        student.requires_grad_()
        value = loss(student, torch.randn(2, 5, 4, 4))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()
        assert not student.grad[:, dead].any()


def test_the_layers_losses_are_summed():
    method = Method(Method.Params(student_layers=["early", "late"], teacher_layers=["early", "late"]))
    about = tiny.pair()
    method.setup(about)
    step = tiny.step(about)
    expected = sum(
        loss(step.student_features[path], step.teacher_features[path]) for path in ("early", "late")
    )
    assert method(step).item() == pytest.approx(expected.item(), rel=1e-6)
