"""Effective robustness against scipy, cases computed by hand, and an independent fit of the public testbed."""

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from lib import paths
from lib.errors import UserError
from lib.outliers import baselines, robustness
from lib.outliers.contrasts import Drawn
from lib.run import Found

rng = np.random.default_rng(3)
X, Y = np.array([60.0, 70, 80, 90]), np.array([30.0, 45, 55, 75])


@pytest.mark.parametrize("axis, theirs", [("logit", special.logit), ("probit", stats.norm.ppf), ("linear", np.asarray)])
def test_axes_agree_with_scipy_and_come_back(axis, theirs):
    np.testing.assert_allclose(robustness.transformed(X, axis), theirs(X / 100))
    np.testing.assert_allclose(robustness.mapped_back(robustness.transformed(X, axis), axis), X)


@pytest.mark.parametrize("axis", robustness.AXES)
def test_the_line_agrees_with_scipy(axis):
    line = robustness.fit(X, Y, axis)
    theirs = stats.linregress(robustness.transformed(X, axis), robustness.transformed(Y, axis))
    assert (line.slope, line.intercept) == (pytest.approx(theirs.slope), pytest.approx(theirs.intercept))
    assert line.r2 == pytest.approx(theirs.rvalue**2) and line.n == 4


def test_effective_robustness_by_hand():
    line = robustness.fit([50.0, 75.0, 90.0], [50.0, 25.0, 10.0])  # logits 0, ln 3, ln 9 and their negatives
    assert line.slope == pytest.approx(-1) and line.intercept == pytest.approx(0, abs=1e-12)
    assert line(80.0) == pytest.approx(20)
    np.testing.assert_allclose(robustness.effective([80.0, 50.0], [33.0, 50.0], line), [13, 0], atol=1e-12)


def test_models_on_the_line_have_none():
    line = robustness.fit(X, robustness.mapped_back(0.7 * robustness.transformed(X) - 1))
    np.testing.assert_allclose(robustness.effective(X, line(X), line), 0, atol=1e-12)
    assert line.r2 == pytest.approx(1)


def test_models_at_the_ends_of_the_axis_are_left_out_by_name():
    line = robustness.fit([*X, 50.0, 100.0], [*Y, 0.0, 90.0], names=[*"abcd", "none", "all"])
    assert line.dropped == ("none", "all") and line.n == 4
    assert line.slope == pytest.approx(robustness.fit(X, Y).slope)
    assert robustness.fit([*X, 50.0], [*Y, 0.0], "linear").dropped == ()
    assert line(0.0) == 0 and line(100.0) == 100


def test_a_line_for_each_draw():
    x, y = rng.uniform(20, 90, (5, 6)), rng.uniform(20, 90, (5, 6))
    y[2, 3] = 0
    lines = robustness.fit(x, y)
    assert lines(x).shape == (5, 6)
    for k in range(5):
        there = y[k] > 0
        one = robustness.fit(x[k, there], y[k, there])
        assert (lines.slope[k, 0], lines.intercept[k, 0]) == (pytest.approx(one.slope), pytest.approx(one.intercept))
        np.testing.assert_allclose(lines(x)[k], one(x[k]))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: robustness.fit(X[:2], Y[:2]), "2 baseline models .* a line needs 3"),
        (lambda: robustness.fit(X, Y * 0), "0 baseline models"),
        (lambda: robustness.fit([50.0] * 4, Y), "same accuracy"),
        (lambda: robustness.fit(X, Y, "log"), "axis 'log' is unknown"),
        (lambda: robustness.fit(X, Y * 2), "outside 0 to 100"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, message):
    with pytest.raises(UserError, match=message):
        call()


# --- the models of a page

NAMES = ["RN50", "RN50-supervised", "RN101-supervised", "RN50-supervised-half", "ViT-B-32-supervised"]


def observed(n=400):
    """Observations of `observe.robustness`: whether each image of two splits is classified rightly."""
    frames = []
    for name, rate in zip(NAMES, np.linspace(0.5, 0.9, len(NAMES)), strict=True):
        for split, share in (("val", rate), ("v2", rate**2)):
            top1 = 100.0 * (rng.random(n) < share)
            frames.append(pd.DataFrame({"model": name, "split": split, "image": np.arange(n), "top1": top1}))
    return pd.concat(frames, ignore_index=True)


def test_effective_robustness_of_models_is_that_of_their_means():
    table = observed()
    found = baselines.accuracies(table)
    mean = table.groupby(["split", "model"])["top1"].mean()
    known = baselines.known(found, "bestiary")
    assert set(known["v2"].values.index) == set(NAMES[1:]) and found["val"].rows.shape == (1 + 2000, 5)
    lines = baselines.lines(known)
    line = robustness.fit(mean["val"][NAMES[1:]], mean["v2"][NAMES[1:]])
    robust = baselines.over_baseline(found, lines)
    expected = mean["v2", "RN50"] - line(mean["val", "RN50"])
    assert lines["v2"].first.slope == pytest.approx(line.slope)
    assert robust["v2"].values["RN50"] == pytest.approx(expected) == robust["mean"].values["RN50"]
    assert abs(robust["v2"].rows["RN50"][1:].mean() - expected) < 3
    choices = baselines.choices(found, known)
    assert choices["one line to the mean"].values["RN50"] == pytest.approx(expected)  # of a single shift
    assert choices["linear"].values["RN50"] != pytest.approx(expected)


