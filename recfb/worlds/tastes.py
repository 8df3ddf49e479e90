"""Users with tastes, items with content: the closed loop of a recommender."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.worlds.clicks import PBM, ClickModel
from recfb.worlds.drift import Drift
from recfb.worlds.population import Gaussian, Population

SOLVE_PAIRS = 100_000


@dataclass(frozen=True, slots=True)
class TastesState:
    """The round and the population; only tastes change."""

    time: int
    taste: Tensor  # (U, d)
    content: Tensor  # (I, d)
    quality: Tensor  # (I,)
    offset: Tensor  # ()
    group: Tensor  # (U,)


class Tastes(World[TastesState]):
    """Each user asks once a round, and clicks what is examined and attractive.

        relevance(u, i) = sigmoid(taste_u . content_i + quality_i + offset)

    A click model turns the relevance of the slate into clicks, and a drift moves tastes after
    them. The truth holds `reward`, `relevance`, `examined`, `p_examine` and `value` = P(click),
    all of the state that produced the clicks.

    Args:
        n_users: users; each is one request a round.
        n_items: the catalogue; items may be shown again.
        population: the draws of tastes and contents; default `Gaussian()`.
        clicks: the click model; default `PBM(eta=1.0)`.
        drift: how tastes move; default not at all.
        offset: added to every utility: how easily users click.
        base_rate: the mean relevance over all pairs; if given, the offset is solved for it.

    Raises:
        ConfigError: no users or items, or a base rate outside (0, 1).

    >>> from recfb.random import stream
    >>> world = Tastes(50, 20, base_rate=0.17)
    >>> state = world.start(stream(0))
    >>> round(float(world.relevance(state).mean()), 2)
    0.17
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        *,
        population: Population | None = None,
        clicks: ClickModel | None = None,
        drift: Drift | None = None,
        offset: float = -2.0,
        base_rate: float | None = None,
    ) -> None:
        super().__init__()
        if n_users < 1 or n_items < 1:
            raise ConfigError(f"Tastes needs users and items, found {n_users} and {n_items}.")
        if base_rate is not None and not 0 < base_rate < 1:
            raise ConfigError(f"a base rate is between 0 and 1, found {base_rate}.")
        self.n_users = n_users
        self.n_items = n_items
        self.population = Gaussian() if population is None else population
        self.clicks = PBM() if clicks is None else clicks
        self.drift = drift
        self.offset = offset
        self.base_rate = base_rate

    def start(self, generator: Generator, replications: int = 1) -> TastesState:
        people = self.population.draw(self.n_users, self.n_items, generator)
        offset = torch.tensor(self.offset, device=generator.device)
        state = TastesState(0, people.taste, people.content, people.quality, offset, people.group)
        if self.base_rate is None:
            return state
        return replace(state, offset=self._solved(state, self.base_rate, generator))

    def _solved(self, state: TastesState, rate: float, generator: Generator) -> Tensor:
        """The offset at which the mean relevance of 1e5 random pairs is the base rate: ()."""
        device = state.taste.device
        u = torch.rand(2, SOLVE_PAIRS, generator=generator, device=device)
        user, item = (u[0] * self.n_users).long(), (u[1] * self.n_items).long()
        utility = (state.taste[user] * state.content[item]).sum(1) + state.quality[item]
        low, high = torch.full((), -30.0, device=device), torch.full((), 30.0, device=device)
        for _ in range(40):
            middle = (low + high) / 2
            above = (utility + middle).sigmoid().mean() > rate
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def opening(self, state: TastesState, learners: int, rounds: int) -> Log:
        meta = Meta(
            horizon=rounds,
            learners=learners,
            reward_range=(0.0, 1.0),
            propensity="exact",
            task="clicks",
        )
        return Log.empty(self.n_users, self.n_items, meta=meta)

    def observe(self, state: TastesState) -> Context:
        return Context(torch.arange(self.n_users, device=state.taste.device), time=state.time)

    def respond(
        self, state: TastesState, slate: Slate, generator: Generator
    ) -> tuple[Feedback, Truth]:
        shown = state.content[slate.item]  # (U, K, d)
        utility = (shown @ state.taste[:, :, None]).squeeze(2)  # (U, K)
        relevance = (utility + state.quality[slate.item] + state.offset).sigmoid()
        click, examined, p_examine = self.clicks.sample(relevance, generator)
        truth = {
            "reward": click,
            "relevance": relevance,
            "examined": examined,
            "p_examine": p_examine,
            "value": self.clicks.marginal(relevance),
        }
        return Feedback(click), truth

    def step(
        self, state: TastesState, slate: Slate, truth: Truth, generator: Generator
    ) -> TastesState:
        if self.drift is None:
            return replace(state, time=state.time + 1)
        shown = state.content[slate.item]  # (U, K, d)
        taste = self.drift(state.taste, shown, truth["reward"], generator)
        return replace(state, time=state.time + 1, taste=taste)

    def relevance(self, state: TastesState) -> Tensor:
        """P(click | examined) of every pair: (U, I)."""
        utility = state.taste @ state.content.T + state.quality + state.offset
        return utility.sigmoid_()

    def values(self, state: TastesState) -> Tensor:
        """The relevance: what the first position would earn, and the order of all of them."""
        return self.relevance(state)
