"""The protocol of Table 2: each step by hand on three classes, and the whole on made-up embeddings."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lib import data, models
from lib.errors import UserError
from lib.mutual import boost, observe_boost
from lib.mutual.options import BoostOptions
from lib.show import published

# three classes with one descriptor each; p, q and r are found in the images of A, B and C
BANK = ["a", "b", "c", "p", "q", "r"]
DESCRIPTORS = [["a", "p"], ["b", "q"], ["c", "r"]]
X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
SENTENCES = {  # C's own descriptor looks like a B; what is found in A's images looks like a C when said of C
    "A|a": X, "B|b": Y, "C|c": (0.6, 0.8, 0.0), "A|r": X, "B|p": Y, "C|p": Z, "C|q": Y,
}  # fmt: skip
NAMES = {"A": X, "B": (0.8, 0.6, 0.0), "C": (0.9, 0.0, 0.19**0.5)}


class Toy:
    """A model whose three images are the axes, and whose texts are in the table above."""

    identity = decides = {"architecture": "toy"}
    device, name = torch.device("cpu"), "toy"

    def embed_images(self, images):
        return torch.eye(3)[torch.as_tensor(images.labels)]

    def embed_texts(self, texts, cached=True):
        table = {**SENTENCES, **NAMES}
        return torch.stack([torch.tensor(table.get(text, (-1.0, 0.0, 0.0))) for text in texts])


class Door:
    """The door of a record, with the toy behind it; training images only where `train` is given."""

    seed, model = 0, Toy()

    def __init__(self, images, train=None):
        self.images, self.train = images, train

    def open_images(self, split, images=0):
        if self.train is None:
            raise UserError("'toy' has no training images")
        return self.train


@pytest.fixture
def toy(monkeypatch, fresh_cache):
    images = data.ImageDataset(
        name="toy",
        split="val",
        classes=["A", "B", "C"],
        labels=np.array([0, 1, 2]),
        descriptors=[["a"], ["b"], ["c"]],
        templates=("{}",),
        descriptor_prompt="{}",
        source=None,
        indices=np.arange(3),
    )
    monkeypatch.setattr(data.ImageDataset, "bank", BANK)
    monkeypatch.setattr(boost, "PROMPTS", dict.fromkeys(boost.PROMPTS, "{name}|{descriptor}"))
    named = SimpleNamespace(vision_ids=torch.tensor([[3, -1], [4, -1], [5, -1]]))
    found = SimpleNamespace(named={"kmeans": named}, predicted=np.array([0, 1, 1]))
    monkeypatch.setattr(observe_boost.explain, "explain", lambda *args, **kwargs: found)
    return images


def by_variant(seen, value="top1"):
    return {name: part[value].tolist() for name, part in seen.table.groupby("variant")}


def test_the_protocol_by_hand_on_three_classes(toy):
    seen = observe_boost.table2(Door(toy), BoostOptions(nearest=1, keep=1))
    top1, gain = by_variant(seen), by_variant(seen, "gain")
    # base: A (1, 0), B (0, 1); C's image scores 0 everywhere and goes to the first class
    assert top1["base"] == [100, 100, 0]
    # nearest names: A to C (0.9), B to A (0.8), C to A (0.9); C is given p, whose sentence is its image
    assert top1["published"] == [100, 100, 100]
    assert gain["published"] == [0, 0, 100]
    assert seen.notes["added"]["published"] == 1
    assert seen.table["class"].tolist()[:3] == ["A", "B", "C"]


def test_each_sentence_is_tried_beside_the_names_alone(toy):
    found = observe_boost.prompts(Door(toy), BoostOptions()).groupby("prompt")["top1"].agg(list)
    assert set(found.index) == {*boost.PROMPTS, "class names alone"}
    assert found["class names alone"] == [100, 100, 100]  # 1, 0.6 and 0.44 are the highest
    assert found["paper"] == [100, 100, 0]


def test_neighbours_by_hand():
    names = torch.tensor(list(NAMES.values()))
    assert boost.neighbours(names, 1).tolist() == [[2], [0], [0]]
    assert boost.neighbours(names, 2).tolist() == [[2, 1], [0, 2], [0, 1]]


def test_own_descriptors_and_a_describer_who_forgets():
    every = boost.own_sets(BANK, DESCRIPTORS)
    assert every == [[0, 3], [1, 4], [2, 5]]
    half = boost.own_sets(BANK, DESCRIPTORS, share=0.5)
    assert all(len(kept) == 1 and set(kept) < set(own) for kept, own in zip(half, every, strict=True))
    assert all(boost.own_sets(BANK, DESCRIPTORS, share=0.01))  # at least one is left


def test_an_images_score_is_the_mean_similarity_to_a_class_sentences():
    rng = np.random.default_rng(0)
    embeddings = {t: F.normalize(torch.tensor(rng.normal(size=5), dtype=torch.float32), dim=0) for t in "abcde"}
    texts, images = (
        [["a", "b", "c"], ["d"], ["e", "a"]],
        F.normalize(torch.tensor(rng.normal(size=(4, 5))).float(), dim=1),
    )
    by_loop = [[np.mean([float(image @ embeddings[t]) for t in of]) for of in texts] for image in images]
    np.testing.assert_allclose(images @ boost.classifier(texts, embeddings).T, by_loop, atol=1e-6)
    scaled = boost.classifier(texts, embeddings, "embeddings")
    np.testing.assert_allclose(scaled.norm(dim=1), 1, atol=1e-6)
    np.testing.assert_allclose(scaled[1], embeddings["d"], atol=1e-6)


def test_what_was_found_by_class_most_frequent_first():
    ids = np.array([[4, 7, -1], [7, 2, -1], [7, 4, 9], [5, -1, -1]])
    assert boost.found_sets(ids, [0, 0, 0, 2], 3, keep=0) == [[7, 4, 2, 9], [], [5]]
    assert boost.found_sets(ids, [0, 0, 0, 2], 3, keep=2) == [[7, 4], [], [5]]
    assert boost.found_sets(ids, [-1, 0, -1, 2], 3, keep=0) == [[2, 7], [], [5]]  # -1 counts for no class


def test_sets_grow_by_what_they_lack():
    assert boost.enlarged([[0, 3], [1]], [[3, 5], [0]], [[1, 0], [0, 1]]) == [[0, 3, 5], [1, 3, 5, 0]]


def test_random_sources_are_neither_the_class_nor_its_neighbours():
    nearest = np.array([[1, 2], [0, 2], [3, 4], [4, 2], [3, 2]])
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = boost.random_sources(nearest, rng)
        assert drawn.shape == nearest.shape
        for k, sources in enumerate(drawn):
            assert len(set(sources)) == 2 and not set(sources) & {k, *nearest[k]}


def test_random_additions_are_as_many_and_new():
    own, larger = [[0, 1], [2]], [[0, 1, 5, 6], [2]]
    grown = boost.random_additions(own, larger, 10, np.random.default_rng(0))
    assert grown[1] == [2] and len(set(grown[0])) == 4 and grown[0][:2] == [0, 1]


def test_gains_of_one_class_at_a_time_are_those_of_trying_it():
    rng = np.random.default_rng(1)
    base, boosted = (torch.tensor(rng.normal(size=(60, 5))) for _ in range(2))
    labels = rng.integers(0, 5, 60)
    before = (base.argmax(1).numpy() == labels).sum()
    tried = []
    for k in range(5):
        mixed = base.clone()
        mixed[:, k] = boosted[:, k]
        tried.append((mixed.argmax(1).numpy() == labels).sum() - before)
    assert boost.gains(base, boosted, labels).tolist() == tried


def test_halves_split_every_class_evenly():
    labels = np.repeat([0, 1, 2], [8, 5, 1])
    half = boost.halves(labels, seed=3)
    counts = [np.bincount(half[labels == k], minlength=2).tolist() for k in range(3)]
    assert counts[0] == [4, 4] and sorted(counts[1]) == [2, 3] and counts[2] == [1, 0]


def test_a_half_is_judged_by_what_the_other_half_showed():
    labels, half = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    base = torch.tensor([[0.0, 1.0]] * 4)  # everything goes to class 1
    helped = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0], [2.0, 1.0]])  # helps in half 0, harms in half 1
    assert boost.tuned(base, helped, labels).tolist() == helped.tolist()  # one gained and one lost: kept
    # class 0 is boosted in half 1, since it helps in half 0, and not in half 0, since it harms in half 1
    assert boost.tuned_elsewhere(base, helped, labels, half)[:, 0].tolist() == [0, 0, 0, 2]


def test_a_folder_without_training_images_goes_without_their_variants(toy):
    seen = observe_boost.table2(Door(toy), BoostOptions(nearest=1, keep=1))
    assert "toy" in seen.notes["train"]
    assert set(seen.table["variant"]) == {"base", *observe_boost.VARIANTS} - {"train", "label_free"}


def test_training_images_give_the_variants_without_the_evaluated_ones(toy):
    seen = observe_boost.table2(Door(toy, train=toy), BoostOptions(nearest=1, keep=1))
    gain = by_variant(seen, "gain")
    assert set(gain) == {"base", *observe_boost.VARIANTS} and gain["train"] == [0, 0, 100]
    # by prediction C's images count for B, so that C is still given p from A
    assert gain["label_free"] == [0, 0, 100]


def test_the_sweep_has_every_number(toy):
    found = observe_boost.kept(Door(toy), BoostOptions(nearest=1)).table
    assert set(found["variant"]) == {"published", "random_classes"} and set(found["keep"]) == set(observe_boost.KEPT)
    one = found[(found["variant"] == "published") & (found["keep"] == 1)]
    assert one["gain"].tolist() == [0, 0, 100]


def test_what_is_handed_on_of_all_finds_is_what_the_table_has(toy):
    """The sweep's line for `keep` is the table's for the same number."""
    options = BoostOptions(nearest=1, keep=2)
    swept = observe_boost.kept(Door(toy, train=toy), options).table
    for name in ("published", "label_free"):
        line = swept[(swept["variant"] == name) & (swept["keep"] == 2)]["gain"].tolist()
        assert line == by_variant(observe_boost.table2(Door(toy, train=toy), options), "gain")[name]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: boost.prompt_of("x", "waffle"), "prompt is 'waffle'; choose one of paper"),
        (
            lambda: boost.classifier([["a"]], {"a": torch.ones(2)}, "max"),
            "aggregate is 'max'; choose one of similarities, embeddings",
        ),
        (lambda: boost.neighbours(torch.eye(2), 2), "2 neighbours were asked for among 2 classes"),
        (lambda: BoostOptions(prompt="waffle"), "prompt is 'waffle'; choose one of auto, paper"),
        (lambda: BoostOptions(aggregate="max"), "aggregate is 'max'; choose one of similarities, embeddings"),
        (lambda: BoostOptions(parts_by="both"), "parts_by is 'both'; choose one of pca, kmeans"),
        (lambda: BoostOptions(keep=-1), "keep is -1; give a whole number from 0 on"),
        (lambda: BoostOptions(nearest=0), "nearest is 0; give a whole number from 1 on"),
        (lambda: BoostOptions(train_images=0), "train_images is 0"),
        (lambda: BoostOptions(share=1.5), "share is 1.5; give a positive number, at most 1"),
        (lambda: BoostOptions(share=0), "share is 0; give a positive number"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


def test_the_miniature_gets_a_sentence_that_its_text_tower_can_read():
    clip, images = models.load("ViT-B-32"), data.load("bestiary")
    longest = max(images.bank, key=len)
    sentence = boost.prompt_of("bestiary").format(name="xanfer", descriptor=longest)
    assert int((clip.tokenizer([sentence])[0] > 0).sum()) < clip.tokenizer.context_length
    cut = boost.PROMPTS["paper"].format(name="xanfer", descriptor=longest)
    assert int((clip.tokenizer([cut])[0] > 0).sum()) == clip.tokenizer.context_length


def test_published_gains_are_the_differences_of_the_published_accuracies():
    theirs = published.load("mutual_knowledge_table2")
    assert len(theirs) == 8
    assert np.allclose(theirs["ours_top1"] - theirs["base_top1"], theirs["delta_published"])
