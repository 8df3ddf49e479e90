"""Items with two texts, one by a human and one by a machine: the source echo chamber."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Round, Slate, Truth, World
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.metrics.sources import source_metrics
from recfb.random import spawn
from recfb.worlds.clicks import ClickModel
from recfb.worlds.copies import normal, split, unit
from recfb.worlds.texts import DrawnTexts, Texts, TextSource

HISTORY, HALF = 10, 4  # of a user's items: the history, and each half of the clicks to learn from
_TEMPERATURE = 1.5  # of the Gumbel draw of a user's items


@dataclass(frozen=True, slots=True)
class SourcesState:
    """The texts, who has bought what, and this round's requests."""

    time: int
    texts: Texts
    shelf: Tensor  # (U, HISTORY + 2 HALF + 1) items of each user: history, halves, test click
    ratio: Tensor  # () share of machine-written texts among the last clicks
    clicked: Tensor  # (B,) the item that is wanted
    candidates: Tensor  # (B, 2 C) both texts of the candidates
    history: Tensor  # (B, HISTORY) texts
    opening: Tensor  # (B, C) human texts: what was shown before, the click first
    test: Tensor  # (U, C, 2) both texts of each user's test click and other items
    coin: Tensor  # (U, HISTORY) in [0, 1): which test histories are machine-written at a ratio


