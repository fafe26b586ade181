"""L of WPMI and SoftWPMI: how probable a concept makes a neuron's top images, in full precision and the fast way.

`similarity` makes scores of it. book/method_dissection.md derives the fast way.
"""

import functools
import math

import numpy as np
import torch
from torch.nn import functional as F

from lib.dissection.matrix import BLOCK, parts, top_images

FEW = 5000  # concepts below which the errors of a bfloat16 product do not average out well in a softmax
PANEL = {"cpu": 2**21, "cuda": 2**28}  # numbers of a panel, all images and some concepts: on a CPU it stays in a cache
LONGEST_FACTOR = {torch.float32: 80.0, torch.float64: 600.0}  # sum of logs that a product may reach


class Likelihood:
    """L [neurons, concepts]: for each neuron the sum over its top images i of log(offset + slope_i S[i, concept]).

    S is computed only for images that are among the top of some neuron, and for a panel of concepts at a time. `all`
    comes first: it finds the `log_z` that other methods take. slopes: list of float, one a rank. offset: None for 1.
    dtype: the working precision.
    """

    def __init__(self, P, q, dtype, a, slopes, offset, ties):
        self.a, self.slopes, self.offset = a, slopes, offset
        self.everyone, self.device, self.work = P, P.device, dtype
        rows, self.where = torch.unique(top_images(q, len(slopes), ties), return_inverse=True)
        self.P = P.only(rows)
        self.log_z = None

    def all(self):
        """L for every concept: [neurons, concepts] in the working precision."""
        self.log_z = self._log_z(slice(None), self.work)
        images, concepts = self.P.shape
        found = torch.empty(self.where.shape[1], concepts, dtype=self.work, device=self.device)
        for columns in parts(concepts, _width(images, self.device)):
            found[:, columns] = self._summed(self._probabilities(columns, self.work), self.where)
        return found

    def exact(self, columns):
        """L of some concepts in float64: [neurons, columns]; `log_z` is as good as the precision."""
        return self._summed(self._probabilities(columns, torch.float64), self.where)

    def pairs(self, neurons, columns, wanted, precise=False):
        """L in float64 of the pairs that are wanted, bool [neurons, columns]; 0 for others. precise: `log_z` too.

        A neuron at a time: each has concepts of its own, few of them.
        """
        log_z = self.log_z
        if precise:
            rows, log_z = self.where[:, neurons].unique(), log_z.clone()
            log_z[rows] = self._log_z(rows, torch.float64)
        found = torch.zeros(wanted.shape, dtype=torch.float64, device=self.device)
        slopes = torch.tensor(self.slopes, dtype=torch.float64, device=self.device)[:, None]
        for k, neuron in enumerate(neurons.tolist()):
            rows = self.where[:, neuron]
            S = self._logits(rows, columns[wanted[k]], torch.float64).sub_(log_z[rows][:, None]).exp_()
            terms = (slopes * S).log1p_() if self.offset is None else (S + self.offset).log_()
            found[k, wanted[k]] = terms.sum(0)
        return found

    def of_average_image(self):
        """L of a neuron whose top images are all like the average of all images: float64 [concepts]."""
        images, concepts = self.everyone.shape
        total = torch.zeros(concepts, dtype=torch.float64, device=self.device)
        for part in parts(images, BLOCK // concepts):
            logits = self.a * self.everyone.block(part, dtype=self.work)
            total += logits.softmax(1).sum(0, dtype=torch.float64)
        where = torch.zeros(len(self.slopes), 1, dtype=torch.int64, device=self.device)
        return self._summed((total / images)[None], where)[0]

    @functools.cached_property
    def _double(self):
        return self.P.to(torch.float64)

    def _logits(self, rows, columns, dtype):
        P = self._double if dtype == torch.float64 else self.P
        return self.a * P.block(rows, columns, dtype)  # a block of a whole P may be P itself

    def _log_z(self, rows, dtype):
        """log of the sum over concepts of exp(a P): float64 [rows]."""
        images, concepts = self.P.shape
        rows, found = torch.arange(images, device=self.device)[rows], []
        for part in rows.split(max(1, BLOCK // concepts)):
            found.append(self._logits(part, slice(None), dtype).logsumexp(1).double())
        return torch.cat(found)

    def _probabilities(self, columns, dtype):
        """S of all rows: [rows, columns]."""
        return self._logits(slice(None), columns, dtype).sub_(self.log_z[:, None].to(dtype)).exp_()

    def _summed(self, S, where):
        """Sum over ranks of log(offset + slope S): [neurons, columns of S]. where: rows of S, [ranks, neurons].

        As products, with a logarithm only where the product would otherwise leave the range of the type.
        """
        if self.offset is not None:
            S = S + self.offset
        largest = math.log1p(max(self.slopes) * float(S.max()))
        smallest = 0.0 if self.offset is None else -math.log(self.offset)
        group = max(1, int(LONGEST_FACTOR[S.dtype] / max(largest, smallest, 1e-9)))
        total = torch.zeros(where.shape[1], S.shape[1], dtype=S.dtype, device=S.device)
        product = torch.ones_like(total)
        for rank, slope in enumerate(self.slopes):
            rows = _rows(S, where[rank])
            product = product.mul_(rows) if self.offset is not None else product.addcmul_(product, rows, value=slope)
            if (rank + 1) % group == 0:
                total += product.log()
                product.fill_(1)
        return total.add_(product.log_())


class FastLikelihood(Likelihood):
    """L in float32 for many concepts: by its tangent for WPMI, by its powers after a bfloat16 product for SoftWPMI.

    Logits are taken around their means, y = (x_i - middle).a(t_m - centre) + bias_m. What is left out is the same for
    all concepts of an image: no softmax changes, and the numbers that are rounded are small.
    """

    @staticmethod
    def suits(P, a):
        """Whether there are enough concepts for rounding to average out, and no logit that a power would blow up."""
        return P.images is not None and P.shape[1] >= FEW and a * P.longest() <= 12

    def all(self):
        """L for every concept: float32 [neurons, concepts]."""
        return self._by_powers() if self.offset is None else self._by_tangents()

    def _centred(self):
        """Images [rows, d], a x texts [concepts, d], bias [concepts], in float32; what was left out, float64 [rows]."""
        images, texts = self.P.images.float(), self.P.texts.float()
        centre, middle = texts.mean(0), images.mean(0)
        left_out = self.a * (images @ centre).double()
        texts = (texts - centre).mul_(self.a)
        return images - middle, texts, texts @ middle, left_out

    def _by_tangents(self):
        """WPMI's L, in which log(exp(y) / Z + offset) is all but linear in y: its tangent at 0.

        Embeddings are summed over a neuron's top images first, and the sums multiplied with the concepts.
        """
        images, texts, bias, left_out = self._centred()
        log_z = _log_sum_exp(images, texts, bias)
        some = torch.linspace(0, len(images) - 1, min(len(images), 64), device=self.device).long()
        if (log_z[some] + left_out[some] - self._log_z(some, self.work)).abs().max() > 1e-3:
            log_z = (self._log_z(slice(None), self.work) - left_out).float()
        self.log_z = log_z.double() + left_out
        z = self.offset * log_z.exp()
        neurons, tangent = self.where.T.contiguous(), 1 / (1 + z)
        slopes = tangent[neurons]
        found = F.embedding_bag(neurons, images, mode="sum", per_sample_weights=slopes) @ texts.T
        found.addr_(slopes.sum(1), bias)
        return found.add_((z.log1p() - log_z)[neurons].sum(1, keepdim=True))

    def _by_powers(self):
        """SoftWPMI's L, in which log(1 + x) of the small x = slope S is a polynomial.

        A power of x is one of slope / Z, a number for neuron and image, times one of exp(y), a number for image and
        concept: its sum over a neuron's top images is a bag of rows with weights. The weights lean on an estimate of Z.
        The Z that is found on the way corrects L as if S were 1 / concepts, and serves what is computed again; where
        the estimate was bad, L is computed once more from it.
        """
        images, texts, bias, left_out = self._centred()
        slopes, neurons = torch.tensor(self.slopes, device=self.device), self.where.T.contiguous()
        estimate, each = _log_sum_exp(images, texts, bias), bias.exp()
        found, log_z = self._powers(images, texts, each, estimate, neurons, slopes)
        if (log_z - estimate).abs().max() > 0.02:
            estimate = log_z
            found, log_z = self._powers(images, texts, each, estimate, neurons, slopes)
        self.log_z = log_z.double() + left_out
        return found.sub_(((log_z - estimate)[neurons] * slopes).sum(1, keepdim=True), alpha=1 / len(texts))

    def _powers(self, images, texts, each, estimate, neurons, slopes):
        """L with weights from an estimate of log Z, and log Z. each: exp(bias). neurons: where, neurons first."""
        weights, z = slopes * (-estimate).exp()[neurons], torch.zeros_like(estimate)
        found, largest = torch.zeros(len(neurons), len(texts), device=self.device), weights.max()
        for columns, power, E in _exponentials(images, texts):
            factor = each[columns]
            z += E @ factor
            top = float(largest * E.max() * factor.max())
            coefficients = _polynomial(2 ** (math.ceil(4 * math.log2(top)) / 4))  # few different ones to work out
            if coefficients is None:
                S = E * factor * (-estimate).exp()[:, None]
                found[:, columns] = self._summed(S, self.where)
                continue
            power.copy_(E)
            for exponent, coefficient in enumerate(coefficients, 1):
                if exponent > 1:
                    power.mul_(E)
                bag = F.embedding_bag(neurons, power, mode="sum", per_sample_weights=weights**exponent)
                found[:, columns].addcmul_(bag, coefficient * factor**exponent)
        return found, z.log()


def _exponentials(images, texts):
    """exp of images @ texts.T, the product in bfloat16, a panel at a time: columns, a spare [n, columns], and exp."""
    n, width = len(images), _width(len(images), images.device)
    images, texts = images.bfloat16(), (texts / math.log(2)).bfloat16()
    wide = torch.empty(8 * width * n, dtype=torch.bfloat16, device=images.device)
    panels = torch.empty(2, width * n, device=images.device)
    for many in parts(len(texts), 8 * width):
        count = many.stop - many.start
        y = torch.mm(images, texts[many].T, out=wide[: n * count].view(n, count))
        for few in parts(count, width):
            one, other = panels[:, : n * (few.stop - few.start)].view(2, n, -1)
            yield slice(many.start + few.start, many.start + few.stop), other, one.copy_(y[:, few]).exp2_()


def _log_sum_exp(images, texts, bias, sample=512):
    """log of the sum over concepts of exp(y), y = images @ texts.T + bias: an estimate, float32 [n].

    exp(y) is 1 + y + y^2 / 2, whose sums over concepts follow from moments, and a rest that a sample of concepts shows.
    """
    concepts = len(texts)
    some = torch.linspace(0, concepts - 1, min(concepts, sample), device=texts.device).long()
    moments, cross = (texts.T @ texts / concepts).bfloat16(), texts.T @ bias / concepts
    first, mean, square = texts.mean(0), bias.mean(), (bias * bias).mean()
    few, found = texts[some].T.bfloat16(), []
    for x in images.split(max(1, BLOCK // len(some))):
        low = x.bfloat16()
        y = (low @ few).float().add_(bias[some])
        rest = y.exp().sub_(1).sub_(y).addcmul_(y, y, value=-0.5).mean(1)
        second = (x * (low @ moments).float()).sum(1) + 2 * (x @ cross) + square
        found.append(1 + x @ first + mean + second / 2 + rest)
    return torch.cat(found).clamp_(min=0.5).log_().add_(math.log(concepts))


@functools.lru_cache
def _polynomial(top):
    """Coefficients of x, x^2, ... for log(1 + x) from 0 to `top`; None where it would take too many."""
    x = np.linspace(0, top, 100)[1:]
    for degree in range(1, 7):
        line = np.polynomial.Chebyshev.interpolate(lambda x: np.log1p(x) / x, degree - 1, [0, top])
        if abs(line(x) * x - np.log1p(x)).max() <= 2e-5:
            return line.convert(kind=np.polynomial.Polynomial).coef.tolist()
    return None


def _width(n, device):
    """Concepts of a panel of n images: a multiple of 16, for which rows are fast to add."""
    return 16 * max(1, min(PANEL[device.type] // (16 * n), 16 if device.type == "cpu" else 256))


def _rows(x, index):
    """x[index] for float [n, c]. On a CPU `index_select` copies such rows slowly; a bag of one row is the fast way."""
    if x.is_cuda or x.dtype != torch.float32:
        return x.index_select(0, index)
    return F.embedding_bag(index[:, None], x, mode="sum")
