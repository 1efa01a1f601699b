"""Activation boundaries: the authors' numbers, features before activations, a first stage."""

import pytest
import torch

from tests.distill.runs import series
from worker.distill import methods, models, trainer
from worker.distill.layers import Tap
from worker.distill.methods.ab import Method, loss
from worker.distill.spec import Objective, SpecError, Term


def test_value_and_gradients_are_the_reference_implementations(oracle):
    case, arrays = oracle("AB.RepDistiller.m2")
    x = {role: torch.from_numpy(arrays[name]) for role, name in case["inputs"].items()}
    for role in case["grad_of"]:
        x[role].requires_grad_()
    student, teacher = ([x[f"{side}{i}"] for i in range(case["args"]["feat_num"])] for side in "st")
    value = loss(student, teacher, margin=case["args"]["margin"])
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    assert case["grad_of"]
    for role in case["grad_of"]:
        expected = torch.from_numpy(arrays[f"g/{case['id']}/{role}"])
        torch.testing.assert_close(x[role].grad, expected, rtol=1e-9, atol=1e-12)


def test_a_neuron_beyond_its_margin_on_the_right_side_costs_nothing():
    s = torch.tensor([[-1.5, -0.5, 0.5, 1.5]], dtype=torch.float64)
    off, on = torch.full_like(s, -3.0), torch.full_like(s, 3.0)
    scale = 3 / 1000
    assert loss([s], [off]).item() == pytest.approx(scale * (0.5**2 + 1.5**2 + 2.5**2), rel=1e-12)
    assert loss([s], [on]).item() == pytest.approx(scale * (2.5**2 + 1.5**2 + 0.5**2), rel=1e-12)
    assert loss([s - 1], [off], margin=0.5).item() == pytest.approx(scale, rel=1e-12)  # 0.5 is on by 1


def test_each_layer_weighs_half_of_the_next_one():
    s, t = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    one = loss([s], [t]).item()
    assert one == pytest.approx(3 / 1000 * 3, rel=1e-12)  # mean over the batch of three neurons off by 1
    assert loss([s, s, s], [t, t, t]).item() == pytest.approx(one * 1.75, rel=1e-12)


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        loss([torch.zeros(2, 3)], [torch.zeros(2, 4)])


@pytest.mark.parametrize(
    ("teacher", "student"), [(p.teacher, p.student) for p in Method.presets if p.teacher]
)
def test_presets_for_one_pair_name_layers_before_activations(teacher, student):
    networks = [
        models.build(key, num_classes=100, in_channels=3, image_size=32) for key in (student, teacher)
    ]
    preset = next(p for p in Method.presets if (p.teacher, p.student) == (teacher, student))
    method = Method(Method.Params.model_validate(preset.objective.terms[0].params))
    method.setup(methods.Pair(*networks, (3, 32, 32), 100))
    for network, paths in zip(networks, (method.student_paths, method.teacher_paths), strict=True):
        with Tap(network, paths) as tap, torch.no_grad():
            network(torch.randn(2, 3, 32, 32))
            assert all((output < 0).any() for output in tap.outputs.values())


def test_the_first_stage_moves_boundaries_and_the_main_part_knows_nothing_of_it(spec):
    wanted = Objective(terms=[Term(method="ab", params={"prelude_epochs": 3})])
    events = []
    trainer.train(spec(objective=wanted), events.append)
    curve = [value for _, value in series(events, "loss/ab")]
    assert curve[-1] < curve[0]
    assert len(series(events, "loss/ce")) == len(curve)  # three epochs of each, one after the other
    assert {step for step, _ in series(events, "loss/ce")}.isdisjoint(
        step for step, _ in series(events, "loss/ab")
    )


def test_alone_without_a_task_it_leaves_nothing_to_learn(spec):
    with pytest.raises(SpecError, match="only prepare the student"):
        trainer.train(spec(objective=Objective(task_weight=0, terms=[Term(method="ab")])), lambda event: None)
