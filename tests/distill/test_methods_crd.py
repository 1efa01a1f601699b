"""Contrastive distillation: the reference's numbers, its negatives, its memory, exact resume."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.distill import tiny
from worker.distill.methods.crd import Method, draw, loss, normaliser, remember, scores
from worker.distill.spec import SpecError


def test_value_and_gradients_of_the_second_step_are_the_reference_implementations(oracle):
    case, arrays = oracle("CRD.RepDistiller.step2")
    w = {
        name.split("/", 2)[2]: torch.from_numpy(arrays[name])
        for name in arrays.files
        if name.startswith(f"w/{case['id']}/")
    }
    student, teacher, index, contrast = (
        torch.from_numpy(arrays[case["inputs"][k]]) for k in ("s", "t", "idx", "cidx")
    )
    student.requires_grad_()
    learned = {n: t.requires_grad_() for n, t in w.items() if n.startswith("embed")}
    f_s, f_t = (
        F.normalize(F.linear(x, w[f"embed_{k}.linear.weight"], w[f"embed_{k}.linear.bias"]), dim=1)
        for x, k in ((student, "s"), (teacher, "t"))
    )
    tau, momentum, n = case["args"]["nce_t"], case["args"]["nce_m"], case["args"]["n_data"]
    of_student, of_teacher = w["contrast.memory_v1"], w["contrast.memory_v2"]
    # the first step sets the constants and moves the memory; nothing is optimised in between
    z_student = normaliser(scores(f_s, of_teacher, contrast, tau), n)
    z_teacher = normaliser(scores(f_t, of_student, contrast, tau), n)
    value = loss(
        f_s,
        f_t,
        student_memory=remember(of_student, index, f_s, momentum),
        teacher_memory=remember(of_teacher, index, f_t, momentum),
        index=index,
        contrast_index=contrast,
        z_student=z_student,
        z_teacher=z_teacher,
        tau=tau,
    )
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    expected = torch.from_numpy(arrays[f"g/{case['id']}/s"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-9, atol=1e-14)
    for name, tensor in learned.items():
        expected = torch.from_numpy(arrays[f"gw/{case['id']}/{name}"])
        torch.testing.assert_close(tensor.grad, expected, rtol=1e-9, atol=1e-14)


def test_a_contrast_without_negatives_is_refused():
    memory, index = torch.randn(4, 2), torch.tensor([1])
    with pytest.raises(ValueError, match="no negatives"):
        loss(
            memory[:1],
            memory[:1],
            student_memory=memory,
            teacher_memory=memory,
            index=index,
            contrast_index=index[:, None],
            z_student=1.0,
            z_teacher=1.0,
        )


KINDS = torch.tensor([0] * 5 + [1] * 3 + [2] * 12)  # the largest has 12 of 20


@pytest.mark.parametrize("k", [1, 4, 8])
def test_negatives_are_of_other_classes_and_none_comes_twice(k):
    index = torch.tensor([0, 6, 19, 7])
    for seed in range(20):
        others = draw(KINDS, index, k, 12, torch.Generator().manual_seed(seed))
        assert others.shape == (4, k)
        assert (KINDS[others] != KINDS[index][:, None]).all()
        assert all(len(row.unique()) == k for row in others)


def test_every_negative_is_as_likely():
    counts = torch.zeros(20)
    for seed in range(4000):
        others = draw(KINDS, torch.tensor([6]), 4, 12, torch.Generator().manual_seed(seed))
        counts += F.one_hot(others[0], 20).sum(0)
    assert not counts[5:8].any()
    expected = 4000 * 4 / 17
    assert (counts[KINDS != 1] - expected).abs().max() < 5 * np.sqrt(expected)


def made(labels=KINDS, task="single-label", **params):
    method = Method(Method.Params(feat_dim=6, **params))
    torch.manual_seed(0)
    about = tiny.pair(labels=labels, task=task, seed=3)
    method.setup(about)
    return method, about


def test_negatives_are_no_more_than_the_data_has():
    assert made()[0].count == 8
    assert made(negatives=5)[0].count == 5


def test_with_several_labels_every_other_image_is_a_negative():
    method, about = made(labels=torch.ones(20, 3), task="multi-label")
    assert method.count == 19
    assert torch.isfinite(method(tiny.step(about)))


def test_one_class_alone_is_refused():
    with pytest.raises(SpecError, match="of one class") as refused:
        made(labels=torch.zeros(20, dtype=torch.long))
    assert refused.value.field == "negatives"


def test_the_forward_is_the_loss_and_then_the_memory_moves():
    method, about = made()
    method(tiny.step(about, 0))
    before, step = copy.deepcopy(method), tiny.step(about, 1)
    value = method(step)
    f_s = F.normalize(method.student_embedding(step.student_vectors["late"]), dim=1)
    f_t = F.normalize(method.teacher_embedding(step.teacher_vectors["late"]), dim=1)
    generator = before._generator(1)
    others = draw(before.kinds, step.index, before.count, before.most, generator)
    expected = loss(
        f_s,
        f_t,
        student_memory=before.student_memory,
        teacher_memory=before.teacher_memory,
        index=step.index,
        contrast_index=torch.cat([step.index[:, None], others], dim=1),
        z_student=before.z[0],
        z_teacher=before.z[1],
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(method.z, before.z)
    moved = (method.student_memory != before.student_memory).any(1).nonzero().flatten()
    assert moved.tolist() == sorted(step.index.tolist())
    halfway = F.normalize(before.student_memory[step.index] + f_s.detach(), dim=1)
    torch.testing.assert_close(method.student_memory[step.index], halfway)


def test_a_loaded_state_goes_on_exactly():
    method, about = made()
    method(tiny.step(about, 0))
    twin, _ = made()
    twin.load_state_dict(method.state_dict())
    values = [m(tiny.step(about, 7)) for m in (method, twin)]
    assert torch.equal(*values)
    assert all(torch.equal(a, b) for a, b in zip(method.buffers(), twin.buffers(), strict=True))


def test_another_seed_or_step_draws_other_negatives():
    method, _about = made()
    draws = [torch.randperm(20, generator=method._generator(number)).tolist() for number in (0, 1)]
    method.seed = 4
    draws.append(torch.randperm(20, generator=method._generator(0)).tolist())
    assert len({tuple(row) for row in draws}) == 3
