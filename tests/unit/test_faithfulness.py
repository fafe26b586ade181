"""Insertion and deletion by hand, on classifiers whose score is known, and Table 1 on a handful of images."""

from dataclasses import fields, replace
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from lib import data, models
from lib.errors import UserError
from lib.given import Given
from lib.models import heads
from lib.mutual import baselines, bottlenecks, observe_regions, regions, words
from lib.mutual import faithfulness as faith
from lib.mutual.options import CHOICES, Reading, RegionOptions
from lib.show import published

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
    """Scores, probabilities and winners of the two ends, of deletion, and of insertion."""
    masks = [torch.tensor([False, True]).view(1, 2, 1, 1).expand(len(pixels), -1, -1, -1)]
    masks += faith.blur_masks(regions)
    found = faith.follow(pixels, masks, classify, [0] * len(pixels), **options)
    columns = np.cumsum([mask.shape[1] for mask in masks])[:-1]
    pieces = {name: np.split(values, columns, axis=1) for name, values in found.items()}
    return [SimpleNamespace(**{name: pieces[name][k] for name in pieces}) for k in range(len(masks))]


def on_the_scale(path, ends):
    """The mean of a curve after each step but the first, where the blurred image is 0 and the intact one 1."""
    intact, blurred = ends.score.T
    return (path.score[:, 1:].mean(1) - blurred) / (intact - blurred)


# --- classifiers whose score is known


def test_a_region_that_carries_everything_has_deletion_0_and_insertion_1(pixels, quarters):
    ends, deletion, insertion = walk(pixels, quarters, looks_at(pixels, 0))
    assert np.allclose(on_the_scale(deletion, ends), 0)
    assert np.allclose(on_the_scale(insertion, ends), 1)
    assert deletion.score.tolist() == [[2.5, 0, 0, 0, 0]] * 3
    assert np.allclose(faith.area(deletion.score), 1.25)  # unit steps: only the first half step is left
    assert np.allclose(faith.area(insertion.score), 2.5 * 3.5)
    assert (deletion.winner == [0, 1, 1, 1, 1]).all() and (insertion.winner == [1, 0, 0, 0, 0]).all()


def test_the_same_region_ranked_last_has_the_worst_of_scores(pixels, quarters):
    ends, deletion, insertion = walk(pixels, quarters.flip(1), looks_at(pixels, 0))
    assert np.allclose(on_the_scale(deletion, ends), 3 / 4)
    assert np.allclose(on_the_scale(insertion, ends), 1 / 4)


