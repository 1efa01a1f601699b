"""Multi-level logits: each part stands alone under stress, and a run without a second view is told so."""

import pytest
import torch

from worker.distill import methods
from worker.distill.methods import mlld
from worker.distill.spec import SpecError

PARTS = {"instances": mlld.kd_loss, "batch": mlld.bc_loss, "classes": mlld.cc_loss}


def logits(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("part", PARTS)
def test_bf16_logits_are_reckoned_in_fp32(part):
    zs, zt = logits(0, 8, 10).bfloat16(), logits(1, 8, 10).bfloat16()
    value = PARTS[part](zs, zt, temperature=4.0)
    assert value.dtype == torch.float32
    expected = PARTS[part](zs.double(), zt.double(), temperature=4.0)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("masked", ["student", "teacher", "both"])
@pytest.mark.parametrize("part", PARTS)
def test_a_class_masked_with_minus_infinity_gives_a_finite_part(part, masked):
    zs, zt = logits(2, 4, 6), logits(3, 4, 6)
    if masked != "teacher":
        zs[:, 1] = -torch.inf
    if masked != "student":
        zt[:, 1] = -torch.inf
    zs.requires_grad_()
    value = PARTS[part](zs, zt, temperature=2.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(zs.grad).all()


@pytest.mark.parametrize("part", PARTS)
def test_a_mask_of_ones_changes_nothing_and_of_zeros_leaves_nothing(part):
    zs, zt = logits(4, 5, 5), logits(5, 5, 5)
    plain = PARTS[part](zs, zt, temperature=3.0)
    torch.testing.assert_close(PARTS[part](zs, zt, temperature=3.0, mask=torch.ones(5)), plain)
    assert PARTS[part](zs, zt, temperature=3.0, mask=torch.zeros(5)) == 0


def test_the_surer_half_of_the_samples_is_left_out_of_the_weak_view():
    """Row 0 is the teacher's surest sample: what the student says of it weakly augmented counts nowhere."""
    teacher = torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.2, 0.1, 0.0]])
    unsure, _ = mlld.masks(teacher)
    assert unsure.tolist() == [0, 1, 1]
    weak = logits(6, 3, 3).requires_grad_()
    mlld.kd_loss(weak, teacher, temperature=4.0, mask=unsure).backward()
    assert weak.grad[0].abs().max() == 0
    assert weak.grad[1:].abs().min() > 0


def test_a_step_without_a_second_view_is_refused():
    method = mlld.Method(mlld.Method.Params())
    step = methods.Step(torch.zeros(2).long(), torch.arange(2), logits(0, 2, 3), logits(1, 2, 3))
    with pytest.raises(SpecError, match=r"step\.strong = None: two views"):
        method(step)
