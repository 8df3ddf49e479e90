"""Click models: which of the shown items a user examines and clicks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
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


def uniforms(n: int, attraction: Tensor, generator: Generator) -> Tensor:
    """n uniform numbers for each position of each request: (n, B, K)."""
    return torch.rand((n, *attraction.shape), generator=generator, device=attraction.device)


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
        u = uniforms(2, attraction, generator)  # (2, B, K)
        examined = u[0] < theta
        return Clicks((examined & (u[1] < attraction)).float(), examined, theta.expand_as(u[0]))

    def marginal(self, attraction: Tensor) -> Tensor:
        return self.examination(attraction.shape[1], attraction.device) * attraction


def by_position(values: Sequence[float], k: int, device: torch.device | str = "cpu") -> Tensor:
    """A number for each position, the last one for all that follow: (K,) float32.

    >>> by_position([0.9, 0.5], 4).tolist()
    [0.8999999761581421, 0.5, 0.5, 0.5]
    """
    at = torch.arange(k, device=device).clamp(max=len(values) - 1)
    return torch.tensor(values, device=device)[at]


def chances(values: Sequence[float], name: str) -> tuple[float, ...]:
    """The values as a tuple, if there are some and all are in [0, 1]."""
    if not values or not all(0 <= value <= 1 for value in values):
        raise ConfigError(
            f"{name} are probabilities by position, the last one for all that follow, found "
            f"{list(values)}. For one number everywhere: {name}=[0.5]"
        )
    return tuple(values)


def chain_examination(attraction: Tensor, after_skip: Tensor, after_click: Tensor) -> Tensor:
    """P(examined at each position) of a user who reads from the top: (B, K), (K,), (K,) -> (B, K).

        P(E_1) = 1,   P(E_k+1) = P(E_k) [(1 - a_k) skip_k + a_k click_k]

    where skip_k and click_k are the probabilities of going on after a skip and after a click.
    Chuklin, Markov and de Rijke, "Click models for web search", 2015, section 3.

    >>> half, one = torch.tensor([[0.5, 0.5, 0.5]]), torch.ones(3)
    >>> chain_examination(half, one, 0 * one).tolist()
    [[1.0, 0.5, 0.25]]
    """
    on = (1 - attraction) * after_skip + attraction * after_click  # (B, K)
    first = torch.ones_like(on[:, :1])
    return torch.cat([first, on[:, :-1].cumprod(1)], 1)


class Chain(ClickModel):
    """Reads from the top and stops somewhere. Whether it goes on depends on the last click."""

    @abstractmethod
    def going_on(self, k: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """P(the next position is examined) after a skip and after a click at each: (K,), (K,)."""

    def examination(self, attraction: Tensor) -> Tensor:
        """P(examined at each position), clicks above averaged out: (B, K) -> (B, K)."""
        return chain_examination(attraction, *self.going_on(attraction.shape[1], attraction.device))

    def sample(self, attraction: Tensor, generator: Generator) -> Clicks:
        skip, click = self.going_on(attraction.shape[1], attraction.device)  # (K,), (K,)
        u = uniforms(2, attraction, generator)  # (2, B, K)
        attracted = u[0] < attraction
        on = u[1] < torch.where(attracted, click, skip)  # (B, K)
        reached = torch.cat([torch.ones_like(on[:, :1]), on[:, :-1]], 1)
        examined = reached.cumprod(1).bool()
        return Clicks((examined & attracted).float(), examined, self.examination(attraction))

    def marginal(self, attraction: Tensor) -> Tensor:
        return self.examination(attraction) * attraction


class Cascade(Chain):
    """Reads from the top until the first click: P(C_k = 1) = a_k prod_{j<k} (1 - a_j).

    Craswell, Zoeter, Taylor and Ramsey, WSDM 2008.

    >>> Cascade().marginal(torch.tensor([[0.5, 0.5]])).tolist()
    [[0.5, 0.25]]
    """

    def going_on(self, k: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        return torch.ones(k, device=device), torch.zeros(k, device=device)


class DCM(Chain):
    """Dependent clicks: after a click at position k the user goes on with probability lambda_k.

    Guo, Liu and Wang, WSDM 2009: P(C_k = 1) = a_k prod_{j<k} (1 - a_j (1 - lambda_j)).

    Args:
        stay: lambda_1, lambda_2, ...; the last one for all positions that follow.

    Raises:
        ConfigError: no number, or one outside [0, 1].

    >>> DCM(stay=[0.5]).marginal(torch.tensor([[0.5, 0.5]])).tolist()
    [[0.5, 0.375]]
    """

    def __init__(self, stay: Sequence[float] = (0.5,)) -> None:
        super().__init__()
        self.stay = chances(stay, "stay")

    def going_on(self, k: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        return torch.ones(k, device=device), by_position(self.stay, k, device)


class DBN(Chain):
    """Dynamic Bayesian network: a click satisfies with probability s, and then the user leaves;
    else the user goes on with probability gamma.

    Chapelle and Zhang, WWW 2009: P(C_k = 1) = a_k gamma^(k-1) prod_{j<k} (1 - a_j s), with one s
    for all items.

    Args:
        gamma: how patient the user is.
        satisfaction: s.

    Raises:
        ConfigError: a number outside [0, 1].

    >>> DBN(gamma=0.5, satisfaction=1.0).marginal(torch.tensor([[0.5, 0.5]])).tolist()
    [[0.5, 0.125]]
    """

    def __init__(self, gamma: float = 0.9, satisfaction: float = 0.5) -> None:
        super().__init__()
        if not 0 <= gamma <= 1 or not 0 <= satisfaction <= 1:
            raise ConfigError(
                "gamma and satisfaction are probabilities, found "
                f"gamma={gamma} and satisfaction={satisfaction}."
            )
        self.gamma = gamma
        self.satisfaction = satisfaction

    def going_on(self, k: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        skip = torch.full((k,), self.gamma, device=device)
        return skip, skip * (1 - self.satisfaction)


class TrustBias(ClickModel):
    """Users trust high positions: what they see there is clicked more often than it deserves.

    Agarwal, Wang, Li, Bendersky and Najork, WWW 2019: given that position k is examined,
    P(C = 1) = plus_k R + minus_k (1 - R) with relevance R. Examination is that of the model inside.

    Args:
        clicks: how users examine; its attractions are replaced by the trusted ones.
        plus: P(click) on what is relevant, by position; the last one for all that follow.
        minus: P(click) on what is not.

    Raises:
        ConfigError: no number, or one outside [0, 1].

    >>> TrustBias(PBM(0.0), plus=[1.0], minus=[0.5, 0.0]).marginal(torch.zeros(1, 2)).tolist()
    [[0.5, 0.0]]
    """

    def __init__(
        self,
        clicks: ClickModel,
        plus: Sequence[float] = (1.0,),
        *,
        minus: Sequence[float] = (0.2, 0.1, 0.05, 0.0),
    ) -> None:
        super().__init__()
        self.clicks = clicks
        self.plus = chances(plus, "plus")
        self.minus = chances(minus, "minus")

    def trusted(self, relevance: Tensor) -> Tensor:
        """P(click | examined) at each position: (B, K) -> (B, K)."""
        k, device = relevance.shape[1], relevance.device
        low, high = by_position(self.minus, k, device), by_position(self.plus, k, device)
        return high * relevance + low * (1 - relevance)

    def sample(self, attraction: Tensor, generator: Generator) -> Clicks:
        return self.clicks.sample(self.trusted(attraction), generator)

    def marginal(self, attraction: Tensor) -> Tensor:
        return self.clicks.marginal(self.trusted(attraction))
