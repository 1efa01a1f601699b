"""Variational information distillation: the reference's numbers, with the learned parts' gradients."""

import pytest
import torch
from torch.nn import functional as F

from tests.distill import tiny
from worker.distill.methods.vid import Method, loss, regressor


def test_value_and_gradients_are_the_reference_implementations(oracle):
    case, arrays = oracle("VID.RepDistiller.df")
    mu = regressor(24, 32).double()
    mu.load_state_dict(
        {f"{i}.weight": torch.from_numpy(arrays[f"w/{case['id']}/regressor.{i}.weight"]) for i in (0, 2, 4)}
    )
    log_scale = torch.from_numpy(arrays[f"w/{case['id']}/log_scale"]).requires_grad_()
    student = torch.from_numpy(arrays[case["inputs"]["s"]]).requires_grad_()
    teacher = torch.from_numpy(arrays[case["inputs"]["t"]])
    value = loss(student, teacher, regressor=mu, log_scale=log_scale, eps=case["args"]["eps"])
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    gradients = {f"g/{case['id']}/s": student.grad, f"gw/{case['id']}/log_scale": log_scale.grad}
    gradients |= {f"gw/{case['id']}/regressor.{i}.weight": mu[i].weight.grad for i in (0, 2, 4)}
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, torch.from_numpy(arrays[name]), rtol=1e-9, atol=1e-14)


def test_every_channel_starts_with_the_variance_asked_for():
    for variance in (5.0, 0.02, 500.0):
        method = Method(Method.Params(init_pred_var=variance))
        method.setup(tiny.pair())
        for alpha in method.log_scales:
            expected = torch.full_like(alpha, variance)
            torch.testing.assert_close(F.softplus(alpha, threshold=200) + 1e-5, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("alpha", [-200.0, 0.0, 200.0])
def test_extreme_variances_are_finite(alpha):
    log_scale = torch.full((3,), alpha, requires_grad=True)
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(student, torch.zeros(2, 3, 4, 4), regressor=torch.nn.Identity(), log_scale=log_scale)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()
    assert torch.isfinite(log_scale.grad).all()


def test_the_learned_parts_are_trained():
    method = Method(Method.Params())
    about = tiny.pair()
    method.setup(about)
    method(tiny.step(about)).backward()
    assert len(method.regressors) == len(method.log_scales) == len(method.student_paths)
    assert all(parameter.grad is not None for parameter in method.parameters())
