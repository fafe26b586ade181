"""The appendix's tables: boxes, blurring, entropy and diversity by hand and against scipy, OpenCV and brute force."""

import cv2
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from torch.nn import functional as F
from torchvision.ops import box_iou

from lib import models
from lib.data import load as load_images
from lib.errors import UserError
from lib.models import heads
from lib.mutual import appendix, matching
from lib.report import appendix as show

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def clip():
    return models.load("RN50")


@pytest.fixture(scope="module")
def data():
    """Four pictures of each of three species."""
    return load_images("bestiary").subset([k + 48 * i for k in range(3) for i in range(4)])


def test_a_box_by_hand():
    mask = np.zeros((6, 8), bool)
    mask[2:5, 1] = mask[3, 6] = True
    assert appendix.box(mask) == (1, 2, 7, 5)
    with pytest.raises(UserError, match="empty mask"):
        appendix.box(np.zeros((2, 2), bool))


def test_overlap_of_boxes_is_that_of_torchvision():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((30, 2, 2)), axis=1)
    boxes = [(*low, *high) for low, high in corners]
    expected = box_iou(torch.tensor(boxes[:15]), torch.tensor(boxes[15:])).numpy()
    ours = [[appendix.box_iou(a, b) for b in boxes[15:]] for a in boxes[:15]]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_a_hit_overlaps_one_object_by_more_than_half():
    assert appendix.hit((0, 0, 1, 1), [(0, 0, 0.2, 0.2), (0, 0, 1, 0.6)])
    assert not appendix.hit((0, 0, 1, 1), [(0, 0, 1, 0.5)])


def test_the_true_box_is_around_the_animal(data):
    left, top, right, bottom = appendix.true_boxes(data, [3])[0][0]
    rows, columns = np.nonzero(np.any(list(data.part_masks(3).values()), axis=0))
    side = data.source.size
    assert (left, top) == (columns.min() / side, rows.min() / side)
    assert (right, bottom) == ((columns.max() + 1) / side, (rows.max() + 1) / side)


VOC = """<annotation><size><width>200</width><height>100</height></size>
<object><bndbox><xmin>20</xmin><ymin>10</ymin><xmax>120</xmax><ymax>60</ymax></bndbox></object>
<object><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>200</xmax><ymax>100</ymax></bndbox></object></annotation>"""