def test_splits_are_drawn_again_independently():
    table = observed()
    table = table.assign(top1=table.groupby(["model", "image"])["top1"].transform("first"))  # the same hits twice
    found = baselines.accuracies(table)
    assert abs(np.corrcoef(found["val"].rows["RN50"][1:], found["v2"].rows["RN50"][1:])[0, 1]) < 0.1


def test_lines_in_numbers_have_intervals_where_images_are_known():
    known = baselines.known(baselines.accuracies(observed()), "bestiary")
    table = baselines.table_of(baselines.lines(known))
    assert (
        table.loc["v2", "slope_low"].item() < table.loc["v2", "slope"].item() and table["baseline models"].item() == 4
    )
    fixed = {split: Drawn(x.rows[:1]) for split, x in known.items()}
    assert np.isnan(baselines.table_of(baselines.lines(fixed)).loc["v2", "slope_low"].item())


def test_the_mean_over_shifts_takes_models_that_have_them_all():
    known = {"val": [70.0, 80, 90, 60], "imagenet-v2": [60.0, 70, 80, 55], "imagenet-r": [30.0, np.nan, 50, 20]}
    drawn = {k: Drawn(pd.DataFrame([v])) for k, v in known.items()}
    mean = baselines.averaged(drawn)
    assert mean.values.tolist()[0] == 45 and np.isnan(mean.values[1])
    line = baselines.lines({"val": drawn["val"], "all": mean})["all"]
    assert line.n == 3 and line.dropped == ()
    without = baselines.averaged(drawn, ["imagenet-r"])
    assert without.values.tolist() == known["imagenet-v2"]


def test_pruned_accuracies_become_changes_with_the_lines_held_fixed():
    pruned = {"val": [[[100, 100, 100, 0, 0]], [[100, 100, 0, 0, 0]]], "v2": [[[100, 0, 0, 0, 0]], [[0, 0, 0, 0, 0]]]}
    tensors = {name: np.array(x, dtype=np.uint8).transpose(1, 0, 2) for name, x in pruned.items()}
    found = Found(pd.DataFrame(), {"RN50": tensors}, {"RN50": {"ways": ["importance"], "shares": [0.0, 0.8]}})
    same = pd.Series([20.0, 50, 80])
    known = dict.fromkeys(("val", "v2"), Drawn(same.to_frame().T))
    parts = {name: x.values["RN50"] for name, x in baselines.pruned(found, known, 0.8).items()}
    assert parts["top-1"] == 60 and parts["change"] == -20 and parts["robustness"] == pytest.approx(20 - 60)
    assert parts["change of robustness"] == pytest.approx((0 - 40) - (20 - 60))
    assert "RN50" not in baselines.pruned(found, {}, 0.8)["robustness"].values
    assert np.isnan(baselines.pruned(found, known, 0.5)["change"].values["RN50"])  # a share that was not pruned


def test_baseline_models_are_the_supervised_ones():
    names = baselines.baseline_models("bestiary")
    assert "RN50-supervised" in names and "RN50-supervised-quarter" in names and "RN50-finetuned" not in names
    assert baselines.baseline_models("imagenet") == []
    standard = pd.read_csv(paths.DATA / "published" / "imagenet_testbed_standard.csv")
    assert len(standard) == 85 and standard["model"].is_unique


# --- the papers' scale

PUBLISHED = {"imagenet-v2": "V2", "imagenet-r": "R", "imagenet-sketch": "Sketch", "objectnet": "ObjectNet"}
PUBLISHED |= {"imagenet-a": "A"}


@pytest.fixture
def downloads(real, monkeypatch):
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real("imagenet_testbed_top1.csv").parent))
    return pd.read_csv(paths.DATA / "published" / "outlier_features_support.csv").set_index("metric")


@pytest.mark.parametrize("axis", ["logit", "probit"])
def test_the_testbed_gives_the_lines_computed_elsewhere(downloads, axis):
    theirs = downloads[downloads["table"] == f"baseline_fit_{axis}"]["value"].astype(float)
    lines = baselines.lines(baselines.public_baselines(), axis)
    for shift, line in lines.items():
        line = line.first
        assert line.slope == pytest.approx(theirs[f"slope_{PUBLISHED[shift]}"], abs=1.01e-4)
        assert line.intercept == pytest.approx(theirs[f"intercept_{PUBLISHED[shift]}"], abs=1.01e-4)
    assert lines["imagenet-a"].dropped == ("resnet50",)  # ImageNet-A was filtered against it


def test_public_accuracies_give_the_effective_robustness_computed_elsewhere(downloads):
    theirs = downloads[downloads["table"] == "er_computed"].reset_index().set_index(["model", "pretraining", "metric"])
    again = baselines.models_again(baselines.public_baselines())
    robust = baselines.over_baseline(baselines.public_accuracies(), baselines.lines(again))
    assert len(robust["mean"].values) == 16
    for shift, name in {**PUBLISHED, "mean": "mean5"}.items():
        for row in robust[shift].frame("er").itertuples():
            expected = float(theirs.loc[(*row.Index, f"ER_{name}_logit"), "value"])
            assert row.er == pytest.approx(expected, abs=0.011) and row.er_low < row.er < row.er_high


def test_a_strange_shift_has_no_baseline():
    with pytest.raises(UserError, match="no baseline for fog; name the shifts' folders imagenet-v2"):
        baselines.public_baselines(["fog"])
