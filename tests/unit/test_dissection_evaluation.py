"""Evaluation of labels: by hand, and against scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from lib.dissection import evaluation as ev
from lib.errors import UserError

rng = np.random.default_rng(0)


def test_ranks_and_hits_by_hand():
    scores = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 2.0], [2.0, 2.0, 5.0], [float("nan")] * 3])
    truth = torch.tensor([2, 2, 1, 0])
    assert ev.ranks(scores, truth).tolist() == [2, 2, 3, 3]  # of equal scores the earlier concept comes first
    assert ev.hits(scores, truth, 2).tolist() == [True, True, False, False]
    assert ev.hits(scores, scores.argmax(1)).tolist() == [True, True, True, False]
    with pytest.raises(UserError, match=r"truth \[3\]"):
        ev.ranks(scores, truth[:3])


@pytest.mark.parametrize("levels", [3, 1000])
def test_auc_and_average_precision_are_scikit_learns(levels):
    for _ in range(20):
        right, score = rng.random(40) < 0.4, rng.integers(0, levels, 40) / levels
        assert ev.auc(score, right) == pytest.approx(metrics.roc_auc_score(right, score))
        assert ev.average_precision(score, right) == pytest.approx(metrics.average_precision_score(right, score))


def test_auc_where_nothing_can_be_told():
    assert np.isnan(ev.auc([1.0, 2.0], [True, True]))
    assert ev.auc([np.nan, 2.0, 3.0], [False, True, True]) == 1.0  # a dead neuron's score is the lowest


def test_held_out_measures():
    q, present = rng.normal(size=(60, 5)), rng.random((60, 5)) < 0.3
    found = ev.held_out(q, present)
    for k in range(5):
        assert found["correlation"][k] == pytest.approx(stats.pointbiserialr(present[:, k], q[:, k])[0])
        assert found["auprc"][k] == pytest.approx(metrics.average_precision_score(present[:, k], q[:, k]))
        u = stats.mannwhitneyu(q[present[:, k], k], q[~present[:, k], k]).statistic
        assert found["auc"][k] == pytest.approx(u / (present[:, k].sum() * (~present[:, k]).sum()))


def test_held_out_measures_of_neurons_and_labels_that_say_nothing():
    q = rng.normal(size=(30, 3))
    q[:, 2] = 0.5
    present = np.zeros((30, 3), bool)
    present[:, 1] = True
    present[:5, 2] = True
    assert all(np.isnan(values).all() for values in ev.held_out(q, present).values())
    with pytest.raises(UserError, match=r"\(30, 3\) and presence \(30, 2\)"):
        ev.held_out(q, present[:, :2])


def test_a_neuron_that_is_its_label():
    present = rng.random((50, 1)) < 0.5
    found = ev.held_out(present.astype(float), present)
    assert [float(found[what][0]) for what in ("correlation", "auprc", "auc")] == pytest.approx([1, 1, 1])


def test_cosines_and_their_floor():
    a, b = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.eye(6)[:4]
    expected = [float(x @ y / x.norm()) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ev.text_cosine(a, 3 * b), expected, atol=1e-6)
    pairs = metrics.pairwise.cosine_similarity(a, b)
    assert ev.cosine_floor(a, b) == pytest.approx(pairs.mean(), abs=1e-6)


def test_agreement():
    assert ev.agreement(["a", "b", "c", "d"], ["a", "b", "x", "d"]) == 75.0
    with pytest.raises(UserError, match="2 and 1 labels"):
        ev.agreement([1, 2], [1])


# --- intersection over union


def test_iou_by_hand():
    # one image, two neurons with maps of 4 x 4, masks of the same size: nothing is enlarged
    left, top = torch.zeros(4, 4), torch.zeros(4, 4)
    left[:, :2], top[:1] = 1, 1
    maps = torch.stack([left, top])[None]
    masks = torch.stack([left, top, left * 0])[None].bool()
    found = ev.iou(maps, masks, quantile=0.25)
    # 8 places of `left`, 4 of `top`, 2 in both
    np.testing.assert_allclose(found, [[1, 2 / 10, 0], [2 / 10, 1, 0]])


def literal_iou(maps, masks, quantile):
    enlarged = torch.nn.functional.interpolate(maps, masks.shape[2:], mode="bilinear").numpy()
    found = np.zeros((maps.shape[1], masks.shape[1]))
    for k in range(maps.shape[1]):
        values = np.sort(maps[:, k].numpy().ravel())
        active = enlarged[:, k] >= values[min(len(values) - 1, int(len(values) * (1 - quantile)))]
        for d in range(masks.shape[1]):
            mask = masks[:, d].numpy()
            found[k, d] = (active & mask).sum() / max(1, (active | mask).sum())
    return found


@pytest.mark.parametrize("quantile", [0.005, 0.1])
def test_iou_is_that_of_the_definition(quantile):
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(70, 3, 5, 5, generator=generator)  # more images than go into one step
    masks = torch.rand(70, 4, 12, 12, generator=generator) < 0.3
    np.testing.assert_allclose(ev.iou(maps, masks, quantile), literal_iou(maps, masks, quantile), atol=1e-12)


def test_iou_of_a_dead_neuron_and_of_other_images():
    masks = torch.ones(3, 2, 4, 4, dtype=torch.bool)
    assert (ev.iou(torch.zeros(3, 1, 2, 2), masks) == 0).all()
    with pytest.raises(UserError, match="maps of 2 images and masks of 3"):
        ev.iou(torch.rand(2, 1, 2, 2), masks)


# --- resampling


def test_resamples_are_seeded_and_with_replacement():
    first, again = (list(ev.resampled(50, 3, seed=4)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert all(len(x.unique()) < 50 and x.min() >= 0 and x.max() < 50 for x in first)


def test_stability_counts_equal_labels():
    found = ev.stability(torch.tensor([1, 2, 3]), torch.tensor([[1, 2, 0], [1, 0, 0], [1, 2, 0], [1, 2, 0]]))
    assert found.tolist() == [1.0, 0.75, 0.0]
