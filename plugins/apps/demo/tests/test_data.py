"""The overlaid digits."""

from __future__ import annotations

import pytest
import torch

from jd_plugin_demo.data import Digits, Pairs, load_scans, overlaid_digits, overlay


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_no_scan_is_on_both_sides(seed: int) -> None:
    digits = overlaid_digits(train_pairs=4000, test_pairs=1000, seed=seed)
    train, test = (set(part.sources.flatten().tolist()) for part in (digits.train, digits.test))
    assert len(train) > 1200
    assert len(test) > 400
    assert not train & test


def test_the_scans_are_the_real_ones_that_scikit_learn_ships() -> None:
    scans = load_scans()
    assert scans.images.shape == (1797, 8, 8)
    assert (float(scans.images.min()), float(scans.images.max())) == (0.0, 1.0)
    assert scans.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("part", ["train", "test"])
def test_each_picture_is_its_two_scans_and_has_their_labels(digits: Digits, part: str) -> None:
    pairs: Pairs = getattr(digits, part)
    scans = digits.scans
    for image, labels, (left, right) in zip(
        pairs.images, pairs.labels, pairs.sources.tolist(), strict=True
    ):
        expected = torch.zeros(10, 12)
        expected[:8, :8] = scans.images[left]
        expected[2:, 4:] = torch.maximum(expected[2:, 4:], scans.images[right])
        assert torch.equal(image[0], expected)
        assert labels.tolist() == [int(scans.labels[left]), int(scans.labels[right])]


def test_overlaying_leaves_the_scans_as_they_are() -> None:
    left, right = torch.rand(3, 8, 8), torch.rand(3, 8, 8)
    before = left.clone(), right.clone()
    overlay(left, right)
    assert torch.equal(left, before[0])
    assert torch.equal(right, before[1])


def test_the_seed_fixes_the_pairs_and_another_gives_others() -> None:
    first, again, other = (overlaid_digits(50, 20, seed) for seed in (3, 3, 4))
    for part in ("train", "test"):
        assert torch.equal(getattr(first, part).images, getattr(again, part).images)
        assert not torch.equal(getattr(first, part).sources, getattr(other, part).sources)


def test_drawing_pairs_leaves_torchs_own_generator_alone() -> None:
    before = torch.get_rng_state()
    overlaid_digits(50, 20, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