def test_boxes_of_photographs_are_read_from_their_annotations(make_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_DATASETS", str(tmp_path))
    photos = load_images(str(make_folder({"cat": 1, "dog": 1})))
    with pytest.raises(UserError, match="put the annotations there"):
        appendix.true_boxes(photos, [0])
    (tmp_path / "photos" / "boxes").mkdir()
    (tmp_path / "photos" / "boxes" / "0.xml").write_text(VOC)
    assert appendix.true_boxes(photos, [0]) == [[(0.1, 0.1, 0.6, 0.6), (0, 0, 1, 1)]]


def test_localisation_has_every_facet_and_the_boxes_that_look_at_nothing(clip, data):
    found = appendix.localisation(clip, data)["metrics"]
    assert {f"corloc_{f}_{c}" for f in appendix.FACETS for c in appendix.COMPONENTS} <= set(found)
    centre = (1 - 0.5**0.5) / 2
    expected = [
        100 * appendix.hit((centre, centre, 1 - centre, 1 - centre), t) for t in appendix.true_boxes(data, range(12))
    ]
    assert found["corloc_centre"].tolist() == expected
    assert all(set(v.tolist()) <= {0, 100} for v in found.values())


def test_a_perfect_foreground_is_located(clip, data, monkeypatch):
    def perfect(features, grid, setting, scope, components):
        return F.interpolate(perfect.truth[:, None].float(), grid)[:, 0].bool()

    from lib.mutual import foreground

    whole = foreground.animals

    def animals(images, members):
        perfect.truth = whole(images, members)
        return perfect.truth

    monkeypatch.setattr(foreground, "animals", animals)
    monkeypatch.setattr(foreground, "mask_of", perfect)
    monkeypatch.setattr(appendix, "facets_of", lambda clip, pixels: {"keys": (None, (64, 64))})
    found = appendix.localisation(clip, data)["metrics"]
    assert (found["corloc_keys_graph"] == 100).all()


def test_without_boxes_the_reason_is_kept_and_shown(clip, photographs):
    found = appendix.localisation(clip, load_images(str(photographs)))
    assert not found["metrics"] and "boxes" in found["notes"]["reason"]
    rows = pd.DataFrame({"title": ["RN50"], "reason": [""]}, index=["RN50"])
    table = show.localisation_table(rows, {"RN50": found}, "t", "c")
    assert "put the annotations there" in table.cells["not run"].iloc[0]


def test_the_ensemble_is_tokens_and_keys_side_by_side(clip, data):
    pixels = clip.pixels(data.image(i) for i in range(2))
    both, grid = appendix.facets_of(clip, pixels)["ensemble"]
    tokens, keys = (clip.patch_features(pixels, k, -1)[0] for k in ("tokens", "keys"))
    assert both.shape == (2, grid[0] * grid[1], tokens.shape[2] + keys.shape[2])
    np.testing.assert_allclose(both[..., : tokens.shape[2]], F.normalize(tokens, dim=-1), atol=1e-6)


def test_only_the_outside_is_blurred_as_opencv_does():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8))
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, 1:3, 1:3] = True
    shown = appendix.blurred_outside(pixels, masks, blur=5).permute(0, 2, 3, 1).numpy()
    image = pixels[0].permute(1, 2, 0).numpy()
    assert np.array_equal(shown[0, 4:12, 4:12], image[4:12, 4:12])
    blurred = cv2.GaussianBlur(image, (5, 5), 0)
    assert np.array_equal(shown[0, :4], blurred[:4]) and np.array_equal(shown[0, :, 12:], blurred[:, 12:])
    erased = appendix.blurred_outside(pixels, masks, blur=0)[1]
    assert len(erased.flatten(1).unique(dim=1)[0]) == 1  # nothing is kept of the second: one colour
    everything = appendix.blurred_outside(pixels, torch.ones(2, 4, 4, dtype=torch.bool))
    assert torch.equal(everything, pixels)
    with pytest.raises(UserError, match="blur = 4"):
        appendix.blurred_outside(pixels, masks, blur=4)


def test_accuracy_of_the_whole_picture_and_of_none_of_it(clip, data):
    found = appendix.accuracy(clip, data, blur=0)["metrics"]
    weights = heads.classifier(clip, data.classes, data.templates)
    logits = clip.embed_images(data) @ weights.T
    assert found["top1_base"].mean() == 100 * heads.top_k_accuracy(logits, data.labels)
    assert (found["share_blurred"] == 0).all() and found["top1_blurred"].mean() < 50
    np.testing.assert_allclose(found["share_inverse"] + found["share_component"], 100, atol=1e-4)


def test_entropy_of_an_image_is_that_of_scipy():
    ids = np.array([[[1, 2, 3], [1, 2, 4]], [[5, 5, 5], [-1, -1, -1]], [[-1, -1, -1]] * 2])
    found = appendix.entropy(ids)
    assert found[0] == pytest.approx(scipy_entropy([2, 2, 1, 1])) and found[1] == 0 and found[2] == 0
    assert appendix.entropy(ids, "bits")[0] == pytest.approx(scipy_entropy([2, 2, 1, 1], base=2))
    distinct = np.arange(15).reshape(1, 5, 3)
    assert appendix.entropy(distinct)[0] == pytest.approx(np.log(15))
    with pytest.raises(UserError, match="'nats' or 'bits'"):
        appendix.entropy(ids, "shannons")


def test_agreement_by_hand():
    a = np.array([[[1, 2], [3, 4]], [[-1, -1], [-1, -1]]])
    b = np.array([[[2, 1], [4, 5]], [[-1, -1], [-1, -1]]])
    found = appendix.agreement(a, b)
    assert found[0] == 0.75 and np.isnan(found[1])


