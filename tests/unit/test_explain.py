"""The pipeline that joins model, data and method: shapes, switches, chance levels, and an explanation by hand."""

import numpy as np
import pytest
import torch

from lib import models
from lib.data import load as load_images
from lib.errors import UserError
from lib.mutual import foreground, information, table3
from lib.mutual.explain import embed_parts, explain, find, find_all


@pytest.fixture(scope="module")
def clip():
    return models.load("ViT-B-16")


@pytest.fixture(scope="module")
def data():
    """Four pictures of each of three species."""
    return load_images("bestiary").subset([k + 48 * i for k in range(3) for i in range(4)])


@pytest.fixture(scope="module")
def found(clip, data):
    return explain(clip, data)


def test_explanations_hold_distinct_descriptors_in_order_of_relevance(clip, data, found):
    relevance = clip.embed_images(data) @ clip.embed_texts(data.bank).T
    for ids in found.vision_ids.values():
        assert ids.shape == (12, 15)
        for image, row in zip(relevance, ids, strict=True):
            listed = row[row >= 0]
            assert len(set(listed.tolist())) == len(listed)
            assert (image[listed].diff() <= 1e-6).all()
            assert (row[len(listed) :] == -1).all()


def test_language_side_is_that_of_the_predicted_class(clip, data, found):
    listed = found.language_ids(7)
    for i, predicted in enumerate(found.predicted):
        assert set(listed[i]) == set(np.argsort(-found.language_scores[predicted].numpy())[:7])


def test_batches_and_order_of_the_images_change_nothing(clip, data, found):
    order = np.random.default_rng(0).permutation(12)
    again = explain(clip, data.subset(order), batch_size=7)
    assert np.array_equal(again.predicted, found.predicted[order])
    # K-means starts from points chosen by their place, so only PCA is the same in another order
    same = [
        set(a.tolist()) == set(b.tolist())
        for a, b in zip(again.vision_ids["pca"], found.vision_ids["pca"][order], strict=True)
    ]
    assert np.mean(same) > 0.9


def test_a_part_is_the_mean_of_its_three_prompts(clip, data):
    from lib.mutual import prompts

    pixels = clip.pixels(data.image(i) for i in range(2))
    maps = torch.full((2, 9, 9), -1)
    maps[0, 1:3, 1:4], maps[1, 2:5, 2:4] = 0, 3
    embedded, present = embed_parts(clip, pixels, maps, 5)
    drawn, _, _ = prompts.red_circles(pixels, maps)
    by_hand = torch.stack([clip.embed_pixels(variants).mean(0) for variants in drawn])
    assert present.nonzero().tolist() == [[0, 0], [1, 3]]
    assert torch.allclose(embedded[present], by_hand, atol=1e-5)


