"""Records, tables, published numbers and figures."""

import json
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest

from lib import paths
from lib.errors import UserError
from lib.report import figures, published, record, tables

matplotlib.use("Agg")

CLIP = SimpleNamespace(
    title="ViT-L/14", family="ViT", banner=None, device="cpu", precision="fp32", weights_sha256="ab" * 32
)
CONTEXT = {
    "exhibit": "table3",
    "model": "ViT-L-14",
    "dataset": "bestiary",
    "split": "val",
    "scale": "miniature",
}
DECIDES = {"parameters": {"seed": 0}}


class Data(list):
    fingerprint, classes, templates, descriptors = "cd" * 32, ["a", "b"], ("{}.",), [["x"], ["y"]]


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_RESULTS", str(tmp_path))
    return record.path("bestiary", "table3", "ViT-L-14")


def write(path, value=1.0, arrays=None):
    result = {
        "metrics": {"auc": (value, 0.5, 2.0, 4)},
        "arrays": arrays or {"auc": np.arange(4.0)},
        "notes": {"k": np.int64(3)},
    }
    return record.write(path, result, DECIDES, CONTEXT, CLIP, Data(range(4)), 1.23)


def test_a_record_holds_what_a_sceptic_asks(path):
    written = write(path)
    found = record.read(path)
    assert found == written
    for name in (
        "commit",
        "dirty",
        "versions",
        "device",
        "precision",
        "wall_seconds",
        "peak_memory_mb",
        "images",
    ):
        assert name in found
    assert set(found["sha256"]) == {"weights", "data", "classes", "templates", "descriptors"}
    assert found["metrics"]["auc"] == {"value": 1.0, "low": 0.5, "high": 2.0, "n": 4}
    np.testing.assert_array_equal(record.arrays(found)["auc"], np.arange(4.0))


def test_a_new_record_replaces_the_old_and_its_arrays(path):
    write(path)
    write(path, 2.0, {"auc": np.ones(4)})
    assert record.read(path)["metrics"]["auc"]["value"] == 2.0
    assert len(list(path.parent.iterdir())) == 2


def test_damaged_records_and_arrays_count_as_none(path, capsys):
    entry = write(path)
    arrays = path.parent / entry["arrays"]
    arrays.write_bytes(arrays.read_bytes()[:-1])
    assert record.read(path) is None and "arrays" in capsys.readouterr().err
    path.write_text(path.read_text()[:50])
    assert record.read(path) is None and "damaged" in capsys.readouterr().err
    assert record.read(path.with_name("nothing.json")) is None and not capsys.readouterr().err


