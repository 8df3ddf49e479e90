"""How much data is left once clicks are divided by their exposure, and whether the exposure is
right."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recfb.contracts import Batch, Exposure
from recfb.data import Log
from recfb.errors import ConfigError, LogError
from recfb.solvers.relmf import clicked

_SHIFT = 12  # bits of a float32 that a bin leaves out: bins of 0.05 %
_BINS = (0x3F800000 >> _SHIFT) + 1  # 0x3F800000 are the bits of 1.0
_PAIRS = 1 << 22  # pairs of a block

_TABLE: dict[str, type[pl.DataType]] = {
    "exposure": pl.String,
    "clip": pl.Float64,
    "n_clicks": pl.Int64,
    "unknown": pl.Int64,
    "theta_min": pl.Float64,
    "theta_median": pl.Float64,
    "clipped": pl.Float64,
    "max_weight": pl.Float64,
    "ess": pl.Float64,
    "ess_share": pl.Float64,
}
_CALIBRATION: dict[str, type[pl.DataType]] = {
    "exposure": pl.String,
    "decile": pl.Int64,
    "pairs": pl.Int64,
    "clicks": pl.Int64,
    "randomised": pl.Int64,
    "relevance": pl.Float64,
    "theta": pl.Float64,
    "scaled": pl.Float64,
    "implied": pl.Float64,
    "ratio": pl.Float64,
}


@torch.no_grad()
def exposure_table(
    log: Log, exposures: Mapping[str, Exposure], *, clip: float = 0.05
) -> pl.DataFrame:
    """What a log's clicks are worth under each exposure: weights, and how many clicks they leave.

    Every distinct click weighs w = 1 / max(theta, clip), as in `objectives.RelMF`. Clipping changes
    what is estimated, so each exposure has three rows: for half the clip, for the clip itself and
    for twice the clip. See that conclusions do not depend on it.

    Args:
        log: the biased log that would be learned from.
        exposures: a name for each; copies of them are bound to the log.
        clip: exposures below it count as it.

    Returns:
        A frame with the columns exposure, clip, n_clicks (distinct pairs), unknown (clicks without
        an exposure, left out of all that follows), theta_min, theta_median, clipped (share of
        clicks with theta < clip), max_weight, ess (effective sample size, (sum w)^2 / sum w^2) and
        ess_share (of the clicks). A log without clicks gives nulls.

    Raises:
        ConfigError: no exposure, or a clip outside [0, 1].

    >>> from recfb.exposures import Given
    >>> log = Log.of({"user": [0, 1, 1], "item": [0, 0, 1], "reward": [1, 1, 1]})
    >>> table = exposure_table(log, {"oracle": Given([0.5, 0.01])}, clip=0.1)
    >>> table.row(1, named=True)["max_weight"], table["clip"].to_list()
    (10.0, [0.05, 0.1, 0.2])
    """
    if not 0 <= clip <= 1:
        raise ConfigError(f"clip is a probability, found {clip}. Try 0.05, or 0 for no clipping.")
    clicks = clicked(log)
    rows: list[dict[str, object]] = []
    for name, exposure in _bound(log, exposures):
        theta = exposure(clicks).to(torch.float64)  # (P,)
        for at in sorted({clip / 2, clip, min(1.0, 2 * clip)}):
            rows.append({"exposure": name, "clip": at, **_weights(theta, at)})
    return pl.DataFrame(rows, schema=_TABLE)


def _weights(theta: Tensor, clip: float) -> dict[str, object]:
    known = theta[~theta.isnan()]  # (P,)
    counts = {"n_clicks": len(theta), "unknown": len(theta) - len(known)}
    if not len(known):
        return dict(counts)
    weight = 1 / known.clamp(min=clip)
    ess = effective_size(weight)
    return {
        **counts,
        "theta_min": float(known.min()),
        "theta_median": float(np.median(known.numpy())),
        "clipped": float((known < clip).to(weight).mean()),
        "max_weight": float(weight.max()),
        "ess": float(ess),
        "ess_share": float(ess) / len(known),
    }


def effective_size(weight: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2: how many equally weighted rows carry as much, Kish (1965).

    >>> float(effective_size(torch.tensor([1.0, 1.0, 2.0]))).__round__(4)
    2.6667
    """
    return weight.sum().square() / weight.square().sum()


