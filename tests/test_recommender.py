"""The LightningModule around a scorer, an objective and a sampler."""

from __future__ import annotations

from typing import Any, ClassVar

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from recfb import Recommender, fit
from recfb.contracts import Batch, Component, Context, Step, describe
from recfb.data import Log
from recfb.errors import ConfigError, LogError, UnboundError
from recfb.exposures import Popularity
from recfb.objectives import BCE, BPR, RelMF
from recfb.optim import Adam
from recfb.random import stream
from recfb.samplers import AllPairs, Clicks
from recfb.scorers import MF

QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}


def named(log: Log) -> Log:
    """The same clicks with words for ids."""
    words = log.decode().with_columns(
        pl.format("u{}", "user").alias("user"), pl.format("i{}", "item").alias("item")
    )
    return Log.of(words)


# ---- pairing


def test_mixed_up_components_say_what_goes_with_what() -> None:
    with pytest.raises(ConfigError, match=r"RelMF does not go with samplers.Clicks.*AllPairs"):
        Recommender(MF(), RelMF(Popularity()), Clicks())
    with pytest.raises(ConfigError, match=r"BPR does not go with samplers.AllPairs.*Clicks"):
        Recommender(MF(), BPR(), AllPairs())
    Recommender(MF(), BCE(), AllPairs())
    Recommender(MF(), BCE(), Clicks())


# ---- description


def test_it_shows_as_the_call_that_makes_it() -> None:
    model = Recommender(MF(dim=8), RelMF(Popularity(power=0.7)), AllPairs(), optimizer=Adam(lr=0.1))
    shown = "RelMF(Popularity(power=0.7)), AllPairs(), optimizer=Adam(lr=0.1, schedule=None))"
    assert repr(model) == f"Recommender(MF(dim=8), {shown}"
    page = describe(model)
    assert page["class_path"] == "recfb.Recommender"
    assert page["init_args"]["objective"]["init_args"]["exposure"]["init_args"] == {
        "power": 0.7,
        "of": "clicks",
    }


# ---- a model


def test_it_answers_as_its_scorer(small_log: Log) -> None:
    model = Recommender(MF(dim=3), BPR(), Clicks())
    model.bind(small_log)
    model.reset(stream(0))
    context = Context(torch.tensor([2, 0]))
    assert torch.equal(model.scores(context), model.scorer.all(context.user))
    item = torch.tensor([4, 1])
    assert torch.equal(model.score_of(context, item), model.scorer(context.user, item))
    assert torch.equal(model.top(context, 2), model.scorer.top(context, 2))
    assert torch.equal(model(context.user, item), model.scorer(context.user, item))
    few = Context(context.user, candidates=torch.tensor([[4, 0], [1, 1]]))
    assert model.scores(few).shape == (2, 2)


def test_unbound_says_so(small_log: Log) -> None:
    model = Recommender(MF(dim=3), BPR(), Clicks())
    with pytest.raises(UnboundError, match="fit"):
        model.scores(Context(torch.tensor([0])))
    model.bind(small_log)
    with pytest.raises(UnboundError, match="fit"):
        model.recommend([0], 1)
    assert not hasattr(model, "vocabulary")


# ---- recommend


def test_recommend_speaks_original_ids(small_log: Log) -> None:
    log = named(small_log)
    model = fit(log, Recommender(MF(dim=3), BCE(), AllPairs()), max_epochs=2, **QUIET)
    table = model.recommend(["u1", "u0", "nobody", "u1"], k=2)
    assert table.columns == ["user", "rank", "item", "by"]
    assert table["user"].to_list() == ["u1", "u1", "u0", "u0", "nobody", "nobody", "u1", "u1"]
    assert table["rank"].to_list() == [1, 2] * 4
    assert table["by"].to_list() == ["model"] * 4 + ["popularity"] * 2 + ["model"] * 2
    pairs = set(table.select("user", "item").iter_rows())
    clicked = set(log.decode().filter(pl.col("reward") > 0).select("user", "item").iter_rows())
    assert not pairs & clicked
    assert table.filter(pl.col("user") == "nobody")["item"][0] == "i0"  # clicked by two users
    everything = model.recommend(["u0"], k=99)  # 4 items in this log, one of them clicked
    assert everything.height == 3


def test_a_user_who_has_everything_gets_nothing() -> None:
    log = Log.of({"user": [0, 0, 1], "item": [0, 1, 0], "reward": [1, 1, 1]})
    model = fit(log, Recommender(MF(dim=2), BCE(), AllPairs()), max_epochs=1, **QUIET)
    table = model.recommend([0, 1], k=2)
    assert table.select("user", "item").rows() == [(1, 1)]