def test_a_failed_write_keeps_the_last_good_record(path, monkeypatch):
    write(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        write(path, 2.0)
    assert path.read_bytes() == before and record.read(path)
    assert not list(path.parent.glob(".*"))


def test_metrics_that_are_not_finite_are_null_in_json_and_nan_in_rows(path):
    entry = write(path, float("nan"))
    assert json.loads(path.read_text())["metrics"]["auc"]["value"] is None
    assert np.isnan(record.row(entry)["auc"])


def test_a_metric_given_image_by_image_gets_its_interval_and_is_kept(path):
    per_image = np.array([0.0, 1.0, 2.0, np.nan])
    metrics = {"k": per_image, "few": np.ones(2)}
    entry = record.write(path, {"metrics": metrics}, DECIDES, CONTEXT, CLIP, Data(range(4)), 0.1)
    value, low, high, n = entry["metrics"]["k"].values()
    assert (value, n) == (1.0, 3) and 0 <= low < 1 < high <= 2
    np.testing.assert_array_equal(record.arrays(entry)["k"], per_image)


def test_file_names_are_one_name_and_distinct():
    assert record.file_name("ViT-L-14") == "ViT-L-14"
    assert record.file_name("my birds") != record.file_name("my_birds")
    assert "/" not in record.file_name("a/b") and record.file_name("a/b") != record.file_name("c/b")


def rows():
    frame = {
        "title": ["ViT-L/14", "RN50"],
        "family": ["ViT", "ResNet"],
        "auc": [4.0, np.nan],
        "auc_low": [3.5, np.nan],
    }
    return pd.DataFrame(frame | {"auc_high": [4.5, np.nan], "reason": ["", "no weights."]}, index=["ViT-L-14", "RN50"])


def test_a_table_has_published_ours_interval_difference_and_what_was_not_run():
    table = tables.table(rows(), {"auc": "AUC"}, "tab-x", "Caption.", published=published.averaged(), difference=True)
    assert list(table.cells) == ["model", "AUC, published", "AUC, ours", "AUC, difference"]
    assert list(table.cells.iloc[0]) == ["ViT-L/14", "4.42", "4.00 [3.50, 4.50]", "-0.42"]
    assert list(table.cells.iloc[1])[2:] == ["–", "–"] and "RN50 was not run: no weights." in table.caption
    first, second = table.markdown().splitlines()[:2]
    assert first.startswith("```{table} Caption.") and second == ":name: tab-x"
    assert set(table._repr_mimebundle_()) == {"text/markdown", "text/html", "text/plain"}


def test_a_table_says_which_metric_no_row_has(capsys):
    tables.table(rows(), {"acu": "AUC"}, "tab-x", "Caption.")
    assert "no metric 'acu'. Did you mean 'auc'" in capsys.readouterr().err


def test_a_plain_table_formats_columns():
    table = tables.plain(pd.DataFrame({"group": ["ViT"], "n": [7], "r": [0.9171]}), "tab-r", "R.", {"r": ".3f"})
    assert list(table.cells.iloc[0]) == ["ViT", "7", "0.917"]


def test_published_tables_join_by_title():
    joined = published.join(rows(), published.load("mutual_knowledge_table3"))
    assert list(joined.index) == ["ViT-L-14", "RN50"] and joined.loc["ViT-L-14", "auc_pca"] == 4.47
    with pytest.raises(UserError, match="Did you mean 'mutual_knowledge_table3'"):
        published.load("mutual_knowledge_tabel3")


def test_every_model_of_the_catalogue_is_in_table_3():
    rows = pd.read_csv(paths.DATA / "models.csv")
    titles = rows["title"][rows["sets"].str.split().map(lambda sets: "mutual" in sets)]
    assert set(titles) == set(published.load("mutual_knowledge_table3").index)


def test_claims_are_complete_and_name_known_models():
    names = set(pd.read_csv(paths.DATA / "models.csv")["name"])
    for claim in published.claims():
        assert {"id", "paper", "where", "statement", "exhibit", "statistic", "direction"} <= set(claim)
        assert claim["direction"] in published.DIRECTIONS
        assert {*claim.get("greater", []), *claim.get("less", [])} <= names
        if "published" in claim:  # what only the miniature can test has no published evidence
            published.load(claim["published"], index=None)
    assert all(c["exhibit"] == "figure3" for c in published.claims("figure3"))


def test_verdicts():
    assert published.verdict(0.1, 0.5) == "holds" and published.verdict(-0.5, -0.1) == "fails"
    assert published.verdict(-0.1, 0.5) == "inconclusive" and published.verdict(np.nan, np.nan) == "inconclusive"
    assert published.verdict(-0.5, -0.1, "negative") == "holds"


def test_figures_draw_each_family_with_its_own_colour_and_marker():
    data = rows().assign(top1=[70.0, 50.0])
    axes = figures.auc_accuracy(data, published.averaged())
    assert len(axes) == 2 and len(axes[0].containers) == 3 and len(axes[1].containers) == 1
    curves = {"ViT-L-14": np.ones((5, 4)), "RN50": np.zeros((5, 4))}
    panels = figures.mi_curves(curves, data)
    assert [ax.get_title() for ax in panels] == ["ViT", "ResNet"]
    np.testing.assert_array_equal(panels[0].lines[0].get_ydata(), 1)
    assert len({marker for _, marker in figures.FAMILIES.values()}) == 3


def test_columns_of_numbers_are_flush_right_and_text_is_not():
    frame = pd.DataFrame({"name": ["a", "b"], "value": [1.0, None], "text": ["3 px", "none"]})
    rule = tables.plain(frame, "tab-x", "Caption.").markdown().splitlines()[4]
    assert rule == "|:---|---:|:---|"


def test_panels_are_as_many_as_asked_for_and_the_rest_of_the_grid_is_empty():
    axes = figures.panels(5, 3, (2, 1))
    assert len(axes) == 5 and axes[0].figure.get_size_inches().tolist() == [6, 2]
    assert [ax.axison for ax in axes[0].figure.axes] == [True] * 5 + [False]
    assert len(figures.panels(2, 4, (2, 1))[0].figure.axes) == 2


def test_what_cannot_be_had_stands_as_a_card():
    card = tables.not_run("no network", "tab-x", "A table.")
    assert card.cells["not run"].tolist() == ["no network"] and card.caption == "A table (not run)"