@torch.no_grad()
def exposure_calibration(
    log: Log, exposures: Mapping[str, Exposure], randomised: Log, *, deciles: int = 10
) -> pl.DataFrame:
    """Compares each exposure with the one that a randomised log implies, by decile of theta.

    Clicks are relevance times exposure, and rows of items that were drawn at random show relevance
    alone. So in a group of the catalogue's pairs that have about the same theta, the exposure is

        implied = (clicks of the biased log a pair) / (share of clicks in the randomised rows).

    Exposures are compared up to one constant for each, because most are relative: `scaled` is
    theta times the constant with which it predicts the number of clicks. A ratio implied / scaled
    of 1 in every row is right; above 1, exposure is underrated and clicks weigh too much.

    Exposures of rows (`exposures.Position`) are grouped over the rows of the log, and a row's
    relevance is the share of clicks among the randomised rows of its item; rows of items that have
    none are left out. `exposures.Logged` has no values for pairs that were not shown, so it cannot
    be calibrated.

    Args:
        log: the biased log.
        exposures: a name for each; copies of them are bound to the log.
        randomised: rows of items that were drawn at random, see `Log.split_randomised`. Rows with
            users or items that the log does not know are left out.
        deciles: how many groups; equal values stay together, so that fewer may remain.

    Returns:
        A frame with the columns exposure, decile (from 1, the least exposed), pairs (or rows),
        clicks, randomised (rows), relevance, theta (mean), scaled, implied and ratio; null where
        the group has no randomised row, or none with a click. Costs n_users * n_items values an
        exposure, in blocks.

    Raises:
        ConfigError: no exposure, no decile, or an exposure that only shown rows have.
        LogError: no randomised row with a known reward is left.

    >>> from recfb.exposures import Given
    >>> log = Log.of({"user": [0, 1, 0], "item": [0, 0, 1], "reward": [1, 1, 1]}, n_users=4)
    >>> rows = {"user": [0, 1, 2, 3], "item": [0, 0, 1, 1], "reward": [1, 0, 0, 1]}
    >>> test = Log.of(rows, like=log)
    >>> table = exposure_calibration(log, {"oracle": Given([1.0, 0.5])}, test)
    >>> table["implied"].to_list(), table["ratio"].to_list()
    ([0.5, 1.0], [1.0, 1.0])
    """
    if deciles < 1:
        raise ConfigError(f"deciles is a number of groups, found {deciles}. Try 10.")
    test = randomised.recode(log.vocabulary).filter(pl.col("reward").is_not_null())
    if not len(test):
        raise LogError(
            f"none of the {len(randomised)} randomised rows has a known reward and a user and item "
            "of the log. Read it with the log's vocabulary: Log.read(path, like=log)."
        )
    tables = []
    for name, exposure in _bound(log, exposures):
        by_row = _by_row(exposure)
        sums = _over_rows(name, exposure, log, test) if by_row else _over_pairs(exposure, log, test)
        table = _compared(_grouped(sums, deciles)).with_columns(exposure=pl.lit(name))
        if by_row:
            table = table.with_columns(randomised=pl.lit(None))
        tables.append(table.select(*_CALIBRATION).cast(_CALIBRATION))  # type: ignore[arg-type]
    return pl.concat(tables)


def _bound(log: Log, exposures: Mapping[str, Exposure]) -> Iterator[tuple[str, Exposure]]:
    """Copies of the exposures, bound to the log."""
    if not exposures:
        raise ConfigError(
            "give a name for each exposure: {'popularity': exposures.Popularity(power=0.5)}."
        )
    for name, exposure in exposures.items():
        if not isinstance(exposure, Exposure):
            kind = type(exposure).__name__
            raise ConfigError(f"{name!r} is a {kind}, not an exposure: see recfb.exposures.")
        yield name, copy.deepcopy(exposure).to("cpu").bind(log)


class _Sums(NamedTuple):
    """What is summed over pairs (or rows) of about one theta: float64, (bins,) or (groups,)."""

    pairs: Tensor
    theta: Tensor
    clicks: Tensor
    liked: Tensor  # over randomised rows (or pairs): clicks (or expected ones) ...
    shown: Tensor  # ... and their number, so that liked / shown is relevance


