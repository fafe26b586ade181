"""Our embeddings, classifiers and patch features against open_clip's own, on real photographs."""

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from lib import models
from lib.data import load as load_images
from lib.models import heads

# architecture -> (grid, width of the patch features) at 224 px
REAL = {"ViT-B-32": ((7, 7), 768), "RN50": ((7, 7), 2048), "convnext_base": ((7, 7), 1024)}
# the miniatures are checked in full: every layer and feature
SMALL = [
    "ViT-B-16:random",
    "ViT-L-14-336:random",
    "RN50:random",
    "RN50x16:random",
    "CNeXt-B1:random",
    "CNeXt-B2:random",
]
TEMPLATES = ("a photo of a {}.", "art of the {}.")


@pytest.fixture(scope="module")
def photos(photographs):
    return load_images(photographs, images=3)


@pytest.fixture(scope="module")
def load_once(photographs):
    kept = {}

    def load(name, dataset):
        if (name, dataset) not in kept:
            kept[name, dataset] = models.load(name, dataset)
        return kept[name, dataset]

    return load


@pytest.fixture(params=[*(pytest.param(name, marks=pytest.mark.slow) for name in REAL), *SMALL])
def clip(request, load_once, photographs):
    """Each architecture once: the real ones with random weights, then the miniatures with random weights."""
    if request.param in REAL:
        return load_once(f"{request.param}:random", str(photographs))
    return load_once(request.param, "bestiary")


@pytest.fixture(params=SMALL)
def small(request, load_once):
    return load_once(request.param, "bestiary")


def normalised(clip, pixels):
    mean, std = torch.tensor(open_clip.OPENAI_DATASET_MEAN), torch.tensor(open_clip.OPENAI_DATASET_STD)
    return (pixels / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def seen_by(module, run):
    """The positional inputs and the output of a module while `run` runs."""
    seen = []
    hook = module.register_forward_hook(lambda _, inputs, output: seen.extend([inputs, output]))
    with torch.no_grad():
        run()
    hook.remove()
    return seen


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ("squash", dict(interpolation="bilinear", resize_mode="squash")),
        ("crop", dict(interpolation="bicubic")),
    ],
)
def test_pixels_are_those_of_open_clips_preprocessing(photos, load_once, ours, theirs):
    clip = load_once("ViT-B-16:random", "bestiary")
    preprocess = image_transform_v2(PreprocessCfg(size=clip.image_size, **theirs), is_train=False)
    expected = torch.stack([preprocess(photos.image(i)) for i in range(len(photos))])
    torch.testing.assert_close(normalised(clip, clip.pixels(photos, resize=ours)), expected, atol=1e-6, rtol=0)


def test_image_embeddings_are_encode_image(clip, photos):
    pixels = clip.pixels(photos)
    with torch.no_grad():
        expected = clip.model.encode_image(normalised(clip, pixels), normalize=True)
    ours = clip.embed_images(photos)
    torch.testing.assert_close(ours, expected, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(len(photos)))
    torch.testing.assert_close(clip.embed_pixels(pixels[:2], batch_size=1), ours[:2], atol=1e-5, rtol=1e-4)
    assert clip.banner


