"""Factor transfer: both forms' reference numbers; the autoencoder learns first and then stands still."""

import pytest
import torch

from tests.distill import tiny
from worker.distill import models
from worker.distill.methods.ft import Method, loss


@pytest.mark.parametrize(
    ("case_id", "form"), [("FT.torchdistill.eq", {"p": 1}), ("FT.RepDistiller.df", {"p": 1, "p1": 2})]
)
def test_value_and_gradient_are_the_reference_implementations(oracle, case_id, form):
    case, arrays = oracle(case_id)
    student = torch.from_numpy(arrays[case["inputs"]["s"]]).requires_grad_()
    value = loss(student, torch.from_numpy(arrays[case["inputs"]["t"]]), **form)
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    expected = torch.from_numpy(arrays[f"g/{case_id}/s"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-15)


def test_the_size_of_a_factor_does_not_count():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(loss(5 * student, teacher), loss(student, teacher))
    assert loss(7 * teacher, teacher, p=2) < 1e-12


def test_the_larger_map_is_pooled():
    teacher = torch.rand(2, 3, 4, 6)
    finer = teacher.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert loss(finer, teacher) < 1e-7


def test_factors_of_zeros_are_finite_and_pull_gently():
    for p1 in (None, 2):
        student = torch.zeros(2, 3, 4, 4, requires_grad=True)
        value = loss(student, torch.rand(2, 3, 4, 4), p1=p1)
        value.backward()
        assert torch.isfinite(value)
        assert student.grad.abs().max() <= 1


def test_unequal_channels_are_refused_where_factors_are_compared_whole():
    student, teacher = torch.rand(1, 3, 2, 2), torch.rand(1, 4, 2, 2)
    with pytest.raises(ValueError, match="channels differ: 3, 4"):
        loss(student, teacher)
    assert torch.isfinite(loss(student, teacher, p1=2))


def method(**params):
    made = Method(Method.Params(student_layer="late", teacher_layer="late", **params))
    torch.manual_seed(0)
    about = tiny.pair()
    made.setup(about)
    return made, about


def test_factors_have_half_the_teachers_channels():
    made, about = method()
    step = tiny.step(about)
    assert made.paraphraser.encoder(step.teacher_features["late"]).shape == (4, 4, 4, 4)
    assert made.translator(step.student_features["late"]).shape == (4, 4, 4, 4)
    assert made.prelude_epochs == 30


def test_the_autoencoder_learns_in_the_first_stage_without_the_student():
    made, about = method()
    step = tiny.step(about)
    alone = tiny.methods.Step(
        labels=step.labels,
        index=step.index,
        student_logits=torch.empty(0),
        teacher_logits=torch.empty(0),
        teacher_features=step.teacher_features,
    )
    optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
    before = made.prelude(alone).item()
    for _ in range(60):
        optimizer.zero_grad()
        made.prelude(alone).backward()
        optimizer.step()
    assert made.prelude(alone).item() < before / 2
    assert all(p.grad is None for p in made.translator.parameters())


def test_afterwards_the_autoencoder_stands_still():
    made, about = method()
    made(tiny.step(about)).backward()
    assert all(p.grad is None for p in made.paraphraser.parameters())
    assert all(p.grad is not None for p in made.translator.parameters())
    assert about.student.early.weight.grad is not None


def test_a_batch_of_one_pixel_is_translated():
    made, _ = method()
    assert torch.isfinite(made.train().translator(torch.rand(1, 4, 1, 1))).all()


def test_presets_name_networks_that_exist_and_parameters_that_fit():
    for preset in Method.presets:
        for key in filter(None, (preset.teacher, preset.student)):
            models.find(key)
        Method.Params.model_validate(preset.objective.terms[0].params)
    assert [preset.objective.terms[0].weight for preset in Method.presets] == [200, 200, 1000]
