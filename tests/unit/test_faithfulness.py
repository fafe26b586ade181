"""Insertion and deletion by hand, on classifiers whose score is known, and Table 1 on a handful of images."""

import cv2
import numpy as np
import pytest
import torch

from lib import models
from lib.data import load as load_images
from lib.errors import UserError
from lib.mutual import faithfulness as faith
from lib.mutual import table1

SIDE = 24


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def quarters():
    """The four quarters of the image as regions, for three images: bool [3, 4, 2, 2]."""
    return torch.eye(4).view(1, 4, 2, 2).bool().expand(3, -1, -1, -1)


def looks_at(pixels, quarter):
    """A classifier that says class 0 where a quarter of the image is untouched, and class 1 otherwise."""
    half = SIDE // 2
    rows, columns = (slice(half * k, half * (k + 1)) for k in divmod(quarter, 2))

    def classify(shown):
        same = [any((x[:, rows, columns] == p[:, rows, columns]).all() for p in pixels) for x in shown]
        return torch.tensor([[1.0, 0.5] if untouched else [0.0, 0.5] for untouched in same])

    return classify


def walk(pixels, regions, classify, **options):
    masks = [torch.tensor([False, True]).view(1, 2, 1, 1).expand(len(pixels), -1, -1, -1)]
    masks += faith.blur_masks(faith.cumulative(regions))
    return faith.follow(pixels, masks, classify, [0] * len(pixels), **options)


# --- classifiers whose score is known


def test_a_region_that_carries_everything_has_deletion_0_and_insertion_1(pixels, quarters):
    ends, deletion, insertion = walk(pixels, quarters, looks_at(pixels, 0))
    spans = ends.score[:, 0], ends.score[:, 1]
    assert np.allclose(faith.normalised(deletion.score, *spans), 0)
    assert np.allclose(faith.normalised(insertion.score, *spans), 1)
    assert deletion.score.tolist() == [[2.5, 0, 0, 0, 0]] * 3
    assert np.allclose(faith.area(deletion.score), 1.25)  # unit steps: only the first half step is left
    assert np.allclose(faith.area(insertion.score), 2.5 * 3.5)
    assert (deletion.winner == [0, 1, 1, 1, 1]).all() and (insertion.winner == [1, 0, 0, 0, 0]).all()


def test_the_same_region_ranked_last_has_the_worst_of_scores(pixels, quarters):
    ends, deletion, insertion = walk(pixels, quarters.flip(1), looks_at(pixels, 0))
    spans = ends.score[:, 0], ends.score[:, 1]
    assert np.allclose(faith.normalised(deletion.score, *spans), 3 / 4)
    assert np.allclose(faith.normalised(insertion.score, *spans), 1 / 4)


def test_regions_elsewhere_change_nothing(pixels, quarters):
    ends, deletion, insertion = walk(pixels, quarters[:, 1:], looks_at(pixels, 0))
    spans = ends.score[:, 0], ends.score[:, 1]
    assert np.allclose(faith.normalised(deletion.score, *spans), 1)
    assert np.allclose(faith.normalised(insertion.score, *spans), 0)


def test_one_part_only_holds_after_its_step(pixels, quarters):
    alone = quarters.clone()
    alone[:, 1:] = False
    _, deletion, _ = walk(pixels, alone, looks_at(pixels, 0))
    assert deletion.score.tolist() == [[2.5, 0, 0, 0, 0]] * 3
    assert np.allclose(faith.area(deletion.score, [1, 1, 1], "stop"), 1.25)
    _, _, insertion = walk(pixels, alone[:, :1], looks_at(pixels, 0))
    assert insertion.score.tolist() == [[0, 2.5]] * 3


def test_the_softmax_of_the_scaled_cosines_is_followed_too(pixels, quarters):
    ends, *_ = walk(pixels, quarters, looks_at(pixels, 0), scale=2.0)
    assert ends.probability[0] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])


# --- the same, one image and one step at a time


