"""What the pages on Tables 1 and 5 print, by hand and against the published figures."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.data import load as load_images
from lib.mutual import table1, table5
from lib.report import faithfulness, published, tables

matplotlib.use("Agg")
FIVE = [name for name in faithfulness.EXPLANATIONS if name != "true_parts"]


@pytest.fixture
def kept():
    """Made-up arrays of a record: 20 images, two explanations and their controls."""
    rng, found = np.random.default_rng(0), {"ends": np.tile([0.8, 0.3], (20, 1))}
    found["ends_correct"] = (rng.random((20, 2)) < [0.9, 0.2]).astype(float)
    for name in ("kmeans", "mm_cbm"):
        found[f"covered_{name}"] = np.tile(np.linspace(0, 0.4, 6), (20, 1))
        found[f"regions_{name}"] = rng.random((4, 5, 3, 3)) < 0.3
        for kind in (name, f"{name}_random"):
            for direction in ("deletion", "insertion"):
                found[f"{direction}_{kind}"] = rng.random((20, 6))
                found[f"{direction}_correct_{kind}"] = (rng.random((20, 6)) < 0.5).astype(float)
    return found


@pytest.fixture
def rows():
    """A row in which each explanation's measures are those published, with an interval."""
    theirs, row = faithfulness.table1(), {"title": "ViT-B/16", "family": "ViT", "reason": ""}
    for name in FIVE:
        for measure in faithfulness.MEASURES:
            value = theirs.loc[faithfulness.EXPLANATIONS[name], measure]
            for kind, add in (("", 0), ("_random", 0.5), ("_gain", -value + 0.5)):
                key = f"{measure}_{name}{kind}"
                row |= {key: value + add, f"{key}_low": value + add - 0.1, f"{key}_high": value + add + 0.1}
            row[f"{measure}_{name}@default"] = value
            row[f"{measure}_{name}@turned"] = -value
        row |= {f"area_{name}": 10.0, f"shown_{name}": 5.0}
    return pd.DataFrame.from_dict({"ViT-B-16": row}, orient="index")


def test_the_names_are_those_of_the_rows_and_of_the_published_tables():
    assert set(faithfulness.EXPLANATIONS) == {*table1.TRAINED, *table1.OURS, table1.TRUE}
    assert list(faithfulness.CLASSIFIERS) == list(table5.METHODS)
    assert set(faithfulness.MEASURES) == set(table1.MEASURES)
    assert set(faithfulness.table1().index) == {faithfulness.EXPLANATIONS[name] for name in FIVE}
    assert set(faithfulness.table5().index) < set(faithfulness.CLASSIFIERS.values())
    for exhibit, known in (("table1", faithfulness.TABLE1_CLAIMS), ("table5", faithfulness.TABLE5_CLAIMS)):
        assert {c["id"] for c in published.claims(exhibit)} == set(known)


def test_published_values_are_those_of_the_paper():
    assert faithfulness.table1().loc["MM-CBM", ["deletion", "insertion", "acc_drop", "acc_inc"]].tolist() == [
        3.147, 3.385, 2.634, 1.013,
    ]  # fmt: skip
    theirs = faithfulness.table5()
    assert theirs.loc["MM-ProtoSim"].tolist() == [78.79, 95.43]
    assert theirs.loc["LF-CBM", "top1"] == 71.95 and np.isnan(theirs.loc["LF-CBM", "top5"])


def test_lines_join_with_the_published_table(rows):
    found = faithfulness.lines(rows, faithfulness.EXPLANATIONS, faithfulness.MEASURES)
    assert list(found["method"]) == [faithfulness.EXPLANATIONS[name] for name in FIVE]  # no true parts in this row
    shown = tables.table(
        found, faithfulness.MEASURES, "tab-x", "x", published=faithfulness.table1(), label="method"
    ).cells
    first = shown.iloc[0]
    assert first["Deletion ↓, published"] == "3.15" and first["Deletion ↓, ours"] == "3.15 [3.05, 3.25]"
    both = pd.concat([rows, rows.assign(title="RN50")])
    assert "RN50: MM-CBM" in set(faithfulness.lines(both, faithfulness.EXPLANATIONS, ["area"])["method"])


