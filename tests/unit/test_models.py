import json
import shutil
import sys
import time

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lib import models, store
from lib.data import load as load_images
from lib.data import sha256
from lib.errors import UserError
from lib.models import vision, weights
from lib.paths import DATA

MINIATURES = {"ViT": "ViT-B-16:random", "ResNet": "RN50:random", "ConvNeXt": "CNeXt-B1:random"}


@pytest.fixture(scope="module")
def clips():
    return {family: models.load(name) for family, name in MINIATURES.items()}


@pytest.fixture(scope="module")
def images():
    return load_images(images=10)


def one_sentence(error):
    text = str(error.value)
    assert text.count("\n") == 0 and len(text) < 800, text
    return text


# --- names


def test_the_catalogue_joins_with_the_published_table():
    rows = models.catalogue("mutual")
    published = DATA / "published" / "mutual_knowledge_table3.csv"
    if not published.exists():
        pytest.skip("data/published/mutual_knowledge_table3.csv is not there yet")
    table = pd.read_csv(published).set_index("model")
    assert set(rows["title"]) == set(table.index) and len(rows) == 13
    for name, row in rows.iterrows():
        theirs = table.loc[row["title"]]
        assert (row["family"], row["data"]) == (theirs["family"], theirs["data_size"])
        assert row["openclip_model"] in theirs["openclip_model"].split(" | "), name
        assert theirs["openclip_pretrained"].startswith(row["openclip_pretrained"])


def test_every_row_names_an_open_clip_pair_with_its_activation():
    for _, row in models.catalogue("mutual grid").iterrows():
        architecture, config = models.pair(row["openclip_model"], row["openclip_pretrained"])
        assert architecture == row["openclip_model"]
        quick = open_clip.get_model_config(architecture).get("quick_gelu", False)
        assert quick == config.get("quick_gelu", False)


def test_every_pair_of_open_clip_gets_the_activation_it_was_trained_with():
    for architecture, tag in open_clip.list_pretrained():
        found, config = models.pair(architecture, tag)
        quick = open_clip.get_model_config(found).get("quick_gelu", False)
        if architecture != "roberta-ViT-B-32":  # its only configuration has QuickGELU, its tag does not say so
            assert quick == config.get("quick_gelu", False), (architecture, tag)
    assert models.pair("ViT-B-32", "openai")[0] == "ViT-B-32-quickgelu"
    assert models.pair("ViT-B-16", "dfn2b")[0] == "ViT-B-16-quickgelu"
    assert models.pair("ViT-B-16", "datacomp_xl_s13b_b90k")[0] == "ViT-B-16"


def test_the_wrong_activation_is_an_error():
    with pytest.raises(UserError, match="use 'ViT-B-32/laion2b_s34b_b79k'") as error:
        models.choose("ViT-B-32-quickgelu/laion2b_s34b_b79k")
    one_sentence(error)


def test_resolve():
    assert models.resolve("all") == list(models.catalogue("mutual").index)
    assert len(models.resolve("all")) == 13
    assert models.resolve("all", which="boost grid")[-1] == "ViT-B-32-l2b"
    with pytest.raises(UserError, match="no set of models 'grit'; it has baselines"):
        models.resolve("all", which="grit")
    assert models.resolve("RN50, ViT-L-14,RN50") == ["RN50", "ViT-L-14"]
    assert models.resolve("ViT-B-16/laion2b_s34b_b88k", "imagenet") == ["ViT-B-16/laion2b_s34b_b88k"]
    with pytest.raises(UserError, match="No model is given"):
        models.resolve(" , ")


@pytest.mark.parametrize(
    "name, hint",
    [
        ("ViT-L14", "'ViT-L-14'"),
        ("vit-b-32", "'ViT-B-32'"),
        ("ViT-B/16", "'ViT-B-16'"),
        ("RN5O", "'RN50'"),
        ("ViT-B-16/laion2b_s34b_b88", "'laion2b_s34b_b88k'"),
        ("ViT-H-14", "laion2b_s32b_b79k"),
        ("ViT-B-99:random", "'ViT-B-"),
    ],
)
def test_an_unknown_model_gets_the_nearest_names(name, hint):
    with pytest.raises(UserError) as error:
        models.resolve(f"RN50,{name}")
    assert hint in one_sentence(error)


