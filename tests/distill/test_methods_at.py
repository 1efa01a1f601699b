"""Attention transfer: the reference's numbers, maps of any size, several layers."""

import pytest
import torch

from tests.distill import tiny
from worker.distill import models
from worker.distill.methods.at import Method, loss


def test_value_and_gradient_are_the_reference_implementations(oracle):
    case, arrays = oracle("AT.RepDistiller.df")
    student = torch.from_numpy(arrays[case["inputs"]["s"]]).requires_grad_()
    value = loss(student, torch.from_numpy(arrays[case["inputs"]["t"]]), p=case["args"]["p"])
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    expected = torch.from_numpy(arrays[f"g/{case['id']}/s"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-15)


def test_value_follows_from_the_definition():
    student = torch.tensor([[[[3.0, 0.0]], [[0.0, 4.0]]]], dtype=torch.float64)  # (1, 2, 1, 2)
    teacher = torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)
    norm = (9**2 + 16**2) ** 0.5
    expected = ((9 / norm - 1) ** 2 + (16 / norm) ** 2) / 2
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(3, 8, 4), (3, 4, 8), (3, 5, 7)])
def test_larger_maps_are_pooled_in_either_direction(shape):
    student = torch.randn(2, *shape, requires_grad=True)
    loss(student, torch.randn(2, 9, 4, 4)).backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.any()


@pytest.mark.parametrize("p", [1, 2, 3])
def test_features_of_zeros_are_finite(p):
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    value = loss(student, torch.rand(2, 5, 4, 4), p=p)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(
    ("teacher", "student"), [(p.teacher, p.student) for p in Method.presets if p.teacher]
)
def test_presets_for_one_pair_name_layers_of_these_networks(teacher, student):
    networks = [
        models.build(key, num_classes=100, in_channels=3, image_size=32) for key in (student, teacher)
    ]
    from worker.distill import methods

    preset = next(p for p in Method.presets if (p.teacher, p.student) == (teacher, student))
    method = Method(Method.Params.model_validate(preset.objective.terms[0].params))
    method.setup(methods.Pair(*networks, (3, 32, 32), 100))
    assert method.student_paths == method.teacher_paths == ("block1", "block2", "block3", "block4")


def test_the_layers_losses_are_summed_and_signs_do_not_count():
    method = Method(Method.Params(student_layers=["early", "late"], teacher_layers=["early", "late"], p=1))
    about = tiny.pair()
    method.setup(about)
    step = tiny.step(about)
    expected = sum(
        loss(step.student_features[path].abs(), step.teacher_features[path].abs(), p=1)
        for path in ("early", "late")
    )
    assert method(step).item() == pytest.approx(expected.item(), rel=1e-6)