def test_regions_elsewhere_change_nothing(pixels, quarters):
    ends, deletion, insertion = walk(pixels, quarters[:, 1:], looks_at(pixels, 0))
    assert np.allclose(on_the_scale(deletion, ends), 1)
    assert np.allclose(on_the_scale(insertion, ends), 0)


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
    found = faith.ranked(regions, torch.tensor([[9.0, 0.1, 0.2]]))
    assert found[0].flatten(1).long().tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_steps_of_overlapping_regions_by_hand():
    regions = torch.tensor([[[[1, 1, 0, 0]], [[0, 1, 1, 0]]]]).bool()
    deletion, insertion = faith.blur_masks(regions)
    assert deletion[0, :, 0].long().tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert deletion.float().mean((2, 3)).tolist() == [[0, 0.5, 0.75]]
    assert (insertion == ~deletion).all()
    _, insertion = faith.blur_masks(regions, "parts")
    assert insertion[0, :, 0].long().tolist() == [[1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_areas_by_hand_and_by_numpy():
    curves = np.array([[1.0, 0.5, 0.0, 0.0], [0.9, 0.7, 0.2, 0.4]])
    assert faith.area(curves) == pytest.approx(np.trapezoid(curves, axis=1))
    assert faith.area(curves, [2, 3], "stop") == pytest.approx([1.0, np.trapezoid(curves[1])])
    assert faith.area(curves, [0, 3], "stop")[0] == 0
    assert faith.area(np.stack([curves, curves]), np.array([[2, 3]]), "stop").shape == (2, 2)


def test_the_published_magnitude_is_an_area_that_is_not_divided():
    """The largest published insertion, 3.385 over 5 steps, is a cosine of 0.27 at each of them."""
    assert faith.area(np.full((1, 6), 2.5 * 0.2708))[0] == pytest.approx(3.385)


def test_random_regions_keep_areas_and_overlaps():
    generator = torch.Generator().manual_seed(2)
    regions = torch.rand(20, 4, 5, 6, generator=generator) < 0.3
    sizes = regions.flatten(2).sum(2)
    assert set(faith.CONTROLS) == set(CHOICES["random_regions"])
    for draw in faith.CONTROLS.values():
        found = draw(regions, range(20), seed=3)
        assert (found.flatten(2).sum(2) == sizes).all()
        assert (faith.blur_masks(found)[0].sum((2, 3)) == faith.blur_masks(regions)[0].sum((2, 3))).all()
        assert not torch.equal(found, regions)
        # an image's draw is its own, whichever others are there
        assert torch.equal(found[5:8], draw(regions[5:8], range(5, 8), seed=3))
        assert not torch.equal(found, draw(regions, range(20), seed=4))
    moved = faith.shifted(regions, range(20), seed=3)
    rolled = [[torch.roll(r, (a, b), (1, 2)) for a in range(5) for b in range(6) if a or b] for r in regions]
    assert all(any(torch.equal(m, x) for x in options) for m, options in zip(moved, rolled, strict=True))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: faith.blurred(torch.zeros(1, 3, 8, 8).byte(), 4), "odd number"),
        (lambda: faith.rank_scores(*torch.zeros(3, 1, 1, 1), "size"), "rank is 'size'; choose one of product"),
        (lambda: faith.blur_masks(torch.zeros(1, 2, 1, 1).bool(), "black"), "choose one of whole"),
        (lambda: faith.area([[1, 0]], short="pad"), "choose one of hold"),
        (lambda: faith.area([[1, 0]], short="stop"), "need `shown`"),
        (lambda: faith.shifted(torch.zeros(1, 1, 1, 1).bool(), [0]), "finer"),
        (lambda: walk(torch.zeros(2, 3, 8, 8).byte(), torch.zeros(3, 1, 2, 2).bool(), None), "do not fit 2 images"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


# --- from steps to measures, on made-up tables


@pytest.fixture
def steps():
    """A table of steps as `observe_regions.table1` makes it: two images, two explanations and the whole image."""
    rng = np.random.default_rng(0)
    names = ["MM-CBM", "K-means parts", faith.WHOLE]
    axes = [range(2), names, ["explained", "random"], ["deletion", "insertion"], range(4)]
    keys = ["image", "explanation", "regions", "direction", "step"]
    table = pd.MultiIndex.from_product(axes, names=keys).to_frame(index=False)
    table["shown"] = np.where(table["image"] == 0, 3, 2)
    table["covered"] = 10.0 * table["step"]
    for column in ("score", "probability"):
        table[column] = rng.random(len(table))
    for column in ("correct", "unchanged"):
        table[column] = (rng.random(len(table)) < 0.5).astype(float)
    return table.assign(model="m", title="M")


def curve(steps, column, **where):
    for name, value in where.items():
        steps = steps[steps[name] == value]
    return steps[column].to_numpy()


@pytest.mark.parametrize(("score", "correct"), [("score", "correct"), ("probability", "unchanged")])
def test_measures_are_the_areas_of_the_curves(steps, score, correct):
    asked = {"correct": ("cosine", "label"), "unchanged": ("probability", "predicted")}[correct]
    found = faith.measures(steps, asked[0], correct=asked[1])
    assert len(found) == 12 and (found["area"] == 30).all()
    names = {("deletion", score): "deletion", ("insertion", score): "insertion"}
    names |= {("deletion", correct): "acc_drop", ("insertion", correct): "acc_inc"}
    for line in found.itertuples():
        where = {"image": line.image, "explanation": line.explanation, "regions": line.regions}
        for (direction, column), name in names.items():
            expected = np.trapezoid(curve(steps, column, direction=direction, **where))
            assert getattr(line, name) == pytest.approx(expected)


def test_a_curve_stops_where_the_image_has_no_more_regions(steps):
    held, stopped = faith.measures(steps), faith.measures(steps, short="stop")
    both = held["image"] == 0
    assert np.allclose(held.loc[both, "deletion"], stopped.loc[both, "deletion"])
    first = curve(steps, "score", image=1, explanation="MM-CBM", regions="explained", direction="deletion")
    line = stopped[(stopped["image"] == 1) & (stopped["explanation"] == "MM-CBM")].iloc[0]
    assert line["deletion"] == pytest.approx(np.trapezoid(first[:3]))


def test_the_gain_over_random_regions_is_positive_where_the_explanation_is_better(steps):
    measured = faith.measures(steps)
    both = faith.against_random(measured)
    assert set(both["explanation"]) == {"MM-CBM", "K-means parts"} and len(both) == 2 * 2 * 4
    for line in both.itertuples():
        assert line.gain == pytest.approx(faith.MEASURES[line.measure] * (line.explained - line.random))
    own = measured[measured["regions"] == "explained"].set_index(["explanation", "image"])["acc_inc"]
    for line in both[both["measure"] == "acc_inc"].itertuples():
        assert line.explained == own[line.explanation, line.image]


def test_on_the_scale_between_blurred_and_intact_the_first_point_is_left_out(steps):
    above = faith.above_blurred(steps).set_index(["value", "image", "explanation", "regions", "direction"])
    assert len(above) == 2 * 2 * 2 * 2 * 2
    intact, blurred = curve(steps, "score", image=1, explanation=faith.WHOLE, regions="explained")[:2]
    line = above.loc["score", 1, "K-means parts", "random", "insertion"]
    own = {"explanation": "K-means parts", "regions": "random", "direction": "insertion"}
    assert line["above"] == pytest.approx(curve(steps, "score", image=1, **own)[1:].mean() - blurred)
    assert line["span"] == pytest.approx(intact - blurred)


@pytest.fixture
def as_published():
    """Measures that are the published ones under one definition, and the other way round under another."""
    theirs = published.load("mutual_knowledge_table1", "explanation")[list(faith.MEASURES)]
    theirs = theirs.rename({"Ours (PCA)": "PCA parts", "Ours (K-means)": "K-means parts"})
    tables = [theirs.assign(definition="default", image=i) for i in range(3)]
    return theirs, pd.concat([*tables, (-theirs).assign(definition="turned", image=0)]).reset_index()


def test_definitions_agree_with_the_published_order_where_the_values_are_the_published_ones(as_published):
    theirs, measured = as_published
    alike, best = faith.agreement(measured, theirs)
    assert np.allclose(alike.loc["default"], 1) and np.allclose(alike.loc["turned"], -1)
    assert best.loc["default"].tolist() == ["K-means parts", "MM-CBM", "K-means parts", "PCA parts"]
    assert best.loc["turned", "acc_inc"] == "MM-ProtoSim"
    one = measured.assign(acc_drop=1.0)
    assert np.isnan(faith.agreement(one, theirs)[0].loc["default", "acc_drop"])


def test_claims_compare_the_worse_of_ours_with_the_best_of_the_trained(as_published):
    _, measured = as_published
    pairs = faith.rivals(measured[measured["definition"] == "default"], list(regions.PARTS), list(regions.TRAINED))
    # in the published table deletion and AccDrop are higher for the best trained explanation, AccInc is lower
    assert pairs["deletion"] == pairs["acc_drop"] == ("Feature Maps", "PCA parts")
    assert pairs["insertion"] == ("MM-CBM", "PCA parts")
    assert pairs["acc_inc"] == ("K-means parts", "Feature Maps")


def test_published_values_are_those_of_the_paper(as_published):
    theirs, _ = as_published
    assert theirs.loc["MM-CBM"].tolist() == [3.147, 3.385, 2.634, 1.013]
    assert set(theirs.index) == {*regions.TRAINED, *regions.PARTS}


# --- Table 1 of a model


class Door(Given):
    """The door of a record that gives the images of a test."""

    few = None

    @property
    def images(self):
        return self.few


@pytest.fixture(scope="module")
def clip():
    return models.load("ViT-B-16")


@pytest.fixture(scope="module")
def images():
    """Two pictures of each of three species."""
    return data.load("bestiary").subset([k + 48 * i for k in range(3) for i in range(2)])


@pytest.fixture(scope="module")
def given(images):
    door = Door("ViT-B-16")
    door.few = images
    return door


@pytest.fixture(scope="module")
def options():
    """A short training."""
    return RegionOptions(train_limit=48, steps=3)


@pytest.fixture(scope="module")
def seen(given, options):
    return observe_regions.table1(given, options)


@pytest.fixture(scope="module")
def explainer(given, options):
    return regions.prepare(given, options)


def test_a_record_has_every_step_of_every_explanation_and_of_its_control(seen, explainer):
    table = seen.table
    assert list(table["explanation"].unique()) == explainer.names
    assert len(table) == 6 * len(explainer.names) * 2 * 2 * 6 and not table.isna().any().any()
    assert seen.notes == {"kernel": 87, "image_size": 72}
    assert (table["shown"] >= 1).all() and table["covered"].between(0, 100).all()
    first = table[table["step"] == 0]
    assert (first["covered"] == 0).all()
    whole = table[(table["explanation"] == faith.WHOLE) & (table["step"] > 0)]
    assert (whole["covered"] == 100).all()


def test_curves_begin_at_the_intact_and_at_the_blurred_image(seen):
    table = seen.table.set_index(["image", "direction", "step"])["score"]
    whole = seen.table[seen.table["explanation"] == faith.WHOLE].set_index(["image", "direction", "step"])["score"]
    for i in range(6):
        assert np.allclose(table[i, "deletion", 0], whole[i, "deletion", 0].iloc[0], atol=1e-5)
        assert np.allclose(table[i, "insertion", 0], whole[i, "deletion", 1].iloc[0], atol=1e-5)


def test_the_intact_score_is_that_of_the_predicted_class(clip, images, seen):
    cosines = clip.embed_images(images) @ heads.classifier(clip, images.classes, images.templates).T
    start = seen.table[(seen.table["direction"] == "deletion") & (seen.table["step"] == 0)].groupby("image")
    assert np.allclose(start["score"].first(), 2.5 * cosines.amax(1), atol=1e-4)
    assert np.allclose(start["correct"].first(), cosines.argmax(1).numpy() == images.labels)
    assert (start["unchanged"].first() == 1).all()


def test_random_regions_cover_as_much(seen):
    wide = seen.table.pivot(index=["image", "explanation", "direction", "step"], columns="regions", values="covered")
    assert np.allclose(wide["explained"], wide["random"])


def test_true_parts_are_the_largest_visible_ones(clip, images):
    found = regions.by_truth(clip, images, 3)
    for i, masks in enumerate(found.masks):
        sizes = sorted((m.sum() for m in images.part_masks(i).values()), reverse=True)[:3]
        assert masks.flatten(1).sum(1).tolist() == sizes
        assert masks.sum(0).max() == 1


def test_attention_regions_belong_to_the_descriptors_that_contribute_most(clip, images, explainer):
    model = explainer.models["mm_cbm"]
    features, _ = baselines.patch_features(clip, images, explainer.how)
    masks, named = regions.name_attention(model, features.float(), 2, 0.9)
    amounts, predicted, attention = bottlenecks.contributions(model, features)
    logits = model(features.float())
    assert (predicted == logits.argmax(1)).all()
    # contributions and the bias add up to the logit of the predicted class
    total = amounts.sum(1) + model.classifier.bias[predicted]
    assert torch.allclose(total, logits.amax(1), atol=1e-4)
    for i in range(len(images)):
        best = max(range(54), key=lambda d, i=i: amounts[i, d])
        assert named[i, 0] == best
        looked = attention[i, best]
        scaled = (looked - looked.min()) / (looked.max() - looked.min())
        assert torch.equal(masks[i, 0], scaled >= 0.9)


def test_regions_are_blurred_in_the_order_of_their_importance(clip, images, explainer):
    part = regions.by_parts(clip, images, explainer.parts["PCA parts"], explainer.options)
    whole, texts = clip.embed_images(images), clip.embed_texts(images.bank)
    masks = explainer.masks(range(6))["PCA parts"]
    for i in range(6):
        unit = torch.nn.functional.normalize(part.embedded[i], dim=1)
        product = (unit @ whole[i]) * (texts[part.descriptors[i].clamp(min=0)] @ whole[i])
        shown = [k for k in product.argsort(descending=True).tolist() if part.masks[i, k].any()]
        assert all(torch.equal(masks[i, place], part.masks[i, k]) for place, k in enumerate(shown))
        assert not masks[i, len(shown) :].any()


def test_parts_are_found_among_all_images_where_few_are_asked_for(explainer):
    every, some = explainer.masks(range(6)), explainer.masks([4, 1])
    assert list(every) == explainer.names
    assert all(torch.equal(some[name], every[name][[4, 1]]) for name in every)


@pytest.mark.slow
def test_chunks_change_nothing(given, options, seen, monkeypatch, fresh_cache):
    monkeypatch.setattr(data.ImageDataset.chunks, "__defaults__", (2,))
    assert len(list(given.images.chunks())) == 3
    again = observe_regions.table1(given, options).table
    pd.testing.assert_frame_equal(again, seen.table, rtol=1e-5)


def test_an_explanation_may_have_one_part_only(given, options):
    found = observe_regions.table1(given, replace(options, parts=1)).table
    assert set(found["step"]) == {0, 1} and (found["shown"] == 1).all()
    assert not faith.against_random(faith.measures(found))["gain"].isna().any()


@pytest.fixture(scope="module")
def definitions(options):
    """On pictures of which some are misread and some have fewer parts."""
    door = Door("ViT-B-16")
    door.few = data.load("bestiary", images=12)
    return observe_regions.definitions(door, replace(options, checked=0)).table


CHANGES = {**observe_regions.REGIONS_CHANGED, **observe_regions.READING_CHANGED}


@pytest.mark.slow
@pytest.mark.parametrize("definition", [name for name in CHANGES if name != "default"])
def test_every_definition_changes_the_result(definitions, definition):
    assert set(definitions["definition"]) == set(CHANGES)
    changed, default = (definitions[definitions["definition"] == name] for name in (definition, "default"))
    assert len(changed) == len(default) == 12 * 5
    assert not np.array_equal(changed[list(faith.MEASURES)], default[list(faith.MEASURES)])


@pytest.mark.slow
def test_other_definitions_are_tried_on_the_images_of_the_run_by_their_numbers(given, options):
    found = observe_regions.definitions(given, replace(options, checked=3)).table
    numbers = data.spread(given.images.labels, 3, given.seed)
    names = np.array(given.images.classes)[given.images.labels]
    assert set(found["image"]) == set(numbers)
    assert (found["class"] == names[found["image"]]).all()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"rank": "size"}, "rank is 'size'; choose one of product"),
        ({"start": "black"}, "choose one of whole, parts"),
        ({"random_regions": "noise"}, "choose one of shifted, scattered"),
        ({"blur": 2.0}, "between 0 and 1.9"),
        ({"threshold": 0.0}, "threshold is 0.0; give a positive number, at most 1"),
        ({"checked": -1}, "checked is -1; give a whole number from 0 on"),
        ({"foreground": "best"}, "choose one of default, published"),
        ({"rates": "high"}, "choose one of scaled, published"),
        ({"steps": 0}, "steps is 0; give a whole number from 1 on"),
        ({"temperature": 0.0}, "temperature is 0.0; give a positive number"),
        ({"parts": 0}, "give a whole number from 1 on"),
    ],
)
def test_an_unknown_option_is_refused(option, sentence):
    with pytest.raises(UserError, match=sentence):
        RegionOptions(**option)


