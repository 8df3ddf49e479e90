"""Click models: which of the shown items a user examines and clicks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from recfb.contracts import Component
from recfb.errors import ConfigError


class Clicks(NamedTuple):
    """What happened to a slate, all (B, K): `click` float32; `examined` bool, whether the user
    looked; `p_examine`, with which probability, given the slate."""

    click: Tensor
    examined: Tensor
    p_examine: Tensor


class ClickModel(Component, ABC):
    """Attraction of the shown items -> examination and clicks.

    A model draws the same numbers whatever the slate and the attraction, so that policies that are
    compared share them.
    """

    @abstractmethod
    def sample(self, attraction: Tensor, generator: Generator) -> Clicks:
        """One visit of each request: (B, K) P(click | examined), best position first."""

    @abstractmethod
    def marginal(self, attraction: Tensor) -> Tensor:
        """P(click at each position), examination averaged out: (B, K) -> (B, K)."""


class PBM(ClickModel):
    """Position-based model: a position is examined with probability k^-eta, on its own.

    Craswell, Zoeter, Taylor and Ramsey, WSDM 2008; Joachims, Swaminathan and Schnabel, WSDM 2017:
    P(C_k = 1) = theta_k a_k, theta_k = k^-eta.

    Args:
        eta: how fast attention falls with the position; 0 means that everything is examined.

    Raises:
        ConfigError: eta is negative.

    >>> PBM(eta=1.0).marginal(torch.tensor([[0.5, 0.5]])).tolist()
    [[0.5, 0.25]]
    """

    def __init__(self, eta: float = 1.0) -> None:
        super().__init__()
        if eta < 0:
            raise ConfigError(f"eta is not negative, found {eta}. For no position bias: eta=0.0")
        self.eta = eta

    def examination(self, k: int, device: torch.device | str = "cpu") -> Tensor:
        """theta_1 .. theta_k: (K,) float32."""
        place = torch.arange(1, k + 1, dtype=torch.float32, device=device)
        return place**-self.eta

    def sample(self, attraction: Tensor, generator: Generator) -> Clicks:
        theta = self.examination(attraction.shape[1], attraction.device)  # (K,)
        options = (2, *attraction.shape)
        u = torch.rand(options, generator=generator, device=attraction.device)  # (2, B, K)
        examined = u[0] < theta
        return Clicks((examined & (u[1] < attraction)).float(), examined, theta.expand_as(u[0]))

    def marginal(self, attraction: Tensor) -> Tensor:
        return self.examination(attraction.shape[1], attraction.device) * attraction
