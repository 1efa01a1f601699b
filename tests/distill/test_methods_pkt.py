"""Probabilistic knowledge transfer: the reference's numbers, and where its root has no gradient."""

import pytest
import torch

from worker.distill.methods.pkt import loss


def test_value_and_gradient_are_the_reference_implementations(oracle):
    case, arrays = oracle("PKT.RepDistiller.df")
    student = torch.from_numpy(arrays[case["inputs"]["s"]]).requires_grad_()
    value = loss(student, torch.from_numpy(arrays[case["inputs"]["t"]]), eps=case["args"]["eps"])
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    expected = torch.from_numpy(arrays[f"g/{case['id']}/s"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dead", [slice(None), slice(0, 1)], ids=["all", "one"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_embeddings_of_zeros_are_finite(size, dead):
    student = torch.randn(size, 6)
    student[dead] = 0
    student.requires_grad_()
    value = loss(student, torch.randn(size, 3))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_opposite_embeddings_are_finite():
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    value = loss(student, torch.tensor([[1.0], [1.0]]))
    value.backward()
    assert value > 0
    assert torch.isfinite(student.grad).all()


def test_a_student_like_its_teacher_costs_nothing():
    teacher = torch.randn(5, 7)
    assert loss(teacher.clone(), teacher) == 0


def test_a_batch_of_one_costs_nothing_and_keeps_its_graph():
    student = torch.randn(1, 6, requires_grad=True)
    value = loss(student, torch.randn(1, 3))
    value.backward()
    assert value == 0
    assert not student.grad.any()
