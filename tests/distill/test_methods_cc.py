"""Correlation congruence: the reference's numbers, and two learned embeddings."""

import pytest
import torch

from tests.distill import tiny
from worker.distill.methods.cc import Method, loss


def test_value_and_gradient_are_the_reference_implementations(oracle):
    case, arrays = oracle("CC.RepDistiller.eq")
    student = torch.from_numpy(arrays[case["inputs"]["s"]]).requires_grad_()
    value = loss(student, torch.from_numpy(arrays[case["inputs"]["t"]]))
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    expected = torch.from_numpy(arrays[f"g/{case['id']}/s"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-12)


def test_value_follows_from_the_definition():
    student = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.0, 2.0]], dtype=torch.float64)
    teacher = torch.zeros_like(student)
    assert loss(student, teacher) == ((1 * 3 + 2 * 1) + (3 * 0 + 1 * 2)) / 2


def test_a_batch_of_one_costs_nothing_and_keeps_its_graph():
    student, teacher = torch.randn(1, 4, requires_grad=True), torch.randn(1, 4, requires_grad=True)
    value = loss(student, teacher)
    value.backward()
    assert value == 0
    assert not student.grad.any()
    assert not teacher.grad.any()


def test_equal_embeddings_have_a_finite_gradient():
    student = torch.randn(4, 3, requires_grad=True)
    value = loss(student, student.detach().clone())
    value.backward()
    assert value == 0
    assert not student.grad.any()


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 2\), \(4, 3\)"):
        loss(torch.randn(4, 2), torch.randn(4, 3))


def test_the_teachers_embedding_is_learned_too():
    method = Method(Method.Params(feat_dim=5))
    about = tiny.pair()
    method.setup(about)
    method(tiny.step(about)).backward()
    assert method.student_embedding.weight.shape == (5, 4)
    assert method.teacher_embedding.weight.shape == (5, 8)
    assert method.teacher_embedding.weight.grad.any()