def test_a_row_is_a_miniature_at_the_bestiary_and_the_real_pair_elsewhere():
    here, there = models.choose("ViT-L-14"), models.choose("ViT-L-14", "imagenet")
    assert (here.architecture, here.kind) == ("mini-ViT-L-14", "file")
    assert here.source.endswith("ViT-L-14.safetensors")
    assert (there.architecture, there.kind, there.source) == ("ViT-L-14-quickgelu", "tag", "openai")
    assert models.choose("RN50:random", "imagenet").architecture == "RN50-quickgelu"
    assert models.choose("convnext_base:random").architecture == "convnext_base"
    untrained = models.choose("CNeXt-B2", "imagenet", "random")
    assert (untrained.architecture, untrained.kind) == ("convnext_base_w_320", "random")
    assert models.choose("CNeXt-B2", "imagenet", "small").architecture == "small-convnext"
    assert models.choose("ViT-L-14", "bestiary", "small").architecture == "mini-ViT-L-14"
    assert "RN50-captions" not in models.resolve("all", "imagenet", "comparison")  # nobody has published it


# --- loading


def test_random_weights_carry_a_banner_and_follow_the_seed():
    one, again, other = (models.load("ViT-B-32:random", seed=seed) for seed in (0, 0, 1))
    assert one.banner and "mean nothing" in one.banner
    assert one.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert one.identity == again.identity != other.identity


