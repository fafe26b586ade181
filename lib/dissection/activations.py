"""What the neurons of any module of a network do on images: one number a neuron and image, or a map."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lib.errors import UserError, nearest

POOLS = ("released", "avg", "max", "cls")


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


@torch.inference_mode()
def collect(
    network: nn.Module, wanted: list[str], batches: Iterable[torch.Tensor], pool: str = "released"
) -> dict[str, torch.Tensor]:
    """Activations of layers: layer -> float32 [images, neurons], on the CPU.

    network: nn.Module in eval mode. wanted: names as in `named_modules`. batches: iterable of what the network takes,
    [b, 3, S, S], on its device. pool: how positions become one number: "released" averages a map [b, c, h, w] and takes
    the class token, the first, of tokens [b, t, c], as the released code does; "avg" and "max" pool a map or all tokens
    but the first; "cls" takes the class token and refuses maps. A layer with outputs [b, c] stays as it is.

    Raises UserError for an unknown layer or pool, a layer that never runs, or an output that is none of these.
    """
    if pool not in POOLS:
        raise UserError(f"pool is '{pool}'; give one of {', '.join(POOLS)}.")
    found: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}

    def keep(name: str, output: torch.Tensor) -> None:
        found[name].append(pooled(output, pool, name).float().cpu())

    _watch(network, wanted, batches, keep)
    return {name: torch.cat(parts) for name, parts in found.items()}


@torch.inference_mode()
def maps(network: nn.Module, wanted: list[str], batches: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Activations with their places: layer -> float32 [images, neurons, h, w], on the CPU.

    Tokens are put back into their square grid, the class token left out; outputs [b, c] become maps of one place.
    Arguments and errors as in `collect`; tokens that fill no square are refused.
    """
    found: dict[str, list[torch.Tensor]] = {name: [] for name in wanted}

    def keep(name: str, output: torch.Tensor) -> None:
        found[name].append(_map(output, name).float().cpu())

    _watch(network, wanted, batches, keep)
    return {name: torch.cat(parts) for name, parts in found.items()}


def pooled(output: torch.Tensor, pool: str, name: str = "this layer") -> torch.Tensor:
    """One number a neuron from a layer's output: [b, c]. Arguments as in `collect`; tokens are [b, t, c]."""
    if output.dim() == 2:
        return output
    if output.dim() == 4 and pool == "cls":
        raise UserError(f"{name} gives maps {list(output.shape)}, which have no class token; pool by 'avg' or 'max'.")
    if output.dim() == 4:
        return output.amax((2, 3)) if pool == "max" else output.mean((2, 3))
    if pool in ("released", "cls"):
        return output[:, 0]
    return output[:, 1:].amax(1) if pool == "max" else output[:, 1:].mean(1)


def _map(output: torch.Tensor, name: str) -> torch.Tensor:
    if output.dim() == 2:
        return output[:, :, None, None]
    if output.dim() == 4:
        return output
    side = round((output.shape[1] - 1) ** 0.5)
    if side**2 != output.shape[1] - 1:
        raise UserError(f"{name} gives {output.shape[1]} tokens, which are not a class token and a square grid.")
    return output[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def _watch(
    network: nn.Module,
    wanted: list[str],
    batches: Iterable[torch.Tensor],
    keep: Callable[[str, torch.Tensor], None],
) -> None:
    """Run the network and hand each wanted layer's output, batch first, to keep(name, output)."""
    check_layers(network, wanted)
    modules, runs = dict(network.named_modules()), dict.fromkeys(wanted, 0)
    first: dict[str, int] = {}  # layer -> the dimension of its output that counts images
    images = batches_run = 0  # of the batch that is running; of all

    def hook(name: str) -> Callable:
        def watch(module: nn.Module, inputs: Any, output: Any) -> None:
            output = _tensor(output, name)
            if not images:
                first[name] = _batch_dimension(output)
                return
            runs[name] += 1
            if output.shape[first[name]] != images:
                raise UserError(
                    f"{name} gives {list(output.shape)} for {images} images; it has no output for each image."
                )
            keep(name, output.transpose(0, 1) if first[name] else output)

        return watch

    handles = [modules[name].register_forward_hook(hook(name)) for name in wanted]
    try:
        for batch in batches:
            if not images:
                network(batch[:1])  # with a single image, the dimension of size 1 counts images
            images, batches_run = len(batch), batches_run + 1
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
    if not batches_run:
        raise UserError("There are no images to probe the network with.")
    for name in wanted:
        if not runs[name]:
            raise UserError(
                f"The layer {name} never ran: the network has it but calls its parts directly (the output projection "
                "of an attention is such a case); choose the module around it."
            )
        if runs[name] != batches_run:
            raise UserError(f"The layer {name} runs {runs[name] // batches_run} times; choose one that runs once.")


def _tensor(output: Any, name: str) -> torch.Tensor:
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], torch.Tensor):
        output = output[0]  # an attention returns its weights beside its output
    if not isinstance(output, torch.Tensor) or output.dim() not in (2, 3, 4):
        what = f"shape {list(output.shape)}" if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(f"{name} gives a {what}; neurons can be read from [b, c], [b, c, h, w] or tokens [b, t, c].")
    return output


def _batch_dimension(output: torch.Tensor) -> int:
    """0, or 1 for tokens [t, b, c]. output: that of a single image."""
    return 1 if output.dim() == 3 and output.shape[0] != 1 and output.shape[1] == 1 else 0
