"""What the authors' released code returned for the same inputs (tests/golden/mutual_knowledge.npz)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lib.mutual import information, matching, parts, prompts


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).parents[1] / "golden" / "mutual_knowledge.npz")


def test_svd_foreground(golden):
    features, grid = torch.from_numpy(golden["parts_features"]), tuple(golden["parts_grid"])
    component = parts.singular_vectors(features, count=2)[..., 1].reshape(-1, *grid)
    np.testing.assert_allclose(component, golden["parts_svd_component"], atol=1e-6)
    np.testing.assert_array_equal(parts.foreground(features, grid), golden["parts_foreground"])


def test_pca_parts(golden):
    mask = torch.from_numpy(golden["parts_foreground"])
    labels = parts.pca_parts(torch.from_numpy(golden["parts_features"]), mask)
    np.testing.assert_array_equal(labels[mask], golden["parts_pca_label"])
    assert (labels[~mask] == -1).all()


@pytest.mark.parametrize("variant, name", enumerate(["circle_plain", "circle_grey", "circle_blur"]))
def test_red_circles(golden, variant, name):
    pixels = torch.from_numpy(golden["circle_image"]).permute(2, 0, 1)[None]
    label_map = torch.from_numpy(golden["circle_label_map"].astype(int) - 1)[None]
    ours, image_index, part_index = prompts.red_circles(pixels, label_map)
    assert image_index.tolist() == [0, 0, 0] and part_index.tolist() == [0, 1, 2]
    # the released code returns the parts in the order of their colours; its entry 0 is the background
    order = golden["circle_order"][1:] - 1
    np.testing.assert_array_equal(ours[order, variant].permute(0, 2, 3, 1), golden[name])


def test_matching(golden):
    similarity = torch.from_numpy(golden["match_similarity"])[None]
    present = torch.ones(1, 5, dtype=torch.bool)
    candidate = matching.candidates(similarity, present, top=300)
    chosen = torch.from_numpy(golden["match_candidates"])
    assert set(candidate[0].nonzero().ravel().tolist()) == set(chosen.tolist())
    plan = matching.sinkhorn(similarity[:, :, chosen], present, torch.ones(1, len(chosen), dtype=torch.bool))
    np.testing.assert_allclose(plan[0], golden["match_plan"], atol=2e-6)
    top3 = matching.match(similarity, present, candidate)
    np.testing.assert_array_equal(top3[0], golden["match_top3"])


def golden_curves(golden):
    """Each image has its own class and number of language-side descriptors."""
    ours = []
    for ids, scores, (label, top_u) in zip(
        golden["mi_vision_ids"], golden["mi_vision_scores"], golden["mi_class_and_topu"], strict=True
    ):
        relevance = np.zeros(golden["mi_class_descriptor_scores"].shape[1])
        relevance[ids[ids >= 0]] = scores[ids >= 0]
        vision = matching.vision_concepts(torch.from_numpy(ids)[None, None], torch.from_numpy(relevance)[None])
        language = information.language_concepts(golden["mi_class_descriptor_scores"], [label], int(top_u))
        ours.append(information.curves(vision, language)[0])
    return np.stack(ours)


def test_information_curves_and_auc(golden):
    ours = golden_curves(golden)
    # the released code adds 1e-9 inside the logarithm
    np.testing.assert_allclose(ours, golden["mi_curves"], atol=2e-8)
    np.testing.assert_allclose(ours[:, 0], golden["mi_value"], atol=2e-8)
    # it averages in float32
    mean_curve = information.padded(ours).mean(0)
    np.testing.assert_allclose(mean_curve, golden["mi_mean_curve"], atol=1e-6)
    assert mean_curve.mean() == pytest.approx(float(golden["mi_auc"]), abs=1e-6)
