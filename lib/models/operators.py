"""Makes `import torchvision` (and so open_clip and timm) work where torch is a CPU-only build. Import this before them.

There the compiled part of torchvision may not load, and its import dies on a missing operator.
"""

from importlib.util import find_spec
from pathlib import Path

import torch


def _prepare_torchvision() -> torch.library.Library | None:
    """Load torchvision's compiled operators, or declare the two that its import asks for.

    Returns the object that keeps the declarations alive, or None where torchvision is whole or absent.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    compiled = [p for p in Path(spec.origin).parent.glob("_C*") if p.suffix in (".so", ".pyd", ".dylib")]
    try:
        for library in compiled:
            torch.ops.load_library(str(library))
    except OSError:
        compiled = []
    if compiled:
        return None
    # Nothing here calls these two; torchvision only has to find their signatures.
    declarations = torch.library.Library("torchvision", "FRAGMENT")
    declarations.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    declarations.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return declarations


_declarations = _prepare_torchvision()
