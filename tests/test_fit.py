"""The verb fit: what it gives back, what it refuses, and exact resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from recfb import fit
from recfb.contracts import Batch, Context, Exposure
from recfb.data import Log
from recfb.errors import ConfigError, LogError, PrepareError, RecfbError
from recfb.exposures import Popularity
from recfb.fit import every_epoch
from recfb.objectives import BCE, BPR, IPS, RelMF
from recfb.optim import SGD, Adagrad, Adam, Cosine, Linear, Spec
from recfb.random import stream
from recfb.recommender import Recommender
from recfb.samplers import AllPairs, Clicks, Logged
from recfb.scorers import MF
from recfb.solvers import ALS
from recfb.solvers import Popularity as PopularityModel

QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}


def taste(n_users: int = 40, n_items: int = 30, seed: int = 0) -> Log:
    """Users click items of their own half, with times."""
    user, item = torch.meshgrid(torch.arange(n_users), torch.arange(n_items), indexing="ij")
    u = torch.rand(n_users, n_items, generator=stream(seed))
    keep = (u < 0.45) & ((user % 2) == (item % 2)) | (u < 0.02)
    rows = {"user": user[keep], "item": item[keep], "reward": torch.ones(int(keep.sum()))}
    time = torch.randperm(int(keep.sum()), generator=stream(seed, "time"))
    return Log.of({**rows, "time": time}, n_users=n_users, n_items=n_items)


def bpr(**options: Any) -> Recommender:
    return Recommender(MF(dim=8, l2=0.01), BPR(), Clicks(by="user"), **options)


def weights(model: torch.nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


# ---- what it gives back


def test_it_returns_the_module_fitted_in_evaluation_mode() -> None:
    log, model = taste(), bpr()
    assert fit(log, model, max_epochs=1, **QUIET) is model
    assert not model.training
    assert model.vocabulary is log.vocabulary
    assert torch.equal(model.history.seen.key, log.clicks.key)


def test_one_seed_one_result() -> None:
    log = taste()
    first, second, other = (fit(log, bpr(), seed=s, max_epochs=2, **QUIET) for s in (1, 1, 2))
    assert same(first, second) and not same(first, other)


def test_twenty_epochs_unless_told() -> None:
    epochs = []

    class Count(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            epochs.append(trainer.current_epoch)

    fit(taste(), bpr(), callbacks=Count(), **QUIET)
    assert epochs == list(range(20))
    epochs.clear()
    fit(taste(), bpr(), callbacks=[Count()], max_steps=3, batch_size=100, **QUIET)
    assert len(epochs) <= 2


def test_nothing_is_written_unless_a_folder_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(taste(), bpr(), max_epochs=1, **QUIET)
    assert not list(tmp_path.iterdir())
    fit(taste(), bpr(), max_epochs=2, default_root_dir=tmp_path / "run", **QUIET)
    rows = pl.read_csv(next((tmp_path / "run").rglob("metrics.csv")))
    assert rows["loss"].len() == 2 and rows["loss"][1] < rows["loss"][0]
    assert list((tmp_path / "run").rglob("*.ckpt"))


def test_solvers_are_solved() -> None:
    log = taste()
    model = fit(log, PopularityModel())
    assert torch.equal(model.count, log.clicks.per_item.float())
    assert model.recommend([0], 1).height == 1


@pytest.mark.parametrize(
    "optimizer", [Adagrad(), Adam(lr=0.01), SGD(lr=0.5), Adam(schedule=Cosine())]
)
def test_every_optimiser_trains(optimizer: Spec) -> None:
    log = taste()
    start, end = bpr(optimizer=optimizer), bpr(optimizer=optimizer)
    fit(log, start, max_epochs=1, **QUIET)
    fit(log, end, max_epochs=3, batch_size=64, **QUIET)
    assert not same(start, end)


def test_epochs_are_shuffled_anew_and_rates_follow_the_schedule() -> None:
    rows: list[Tensor] = []
    rates: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, out: Any, batch: Any, i: int
        ) -> None:
            rows.append(batch)
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    log, model = taste(), Recommender(MF(dim=2), BPR(), Clicks(), optimizer=Adam(schedule=Linear()))
    size = -(-len(log.clicks) // 2)
    fit(log, model, max_epochs=2, batch_size=size, callbacks=Watch(), **QUIET)
    assert rates == pytest.approx([1e-3 * share for share in (1.0, 0.75, 0.5, 0.25)])
    first, second = torch.cat(rows[:2]), torch.cat(rows[2:])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)  # every click once an epoch


def test_warm_goes_on_and_grows() -> None:
    log = taste()
    model = fit(log, bpr(), warm=True, max_epochs=2, **QUIET)  # nothing to go on from: reset
    assert same(model, fit(log, bpr(), max_epochs=2, **QUIET))
    before = model.scorer.user.detach().clone()
    more = log.extend(Log.of({"user": [99, 0], "item": [77, 1], "reward": [1, 1]}))
    model.optimizer = SGD(lr=0.0)
    fit(more, model, warm=True, max_epochs=1, **QUIET)
    assert torch.equal(model.scorer.user[:40], before)
    assert model.scorer.user.shape[0] == 41 and model.scorer.item.shape[0] == 31
    cold = fit(log, model, max_epochs=1, **QUIET)
    assert not torch.equal(cold.scorer.user[:40], before)


# ---- resumption


def interrupted(log: Log, folder: Path, optimizer: Spec, steps: int, **options: Any) -> Recommender:
    """Stop at a checkpoint after `steps` steps, resume in a new object to the end."""

    def train(ckpt_path: Path | None) -> Recommender:
        keep = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        again = {"callbacks": [keep, count], "ckpt_path": ckpt_path, "max_epochs": 4}
        return fit(log, bpr(optimizer=optimizer), **again, **options, **QUIET)

    class Count(Callback):
        steps = 0

        def on_train_batch_end(self, *hook: Any) -> None:
            self.steps += 1

    count = Count()

    train(None)
    total, count.steps = count.steps, 0
    path = folder / f"step={steps}.ckpt"
    assert path.exists(), sorted(folder.iterdir())
    for later in folder.glob("*.ckpt"):
        if later != path:
            later.unlink()
    resumed = train(path)
    assert count.steps == total - steps
    return resumed


@pytest.mark.parametrize("optimizer", [Adagrad(), Adam(lr=0.01, schedule=Cosine(warmup=3))])
@pytest.mark.parametrize("steps", [1, 4, 5, 9])
def test_resuming_is_bit_identical(tmp_path: Path, optimizer: Spec, steps: int) -> None:
    log = taste()
    size = -(-len(log.clicks) // 4)  # 4 steps an epoch: 4 is an epoch's end, 9 in the middle
    whole = fit(log, bpr(optimizer=optimizer), max_epochs=4, batch_size=size, **QUIET)
    again = interrupted(log, tmp_path, optimizer, steps, batch_size=size)
    assert same(whole, again)


def test_resuming_with_validation_is_bit_identical(tmp_path: Path) -> None:
    train, valid = taste().split_by_time(0.8)
    options: dict[str, Any] = {"valid": valid, "patience": 9, "batch_size": 60}
    whole = fit(train, bpr(), max_epochs=4, **options, **QUIET)
    again = interrupted(train, tmp_path, Adagrad(), 7, **options)
    assert same(whole, again)


def test_other_steps_give_other_weights(tmp_path: Path) -> None:
    """The comparison above can fail: a run that skips a step ends elsewhere."""
    log = taste()
    whole = fit(log, bpr(), max_steps=8, batch_size=60, **QUIET)
    assert not same(whole, fit(log, bpr(), max_steps=7, batch_size=60, **QUIET))


# ---- checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    fit(taste(), bpr(), max_epochs=1, callbacks=ModelCheckpoint(tmp_path, filename="x"), **QUIET)
    return tmp_path / "x.ckpt"


def test_a_checkpoint_is_plain_data(checkpoint: Path) -> None:
    page = torch.load(checkpoint, weights_only=True)["recfb"]
    assert page["model"]["class_path"] == "recfb.Recommender"
    assert page["model"]["init_args"]["scorer"]["init_args"]["dim"] == 8
    assert (page["n_users"], page["n_items"]) == (40, 30)
    assert page["vocabulary"] == taste().vocabulary.digest


def test_a_checkpoint_of_another_vocabulary_is_refused(checkpoint: Path) -> None:
    names = pl.format("u{}", pl.col("user"))
    other = Log.of(taste().frame, user=names, n_items=30)  # as many users, other ids
    with pytest.raises(ConfigError, match="another vocabulary"):
        fit(other, bpr(), ckpt_path=checkpoint, **QUIET)


def test_a_checkpoint_of_another_model_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="another model"):
        fit(taste(), bpr(optimizer=SGD()), ckpt_path=checkpoint, **QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 3}, r"another seed. The checkpoint has {'seed': 0}, this call {'seed': 3}"),
        ({"batch_size": 99}, "another batch_size"),
        ({"log": "shuffled"}, "another rows. Resume with the same log"),
    ],
)
def test_a_checkpoint_of_other_rows_is_refused(
    checkpoint: Path, change: dict[str, Any], message: str
) -> None:
    log, options = taste(), {**QUIET, **change}
    if options.pop("log", None):
        log = log.with_frame(log.frame.reverse())
    with pytest.raises(ConfigError, match=message):
        fit(log, bpr(), ckpt_path=checkpoint, **options)


def test_addresses_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="address"):
        fit(taste(), bpr(), ckpt_path="https://example.org/x.ckpt", **QUIET)
    with pytest.raises(PrepareError, match="no checkpoint"):
        fit(taste(), bpr(), ckpt_path=tmp_path / "none.ckpt", **QUIET)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("boom",)

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.ckpt")
    with pytest.raises(PrepareError, match="plain data"):
        fit(taste(), bpr(), ckpt_path=tmp_path / "bomb.ckpt", **QUIET)


# ---- validation


def test_the_best_weights_are_kept_and_training_stops() -> None:
    train, valid = taste().split_by_time(0.8)
    seen: list[tuple[float, list[Tensor]]] = []

    class Watch(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.epochs = trainer.current_epoch

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            from recfb import measure

            pl_module.eval()
            table = measure(valid, {"m": pl_module}, metrics=["ndcg@10"], exclude=train)
            pl_module.train()
            seen.append((table["value"][0], weights(pl_module)))

    watch = Watch()
    model = fit(
        train, bpr(optimizer=Adagrad(lr=1.0)), valid=valid, patience=2, callbacks=watch, **QUIET
    )
    values = [value for value, _ in seen]
    best = values.index(max(values))
    assert len(values) == min(20, best + 3)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), seen[best][1], strict=True))


def test_validation_without_clicks_to_find_is_refused() -> None:
    log = taste()
    with pytest.raises(LogError, match="nothing to validate on"):
        fit(log, bpr(), valid=log, **QUIET)
    with pytest.raises(ConfigError, match="monitor"):
        fit(log, bpr(), valid=log, monitor="coverage@10", **QUIET)


# ---- what it refuses


def test_gradient_clip_val_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match="clip"):
        fit(taste(), bpr(), gradient_clip_val=1.0, **QUIET)


def test_solvers_refuse_what_would_do_nothing() -> None:
    with pytest.raises(ConfigError, match="max_epochs"):
        fit(taste(), ALS(dim=2), max_epochs=3)
    with pytest.raises(ConfigError, match="valid"):
        fit(taste(), ALS(dim=2), valid=taste())
    fit(taste(), ALS(dim=2, sweeps=1), accelerator="cpu")


def test_a_bare_scorer_is_refused() -> None:
    with pytest.raises(ConfigError, match="objective and a sampler"):
        fit(taste(), MF())  # type: ignore[type-var]


def test_an_empty_log_is_refused_for_gradients_and_a_prior_for_solvers() -> None:
    with pytest.raises(LogError, match="nothing to learn from: Clicks"):
        fit(Log.empty(3, 4), bpr(), **QUIET)
    assert fit(Log.empty(3, 4), ALS(dim=2)).all(torch.tensor([0])).tolist() == [[0.0] * 4]


def test_rewards_that_are_all_the_same_teach_nothing() -> None:
    log = taste()
    for sampler in (Logged(), AllPairs(labels="shown")):
        with pytest.raises(LogError, match=r"all \d+ revealed rewards are 1, .*samplers\.Clicks"):
            fit(log, Recommender(MF(dim=2), IPS(Popularity()), sampler), **QUIET)


class Wrong(Exposure):
    """A user's own exposure, with a mistake."""

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake

    def forward(self, batch: Batch) -> Tensor:
        theta = torch.full(batch.item.shape, 0.5)
        if self.mistake == "length":
            return theta[:-1]
        return theta.masked_fill(batch.item == 0, {"zero": 0.0, "nan": torch.nan}[self.mistake])


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("length", r"shape \(585,\) for items of shape \(586,\): return .*theta\[batch\.item\]"),
        ("zero", r"outside \(0, 1\], for example 0\..*theta\.clamp\(1e-3, 1\)"),
        ("nan", r"outside \(0, 1\], for example nan"),
    ],
)
def test_an_exposure_that_is_no_probability_is_refused(mistake: str, says: str) -> None:
    model = Recommender(MF(dim=2), RelMF(Wrong(mistake)), AllPairs())
    with pytest.raises(ConfigError, match=f"Wrong gives .*{says}"):
        fit(taste(), model, **QUIET)


