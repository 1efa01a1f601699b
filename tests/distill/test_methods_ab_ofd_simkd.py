"""The methods that look before activations or rebuild the student: the authors' numbers, and their parts."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.distill.runs import weights
from worker.distill import methods, models, trainer
from worker.distill.layers import Tap, trace
from worker.distill.methods import ab, ofd, simkd
from worker.distill.spec import Objective, SpecError, Term


def given(oracle, case_id):
    case, arrays = oracle(case_id)
    x = {role: torch.from_numpy(arrays[name]) for role, name in case["inputs"].items()}
    for role in case["grad_of"]:
        x[role].requires_grad_()
    return case, arrays, x


def same(case, arrays, x, value):
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    for role in case["grad_of"]:
        expected = torch.from_numpy(arrays[f"g/{case['id']}/{role}"])
        torch.testing.assert_close(x[role].grad, expected, rtol=1e-9, atol=1e-12)


def test_ab_is_the_reference_implementations(oracle):
    case, arrays, x = given(oracle, "AB.RepDistiller.m2")
    student, teacher = ([x[f"{side}{i}"] for i in range(3)] for side in "st")
    same(case, arrays, x, ab.loss(student, teacher, margin=case["args"]["margin"]))


def test_ofd_is_the_reference_implementations(oracle):
    """Whose margin was computed in float32: it is taken as it is."""
    case, arrays, x = given(oracle, "OFD.mdistiller.eq")
    same(case, arrays, x, ofd.loss(x["s"], x["t"], margin=x["m"]))


def test_simkd_is_the_reference_implementations(oracle):
    case, arrays, x = given(oracle, "SimKD.SimKD.sm")
    transfer = simkd.projector(24, 32, factor=2).double()
    prefix = f"w/{case['id']}/transfer."
    transfer.load_state_dict(
        {
            name.removeprefix(prefix): torch.from_numpy(np.array(arrays[name]))
            for name in arrays
            if name.startswith(prefix)
        }
    )
    same(case, arrays, x, simkd.loss(x["s"], x["t"], transfer=transfer.train()))


def test_margins_are_the_mean_of_what_an_activation_cuts_off():
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, 9.0]))
    found = ofd.margins(norm, 3)
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for k, (scale, shift) in enumerate([(1, 0), (2, 1)]):
        response = scale * x + shift
        assert found[k].item() == pytest.approx(response[response < 0].mean().item(), abs=5e-3)
    assert found[2].item() == -1.5  # practically never negative
    assert torch.equal(ofd.margins(nn.Identity(), 3), torch.zeros(3))


def net(key, size=16):
    return models.build(key, num_classes=4, in_channels=3, image_size=size)


def about(student, teacher):
    return methods.Pair(net(student), net(teacher).eval(), (3, 16, 16), 4)


@pytest.mark.parametrize("key", ["resnet8", "vgg8", "shufflenetv1"])
def test_features_before_the_activation_become_the_layers_own_behind_it(key):
    model = net(key).eval()
    layers = {layer.path: layer for layer in trace(model, 3, 16)}
    block = {"resnet8": "layer2", "vgg8": "block1", "shufflenetv1": "layer2"}[key]
    before = f"{layers[block].activation}:input"
    with Tap(model, [block, before]) as tap, torch.no_grad():
        model(torch.randn(2, 3, 16, 16))
        assert torch.equal(F.relu(tap.outputs[before]), tap.outputs[block])
        assert (tap.outputs[before] < 0).any()


def test_an_activation_in_place_spoils_nothing_before_it():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(inplace=True)))
    layer = next(layer for layer in trace(model, 1, 4) if layer.path == "1")
    assert layer.activation == "1.1"
    with Tap(model, ["1.1:input"]) as tap:
        for _ in range(2):  # the second time, Tap knows whether a copy is needed
            model(torch.randn(2, 1, 4, 4))
            assert (tap.outputs["1.1:input"] < 0).any()


def test_the_margin_is_of_the_blocks_own_batch_norm_not_of_its_shortcut():
    pair = about("resnet8", "resnet8x4")
    method = ofd.Method(ofd.Method.Params())
    method.setup(pair)
    expected = ofd.margins(pair.teacher.layer3[0].bn2, 256)
    torch.testing.assert_close(method.get_buffer("margin2"), expected)


@pytest.mark.parametrize("teacher", ["resnet20", "vgg8", "wrn-16-2", "mobilenetv2-half"])
def test_the_grafted_student_answers_with_the_teachers_classifier(teacher):
    pair = about("resnet8", teacher)
    method = simkd.Method(simkd.Method.Params())
    method.setup(pair)
    grafted = method.graft(pair.student)
    logits = grafted(torch.randn(2, 3, 16, 16))
    assert logits.shape == (2, 4)
    theirs = [m for m in pair.teacher.modules() if isinstance(m, nn.Linear)][-1]
    assert torch.equal(grafted.classifier.weight, theirs.weight)
    assert grafted.classifier.weight is not theirs.weight
    trained = {name for name, p in grafted.named_parameters() if p.requires_grad}
    assert not any(name.startswith("classifier") for name in trained)
    assert any(name.startswith("transfer") for name in trained)
    assert list(method.parameters()) == []  # counted and trained once
    assert not any("fc" in name for name, _ in grafted.named_parameters())  # the old one costs nothing


def test_simkd_trains_through_the_trainer_and_exports_what_answers(spec):
    run = spec(objective=Objective(task_weight=0.0, terms=[Term(method="simkd")]), epochs=6)
    result = trainer.train(run, lambda event: None)
    names = weights(run).keys()
    assert {name.partition(".")[0] for name in names} == {"trunk", "transfer", "classifier"}
    assert result["student"]["top1"] > 0.6  # of three classes, without having seen a label


def test_simkd_and_a_method_on_layers_do_not_go_together(spec):
    run = spec(objective=Objective(terms=[Term(method="simkd"), Term(method="fitnet")]))
    with pytest.raises(SpecError, match=r"fitnet.*which simkd rebuilds"):
        trainer.train(run, lambda event: None)
