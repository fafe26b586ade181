"""Activations of torchvision networks and of small ones built here: values, order of tokens, and what can't be read."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from lib.dissection import activations
from lib.errors import UserError


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=7)
    nn.init.normal_(network.heads.head.weight)
    return network.eval()


def batches(sizes=(3, 2), side=64):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, side, side, generator=generator) for n in sizes]


def test_a_resnets_layers(resnet):
    found = activations.collect(resnet, ["conv1", "layer4", "fc"], batches())
    with torch.inference_mode():
        x = torch.cat(batches())
        np.testing.assert_allclose(found["fc"], resnet(x), atol=1e-4)
        np.testing.assert_allclose(found["conv1"], resnet.conv1(x).mean((2, 3)), atol=1e-5)
    # the last layer reads the average of layer4
    np.testing.assert_allclose(
        found["layer4"] @ resnet.fc.weight.detach().T + resnet.fc.bias.detach(), found["fc"], atol=1e-4
    )
    assert (found["layer4"] >= 0).all() and found["conv1"].min() < 0  # after and before a ReLU


def test_pools(resnet):
    highest = activations.collect(resnet, ["layer4"], batches(), pool="max")["layer4"]
    maps = activations.maps(resnet, ["layer4"], batches())["layer4"]
    assert maps.shape == (5, 512, 2, 2)
    np.testing.assert_array_equal(highest, maps.amax((2, 3)))
    mean = activations.collect(resnet, ["layer4"], batches(), pool="avg")["layer4"]
    np.testing.assert_allclose(mean, maps.mean((2, 3)), atol=1e-6)


def test_a_vits_class_token_and_patches(vit):
    given = batches(side=32)
    found = activations.collect(vit, ["encoder", "heads"], given)
    head = vit.heads.head
    np.testing.assert_allclose(
        found["encoder"] @ head.weight.detach().T + head.bias.detach(), found["heads"], atol=1e-5
    )
    maps = activations.maps(vit, ["encoder"], given)["encoder"]
    assert maps.shape == (5, 16, 4, 4)
    mean = activations.collect(vit, ["encoder"], given, pool="avg")["encoder"]
    np.testing.assert_allclose(mean, maps.mean((2, 3)), atol=1e-6)
    highest = activations.collect(vit, ["encoder"], given, pool="max")["encoder"]
    np.testing.assert_array_equal(highest, maps.amax((2, 3)))
    with torch.inference_mode():  # row by row, as patches are
        tokens = vit.encoder(torch.cat([vit.class_token.expand(3, -1, -1), vit._process_input(given[0])], 1))
    np.testing.assert_allclose(maps[:3, :, 1, 2], tokens[:, 1 + 6], atol=1e-6)


# --- which axis of a map holds the neurons


@pytest.fixture(scope="module")
def swins():
    """Small Swin transformers of both libraries, random weights: their maps are [b, h, w, c]."""
    torch.manual_seed(0)
    theirs = torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4], num_classes=5)
    other = timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=8, depths=(1, 1),
                              num_heads=(2, 2), num_classes=5)  # fmt: skip
    return {"torchvision": theirs.eval(), "timm": other.eval()}


LAST = {
    "torchvision": {"features.1": 8, "features.1.0.attn": 8, "features.3.0.mlp.0": 64, "norm": 16},
    "timm": {"patch_embed": 8, "layers.0": 8, "norm": 16},
}


@pytest.mark.parametrize("library", LAST)
def test_neurons_in_the_last_axis_are_found(swins, library):
    network, x = swins[library], torch.cat(batches())
    seen, modules = {}, dict(network.named_modules())
    for name in LAST[library]:
        modules[name].register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, o))
    found = activations.collect(network, [*LAST[library]], batches())
    highest = activations.collect(network, [*LAST[library]], batches(), pool="max")
    maps = activations.maps(network, [*LAST[library]], batches())
    with torch.inference_mode():
        network(x)
    for name, width in LAST[library].items():
        assert found[name].shape == (5, width)  # and not a neuron a row of the image
        np.testing.assert_allclose(found[name], seen[name].mean((1, 2)), atol=1e-5)
        np.testing.assert_allclose(highest[name], seen[name].amax((1, 2)), atol=1e-5)
        np.testing.assert_allclose(maps[name], seen[name].permute(0, 3, 1, 2), atol=1e-5)


def test_an_attention_over_windows_has_no_output_for_an_image(swins):
    with pytest.raises(UserError, match="gives .* for 3 images; it has no output for each"):
        activations.collect(swins["timm"], ["layers.0.blocks.0.attn"], batches())


def test_a_swins_head_reads_the_mean_of_its_last_maps(swins):
    found = activations.collect(swins["torchvision"], ["norm", "permute", "head"], batches())
    head = swins["torchvision"].head
    np.testing.assert_allclose(found["norm"], found["permute"], atol=1e-6)  # [b, h, w, c] and [b, c, h, w]
    np.testing.assert_allclose(found["norm"] @ head.weight.detach().T + head.bias.detach(), found["head"], atol=1e-5)


class Cube(nn.Module):
    """Maps of four rows, four columns and four neurons, the last axis the neurons."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        return self.inner(x[:, :1, :4, :4].permute(0, 2, 3, 1).repeat(1, 1, 1, 4))


