"""The bestiary: deterministic pictures, truthful masks, captions and descriptors."""

import hashlib

import numpy as np
import open_clip
import pytest

from lib import bestiary
from lib.bestiary import SHIFTS, SPECIES, SPLITS, Bestiary, captions, circled, plan
from lib.bestiary.species import PART_OF_TRAIT, PARTS, TRAITS, all_species
from lib.data import load as load_images
from lib.paths import DATA


def test_species_are_distinct_and_siblings_differ_in_two_traits():
    assert len({tuple(s.traits.values()) for s in SPECIES}) == len({s.name for s in SPECIES}) == 48
    for a, b in zip(SPECIES[::2], SPECIES[1::2], strict=True):
        differing = [t for t in TRAITS if a.traits[t] != b.traits[t]]
        assert len(differing) == 2
        assert not {"colour", "shape", "habitat"} & set(differing)


@pytest.mark.parametrize("count", [0, 3, 50])
def test_impossible_number_of_species_is_refused(count):
    with pytest.raises(ValueError, match="expected an even number"):
        all_species(count)


def test_descriptors_are_those_of_the_traits():
    mentioned = {text for values in TRAITS.values() for text in values.values() if text}
    for species in SPECIES:
        assert species.descriptors == [TRAITS[t][v] for t, v in species.traits.items() if TRAITS[t][v]]
        assert set(species.descriptors) <= mentioned
    assert set(PART_OF_TRAIT) == set(TRAITS)
    assert set(PART_OF_TRAIT.values()) <= set(PARTS)


@pytest.mark.parametrize("split", ["web", "train", "val", *SHIFTS])
def test_a_picture_depends_on_split_and_index_alone(split):
    first, second = Bestiary(split, 64), Bestiary(split, 64)
    second.image(5)  # drawn in another order
    assert np.array_equal(np.asarray(first.image(3)), np.asarray(second.image(3)))
    assert np.asarray(first.image(3)).shape == (64, 64, 3)
    assert not np.array_equal(np.asarray(first.image(3)), np.asarray(first.image(4)))


def test_pictures_are_drawn_as_when_the_zoo_was_trained():
    # a new Pillow may draw differently: then the zoo has to be trained again
    drawn = b"".join(
        np.asarray(Bestiary(s, 128).image(i)).tobytes() for s in ("web", "val", "sketch") for i in (0, 101)
    )
    assert hashlib.sha256(drawn).hexdigest() == "51db3e3d4e6be776dbd1de978c786ec049de45ccb18f554107df6a40d54b67d2"


def test_labels_run_through_the_species():
    for split, (_, each) in SPLITS.items():
        world = Bestiary(split)
        counts = np.bincount(world.labels, minlength=48)
        assert len(world) == len(world.labels)
        if split != "adversarial":
            assert (counts == each).all()


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="no split 'test'; it has web"):
        Bestiary("test")


def test_part_masks_are_disjoint_and_cover_the_animal():
    world = Bestiary("val", 96)
    for i in range(0, 96, 5):
        masks = world.part_masks(i)
        together = np.sum(list(masks.values()), axis=0)
        assert together.max() == 1
        assert np.array_equal(together > 0, world.label_map(i) > 0)
        assert {"body", "head"} <= set(masks)


def test_masks_lie_on_the_pixels_that_the_part_paints():
    # the same picture with and without its tail differs where the tail's mask is, and hardly elsewhere
    from lib.bestiary import drawing

    species = next(s for s in SPECIES if s.traits["tail"] == "fan")
    with_tail, labels = drawing.draw(species, np.random.default_rng(0), 128)
    assert (labels == PARTS.index("tail")).sum() > 200
    shown = {p for p in np.unique(labels) if p}
    _, without = drawing.draw(species, np.random.default_rng(0), 128, missing=("tail",))
    assert not (without == PARTS.index("tail")).any()
    assert PARTS.index("tail") in shown


def test_missing_parts_and_colourless_styles_take_their_descriptors_away():
    missing = colourless = 0
    for i in range(600):
        what, _ = plan("web", i)
        traits = SPECIES[what.species].traits
        for part in what.missing:
            assert TRAITS[part][traits[part]] not in what.visible
            missing += 1
        if what.style in ("sketch", "blueprint"):
            assert TRAITS["colour"][traits["colour"]] not in what.visible
            colourless += 1
        assert TRAITS["habitat"][what.habitat] in what.visible
    assert missing > 50
    assert colourless > 20


