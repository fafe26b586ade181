"""Properties that hold for every input: bounds, permutations, independence of the batch."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.mutual import information as inf
from lib.mutual import matching, parts

seeds = st.integers(0, 2**31 - 1)
settings.register_profile("mutual", max_examples=40, deadline=None)
settings.load_profile("mutual")


def random_lists(seed, images=4, bank=30):
    rng = np.random.default_rng(seed)
    vision, language = np.full((images, 10), -1), np.full((images, 12), -1)
    for i in range(images):
        n, m = rng.integers(0, 11), rng.integers(1, 13)
        vision[i, :n], language[i, :m] = rng.permutation(bank)[:n], rng.permutation(bank)[:m]
    return vision, language


def random_match_input(seed, images=4, parts=4, bank=30):
    rng = np.random.default_rng(seed)
    present = rng.random((images, parts)) < 0.7
    arrays = rng.random((images, parts, bank)), rng.random((images, bank)), present
    return tuple(map(torch.from_numpy, arrays))


def matched(similarity, fit, present, how="transport", top=500):
    candidate = matching.relevant(fit, matching.candidates(similarity, present, top))
    return matching.match(similarity, present, candidate, how)


@given(st.integers(1, 15), st.integers(1, 60), st.data())
def test_order_of_the_readings(n, m, data):
    k = data.draw(st.integers(1, min(n, m)))
    released, definition, consistent = (float(inf.shared_information(n, m, k, reading)) for reading in inf.READINGS)
    assert 0 <= consistent <= np.log(min(n, m)) + 1e-12
    assert np.isclose(released - definition, 2 * consistent)
    assert consistent <= definition + 1e-9  # k² <= n·m


@given(seeds)
def test_curves_fall_to_zero_and_are_positive_up_to_the_last_hit(seed):
    vision, language = random_lists(seed)
    curves = inf.curves(vision, language)
    filled = inf.padded(curves, length=11)
    assert (np.diff(filled, axis=1) <= 0).all() and (filled[:, -1] == 0).all()
    # ln(N·M·K) is 0 for the one case N = M = K = 1 too
    n, m = (vision >= 0).sum(1), (language >= 0).sum(1)
    clear = n * m > 1
    assert ((filled > 0).sum(axis=1) == inf.last_of(inf.matches(vision, language)))[clear].all()
    assert ((~np.isnan(curves)).sum(axis=1) == n + 1).all()


@given(seeds)
def test_information_does_not_depend_on_the_descriptors_numbers(seed):
    vision, language = random_lists(seed)
    renamed = np.append(np.random.default_rng(seed).permutation(30), -1)
    for reading in inf.READINGS:
        np.testing.assert_array_equal(
            inf.curves(vision, language, reading), inf.curves(renamed[vision], renamed[language], reading)
        )


@given(seeds)
def test_the_first_point_is_blind_to_order_and_removal(seed):
    vision, language = random_lists(seed)
    n = (vision >= 0).sum(axis=1)
    backwards = np.stack([np.append(v[:k][::-1], v[k:]) for v, k in zip(vision, n, strict=True)])
    for removal in inf.REMOVALS:
        np.testing.assert_array_equal(
            inf.curves(vision, language)[:, 0], inf.curves(backwards, language, removal=removal)[:, 0]
        )
    np.testing.assert_array_equal(
        inf.curves(vision, language, "consistent", "drop"),
        inf.curves(vision, language, "consistent", "dummy"),
    )


@given(seeds, st.sampled_from(["transport", "centred", "top"]), st.integers(1, 40))
def test_an_image_is_matched_alone_as_in_a_batch(seed, method, top):
    similarity, fit, present = random_match_input(seed)
    together = matched(similarity, fit, present, method, top=top)
    for i in range(len(similarity)):
        alone = matched(similarity[i : i + 1], fit[i : i + 1], present[i : i + 1], method, top=top)
        assert (together[i] == alone[0]).all()


@given(seeds, st.sampled_from(["transport", "centred", "top"]))
def test_matching_follows_a_permutation_of_parts_and_descriptors(seed, method):
    similarity, fit, present = random_match_input(seed)
    generator = torch.Generator().manual_seed(seed)
    parts_order, bank_order = torch.randperm(4, generator=generator), torch.randperm(30, generator=generator)
    ids = matched(similarity, fit, present, method, top=20)[:, parts_order]
    permuted = matched(
        similarity[:, parts_order][:, :, bank_order],
        fit[:, bank_order],
        present[:, parts_order],
        method,
        top=20,
    )
    assert (torch.where(permuted >= 0, bank_order[permuted], -1) == ids).all()


@given(seeds, st.integers(1, 40))
def test_matches_are_distinct_candidates_and_concepts_their_union(seed, top):
    similarity, fit, present = random_match_input(seed)
    ids = matched(similarity, fit, present, top=top)
    allowed = matching.relevant(fit, matching.candidates(similarity, present, top))
    concepts = matching.vision_concepts(ids, fit)
    for i in range(len(ids)):
        union = set(ids[i].ravel().tolist()) - {-1}
        listed = [c for c in concepts[i].tolist() if c >= 0]
        assert set(listed) == union and len(listed) == len(union)
        assert allowed[i, listed].all()
        assert (fit[i, listed].diff() <= 0).all()
        assert all(len(set(row) - {-1}) == sum(c >= 0 for c in row) for row in ids[i].tolist())


@given(seeds, st.floats(0.01, 100))
def test_foreground_and_parts_do_not_depend_on_scale_or_basis(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 25, 8, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    turned = scale * features @ rotation
    mask = parts.foreground(features, (5, 5))
    assert (parts.foreground(turned, (5, 5)) == mask).all()
    assert (parts.kmeans_parts(turned, mask) == parts.kmeans_parts(features, mask)).all()
    assert mask.flatten(1).any(dim=1).all()


@given(seeds)
def test_parts_follow_a_permutation_of_the_images(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(4, 25, 8, generator=generator, dtype=torch.float64)
    order = torch.randperm(4, generator=generator)
    mask = parts.foreground(features, (5, 5))
    assert (parts.foreground(features[order], (5, 5)) == mask[order]).all()
    assert (parts.pca_parts(features[order], mask[order]) == parts.pca_parts(features, mask)[order]).all()
