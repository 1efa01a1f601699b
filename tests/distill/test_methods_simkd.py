"""SimKD: the authors' numbers, and the student that answers with the teacher's classifier."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.distill.runs import identical, series, stopped_at, weights
from worker.distill import methods, models, trainer
from worker.distill.methods import simkd
from worker.distill.methods._graft import behind, without_tail
from worker.distill.methods.simkd import Method, loss
from worker.distill.spec import Objective, SpecError, Term


def test_value_and_gradient_are_the_reference_implementations(oracle):
    case, arrays = oracle("SimKD.SimKD.sm")
    x = {role: torch.from_numpy(arrays[name]) for role, name in case["inputs"].items()}
    for role in case["grad_of"]:
        x[role].requires_grad_()
    transfer = simkd.projector(case["args"]["s_n"], case["args"]["t_n"], case["args"]["factor"]).double()
    prefix = f"w/{case['id']}/transfer."
    transfer.load_state_dict(
        {
            name.removeprefix(prefix): torch.from_numpy(np.array(arrays[name]))
            for name in arrays
            if name.startswith(prefix)
        }
    )
    value = loss(x["s"], x["t"], transfer=transfer.train())
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    assert case["grad_of"]
    for role in case["grad_of"]:
        expected = torch.from_numpy(arrays[f"g/{case['id']}/{role}"])
        torch.testing.assert_close(x[role].grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 8, 4), (3, 4, 8), (3, 2, 2)])
def test_the_larger_map_is_pooled(shape):
    student = torch.randn(2, *shape, requires_grad=True)
    loss(student, torch.randn(2, 6, 4, 4), transfer=nn.Conv2d(3, 6, 1)).backward()
    assert student.grad.any()


def net(key):
    return models.build(key, num_classes=4, in_channels=3, image_size=16)


def prepared(student="resnet8", teacher="resnet20", **params):
    pair = methods.Pair(net(student), net(teacher).eval(), (3, 16, 16), 4)
    method = Method(Method.Params(**params))
    method.setup(pair)
    return pair, method


# ---- what of the teacher is imitated


@pytest.mark.parametrize(
    ("teacher", "layer"),
    [
        ("resnet20", "layer3"),
        ("vgg8", "block4"),
        ("wrn-16-2", "relu"),
        ("mobilenetv2-half", "conv2"),
        ("shufflenetv1", "layer3"),
        ("shufflenetv2", "relu"),
        ("torchvision/resnet18", "layer4"),
    ],
)
def test_the_map_before_pooling_is_found(teacher, layer):
    model = models.build(teacher, num_classes=4, in_channels=3, image_size=64).eval()
    method = Method(Method.Params())
    method.setup(methods.Pair(net("resnet8"), model, (3, 64, 64), 4))
    assert method.teacher_paths == (layer,)


class Head(nn.Module):
    """A convolution, and a classifier that sees what `seen` makes of its map."""

    def __init__(self, seen, classifier):
        super().__init__()
        self.conv, self.seen, self.classifier = nn.Conv2d(3, 8, 3, 2, 1), seen, classifier

    def forward(self, x):
        return self.classifier(self.seen(self.conv(x)))


@pytest.mark.parametrize(
    ("teacher", "reason"),
    [
        (Head(lambda x: x.amax((2, 3)), nn.Linear(8, 4)), "does not see the mean of a feature map"),
        (Head(lambda x: x.flatten(1), nn.Linear(512, 4)), "does not see the mean of a feature map"),
        (Head(lambda x: x.mean((2, 3)), nn.Linear(8, 5)), "no linear classifier for the dataset's classes"),
        (Head(lambda x: x.mean((2, 3)), nn.Bilinear(8, 8, 4)), "no linear classifier"),
    ],
)
def test_a_teacher_whose_classifier_cannot_be_used_is_refused(teacher, reason):
    if isinstance(teacher.classifier, nn.Bilinear):
        teacher.seen = lambda x: x.mean((2, 3))
        teacher.forward = lambda x: teacher.classifier(*[teacher.seen(teacher.conv(x))] * 2)
    method = Method(Method.Params())
    with pytest.raises(SpecError, match=reason) as refused:
        method.setup(methods.Pair(net("resnet8"), teacher.eval(), (3, 16, 16), 4))
    assert refused.value.fix


def test_a_layer_of_other_channels_than_the_classifiers_is_refused():
    with pytest.raises(SpecError, match="has 32 channels, the classifier takes 64"):
        prepared(teacher_layer="layer2")


# ---- the student it makes


@pytest.mark.parametrize("teacher", ["resnet20", "vgg8", "wrn-16-2", "mobilenetv2-half"])
def test_the_grafted_student_answers_with_the_teachers_classifier(teacher):
    pair, method = prepared(teacher=teacher)
    grafted = method.graft(pair.student)
    assert grafted(torch.randn(2, 3, 16, 16)).shape == (2, 4)
    theirs = [m for m in pair.teacher.modules() if isinstance(m, nn.Linear)][-1]
    assert torch.equal(grafted.classifier.weight, theirs.weight)
    assert grafted.classifier.weight is not theirs.weight
    trained = {name.partition(".")[0] for name, p in grafted.named_parameters() if p.requires_grad}
    assert trained == {"trunk", "transfer"}
    assert list(method.parameters()) == []  # counted and trained once


@pytest.mark.parametrize(
    ("student", "gone"),
    [
        ("resnet8", {"fc"}),
        ("wrn-16-2", {"bn1", "fc"}),
        ("shufflenetv2", {"conv2", "bn2", "linear"}),
    ],
)
def test_what_the_student_has_behind_its_last_stage_costs_nothing(student, gone):
    pair, method = prepared(student)
    before = dict(pair.student.named_parameters())
    grafted = method.graft(pair.student)
    grafted(torch.randn(2, 3, 16, 16)).sum().backward()
    kept = dict(grafted.trunk.named_parameters())
    assert {name.partition(".")[0] for name in before.keys() - kept.keys()} == gone
    assert all(p.grad is not None for p in kept.values())


class Two(nn.Module):
    """A stage, and two heads whose answers are added; `needed`: something of the first head's is read."""

    def __init__(self, needed):
        super().__init__()
        self.stage, self.needed = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()), needed
        self.head, self.second = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stage(x).mean((2, 3))
        if self.needed:
            x = x * self.head.weight.mean()
        return self.head(x) + self.second(x)