@pytest.mark.parametrize(
    "name, dataset",
    [
        ("ViT-B-16", "bestiary"),
        ("RN50-supervised", "bestiary"),
        ("ViT-B-32:random", "bestiary"),
        ("torchvision/resnet18:random", "imagenet"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_is_identified_without_being_built(name, dataset, precision, monkeypatch):
    loaded = models.load(name, dataset, seed=3, precision=precision).identity
    monkeypatch.setattr(open_clip, "create_model", None)
    found = models.identify(name, dataset, seed=3, precision=precision)
    assert found == loaded and json.loads(json.dumps(found)) == found


def test_an_identity_holds_what_decides_and_names_what_differs():
    one = models.identify("ViT-B-16", precision="fp32")

    def differs(*args, **kwargs):
        other = models.identify(*args, **{"precision": "fp32", **kwargs})
        return {k for k in one.keys() | other.keys() if one.get(k) != other.get(k)}

    assert differs("ViT-B-16") == set() == differs("ViT-B-16", seed=1)  # a seed is of random weights
    assert differs("ViT-B-16", precision="bf16") == {"precision"}
    assert {"name", "weights", "row"} <= differs("ViT-B-16-l2b")
    assert one["weights"] == sha256(weights.MINIATURE / "zoo" / "ViT-B-16.safetensors")


def test_precision_is_chosen_and_keeps_its_own_embeddings(images):
    full, half = (models.load("ViT-B-32", precision=p) for p in ("fp32", "bf16"))
    assert (full.precision, half.precision) == ("fp32", "bf16")
    one, other = full.embed_images(images), half.embed_images(images)
    assert one.dtype == other.dtype == torch.float32 and not torch.equal(one, other)
    torch.testing.assert_close(one, other, atol=0.05, rtol=0)
    for function in (models.load, models.identify):
        with pytest.raises(UserError, match="precision is 'fp16'; give one of auto, fp32, bf16") as error:
            function("ViT-B-32", precision="fp16")
        one_sentence(error)


def test_nothing_is_opened_by_name_inside_a_measurement():
    with store.measuring("observe.table3"):
        for what in (lambda: models.load("ViT-B-32"), load_images):
            with pytest.raises(UserError, match="observe.table3 opened the .* by itself"):
                what()


def test_loading_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models.load("ViT-B-32:random")
    assert torch.equal(torch.rand(3), expected)


def test_a_local_checkpoint(tmp_path, clips, images):
    clip = clips["ViT"]
    state = {k: v.contiguous() for k, v in clip.model.state_dict().items()}
    save_file(state, tmp_path / "mine.safetensors")
    torch.save({"state_dict": state}, tmp_path / "mine.pt")
    pixels = clip.pixels(images)
    for file in ("mine.safetensors", "mine.pt"):
        loaded = models.load(f"ViT-B-16:{tmp_path / file}")
        assert loaded.banner is None and loaded.title.startswith("ViT-B/16 (")
        assert torch.equal(loaded.embed_pixels(pixels), clip.embed_pixels(pixels))
        assert loaded.weights_sha256 == sha256(tmp_path / file)


def cut_short(path, clip):
    save_file({k: v.contiguous() for k, v in clip.model.state_dict().items()}, path)
    path.write_bytes(path.read_bytes()[:-1000])


def cut_short_torch_file(path, clip):
    torch.save(clip.model.state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_model(path, clip):
    save_file({"layer.weight": torch.zeros(3, 3)}, path)


def a_pickled_object(path, clip):
    torch.save({"state_dict": Image.new("RGB", (2, 2))}, path)


def text(path, clip):
    path.write_text("<html>not found</html>")


@pytest.mark.parametrize(
    "damage, suffix",
    [
        (cut_short, ".safetensors"),
        (cut_short_torch_file, ".pt"),
        (of_another_model, ".safetensors"),
        (a_pickled_object, ".pt"),
        (text, ".safetensors"),
        (text, ".pt"),
    ],
)
def test_a_checkpoint_that_is_cut_short_or_foreign(tmp_path, clips, damage, suffix):
    path = tmp_path / f"mine{suffix}"
    damage(path, clips["ViT"])
    with pytest.raises(UserError, match="not a whole checkpoint of mini-ViT-B-16") as error:
        models.load(f"ViT-B-16:{path}")
    assert str(path) in one_sentence(error)


def test_a_checkpoint_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="There is no checkpoint") as error:
        models.load(f"ViT-B-16:{tmp_path / 'mine.pt'}")
    one_sentence(error)
    shutil.copytree(weights.MINIATURE / "configs", tmp_path / "configs")
    monkeypatch.setattr(sys.modules["lib.models.catalogue"], "MINIATURE", tmp_path)
    monkeypatch.setattr(weights, "MINIATURE", tmp_path)
    with pytest.raises(UserError, match=r"train it: python scripts/train_zoo.py"):
        models.load("ViT-B-16")


def test_weights_that_cannot_be_downloaded(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("COMPANION_DOWNLOADS", str(tmp_path))
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.perf_counter()
    with pytest.raises(UserError, match="could not be downloaded") as error:
        models.load("ViT-B-32", "imagenet")
    assert time.perf_counter() - started < 8  # it does not try again and again
    target = tmp_path / "weights" / "ViT-B-32-quickgelu--openai.safetensors"
    assert str(target) in one_sentence(error)
    target.parent.mkdir()
    target.write_text("a file put there by hand is used, and this one is damaged")
    with pytest.raises(UserError, match="not a whole checkpoint of ViT-B-32-quickgelu"):
        models.load("ViT-B-32", "imagenet")


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "gpu0"])
def test_no_such_device(device):
    with pytest.raises(UserError, match=f"no device '{device}'") as error:
        models.load("ViT-B-16:random", device=device)
    assert "cpu" in one_sentence(error)


# --- embeddings


@pytest.mark.parametrize("family", MINIATURES)
def test_embeddings(clips, images, family):
    clip = clips[family]
    assert clip.family == family and clip.precision == ("bf16" if torch.cuda.is_available() else "fp32")
    pixels = clip.pixels(images)
    assert pixels.shape == (10, 3, clip.image_size, clip.image_size) and pixels.dtype == torch.uint8
    embeddings = clip.embed_images(images)
    assert embeddings.shape == (10, clip.width) and embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(10))
    texts = clip.embed_texts(["a photo of a dumu.", "a long tail", "a long tail"])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    assert torch.equal(texts[1], texts[2]) and not torch.equal(texts[0], texts[1])
    assert not embeddings.is_inference() and not texts.is_inference()


@pytest.mark.parametrize("family", MINIATURES)
def test_the_batch_size_does_not_matter(clips, images, family):
    clip = clips[family]
    pixels = clip.pixels(images)
    one_by_one, at_once = clip.embed_pixels(pixels, batch_size=1), clip.embed_pixels(pixels)
    torch.testing.assert_close(one_by_one, at_once, atol=1e-5, rtol=1e-4)
    streamed = clip.embed_images([images.image(i) for i in range(10)], batch_size=3)
    torch.testing.assert_close(streamed, at_once, atol=1e-5, rtol=1e-4)
    words = [f"{n} teeth" for n in range(9)]
    few, many = clip.embed_texts(words, batch_size=2, cached=False), clip.embed_texts(words, cached=False)
    torch.testing.assert_close(few, many, atol=1e-5, rtol=1e-4)
    (few, grid), (many, _) = (clip.patch_features(pixels, batch_size=b) for b in (2, 64))
    torch.testing.assert_close(few, many, atol=1e-4, rtol=1e-3)
    assert few.shape[1] == grid[0] * grid[1]


def test_each_text_keeps_its_place_whatever_its_length(clips):
    words = ["a long tail with dark rings and a tuft", "teeth", "a photo of a dumu.", "a tail", "two long ears"]
    alone = torch.cat([clips["ViT"].embed_texts([text], cached=False) for text in words])
    found = clips["ViT"].embed_texts(words, batch_size=2, cached=False)
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)


