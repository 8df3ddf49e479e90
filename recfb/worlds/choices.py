"""Choice models: users who look at the whole slate and pick at most one item of it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Generator, Tensor

from recfb.errors import ConfigError
from recfb.worlds.clicks import ClickModel, Clicks


class Choice(ClickModel):
    """One pick at most. Everything is examined, with certainty."""

    @abstractmethod
    def pick(self, attraction: Tensor, generator: Generator) -> Tensor:
        """The position that is picked, K for none: (B, K) -> (B,) int64."""

    def sample(self, attraction: Tensor, generator: Generator) -> Clicks:
        at = self.pick(attraction, generator)  # (B,)
        place = torch.arange(attraction.shape[1], device=attraction.device)
        click = (at[:, None] == place).float()  # (B, K)
        ones = torch.ones_like(attraction)
        return Clicks(click, ones.bool(), ones)


def mnl(utility: Tensor, no_click: float, temperature: float, rank: Tensor | None = None) -> Tensor:
    """Multinomial logit with the option not to click, the last column: (B, K) -> (B, K + 1).

        P(i) = exp(u_i / tau + ln theta_k) / (exp(u_0 / tau) + sum_j exp(u_j / tau + ln theta_j))

    McFadden, 1974. `rank` has ln theta by position, (K,); None means 0.

    >>> mnl(torch.tensor([[0.0, 0.0]]), 0.0, 1.0).tolist()
    [[0.3333333432674408, 0.3333333432674408, 0.3333333432674408]]
    """
    none = torch.full_like(utility[:, :1], no_click)
    each = utility / temperature if rank is None else utility / temperature + rank  # (B, K)
    return torch.cat([each, none / temperature], 1).softmax(1)


class MNL(Choice):
    """Multinomial logit: one item, in proportion to exp(utility / temperature), or none.

    The utility of an item is the log-odds of its attraction: in `Tastes`, taste . content + quality
    + offset. Position k weighs k^-eta. Attractions within 1e-12 of 0 or 1 count as that far away.

    Args:
        temperature: 0+ picks the best.
        no_click: the utility of picking nothing.
        eta: how fast attention falls with the position; 0 means not at all.

    Raises:
        ConfigError: a temperature that is not positive, or a negative eta.

    >>> MNL().marginal(torch.tensor([[0.5, 0.5]])).tolist()
    [[0.3333333432674408, 0.3333333432674408]]
    """

    def __init__(
        self, temperature: float = 1.0, no_click: float = 0.0, *, eta: float = 0.0
    ) -> None:
        super().__init__()
        if temperature <= 0 or eta < 0:
            raise ConfigError(
                "a multinomial logit has a positive temperature and an eta of at least 0, found "
                f"temperature={temperature} and eta={eta}."
            )
        self.temperature = temperature
        self.no_click = no_click
        self.eta = eta

    def probs(self, attraction: Tensor) -> Tensor:
        """P(pick), none in the last column: (B, K) -> (B, K + 1) float64."""
        utility = attraction.to(torch.float64).logit(eps=1e-12)  # (B, K)
        place = torch.arange(1, utility.shape[1] + 1, device=utility.device)
        return mnl(utility, self.no_click, self.temperature, -self.eta * place.log())

    def pick(self, attraction: Tensor, generator: Generator) -> Tensor:
        probs = self.probs(attraction)  # (B, K + 1)
        u = torch.rand(
            probs.shape, generator=generator, dtype=torch.float64, device=attraction.device
        )
        # the first arrival of Exp(probs): of two slates that share items, most picks agree
        return ((1 - u).log().neg() / probs).argmin(1)

    def marginal(self, attraction: Tensor) -> Tensor:
        return self.probs(attraction)[:, :-1].to(attraction.dtype)


class RankedChoice(Choice):
    """Always the item with the largest rank^-power times attraction; among equals, the upper one.

    Chaney, Stewart and Engelhardt, RecSys 2018. There is no chance in it. Attractions are never
    negative, so the discount works in one direction. Put the world in `Once` for users who never
    take an item twice.

    Args:
        power: how fast the rank discounts.

    Raises:
        ConfigError: power is negative.

    >>> RankedChoice().marginal(torch.tensor([[0.5, 0.6], [0.3, 0.6]])).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, power: float = 0.8) -> None:
        super().__init__()
        if power < 0:
            raise ConfigError(f"power is not negative, found {power}. For no discount: power=0.0")
        self.power = power

    def pick(self, attraction: Tensor, generator: Generator) -> Tensor:
        place = torch.arange(1, attraction.shape[1] + 1, device=attraction.device)
        return (attraction * place.to(attraction.dtype) ** -self.power).argmax(1)

    def marginal(self, attraction: Tensor) -> Tensor:
        return self.sample(attraction, torch.Generator()).click


class RankAcceptance(Choice):
    """One item of the list, P(rank k) in proportion to exp(-alpha k), whatever it is.

    Mansoury, Abdollahpouri, Pechenizkiy, Mobasher and Burke, CIKM 2020.

    Args:
        alpha: how fast acceptance falls with the rank; 0 means that all ranks are equal.

    Raises:
        ConfigError: alpha is negative.

    >>> RankAcceptance(alpha=0.0).marginal(torch.zeros(1, 2)).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, alpha: float = 0.5) -> None:
        super().__init__()
        if alpha < 0:
            raise ConfigError(f"alpha is not negative, found {alpha}. For equal ranks: alpha=0.0")
        self.alpha = alpha

    def marginal(self, attraction: Tensor) -> Tensor:
        k, device = attraction.shape[1], attraction.device
        place = torch.arange(k, dtype=torch.float64, device=device)
        return (-self.alpha * place).softmax(0).to(attraction.dtype).expand_as(attraction)

    def pick(self, attraction: Tensor, generator: Generator) -> Tensor:
        total = self.marginal(attraction)[:, :-1].to(torch.float64).cumsum(1)  # (B, K - 1)
        shape, device = (len(attraction), 1), attraction.device
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        return (u >= total).sum(1)
