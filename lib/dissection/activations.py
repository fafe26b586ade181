"""What the neurons of any module of a network do on images: one number a neuron and image, or a map."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lib.errors import UserError, nearest, one_of

POOLS = ("released", "avg", "max", "cls")
CHANNELS = ("auto", "first", "last")


def layers(network: nn.Module) -> list[str]:
    """Names of the modules that can be hooked, outermost first."""
    return [name for name, _ in network.named_modules() if name]


def check_layers(network: nn.Module, wanted: Iterable[str]) -> None:
    """Raise UserError for a layer that the network does not have, with the nearest names."""
    known = layers(network)
    for name in wanted:
        if name not in known:
            close = nearest(name, known) or f" It has {', '.join(n for n in known if '.' not in n)} and what is inside."
            raise UserError(f"The network has no layer '{name}'.{close}")


def collect(
    network: nn.Module,
    wanted: list[str],
    batches: Iterable[torch.Tensor],
    pool: str = "released",
    channels: str = "auto",
) -> dict[str, torch.Tensor]:
    """Activations of layers: layer -> float32 [images, neurons], on the CPU.

    network: in eval mode. wanted: names as in `named_modules`. batches: what the network takes, [b, 3, S, S], on its
    device. pool: how places become one number: "released" averages maps and takes the class token, the first, of tokens
    [b, t, c], as the released code does; "avg" and "max" pool a map or all tokens but the first; "cls" takes the class
    token and refuses maps. Outputs [b, c] stay as they are. channels: the axis of a map that holds the neurons, "first"
    [b, c, h, w] or "last" [b, h, w, c]; "auto" sees it, or asks. Raises UserError for an unknown layer, pool or axis, a
    layer that does not run once, and an output that is none of these.
    """
    one_of("pool", pool, POOLS)
    return _read(network, wanted, batches, channels, lambda output, name: _pooled(output, pool, name))


def maps(
    network: nn.Module, wanted: list[str], batches: Iterable[torch.Tensor], channels: str = "auto"
) -> dict[str, torch.Tensor]:
    """Activations with their places: layer -> float32 [images, neurons, h, w], on the CPU.

    Tokens are put back into their square grid, the class token left out; outputs [b, c] become maps of one place.
    Arguments and errors as in `collect`; tokens that fill no square are refused.
    """
    return _read(network, wanted, batches, channels, _map)


def _pooled(output: torch.Tensor, pool: str, name: str) -> torch.Tensor:
    if output.dim() == 2:
        return output
    if output.dim() == 4 and pool == "cls":
        raise UserError(f"{name} gives maps {list(output.shape)}, which have no class token; pool by 'avg' or 'max'.")
    if output.dim() == 3 and pool in ("released", "cls"):
        return output[:, 0]
    places = output.flatten(2) if output.dim() == 4 else output[:, 1:].mT
    return places.amax(2) if pool == "max" else places.mean(2)


def _map(output: torch.Tensor, name: str) -> torch.Tensor:
    if output.dim() == 2:
        return output[:, :, None, None]
    if output.dim() == 4:
        return output
    side = round((output.shape[1] - 1) ** 0.5)
    if side**2 != output.shape[1] - 1:
        raise UserError(f"{name} gives {output.shape[1]} tokens, which are not a class token and a square grid.")
    return output[:, 1:].transpose(1, 2).unflatten(2, (side, side))


@torch.inference_mode()
def _read(
    network: nn.Module,
    wanted: list[str],
    batches: Iterable[torch.Tensor],
    channels: str,
    reduce: Callable[[torch.Tensor, str], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Layer -> reduce(output, layer) of all batches; outputs have images first, and maps then neurons."""
    check_layers(network, wanted)
    one_of("channels", channels, CHANNELS)
    order: dict[str, tuple[int, ...]] = {}  # layer -> the axes of its output as `reduce` takes them
    found: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}
    images = count = 0  # of the batch that is running; batches so far

    def watch(name: str) -> Callable:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            output = _tensor(output, name)
            if not images:
                order[name] = _order(network, name, output.shape, channels)
                return
            output = output.permute(order[name])
            if len(output) != images:
                raise UserError(f"{name} gives {list(output.shape)} for {images} images; it has no output for each.")
            found[name].append(reduce(output, name).float().cpu())

        return hook

    handles = [network.get_submodule(name).register_forward_hook(watch(name)) for name in wanted]
    try:
        for batch in batches:
            if not count:
                network(batch[:1])  # with a single image, the axis of length 1 counts images
            images, count = len(batch), count + 1
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise UserError("There are no images to probe the network with.")
    for name, parts in found.items():
        _check_runs(name, len(parts), count)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _check_runs(name: str, runs: int, batches: int) -> None:
    if not runs:
        raise UserError(
            f"The layer {name} never ran: the network has it but calls its parts directly (the output projection of an "
            "attention is such a case); choose the module around it."
        )
    if runs != batches:
        raise UserError(f"The layer {name} runs {runs // batches} times; choose one that runs once.")


def _tensor(output: Any, name: str) -> torch.Tensor:
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], torch.Tensor):
        output = output[0]  # an attention returns its weights beside its output
    if not isinstance(output, torch.Tensor) or output.dim() not in (2, 3, 4):
        what = f"shape {list(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(f"{name} gives a {what}; neurons can be read from [b, c], maps of them, or tokens [b, t, c].")
    return output if output.is_floating_point() else output.float()  # of yes and no, 1 and 0


def _order(network: nn.Module, name: str, shape: torch.Size, channels: str) -> tuple[int, ...]:
    """The axes of an output in the order images, neurons, places (of tokens: images, tokens, neurons). shape: of one
    image's."""
    if len(shape) == 4 and _last(network, name, shape, channels):
        return 0, 3, 1, 2
    if len(shape) == 3 and shape[0] != 1 and shape[1] == 1:
        return 1, 0, 2
    return tuple(range(len(shape)))


def _last(network: nn.Module, name: str, shape: torch.Size, channels: str) -> bool:
    """Whether the last axis of a map [1, ., ., .] holds the neurons: told by the module's type, or, as images are
    square, by the two neighbours of equal length, or by what the network around it says. Raises UserError if nothing
    does."""
    module = network.get_submodule(name)
    if channels != "auto":
        return channels == "last"
    if type(module).__name__.endswith("2d"):  # convolutions, pools, and norms of maps
        return False
    if isinstance(module, (nn.Linear, nn.LayerNorm)):
        return True
    _, a, b, c = shape
    if (a == b) != (b == c):
        return a == b
    parts = name.split(".")
    for around in (network.get_submodule(".".join(parts[:k])) for k in range(len(parts), -1, -1)):
        if hasattr(around, "output_fmt"):  # timm's
            return around.output_fmt == "NHWC"
        if type(around).__module__ == "torchvision.models.swin_transformer":
            return True
    raise UserError(
        f"{name} gives maps {list(shape)}, of which any axis could hold the neurons; set channels to 'first' or 'last'."
    )
