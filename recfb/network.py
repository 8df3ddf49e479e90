"""A plain feed-forward network whose shape is known once a log is: what scorers and exposures
share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn


class Network(nn.Module):
    """Affine maps with ReLU between them: (..., sizes[0]) -> (..., sizes[-1]).

    Two sizes are one affine map. Weights are zero until `reset`.

    >>> net = Network([2, 1])
    >>> _ = net.weights[0].data.fill_(3.0)
    >>> net(torch.tensor([[1.0, 2.0]])).tolist()
    [[9.0]]
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        shapes = [(after, before) for before, after in pairwise(self.sizes)]
        self.weights = nn.ParameterList(torch.zeros(shape) for shape in shapes)
        self.biases = nn.ParameterList(torch.zeros(shape[0]) for shape in shapes)

    @torch.no_grad()
    def reset(self, generator: Generator, *, last: float = 1.0) -> None:
        """Xavier's uniform weights, those of the last map times `last`, and biases of 0."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            nn.init.xavier_uniform_(weight, generator=generator)
            bias.zero_()
        self.weights[-1].mul_(last)

    def forward(self, x: Tensor) -> Tensor:
        """(..., sizes[0]) -> (..., sizes[-1])."""
        *inner, (out, offset) = zip(self.weights, self.biases, strict=True)
        for weight, bias in inner:
            x = F.relu(F.linear(x, weight, bias))  # (..., sizes[k])
        return F.linear(x, out, offset)


def network(old: Network | None, sizes: Sequence[int]) -> Network:
    """A network of these sizes for `bind`: the old one where it has them, so that what was learned
    stays.

    >>> first = network(None, [2, 1])
    >>> network(first, [2, 1]) is first, network(first, [3, 1]) is first
    (True, False)
    """
    if old is None:
        return Network(sizes)
    return old if old.sizes == tuple(sizes) else Network(sizes).to(old.weights[0])