def test_the_classifier_is_build_zero_shot_classifier(clip, photos):
    expected = open_clip.build_zero_shot_classifier(clip.model, clip.tokenizer, photos.classes[:3], TEMPLATES)
    ours = heads.classifier(clip, photos.classes[:3], TEMPLATES)
    torch.testing.assert_close(ours, expected.T, atol=2e-6, rtol=1e-4)
    with torch.no_grad():
        texts = clip.model.encode_text(clip.tokenizer(photos.classes[:3]), normalize=True)
    torch.testing.assert_close(clip.embed_texts(photos.classes[:3]), texts, atol=2e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", REAL)
def test_grids_of_real_architectures(load_once, photos, photographs, architecture):
    clip = load_once(f"{architecture}:random", str(photographs))
    pixels = clip.pixels(photos)[:2]
    grid, width = REAL[architecture]
    for feature in models.FEATURES[clip.family][:2]:
        features, found = clip.patch_features(pixels, feature)
        assert found == grid and features.shape == (2, grid[0] * grid[1], width)
        assert features.dtype == torch.float32 and features.isfinite().all() and not features.is_inference()


def test_the_last_features_lead_to_the_embedding(clip, photos):
    pixels = clip.pixels(photos)[:1]
    features, (h, w) = clip.patch_features(pixels)
    visual = clip.model.visual
    x = normalised(clip, pixels)
    with torch.no_grad():
        expected = clip.model.encode_image(x)
        if clip.family == "ViT":  # all tokens, the class token with them, come out of the last block
            _, tokens = seen_by(visual.transformer.resblocks[-1], lambda: visual(x))
            torch.testing.assert_close(features, tokens[:, 1:], atol=1e-4, rtol=1e-4)
            found = visual.ln_post(tokens)[:, 0] @ visual.proj
        elif clip.family == "ResNet":
            found = visual.attnpool(features.unflatten(1, (h, w)).permute(0, 3, 1, 2))
        else:
            found = visual.head(visual.trunk.forward_head(features.unflatten(1, (h, w)).permute(0, 3, 1, 2)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def stages(clip):
    visual = clip.model.visual
    if clip.family == "ViT":
        return visual.transformer.resblocks
    return (
        visual.trunk.stages
        if clip.family == "ConvNeXt"
        else [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
    )


def test_every_layer_is_its_modules_output(small, photos):
    pixels = small.pixels(photos)[:2]
    modules = list(stages(small))
    for layer in (-1, -2, -len(modules)):
        features, grid = small.patch_features(pixels, "tokens", layer)
        _, output = seen_by(modules[layer], lambda: small.model.visual(normalised(small, pixels)))
        expected = output[:, 1:] if small.family == "ViT" else output.flatten(2).mT
        torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
        assert grid[0] * grid[1] == expected.shape[1]


def test_the_projections_are_those_of_the_attention(small, photos):
    if small.family == "ConvNeXt":
        pytest.skip("ConvNeXt has no attention")
    pixels = small.pixels(photos)[:2]
    visual = small.model.visual
    x = normalised(small, pixels)
    if small.family == "ViT":
        attention = visual.transformer.resblocks[-1].attn
        (tokens, *_), _ = seen_by(attention, lambda: visual(x))
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    else:
        pool = visual.attnpool
        (last, *_), _ = seen_by(pool, lambda: visual(x))
        tokens = torch.cat([last.mean((2, 3))[:, None], last.flatten(2).mT], dim=1) + pool.positional_embedding
        weights, biases = zip(*((p.weight, p.bias) for p in (pool.q_proj, pool.k_proj, pool.v_proj)), strict=True)
    for name, weight, bias in zip(("queries", "keys", "values"), weights, biases, strict=True):
        expected = F.linear(tokens, weight, bias)[:, 1:]
        torch.testing.assert_close(small.patch_features(pixels, name)[0], expected, atol=1e-4, rtol=1e-4)
    bare = F.linear(tokens, weights[1])[:, 1:]
    torch.testing.assert_close(small.patch_features(pixels, "keys_no_bias")[0], bare, atol=1e-4, rtol=1e-4)


def test_queries_and_keys_reproduce_the_attention_map(photos, load_once):
    clip = load_once("ViT-B-16:random", "bestiary")
    pixels = clip.pixels(photos)[:2]
    attention = clip.model.visual.transformer.resblocks[-1].attn
    (x, *_), _ = seen_by(attention, lambda: clip.model.visual(normalised(clip, pixels)))
    with torch.no_grad():
        _, expected = attention(x, x, x, need_weights=True, average_attn_weights=False)
    heads = attention.num_heads
    queries, keys = (
        clip.patch_features(pixels, name)[0].unflatten(2, (heads, -1)).transpose(1, 2) for name in ("queries", "keys")
    )
    ours = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1)
    patches = expected[:, :, 1:, 1:]
    torch.testing.assert_close(ours, patches / patches.sum(-1, keepdim=True), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("row", ["ViT-B-32", "RN50", "CNeXt-B1"])
def test_a_half_precision_file_loads_as_open_clip_loads_it(tmp_path, photos, load_once, row):
    random = load_once(f"{row}:random", "bestiary")
    path = tmp_path / f"{row}.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in random.model.state_dict().items()}, path)
    model, _, _ = open_clip.create_model_and_transforms(f"mini-{row}", pretrained=str(path))
    ours = models.load(f"{row}:{path}")
    theirs = model.state_dict()
    assert all(torch.equal(theirs[k], v) for k, v in ours.model.state_dict().items())
    with torch.no_grad():
        expected = model.eval().encode_image(normalised(ours, ours.pixels(photos)), normalize=True)
    torch.testing.assert_close(ours.embed_images(photos), expected, atol=2e-6, rtol=1e-4)
    assert ours.logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_a_grey_photograph_is_read_as_rgb(load_once, photos):
    clip = load_once("ViT-B-16:random", "bestiary")
    grey = photos.image(0).convert("L")
    assert torch.equal(clip.pixels([grey]), clip.pixels([grey.convert("RGB")]))
    assert isinstance(grey, Image.Image)
