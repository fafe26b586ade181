"""Effective robustness against scipy, cases computed by hand, and an independent fit of the public testbed."""

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from lib import models, paths
from lib.data import load as load_images
from lib.errors import UserError
from lib.outliers import robustness, rows, testbed

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
    for k in range(5):
        there = y[k] > 0
        one = robustness.fit(x[k, there], y[k, there])
        assert (lines.slope[k], lines.intercept[k]) == (pytest.approx(one.slope), pytest.approx(one.intercept))


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


# --- the papers' scale


@pytest.fixture
def downloads(real, monkeypatch):
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real("imagenet_testbed_top1.csv").parent))
    return pd.read_csv(paths.DATA / "published" / "outlier_features_support.csv").set_index("metric")


@pytest.mark.parametrize("axis", ["logit", "probit"])
def test_the_testbed_gives_the_lines_computed_elsewhere(downloads, axis):
    theirs = downloads[downloads["table"] == f"baseline_fit_{axis}"]["value"].astype(float)
    _, lines = testbed.effective(testbed.public_accuracies(), testbed.baselines(), axis)
    for shift, line in lines.items():
        assert line.slope == pytest.approx(theirs[f"slope_{shift}"], abs=1.01e-4)
        assert line.intercept == pytest.approx(theirs[f"intercept_{shift}"], abs=1.01e-4)
    assert lines["A"].dropped == ("resnet50",)  # ImageNet-A was filtered against it


def test_public_accuracies_give_the_effective_robustness_computed_elsewhere(downloads):
    theirs = downloads[downloads["table"] == "er_computed"].reset_index().set_index(["model", "pretraining", "metric"])
    table, _ = testbed.effective(testbed.public_accuracies(), testbed.baselines())
    assert len(table) == 16
    for (model, data), row in table.iterrows():
        for shift in testbed.SHIFTS:
            expected = float(theirs.loc[(model, data, f"ER_{shift}_logit"), "value"])
            assert row[shift] == pytest.approx(expected, abs=0.011)
        assert row["mean"] == pytest.approx(float(theirs.loc[(model, data, "ER_mean5_logit"), "value"]), abs=0.011)
        assert row["mean_low"] < row["mean"] < row["mean_high"]


# --- shifts of a folder


@pytest.fixture
def shifted(make_folder):
    data = load_images(make_folder({"n1": 2, "n2": 3, "n3": 2}, "data"))
    return data, make_folder({"n3": 2, "n1": 1}, "imagenet-r")


def test_shifts_of_a_folder_are_aligned_by_their_class_folders(shifted):
    data, folder = shifted
    ((name, (images, present)),) = rows.shifted(data, [str(folder)]).items()
    assert name == "imagenet-r" and images.labels.tolist() == [0, 2, 2] and present.tolist() == [0, 2]
    assert rows.shifted(data) == {}
    limited, _ = rows.shifted(data, [str(folder)], limit=1)["imagenet-r"]
    assert limited.labels.tolist() in ([0], [2, 2])


def test_a_strange_class_folder_is_refused(shifted, make_folder):
    data, _ = shifted
    with pytest.raises(UserError, match=r"1 class folders .* \(n22\).* Did you mean 'n2'"):
        rows.shifted(data, [str(make_folder({"n1": 1, "n22": 1}, "odd"))])


def test_classes_that_a_shift_lacks_do_not_compete(shifted):
    data, folder = shifted
    model = models.load("ViT-B-32:random", device="cpu")
    found = rows.robustness(model, data, [str(folder)])["metrics"]
    assert found["top1"].shape == (7,) and found["imagenet-r"].shape == (3,)
    with pytest.raises(UserError, match="No shifts of data"):
        rows.robustness(model, data)