@pytest.mark.parametrize("name", [field.name for field in fields(Reading)])
def test_an_unknown_reading_is_refused_and_every_known_one_is_taken(name, steps):
    with pytest.raises(UserError, match=f"{name} is 'other'; choose one of"):
        Reading(**{name: "other"})
    read = [faith.measures(steps, **{name: value}) for value in CHOICES[name]]
    assert not read[0].equals(read[1])


def test_a_folder_without_a_train_split_asks_for_one(make_folder):
    folder = make_folder({"cat": 2, "dog": 2})
    (folder / "descriptors.json").write_text('{"cat": ["whiskers", "soft fur"], "dog": ["a wet nose", "a tail"]}')
    with pytest.raises(UserError, match="has no train split; give the folder of its training images"):
        observe_regions.table1(Given("mini-ViT-B-32:random", str(folder)), RegionOptions())


@pytest.mark.slow
def test_classes_of_predicted_images_are_grouped_over_all_chunks(given, options, monkeypatch, fresh_cache):
    """Where predictions decide what is decomposed together, a chunk of classes must not."""
    asked = replace(options, group="predicted")
    whole = observe_regions.table1(given, asked).table
    monkeypatch.setattr(data.ImageDataset.chunks, "__defaults__", (2,))
    monkeypatch.setenv("COMPANION_CACHE", str(fresh_cache / "other"))
    pd.testing.assert_frame_equal(observe_regions.table1(given, asked).table, whole, rtol=1e-5)
    assert words.predictions(given.model, given.images).shape == (6,)