def test_maps_of_three_equal_axes_are_refused_until_one_is_named():
    given = batches(side=8)
    with pytest.raises(UserError, match=r"inner gives maps \[1, 4, 4, 4\].*set channels to 'first' or 'last'"):
        activations.collect(Cube(), ["inner"], given)
    x = torch.cat(given)[:, 0, :4, :4]
    last = activations.collect(Cube(), ["inner"], given, channels="last")["inner"]
    np.testing.assert_allclose(last, x.mean((1, 2))[:, None].expand(-1, 4), atol=1e-6)
    first = activations.collect(Cube(), ["inner"], given, channels="first")["inner"]
    np.testing.assert_allclose(first, x.mean(2), atol=1e-6)
    with pytest.raises(UserError, match="channels is 'both'; choose one of auto, first, last"):
        activations.collect(Cube(), ["inner"], given, channels="both")


class Tokens(nn.Module):
    """Gives five tokens an image, batch first or second; each token is the image's mean plus its place."""

    def __init__(self, batch_first):
        super().__init__()
        self.batch_first, self.inner = batch_first, nn.Identity()

    def forward(self, x):
        tokens = x.mean((1, 2, 3))[:, None, None] + torch.arange(5.0)[:, None].expand(5, 4)
        return self.inner(tokens if self.batch_first else tokens.transpose(0, 1))


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_order_of_tokens_is_found_even_for_as_many_images_as_tokens(batch_first, size):
    given = batches((size, 2), side=8)
    found = activations.collect(Tokens(batch_first), ["inner"], given)["inner"]
    expected = torch.cat(given).mean((1, 2, 3))[:, None].expand(-1, 4)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    maps = activations.maps(Tokens(batch_first), ["inner"], given)["inner"]
    np.testing.assert_allclose(maps[:, 0].flatten(1), expected[:, :1] + torch.arange(1.0, 5), atol=1e-6)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.relu = nn.MultiheadAttention(4, 2, batch_first=True), nn.ReLU()

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)[:, :6].repeat(1, 1, 2)[:, :, :4]
        x = self.relu(self.attention(x, x, x)[0])
        return self.relu(x)


def test_an_attentions_weights_beside_its_output_are_left_out():
    assert activations.collect(Attention().eval(), ["attention"], batches(side=8))["attention"].shape == (5, 4)


CASES = {
    "unknown": (["layr4"], "no layer 'layr4'. Did you mean 'layer4'"),
    "nothing like it": (["trunk/5"], "no layer 'trunk/5'. It has conv1, bn1"),
    "several times": (["layer1.0.relu"], "layer1.0.relu runs 2 times; choose one that runs once"),
}


@pytest.mark.parametrize("case", CASES)
def test_layers_that_cannot_be_read(resnet, case):
    layers, sentence = CASES[case]
    with pytest.raises(UserError, match=sentence):
        activations.collect(resnet, layers, batches())


def test_a_layer_that_never_runs():
    with pytest.raises(UserError, match="attention.out_proj never ran.*choose the module around it"):
        activations.collect(Attention().eval(), ["attention.out_proj"], batches(side=8))


def test_outputs_that_are_no_neurons():
    class Odd(nn.Module):
        def forward(self, x):
            return {"features": x}

    with pytest.raises(UserError, match="0 gives a dict; neurons can be read from"):
        activations.collect(nn.Sequential(Odd()), ["0"], batches(side=8))
    with pytest.raises(UserError, match=r"0 gives a shape \[1, 3, 2, 4, 8\]"):
        activations.collect(nn.Sequential(nn.Unflatten(2, (2, 4))), ["0"], batches(side=8))


def test_the_hooks_are_gone_afterwards(resnet):
    with pytest.raises(UserError):
        activations.collect(resnet, ["layer1.0.relu", "fc"], batches())
    assert not any(module._forward_hooks for module in resnet.modules())


def test_no_images_and_unknown_pools(resnet, vit):
    with pytest.raises(UserError, match="no images"):
        activations.collect(resnet, ["fc"], [])
    with pytest.raises(UserError, match="pool is 'mean'; choose one of released, avg, max, cls"):
        activations.collect(resnet, ["fc"], batches(), pool="mean")
    with pytest.raises(UserError, match="have no class token"):
        activations.collect(resnet, ["layer4"], batches(), pool="cls")
    with pytest.raises(UserError, match="not a class token and a square grid"):
        activations.maps(Grid(), ["inner"], batches(side=8))


class Grid(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        return self.inner(x.flatten(2).transpose(1, 2)[:, :7])
