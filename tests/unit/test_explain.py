"""The pipeline that joins model, images and method: shapes, switches, chance levels, and an explanation by hand."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch

from lib import data, models
from lib.errors import UserError
from lib.given import Given
from lib.mutual import explain, finding, foreground, information, observe, parts, prompts, words
from lib.mutual.options import (
    CHOICES,
    BankOptions,
    BoostOptions,
    MaskOptions,
    Options,
    Reading,
    RegionOptions,
    StepOptions,
    Training,
)


@pytest.fixture(scope="module")
def clip():
    return models.load("ViT-B-16")


@pytest.fixture(scope="module")
def images():
    """Four pictures of each of three species."""
    return data.load("bestiary").subset([k + 48 * i for k in range(3) for i in range(4)])


@pytest.fixture(scope="module")
def found(clip, images):
    return explain.explain(clip, images)


class Door(Given):
    """The door of a record that gives the images of a test."""

    few = None

    @property
    def images(self):
        return self.few


@pytest.fixture
def given(images):
    door = Door("ViT-B-16")
    door.few = images
    return door


def test_explanations_hold_distinct_descriptors_in_order_of_relevance(clip, images, found):
    relevance = clip.embed_images(images) @ clip.embed_texts(images.bank).T
    for ids in (named.vision_ids for named in found.named.values()):
        assert ids.shape == (12, 15)
        for image, row in zip(relevance, ids, strict=True):
            listed = row[row >= 0]
            assert len(set(listed.tolist())) == len(listed)
            assert (image[listed].diff() <= 1e-6).all()
            assert (row[len(listed) :] == -1).all()


def test_language_side_is_that_of_the_predicted_class(clip, images, found):
    listed = found.language_ids(7)
    for i, predicted in enumerate(found.predicted):
        assert set(listed[i]) == set(np.argsort(-found.language_scores[predicted].numpy())[:7])


def test_batches_and_order_of_the_images_change_nothing(clip, images, found):
    order = np.random.default_rng(0).permutation(12)
    again = explain.explain(clip, images.subset(order))
    assert np.array_equal(again.predicted, found.predicted[order])
    # K-means starts from points chosen by their place, so only PCA is the same in another order
    same = [
        set(a.tolist()) == set(b.tolist())
        for a, b in zip(again.named["pca"].vision_ids, found.named["pca"].vision_ids[order], strict=True)
    ]
    assert np.mean(same) > 0.9


def test_a_part_is_the_mean_of_its_three_prompts(clip, images):
    pixels = clip.pixels(images.image(i) for i in range(2))
    maps = torch.full((2, 9, 9), -1)
    maps[0, 1:3, 1:4], maps[1, 2:5, 2:4] = 0, 3
    embedded, present = explain.embed_parts(clip, pixels, maps, 5)
    drawn, _, _ = prompts.red_circles(pixels, maps)
    by_hand = torch.stack([clip.embed_pixels(variants).mean(0) for variants in drawn])
    assert present.nonzero().tolist() == [[0, 0], [1, 3]]
    assert torch.allclose(embedded[present], by_hand, atol=1e-5)


def test_parts_are_kept_and_found_again(clip, images, fresh_cache, monkeypatch):
    first = explain.find(clip, images)
    monkeypatch.setattr(finding, "embed_parts", None)  # nothing may be computed again
    again = explain.find(clip, images)
    for name in ("embedded", "present", "foreground", "label_maps"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert all(
        found["kmeans"].label_maps is None for _, found in explain.find_chunks(clip, images, Options(), ("kmeans",), 0)
    )
    reading = Options(per_part=1, top=5, matching="top", relevance="none", information="consistent", top_u=3)
    assert torch.equal(explain.find(clip, images, reading).embedded, first.embedded)
    for other in ({"parts": 4}, {"restart": 1}, {"spectral": "image"}, {"components": "all"}):
        with pytest.raises(TypeError):  # other parts have a place of their own, so these had to be computed
            explain.find(clip, images, Options(**other))
    with pytest.raises(TypeError):
        explain.find(clip, images, method="pca")


def test_methods_that_share_a_reading_find_what_each_finds_alone(clip, images, fresh_cache, monkeypatch):
    alone = {method: explain.find(clip, images, method=method) for method in ("pca", "kmeans")}
    monkeypatch.setenv("COMPANION_CACHE", str(fresh_cache / "another"))
    reads, masks = [], foreground.masks
    monkeypatch.setattr(foreground, "masks", lambda *a, **k: reads.append(1) or masks(*a, **k))
    for method, both in explain.find_all(clip, images).items():
        for name, values in vars(both).items():
            assert torch.equal(values, getattr(alone[method], name))
    assert len(reads) == 3  # once for each of three groups


def test_an_interrupted_search_goes_on_from_the_last_whole_chunk(clip, images, fresh_cache, monkeypatch):
    expected = explain.find(clip, images)
    whole = data.ImageDataset.chunks
    monkeypatch.setattr(data.ImageDataset, "chunks", lambda self: whole(self, size=4))  # a class of four images each
    monkeypatch.setenv("COMPANION_CACHE", str(fresh_cache / "another"))
    embed, calls = finding.embed_parts, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(*arguments)

    monkeypatch.setattr(finding, "embed_parts", stopped)
    with pytest.raises(KeyboardInterrupt):
        explain.find(clip, images)
    assert torch.allclose(explain.find(clip, images).embedded, expected.embedded, atol=1e-6)
    assert len(calls) == 4  # the first two chunks were not read again


def test_parts_and_their_descriptors_make_up_the_images_list(clip, images, found):
    for name, named in found.named.items():
        by_part = named.part_ids
        assert by_part.shape == (12, 5, 3)
        for of_parts, listed in zip(by_part, named.vision_ids, strict=True):
            assert set(of_parts[of_parts >= 0].tolist()) == set(listed[listed >= 0].tolist())
        shown = explain.find(clip, images, method=name).present
        assert not ((by_part >= 0).any(2) & ~shown).any()


def test_groups_hold_one_class_each_and_are_not_too_large():
    labels = np.array([0] * 7 + [1] * 3)
    found = foreground.groups(labels, size=4)
    assert sorted(np.concatenate(found)) == list(range(10))
    assert all(len(g) <= 4 and len(set(labels[g])) == 1 for g in found)


def test_intersection_over_union_by_hand():
    found, truth = torch.zeros(1, 2, 2).bool(), torch.zeros(1, 4, 4).bool()
    found[0, 0] = True  # the upper half: 8 of 16 pixels
    truth[0, :, :2] = True  # the left half
    assert foreground.intersection_over_union(found, truth)[0] == pytest.approx(4 / 12)


def test_true_animal_is_all_parts_together(images):
    truth = np.any(list(images.part_masks(3).values()), axis=0)
    assert np.array_equal(foreground.animals(images, [3])[0].numpy(), truth)


def test_a_perfect_foreground_is_found(images):
    """Patch features that are the true animal, the background, and a constant."""
    truth = foreground.animals(images, [0])
    masks = torch.nn.functional.interpolate(truth[:, None].float(), (64, 64))[:, 0].flatten(1)
    features = torch.stack([masks, 1 - masks, 0.1 * torch.ones_like(masks)], -1)
    mask = parts.foreground(features, (64, 64), component=0, method="pca", components="all")
    assert foreground.intersection_over_union(mask, truth)[0] > 0.9  # half the resolution


def test_language_size_follows_the_bank(images):
    assert words.language_size(images) == round(np.mean([len(texts) for texts in images.descriptors]))
    assert words.language_size(images, 3) == 3 and words.language_size(images, 999) == len(images.bank)

    class Large:
        bank = range(4229)
        descriptors = [["a"]]

    assert words.language_size(Large()) == 50


def test_observations_hold_each_image_and_agree_with_their_curves(given):
    seen = observe.table3(given, Options())
    table, tensors = seen.table, seen.tensors
    assert len(table) == 12 * 2 * 4 and not table.isna().any().any()
    assert given.opened.keys() == {("model", "ViT-B-16")}
    own = table[table["against"] == "predicted class"].set_index(["parts", "image"])
    for method in ("pca", "kmeans"):
        curves = tensors[f"curves_{method}"]
        assert curves.shape == (12, 16)
        np.testing.assert_allclose(own.loc[method, "auc"], curves.mean(1), atol=1e-6)
        np.testing.assert_allclose(own.loc[method, "mi"], curves[:, 0], atol=1e-6)
        hits = information.matches(tensors[f"named_{method}"], tensors["language"][tensors["predicted"]])
        assert own.loc[method, "matches"].tolist() == hits.sum(1).tolist()
    assert (own["top1"] == 100 * (own["class"] == own["predicted"])).all()
    some = own[own["matches"] > 0]
    assert np.allclose(some["mi"], np.log(some["descriptors"] * seen.notes["top_u"] * some["matches"]))
    right = own["class"] == own["predicted"]
    true = table[table["against"] == "true class"].set_index(["parts", "image"])
    assert (own.loc[right, "matches"] == true.loc[right, "matches"]).all()


def test_null_models_lie_between_none_and_all_and_are_alike_for_both_parts(given):
    table = observe.table3(given, Options()).table
    wrong = table[table["against"] == "wrong class"]
    assert wrong["hit"].between(0, 100).all() and (wrong["matches"] * observe.DRAWS % 1).max() < 1e-6
    again = observe.table3(given, Options()).table
    pd.testing.assert_frame_equal(table, again)  # drawn by the seed


SWITCHED = {
    "parts_by": "pca", "restart": 1, "information": "consistent", "removal": "drop", "spectral": "image",
    "components": "all", "candidates": "union", "relevance": "paper", "matching": "top", "top": 5,
    "group": "predicted", "foreground": "published", "parts": 3, "per_part": 1, "top_u": 4, "crf": True,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("switch", SWITCHED)
def test_every_switch_reaches_the_result(given, monkeypatch, switch):
    assert set(SWITCHED) == {field.name for field in fields(Options)}
    if switch == "crf":
        pytest.importorskip("pydensecrf", reason="the optional package pydensecrf2 is not installed")
    # candidates matter only where each part proposes a few, components only where a foreground has several
    needs = {"candidates": {"top": 12}, "components": {"foreground": "published", "spectral": "image"}}
    base = Options(**needs.get(switch, {}))
    default, other = observe.table3(given, base), observe.table3(given, replace(base, **{switch: SWITCHED[switch]}))
    names = ("curves_pca", "curves_kmeans", "language")
    assert any(not np.array_equal(default.tensors[k], other.tensors.get(k)) for k in names)


KINDS = (Options, MaskOptions, StepOptions, BankOptions, BoostOptions, Training, RegionOptions, Reading)
SWITCHES = [(kind, field.name) for kind in KINDS for field in fields(kind) if field.name in CHOICES]


@pytest.mark.parametrize(("kind", "name"), SWITCHES)
def test_an_unknown_switch_is_refused_in_one_sentence(kind, name):
    assert {name for _, name in SWITCHES} == set(CHOICES)
    with pytest.raises(UserError, match=f"{name} is 'folder'; choose one of "):
        kind(**{name: "folder"})


@pytest.mark.parametrize("change", [{"parts": 0}, {"per_part": 2.5}, {"top_u": -1}, {"top": "500"}])
def test_a_number_that_is_none_or_too_small_is_refused(change):
    with pytest.raises(UserError, match="give a whole number from"):
        Options(**change)


def test_what_the_options_allow_is_what_the_methods_take(clip, images):
    for name in ("information", "removal", "candidates", "relevance", "matching", "spectral", "components"):
        for value in CHOICES[name]:
            assert len(explain.explain(clip, images, Options(**{name: value}, parts_by="pca")).named) == 1
    reads = {value: foreground.setting_of(clip, value)["feature"] for value in CHOICES["foreground"]}
    assert reads == {"default": "keys", "published": "tokens", "keys_no_bias": "keys_no_bias"}


def test_where_no_keys_are_read_there_is_no_bias_to_leave_out():
    clip = models.load("RN50")
    assert foreground.setting_of(clip, "keys_no_bias") == foreground.setting_of(clip)


def test_unknown_part_method_is_refused(clip, images):
    with pytest.raises(UserError, match="choose one of pca, kmeans"):
        explain.explain(clip, images, methods=("dbscan",))


def test_images_without_descriptors_are_refused(clip, make_folder):
    folder = make_folder({"cat": 2, "dog": 2})
    with pytest.raises(UserError, match="no descriptors"):
        explain.explain(clip, data.load(str(folder)))


def test_the_foreground_is_read_where_the_catalogue_says_at_each_scale():
    class Model:
        row = {
            "foreground_feature": "keys",
            "foreground_component": "0",
            "mini_feature": "values",
            "mini_layer": "-2",
        }
        miniature = True

    mini = {"feature": "values", "layer": -2, "method": "svd", "component": 1}
    assert foreground.setting_of(Model()) == mini
    released = {"feature": "keys", "layer": -1, "method": "svd", "component": 0}
    assert foreground.setting_of(Model(), "published") == released
    Model.miniature = False
    assert foreground.setting_of(Model())["feature"] == "keys"
    Model.row = {}
    assert foreground.setting_of(Model()) == released | {"feature": "tokens", "component": 1}


def test_images_without_foreground_or_with_few_candidates_are_counted(clip, images, monkeypatch, fresh_cache):
    few = Options(top=1, candidates="union", relevance="paper")
    # at most one candidate a part, and those at the median or below go: never as many as parts
    assert explain.explain(clip, images, few).named["kmeans"].few_candidates.all()
    assert not explain.explain(clip, images).named["kmeans"].few_candidates.all()
    for decompose in ("singular_vectors", "principal_components"):
        nothing = lambda features, count=3, **_: torch.full((*features.shape[:2], count), -1.0)  # noqa: E731
        monkeypatch.setattr(parts, decompose, nothing)
    monkeypatch.setenv("COMPANION_CACHE", str(fresh_cache / "another"))
    assert (explain.explain(clip, images).foreground == 1).all()
