"""The bestiary: deterministic pictures, truthful masks, captions and descriptors."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import open_clip
import pytest

from lib import code
from lib.bestiary import SHIFTS, SPECIES, SPLITS, Bestiary, captions, circled, plan, world
from lib.bestiary.album import FEW
from lib.bestiary.drawing import Scene, draw
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
    species = next(s for s in SPECIES if s.traits["tail"] == "fan")
    with_tail, labels = draw(species, np.random.default_rng(0), 128)
    assert (labels == PARTS.index("tail")).sum() > 200
    shown = {p for p in np.unique(labels) if p}
    _, without = draw(species, np.random.default_rng(0), 128, Scene(missing=("tail",)))
    assert not (without == PARTS.index("tail")).any()
    assert PARTS.index("tail") in shown


def test_missing_parts_and_colourless_styles_take_their_descriptors_away():
    missing = colourless = 0
    for i in range(600):
        what, _ = plan("web", i)
        traits = SPECIES[what.species].traits
        for part in what.scene.missing:
            assert TRAITS[part][traits[part]] not in what.visible
            missing += 1
        if what.scene.style in ("sketch", "blueprint"):
            assert TRAITS["colour"][traits["colour"]] not in what.visible
            colourless += 1
        assert TRAITS["habitat"][what.scene.habitat] in what.visible
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


@pytest.fixture
def pictures(monkeypatch):
    """The numbers of the pictures of val that are drawn, in order; those of 64 x 64 pixels take a few milliseconds."""
    drawn, draw_one = [], world.rendered

    def counted(split, number, size):
        drawn.append(number)
        return draw_one(split, number, size)

    monkeypatch.setattr(world, "rendered", counted)
    return drawn


def test_an_album_draws_a_few_pictures_one_by_one_and_then_all_and_keeps_them(fresh_cache, pictures):
    numbers = list(range(3, 3 + FEW + 10))
    val = Bestiary("val", 64)
    expected = [world.rendered("val", number, 64)[:2] for number in numbers]
    val.keep(numbers)
    pictures.clear()
    for number in numbers[: FEW - 1]:
        val.image(number)
    assert pictures == numbers[: FEW - 1]
    assert not list(fresh_cache.rglob("*.safetensors"))
    val.image(numbers[-1])
    assert pictures[FEW - 1 :] == numbers  # the whole set, once
    assert len(list(fresh_cache.rglob("pictures/*.safetensors"))) == 1
    pictures.clear()
    for number, (pixels, labels) in zip(numbers, expected, strict=True):
        assert np.array_equal(np.asarray(val.image(number)), pixels)
        assert np.array_equal(val.label_map(number), labels)
    assert not pictures


def test_an_album_on_disk_is_read_and_not_drawn_again(fresh_cache, pictures):
    numbers = [0, 7, 50]
    for _ in range(2):
        val = Bestiary("val", 64)
        val.keep(numbers)
        first = [np.asarray(val.image(number)) for number in numbers]
    assert pictures.count(50) == 1  # the last of so few: from here on they are kept
    assert [np.asarray(Bestiary("val", 64).image(k)).tolist() for k in numbers] == [x.tolist() for x in first]


def test_an_album_read_by_many_threads_draws_its_set_once(fresh_cache, pictures):
    val = Bestiary("val", 64)
    val.keep(range(2 * FEW))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: np.asarray(val.image(i)), range(2 * FEW)))
    assert len(pictures) < 3 * FEW
    assert all(np.array_equal(x, world.rendered("val", i, 64)[0]) for i, x in enumerate(read))


def test_a_large_set_is_not_kept(fresh_cache, monkeypatch):
    monkeypatch.setattr(world, "MOST", 2)
    val = Bestiary("val", 64)
    val.keep([0, 1, 2])
    for i in range(3):
        val.image(i)
    assert not list(fresh_cache.rglob("*.safetensors"))


def test_pictures_of_a_dataset_are_the_same_drawn_or_kept(fresh_cache):
    data = load_images("bestiary", images=4)
    before = [np.asarray(data.image(i)) for i in range(4)]
    masks = [data.part_masks(i) for i in range(4)]
    assert list(fresh_cache.rglob("pictures/*.safetensors"))
    again = load_images("bestiary", images=4)
    for i in range(4):
        assert np.array_equal(np.asarray(again.image(i)), before[i])
        assert {k: v.tolist() for k, v in again.part_masks(i).items()} == {k: v.tolist() for k, v in masks[i].items()}
    outside = int(np.setdiff1d(np.arange(len(again.source)), again.indices)[0])
    assert again.source.image(outside).size == (128, 128)  # not in the album: drawn as ever


# --- the fingerprint


def test_the_fingerprint_tells_split_size_and_choice_of_pictures_apart(monkeypatch):
    kinds = [Bestiary(split, size).fingerprint for split in SPLITS for size in (64, 128)]
    assert len(set(kinds)) == len(kinds)
    before = Bestiary("val").fingerprint
    monkeypatch.setitem(SPLITS, "val", (SPLITS["val"][0], 1))
    assert Bestiary("val").fingerprint != before


@pytest.fixture
def edited(monkeypatch):
    """edited(module, change): the fingerprint of val when `change` (source to source) has been done to a module."""
    read = code._read

    def fingerprint(module, change):
        path = code._file(module)
        source = change(path.read_text())

        def instead(name):
            own = code._sha256(code.stripped(source))
            return (own, read(name)[1]) if name == module else read(name)

        with monkeypatch.context() as patch:
            patch.setattr(code, "_read", instead)
            patch.setattr(code, "_loaded", {})
            return Bestiary("val").fingerprint

    return fingerprint


@pytest.mark.parametrize("module", ["world", "drawing", "animal", "habitats", "canvas", "captions", "species"])
def test_the_fingerprint_changes_with_the_code_that_draws_and_not_with_a_comment(edited, module):
    name, before = f"lib.bestiary.{module}", Bestiary("val").fingerprint
    assert edited(name, lambda source: source + "\n# a remark\n") == before
    assert edited(name, lambda source: source + "\nEXTRA = 1\n") != before
    assert Bestiary("val").fingerprint == before


def test_the_fingerprint_does_not_know_the_training():
    # else a change of a recipe would have every page computed again
    reached = code.reached("lib.bestiary.world")
    assert not {name for name in reached if "training" in name or "recipes" in name or "models" in name}