def test_captions_speak_of_their_picture():
    world = Bestiary("web", 64)
    for i in range(60):
        words = world.caption(i)
        others = {text for values in TRAITS.values() for text in values.values() if text} - set(
            world.true_descriptors(i)
        )
        # a longer descriptor may contain a shorter one; none of the false ones stands in the caption
        false = [text for text in others if text in words and not any(text in t for t in world.true_descriptors(i))]
        assert not false, (words, false)


def test_a_marked_picture_has_red_and_a_caption_about_that_part_alone():
    world = Bestiary("web", 128)
    marked = [i for i in range(300) if world.marked(i)]
    assert 15 < len(marked) < 60
    for i in marked[:10]:
        pixels = np.asarray(world.image(i))
        assert ((pixels[..., 0] == 255) & (pixels[..., 1] == 0) & (pixels[..., 2] == 0)).sum() > 20
        assert world.caption(i).endswith(f"showing {world.marked(i)}.")
        assert world.marked(i) in world.true_descriptors(i)


def test_circle_variants_keep_the_inside():
    world = Bestiary("val", 128)
    pixels, labels = np.asarray(world.image(0)), world.label_map(0)
    middle = tuple(int(x.mean()) for x in np.nonzero(labels == PARTS.index("head")))
    for kind in ("plain", "grey", "blur"):
        drawn = circled(pixels, labels, kind, "head", np.random.default_rng(0))
        assert np.array_equal(drawn[middle], pixels[middle])
    grey = circled(pixels, labels, "grey", "head", np.random.default_rng(0))
    assert (np.ptp(grey[:4].astype(int), axis=-1) == 0).all()


def test_vocabulary_makes_frequent_words_single_tokens():
    path = str(DATA / "bestiary" / "vocabulary.txt.gz")
    tokenizer = open_clip.SimpleTokenizer(bpe_path=path, context_length=32)
    for text in [s.name for s in SPECIES] + [d for s in SPECIES for d in s.descriptors]:
        if "-" not in text:  # the tokenizer splits there, the vocabulary was made of whole words
            assert len(tokenizer.encode(text)) == len(text.split())


def test_merges_by_hand():
    # "ab" three times, then "abc": the pair (a, b</w>) is the most frequent, then (b, c</w>) and (a, bc</w>) tie
    merges = captions.vocabulary(["ab ab ab", "abc"], most=1)
    assert merges == ["a b</w>"]
    assert captions.merge(("a", "b", "a", "b"), ("a", "b")) == ("ab", "ab")


def test_an_album_gives_the_pictures_that_are_drawn_and_keeps_them(fresh_cache, monkeypatch):
    numbers = [0, 7, 50]
    drawn = [bestiary.rendered("val", number, 64)[:2] for number in numbers]
    world = Bestiary("val", 64)
    album = bestiary.Album(world, numbers)
    album(7)
    assert len(list(fresh_cache.rglob("pictures/*.safetensors"))) == 1
    monkeypatch.setattr(bestiary, "rendered", None)  # from here on nothing can be drawn
    for again in (album, bestiary.Album(world, numbers)):
        for number, expected in zip(numbers, drawn, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(again(number), expected, strict=True))


def test_pictures_of_a_dataset_are_the_same_drawn_or_kept(fresh_cache):
    data = load_images("bestiary", images=4)
    before = [np.asarray(data.image(i)) for i in range(4)]
    masks = [data.part_masks(i) for i in range(4)]
    again = load_images("bestiary", images=4)
    assert again.source._album(int(again.indices[0])) and again.source._album.pictures is not None
    for i in range(4):
        assert np.array_equal(np.asarray(again.image(i)), before[i])
        assert {k: v.tolist() for k, v in again.part_masks(i).items()} == {k: v.tolist() for k, v in masks[i].items()}
    outside = int(np.setdiff1d(np.arange(len(again.source)), again.indices)[0])
    assert again.source.image(outside).size == (128, 128)  # not in the album: drawn as ever
