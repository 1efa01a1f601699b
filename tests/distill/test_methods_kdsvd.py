"""KDSVD: the reference's numbers under the reference's signs, and what an SVD leaves open or unstable."""

import pytest
import torch

from tests.distill import tiny
from worker.distill.methods import kdsvd
from worker.distill.methods.kdsvd import Method, leading, loss


def case_of(oracle):
    case, arrays = oracle("KDSVD.RepDistiller")
    tensors = {role: torch.from_numpy(arrays[name]) for role, name in case["inputs"].items()}
    student = [tensors["s0"].requires_grad_(), tensors["s1"].requires_grad_()]
    return case, arrays, student, [tensors["t0"], tensors["t1"]]


def library(matrix, count):
    return torch.linalg.svd(matrix, full_matrices=False).Vh.transpose(1, 2)[:, :, :count]


def test_with_the_librarys_signs_value_and_gradient_are_the_reference_implementations(oracle, monkeypatch):
    case, arrays, student, teacher = case_of(oracle)
    signs = iter([library(f.flatten(2).transpose(1, 2), 1) for f in teacher])
    monkeypatch.setattr(kdsvd, "signed", lambda v: v * (v * next(signs)).sum(1, keepdim=True).sign())
    value = loss(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=1e-9)
    for i, feature in enumerate(student):
        expected = torch.from_numpy(arrays[f"g/{case['id']}/s{i}"])
        torch.testing.assert_close(feature.grad, expected, rtol=1e-8, atol=1e-13)


def test_with_ours_the_value_is_near_the_references(oracle):
    case, _, student, teacher = case_of(oracle)
    assert loss(student, teacher).item() == pytest.approx(case["loss"], rel=0.2)


def test_signs_that_a_decomposition_may_choose_do_not_count(monkeypatch):
    torch.manual_seed(0)
    student, teacher = ([torch.randn(3, c, 5, 5, dtype=torch.float64) for c in (6, 8)] for _ in range(2))
    before = loss(student, teacher, k=2)
    found = leading

    def flipped(matrix, count):
        return found(matrix, count) * (1 - 2 * torch.randint(0, 2, (1, 1, 1)))

    monkeypatch.setattr(kdsvd, "leading", flipped)
    for _ in range(8):
        torch.testing.assert_close(loss(student, teacher, k=2), before)


def test_for_non_negative_maps_ours_are_the_librarys_signs():
    torch.manual_seed(0)
    for shape in ((4, 6, 25), (4, 25, 6)):
        v = [library(torch.rand(shape), 1), library(torch.rand(shape), 1)]
        assert (v[0].sum(1) * v[1].sum(1) > 0).all()


@pytest.mark.parametrize("shape", [(3, 12, 5), (3, 5, 12)])
def test_leading_vectors_and_their_derivative_are_the_librarys(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, shape[2], 4, dtype=torch.float64)
    ours, theirs = leading(matrix, 4), library(matrix, 4)
    signs = (ours * theirs).sum(1, keepdim=True).detach().sign()
    torch.testing.assert_close(ours * signs, theirs, rtol=1e-9, atol=1e-12)
    mine = torch.autograd.grad((ours * signs * weight).sum(), matrix)[0]
    expected = torch.autograd.grad((theirs * weight).sum(), matrix)[0]
    torch.testing.assert_close(mine, expected, rtol=1e-8, atol=1e-10)


UNSTABLE = {
    "zero features": torch.zeros(2, 4, 3, 3),
    "equal singular values": torch.eye(4).reshape(1, 4, 2, 2).repeat(2, 1, 1, 2),
    "rank one": torch.ones(2, 4, 3, 3),
    "a batch of one": torch.rand(1, 4, 3, 3),
    "one pixel": torch.rand(2, 4, 1, 1),
    "huge": 1e10 * torch.rand(2, 4, 3, 3),
    "tiny": 1e-10 * torch.rand(2, 4, 3, 3),
    "not finite": torch.full((2, 4, 3, 3), torch.nan),
}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", UNSTABLE)
def test_what_has_no_unique_decomposition_has_a_finite_gradient(name, k):
    torch.manual_seed(0)
    student = [UNSTABLE[name].clone().requires_grad_() for _ in range(2)]
    for teacher in ([torch.rand_like(f) for f in student], [f.detach().clone() for f in student]):
        value = loss(student, teacher, k=k)
        value.backward()
        if name != "not finite":  # only shall not raise: the loop finds it in the losses
            assert torch.isfinite(value)
            assert all(torch.isfinite(f.grad).all() for f in student)


def test_the_teachers_own_features_have_no_loss():
    torch.manual_seed(0)
    features = [torch.rand(3, 6, 4, 4), torch.rand(3, 8, 2, 2)]
    assert loss(features, features, k=2) < 1e-10


def test_too_few_layers_and_unequal_channels_are_refused():
    x, y = torch.rand(1, 3, 2, 2), torch.rand(1, 4, 2, 2)
    for ours, theirs in (([x], [x]), ([x, y], [x, x])):
        with pytest.raises(ValueError, match="two layers or more of equal channels"):
            loss(ours, theirs)


def test_unequal_channels_are_bridged():
    layers = {"student_layers": ["early", "late"], "teacher_layers": ["early", "late"]}
    about = tiny.pair()
    method = Method(Method.Params(**layers))
    method.setup(about)
    method(tiny.step(about)).backward()
    assert [r.weight.shape[:2] for r in method.regressors] == [(4, 2), (8, 4)]
    assert all(p.grad is not None for p in (*method.parameters(), about.student.early.weight))
