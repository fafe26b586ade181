"""Scores against the truth: by hand, against scikit-learn and scipy, at their extremes, and as observations."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

from lib import data, models, statistics
from lib.bestiary.species import PARTS
from lib.errors import UserError
from lib.mutual import ground_truth as gt
from lib.mutual import information, matching, observe, observe_truth, tracking
from lib.mutual.explain import find, name_parts
from lib.mutual.options import Options, StepOptions

KINDS = len(PARTS)
BODY, HEAD, EARS = (PARTS.index(p) for p in ("body", "head", "ears"))


class Few:
    """A door with a few pictures behind it: four of each of three species."""

    name, seed = "RN50", 0

    def __init__(self):
        self.model = models.load("RN50")
        self.images = data.load("bestiary").subset([k + 48 * i for k in range(3) for i in range(4)])


@pytest.fixture(scope="module")
def given():
    return Few()


@pytest.fixture(scope="module")
def images(given):
    return given.images


@pytest.fixture(scope="module")
def told(given):
    return observe_truth.descriptors(given, Options())


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
    return gt.confusion(found, gt.patch_counts(truth, found.shape[1:], KINDS), parts)


# --- parts


def test_confusion_is_that_of_scikit_learn_at_pixel_level():
    stream = np.random.default_rng(0)
    found, truth = stream.integers(-1, 3, (5, 6, 6)), stream.integers(0, KINDS, (5, 16, 16))
    grown = torch.nn.functional.interpolate(torch.tensor(found)[:, None].float(), (16, 16))[:, 0].long().numpy()
    tables = table_of(found, truth, 3)
    for table, g, t in zip(tables, grown, truth, strict=True):
        expected = confusion_matrix(np.where(g < 0, 3, g).ravel(), t.ravel(), labels=range(KINDS))
        assert np.array_equal(table, expected[:4])


def test_purity_and_iou_by_hand(small):
    table = table_of(*small, 2)
    # part 0 holds 5 pixels of the body, part 1 three of the head and one of the ears: 8 of 9 are in the majority
    assert gt.purity(table)[0] == pytest.approx(8 / 9)
    # body: 5 of part 0's 8 pixels; head: 3 of part 1's 4; ears have one pixel, too few to count
    iou = gt.part_iou(np.where(np.arange(KINDS) == 0, table, 4 * table))  # four times as many pixels a part
    assert iou[0] == pytest.approx(np.mean([20 / 23, 12 / 16]))


def test_the_true_parts_themselves_are_pure_and_fit_wholly(images):
    truth = observe_truth.true_maps(images)
    table = table_of(truth - 1, truth, KINDS - 1)
    assert gt.purity(table) == pytest.approx(1) and gt.part_iou(table) == pytest.approx(1)
    scores = gt.part_scores(truth - 1, gt.patch_counts(truth, truth.shape[1:], KINDS), KINDS - 1)
    assert (scores["at random"]["purity"] < 70).all() and (scores["at random"]["part_iou"] < 40).all()


def test_one_part_has_nothing_to_deal():
    found, truth = np.zeros((3, 4, 4), int), np.random.default_rng(0).integers(0, KINDS, (3, 8, 8))
    scores = gt.part_scores(found, gt.patch_counts(truth, (4, 4), KINDS), 1)
    np.testing.assert_allclose(scores["the image"]["purity"], scores["at random"]["purity"], rtol=1e-5)


def test_true_maps_are_those_of_the_renderer(images):
    for i, found in enumerate(observe_truth.true_maps(images)):
        assert np.array_equal(found, images.source.label_map(int(images.indices[i])))


def test_dealing_at_random_keeps_foreground_and_sizes():
    maps = np.random.default_rng(0).integers(-1, 4, (6, 5, 5))
    dealt = gt.dealt(maps, np.random.default_rng(1))
    assert np.array_equal(dealt < 0, maps < 0) and not np.array_equal(dealt, maps)
    for a, b in zip(dealt, maps, strict=True):
        assert np.array_equal(np.bincount(a[a >= 0], minlength=4), np.bincount(b[b >= 0], minlength=4))


def test_extremes_are_the_worst_the_middle_and_the_best():
    assert gt.extremes([0.5, np.nan, 0.1, 0.9, 0.3, 0.7, 0.2], each=1) == [2, 0, 3]
    assert gt.extremes([np.nan, 1.0], each=2) == [1]


# --- descriptors


def test_precision_recall_and_f1_are_those_of_scikit_learn():
    stream = np.random.default_rng(0)
    named, true = stream.random((8, 20)) < 0.3, stream.random((8, 20)) < 0.4
    ids = np.stack([np.pad(np.flatnonzero(n), (0, 20 - n.sum()), constant_values=-1) for n in named])
    scores = gt.descriptor_scores(ids, true, np.arange(8))["the image"]
    for name, theirs in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        expected = [theirs(t, n) for n, t in zip(named, true, strict=True)]
        np.testing.assert_allclose(scores[name], 100 * np.array(expected))
    np.testing.assert_allclose(gt.precision(named, true), scores["precision"] / 100)
    np.testing.assert_allclose(gt.recall(named, true), scores["recall"] / 100)
    nothing = np.zeros((1, 3), bool)
    assert np.isnan(gt.precision(nothing, ~nothing)) and gt.recall(nothing, ~nothing) == 0


def test_members_leave_the_padding_out():
    assert gt.members(np.array([[2, 0, -1], [-1, -1, -1]]), 4).tolist() == [[True, False, True, False], [False] * 4]


def test_naming_at_random_has_the_base_rate_and_naming_the_truth_is_perfect(images):
    true = observe_truth.held(images)
    stream = np.random.default_rng(0)
    ids = stream.permuted(np.tile(np.arange(true.shape[1]), (len(images), 1)), axis=1)[:, :10]
    scores = gt.descriptor_scores(ids, true, images.labels)
    own, wrong = scores["the image"], scores["another class"]
    assert own["precision"].mean() == pytest.approx(own["base"].mean(), abs=8)
    assert wrong["precision"].mean() == pytest.approx(own["base"].mean(), abs=8)
    assert own["named"].tolist() == [10] * len(images)
    width = true.sum(1).max()
    perfect = np.stack([np.pad(np.flatnonzero(t), (0, width - t.sum()), constant_values=-1) for t in true])
    scores = gt.descriptor_scores(perfect, true, images.labels)
    assert (scores["the image"]["f1"] == 100).all() and (scores["another class"]["precision"] < 100).all()


def test_held_is_what_the_bestiary_says(images):
    held = observe_truth.held(images)
    for i in range(len(images)):
        assert {images.bank[d] for d in np.flatnonzero(held[i])} == set(images.true_descriptors(i)) & set(images.bank)


def test_another_class_is_the_mean_over_all_images_of_other_classes():
    stream = np.random.default_rng(0)
    ids, true, labels = (
        stream.permuted(np.tile(np.arange(9), (4, 1)), axis=1)[:, :3],
        stream.random((4, 9)) < 0.4,
        [0, 0, 1, 2],
    )
    wrong = gt.descriptor_scores(ids, true, labels)["another class"]
    named = gt.members(ids, 9)
    for name, theirs in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        expected = [np.mean([theirs(true[j], named[i]) for j in range(4) if labels[j] != labels[i]]) for i in range(4)]
        np.testing.assert_allclose(wrong[name], 100 * np.array(expected))
    assert np.isnan(gt.descriptor_scores(ids, true, [5] * 4)["another class"]["f1"]).all()


def test_in_place_by_hand(small):
    there = gt.in_place(table_of(*small, 2), np.array([BODY, HEAD, EARS, 0]))[0]
    # part 0 holds all of the body, part 1 all of head and ears, neither half of the background
    assert there.tolist() == [[True, False, False, False], [False, True, True, False]]


def test_places_by_hand():
    true = np.array([[True, True, False]])
    there = np.array([[[True, False, True], [False, True, False]]])
    ids = np.array([[[0, 1], [1, 2]]])  # 0 in place, 1 holds elsewhere; 1 in place, 2 does not hold
    scores = gt.place_scores(ids, true, there)
    assert scores["the image"]["holds"][0] == 75 and scores["the image"]["placed"][0] == 50
    every = np.array(list(permutations(ids.ravel()))).reshape(-1, 1, 2, 2)
    dealt = [gt.place_scores(one, true, there)["the image"]["placed"][0] for one in every]
    assert scores["at random"]["placed"][0] == pytest.approx(np.mean(dealt)) == 37.5
    none = gt.place_scores(np.full((1, 2, 2), -1), true, there)
    assert np.isnan(none["the image"]["placed"][0])


def test_pointing_by_hand():
    part_of = np.array([1, 1, 2, 3])
    true = np.array([[True, False, True, False]])  # part 1 has descriptor 0, part 2 has 2, part 3 has none that holds
    ids = np.array([[[0, 3], [1, 3], [3, -1]]])
    assert gt.pointing_scores(ids, true, part_of)["the image"]["pointed"][0] == 50
    perfect = np.array([[[0, -1], [2, -1], [-1, -1]]])
    assert gt.pointing_scores(perfect, true, part_of)["the image"]["pointed"][0] == 100


def test_every_descriptor_speaks_of_a_part(images):
    part = dict(zip(images.bank, observe_truth.parts_of(images.bank), strict=True))
    assert PARTS[part["a long red beak"]] == "mouth" and PARTS[part["found on snow"]] == "background"
    with pytest.raises(UserError, match="'a beard' is no descriptor of the bestiary"):
        observe_truth.parts_of(["a beard"])


# --- as observations


def test_counts_by_hand():
    ids = np.array([[3, 1, -1], [0, -1, -1]])
    language = np.array([[1, 2], [0, 3], [4, 5]])
    found = observe_truth.counts(ids, language, np.array([0, 1]), Options(parts=1, per_part=3))
    assert found["matches"].tolist() == [1, 1] and found["last_hit"].tolist() == [2, 1]
    np.testing.assert_allclose(found["mi"], [np.log(2 * 2), np.log(2)])
    np.testing.assert_allclose(found["auc"], [2 * np.log(4) / 4, np.log(2) / 4])
    assert found["above_chance"].tolist() == [1 - (1 + 0) / 2, 1 - 0]


def test_auc_of_one_image_is_that_of_its_padded_curve():
    curve = information.curves(np.array([[1, 0, -1]]), np.array([[1]]))
    assert information.image_scores(curve, 4)[1] == pytest.approx(np.log(2) / 4)


def test_observations_agree_with_table_3_and_with_the_steps_before_them(given, told):
    clip, images = given.model, given.images
    ours = statistics.chosen(told.table, {"parts": "kmeans", "against": "the image"})
    published = ours[ours["matching"] == "transport"]
    theirs = observe.table3(given, Options()).table
    theirs = statistics.chosen(theirs, {"parts": "kmeans", "against": "predicted class"})
    for name in ("mi", "auc", "matches", "last_hit", "top1"):
        np.testing.assert_allclose(published[name], theirs[name], atol=1e-9)
    ids = name_parts(clip, images, find(clip, images), Options(matching="top")).vision_ids
    true = [images.true_descriptors(i) for i in range(len(images))]
    expected = [np.mean([images.bank[d] in true[i] for d in row if d >= 0]) for i, row in enumerate(ids)]
    np.testing.assert_allclose(ours[ours["matching"] == "top"]["precision"], 100 * np.array(expected))


def test_the_whole_image_names_as_many_as_its_parts(told):
    named = told.table[told.table["against"] == "the image"].pivot(
        index="image", columns=["parts", "matching"], values="named"
    )
    assert named["none", "whole image"].equals(named["kmeans", "transport"])
    assert set(told.table[told.table["parts"] == "kmeans"]["matching"]) == set(matching.METHODS)


def test_parts_are_seen_with_their_chance_and_their_maps(given):
    seen = observe_truth.parts(given, Options())
    mean = seen.table.groupby(["parts", "against"])[["purity", "part_iou"]].mean()
    assert set(mean.index) == {(m, a) for m in ("pca", "kmeans") for a in ("the image", "at random")}
    assert seen.tensors["kmeans"].shape[0] == len(given.images) and seen.tensors["pca"].min() == -1


def test_true_parts_are_drawn_where_they_are(given, images):
    truth = observe_truth.true_maps(images)
    maps = observe_truth.at_resolution(truth - 1, given.model.image_size)
    assert (gt.purity(table_of(maps.numpy(), truth, KINDS - 1)) > 0.85).all()  # scaled to the model's pixels
    assert min(len(m.unique()) for m in maps) > 4
    table = observe_truth.true_parts(given, StepOptions(step_images=6))
    assert table["image"].nunique() == 6 and set(table["matching"]) == set(matching.METHODS)
    assert table[table["against"] == "at random"][["pointed", "placed"]].notna().any().all()
    with pytest.raises(UserError, match="step_images is -1"):
        replace(StepOptions(), step_images=-1)


def test_a_dataset_without_the_truth_is_refused(given, make_folder):
    folder = make_folder({"cat": 2, "dog": 2})
    (folder / "descriptors.json").write_text('{"cat": ["whiskers"], "dog": ["a tail"]}')
    other = Few()
    other.images = data.load(str(folder))
    for observed in (observe_truth.parts, observe_truth.descriptors):
        with pytest.raises(UserError, match="only 'bestiary' knows them"):
            observed(other, Options())


# --- what tracks the truth


@pytest.fixture
def table():
    """Five made-up models of 60 images whose truths follow AUC and not K."""
    stream, parts = np.random.default_rng(0), []
    for k in range(5):
        part = pd.DataFrame({name: stream.random(60) for name in tracking.COUNTS})
        for truth in tracking.TRUTHS:
            part[truth] = 100 * part["auc"] + stream.normal(0, 5, 60)
        part = part.assign(model=f"m{k}", image=range(60), top1=100.0 * (stream.random(60) < 0.3 + 0.1 * k))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def test_correlations_within_models_are_those_of_scipy(table):
    within = tracking.within_models(table)
    expected = np.mean([spearmanr(part["matches"], part["f1"])[0] for _, part in table.groupby("model")])
    assert within["matches", "f1"][0] == pytest.approx(expected)
    gap = (within["auc", "f1"] - within["matches", "f1"]).to_numpy()
    found = statistics.of_draws(gap[0], gap[1:], 60)
    assert 0 < found.low < found.value < found.high


def test_correlations_over_models_are_those_of_scipy(table):
    tracked = tracking.tracking(table, tracking.within_models(table))
    means = table.groupby("model")[["auc", "f1"]].mean()
    assert tracked.loc[("auc", "f1"), "over_models"] == pytest.approx(spearmanr(means["auc"], means["f1"])[0])
    line = tracked.loc[("auc", "f1")]
    assert line["within_low"] < line["within"] < line["within_high"]
    assert len(tracked) == 7 * 3 and np.isnan(tracked.loc[("top1", "f1"), "within"])


def test_right_and_wrong_are_separated_and_averaged_over_models(table):
    split = tracking.right_and_wrong(table, ["auc"]).iloc[0]
    right, wrong = (
        np.mean([part[part["top1"] == top1]["auc"].mean() for _, part in table.groupby("model")]) for top1 in (100, 0)
    )
    assert split["right"] == pytest.approx(right) and split["difference"] == pytest.approx(right - wrong)
    assert split["difference_low"] < split["difference"] < split["difference_high"]
