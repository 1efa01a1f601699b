"""Hinton's loss: the reference's numbers, and finite where others are not."""

import math

import pytest
import torch

from worker.distill.methods.kd import loss, sigmoid_loss


def value_and_gradient(student, teacher, temperature=4.0):
    student = student.clone().requires_grad_()
    value = loss(student, teacher, temperature=temperature)
    value.backward()
    return value.detach(), student.grad


def test_value_and_gradient_are_the_reference_implementations(oracle):
    case, arrays = oracle("KD.RepDistiller.T1.C8x100")
    zs, zt = (torch.from_numpy(arrays[case["inputs"][role]]) for role in ("zs", "zt"))
    value, gradient = value_and_gradient(zs, zt, case["args"]["T"])
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    expected = torch.from_numpy(arrays[f"g/{case['id']}/zs"])
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_value_follows_from_the_definition_with_t_squared():
    zs, zt = (torch.tensor([[z, 0.0]], dtype=torch.float64) for z in (0.0, 2 * math.log(3.0)))
    # at T = 2 the teacher says (3/4, 1/4), the student (1/2, 1/2)
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert loss(zs, zt, temperature=2.0).item() == pytest.approx(expected, rel=1e-12)


def test_a_student_equal_to_its_teacher_costs_nothing_and_learns_nothing():
    z = torch.randn(5, 7, generator=torch.manual_seed(0))
    value, gradient = value_and_gradient(z, z.clone())
    assert value == 0
    assert gradient.abs().max() < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(1, 2), (1, 10), (16, 100)])
def test_confident_logits_stay_finite(dtype, shape):
    torch.manual_seed(1)
    zs, zt = (60 * torch.randn(shape)).to(dtype), (60 * torch.randn(shape)).to(dtype)
    for temperature in (0.5, 1.0, 20.0):
        value, gradient = value_and_gradient(zs, zt, temperature)
        assert torch.isfinite(value)
        assert value >= 0
        assert torch.isfinite(gradient).all()


def test_bf16_logits_are_reckoned_in_fp32():
    torch.manual_seed(2)
    zs, zt = torch.randn(8, 10).bfloat16(), torch.randn(8, 10).bfloat16()
    expected = loss(zs.double(), zt.double(), temperature=4.0)
    assert loss(zs, zt, temperature=4.0).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("masked", [("student", "teacher"), ("teacher",), ("student",)])
def test_a_class_masked_with_minus_infinity_gives_a_finite_loss(masked):
    torch.manual_seed(3)
    logits = {"student": torch.randn(4, 6), "teacher": torch.randn(4, 6)}
    for name in masked:
        logits[name][:, 2] = -torch.inf
    value, gradient = value_and_gradient(logits["student"], logits["teacher"])
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_a_class_masked_in_both_is_as_if_it_did_not_exist():
    torch.manual_seed(4)
    zs, zt = torch.randn(4, 6), torch.randn(4, 6)
    without = loss(zs[:, 1:], zt[:, 1:], temperature=2.0)
    zs[:, 0] = zt[:, 0] = -torch.inf
    torch.testing.assert_close(loss(zs, zt, temperature=2.0), without)


@pytest.mark.parametrize("masked", [("student", "teacher"), ("teacher",), ("student",)])
def test_a_label_masked_with_minus_infinity_gives_a_finite_sigmoid_loss(masked):
    torch.manual_seed(5)
    logits = {"student": torch.randn(4, 6), "teacher": torch.randn(4, 6)}
    for name in masked:
        logits[name][:, 2] = -torch.inf
    student = logits["student"].requires_grad_()
    value = sigmoid_loss(student, logits["teacher"], temperature=2.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_a_label_the_student_cannot_give_is_left_out_and_the_teachers_is_a_certain_no():
    torch.manual_seed(6)
    zs, zt = torch.randn(4, 6).double(), torch.randn(4, 6).double()
    rest = sigmoid_loss(zs[:, 1:], zt[:, 1:], temperature=2.0)
    never = zs.clone()
    never[:, 0] = -torch.inf
    torch.testing.assert_close(sigmoid_loss(never, zt, temperature=2.0), rest)
    sure = zt.clone()
    sure[:, 0] = -torch.inf
    no = 4 * torch.nn.functional.softplus(zs[:, 0] / 2).mean()  # −log(1 − σ(z_s/T)), times T²
    torch.testing.assert_close(sigmoid_loss(zs, sure, temperature=2.0), rest + no)
