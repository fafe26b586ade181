"""P, the cosine of each probing image with each concept, and the images a neuron likes best.

P is given whole, or as its factors (images [n, d], texts [m, d]), and then made block by block: [images, concepts].
"""

from dataclasses import dataclass

import torch

from lib.errors import UserError

BLOCK = 2**22  # numbers of a block; larger ones go back to the system each time, which costs more than to fill them
PRECISIONS = ("double", "single", "half")


@dataclass
class Matrix:
    """P, whole or as its factors. Made by `matrix`."""

    whole: torch.Tensor | None
    images: torch.Tensor | None
    texts: torch.Tensor | None

    @property
    def shape(self):
        return tuple(self.whole.shape) if self.images is None else (len(self.images), len(self.texts))

    @property
    def device(self):
        return (self.whole if self.images is None else self.images).device

    def block(self, rows=slice(None), columns=slice(None), dtype=torch.float32):
        """P[rows, columns], rows and columns each a slice or int64 indices."""
        if self.images is None:
            return self.whole[:, columns][rows].to(dtype)
        return self.images[rows].to(dtype) @ self.texts[columns].to(dtype).T

    def to(self, dtype):
        """The same with its factors in another type; a whole P is converted a block at a time."""
        return self if self.images is None else Matrix(None, self.images.to(dtype), self.texts.to(dtype))

    def only(self, rows):
        """A copy with some of the images."""
        if self.images is None:
            return Matrix(self.whole[rows], None, None)
        return Matrix(None, self.images[rows], self.texts)

    def longest(self):
        """A bound of |P| where it is given as factors."""
        return float(self.images.norm(dim=1).max() * self.texts.norm(dim=1).max())


def matrix(P):
    """P as a `Matrix`. P: float [n, m], or the pair (images [n, d], texts [m, d]); raises UserError for others."""
    if isinstance(P, Matrix):
        return P
    given = tuple(P) if isinstance(P, (tuple, list)) else (P,)
    shapes = [list(x.shape) for x in given]
    if len(given) > 2 or any(x.dim() != 2 for x in given) or (len(given) == 2 and shapes[0][1] != shapes[1][1]):
        raise UserError(
            f"P has shapes {shapes}; give it whole [images, concepts], or as images [n, d] and texts [m, d]."
        )
    if any(min(shape) == 0 for shape in shapes):
        raise UserError(f"P has shapes {shapes}; there must be at least one image and one concept.")
    if not all(_finite(x) for x in given):
        raise UserError("P holds nan or infinite numbers; look for images or concepts whose embedding is not finite.")
    return Matrix(P, None, None) if len(given) == 1 else Matrix(None, *given)


def checked(P, q):
    """P as a `Matrix`, and q [images, neurons] on its device. Raises UserError where shapes or numbers are wrong."""
    P = matrix(P)
    if q.dim() != 2 or len(q) != P.shape[0]:
        raise UserError(
            f"Activations are {list(q.shape)}, but P has {P.shape[0]} images; expected is [images, neurons]."
        )
    if not _finite(q):
        bad = (~torch.isfinite(q)).any(0).nonzero().ravel().tolist()
        raise UserError(
            f"The activations of {len(bad)} of {q.shape[1]} neurons are nan or infinite (first: neuron {bad[0]}); "
            "run the target in float32, or leave those neurons out."
        )
    return P, q.to(P.device)


def dead(q):
    """Which neurons have the same activation for all images: bool [neurons]. q: [images, neurons]."""
    return q.amax(0) == q.amin(0)


def top_images(q, k, ties="first"):
    """The k images with the highest activation of each neuron, highest first: int64 [k, neurons].

    q: [images, neurons]. ties: "first" takes equal images in their order; "released" whichever torch.topk takes, as the
    released code does, so that the label of a neuron with few distinct activations hangs on the machine. Raises
    UserError when there are fewer than k images.
    """
    if not 1 <= k <= len(q):
        raise UserError(
            f"The top {k} images of a neuron are wanted, but there are {len(q)}; lower top_k or add images."
        )
    if ties == "released":
        return q.topk(k, dim=0).indices
    if ties != "first":
        raise UserError(f"ties is '{ties}'; give 'first' or 'released'.")
    found = torch.empty(k, q.shape[1], dtype=torch.int64, device=q.device)
    many = max(1, BLOCK // len(q))
    for start in range(0, q.shape[1], many):
        columns = q[:, start : start + many].contiguous().T.contiguous()  # in two steps: a fast transposition
        values, index = columns.topk(min(k + 1, len(q)), dim=1)
        tied = values[:, k - 1] == values[:, -1] if k < len(q) else torch.zeros(len(values), dtype=torch.bool)
        index = index[:, :k]
        if tied.any():  # topk takes any of the images that are equal at the border
            index[tied] = columns[tied].sort(dim=1, descending=True, stable=True).indices[:, :k]
        index = index.sort(dim=1).values
        order = columns.gather(1, index).sort(dim=1, descending=True, stable=True).indices
        found[:, start : start + many] = index.gather(1, order).T
    return found


def dtype_of(precision):
    """The type that scores have. Raises UserError for an unknown precision."""
    if precision not in PRECISIONS:
        raise UserError(f"precision is '{precision}'; give one of {', '.join(PRECISIONS)}.")
    return torch.float64 if precision == "double" else torch.float32


def parts(n, size):
    """Slices of at most `size` that cover 0 to n."""
    size = max(1, size)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _finite(x):
    return bool(torch.isfinite(x.sum())) or bool(torch.isfinite(x).all())  # the sum is the faster test
