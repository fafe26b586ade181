"""Real encoders: the sets against the manifest that came with them, the summaries by hand."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from lib.errors import UserError
from lib.given import ABSENT, Given
from lib.outliers import contrasts
from lib.outliers import real as wing  # `real` is the fixture of the files
from lib.outliers.options import Saved
from lib.paths import DATA

rng = np.random.default_rng(8)
MEAN = np.zeros(40)
MEAN[[3, 17]] = (30, -30)
E = rng.normal(size=(50, 40)) + MEAN  # two outlier coordinates, the same in all rows
E *= rng.uniform(1, 5, size=(50, 1))
UNIT = E / np.linalg.norm(E, axis=1, keepdims=True)


@pytest.fixture
def own(tmp_path):
    """Options of a user's file, and what its set is called."""
    np.save(tmp_path / "mine.npy", E)
    return Saved(str(tmp_path / "mine.npy")), Given("mine")


@pytest.fixture(scope="module")
def manifest(real):
    """The manifest that came with the files, and what is seen of each set."""
    with open(real("clip_embeddings/MANIFEST.csv"), newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def seen(manifest, real):
    """What is seen of each set of the manifest, by name."""
    names = [row["file"].rpartition(".")[0] for row in manifest]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPANION_DOWNLOADS", str(real("clip_embeddings").parent))
        return {name: wing.outliers(Given(name), Saved()) for name in names}


def kurtosis(rows):
    return stats.kurtosis(rows, axis=1, fisher=False)


# --- what is known of the sets


def test_every_set_has_its_facts_and_the_origin_of_its_file():
    table = wing.facts(["mine"])
    assert table.index.is_unique and table.index[-1] == "mine" and table["tower"]["mine"] == contrasts.SAVED
    public = table.drop("mine")
    assert len(public) == 24 and (public["repository"].str.count("/") == 1).all()
    assert (public["commit"].str.len() == 40).all() and public["licence"].ne("").all()
    assert set(public["tower"]) == {"text", "image"} and (public[["rows", "width"]] > 1).all().all()
    assert public["path"]["text_lvis_openai_vit_b_32"] == "datasets/metadata/lvis_v1_clip_a+cname.npy"


def test_models_with_published_accuracies_are_in_the_table_of_these():
    support = pd.read_csv(DATA / "published" / "outlier_features_support.csv")
    named = set(wing.facts()["published_as"]) - {""}
    assert named and named <= set(support["model"] + " " + support["pretraining"])


# --- what is seen of a set


def test_a_file_of_ones_own_is_measured_by_row_of_length_one(own):
    options, given = own
    seen = wing.outliers(given, options)
    np.testing.assert_allclose(seen.table["raw"], kurtosis(E))
    np.testing.assert_allclose(seen.table["centred"], kurtosis(UNIT - UNIT.mean(0)))  # not of the rows as they came
    np.testing.assert_allclose(seen.table["without_outliers"], kurtosis(np.delete(E, [3, 17], axis=1)))
    assert set(seen.tensors["outliers"]) == {3, 17} and [request for request, *_ in given.opened] == ["file"]
    assert seen.table["cosine"].mean() == pytest.approx(np.linalg.norm(UNIT.mean(0)))
    np.testing.assert_allclose(seen.tensors["z"], np.abs(stats.zscore(E, axis=1)).mean(0))


def test_of_two_outliers_the_second_stands_out_more_once_the_first_is_gone(own):
    mean = wing.outliers(own[1], own[0]).table.mean()
    assert mean["without_top"] > mean["raw"] > 15 and mean["without_outliers"] == pytest.approx(3, abs=0.3)


def test_coordinates_come_the_farthest_first():
    rows = torch.from_numpy(rng.normal(size=(30, 64)))
    rows[:, 5] += 30
    rows[:, 2] += 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wing, "unit_rows", lambda given, options: (rows, ""))
        assert wing.outliers(Given("x"), Saved()).tensors["outliers"].tolist() == [2, 5]


def test_a_head_has_the_shares_of_its_singular_values(own):
    options, given = own
    seen = wing.heads(given, options)
    for end, head in {"": UNIT, "_centred": UNIT - UNIT.mean(0)}.items():
        values = np.linalg.svd(head, compute_uv=False)
        sums = seen.table.sum()
        assert sums[f"all{end}"] == pytest.approx((values**2).sum())
        assert sums[f"first{end}"] == pytest.approx(values[0] ** 2)
        assert sums[f"outlier{end}"] == pytest.approx((head[:, [3, 17]] ** 2).sum())
        rank = len(seen.tensors[f"singular{end}"])
        np.testing.assert_allclose(seen.tensors[f"singular{end}"], values[:rank] / values[:rank].sum())
    cosine = seen.tensors["direction"] @ UNIT.mean(0) / np.linalg.norm(UNIT.mean(0))
    assert abs(cosine) > 0.999  # the first direction of such a head is its mean row


