"""Scores against the truth: by hand, against scikit-learn, at their extremes, and one row of the page."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from lib import models
from lib.bestiary.species import PARTS
from lib.data import load as load_images
from lib.errors import UserError
from lib.mutual import ground_truth as gt
from lib.mutual import information, matching, table3
from lib.mutual.explain import find, name_parts
from lib.report import ground_truth as show

matplotlib.use("Agg")
BODY, HEAD, EARS = (PARTS.index(p) for p in ("body", "head", "ears"))


@pytest.fixture(scope="module")
def clip():
    return models.load("RN50")


@pytest.fixture(scope="module")
def data():
    """Four pictures of each of three species."""
    return load_images("bestiary").subset([k + 48 * i for k in range(3) for i in range(4)])


@pytest.fixture
def small():
    """A 2 x 2 grid over 4 x 4 pixels: two found parts, and below them body, head and ears."""
    truth = np.zeros((1, 4, 4), int)
    truth[0, :2, :2] = BODY
    truth[0, :2, 2:] = [[HEAD, EARS], [HEAD, HEAD]]
    truth[0, 2, 0] = BODY
    found = np.array([[[0, 1], [0, -1]]])
    return found, truth


def table_of(found, truth, parts):
    return gt.confusion(found, gt.patch_counts(truth, found.shape[1:]), parts)


def test_confusion_is_that_of_scikit_learn_at_pixel_level(small):
    rng = np.random.default_rng(0)
    found, truth = rng.integers(-1, 3, (5, 6, 6)), rng.integers(0, len(PARTS), (5, 16, 16))
    grown = torch.nn.functional.interpolate(torch.tensor(found)[:, None].float(), (16, 16))[:, 0].long().numpy()
    tables = table_of(found, truth, 3)
    for table, g, t in zip(tables, grown, truth, strict=True):
        expected = confusion_matrix(np.where(g < 0, 3, g).ravel(), t.ravel(), labels=range(len(PARTS)))
        assert np.array_equal(table, expected[:4])


def test_purity_and_iou_by_hand(small):
    table = table_of(*small, 2)
    # part 0 holds 5 pixels of the body, part 1 three of the head and one of the ears: 8 of 9 are in the majority
    assert gt.purity(table)[0] == pytest.approx(8 / 9)
    # body: 5 of part 0's 8 pixels; head: 3 of part 1's 4; ears have one pixel, too few to count
    iou = gt.part_iou(np.where(np.arange(len(PARTS)) == 0, table, 4 * table))  # four times as many pixels a part
    assert iou[0] == pytest.approx(np.mean([20 / 23, 12 / 16]))


def test_the_true_parts_themselves_are_pure_and_fit_wholly(data):
    truth = gt.true_maps(data)
    count = len(PARTS) - 1
    table = table_of(truth - 1, truth, count)
    assert gt.purity(table) == pytest.approx(1) and gt.part_iou(table) == pytest.approx(1)
    scores = gt.part_scores(truth - 1, gt.patch_counts(truth, truth.shape[1:]), count)
    assert (scores["purity_null"] < 70).all() and (scores["part_iou_null"] < 40).all()


def test_true_maps_are_those_of_the_renderer(data):
    for i, found in enumerate(gt.true_maps(data)):
        assert np.array_equal(found, data.source.label_map(int(data.indices[i])))


def test_dealing_at_random_keeps_foreground_and_sizes():
    maps = np.random.default_rng(0).integers(-1, 4, (6, 5, 5))
    dealt = gt.shuffled(maps, np.random.default_rng(1))
    assert np.array_equal(dealt < 0, maps < 0) and not np.array_equal(dealt, maps)
    for a, b in zip(dealt, maps, strict=True):
        assert np.array_equal(np.bincount(a[a >= 0], minlength=4), np.bincount(b[b >= 0], minlength=4))


def test_precision_recall_and_f1_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    named, true = rng.random((8, 20)) < 0.3, rng.random((8, 20)) < 0.4
    for ours, theirs in ((gt.precision, precision_score), (gt.recall, recall_score), (gt.f1, f1_score)):
        expected = [theirs(t, n) for n, t in zip(named, true, strict=True)]
        np.testing.assert_allclose(ours(named, true), expected)
    nothing = np.zeros((1, 3), bool)
    assert np.isnan(gt.precision(nothing, ~nothing)) and gt.recall(nothing, ~nothing) == 0


def test_members_leave_the_padding_out():
    assert gt.members(np.array([[2, 0, -1], [-1, -1, -1]]), 4).tolist() == [[True, False, True, False], [False] * 4]


def test_naming_at_random_has_the_base_rate_and_naming_the_truth_is_perfect(data):
    true = gt.held(data)
    rng = np.random.default_rng(0)
    ids = rng.permuted(np.tile(np.arange(true.shape[1]), (len(data), 1)), axis=1)[:, :10]
    many = [gt.descriptor_scores(rng.permuted(ids, axis=1)[:, :5], true, data.labels) for _ in range(3)]
    scores = gt.descriptor_scores(ids, true, data.labels)
    assert scores["precision"].mean() == pytest.approx(scores["base"].mean(), abs=8)
    assert scores["precision_wrong"].mean() == pytest.approx(scores["base"].mean(), abs=8)
    assert all(found["named"].tolist() == [5] * len(data) for found in many)
    width = true.sum(1).max()
    perfect = np.stack([np.pad(np.flatnonzero(t), (0, width - t.sum()), constant_values=-1) for t in true])
    scores = gt.descriptor_scores(perfect, true, data.labels)
    assert (scores["f1"] == 100).all() and (scores["precision_wrong"] < 100).all()


def test_held_is_what_the_bestiary_says(data):
    held = gt.held(data)
    for i in range(len(data)):
        assert {data.bank[d] for d in np.flatnonzero(held[i])} == set(data.true_descriptors(i)) & set(data.bank)


def test_another_class_is_another_class():
    labels = np.array([0, 0, 1, 2])
    drawn = np.stack([gt.other_class(labels, np.random.default_rng(s)) for s in range(40)])
    assert (labels[drawn] != labels).all() and set(drawn[:, 0]) == {2, 3}
    assert gt.other_class([5, 5], np.random.default_rng(0)).tolist() == [-1, -1]


def test_in_place_by_hand(small):
    table = table_of(*small, 2)
    there = gt.in_place(table, np.array([BODY, HEAD, EARS, 0]))[0]
    # part 0 holds all of the body, part 1 all of head and ears, neither half of the background
    assert there.tolist() == [[True, False, False, False], [False, True, True, False]]


def test_places_by_hand():
    true = np.array([[True, True, False]])
    there = np.array([[[True, False, True], [False, True, False]]])
    ids = np.array([[[0, 1], [1, 2]]])  # 0 in place, 1 holds elsewhere; 1 in place, 2 does not hold
    scores = gt.place_scores(ids, true, there)
    assert scores["holds"][0] == 75 and scores["placed"][0] == 50
    assert 0 < scores["placed_null"][0] < 75
    none = gt.place_scores(np.full((1, 2, 2), -1), true, there)
    assert np.isnan(none["placed"][0])


def test_pointing_by_hand():
    part_of = np.array([1, 1, 2, 3])
    true = np.array([[True, False, True, False]])  # part 1 has descriptor 0, part 2 has 2, part 3 has none that holds
    ids = np.array([[[0, 3], [1, 3], [3, -1]]])
    assert gt.pointing(ids, true, part_of)["pointed"][0] == 50
    perfect = np.array([[[0, -1], [2, -1], [-1, -1]]])
    assert gt.pointing(perfect, true, part_of)["pointed"][0] == 100


def test_every_descriptor_speaks_of_a_part(data):
    parts = dict(zip(data.bank, gt.parts_of(data.bank), strict=True))
    assert PARTS[parts["a long red beak"]] == "mouth" and PARTS[parts["found on snow"]] == "background"
    with pytest.raises(UserError, match="'a beard' is no descriptor of the bestiary"):
        gt.parts_of(["a beard"])


def test_trackers_by_hand():
    ids = np.array([[3, 1, -1], [0, -1, -1]])
    language = np.array([[1, 2], [0, 3], [4, 5]])
    found = gt.trackers(ids, language, np.array([0, 1]), 4)
    assert found["matches"].tolist() == [1, 1] and found["last_hit"].tolist() == [2, 1]
    np.testing.assert_allclose(found["mi"], [np.log(2 * 2), np.log(2)])
    np.testing.assert_allclose(found["auc"], [2 * np.log(4) / 4, np.log(2) / 4])
    assert found["above_chance"].tolist() == [1 - (1 + 0) / 2, 1 - 0]


def test_a_row_agrees_with_table_3_and_with_the_steps_before_it(clip, data):
    row = gt.row(clip, data)
    metrics = row["metrics"]
    other = table3.row(clip, data, **table3.SWITCHES)["metrics"]
    for name in ("mi", "auc", "matches", "last_hit"):
        np.testing.assert_allclose(metrics[name], other[f"{name}_kmeans"], atol=1e-9)
    assert all(np.shape(value) == (12,) for value in metrics.values())
    found = find(clip, data)
    ids = name_parts(clip, data, found, "top")[1]
    expected = [np.mean([data.bank[d] in data.true_descriptors(i) for d in row if d >= 0]) for i, row in enumerate(ids)]
    np.testing.assert_allclose(metrics["precision_top"], 100 * np.array(expected))
    # the whole image names as many as the parts, and what it names is nearest to it
    assert np.array_equal(metrics["named_whole"], metrics["named_kmeans"])


def test_true_parts_are_drawn_where_they_are(clip, data):
    found = gt.true_parts(clip, data)
    truth = gt.true_maps(data)
    table = table_of(found.label_maps.numpy(), truth, len(PARTS) - 1)
    assert (gt.purity(table) > 0.85).all()  # scaled to the model's pixels
    assert found.present.sum(1).min() >= 4
    steps = gt.steps(clip, data, images=6)
    assert steps["notes"]["images"] == 6
    assert {f"precision_true_{m}" for m in matching.METHODS} <= set(steps["metrics"])


def test_a_dataset_without_the_truth_is_refused(clip, make_folder):
    folder = make_folder({"cat": 2, "dog": 2})
    (folder / "descriptors.json").write_text('{"cat": ["whiskers"], "dog": ["a tail"]}')
    with pytest.raises(UserError, match="only 'bestiary' knows them"):
        gt.row(clip, load_images(str(folder)))


# --- what the page shows


@pytest.fixture
def arrays():
    """Five made-up models of 60 images whose F1 follows AUC and not K."""
    rng, found = np.random.default_rng(0), {}
    for k in range(5):
        auc = rng.random(60)
        values = {c: rng.random(60) for c in show.COUNTS} | {
            "auc": auc,
            "top1": 100.0 * (rng.random(60) < 0.3 + 0.1 * k),
        }
        truths = {f"{t}_kmeans": 100 * auc + rng.normal(0, 5, 60) for t in show.TRUTHS}
        found[f"m{k}"] = values | truths | {"predicted": rng.integers(0, 2, 60), "labels": np.zeros(60, int)}
    return found


def test_correlations_within_models_are_those_of_scipy(arrays):
    from scipy.stats import spearmanr

    within = show.within_models(arrays)
    expected = np.mean([spearmanr(a["matches"], a["f1_kmeans"])[0] for a in arrays.values()])
    assert within["matches", "f1"][0] == pytest.approx(expected)
    value, low, high, n = show.better(within, "auc", "matches", images=60)
    assert 0 < low < value < high and n == 60
    low, high = show.quantiles(within["auc", "f1"][1])
    assert low < within["auc", "f1"][0] < high


def test_correlations_over_models_are_those_of_scipy(arrays):
    from scipy.stats import spearmanr

    rows = pd.DataFrame({"family": "ViT"}, index=list(arrays))
    over = show.over_models(rows, arrays).set_index(["count", "truth"])
    means = [[a[k].mean() for a in arrays.values()] for k in ("auc", "f1_kmeans")]
    assert over.loc[("auc", "f1"), "value"] == pytest.approx(spearmanr(*means)[0])
    table = show.tracking_table(over.reset_index(), show.within_models(arrays), "t", "c")
    means = {m: 50.0 for m in ("precision_kmeans", "precision_wrong_kmeans", "precision_nearest", "precision_whole")}
    means |= dict.fromkeys(("placed_kmeans", "placed_null_kmeans", "base"), 5.0)
    words = show.summary(pd.DataFrame([means]), over.reset_index(), show.within_models(arrays), "t")
    assert words["t_precision"] == "50" and words["t_recall_accuracy"].startswith(
        f"{over.loc[('top1', 'recall'), 'value']:.2f}"
    )
    assert len(table.cells) == 7 * 3 and table.cells["within models [other images]"].iloc[0] == "–"


def test_right_and_wrong_are_separated(arrays):
    split = show.right_and_wrong(arrays, {"auc": "AUC"}).iloc[0]
    right = np.mean([a["auc"][a["predicted"] == 0].mean() for a in arrays.values()])
    wrong = np.mean([a["auc"][a["predicted"] == 1].mean() for a in arrays.values()])
    assert split["right"] == pytest.approx(right) and split["difference"] == pytest.approx(right - wrong)
    assert split["difference_low"] < split["difference"] < split["difference_high"]


def test_chosen_images_are_the_worst_the_middle_and_the_best():
    assert show.chosen([0.5, np.nan, 0.1, 0.9, 0.3, 0.7, 0.2], each=1) == [2, 0, 3]
    assert show.chosen([np.nan, 1.0], each=2) == [1]


def test_figures_of_the_page_are_drawn(clip, data):
    metrics = gt.row(clip, data)["metrics"]
    line = {"title": "RN50", "family": "ResNet", "reason": ""} | {k: np.nanmean(v) for k, v in metrics.items()}
    rows = pd.DataFrame([line], index=["RN50"])
    assert len(show.sources(rows)) == 2
    assert len(show.against_accuracy(rows, {"precision_kmeans": "precision"})) == 1
    steps = gt.steps(clip, data, images=3)["metrics"]
    names = [f"precision_found_{m}" for m in matching.METHODS]
    line = {"title": "RN50"} | {f"{n}{s}": np.nanmean(steps[n]) for n in names for s in ("", "_low", "_high")}
    assert len(show.step_bars(pd.DataFrame([line]), {"precision": names}, {}, list(matching.METHODS))) == 1
    maps = gt.label_maps(clip, data)
    axes = show.found_and_true(data, [0, 5], maps, metrics["part_iou_kmeans"])
    assert axes.shape == (4, 2)
    assert "IoU" in axes[0, 0].get_title()


def test_auc_of_one_image_is_that_of_its_padded_curve():
    curve = information.curves(np.array([[1, 0, -1]]), np.array([[1]]))
    assert information.image_scores(curve, 4)[1] == pytest.approx(np.log(2) / 4)