def test_steps_are_those_of_one_image_and_step_at_a_time(pixels):
    generator = torch.Generator().manual_seed(1)
    regions = torch.rand(3, 3, 4, 4, generator=generator) < 0.3
    weight = torch.randn(2, 3 * SIDE * SIDE, generator=generator) / 1e4
    _, deletion, insertion = walk(pixels, regions, lambda x: x.flatten(1).float() @ weight.T, kernel=5)
    for i, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        soft = cv2.GaussianBlur(image, (5, 5), 0)
        for k in range(4):
            hidden = np.zeros((4, 4), bool) if k == 0 else regions[i, :k].any(0).numpy()
            large = np.kron(hidden, np.ones((SIDE // 4, SIDE // 4), bool))[:, :, None]
            for path, shown in (
                (deletion, np.where(large, soft, image)),
                (insertion, np.where(large, image, soft)),
            ):
                expected = 2.5 * weight[0].numpy() @ shown.transpose(2, 0, 1).ravel().astype(np.float32)
                # rounding in the blur may fall the other way in a few pixels
                assert path.score[i, k] == pytest.approx(expected, abs=5e-3)


def test_each_different_image_is_classified_once(pixels, quarters):
    seen = []

    def classify(shown):
        seen.append(shown)
        return torch.zeros(len(shown), 2)

    walk(pixels, quarters, classify, batch_size=7)
    # of each image: intact, blurred, and 3 steps of deletion and 3 of insertion between them
    assert len(torch.cat(seen)) == 3 * 8 and all(len(x) <= 7 for x in seen)
    assert len(torch.unique(torch.cat(seen), dim=0)) == 3 * 8


# --- pieces by hand


@pytest.mark.parametrize("kernel", [1, 3, 11, 15])
def test_the_blur_is_that_of_opencv(pixels, kernel):
    found = faith.blurred(pixels, kernel).permute(0, 2, 3, 1).numpy().astype(int)
    expected = np.stack([cv2.GaussianBlur(x, (kernel, kernel), 0) for x in pixels.permute(0, 2, 3, 1).numpy()])
    assert np.abs(found - expected).max() <= 1


def test_the_kernel_spans_its_share_of_the_side():
    assert [faith.kernel_width(side) for side in (72, 96, 224)] == [87, 115, 269]
    assert faith.kernel_width(224, 0.05) == faith.kernel_width(72, 0.15) == 11


def test_ranking_by_hand():
    image = torch.tensor([[1.0, 0.0]])
    parts = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]]])
    texts = torch.tensor([[[0.6, 0.8], [3.0, 0.0], [1.0, 0.0]]])
    assert faith.rank_scores(image, parts, texts)[0].tolist() == pytest.approx([0.6, 0.6, 0.0])
    assert faith.rank_scores(image, parts, texts, "part")[0].tolist() == pytest.approx([1.0, 0.6, 0.0])
    assert faith.rank_scores(image, parts, texts, "descriptor")[0].tolist() == pytest.approx([0.6, 1.0, 1.0])
    assert faith.rank_scores(image, parts, texts, "given")[0].tolist() == [0, -1, -2]


