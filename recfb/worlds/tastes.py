"""Users with tastes, items with content: the closed loop of a recommender."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import polars as pl
import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.worlds.boredom import Boredom, Memory, topic_clicks
from recfb.worlds.clicks import PBM, ClickModel
from recfb.worlds.drift import Drift, Visit
from recfb.worlds.population import Gaussian, Population

SOLVE_PAIRS = 100_000


@dataclass(frozen=True, slots=True)
class TastesState:
    """The round and the population; only tastes and the memory of boredom change."""

    time: int
    taste: Tensor  # (U, d)
    content: Tensor  # (I, d)
    quality: Tensor  # (I,)
    offset: Tensor  # ()
    group: Tensor  # (U,)
    topic: Tensor  # (I,)
    home: Tensor  # (U, d) tastes before round 0
    memory: Memory = ()  # of the boredom


class Tastes(World[TastesState]):
    """Each user asks once a round, and clicks what is examined and attractive.

        relevance(u, i) = sigmoid(taste_u . content_i + quality_i + offset)

    A click model turns the relevance of the slate into clicks. After them a drift moves tastes, and
    boredom lowers the utility of what a user has had too much of. Where there are topics, the
    items of the log have them as `topic`. Populations whose products are
    probabilities, as `Dirichlet`, have no sigmoid. The truth holds `reward`, `relevance`,
    `home_relevance` (under the tastes before round 0), `group`, `topic`, `examined`, `p_examine`
    and `value` = P(click), all of the state that produced the clicks.

    Args:
        n_users: users; each is one request a round.
        n_items: the catalogue; items may be shown again.
        population: the draws of tastes and contents; default `Gaussian()`.
        clicks: the click model; default `PBM(eta=1.0)`.
        drift: how tastes move; default not at all.
        boredom: how users tire of topics; default not at all.
        offset: added to every utility: how easily users click.
        base_rate: the mean relevance over all pairs; if given, the offset is solved for it.

    Raises:
        ConfigError: no users or items, a base rate outside (0, 1), or an offset, a base rate or
            boredom where the population gives probabilities.

    >>> from recfb.random import stream
    >>> world = Tastes(50, 20, base_rate=0.17)
    >>> state = world.start(stream(0))
    >>> round(float(world.relevance(state).mean()), 2)
    0.17
    """

    informed: ClassVar[bool] = False

    def __init__(
        self,
        n_users: int,
        n_items: int,
        *,
        population: Population | None = None,
        clicks: ClickModel | None = None,
        drift: Drift | None = None,
        boredom: Boredom | None = None,
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
        self.boredom = boredom
        self.offset = offset
        self.base_rate = base_rate
        if self.population.probabilities and (offset or base_rate or boredom):
            raise ConfigError(
                f"{type(self.population).__name__} gives probabilities, to which nothing is added, "
                f"found offset={offset}, base_rate={base_rate}, boredom={boredom}. Leave the "
                "latter out and write offset=0.0"
            )

    def start(self, generator: Generator, replications: int = 1) -> TastesState:
        people = self.population.draw(self.n_users, self.n_items, generator)
        offset = torch.tensor(self.offset, device=generator.device)
        memory: Memory = ()
        if self.boredom is not None:
            topics = int(people.topic.max()) + 1
            memory = self.boredom.begin(self.n_users, topics, generator.device)
        state = TastesState(
            0, people.taste, people.content, people.quality, offset, people.group, people.topic,
            people.taste, memory,
        )  # fmt: skip
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
        log = Log.empty(self.n_users, self.n_items, meta=meta)
        topic = state.topic.cpu()
        if not bool(topic.any()):
            return log
        columns = {"id": pl.int_range(self.n_items, dtype=pl.Int32, eager=True)}
        return log.with_items(pl.DataFrame({**columns, "topic": topic.numpy()}))

    def observe(self, state: TastesState) -> Context:
        return Context(torch.arange(self.n_users, device=state.taste.device), time=state.time)

    def respond(
        self, state: TastesState, slate: Slate, generator: Generator
    ) -> tuple[Feedback, Truth]:
        relevance = self._shown(state, state.taste, slate)  # (U, K)
        click, examined, p_examine = self.clicks.sample(relevance, generator)
        truth = {
            "reward": click,
            "relevance": relevance,
            "home_relevance": self._home(state, slate, relevance),
            "group": state.group,
            "topic": state.topic[slate.item],
            "examined": examined,
            "p_examine": p_examine,
            "value": self.clicks.marginal(relevance),
        }
        return Feedback(click), truth

    def _shown(self, state: TastesState, taste: Tensor, slate: Slate) -> Tensor:
        """P(click | examined) of what is shown to users of these tastes: (U, d) -> (U, K)."""
        shown = state.content[slate.item]  # (U, K, d)
        utility = (shown @ taste[:, :, None]).squeeze(2)  # (U, K)
        utility = utility + state.quality[slate.item] + state.offset
        if self.boredom is not None:
            effect = self.boredom.effect(state.memory)  # (U, C)
            utility = utility + effect.gather(1, state.topic[slate.item])
        return utility if self.population.probabilities else utility.sigmoid()

    def _home(self, state: TastesState, slate: Slate, relevance: Tensor) -> Tensor:
        """The relevance if tastes had never moved: (U, K)."""
        return relevance if self.drift is None else self._shown(state, state.home, slate)

    def step(
        self, state: TastesState, slate: Slate, truth: Truth, generator: Generator
    ) -> TastesState:
        taste, memory = state.taste, state.memory
        if self.drift is not None:
            shown = state.content[slate.item]  # (U, K, d)
            visit = Visit(state.time, shown, truth["reward"], truth["examined"], state.home)
            taste = self.drift(taste, visit, generator)
        if self.boredom is not None:
            shown_topic = state.topic[slate.item]  # (U, K)
            clicks = topic_clicks(truth["reward"], shown_topic, memory[0].shape[1])
            memory = self.boredom.step(memory, clicks)
        return replace(state, time=state.time + 1, taste=taste, memory=memory)

    def relevance(self, state: TastesState) -> Tensor:
        """P(click | examined) of every pair: (U, I)."""
        utility = state.taste @ state.content.T + state.quality + state.offset
        if self.boredom is not None:
            utility += self.boredom.effect(state.memory)[:, state.topic]
        return utility if self.population.probabilities else utility.sigmoid_()

    def values(self, state: TastesState) -> Tensor:
        """The relevance: what the first position would earn, and the order of all of them."""
        return self.relevance(state)
