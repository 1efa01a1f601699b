"""Similarity-preserving loss: the reference's numbers, and batches that say little."""

import pytest
import torch

from worker.distill.methods.sp import loss


def test_value_and_gradient_are_the_reference_implementations(oracle):
    case, arrays = oracle("SP.RepDistiller.df")
    student = torch.from_numpy(arrays[case["inputs"]["s"]]).requires_grad_()
    value = loss(student, torch.from_numpy(arrays[case["inputs"]["t"]]))
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    expected = torch.from_numpy(arrays[f"g/{case['id']}/s"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-15)


def test_only_relations_count_not_scale_or_direction():
    torch.manual_seed(0)
    teacher = torch.randn(6, 5, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    assert loss(3 * teacher @ turn, teacher).item() == pytest.approx(0, abs=1e-20)
    assert loss(teacher.flip(0), teacher) > 1e-3


@pytest.mark.parametrize("size", [1, 2, 5])
def test_features_of_zeros_are_finite(size):
    student = torch.zeros(size, 3, 4, 4, requires_grad=True)
    value = loss(student, torch.randn(size, 7))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_a_batch_of_one_costs_nothing_and_keeps_its_graph():
    student = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss(student, torch.randn(1, 8, 2, 2))
    value.backward()
    assert value == 0
    assert not student.grad.any()


def test_batches_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match="4, 3"):
        loss(torch.randn(4, 2), torch.randn(3, 2))