def test_another_name_or_shape_is_one_clear_sentence(own, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no set of embeddings 'other' in the file; it has mine"):
        wing.outliers(Given("other"), own[0])
    np.save(tmp_path / "cut.npy", E)
    monkeypatch.setattr(Given, "open_file", lambda self, name: tmp_path / "image_photos_dinov2_small.npy")
    np.save(tmp_path / "image_photos_dinov2_small.npy", E)
    with pytest.raises(UserError, match=r"has shape \[50, 40\]; expected \[710, 384\]"):
        wing.heads(Given("image_photos_dinov2_small"), Saved())


def test_a_set_that_cannot_be_had_has_no_lines_and_a_reason(tmp_path, monkeypatch):
    import pooch

    monkeypatch.setenv("COMPANION_DOWNLOADS", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", lambda *a, **k: (_ for _ in ()).throw(ConnectionError()))
    given = Given("text_lvis_openai_rn50")
    for observe in (wing.outliers, wing.heads):
        seen = observe(given, Saved())
        assert not len(seen.table) and len(seen.table.columns) > 5 and "could not be fetched" in seen.notes["reason"]
    assert given.opened["file", "text_lvis_openai_rn50"] == ABSENT  # once it is there the record is out of date


# --- summaries


TENSORS = {
    "a": {"outliers": np.array([1, 2]), "z": np.arange(10.0)},
    "b": {"outliers": np.array([2, 9]), "z": np.arange(10.0)},
    "c": {"outliers": np.array([], int), "z": np.arange(10.0)},
    "other": {"outliers": np.array([2]), "z": np.arange(10.0)},
    "missing": {},
}
SETS = pd.DataFrame(
    {
        "encoder": ["X one", "X one", "X one", "Y", "X one"],
        "tower": ["text", "image", "text", "text", "text"],
        "kind": ["zero-shot", "zero-shot", "learned prompt", "zero-shot", "zero-shot"],
        "published_as": ["RN50-quickgelu openai", "RN50-quickgelu openai", "", "", "RN50-quickgelu openai"],
        "title": list("ABCOM"),
    },
    index=list(TENSORS),
)


def test_what_two_sets_of_an_encoder_share_by_hand():
    table = wing.shared(TENSORS, SETS)
    assert table.index.to_list() == [("A", "B"), ("A", "C"), ("B", "C")] and table.index.names == ["first", "second"]
    assert table["shared"].tolist() == [1, 0, 0] and table["by_chance"].tolist() == [0.4, 0, 0]
    # two of ten in each: none in common with chance 8/10 x 7/9
    assert table["p"].tolist() == pytest.approx([1 - 56 / 90, 1, 1])
    assert not len(wing.shared({"a": {}}, SETS))


def test_where_the_outliers_of_each_set_are():
    table = wing.where(TENSORS, SETS)
    assert table["title"].tolist() == ["A", "A", "B", "B", "C", "O"] and (table["width"] == 10).all()
    np.testing.assert_array_equal(table["coordinate"], [1, 2, 2, 9, np.nan, 2])
    np.testing.assert_array_equal(table["z"], [1, 2, 2, 9, np.nan, 2])


def test_numbers_of_an_encoder_stand_beside_its_published_robustness():
    values = pd.Series({"a": 2.0, "b": 5.0, "c": 100.0, "other": 7.0})
    table = wing.beside_robustness(contrasts.Drawn(pd.DataFrame([values, values, values + 1])), SETS)
    assert table.index.get_level_values("encoder").tolist() == ["X one", "Y"]
    assert table["text"].tolist() == [2, 7] and table["image"].tolist()[0] == 5 and table["sets"].tolist() == [2, 1]
    # as open_clip publishes RN50, and the mean of its five shifts
    assert table[["top1", "shifts"]].iloc[0].tolist() == [59.82, 42.74] and table["top1"].isna().tolist() == [
        False,
        True,
    ]
    assert table["shifts"].iloc[0] == pytest.approx(np.mean([52.84, 60.73, 35.44, 41.41, 23.27]), abs=0.005)


def test_spectra_have_a_line_a_singular_value():
    head = {"singular": np.array([0.2, 0.8]), "singular_centred": np.array([1.0])}
    table = wing.spectra({"a": head, "missing": {}}, SETS)
    assert table[["rank", "share", "head"]].to_numpy().tolist() == [
        [1, 0.8, "as it is"],
        [2, 0.2, "as it is"],
        [1, 1.0, "row-centred"],
    ]
    assert set(table["of"]) == {"X"} and not len(wing.spectra({}, SETS))


def test_means_of_sets_of_as_many_rows_are_drawn_together():
    raw = {"a": [1.0, 2, 6], "b": [2.0, 3, 7], "c": [5.0, 5]}
    table = pd.DataFrame([(m, x) for m, values in raw.items() for x in values], columns=["model", "raw"])
    drawn = wing.means(table, "raw")
    assert drawn.values.to_dict() == {"a": 3, "b": 4, "c": 5}
    np.testing.assert_allclose(drawn.rows["b"] - drawn.rows["a"], 1)
    assert drawn.rows["a"].std() > 0 and (drawn.rows["c"] == 5).all()
    assert not len(wing.means(table.iloc[:0], "raw").values)
    low = wing.least(drawn, ["b", "c", "not there"])
    assert low.value == 4 and low.n == 2 and low.high == 5 and low.low < 4  # b is above c in some draws
    assert np.isnan(wing.least(drawn, []).value)


# --- the files themselves


def test_the_sets_have_the_figures_of_their_manifest(manifest, seen):
    for row in manifest:
        name = row["file"].rpartition(".")[0]
        mean, facts = seen[name].table.mean(), wing.facts().loc[name]
        written = {"kurtosis": "raw", "centred": "centred", "without_outliers": "without_outliers"}
        for theirs, ours in written.items():
            digits = len(row[theirs].partition(".")[2])
            assert round(mean[ours], digits) == float(row[theirs]), (name, ours)
        assert f"{mean['cosine']:.2f}" == row["mean_norm"], name
        assert " ".join(map(str, seen[name].tensors["outliers"])) == row["outliers"], name
        origin = ["repository", "commit", "path", "licence", "sha256"]
        assert facts[origin].tolist() == [row[k] for k in origin] and facts["tower"] == row["modality"]
        shape = len(seen[name].table), len(seen[name].tensors["z"])
        assert (facts["rows"], facts["width"]) == (int(row["rows"]), int(row["width"])) == shape


def test_removing_the_largest_coordinate_alone_can_raise_the_kurtosis(seen):
    mean = seen["text_lvis_openai_vit_b_32"].table.mean()
    assert mean["raw"] == pytest.approx(95.3, abs=0.05) and mean["without_top"] == pytest.approx(102.2, abs=0.05)


def test_rows_of_the_same_names_stand_in_the_same_order(real, monkeypatch):
    """Differences between sets of the same names are paired by row."""
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real("clip_embeddings").parent))
    lvis = ["openai_vit_b_16", "openai_rn50", "learned_vit_b_16", "learned_vit_b_32", "convnext_large"]
    coco = ["eva02_vit_b_16", "eva02_vit_l_14_336", "openai_vit_l_14_336", "openai_rn50x64"]
    pairs = [("text_lvis_openai_vit_b_32", f"text_lvis_{x}") for x in lvis]
    pairs += [("text_coco_openai_vit_b_16", f"text_coco_{x}") for x in coco]
    for first, second in pairs:
        a, b = (wing.unit_rows(Given(name), Saved())[0] for name in (first, second))
        upper, order = np.triu_indices(len(a), 1), rng.permutation(len(a))
        a, b = ((x @ x.T).numpy() for x in (a - a.mean(0), b - b.mean(0)))  # how alike each two names are
        same, other = (np.corrcoef(a[upper], x[upper])[0, 1] for x in (b, b[order][:, order]))
        assert same > 0.4 and abs(other) < 0.1, (second, same, other)


def test_learned_prompts_lie_with_the_encoder_that_made_them(real, monkeypatch):
    monkeypatch.setenv("COMPANION_DOWNLOADS", str(real("clip_embeddings").parent))
    given = Given("text_lvis_learned_vit_b_16")
    mean = wing.alike(given, Saved()).table.groupby("encoder")["cosine"].mean()
    assert mean["OpenAI ViT-B/16"] > 0.8 and abs(mean["OpenAI ViT-B/32"]) < 0.05
    assert len(given.opened) == 3  # its record hangs on all that was read
