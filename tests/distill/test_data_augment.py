"""Augmentation as a pure function of (seed, view, sample)."""

import numpy as np
import pytest
import torch

from worker.distill.data.augment import Augment, mix, random_bits
from worker.distill.data.prepared import Augmentation, Meta

IMAGES = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=torch.manual_seed(0))
INDEX = torch.arange(64) * 7


def meta(**augment):
    return Meta(
        kind="made",
        classes=["a", "b"],
        channels=3,
        height=16,
        width=16,
        sizes={},
        mean=[0.4, 0.5, 0.6],
        std=[0.2, 0.25, 0.3],
        class_counts={},
        augment=Augmentation(**augment),
        augmentation=[],
        fingerprint="",
        samples={},
    )


FULL = Augment(meta(padding=2, flip=True))


def test_a_view_does_not_depend_on_the_batch_it_is_in():
    whole = FULL(IMAGES, INDEX, seed=3, view=5)
    order = torch.randperm(64, generator=torch.manual_seed(1))
    shuffled = FULL(IMAGES[order], INDEX[order], seed=3, view=5)
    assert torch.equal(shuffled, whole[order])
    assert torch.equal(FULL(IMAGES[9:10], INDEX[9:10], seed=3, view=5), whole[9:10])


def test_a_view_does_not_depend_on_torchs_generator():
    torch.manual_seed(0)
    one = FULL(IMAGES, INDEX, seed=3, view=5)
    torch.manual_seed(1)
    assert torch.equal(one, FULL(IMAGES, INDEX, seed=3, view=5))


def test_seed_view_and_sample_each_change_the_draw():
    bits = [
        random_bits(INDEX, 3, 5),
        random_bits(INDEX, 4, 5),
        random_bits(INDEX, 3, 6),
        random_bits(INDEX, 5, 3),
        random_bits(INDEX + 1, 3, 5),
    ]
    assert len(torch.cat(bits).unique()) == 5 * 64


def test_the_bits_are_splitmix64():
    """First outputs for seed 0 as published with the reference implementation."""
    from worker.distill.data import augment

    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    assert [augment._mix(golden * n & mask) for n in (1, 2, 3, 4)] == published
    key = augment._mix(augment._mix(11) + 3 * golden & mask)
    expected = [augment._mix(key + n * golden & mask) for n in (0, 1, 1000)]
    assert [b & mask for b in random_bits(torch.tensor([0, 1, 1000]), 11, 2).tolist()] == expected


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_crops_and_mirrors_are_those_of_a_plain_loop(mode):
    augment = Augment(meta(padding=2, flip=True, padding_mode=mode))
    bits = random_bits(INDEX, 1, 2).tolist()
    width = {"zero": "constant", "reflect": "reflect"}[mode]
    expected = []
    for image, b in zip(IMAGES.numpy(), bits, strict=True):
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode=width)
        down, right = (b & 0xFFFFF) % 5, ((b >> 20) & 0xFFFFF) % 5
        crop = padded[:, down : down + 16, right : right + 16]
        expected.append(crop[:, :, ::-1] if (b >> 40) & 1 else crop)
    expected = augment.normalise(torch.from_numpy(np.stack(expected)))
    assert torch.equal(augment(IMAGES, INDEX, seed=1, view=2), expected)


def test_every_offset_and_both_sides_come_equally_often():
    bits = random_bits(torch.arange(20_000), 0, 0)
    offsets = torch.bincount((bits & 0xFFFFF) % 5 * 5 + ((bits >> 20) & 0xFFFFF) % 5, minlength=25)
    assert 20_000 / 25 * 0.85 < offsets.min() <= offsets.max() < 20_000 / 25 * 1.15
    assert abs(((bits >> 40) & 1).float().mean() - 0.5) < 0.015


def test_normalising_is_the_formula():
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    expected = (IMAGES.double() / 255 - mean.double().view(1, 3, 1, 1)) / std.double().view(1, 3, 1, 1)
    got = FULL.normalise(IMAGES)
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), expected, atol=1e-6)


def test_without_augmentation_a_view_is_the_normalised_image():
    plain = Augment(meta())
    assert torch.equal(plain(IMAGES, INDEX, seed=1, view=1), plain.normalise(IMAGES))


