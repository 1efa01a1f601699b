"""ReviewKD: the reference's numbers for loss and fusion, fusion for any two networks, and its warm-up."""

import dataclasses

import pytest
import torch
from torch import nn

from tests.distill import tiny
from worker.distill import methods, models
from worker.distill.methods.reviewkd import ABF, Method, loss


def test_value_and_gradient_are_the_reference_implementations(oracle):
    case, arrays = oracle("ReviewKD.hcl.mdistiller")
    student = [torch.from_numpy(arrays[case["inputs"][f"s{i}"]]).requires_grad_() for i in range(2)]
    value = loss(student, [torch.from_numpy(arrays[case["inputs"][f"t{i}"]]) for i in range(2)])
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    for i, feature in enumerate(student):
        expected = torch.from_numpy(arrays[f"g/{case['id']}/s{i}"])
        torch.testing.assert_close(feature.grad, expected, rtol=1e-9, atol=1e-15)


def test_fusion_is_the_reference_implementations(oracle):
    case, arrays = oracle("ReviewKD.abf.mdistiller")
    prefix = f"w/{case['id']}/"
    weights = {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}
    fusion = ABF(24, 16, 32, True).double()
    fusion.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    student, above, teacher = (torch.from_numpy(arrays[case["inputs"][role]]) for role in ("s", "y", "t"))
    student.requires_grad_(), above.requires_grad_()
    result, _ = fusion(student, above, **case["args"])
    value = loss([result], [teacher])
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    grads = {"g/s": student.grad, "g/y": above.grad}
    grads |= {f"gw/{name}": p.grad for name, p in fusion.named_parameters()}
    for name, grad in grads.items():
        kind, _, what = name.partition("/")
        expected = torch.from_numpy(arrays[f"{kind}/{case['id']}/{what}"])
        torch.testing.assert_close(grad, expected, rtol=1e-8, atol=1e-12)


def test_coarser_levels_count_half_each_time():
    student = torch.zeros(1, 1, 8, 8)
    student[0, 0, 0, 0] = 64  # a mean of 1 overall
    levels = [64**2 / 64, (64 / 4) ** 2 / 16, (64 / 16) ** 2 / 4, 1.0]
    expected = sum(level / 2**n for n, level in enumerate(levels)) / (1 + 1 / 2 + 1 / 4 + 1 / 8)
    assert loss([student], [torch.zeros(1, 1, 8, 8)]).item() == pytest.approx(expected)


def test_a_map_of_one_pixel_is_compared_once():
    assert loss([torch.full((2, 3, 1, 1), 2.0)], [torch.zeros(2, 3, 1, 1)]) == 4


def test_oblong_maps_and_shapes_that_differ():
    assert torch.isfinite(loss([torch.rand(1, 2, 6, 3)], [torch.rand(1, 2, 6, 3)]))
    with pytest.raises(ValueError, match="equal shapes"):
        loss([torch.rand(1, 2, 6, 3)], [torch.rand(1, 2, 3, 6)])


LAYERS = {"student_layers": ["early", "late"], "teacher_layers": ["early", "late"]}


def made(**params):
    about = tiny.pair()
    method = Method(Method.Params(**LAYERS, **params))
    method.setup(about)
    return method, about


def test_stages_are_fused_from_the_pooled_feature_down():
    method, about = made()
    assert [f.att_conv is not None for f in method.fusions] == [True, True, False]
    step = dataclasses.replace(tiny.step(about), epoch=20.0)
    student, teacher = method._levels(step)
    assert [tuple(f.shape[1:]) for f in student] == [(2, 8, 8), (4, 4, 4), (4, 1, 1)]
    top, fused = method.fusions[2](student[2], out_shape=(1, 1))
    late, fused = method.fusions[1](student[1], fused, out_shape=(4, 4))
    early, _ = method.fusions[0](student[0], fused, out_shape=(8, 8))
    torch.testing.assert_close(method(step), loss([early, late, top], teacher))


def test_the_loss_of_an_early_stage_reaches_the_late_ones():
    method, about = made()
    student, _ = method._levels(tiny.step(about))
    _, fused = method.fusions[2](student[2])
    early, _ = method.fusions[0](student[0], fused)
    early.square().sum().backward()
    assert about.student.late.weight.grad.abs().sum() > 0


def test_it_grows_over_the_warm_up():
    method, about = made(warmup_epochs=10)
    method.eval()
    step = tiny.step(about)
    values = [method(dataclasses.replace(step, epoch=e)).item() for e in (0.0, 5.0, 10.0, 50.0)]
    assert values[0] == 0
    assert values[1] == pytest.approx(values[3] / 2)
    assert values[2] == values[3]
    assert method.dials(dataclasses.replace(step, epoch=5.0)) == {"warm-up": 0.5}
    assert made(warmup_epochs=0)[0].dials(step) == {"warm-up": 1.0}


def test_the_number_of_fused_channels_has_a_limit():
    assert {f.conv1[0].out_channels for f in made()[0].fusions} == {4}
    assert {f.conv1[0].out_channels for f in made(max_mid_channel=3)[0].fusions} == {3}


class Dense(nn.Module):
    """No map after the first layer: a vector is its last feature."""

    def __init__(self):
        super().__init__()
        self.early = nn.Conv2d(1, 3, 3, padding=1)
        self.late = nn.Linear(3, 5)

    def forward(self, x):
        return self.late(self.early(x).mean((2, 3)))


def test_a_last_stage_of_one_pixel_is_its_own_pooled_feature_and_one_sample_will_do():
    method = Method(Method.Params(**LAYERS))
    method.setup(methods.Pair(Dense(), Dense(), (1, 8, 8), 5))
    assert len(method.fusions) == 2
    features = {"early": torch.rand(1, 3, 8, 8), "late": torch.rand(1, 5)}
    nothing = torch.zeros(1, 5)
    step = methods.Step(torch.zeros(1), torch.zeros(1), nothing, nothing, features, features, epoch=1.0)
    assert torch.isfinite(method.train()(step))


def test_presets_name_networks_that_exist_and_parameters_that_fit():
    for preset in Method.presets:
        for key in filter(None, (preset.teacher, preset.student)):
            models.find(key)
        Method.Params.model_validate(preset.objective.terms[0].params)
    assert len({preset.title for preset in Method.presets}) == len(Method.presets)
