"""A log as a world: rows in which the policy would have shown what was shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import polars as pl
import torch
from torch import Generator, Tensor

from recfb.contracts import Block, Context, Feedback, Slate, Truth, World, cat
from recfb.data import Log
from recfb.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ReplayState:
    """The round; row t * requests comes next in every replication."""

    time: int
    replications: int


class Replay(World[ReplayState]):
    """Replays a log of single items: a row counts only where the policy shows the logged item.

    Li, Chu, Langford and Wang, "Unbiased offline evaluation of contextual-bandit-based news article
    recommendation algorithms", WSDM 2011. What is rejected has no reward, so the policy does not
    learn from it, and the accepted rows are those of a run of the policy. Where the log is not
    uniform, an accepted row is kept with probability min p / p, min p the smallest propensity of
    the log; without this, replay favours policies that imitate the logger. Count the accepted rows,
    not the rounds: the truth holds `accepted` and, where 1, `reward`; `replayed` reads them.

    Every place of a slate is judged on its own. The policy is frozen within the `requests` rows of
    a round, and the propensities in the run's own log are the policy's, not those of accepted rows.

    Args:
        log: rows with item, reward and propensity; a path that `Log.read` takes, or a log.
        requests: rows of a round.

    Raises:
        ConfigError: a log without rows or propensities, or with unknown ones; more rounds than
            rows.

    >>> log = Log.of({"item": [0, 1], "reward": [1.0, 0.0], "propensity": [0.5, 0.5]})
    >>> world = Replay(log)
    >>> state, shown = world.start(torch.Generator()), Slate(torch.tensor([[1]]))
    >>> world.respond(state, shown, torch.Generator())[0].reward.tolist()
    [[nan]]
    """

    vectorised: ClassVar[bool] = True

    def __init__(self, log: Log | str, requests: int = 1) -> None:
        super().__init__()
        if requests < 1:
            raise ConfigError(f"requests is a positive number of rows, found {requests}.")
        self.log = log
        self.requests = requests
        self.source = Log.read(log) if isinstance(log, str) else log
        self.rows = _rows(self.source)
        self.n_users, self.n_items = self.source.n_users, self.source.n_items

    @property
    def rounds(self) -> int:
        """How many rounds the log lasts."""
        return len(self.rows) // self.requests

    def start(self, generator: Generator, replications: int = 1) -> ReplayState:
        return ReplayState(0, replications)

    def opening(self, state: ReplayState, learners: int, rounds: int) -> Log:
        source = self.source
        meta = replace(source.meta, horizon=rounds, learners=learners, propensity="exact")
        return source.with_frame(source.frame.clear(), meta)

    def _now(self, state: ReplayState) -> Block:
        """This round's rows, once for each replication: B = R * requests."""
        if state.time >= self.rounds:
            raise ConfigError(
                f"the log lasts {self.rounds} rounds of {self.requests} rows. Ask for "
                f"rounds={self.rounds} or fewer."
            )
        first = state.time * self.requests
        part = self.rows[first : first + self.requests]
        return part if state.replications == 1 else cat([part] * state.replications)

    def observe(self, state: ReplayState) -> Context:
        return replace(self._now(state).context, time=state.time)

    def values(self, state: ReplayState) -> Tensor:
        """Unknown: NaN but for the logged item, whose reward it is. (B, n_items)."""
        block = self._now(state)
        shape = (len(block), self.n_items)
        none = torch.full(shape, torch.nan, dtype=block.feedback.reward.dtype)
        return none.scatter_(1, block.slate.item, block.feedback.reward)

    def respond(
        self, state: ReplayState, slate: Slate, generator: Generator
    ) -> tuple[Feedback, Truth]:
        block = self._now(state)
        p = block.slate.propensity
        assert p is not None
        u = torch.rand(p.shape, generator=generator, dtype=torch.float64, device=p.device)
        hit = (slate.item == block.slate.item) & (u < self.floor / p)  # (B, K)
        reward = block.feedback.reward.where(hit, torch.nan)
        return Feedback(reward), {"reward": reward, "accepted": hit.to(torch.float64)}

    @property
    def floor(self) -> Tensor:
        """The smallest propensity of the log: ()."""
        p = self.rows.slate.propensity
        assert p is not None
        return p.min()

    def step(
        self, state: ReplayState, slate: Slate, truth: Truth, generator: Generator
    ) -> ReplayState:
        return replace(state, time=state.time + 1)


def _rows(log: Log) -> Block:
    if not len(log) or "propensity" not in log.columns:
        raise ConfigError(
            "replay needs a log with rows and their propensities; found "
            f"{len(log)} rows of {list(log.columns)}."
        )
    block = cat([replace(part, part="") for part in log.blocks(1 << 20)])
    if bool(block.slate.propensity.isnan().any()):  # type: ignore[union-attr]
        raise ConfigError("replay needs every row's propensity; some are null. Filter them first.")
    return block


class Replayed(NamedTuple):
    """The mean reward of accepted rows, its standard error, and how many they are."""

    value: float
    se: float
    accepted: int


def replayed(truth: pl.DataFrame, accepted: int | None = None) -> Replayed:
    """What replay says of a policy, from the truth of its run: of its first accepted rows.

    Policies are compared after equal numbers of accepted rows. NaN where there are none.

    Args:
        truth: of a run in `Replay`.
        accepted: how many; None: all.

    Raises:
        ConfigError: fewer were accepted.

    >>> truth = pl.DataFrame({"reward": [1.0, float("nan"), 0.0], "accepted": [1.0, 0.0, 1.0]})
    >>> replayed(truth)
    Replayed(value=0.5, se=0.5, accepted=2)
    """
    kept = truth.filter(pl.col("accepted") > 0)["reward"]
    if accepted is not None and len(kept) < accepted:
        raise ConfigError(
            f"replay accepted {len(kept)} rows, fewer than {accepted}. Take a longer log, or "
            "compare policies at the smallest count."
        )
    kept = kept.head(len(kept) if accepted is None else accepted).cast(pl.Float64)
    mean, sd = kept.mean(), kept.std()
    value = mean if isinstance(mean, float) else float("nan")
    se = sd / len(kept) ** 0.5 if isinstance(sd, float) else float("nan")
    return Replayed(value, se, len(kept))
