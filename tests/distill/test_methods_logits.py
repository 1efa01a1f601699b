"""The logit methods against the authors' numbers, value and gradient; and what is particular to each."""

import pytest
import torch
from torch.nn import functional as F

from worker.distill import methods
from worker.distill.methods import ctkd, dist, dkd, kd, logit_std, mlld, nkd, wsld
from worker.distill.spec import SpecError


def tensors(case, arrays):
    return {role: torch.from_numpy(arrays[name]) for role, name in case["inputs"].items()}


def check(oracle, case_id, function, factor=1.0, rel=1e-9):
    """function(inputs by role, case's arguments) is the reference, value and gradients, up to a factor."""
    case, arrays = oracle(case_id)
    given = tensors(case, arrays)
    for role in case["grad_of"]:
        given[role].requires_grad_()
    value = function(given, case["args"]) * factor
    value.backward()
    assert value.item() == pytest.approx(case["loss"], rel=rel)
    for role in case["grad_of"]:
        expected = torch.from_numpy(arrays[f"g/{case_id}/{role}"])
        scale = expected.abs().max().item()
        torch.testing.assert_close(given[role].grad, expected, rtol=rel, atol=rel * scale)


CASES = {
    "KD.RepDistiller.T1.C8x100": lambda x, a: kd.loss(x["zs"], x["zt"], temperature=a["T"]),
    "MLLD.kd_loss.T4.C8x100": lambda x, a: mlld.kd_loss(x["zs"], x["zt"], **a),
    "MLLD.cc_loss.T4.C8x100": lambda x, a: mlld.cc_loss(x["zs"], x["zt"], **a),
    "MLLD.bc_loss.T4.C8x100": lambda x, a: mlld.bc_loss(x["zs"], x["zt"], **a),
    "LogitStd.author.T1.C8x100": lambda x, a: logit_std.loss(
        x["zs"], x["zt"], temperature=a["temperature"], eps=a["eps"]
    ),
    "DKD.mdistiller.T1.a1b8.C8x100": lambda x, a: dkd.loss(x["zs"], x["zt"], target=x["y"], **a),
    "NKD.cls_KD.T1.C8x100": lambda x, a: nkd.loss(
        x["zs"], x["zt"], target=x["y"], gamma=a["gamma"], temperature=a["temp"]
    ),
    "CTKD.lam-1": lambda x, a: ctkd.loss(
        x["zs"], x["zt"], x["gT"], t_start=a["t_start"], t_end=a["t_end"], lambda_=a["cos_value"]
    ),
    "DIST.OFAKD.b1T1.C8x100": lambda x, a: dist.loss(x["zs"], x["zt"], **a),
}


@pytest.mark.parametrize("case_id", CASES)
def test_value_and_gradient_are_the_authors(oracle, case_id):
    check(oracle, case_id, CASES[case_id])


def test_wsld_is_the_authors_whose_weight_on_the_term_is_ours_outside(oracle):
    case, _ = oracle("WSLD.cls_KD.T2.C8x100")
    check(
        oracle,
        "WSLD.cls_KD.T2.C8x100",
        lambda x, a: wsld.loss(x["zs"], x["zt"], target=x["y"], temperature=a["temp"]),
        factor=case["args"]["alpha"],
    )


def test_mlld_differs_from_the_authors_code_where_it_departs_from_the_paper(oracle):
    """Their sum of the instance parts is ours with the mean of the masks and their slip at T = 2 and 6."""

    def theirs(x, a):
        unsure, _ = mlld.masks(x["tw"])
        weak = sum(mlld.kd_loss(x["zw"], x["tw"], temperature=t) for t in mlld.TEMPERATURES)
        strong = sum(mlld.kd_loss(x["zs"], x["ts"], temperature=t) for t in (4.0, 3.0, 5.0))
        slip = sum(mlld.kd_loss(x["zw"], x["tw"], temperature=t) for t in (2.0, 6.0))
        return a["kd_weight"] * (weak * unsure.mean() + strong + slip)

    check(oracle, "MLLD.full.loss_kd", theirs)


def logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_mlld_is_the_sum_of_its_parts_and_zero_for_equal_networks():
    weak, strong = logits(6, 5), logits(6, 5, seed=1)
    assert mlld.loss(weak, strong, weak, strong).item() == pytest.approx(0, abs=1e-12)
    teacher = logits(6, 5, seed=2)
    unsure, rare = mlld.masks(teacher)
    assert unsure.sum() == 3
    expected = mlld.kd_loss(weak, teacher, temperature=2.0, mask=unsure)
    expected += mlld.kd_loss(strong, teacher, temperature=2.0)
    expected += mlld.bc_loss(weak, teacher, temperature=2.0, mask=unsure)
    expected += mlld.cc_loss(weak, teacher, temperature=2.0, mask=rare)
    torch.testing.assert_close(mlld.loss(weak, strong, teacher, teacher, temperatures=[2.0]), expected)


def test_mlld_refuses_temperatures_near_zero():
    method = mlld.Method(mlld.Method.Params(temperatures=[4, 0.01]))
    with pytest.raises(SpecError, match=r"temperatures = 0\.01"):
        method.setup(None)


def test_standardised_logits_forget_shift_and_scale():
    zs, zt = logits(4, 6), logits(4, 6, seed=1)
    plain = logit_std.loss(zs, zt)
    torch.testing.assert_close(logit_std.loss(3 * zs + 7, 0.2 * zt - 1), plain, rtol=1e-6, atol=1e-9)


def test_dkd_with_equal_parts_is_kd_when_the_teacher_knows_nothing():
    """KD = TCKD + (1 − p_t) · NCKD, equation 5: checked at every sample's own weight."""
    zs, zt = logits(1, 6), logits(1, 6, seed=1)
    target = torch.tensor([2])
    p = torch.softmax(zt, 1)[0, 2].item()
    split = dkd.loss(zs, zt, target=target, alpha=1, beta=1 - p, temperature=1)
    torch.testing.assert_close(split, kd.loss(zs, zt, temperature=1))


def test_two_classes_leave_no_non_targets():
    zs, zt = logits(3, 2).requires_grad_(), logits(3, 2, seed=1)
    target = torch.tensor([0, 1, 1])
    both = dkd.loss(zs, zt, target=target, alpha=0, beta=8)
    assert both.item() == 0
    known = -(torch.softmax(zt, 1) * torch.log_softmax(zs, 1))[torch.arange(3), target].mean()
    torch.testing.assert_close(nkd.loss(zs, zt, target=target), known)


def step(method, epoch=0.0, labels=None, task="single-label", epochs=100):
    zs, zt = logits(4, 3), logits(4, 3, seed=1)
    labels = torch.tensor([0, 1, 2, 0]) if labels is None else labels
    return methods.Step(labels, torch.arange(4), zs, zt, epoch=epoch, epochs=epochs, task=task)


def make(module, **params):
    return module.Method(module.Method.Params(**params))


def test_dkd_warms_up_over_its_epochs():
    method = make(dkd, warmup_epochs=4)
    full = method(step(method, epoch=50))
    assert method(step(method, epoch=0.9)).item() == pytest.approx(full.item() / 4)
    assert method.dials(step(method, epoch=1.0))["warm-up"] == 0.5


def test_kds_temperature_moves_to_its_final_value():
    method = make(kd, temperature=8, final_temperature=2)
    drawn = [method.dials(step(method, epoch=e))["temperature"] for e in (0, 50, 100)]
    assert drawn == [8, 5, 2]
    at = step(method, epoch=50)
    torch.testing.assert_close(method(at), kd.loss(at.student_logits, at.teacher_logits, temperature=5.0))