def test_the_transport_ranks_by_centred_similarity(clip, data):
    """The specification measured 99 % on made-up similarities; and without a filter it is nearly the same here."""
    found = appendix.entropies(clip, data)["metrics"]
    assert np.nanmean(found["agreement_kmeans"]) > 90
    np.testing.assert_allclose(found["gain_pca"], found["entropy_transport_pca"] - found["entropy_top_pca"])
    assert {f"precision_{m}_pca" for m in matching.METHODS} <= set(found)


def test_diversity_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    texts, classes = F.normalize(torch.tensor(rng.normal(size=(9, 4))), dim=1), np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    distance = {(i, j): 1 - float(texts[i] @ texts[j]) for i, j in pairs}
    inter, intra = appendix.diversity(texts, classes)
    assert inter == pytest.approx(np.mean([d for (i, j), d in distance.items() if classes[i] != classes[j]]))
    assert intra == pytest.approx(np.mean([d for (i, j), d in distance.items() if classes[i] == classes[j]]))


def test_banks_made_worse(clip, data):
    found = appendix.banks(clip, data, "nameless")["metrics"]
    assert found["top1_own"].mean() > found["top1_shuffled"].mean()
    assert found["intra_own"] < found["inter_own"] or found["inter_own"] > 0
    assert set(found) == {
        f"{k}_{b}" for k in ("top1", "top5", "inter", "intra") for b in ("own", "half", "erring", "shuffled")
    }


def test_published_tables_are_read_as_they_stand():
    corloc = show.appendix("A1 CorLoc", show.CORLOC)
    assert (
        corloc.loc["ViT-B/16", "corloc_tokens_graph"] == 55.8
        and corloc.loc["ViT-L/14@336px", "corloc_keys_pca"] == 39.3
    )
    accuracy = show.appendix("A3 foreground acc", show.ACCURACY)
    assert accuracy.loc["RN50", "top1_component"] == 54.40 and accuracy.loc["ViT-L/14", "top1_base"] == 74.77
    assert show.published_banks("t", "c").cells["top-1"].iloc[0] == "67.93"


def test_corloc_has_the_published_values_beside_ours():
    line = {"title": "ViT-B/16", "reason": ""} | dict.fromkeys((*show.CORLOC, "corloc_centre"), 50.0)
    table = show.localisation_table(pd.DataFrame([line], index=["ViT-B-16"]), {}, "t", "c").cells.set_index("features")
    assert (
        table.loc["Tokens (GDC)"].tolist() == ["55.8", "50.0"]
        and table.loc["central half", "ViT-B/16, published"] == "–"
    )


def test_tables_and_figures_of_the_pages(clip, data):
    metrics = appendix.accuracy(clip, data, blur=0)["metrics"]
    line = {"title": "RN50", "reason": ""} | {
        f"{k}{s}": v.mean() for k, v in metrics.items() for s in ("", "_low", "_high")
    }
    rows = pd.DataFrame([line], index=["RN50"])
    assert "58.4" in show.accuracy_table(rows, "t", "c").markdown()
    assert list(show.kept(rows)["kept"]) == ["nothing", "the rest", "foreground", "true animal", "everything"]
    assert len(show.kept_bars({"erased": show.kept(rows)})) == 1
    found = appendix.entropies(clip, data)["metrics"]
    line = {"title": "RN50", "reason": ""} | {k: np.nanmean(v) for k, v in found.items()}
    rows = pd.DataFrame([line], index=["RN50"])
    table = show.entropy_table(rows, "t", "c").cells
    assert table["model"].tolist() == ["published", "RN50"] and table.iloc[0, 2] == "2.33"
    assert show.spread_and_truth(rows).get_ylim() == (0, 100)
    named = appendix.banks(clip, data)["metrics"]
    line = {"title": "RN50"} | {f"{k}{s}": np.mean(v) for k, v in named.items() for s in ("", "_low", "_high")}
    rows = pd.DataFrame([line], index=["RN50"])
    assert len(show.bank_table(rows, rows, "t", "c").cells) == 4
