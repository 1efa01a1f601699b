"""The overhaul of feature distillation: the authors' numbers, and the margin of each batch norm."""

import pytest
import torch
from torch import nn

from worker.distill import methods, models
from worker.distill.methods import ofd
from worker.distill.methods.ofd import Method, loss


def test_value_and_gradient_are_the_reference_implementations(oracle):
    """Whose margin was computed in float32: it is taken as it is."""
    case, arrays = oracle("OFD.mdistiller.eq")
    s, t, m = (torch.from_numpy(arrays[case["inputs"][role]]) for role in "stm")
    value = loss(s.requires_grad_(), t, margin=m)
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    assert case["grad_of"] == ["s"]
    expected = torch.from_numpy(arrays[f"g/{case['id']}/s"])
    torch.testing.assert_close(s.grad, expected, rtol=1e-9, atol=1e-12)


def test_a_low_response_is_right_where_the_teacher_cuts_off():
    def value(s, t, m=-1.0):
        map_ = [torch.full((1, 1, 1, 1), x, dtype=torch.float64) for x in (s, t)]
        return loss(*map_, margin=torch.tensor([m])).item()

    assert value(-2.0, -5.0) == 0.0  # lower than the margin
    assert value(-0.5, -5.0) == pytest.approx(0.25)  # higher: towards the margin
    assert value(-0.2, -0.5) == pytest.approx(0.09)  # the teacher between margin and 0: towards it
    assert value(-0.8, -0.5) == 0.0
    assert value(-1.0, 2.0) == pytest.approx(9.0)  # the teacher positive: towards it from either side
    assert value(3.0, 2.0) == pytest.approx(1.0)


def test_a_margin_by_channel_or_as_it_broadcasts_is_one_and_the_same():
    generator = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    m = -torch.rand(3, generator=generator)
    assert loss(s, t, margin=m) == loss(s, t, margin=m.reshape(1, 3, 1, 1)) > 0


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2), margin=torch.zeros(3))


def test_margins_are_the_mean_of_what_an_activation_cuts_off():
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 0.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, 9.0, 0.0]))
    found = ofd.margins(norm, 4)
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for k, (scale, shift) in enumerate([(1, 0), (2, 1)]):
        response = scale * x + shift
        assert found[k].item() == pytest.approx(response[response < 0].mean().item(), abs=5e-3)
    assert found[2].item() == -1.5  # practically never negative
    assert found[3].item() == 0.0
    assert torch.equal(ofd.margins(nn.Identity(), 3), torch.zeros(3))


def norm_before(teacher, path, image=(3, 16, 16)):
    """The path of the batch norm that the margin of a teacher's layer is of."""
    pair = methods.Pair(teacher, teacher.eval(), image, 4)
    layer = pair.layer("teacher", path)
    found = ofd.last_norm(pair, layer, layer.shape[0])
    return next((path for path, module in teacher.named_modules() if module is found), None)


@pytest.mark.parametrize(
    ("key", "layer", "norm"),
    [
        ("resnet8x4", "layer3", "layer3.0.bn2"),  # not its shortcut's
        ("resnet20", "layer2", "layer2.2.bn2"),
        ("vgg8", "block1", "block1.1"),
        ("shufflenetv1", "layer2", "layer2.7.bn3"),
        ("wrn-16-2", "block2.layer.0.bn1", "block2.layer.0.bn1"),  # the layer itself
        ("wrn-16-2", "block2", None),  # ends without an activation
        ("mobilenetv2-half", "blocks.2", None),
        ("mobilenetv2-half", "conv2", "conv2.1"),
    ],
)
def test_the_margin_is_of_the_batch_norm_before_the_layers_activation(key, layer, norm):
    teacher = models.build(key, num_classes=4, in_channels=3, image_size=16)
    assert norm_before(teacher, layer) == norm


def test_of_equal_stages_in_one_sequence_each_has_its_own_batch_norm():
    def stage():
        return [nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)]

    net = nn.Sequential(*stage(), *stage(), nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    assert [norm_before(net, path, (3, 8, 8)) for path in ("2", "5")] == ["1", "4"]


def test_the_method_keeps_a_margin_for_each_layer_and_its_state_knows_them():
    student, teacher = (
        models.build(key, num_classes=4, in_channels=3, image_size=16) for key in ("resnet8", "resnet8x4")
    )
    method = Method(Method.Params())
    method.setup(methods.Pair(student, teacher.eval(), (3, 16, 16), 4))
    assert method.teacher_paths == ("layer1.0.relu:input", "layer2.0.relu:input", "layer3.0.relu:input")
    torch.testing.assert_close(method.get_buffer("margin2"), ofd.margins(teacher.layer3[0].bn2, 256))
    assert "margin0" in method.state_dict()


@pytest.mark.parametrize(
    ("teacher", "student"), [(p.teacher, p.student) for p in Method.presets if p.teacher.startswith("wrn")]
)
def test_presets_for_wide_networks_have_margins(teacher, student):
    """Whose blocks end without an activation: the layers named are the norms that open the next block."""
    networks = [
        models.build(key, num_classes=100, in_channels=3, image_size=32) for key in (student, teacher)
    ]
    preset = next(p for p in Method.presets if (p.teacher, p.student) == (teacher, student))
    method = Method(Method.Params.model_validate(preset.objective.terms[0].params))
    method.setup(methods.Pair(*networks, (3, 32, 32), 100))
    assert all((method.get_buffer(f"margin{i}") < 0).all() for i in range(3))
