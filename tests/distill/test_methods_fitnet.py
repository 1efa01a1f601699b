"""FitNet's hint loss and the bridge between layers of different shapes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.bridge import Bridge, to_map
from worker.distill.methods.fitnet import Method, loss
from worker.distill.spec import SpecError


@pytest.mark.parametrize("case_id", ["Hint.RepDistiller.eq", "Hint.mmrazor.L2.010.eq"])
def test_value_and_gradient_are_the_reference_implementations(oracle, case_id):
    case, arrays = oracle(case_id)
    student = torch.from_numpy(arrays[case["inputs"]["s"]]).requires_grad_()
    value = loss(student, torch.from_numpy(arrays[case["inputs"]["t"]]))
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    expected = torch.from_numpy(arrays[f"g/{case_id}/s"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-12)


def test_the_loss_after_the_references_own_regressor_is_the_references(oracle):
    case, arrays = oracle("FitNet.RepDistiller.df")
    weight = {
        name: torch.from_numpy(arrays[f"w/{case['id']}/{name}"])
        for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias")
    }
    student = torch.from_numpy(arrays[case["inputs"]["s"]]).requires_grad_()
    conv = F.conv2d(student, weight["conv.weight"], weight["conv.bias"], stride=2, padding=1)
    norm = F.batch_norm(conv, None, None, weight["bn.weight"], weight["bn.bias"], training=True)
    value = loss(norm.relu(), torch.from_numpy(arrays[case["inputs"]["t"]]))
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    expected = torch.from_numpy(arrays[f"g/{case['id']}/s"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-12)


def test_zero_features_and_a_batch_of_one_are_finite():
    student = torch.zeros(1, 3, 2, 2, requires_grad=True)
    value = loss(student, torch.zeros(1, 3, 2, 2))
    value.backward()
    assert value == 0
    assert torch.isfinite(student.grad).all()


def test_bf16_features_are_reckoned_in_fp32():
    student, teacher = torch.full((2, 4), 3.0).bfloat16(), torch.zeros(2, 4).bfloat16()
    assert loss(student, teacher).dtype == torch.float32


SHAPES = {
    "channels": ((8, 6, 6), (16, 6, 6), (16, 6, 6)),
    "smaller teacher map": ((8, 8, 8), (16, 4, 4), (16, 4, 4)),
    "smaller student map": ((8, 3, 3), (16, 8, 8), (16, 3, 3)),
    "oblong": ((8, 6, 12), (16, 3, 6), (16, 3, 6)),
    "uneven": ((8, 7, 5), (16, 3, 4), (16, 3, 4)),
    "tokens with a class token": ((8, 4, 4), (17, 24), (24, 4, 4)),
    "tokens without": ((16, 12), (10, 2, 2), (10, 2, 2)),
    "channels last": ((8, 7, 7), (7, 7, 32), (32, 7, 7)),
    "vectors": ((8,), (16,), (16, 1, 1)),
    "vector and map": ((8,), (16, 4, 4), (16, 1, 1)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_bridge_gives_both_sides_one_shape(name):
    student, teacher, expected = SHAPES[name]
    image = (32, 64) if name == "oblong" else (32, 32)
    bridge = Bridge(student, teacher, image=image)
    ours, theirs = bridge(torch.randn(2, *student), torch.randn(2, *teacher))
    assert ours.shape == theirs.shape == (2, *expected)
    loss(ours, theirs).backward()
    assert bridge.regressor.weight.grad is not None


def test_tokens_lie_on_the_grid_row_by_row_and_the_class_token_is_dropped():
    grid = torch.arange(12.0).reshape(1, 3, 2, 2)  # (B, C, H, W)
    tokens = torch.cat([torch.full((1, 1, 3), 99.0), grid.flatten(2).transpose(1, 2)], dim=1)  # (B, 1 + 4, C)
    bridge = Bridge((3, 2, 2), (5, 3), image=(16, 16))
    torch.testing.assert_close(to_map(bridge.teacher, tokens), grid)


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.early = nn.Conv2d(1, width, 3, padding=1)
        self.late = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, x):
        return self.head(self.late(self.early(x).relu()).relu().mean((2, 3)))


def pair():
    return methods.Pair(Net(2), Net(4), (1, 8, 8), 3)


def test_layers_are_picked_by_module_path():
    method = Method(Method.Params(student_layer="early", teacher_layer="late"))
    method.setup(pair())
    assert (method.student_paths, method.teacher_paths) == (("early",), ("late",))
    assert method.bridge.regressor.weight.shape == (8, 2, 1, 1)


def test_empty_paths_let_the_engine_propose_a_pair():
    method = Method(Method.Params())
    method.setup(pair())
    assert method.student_paths[0]
    assert method.student_paths == method.teacher_paths


def test_an_unknown_layer_is_refused_by_name():
    with pytest.raises(SpecError, match=r"student_layer = 'layer9'.*early, late") as refused:
        Method(Method.Params(student_layer="layer9")).setup(pair())
    assert refused.value.field == "student_layer"
