"""Relational distillation: the references' numbers, points that coincide, large batches in pieces."""

import pytest
import torch

from worker.distill.methods import rkd
from worker.distill.methods.rkd import loss

CASES = {
    "RKD.RepDistiller.d25a50.df": {"w_d": 25.0, "w_a": 50.0},
    "RKD.mmrazor.dist.l20.df": {"w_d": 1.0, "w_a": 0.0},
    "RKD.mmrazor.angle.l20.df": {"w_d": 0.0, "w_a": 1.0},
}


@pytest.mark.parametrize("case_id", CASES)
def test_value_and_gradient_are_the_reference_implementations(oracle, case_id):
    case, arrays = oracle(case_id)
    student = torch.from_numpy(arrays[case["inputs"]["s"]]).requires_grad_()
    value = loss(student, torch.from_numpy(arrays[case["inputs"]["t"]]), **CASES[case_id])
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    expected = torch.from_numpy(arrays[f"g/{case_id}/s"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-15)


def value_and_gradient(student, teacher):
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    return value.detach(), student.grad


def test_a_large_batch_in_pieces_has_the_same_value_and_gradient(monkeypatch):
    torch.manual_seed(0)
    student, teacher = torch.randn(11, 4).double(), torch.randn(11, 6).double()
    value, gradient = value_and_gradient(student, teacher)
    monkeypatch.setattr(rkd, "AT_ONCE", 4 * 11 * 11)  # four of eleven points at a time
    in_pieces, its_gradient = value_and_gradient(student, teacher)
    assert in_pieces.item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(its_gradient, gradient, rtol=1e-10, atol=1e-14)


def test_points_that_coincide_have_a_finite_and_moderate_gradient():
    torch.manual_seed(1)
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    student[1] = student[0]
    value, gradient = value_and_gradient(student, teacher)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() < 100


@pytest.mark.parametrize("size", [2, 3, 8])
def test_embeddings_of_zeros_are_finite(size):
    for student, teacher in ((torch.zeros(size, 4), torch.randn(size, 3)), (torch.zeros(size, 4),) * 2):
        value, gradient = value_and_gradient(student, teacher)
        assert torch.isfinite(value)
        assert not gradient.any()


def test_scale_place_and_direction_do_not_count():
    torch.manual_seed(2)
    teacher = torch.randn(7, 5, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    value, _ = value_and_gradient(10 * teacher @ turn + 3, teacher)
    assert value.item() == pytest.approx(0, abs=1e-20)


def test_close_points_far_from_the_origin_keep_their_distances_in_fp32():
    torch.manual_seed(3)
    near = torch.randn(8, 16)
    assert loss(near + 1000, near) < 1e-4


def test_a_batch_of_one_costs_nothing_and_keeps_its_graph():
    value, gradient = value_and_gradient(torch.randn(1, 6), torch.randn(1, 3))
    assert value == 0
    assert not gradient.any()


def test_batches_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match="4, 3"):
        loss(torch.randn(4, 2), torch.randn(3, 2))