def test_parts_are_kept_and_found_again(clip, data, fresh_cache, monkeypatch):
    from lib.mutual import explain as module

    first = module.find(clip, data)
    monkeypatch.setattr(module, "embed_parts", None)  # nothing may be computed again
    again = module.find(clip, data)
    for name in ("embedded", "present", "foreground", "label_maps"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert module.find(clip, data, keep_maps=False).label_maps is None
    for other in ({"parts": 4}, {"seed": 1}, {"method": "pca"}, {"scope": "image"}, {"components": "all"}):
        with pytest.raises(TypeError):  # other parts have a place of their own, so these had to be computed
            module.find(clip, data, **other)


def test_methods_that_share_a_reading_find_what_each_finds_alone(clip, data, fresh_cache, monkeypatch):
    alone = {method: find(clip, data, method) for method in ("pca", "kmeans")}
    monkeypatch.setenv("COMPANION_CACHE", str(fresh_cache / "another"))
    reads, masks = [], foreground.masks
    monkeypatch.setattr(foreground, "masks", lambda *a, **k: reads.append(1) or masks(*a, **k))
    for method, found in find_all(clip, data).items():
        for name, values in vars(found).items():
            assert torch.equal(values, getattr(alone[method], name))
    assert len(reads) == 3  # once for each of three groups


def test_an_interrupted_search_goes_on_from_the_last_whole_chunk(clip, data, fresh_cache, monkeypatch):
    from lib.mutual import explain as module

    expected = module.find(clip, data)
    monkeypatch.setattr(module, "CHUNK", 4)  # a class of four images each
    assert torch.allclose(module.find(clip, data).embedded, expected.embedded, atol=1e-6)
    assert len(list((fresh_cache / "parts").glob("*.safetensors"))) == 1 + 3


def test_parts_and_their_descriptors_make_up_the_images_list(clip, data, found):
    for name, by_part in found.part_ids.items():
        assert by_part.shape == (12, 5, 3)
        for parts, listed in zip(by_part, found.vision_ids[name], strict=True):
            assert set(parts[parts >= 0].tolist()) == set(listed[listed >= 0].tolist())
        assert ((by_part >= 0).any(2).sum(1).numpy() <= found.parts_shown[name]).all()


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


def test_true_animal_is_all_parts_together(data):
    assert np.array_equal(foreground.animals(data, [3])[0].numpy(), np.any(list(data.part_masks(3).values()), axis=0))


def test_a_perfect_foreground_is_found(data):
    class Oracle:
        """A model whose patch features are the true animal."""

        def pixels(self, images):
            return torch.zeros(len(list(images)), 3, 64, 64, dtype=torch.uint8)

        def patch_features(self, pixels, feature, layer):
            masks = torch.nn.functional.interpolate(self.truth[:, None].float(), (64, 64))[:, 0].flatten(1)
            return torch.stack([masks, 1 - masks, 0.1 * torch.ones_like(masks)], -1), (64, 64)

    oracle, one = Oracle(), data.subset([0])
    oracle.truth = foreground.animals(one, [0])
    setting = {"feature": "tokens", "layer": -1, "method": "pca", "component": 0}
    assert foreground.localisation(oracle, one, setting, components="all")[0] > 0.9  # half the resolution


def test_null_models_by_hand(data):
    rng = np.random.default_rng(0)
    predicted = np.array([0, 1, 2, 0])
    drawn = table3.wrong_classes(predicted, 3, 500, rng)
    assert (drawn != predicted).all()
    assert np.bincount(drawn[:, 0], minlength=3) == pytest.approx([0, 250, 250], abs=60)
    lists = np.array([[4, 2, -1], [1, -1, -1]])
    random = np.stack([table3.random_lists(lists, 10, rng) for _ in range(400)])
    assert ((random >= 0) == (lists >= 0)).all()
    assert (random[:, 0, 0] != random[:, 0, 1]).all()
    assert np.bincount(random[:, 1, 0], minlength=10).min() > 15


def test_expected_overlap_of_random_lists_is_hypergeometric():
    rng = np.random.default_rng(1)
    lists, language = np.tile(np.arange(8), (3000, 1)), np.tile(np.arange(10), (3000, 1))
    _, _, k = information.overlap_counts(table3.random_lists(lists, 54, rng), language)
    assert k.mean() == pytest.approx(8 * 10 / 54, rel=0.05)


def test_language_size_follows_the_bank(data):
    assert table3.language_size(data) == round(np.mean([len(texts) for texts in data.descriptors]))
    assert table3.language_size(data, 3) == 3

    class Large:
        bank = range(4229)
        descriptors = [["a"]]

    assert table3.language_size(Large()) == 50


def test_a_row_holds_each_image_and_agrees_with_its_curves(clip, data):
    row = table3.row(clip, data, **table3.SWITCHES)
    metrics, arrays = row["metrics"], row["arrays"]
    assert all(np.shape(value) == (12,) for value in metrics.values())
    assert np.allclose(metrics["auc_pca"], arrays["curves_pca"].mean(1), atol=1e-6)
    assert np.allclose(metrics["mi"], arrays["curves"][:, 0], atol=1e-6)
    assert arrays["curves"].shape == (12, 16)
    assert (metrics["no_foreground"] == 100 * (metrics["foreground"] == 100)).all()
    assert np.array_equal(metrics["top1"] == 100, arrays["predicted"] == arrays["labels"])
    positive = metrics["matches_kmeans"] > 0
    n, k = metrics["concepts_kmeans"][positive], metrics["matches_kmeans"][positive]
    assert np.allclose(metrics["mi_kmeans"][positive], np.log(n * row["notes"]["top_u"] * k))


SWITCHED = {
    "measure": "consistent", "removal": "drop", "scope": "image", "components": "all", "candidate_rule": "union",
    "relevance_rule": "paper", "matching_method": "top", "top": 5, "group": "predicted", "setting": "published",
    "parts": 3, "per_part": 1, "top_u": 4, "crf": True,
}  # fmt: skip


@pytest.mark.parametrize("switch", SWITCHED)
def test_every_switch_reaches_the_result(clip, data, switch):
    assert set(SWITCHED) == set(table3.SWITCHES)
    if switch == "crf":
        pytest.importorskip("pydensecrf", reason="the optional package pydensecrf2 is not installed")
    if switch == "setting":
        clip.row = clip.row | {"mini_feature": "keys", "mini_component": "0"}
    # candidates matter only where each part proposes a few, components only where a foreground has several
    needs = {"candidate_rule": {"top": 12}, "components": {"setting": "published", "scope": "image"}}
    base = table3.SWITCHES | needs.get(switch, {})
    default = table3.row(clip, data, **base)
    other = table3.row(clip, data, **base | {switch: SWITCHED[switch]})
    changed = [
        k
        for k in ("curves_pca", "curves_kmeans", "language")
        if not np.array_equal(default["arrays"][k], other["arrays"][k])
    ]
    assert changed


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"group": "folder"}, "choose 'label' or 'predicted'"),
        ({"setting": "best"}, "choose 'default' or 'published'"),
        ({"measure": "bits"}, "choose one of released, definition, consistent"),
    ],
)
def test_unknown_switch_is_refused(clip, data, option, sentence):
    with pytest.raises(UserError, match=sentence):
        table3.row(clip, data, **table3.SWITCHES | option)