def test_a_user_in_the_vocabulary_without_a_click_gets_popularity() -> None:
    log = Log.of({"user": [0, 1], "item": [0, 1], "reward": [1, 0]})
    model = fit(log, Recommender(MF(dim=2), BCE(), AllPairs()), max_epochs=1, **QUIET)
    assert model.recommend([1], k=1).rows() == [(1, 1, 0, "popularity")]


def test_recommend_refuses_nonsense(small_log: Log) -> None:
    model = fit(small_log, Recommender(MF(dim=2), BCE(), AllPairs()), max_epochs=1, **QUIET)
    with pytest.raises(ConfigError, match="k=0"):
        model.recommend([0], k=0)
    with pytest.raises(LogError, match="user ids"):
        model.recommend(["zero"], k=1)
    assert model.recommend([], k=1).height == 0


# ---- one step


class Probe(BCE):
    """Remembers nothing; its loss is a sum and it owns a parameter with a rate of its own."""

    reduction: ClassVar[str] = "sum"
    slope: nn.Parameter

    def bind(self, log: Log) -> Probe:
        super().bind(log)
        self.slope = nn.Parameter(torch.ones(1))
        return self

    def groups(self) -> Any:
        yield {"params": [self.slope], "lr": 0.5}

    def penalty(self, batch: Batch) -> Tensor:
        return self.slope.square().sum()

    def constrain(self) -> None:
        self.slope.clamp_(min=0.25)


def test_a_sum_scales_the_penalty_with_the_batch(small_log: Log) -> None:
    model = Recommender(MF(dim=2, l2=0.0), Probe(), AllPairs(draw="uniform"))
    model.bind(small_log)
    model.reset(stream(0))
    user = torch.tensor([0, 1, 2])
    batch = Batch(user, user, torch.ones(3))
    losses = model.objective(model.scorer, batch)
    assert torch.allclose(model.loss(batch, Step()), losses.sum() + 3 * 1.0)


def test_objectives_own_parameters_groups_and_constraints(small_log: Log) -> None:
    model = Recommender(MF(dim=2), Probe(), AllPairs(draw="uniform"))
    fit(small_log, model, max_epochs=30, **QUIET)
    assert model.objective.slope.item() == 0.25
    rates = [group["lr"] for group in model.configure_optimizers().param_groups]
    assert sorted(set(rates)) == [0.1, 0.5]


def test_dropout_does_not_touch_the_global_generator(small_log: Log) -> None:
    class Noisy(MF):
        def __init__(self, dim: int = 4) -> None:
            super().__init__(dim=dim)
            self.drop = nn.Dropout(0.5)

        def ready(self) -> Noisy:
            return self

        def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
            return super().ready()(user, item) + self.drop(torch.ones(item.shape))

        def penalty(self, batch: Batch) -> float:
            return 0.0

    before = torch.random.get_rng_state()
    models = [
        fit(small_log, Recommender(Noisy(), BCE(), AllPairs()), max_epochs=2, **QUIET)
        for _ in range(2)
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(models[0].scorer.user, models[1].scorer.user)


def test_a_fitted_module_holds_no_trainer(small_log: Log) -> None:
    model = fit(small_log, Recommender(MF(dim=2), BCE(), AllPairs()), max_epochs=1, **QUIET)
    assert model._trainer is None


def test_it_is_a_component(small_log: Log) -> None:
    assert isinstance(Recommender(MF(), BPR(), Clicks()), Component)


# ---- known answer


@pytest.mark.parametrize(
    "model",
    [
        Recommender(MF(dim=4), BPR(), Clicks(negatives=2)),
        Recommender(MF(dim=4, l2=1e-3), RelMF(Popularity()), AllPairs(draw="balanced")),
        Recommender(MF(dim=2, l2=0.02), RelMF(Popularity()), AllPairs(draw="balanced_iw")),
        Recommender(MF(dim=4, l2=1e-3), BCE(), Clicks(negatives=2)),
    ],
    ids=["bpr", "relmf-balanced", "relmf-balanced_iw", "bce"],
)
def test_it_completes_the_checkerboard(model: Recommender, checkerboard: Log) -> None:
    fit(checkerboard, model, max_epochs=60, batch_size=64, **QUIET)
    with torch.no_grad():
        scores = model.scorer.all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    best = torch.where(same, scores, torch.inf).amin(1)
    assert bool((best > torch.where(same, -torch.inf, scores).amax(1)).all())
