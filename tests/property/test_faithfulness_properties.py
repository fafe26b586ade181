"""Properties of insertion and deletion that hold for every classifier, every image and every set of regions."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.mutual import bottlenecks
from lib.mutual import faithfulness as faith

seeds = st.integers(0, 2**31 - 1)
settings.register_profile("faithfulness", max_examples=25, deadline=None)
settings.load_profile("faithfulness")


def world(seed, images=4, side=12, regions=3):
    """Images, regions (some empty, some overlapping), a linear classifier and targets."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8, generator=generator)
    masks = torch.rand(images, regions, 3, 4, generator=generator) < 0.3
    masks &= torch.rand(images, regions, 1, 1, generator=generator) < 0.8
    weight = torch.randn(5, 3 * side * side, generator=generator, dtype=torch.float64) / 1e4
    targets = torch.randint(0, 5, (images,), generator=generator)
    return pixels, masks, lambda x: x.flatten(1).double() @ weight.T, targets


def paths(pixels, masks, classify, targets, **options):
    """Scores and winners, deletion before insertion: [n, 2, L + 1]."""
    steps = faith.blur_masks(masks)
    found = faith.follow(pixels, list(steps), classify, targets, kernel=5, **options)
    return tuple(found[name].reshape(len(pixels), 2, -1) for name in ("score", "winner"))


@given(seeds, st.integers(1, 40))
def test_the_batch_size_changes_nothing(seed, batch_size):
    one, other = paths(*world(seed)), paths(*world(seed), batch_size=batch_size)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    assert (one[1] == other[1]).all()


@given(seeds)
def test_an_image_is_judged_alone_as_in_a_batch(seed):
    pixels, masks, classify, targets = world(seed)
    together, _ = paths(pixels, masks, classify, targets)
    for i in range(len(pixels)):
        alone, _ = paths(pixels[i : i + 1], masks[i : i + 1], classify, targets[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-5)


@given(seeds)
def test_deletion_and_insertion_meet_at_their_ends(seed):
    """Everything blurred is where insertion starts; nothing blurred is where deletion starts."""
    pixels, masks, classify, targets = world(seed)
    masks[:, -1] = True
    deletion, insertion = paths(pixels, masks, classify, targets)[0].swapaxes(0, 1)
    np.testing.assert_allclose(deletion[:, 0], insertion[:, -1], rtol=1e-5)
    np.testing.assert_allclose(deletion[:, -1], insertion[:, 0], rtol=1e-5)


@given(seeds)
def test_an_area_lies_between_the_lowest_and_the_highest_point(seed):
    curves = np.random.default_rng(seed).random((6, 5))
    mean = faith.area(curves) / 4
    assert (curves.min(1) <= mean).all() and (mean <= curves.max(1)).all()
    shown = np.full(6, 4)
    np.testing.assert_allclose(faith.area(curves, shown, "stop"), faith.area(curves))


@given(seeds)
def test_a_curve_that_stays_where_it_is_holds_what_a_stopped_one_lacks(seed):
    rng = np.random.default_rng(seed)
    curves, shown = rng.random((6, 5)), rng.integers(1, 5, 6)
    for row, k in zip(curves, shown, strict=True):
        row[k:] = row[k]
    missing = (4 - shown) * curves[:, -1]
    np.testing.assert_allclose(faith.area(curves), faith.area(curves, shown, "stop") + missing)


@given(seeds)
def test_a_bottleneck_follows_a_permutation_of_patches_and_descriptors(seed):
    generator = torch.Generator().manual_seed(seed)
    features, texts = torch.randn(3, 6, 4, generator=generator), torch.randn(5, 4, generator=generator)
    patches, order = torch.randperm(6, generator=generator), torch.randperm(5, generator=generator)
    for over in bottlenecks.OVER:
        torch.manual_seed(seed % 1000)
        model = bottlenecks.Bottleneck(texts, 4, 2, inner=3, over=over).eval()
        amounts = model.concepts(features)
        assert torch.allclose(model.concepts(features[:, patches]), amounts, atol=1e-5)
        model.texts = texts[order]
        assert torch.allclose(model.concepts(features), amounts[:, order], atol=1e-5)
        assert ((amounts > 0) & (amounts < 1)).all()