def test_mirroring_alone_only_mirrors():
    got = Augment(meta(flip=True))(IMAGES, INDEX, seed=1, view=1)
    straight = FULL.normalise(IMAGES)
    same = (got == straight).flatten(1).all(1)
    mirrored = (got == straight.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_the_page_says_in_words_what_is_done():
    lines = Augmentation(padding=4, flip=True).lines(32, 32)
    assert lines == ["random 32 × 32 crop after padding by 4 px (black)", "random mirroring left to right"]
    assert Augmentation().lines(8, 8) == []


# ---- strong views and mixtures --------------------------------------------------------------------


def shaped(channels, height=12, width=16, padding=2):
    size = {"channels": channels, "height": height, "width": width}
    size |= {"mean": [0.4] * channels, "std": [0.2] * channels}
    return meta(padding=padding, flip=True).model_copy(update=size)


def pictures(number, *shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, *shape), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strong_view_is_a_function_of_seed_view_and_sample(channels):
    augment = Augment(shaped(channels))
    images = pictures(6, channels, 12, 16)
    index = torch.arange(6)
    whole = augment.strong(images, index, seed=3, view=1)
    assert whole.shape == images.shape
    assert torch.isfinite(whole).all()
    some = torch.tensor([4, 1])
    torch.testing.assert_close(augment.strong(images[some], some, seed=3, view=1), whole[some])
    assert not torch.equal(augment.strong(images, index, seed=3, view=2), whole)
    assert not torch.equal(augment(images, index, seed=3, view=1), whole)


def test_a_strong_view_stays_within_the_pictures_range():
    about = shaped(1)
    augment = Augment(about)
    seen = augment.strong(pictures(40, 1, 12, 16), torch.arange(40), seed=0, view=0)
    light = seen * about.std[0] + about.mean[0]
    assert light.min() >= -1e-5
    assert light.max() <= 1 + 1e-5
    assert ((light - 0.5).abs() < 1e-5).flatten(1).sum(1).ge(3 * 4).all()  # the grey box is in each


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 40), (33, 32)])
def test_a_strong_view_of_any_size_does_not_depend_on_its_batch(channels, height, width):
    augment = Augment(shaped(channels, height, width, padding=0))
    images, index = pictures(9, channels, height, width), torch.arange(9)
    whole = augment.strong(images, index, seed=1, view=2)
    assert torch.isfinite(whole).all()
    alone = [augment.strong(images[k : k + 1], index[k : k + 1], seed=1, view=2) for k in range(9)]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=0, atol=1e-5)


def mixed(**alphas):
    inputs = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 6, 6).contiguous()
    return inputs, *mix(inputs, torch.arange(8), seed=1, view=2, **alphas)


def test_mixup_blends_each_image_with_its_partner():
    inputs, out, partner, share = mixed(mixup=1.0, cutmix=0)
    weight = share.view(-1, 1, 1, 1)
    torch.testing.assert_close(out, weight * inputs + (1 - weight) * inputs[partner])
    assert sorted(partner.tolist()) == list(range(8))


def test_cutmix_pastes_a_box_whose_area_is_the_partners_share():
    inputs, out, partner, share = mixed(mixup=0, cutmix=1.0)
    own = (out == inputs).float().mean((1, 2, 3))
    moved = partner != torch.arange(8)
    torch.testing.assert_close(own[moved], share[moved])
    assert ((out == inputs) | (out == inputs[partner])).all()


def test_where_both_are_asked_for_each_comes_about_half_the_time():
    inputs = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 16, 16).contiguous()
    pasted = 0
    for view in range(200):
        out, partner, _ = mix(inputs, torch.arange(8), seed=0, view=view, mixup=1.0, cutmix=1.0)
        pasted += ((out == inputs) | (out == inputs[partner])).all().item()
    assert 70 < pasted < 130


def test_a_mixture_is_drawn_anew_for_each_view_and_never_twice_for_one():
    def shares(view):
        x = torch.zeros(8, 1, 6, 6)
        return mix(x, torch.arange(8), seed=1, view=view, mixup=0.4, cutmix=1.0)[2][0].item()

    assert shares(1) == shares(1)
    assert len({shares(view) for view in range(20)}) > 15