def test_images_keep_their_order_across_batches(clips):
    clip = clips["ViT"]
    shades = [Image.new("RGB", (40, 30), (k, k, k)) for k in range(50)]
    batches = list(clip._pixel_batches(shades, 7, "squash"))
    assert [len(b) for b in batches] == [7] * 7 + [1]
    assert torch.cat(batches)[:, 0, 0, 0].tolist() == list(range(50))
    assert len(clip.pixels(iter(shades))) == 50


def test_nothing_in_nothing_out(clips):
    clip = clips["ViT"]
    assert clip.embed_pixels(clip.pixels([])).shape == (0, clip.width) == clip.embed_texts([]).shape


def test_embeddings_of_a_dataset_are_computed_once(clips, images, fresh_cache, monkeypatch):
    clip = clips["ViT"]
    first, words = clip.embed_images(images), clip.embed_texts(["a beak"])
    monkeypatch.setattr(clip, "_infer", None)
    monkeypatch.setattr(clip, "_encode_tokens", None)
    assert torch.equal(clip.embed_images(images), first)
    assert torch.equal(clip.embed_texts(["a beak"]), words)
    again = models.load("ViT-B-16:random")  # as another process would
    monkeypatch.setattr(again, "_infer", None)
    assert torch.equal(again.embed_images(images), first)
    for other in ({"images": images.subset([0])}, {"images": images, "resize": "crop"}):
        with pytest.raises(TypeError):
            clip.embed_images(**other)


def test_an_interrupted_run_goes_on_from_the_last_chunk(clips, fresh_cache, monkeypatch):
    clip, data = clips["ViT"], load_images(images=100)
    whole, infer, seen = clip.embed_images(list(map(data.image, range(100)))), clip._infer, []
    chunks = type(data).chunks
    monkeypatch.setattr(type(data), "chunks", lambda self: chunks(self, 10))

    def counted(function, pixels):
        seen.append(len(pixels))
        if sum(seen) > 40:
            raise KeyboardInterrupt
        return infer(function, pixels)

    monkeypatch.setattr(clip, "_infer", counted)
    with pytest.raises(KeyboardInterrupt):
        clip.embed_images(data)
    done = sum(seen[:-1])
    monkeypatch.setattr(clip, "_infer", lambda function, pixels: seen.append(len(pixels)) or infer(function, pixels))
    seen.clear()
    torch.testing.assert_close(clip.embed_images(data), whole, atol=1e-5, rtol=1e-4)
    assert done > 20 and sum(seen) == 100 - done


