"""FSP: the reference's numbers, its Gram matrices by hand, and a student that is initialised by it."""

import pytest
import torch

from tests.distill import tiny
from worker.distill.methods.fsp import Method, loss
from worker.distill.spec import SpecError


def test_value_and_gradient_are_the_reference_implementations(oracle):
    case, arrays = oracle("FSP.RepDistiller")
    student = [torch.from_numpy(arrays[case["inputs"][f"s{i}"]]).requires_grad_() for i in range(3)]
    value = loss(student, [torch.from_numpy(arrays[case["inputs"][f"t{i}"]]) for i in range(3)])
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    for i, feature in enumerate(student):
        expected = torch.from_numpy(arrays[f"g/{case['id']}/s{i}"])
        torch.testing.assert_close(feature.grad, expected, rtol=1e-9, atol=1e-15)


def test_the_flow_is_the_mean_over_positions_of_products():
    student = [torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2), torch.tensor([2.0, 4.0]).reshape(1, 1, 1, 2)]
    nothing = [torch.zeros(1, 1, 1, 2)] * 2
    assert loss(student, nothing).item() == ((1 * 2 + 3 * 4) / 2) ** 2


def test_sizes_may_differ_between_the_networks():
    torch.manual_seed(0)
    teacher = [torch.rand(2, 3, 4, 6), torch.rand(2, 5, 4, 6)]
    finer = [f.repeat_interleave(2, 2).repeat_interleave(2, 3) for f in teacher]
    assert loss(finer, teacher) < 1e-12


@pytest.mark.parametrize("channels", [((3,), (3,)), ((3, 4), (3, 5)), ((3, 4, 4), (3, 4))])
def test_too_few_layers_and_unequal_channels_are_refused(channels):
    ours, theirs = ([torch.rand(1, c, 2, 2) for c in side] for side in channels)
    with pytest.raises(ValueError, match="two layers or more of equal channels"):
        loss(ours, theirs)


LAYERS = {"student_layers": ["early", "late"], "teacher_layers": ["early", "late"]}


def test_unequal_channels_are_bridged_and_equal_ones_left_alone():
    about = tiny.pair()
    method = Method(Method.Params(**LAYERS))
    method.setup(about)
    assert [r.weight.shape[:2] for r in method.regressors] == [(4, 2), (8, 4)]
    method.prelude(tiny.step(about)).backward()
    assert all(p.grad is not None for p in (*method.parameters(), about.student.early.weight))
    assert about.student.head.weight.grad is None

    twins = tiny.methods.Pair(about.teacher, about.teacher, about.image, 3)
    method.setup(twins)
    assert list(method.regressors.parameters()) == []


def test_it_is_over_with_its_first_stage():
    assert Method.prelude_only
    assert Method(Method.Params(prelude_epochs=7)).prelude_epochs == 7


def test_a_single_pair_of_layers_is_refused():
    with pytest.raises(SpecError, match="it needs 2 pairs"):
        Method(Method.Params(student_layers=["early"], teacher_layers=["early"])).setup(tiny.pair())


def test_the_recipe_as_the_reference_computes_it_comes_first():
    assert [preset.objective.terms[0].weight for preset in Method.presets] == [1, 50]
    assert all(preset.objective.terms[0].method == "fsp" and preset.source for preset in Method.presets)