def test_empty_regions_come_last_whatever_their_score():
    regions = torch.zeros(1, 3, 1, 3).bool()
    regions[0, 1, 0, 1] = regions[0, 2, 0, 2] = True
    found, order = faith.ranked(regions, torch.tensor([[9.0, 0.1, 0.2]]))
    assert order.tolist() == [[2, 1, 0]] and found[0].flatten(1).long().tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_steps_of_overlapping_regions_by_hand():
    regions = torch.tensor([[[[1, 1, 0, 0]], [[0, 1, 1, 0]]]]).bool()
    covered = faith.cumulative(regions)
    assert covered[0, :, 0].long().tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert faith.covered_share(regions).tolist() == [[0, 0.5, 0.75]]
    deletion, insertion = faith.blur_masks(covered)
    assert (deletion == covered).all() and (insertion == ~covered).all()
    _, insertion = faith.blur_masks(covered, "parts")
    assert insertion[0, :, 0].long().tolist() == [[1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_areas_by_hand_and_by_numpy():
    curves = np.array([[1.0, 0.5, 0.0, 0.0], [0.9, 0.7, 0.2, 0.4]])
    assert faith.area(curves) == pytest.approx(np.trapezoid(curves, axis=1))
    assert faith.area(curves, unit=True) == pytest.approx(np.trapezoid(curves, axis=1) / 3)
    assert faith.area(curves, [2, 3], "stop") == pytest.approx([1.0, np.trapezoid(curves[1])])
    assert faith.area(curves, [2, 3], "stop", unit=True)[0] == pytest.approx(0.5)
    assert np.isnan(faith.area(curves, [0, 3], "stop", unit=True)[0])


def test_the_published_magnitude_is_an_area_that_is_not_divided():
    """The largest published insertion, 3.385 over 5 steps, is a cosine of 0.27 at each of them."""
    assert faith.area(np.full((1, 6), 2.5 * 0.2708))[0] == pytest.approx(3.385)


def test_a_curve_without_span_has_no_normalised_area():
    assert np.isnan(faith.normalised([0.3, 0.3], 0.3, 0.3))


def test_random_regions_keep_areas_and_overlaps():
    generator = torch.Generator().manual_seed(2)
    regions = torch.rand(20, 4, 5, 6, generator=generator) < 0.3
    sizes = regions.flatten(2).sum(2)
    for kind in faith.CHOICES["random_regions"]:
        found = faith.control(regions, kind, seed=3)
        assert (found.flatten(2).sum(2) == sizes).all()
        assert (faith.covered_share(found) == faith.covered_share(regions)).all()
        assert not torch.equal(found, regions)
        assert torch.equal(found, faith.control(regions, kind, seed=3))
    moved = faith.shifted(regions, seed=3)
    rolled = [[torch.roll(r, (a, b), (1, 2)) for a in range(5) for b in range(6) if a or b] for r in regions]
    assert all(any(torch.equal(m, x) for x in options) for m, options in zip(moved, rolled, strict=True))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: faith.blurred(torch.zeros(1, 3, 8, 8).byte(), 4), "odd number"),
        (lambda: faith.kernel_width(72, 2.0), "between 0 and 1.9"),
        (lambda: faith.rank_scores(*torch.zeros(3, 1, 1, 1), "size"), "choose one of product"),
        (lambda: faith.blur_masks(torch.zeros(1, 2, 1, 1).bool(), "black"), "choose one of whole"),
        (lambda: faith.area([[1, 0]], short="pad"), "choose one of hold"),
        (lambda: faith.area([[1, 0]], short="stop"), "need `shown`"),
        (lambda: faith.control(torch.zeros(1, 1, 2, 2).bool(), "noise"), "choose one of shifted"),
        (lambda: faith.shifted(torch.zeros(1, 1, 1, 1).bool()), "finer"),
        (lambda: walk(torch.zeros(2, 3, 8, 8).byte(), torch.zeros(3, 1, 2, 2).bool(), None), "do not fit 2 images"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


# --- Table 1 of a model


@pytest.fixture(scope="module")
def clip():
    return models.load("ViT-B-16")


@pytest.fixture(scope="module")
def data():
    """Two pictures of each of three species."""
    return load_images("bestiary").subset([k + 48 * i for k in range(3) for i in range(2)])


@pytest.fixture(scope="module")
def trained():
    """Options of a short training."""
    return {"train_limit": 48, "steps": 3}


@pytest.fixture(scope="module")
def row(clip, data, trained):
    return table1.row(clip, data, **trained)


def test_a_row_has_every_measure_of_every_explanation_and_of_its_control(row):
    metrics = row["metrics"]
    for name in (*table1.TRAINED, *table1.OURS, table1.TRUE):
        for key, good in table1.MEASURES.items():
            own, random = metrics[f"{key}_{name}"], metrics[f"{key}_{name}_random"]
            assert own.shape == random.shape == (6,)
            assert np.allclose(metrics[f"{key}_{name}_gain"], good * (own - random))
        assert np.allclose(metrics[f"area_{name}"], 100 * row["arrays"][f"covered_{name}"][:, -1])
        assert (metrics[f"shown_{name}"] >= 1).all()
    assert row["notes"]["kernel"] == 87


def test_measures_are_the_areas_of_the_curves(row):
    for name in (*table1.OURS, "mm_cbm_random"):
        curve = row["arrays"][f"deletion_{name}"]
        assert np.allclose(row["metrics"][f"deletion_{name}"], np.trapezoid(curve, axis=1), atol=1e-5)
        assert np.allclose(curve[:, 0], row["metrics"]["intact_score"], atol=1e-5)
        correct = row["arrays"][f"insertion_correct_{name}"]
        assert np.allclose(row["metrics"][f"acc_inc_{name}"], np.trapezoid(correct, axis=1), atol=1e-5)
        assert np.allclose(row["arrays"][f"insertion_{name}"][:, 0], row["metrics"]["blurred_score"], atol=1e-5)


def test_the_intact_score_is_that_of_the_predicted_class(clip, data, row):
    from lib.models import heads

    cosines = clip.embed_images(data) @ heads.classifier(clip, data.classes, data.templates).T
    assert np.allclose(row["metrics"]["intact_score"], 2.5 * cosines.amax(1), atol=1e-4)
    assert np.allclose(row["metrics"]["top1"], 100 * (cosines.argmax(1).numpy() == data.labels))


def test_claims_compare_the_worse_of_ours_with_the_best_of_the_trained():
    means = {"mm_cbm": 3.0, "mm_protosim": 2.0, "feature_maps": 4.0, "pca": 1.0, "kmeans": 1.5}
    metrics = {f"{key}_{name}": np.array([mean, mean]) for key in table1.MEASURES for name, mean in means.items()}
    assert table1.ours_above(metrics, "deletion").tolist() == [0.5, 0.5]  # 2.0 against 1.5
    assert table1.ours_above(metrics, "insertion").tolist() == [-3.0, -3.0]  # 1.0 against 4.0
    assert table1.ours_above(metrics, "insertion", max).tolist() == [-2.5, -2.5]  # 1.5 against 4.0


def test_true_parts_are_the_largest_visible_ones(clip, data):
    found = table1.by_truth(clip, data, 3)
    for i, masks in enumerate(found.masks):
        sizes = sorted((m.sum() for m in data.part_masks(i).values()), reverse=True)[:3]
        assert masks.flatten(1).sum(1).tolist() == sizes
        assert masks.sum(0).max() == 1


def test_attention_regions_belong_to_the_descriptors_that_contribute_most(clip, data, trained):
    from lib.mutual import baselines, bottlenecks

    train = baselines.train_split(data, limit=trained["train_limit"])
    how = baselines.recipe(clip, train, steps=trained["steps"])
    model = baselines.load("mm_cbm", clip, train, how)
    features, grid = baselines.patch_features(clip, data, how)
    masks, named = table1.name_attention(model, features.float(), 2, 0.9)
    amounts, predicted, attention = bottlenecks.contributions(model, features)
    logits = model(features.float())
    assert (predicted == logits.argmax(1)).all()
    # contributions and the bias add up to the logit of the predicted class
    total = amounts.sum(1) + model.classifier.bias[predicted]
    assert torch.allclose(total, logits.amax(1), atol=1e-4)
    for i in range(len(data)):
        best = max(range(54), key=lambda d, i=i: amounts[i, d])
        assert named[i, 0] == best
        looked = attention[i, best]
        scaled = (looked - looked.min()) / (looked.max() - looked.min())
        assert torch.equal(masks[i, 0], scaled >= 0.9)


@pytest.mark.parametrize("variant", [v for v in table1.VARIANTS if v != "default"])
def test_every_definition_changes_the_result(definitions, variant):
    metrics = definitions["metrics"]
    changed = [k for k in metrics if k.endswith(f"@{variant}") and not np.array_equal(metrics[k], metrics[default(k)])]
    assert changed


def test_parts_are_found_among_all_images_where_few_are_evaluated(clip, data, trained):
    train = table1.baselines.train_split(data, limit=trained["train_limit"])
    how = table1.baselines.recipe(clip, train, steps=trained["steps"])
    every = table1.explanations(clip, data, train, how)
    some = table1.explanations(clip, data, train, how, indices=np.array([4, 1]))
    for name in every:
        assert torch.equal(some[name].masks, every[name].masks[[4, 1]])
        assert torch.equal(some[name].descriptors, every[name].descriptors[[4, 1]])


def test_an_explanation_may_have_one_part_only(clip, data, trained):
    row = table1.row(clip, data, parts=1, **trained)
    assert row["arrays"]["deletion_kmeans"].shape == (6, 2)
    assert (row["metrics"]["shown_kmeans"] == 1).all()
    assert np.isfinite(row["metrics"]["deletion_kmeans_gain"]).all()


def default(key):
    return key.partition("@")[0] + "@default"


@pytest.fixture(scope="module")
def definitions(clip, trained):
    """On pictures of which some are misread and some have fewer parts."""
    data = load_images("bestiary", images=12)
    return table1.definitions(clip, data, images=0, **trained)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"score": "logit"}, "choose one of cosine, probability"),
        ({"correct": "top5"}, "choose one of label, predicted"),
        ({"threshold": 0.0}, "more than 0"),
        ({"setting": "best"}, "'default' or 'published'"),
        ({"rates": "high"}, "choose one of scaled, published"),
    ],
)
def test_unknown_option_is_refused(clip, data, trained, option, sentence):
    with pytest.raises(UserError, match=sentence):
        table1.row(clip, data, **trained | option)


def test_data_without_labels_are_refused_where_labels_are_needed(clip, data, trained):
    from dataclasses import replace

    unlabelled = replace(data, labels=np.full(len(data), -1))
    with pytest.raises(UserError, match="without labels"):
        table1.row(clip, unlabelled, **trained)


def test_data_without_a_train_split_ask_for_one(clip, make_folder):
    folder = make_folder({"cat": 2, "dog": 2})
    (folder / "descriptors.json").write_text('{"cat": ["whiskers", "soft fur"], "dog": ["a wet nose", "a tail"]}')
    with pytest.raises(UserError, match="has no train split; give the folder of its training images"):
        table1.row(clip, load_images(str(folder)))