def test_pixels_of_the_wrong_kind(clips):
    clip = clips["ViT"]
    for wrong in (
        torch.zeros(1, 3, clip.image_size, clip.image_size),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
    ):
        with pytest.raises(UserError, match="make them with clip.pixels"):
            clip.embed_pixels(wrong)
    with pytest.raises(UserError, match="give 'squash', 'crop' or"):
        clip.pixels([Image.new("RGB", (4, 4))], resize="stretch")


# --- patch features


@pytest.mark.parametrize(
    "family, feature, layer, message",
    [
        ("ViT", "facets", None, "no patch features 'facets'; it has tokens, keys"),
        ("ConvNeXt", "keys", None, "no patch features 'keys'; it has tokens"),
        ("ViT", "tokens", 99, "no layer 99; it has"),
        ("ResNet", "tokens", -6, "no layer -6; it has 5"),
        ("ResNet", "keys", -2, "only at its last layer"),
    ],
)
def test_features_and_layers_that_a_family_lacks(clips, images, family, feature, layer, message):
    with pytest.raises(UserError, match=message) as error:
        clips[family].patch_features(clips[family].pixels(images), feature, layer)
    one_sentence(error)


def test_layers_count_from_both_ends(clips, images):
    for family, count in (
        ("ViT", len(clips["ViT"].model.visual.transformer.resblocks)),
        ("ResNet", 5),
        ("ConvNeXt", 4),
    ):
        clip = clips[family]
        pixels = clip.pixels(images)[:2]
        for layer in range(count):
            forward, grid = clip.patch_features(pixels, "tokens", layer)
            backward, _ = clip.patch_features(pixels, "tokens", layer - count)
            assert torch.equal(forward, backward) and forward.shape[1] == np.prod(grid)
        assert torch.equal(forward, clip.patch_features(pixels)[0])


# --- the small vocabulary


def test_the_miniature_vocabulary_fits_its_text_towers(clips):
    for clip in clips.values():
        tokenizer = clip.tokenizer
        assert "" not in tokenizer.encoder  # a newline at the end of the file would make it a token
        assert tokenizer.vocab_size == max(tokenizer.encoder.values()) + 1  # no merge twice
        assert tokenizer.vocab_size == open_clip.get_model_config(clip.architecture)["text_cfg"]["vocab_size"]
        # the text embedding is read at the highest token id, which must be the end of the text
        assert tokenizer.eot_token_id == tokenizer.vocab_size - 1
        assert tokenizer(["a"]).shape == (1, clip.model.context_length)


def test_the_bestiarys_words_are_not_cut_off(clips):
    data = load_images(images=1)
    texts = [t.format(c) for t in data.templates for c in data.classes]
    texts += [data.descriptor_prompt.format(d) for d in data.bank]
    for clip in clips.values():
        longest = max(len(clip.tokenizer.encode(text)) for text in texts)
        assert longest + 2 <= clip.model.context_length


def test_more_images_than_a_cpu_takes_at_once_are_embedded_as_any_others():
    clip = models.load("ViT-B-32")
    pixels = torch.randint(0, 256, (vision.CPU_BATCH + 3, 3, clip.image_size, clip.image_size), dtype=torch.uint8)
    alone = torch.cat([clip.embed_pixels(pixels[i : i + 1]) for i in (0, vision.CPU_BATCH - 1, vision.CPU_BATCH + 2)])
    together = clip.embed_pixels(pixels)
    assert len(together) == len(pixels)
    assert torch.allclose(together[[0, vision.CPU_BATCH - 1, -1]], alone, atol=1e-5)
    features, _ = clip.patch_features(pixels)
    assert len(features) == len(pixels)
