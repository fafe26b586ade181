"""Twins: embeddings by hand and by open_clip, the reflection's properties, what is trained and what is seen."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from scipy.linalg import qr

from lib import models
from lib.data import sha256
from lib.errors import UserError
from lib.given import Given
from lib.models import heads
from lib.outliers import observe, observe_twins, twins
from lib.outliers.options import Shifts
from lib.paths import ROOT
from scripts import train_twins

rng = np.random.default_rng(0)
SHIPPED = ("ViT-B-16", "RN50")


@pytest.fixture(scope="module", params=SHIPPED)
def given(request):
    return Given(request.param, limit=3, device="cpu")


@pytest.fixture(scope="module")
def seen(given):
    return observe_twins.twins(given, Shifts("sketch"))


def of(table, **where):
    return table[np.logical_and.reduce([table[k] == v for k, v in where.items()])]


# --- the method


def test_an_embedding_by_hand():
    f, P = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert twins.embedded(f, P)[0].tolist() == pytest.approx([3 / 13**0.5, 2 / 13**0.5])
    assert twins.embedded(f, P, torch.tensor([-3.0, 2.0]))[0].tolist() == pytest.approx([0, 1])
    with pytest.raises(UserError, match="Features of 2 numbers were given for a projection of 3"):
        twins.embedded(f, torch.eye(3))


def test_a_classifier_averages_unit_vectors_by_hand():
    texts = torch.tensor([[[2.0, 0.0], [0.0, 5.0]]])
    assert twins.classifier(texts, torch.eye(2))[0].tolist() == pytest.approx([0.5**0.5, 0.5**0.5])


@pytest.mark.parametrize("first", [2.0, -2.0, 0.0])
def test_the_reflection_puts_a_vector_on_the_first_axis_and_keeps_all_lengths(first):
    mean = torch.from_numpy(np.append(first, rng.normal(size=5)))
    H = twins.reflection(mean)
    torch.testing.assert_close(H @ H, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(H, H.T)
    assert np.linalg.det(H.numpy()) == pytest.approx(-1)  # a reflection, no rotation
    turned = H @ mean
    assert abs(turned[0]) == pytest.approx(mean.norm()) and turned[1:].abs().max() < 1e-12


def test_the_reflection_is_that_of_householders_decomposition_in_lapack():
    mean = rng.normal(size=(7, 1))
    q, _ = qr(mean)
    np.testing.assert_allclose(twins.reflection(torch.from_numpy(mean[:, 0])).numpy(), q, atol=1e-12)


def test_a_zero_vector_has_no_reflection():
    with pytest.raises(UserError, match="zero vector"):
        twins.reflection(torch.zeros(3))


# --- what is seen


def test_projections_of_features_are_the_models_own_embeddings(given):
    model, images, sides = given.model, given.images, observe_twins.projections(given.model)
    rows = twins.embedded(model.embed_images(images, projected=False), sides.image, sides.image_bias)
    torch.testing.assert_close(rows, model.embed_images(images), atol=2e-6, rtol=1e-4)
    texts = twins.embedded(model.embed_texts(["a dumu."], projected=False), sides.text)
    torch.testing.assert_close(texts, model.embed_texts(["a dumu."]), atol=2e-6, rtol=1e-4)


def test_the_text_tower_is_whole_again_after_its_features_were_read():
    clip = models.load("RN50", device="cpu")
    before = clip.embed_texts(["a dumu."], cached=False)
    clip.embed_texts(["a dumu."], cached=False, projected=False)
    assert torch.equal(clip.embed_texts(["a dumu."], cached=False), before)
    clip.model.text_projection = None
    with pytest.raises(UserError, match="RN50 has no projection of texts"):
        clip.embed_texts(["a dumu."], cached=False, projected=False)


def test_the_shipped_model_has_the_accuracy_and_kurtosis_of_the_other_pages(given, seen):
    theirs = observe.robustness(given, Shifts("sketch"))
    for split in ("val", "sketch"):
        mine = of(seen, twin="as shipped", split=split)["top1"].to_numpy()
        assert (mine == of(theirs, split=split)["top1"].to_numpy()).mean() > 0.95  # rounding may decide a tie
    rows = given.model.embed_images(given.images).double().numpy()
    k = of(seen, twin="as shipped", split="val")["raw"]
    np.testing.assert_allclose(k, stats.kurtosis(rows, axis=1, fisher=False), rtol=1e-4)


def test_a_reflection_changes_no_prediction_and_puts_an_outlier_on_the_first_axis(given, seen):
    shipped, reflected = (of(seen, twin=t, split="val") for t in ("as shipped", "reflected"))
    assert reflected["agrees"].mean() > 95 and (shipped["agrees"] == 100).all()
    assert (reflected["top_coordinate"] == 0).all() and reflected["raw"].mean() > 2 * shipped["raw"].mean()
    # centred at the mean of the same images and then turned: the same as K after one more rotation, near a Gaussian's
    assert reflected["centred"].mean() < 5


def test_lines_of_texts_are_the_classifiers_rows(given, seen):
    weight = heads.classifier(given.model, given.images.classes, given.images.templates).double().numpy()
    lines = of(seen, twin="as shipped", split="texts")
    np.testing.assert_allclose(lines["raw"], stats.kurtosis(weight, axis=1, fisher=False), rtol=1e-3)
    assert list(lines["class"]) == given.images.classes and lines["top1"].isna().all()


def test_elsewhere_there_is_the_reflection_alone(given):
    assert observe_twins.trained(Given(given.name, dataset="imagenet")) == {}
    assert observe_twins.trained(Given("RN101")) == {}


# --- what has been trained


@pytest.mark.slow
def test_twins_train_from_the_shipped_projections_and_lower_the_loss(monkeypatch, tmp_path, fresh_cache):
    monkeypatch.setattr(train_twins, "PAIRS", 64)
    monkeypatch.setattr(train_twins, "BATCH", 32)
    monkeypatch.setattr(train_twins, "SEEDS", (0,))
    train_twins.main(["RN50"], "cpu", steps=2, folder=tmp_path)
    short = json.loads((tmp_path / "RN50.json").read_text())
    train_twins.main(["RN50"], "cpu", steps=60, folder=tmp_path)
    record, found = json.loads((tmp_path / "RN50.json").read_text()), load_file(tmp_path / "RN50.safetensors")
    assert all(a["loss"] > b["loss"] for a, b in zip(short["trainings"], record["trainings"], strict=True))
    own = observe_twins.projections(models.load("RN50", device="cpu"))
    assert set(found) == {f"{o}/0/{s}" for o in ("AdamW", "SGD") for s in ("image", "image_bias", "text")}
    assert all(found[f"SGD/0/{s}"].shape == getattr(own, s).shape for s in ("image", "image_bias", "text"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_twins_are_those_of_their_record_and_of_the_model_that_is_here(name):
    path = ROOT / observe_twins.FOLDER / f"{name}.json"
    record = json.loads(path.read_text())
    assert record["weights"] == sha256(path.with_suffix(".safetensors"))
    assert record["start"] == models.load(name, device="cpu").weights_sha256
    assert (record["steps"], record["pairs"]) == (train_twins.STEPS, train_twins.PAIRS)
    assert record["recipes"] == json.loads(json.dumps({k: v.keywords for k, v in train_twins.OPTIMISERS.items()}))
    assert path.with_suffix(".safetensors").stat().st_size < 2**19


def test_adamw_grows_outlier_features_and_sgd_does_not(given):
    seen = observe_twins.twins(Given(given.name, device="cpu"), Shifts("sketch"))
    val = seen[seen["split"] == "val"].groupby(["kind", "seed"])
    k, rotated, centred, outliers = (val[c].mean() for c in ("raw", "rotated", "centred", "outliers"))
    assert (k["AdamW"] > 20).all() and (k["SGD"] < 5).all()  # the premise: known of real CLIP before any claim
    assert (rotated["AdamW"] < 5).all() and (centred["AdamW"] < k["AdamW"] / 2).all()
    assert (outliers["AdamW"] >= 1).all() and (outliers["SGD"] == 0).all()