def test_kd_of_labels_that_exclude_nothing_is_the_sum_of_bernoulli_divergences():
    method = make(kd, temperature=2)
    at = step(method, task="multi-label", labels=torch.tensor([[1, 0, 1]] * 4))
    p, q = (torch.sigmoid(z / 2) for z in (at.teacher_logits, at.student_logits))
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(method(at), 4 * each.sum(1).mean())


def test_the_curriculum_turns_the_temperature_against_the_student():
    assert [round(ctkd.curriculum(e, 10), 6) for e in (0, 5, 10, 30)] == [0, -0.5, -1, -1]
    method = make(ctkd)
    value = method(step(method, epoch=20))
    value.backward()
    theta = method.theta.detach().clone().requires_grad_()
    at = step(method)
    temperature = 1 + 20 * torch.sigmoid(theta)
    kd.loss(at.student_logits, at.teacher_logits, temperature=temperature.squeeze()).backward()
    torch.testing.assert_close(method.theta.grad, -theta.grad)
    assert method.dials(at)["temperature"].item() == pytest.approx(temperature.item())


def test_wsld_trusts_the_teacher_where_it_knows_more():
    sure, lost = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    target = torch.tensor([0])
    assert wsld.sample_weights(lost, sure, target=target).item() == pytest.approx(1, abs=1e-3)
    assert wsld.sample_weights(sure, lost, target=target).item() < 0.01
    method = make(wsld)
    weight = method.dials(step(method))["sample weight"]
    assert 0 < weight < 1


def test_dist_sees_no_difference_in_scale_of_probabilities():
    p = torch.softmax(logits(5, 4), 1)
    assert dist.pearson(p, 0.3 * p + 0.1).mean().item() == pytest.approx(1, abs=1e-6)
    assert dist.loss(logits(5, 4), logits(5, 4)).item() == pytest.approx(0, abs=1e-6)
    alone = dist.loss(logits(1, 4), logits(1, 4, seed=1))  # no relation between samples
    rho = dist.pearson(*(torch.softmax(logits(1, 4, seed=s), 1) for s in (0, 1)))
    assert alone.item() == pytest.approx(1 - rho.item())


@pytest.mark.parametrize(
    "function",
    [
        lambda zs, zt, y: kd.loss(zs, zt),
        lambda zs, zt, y: kd.sigmoid_loss(zs, zt),
        lambda zs, zt, y: logit_std.loss(zs, zt),
        lambda zs, zt, y: dist.loss(zs, zt),
        lambda zs, zt, y: dkd.loss(zs, zt, target=y),
        lambda zs, zt, y: nkd.loss(zs, zt, target=y),
        lambda zs, zt, y: wsld.loss(zs, zt, target=y),
        lambda zs, zt, y: mlld.loss(zs, zs, zt, zt),
    ],
    ids=["kd", "kd, sigmoid", "logit_std", "dist", "dkd", "nkd", "wsld", "mlld"],
)
@pytest.mark.parametrize("classes", [2, 10])
def test_extreme_bf16_logits_give_finite_fp32_values_and_gradients(function, classes):
    for zs in (60 * logits(4, classes), torch.zeros(4, classes), logits(1, classes)):
        zs = zs.bfloat16().requires_grad_()
        zt = (60 * logits(len(zs), classes, seed=3)).bfloat16()
        value = function(zs, zt, torch.arange(len(zs)) % classes)
        value.backward()
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(zs.grad).all()


def test_the_task_losses_gradient_is_not_hidden_in_a_term():
    """wsld's weights are constants: its gradient is the weighted cross-entropy's alone."""
    zs, zt = logits(4, 3).requires_grad_(), logits(4, 3, seed=1)
    y = torch.tensor([0, 1, 2, 0])
    wsld.loss(zs, zt, target=y, temperature=1.0).backward()
    fixed = wsld.sample_weights(zs, zt, target=y)
    twin = zs.detach().clone().requires_grad_()
    (fixed * F.cross_entropy(twin, torch.softmax(zt, 1), reduction="none")).mean().backward()
    torch.testing.assert_close(zs.grad, twin.grad)