def test_a_model_that_did_not_run_has_no_line(rows):
    failed = pd.concat([rows, rows.assign(title="RN50", reason="no weights")])
    assert len(faithfulness.lines(failed, faithfulness.EXPLANATIONS, ["area"])) == len(FIVE)


def test_controls_stand_beside_their_explanation(rows):
    found, headings = faithfulness.controlled(rows, ("deletion",))
    line = found.set_index("method").loc["Feature Maps"]
    assert line["deletion"] == 2.921 and line["deletion_random"] == pytest.approx(3.421)
    assert line["deletion_gain"] == pytest.approx(0.5) and line["deletion_gain_low"] == pytest.approx(0.4)
    assert list(headings) == ["deletion", "deletion_random", "deletion_gain"] and set(headings) < set(found)


def test_the_normalised_ratio_by_hand_and_its_interval_by_scipy():
    rng = np.random.default_rng(1)
    after, ends = rng.random(60), np.stack([1 + rng.random(60), rng.random(60)], 1)
    value, low, high = faithfulness.ratio(after, ends)
    blurred, intact = ends[:, 1].mean(), ends[:, 0].mean()
    assert value == pytest.approx((after.mean() - blurred) / (intact - blurred))
    theirs = stats.bootstrap(
        (after, *ends.T),
        lambda a, i, b, axis: (a.mean(axis) - b.mean(axis)) / (i.mean(axis) - b.mean(axis)),
        paired=True, vectorized=True, method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.015)
    assert np.isnan(faithfulness.ratio(after, np.ones((60, 2)))).all()


def test_normalised_lines_leave_the_first_point_out(kept):
    rows = pd.DataFrame({"title": ["M"]}, index=["m"])
    found = faithfulness.normalised(rows, {"m": kept}).set_index("method")
    expected = (kept["deletion_kmeans"][:, 1:].mean() - 0.3) / 0.5
    assert found.loc["Ours (K-means)", "deletion"] == pytest.approx(expected)
    right = kept["ends_correct"].mean(0)
    expected = (kept["insertion_correct_mm_cbm_random"][:, 1:].mean() - right[1]) / (right[0] - right[1])
    assert found.loc["MM-CBM, random", "acc_inc"] == pytest.approx(expected)


def test_definitions_agree_with_the_published_order_where_the_values_are_the_published_ones(rows):
    found = faithfulness.definitions(rows).set_index("definition")
    assert found.loc["default", "Deletion ↓"] == "+1.00 (K-means)"
    assert found.loc["default", "Insertion ↑"] == "+1.00 (MM-CBM)"
    assert found.loc["turned", "AccInc ↑"] == "-1.00 (MM-ProtoSim)"
    assert faithfulness.agreement(rows.iloc[0], "insertion", "turned") == pytest.approx(-1)


def test_claims_are_taken_from_the_first_row_that_ran():
    row = {
        f"{m}{end}": k for m in faithfulness.TABLE5_CLAIMS.values() for k, end in enumerate(("", "_low", "_high", "_n"))
    }
    rows = pd.DataFrame([{"reason": "no weights"}, {"reason": "", **row}], index=["a", "b"])
    assert set(faithfulness.claims(rows, faithfulness.TABLE5_CLAIMS).values()) == {(0, 1, 2, 3)}


def test_the_step_at_which_a_cell_is_covered_by_hand():
    regions = np.array([[[1, 0, 0]], [[1, 1, 0]]], bool)
    assert faithfulness.first_covered(regions).tolist() == [[0, 1, None]]


def test_figures_have_a_panel_for_each_thing_they_show(kept):
    axes = faithfulness.curves(kept)
    assert axes.shape == (2, 2) and len(axes[0, 0].get_lines()) == 4
    end = axes[0, 0].get_lines()[0]
    assert end.get_xdata()[-1] == pytest.approx(40)
    assert faithfulness.regions(load_images("bestiary", images=4), kept, images=2).shape == (2, 3)
    columns = {f"top1_{name}{end}": 50.0 for name in faithfulness.CLASSIFIERS for end in ("", "_low", "_high")}
    rows = pd.DataFrame([{"title": "M", "reason": "", **columns}])
    labels = [label.get_text() for label in faithfulness.accuracies(rows).get_yticklabels()]
    assert labels == list(faithfulness.CLASSIFIERS.values())