@pytest.mark.parametrize(("needed", "left"), [(False, set()), (True, {"head", "second"})])
def test_heads_that_are_added_go_together_or_stay(needed, left):
    student = Two(needed)
    without_tail(student, "stage", (3, 8, 8))
    names = {name.partition(".")[0] for name, _ in student.named_parameters()}
    assert names == {"stage"} | left


def test_a_module_that_serves_before_the_layer_too_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.stage, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

        def forward(self, x):
            return self.last(self.conv(self.stage(self.conv(x)))).mean((2, 3))

    assert behind(Twice(), "stage", (3, 8, 8)) == ["last"]


def test_two_builds_have_the_same_names_and_a_copy_is_whole():
    names = []
    for _ in range(2):
        pair, method = prepared("shufflenetv2", "vgg8")
        grafted = method.graft(pair.student).eval()
        names.append(list(grafted.state_dict()))
    assert names[0] == names[1]
    x = torch.randn(2, 3, 16, 16)
    twin = copy.deepcopy(grafted)
    assert torch.equal(twin(x), grafted(x))
    with torch.no_grad():
        twin.trunk.conv1.weight.zero_()
    assert not torch.equal(twin(x), grafted(x))


def test_the_projector_narrows_by_the_factor():
    _, method = prepared(factor=4)
    transfer = method.graft_parts[3]
    assert [m.out_channels for m in transfer if isinstance(m, nn.Conv2d)] == [16, 16, 64]


# ---- runs


def test_it_trains_through_the_trainer_and_exports_what_answers(spec):
    run = spec(objective=Objective(task_weight=0.0, terms=[Term(method="simkd")]), epochs=6)
    result = trainer.train(run, lambda event: None)
    assert {name.partition(".")[0] for name in weights(run)} == {"trunk", "transfer", "classifier"}
    assert not any(name.startswith("trunk.fc") for name in weights(run))
    assert result["student"]["top1"] > 0.6  # of three classes, without having seen a label


@pytest.mark.parametrize("other", ["fitnet", "rkd"])  # a map, and a pooled feature
def test_other_methods_find_the_layers_of_the_rebuilt_student_and_a_stop_changes_nothing(
    spec, other, monkeypatch
):
    monkeypatch.setattr("worker.distill.meter.INTERVAL", 0)
    objective = Objective(terms=[Term(method="simkd"), Term(method=other), Term(method="kd")])
    events = []
    trainer.train(whole := spec("whole", objective), events.append)
    assert all(value > 0 for _, value in series(events, f"loss/{other}"))
    stopped_at(run := spec("stopped", objective), [3], [])
    trainer.train(run, lambda event: None)
    assert identical(weights(run), weights(whole))


@pytest.mark.parametrize(
    ("term", "reason"),
    [
        (
            Term(method="fitnet", params={"student_layer": "fc", "teacher_layer": "fc"}),
            "fc, which simkd takes",
        ),
        (Term(method="simkd"), "which simkd does already"),
    ],
)
def test_what_cannot_go_with_a_rebuilt_student_is_refused(spec, term, reason):
    run = spec(objective=Objective(terms=[Term(method="simkd"), term]))
    with pytest.raises(SpecError, match=reason) as refused:
        trainer.train(run, lambda event: None)
    assert refused.value.field == "objective.terms[1].method"