def test_batch_size_is_positive() -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        fit(taste(), bpr(), batch_size=0, **QUIET)


def test_a_loss_that_is_no_number_stops() -> None:
    with pytest.raises(RecfbError, match="loss is"):
        fit(taste(), bpr(optimizer=SGD(lr=1e30)), batch_size=50, **QUIET)


def test_what_was_good_is_kept(tmp_path: Path) -> None:
    """The loss is finite in the first epoch and no number in the second."""

    class Break(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.scorer.user.data.fill_(torch.nan)

    train, valid = taste().split_by_time(0.8)
    good = fit(train, bpr(), valid=valid, max_epochs=1, **QUIET)
    model, each = bpr(), every_epoch(tmp_path)
    with pytest.raises(RecfbError, match=r"loss is nan in epoch 1.*optim\.Adagrad\(lr=0\.01\)"):
        fit(train, model, valid=valid, callbacks=[Break(), each], **QUIET)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in good.state_dict().items():
        assert torch.equal(model.state_dict()[name], value) and torch.equal(state[name], value)
    assert model.validation is not None and model.validation == good.validation
    assert model.validation.epoch == 1 and model.validation.metric == "ndcg@10"


# ---- clipping


def test_groups_clip_their_gradients() -> None:
    class Clipped(MF):
        def groups(self) -> Any:
            yield {"params": list(self.parameters()), "clip": 1e-3}

    log = taste()
    free = Recommender(MF(dim=8, l2=0.0), BPR(), Clicks(), optimizer=SGD(lr=1.0))
    tight = Recommender(Clipped(dim=8, l2=0.0), BPR(), Clicks(), optimizer=SGD(lr=1.0))
    moved = []
    for model in (free, tight):
        fit(log, model, max_steps=1, **QUIET)
        start = type(model.scorer)(dim=8, l2=0.0).bind(log)
        start.reset(stream(0))
        after = weights(model)
        model.reset(stream(0, "reset"))
        before = weights(model)
        gaps = [(a - b).square().sum() for a, b in zip(after, before, strict=True)]
        moved.append(float(torch.stack(gaps).sum().sqrt()))
    assert moved[1] == pytest.approx(1e-3, rel=1e-3) and moved[0] > 2e-3


def test_large_batches_give_the_same_result() -> None:
    log = taste()
    a, b = (fit(log, bpr(), batch_size=size, max_epochs=2, **QUIET) for size in (1 << 15, 9999))
    assert same(a, b)


def test_relmf_and_bce_run() -> None:
    log = taste()
    for model in (
        Recommender(MF(dim=4), RelMF(Popularity()), AllPairs()),
        Recommender(MF(dim=4), BCE(), Clicks(negatives=4)),
    ):
        fit(log, model, max_epochs=1, **QUIET)
        batch = Batch(torch.tensor([0]), torch.tensor([1]), torch.ones(1))
        assert model(batch.user, batch.item).shape == (1,)
        assert model.top(Context(torch.tensor([0])), 3).shape == (1, 3)