def test_unknown_part_method_is_refused(clip, data):
    with pytest.raises(UserError, match="choose among pca, kmeans"):
        explain(clip, data, part_methods=("dbscan",))


def test_data_without_descriptors_are_refused(clip, make_folder):
    folder = make_folder({"cat": 2, "dog": 2})
    with pytest.raises(UserError, match="no descriptors"):
        explain(clip, load_images(str(folder)))


def test_seed_spread_has_one_value_a_seed(clip, data):
    found = table3.seed_spread(clip, data, seeds=2, **table3.SWITCHES)["metrics"]
    assert {"mi_seed0", "mi_seed1", "auc_seed0", "auc_seed1", "mi_range", "auc_range"} == set(found)
    assert found["mi_range"] == pytest.approx(abs(found["mi_seed0"].mean() - found["mi_seed1"].mean()))


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
    assert foreground.setting_of(Model(), published=True) == {
        "feature": "keys",
        "layer": -1,
        "method": "svd",
        "component": 0,
    }
    Model.miniature = False
    assert foreground.setting_of(Model())["feature"] == "keys"
    Model.row = {}
    assert foreground.setting_of(Model()) == {
        "feature": "tokens",
        "layer": -1,
        "method": "svd",
        "component": 1,
    }


def test_images_without_foreground_or_with_few_candidates_are_counted(clip, data, monkeypatch, fresh_cache):
    from lib.mutual import parts

    found = explain(clip, data, top=1, candidate_rule="union", relevance_rule="paper", offset=0.0)
    # at most one candidate a part, and those at the median or below go: never as many as parts
    assert found.few_candidates["kmeans"].all()
    assert not explain(clip, data).few_candidates["kmeans"].all()
    monkeypatch.setattr(
        parts, "singular_vectors", lambda features, count=3, **_: torch.full((*features.shape[:2], count), -1.0)
    )
    setting = {"feature": "tokens", "layer": -1, "method": "svd", "component": 1}
    assert (explain(clip, data, setting=setting).foreground == 1).all()