class Sources(World[SourcesState]):
    """Every item has two texts of one meaning: item i the human one, item n + i the machine's copy.

    Each user owns items drawn by taste; a user's items of one half are requests of even rounds,
    those of the other of odd rounds. In a request the user wants one of them, and is shown texts of
    it and of others. Whatever the provenance, a text is wanted for its item:

        utility(u, i) = sharpness taste_u . c_i + style z_i     of the human text x_i = c_i + z_i a

    The platform holds the user's history, in which each text is replaced by its copy with the
    probability of a machine-written click in the round before: the loop of Zhou et al., "Exploring
    the escalation of source bias in user, data, and recommender system feedback loop" (2025). Of
    the wanted item's texts the user clicks the one placed better.

    With `GradualTexts` the copies arrive over time: what is not yet written is in no request and no
    history; in the place of a copy a request has the human text of another item.

    `opening` holds clicks on human texts, at time -1. `log.items` has the vectors `x`, those of a
    rewrite of each text `rewrite` (for a human text its copy, for a copy its copy), `source` (1 for
    the machine), `original` (the human text of the item) and `twin` (the item's other text). Round
    t of the published loop is the training before round t; see `echoed` for its metrics.

    Args:
        texts: the items' vectors; default `DrawnTexts()`.
        n_users: users, each with four requests a round.
        sharpness: how much users differ in what they want.
        style: how much they want human texts that sound like a machine: the seed of the bias.
        candidates: items of a request; None: the whole catalogue, both texts of everything.
        eta: of the texts of the wanted item the j-th best placed is clicked with probability
            proportional to j^-eta; negative: always the best placed.
        source_taste: added to the log-odds of machine-written ones: users like them. Needs
            eta >= 0.
        clicks: what is examined; default everything.

    Raises:
        ConfigError: too few users, items or candidates; a taste that cannot act.

    >>> from recfb.random import stream
    >>> world = Sources(DrawnTexts(60), n_users=5)
    >>> world.observe(world.start(stream(0))).candidates.shape
    torch.Size([20, 10])
    """

    def __init__(
        self,
        texts: TextSource | None = None,
        *,
        n_users: int = 1000,
        sharpness: float = 6.0,
        style: float = 0.3,
        candidates: int | None = 5,
        eta: float = -1.0,
        source_taste: float = 0.0,
        clicks: ClickModel | None = None,
    ) -> None:
        super().__init__()
        self.texts = DrawnTexts() if texts is None else texts
        owned, pairs = HISTORY + 2 * HALF + 1, self.texts.n
        if n_users < 1 or pairs <= owned or (candidates is not None and candidates < 2):
            raise ConfigError(
                f"Sources needs a user, more than {owned} items and at least 2 candidates, found "
                f"{n_users}, {pairs} and {candidates}."
            )
        if source_taste and eta < 0:
            raise ConfigError(
                f"at eta={eta} users click the best placed text whatever they like, so "
                f"source_taste={source_taste} would do nothing. Write eta=0.0 or more."
            )
        self.n_users, self.pairs, self.n_items = n_users, pairs, 2 * pairs
        self.sharpness, self.style, self.candidates = sharpness, style, candidates
        self.eta, self.source_taste, self.clicks = eta, source_taste, clicks

    def start(self, generator: Generator, replications: int = 1) -> SourcesState:
        texts = self.texts.draw(spawn(generator, "texts"))
        content, z = split(texts.human, texts.artefact)  # (n, d), (n,)
        taste = unit(split(normal(generator, self.n_users, content.shape[1]), texts.artefact)[0])
        utility = self.sharpness * taste @ unit(content).T + self.style * z  # (U, n)
        race = torch.rand(utility.shape, generator=generator, device=utility.device)
        keys = _TEMPERATURE * utility - race.clamp(min=1e-30).log().neg().log()
        shelf = keys.topk(HISTORY + 2 * HALF + 1, dim=1).indices  # (U, 19), best drawn first
        first = shelf[:, HISTORY : HISTORY + HALF].reshape(-1)  # (B,)
        test = self._beside(shelf[:, -1], generator)  # (U, C)
        empty = torch.empty(0, device=utility.device)
        state = SourcesState(
            0, texts, shelf, torch.zeros((), device=utility.device), empty, empty, empty,
            opening=self._beside(first, generator),
            test=torch.stack([test, test + self.pairs], 2),  # (U, C, 2)
            coin=torch.rand(self.n_users, HISTORY, generator=generator, device=utility.device),
        )  # fmt: skip
        return self._asked(state, generator)

    def _beside(self, item: Tensor, generator: Generator) -> Tensor:
        """Each item, then others, uniform with replacement: (B,) -> (B, C)."""
        shape = (len(item), (self.candidates or 5) - 1)
        other = torch.randint(self.pairs - 1, shape, generator=generator, device=item.device)
        return torch.cat([item[:, None], other + (other >= item[:, None])], 1)

    def _asked(self, state: SourcesState, generator: Generator) -> SourcesState:
        """The requests of the state's round; histories mixed at its ratio."""
        start = HISTORY + HALF * ((state.time + 1) % 2)  # the half after that of the last training
        clicked = state.shelf[:, start : start + HALF].reshape(-1)  # (B,)
        item = self._beside(clicked, generator)  # (B, C)
        device = item.device
        flip = torch.rand(item.shape, generator=generator, device=device) < 0.5
        pair = torch.stack([item + self.pairs * flip, item + self.pairs * ~flip], 2)  # (B, C, 2)
        history = state.shelf[:, :HISTORY].repeat_interleave(HALF, 0)  # (B, H)
        coin = torch.rand(history.shape, generator=generator, device=device)
        history = history + self.pairs * (coin < state.ratio)
        candidates = pair.flatten(1)  # (B, 2 C)
        here = self.written(state)  # (2n,)
        if here is not None:
            shape = candidates.shape
            instead = torch.randint(self.pairs - 1, shape, generator=generator, device=device)
            instead += instead >= clicked[:, None]  # human texts of other items
            candidates = torch.where(here[candidates], candidates, instead)
            history = torch.where(here[history], history, history % self.pairs)
        return replace(state, clicked=clicked, candidates=candidates, history=history)

    def written(self, state: SourcesState) -> Tensor | None:
        """Which texts there are in the state's round, (2n,) bool; None: all."""
        arrives = state.texts.arrives
        if arrives is None:
            return None
        return torch.cat([torch.ones_like(arrives, dtype=torch.bool), arrives <= state.time])

    def opening(self, state: SourcesState, learners: int, rounds: int) -> Log:
        meta = Meta(
            horizon=rounds, learners=learners, reward_range=(0.0, 1.0), propensity="exact",
            task="clicks",
        )  # fmt: skip
        log = Log.empty(self.n_users, self.n_items, meta=meta).with_items(catalogue(state.texts))
        item, each = state.opening, torch.arange(len(state.opening))  # (B, C), (B,)
        place = torch.arange(item.shape[1]).expand_as(item)
        history = state.shelf[:, :HISTORY].repeat_interleave(HALF * item.shape[1], 0)
        columns = {
            "user": (each // HALF)[:, None].expand_as(item),
            "item": item,
            "reward": (place == 0).to(torch.float32),
            "time": torch.full_like(item, -1),
            "position": place + 1,
            "slate": (-1 - each)[:, None].expand_as(item),
        }
        frame = pl.DataFrame({k: v.reshape(-1).cpu().numpy() for k, v in columns.items()})
        frame = frame.cast(
            {"user": pl.Int32, "item": pl.Int32, "position": pl.Int16, "slate": pl.Int64}
        )
        past = pl.Series("history", history.to("cpu", torch.int32).numpy())
        return log.with_frame(frame.with_columns(past))

    def observe(self, state: SourcesState) -> Context:
        user = torch.arange(self.n_users, device=state.shelf.device).repeat_interleave(HALF)
        context = Context(user, time=state.time, history=state.history)
        if self.candidates is not None:
            return replace(context, candidates=state.candidates)
        here = self.written(state)
        return context if here is None else replace(context, available=here[None])

    def respond(
        self, state: SourcesState, slate: Slate, generator: Generator
    ) -> tuple[Feedback, Truth]:
        machine = slate.item >= self.pairs  # (B, K)
        relevant = slate.item % self.pairs == state.clicked[:, None]  # (B, K)
        u = torch.rand((len(relevant), 1), generator=generator, device=relevant.device)
        seen = relevant
        if self.clicks is not None:
            seen = self.clicks.sample(relevant.float(), generator).click > 0
        rank = seen.cumsum(1).clamp(min=1)  # (B, K) among the texts that may be clicked
        weight = (rank == 1).float() if self.eta < 0 else rank.float() ** -self.eta
        weight = seen * weight * (self.source_taste * machine).exp()  # (B, K)
        total = weight.cumsum(1)  # (B, K)
        taken = total - weight
        click = (seen & (u * total[:, -1:] >= taken) & (u * total[:, -1:] < total)).float()
        value = weight / total[:, -1:].clamp(min=1e-12)
        truth = {"reward": click, "relevance": relevant.float(), "value": value}
        return Feedback(click), {**truth, "source": machine.float()}

    def step(
        self, state: SourcesState, slate: Slate, truth: Truth, generator: Generator
    ) -> SourcesState:
        clicks = truth["reward"].sum()
        share = (truth["reward"] * truth["source"]).sum() / clicks.clamp(min=1)
        ratio = torch.where(clicks > 0, share, state.ratio)
        return self._asked(replace(state, time=state.time + 1, ratio=ratio), generator)

    def values(self, state: SourcesState) -> Tensor:
        """1 for each text of the wanted item: (B, n_items)."""
        rows = torch.arange(len(state.clicked), device=state.clicked.device)
        found = torch.zeros(len(rows), self.n_items, device=rows.device)
        found[rows, state.clicked] = found[rows, state.clicked + self.pairs] = 1.0
        here = self.written(state)
        return found if here is None else found * here

    def test(self, state: SourcesState, ratio: Tensor | float | None = None) -> Context:
        """Both texts of each user's test click and of other items, (U, 2 C), the human one of the
        click first; histories machine-written at `ratio`, by default that of the last clicks."""
        share = state.ratio if ratio is None else ratio
        history = state.shelf[:, :HISTORY] + self.pairs * (state.coin < share)  # (U, H)
        here = self.written(state)
        if here is not None:
            history = torch.where(here[history], history, history % self.pairs)
        user = torch.arange(self.n_users, device=history.device)
        return Context(user, state.time, candidates=state.test.flatten(1), history=history)


def catalogue(texts: Texts) -> pl.DataFrame:
    """`log.items` of both texts of every item: id, source, original, twin, x and rewrite."""
    n = len(texts.human)
    item = torch.arange(2 * n)
    x = torch.cat([texts.human, texts.copy]).cpu()  # (2n, d)
    rewrite = torch.cat([texts.copy, texts.again]).cpu()  # (2n, d)
    wide = pl.Array(pl.Float32, x.shape[1])
    return pl.DataFrame(
        {
            "id": pl.Series(item.numpy(), dtype=pl.Int32),
            "source": pl.Series((item >= n).int().numpy(), dtype=pl.Int8),
            "original": pl.Series((item % n).numpy(), dtype=pl.Int32),
            "twin": pl.Series(((item + n) % (2 * n)).numpy(), dtype=pl.Int32),
            "x": pl.Series(x.float().numpy(), dtype=wide),
            "rewrite": pl.Series(rewrite.float().numpy(), dtype=wide),
        }
    )


def echoed(done: Round) -> Mapping[str, Tensor]:
    """A probe: source bias of this round's model on the test clicks of `Sources`, histories mixed
    at the share of machine-written clicks it was trained on, which is `ai_clicks`; see
    `recfb.metrics.sources`."""
    world: Any = done.world
    policy: Any = done.policy
    return echo_of(world, done.state, policy.model) | {"ai_clicks": done.state.ratio.double()}


def echo_of(
    world: Sources, state: SourcesState, model: Any, ratio: float | None = None
) -> dict[str, Tensor]:
    """Source bias of a model on the test clicks, histories machine-written at a given ratio."""
    scores = model.scores(world.test(state, ratio))  # (U, 2 C)
    return source_metrics(scores.view(*state.test.shape))
