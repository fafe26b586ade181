"""Evaluation of labels: by hand, and against scikit-learn and scipy."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics

from lib.dissection import evaluation as ev
from lib.errors import UserError

rng = np.random.default_rng(0)


def test_ranks_by_hand():
    scores = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 2.0], [2.0, 2.0, 5.0], [float("nan")] * 3])
    truth = torch.tensor([2, 2, 1, 0])
    assert ev.ranks(scores, truth).tolist() == [2, 2, 3, 3]  # of equal scores the earlier concept comes first
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


def test_iou_of_neurons_without_places():
    shown = torch.zeros(400, 3, dtype=torch.bool)
    shown[:2, 0] = shown[2:5, 1] = True
    q = shown[:, :2].float() + 0.01 * torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    found = ev.iou(q[:, :, None, None], shown[:, :, None, None])  # the top 2 of 400 images count as active
    assert found[0].tolist() == [1.0, 0.0, 0.0] and found[1, 1] == pytest.approx(2 / 3)


def test_chance_is_the_mean_over_all_orders_of_the_labels():
    labels, right = ["a", "b", "a", ""], ["a", "a", "c", "b"]
    orders = [[labels[k] == word for k, word in zip(order, right, strict=True)] for order in permutations(range(4))]
    np.testing.assert_allclose(ev.by_chance(labels, right), np.mean(orders, axis=0))


# --- resampling


def test_draws_are_seeded_and_with_replacement():
    first, again, other = ev.drawn(50, 1, seed=4), ev.drawn(50, 1, seed=4), ev.drawn(50, 2, seed=4)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(first.unique()) < 50 and first.min() >= 0 and first.max() < 50
    assert ev.drawn(4, 0).tolist() == [0, 1, 2, 3]