def _binned(theta: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sums of a weight, or counts, by bin of theta, which are ordered as theta is: (bins,)."""
    place = theta.to(torch.float32).view(torch.int32).to(torch.int64) >> _SHIFT  # (n,)
    weight = torch.ones_like(theta) if weight is None else weight
    return torch.bincount(place, weights=weight.to(torch.float64), minlength=_BINS)


def _ids(user: Tensor, item: Tensor) -> Batch:
    return Batch(user, item, torch.zeros(item.shape))


def _by_row(exposure: Exposure) -> bool:
    """Whether it refuses a pair of which nothing but its ids is known."""
    first = torch.zeros(1, dtype=torch.int64)
    try:
        exposure(_ids(first, first))
    except ConfigError:
        return True
    return False


def _over_pairs(exposure: Exposure, log: Log, test: Log) -> _Sums:
    """Over the catalogue, in blocks of users."""
    pairs, total = torch.zeros(2, _BINS, dtype=torch.float64)
    item = torch.arange(log.n_items)
    for user in torch.split(torch.arange(log.n_users), max(1, _PAIRS // log.n_items)):
        block = _ids(user.repeat_interleave(log.n_items), item.repeat(len(user)))  # (block,)
        theta = exposure(block)
        pairs += _binned(theta)
        total += _binned(theta, theta)
    clicks = _binned(exposure(_ids(log.clicks.user, log.clicks.item)))
    theta = exposure(_ids(test.tensor("user"), test.tensor("item")))
    liked = _binned(theta, test.tensor("reward") > 0)
    return _Sums(pairs, total, clicks, liked, _binned(theta))


def _over_rows(name: str, exposure: Exposure, log: Log, test: Log) -> _Sums:
    """Over the rows of the log with a known reward, of items with a randomised row."""
    item, click = test.tensor("item"), (test.tensor("reward") > 0).to(torch.float64)
    count = torch.bincount(item, minlength=log.n_items)  # (n_items,)
    share = torch.bincount(item, weights=click, minlength=log.n_items) / count
    names = [column for column in ("time", "position", "features") if column in log.columns]
    columns = {column: log.tensor(column) for column in ("user", "item", "reward", *names)}
    rows = Batch(**columns)
    rows = rows[(count[rows.item] > 0) & rows.reward.isfinite()]
    try:
        theta = exposure(rows)
    except ConfigError as error:
        raise ConfigError(
            f"{name!r} cannot be calibrated: only rows that were shown have a propensity, so "
            "nothing says how many pairs of a group were not. Leave it out; the gates of "
            "recfb.evaluate check logged propensities."
        ) from error
    number = _binned(theta)
    liked = _binned(theta, share[rows.item])
    return _Sums(number, _binned(theta, theta), _binned(theta, rows.reward > 0), liked, number)


def _grouped(sums: _Sums, deciles: int) -> tuple[Tensor, _Sums]:
    """Bins joined to deciles by the rank of their middle: numbers from 1 and sums, (groups,)."""
    middle = sums.pairs.cumsum(0) - sums.pairs / 2  # (bins,)
    place = (deciles * middle / sums.pairs.sum()).to(torch.int64).clamp(max=deciles - 1)
    joined = [torch.bincount(place, weights=x, minlength=deciles) for x in sums]
    there = joined[0] > 0  # (deciles,)
    return there.nonzero().squeeze(1) + 1, _Sums(*(x[there] for x in joined))


def _compared(groups: tuple[Tensor, _Sums]) -> pl.DataFrame:
    decile, sums = groups
    relevance, theta = sums.liked / sums.shown, sums.theta / sums.pairs  # (groups,)
    expected = sums.pairs * relevance
    implied = sums.clicks / expected
    known = expected.isfinite()
    scale = sums.clicks[known].sum() / (expected * theta)[known].sum()
    columns = {
        "decile": decile,
        "pairs": sums.pairs,
        "clicks": sums.clicks,
        "randomised": sums.shown,
        "relevance": relevance,
        "theta": theta,
        "scaled": scale * theta,
        "implied": implied,
        "ratio": implied / (scale * theta),
    }
    frame = pl.DataFrame({name: column.numpy() for name, column in columns.items()})
    number = pl.col(pl.Float64)
    return frame.with_columns(pl.when(number.is_finite()).then(number))
