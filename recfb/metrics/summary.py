"""Tables of metrics over replications and seeds: means with intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recfb.errors import ConfigError, nearest

if TYPE_CHECKING:
    import polars as pl

KEYS = ("policy", "seed", "replication", "round")


def summarise(
    table: pl.DataFrame, metrics: Sequence[str] | None = None, *, alpha: float = 0.05
) -> pl.DataFrame:
    """Means over the replications by policy and round, with Student intervals.

    Returns one row a policy, round and metric: `mean`, `lower`, `upper` and `n`, the replications
    where the metric is defined. One of them has no interval.

    Args:
        table: `Run.metrics` or `Run.probes`; several seeds in one table need the column `seed`.
        metrics: which columns; None: all that are no key.
        alpha: error rate of each interval.

    Raises:
        ConfigError: a column that the table lacks, the same replication twice, or an error rate
            outside (0, 1).

    >>> import polars as pl
    >>> rows = {"policy": ["a"] * 2, "replication": [0, 1], "round": [0, 0], "gini": [0.25, 0.75]}
    >>> [round(x, 3) for x in summarise(pl.DataFrame(rows)).row(0)[3:]]
    [0.5, -2.677, 3.677, 2]
    """
    names = _asked(table, metrics)
    return _intervals(_long(table, names), names, alpha)


def paired(
    table: pl.DataFrame, base: str, metrics: Sequence[str] | None = None, *, alpha: float = 0.05
) -> pl.DataFrame:
    """Differences from the base policy by policy and round: those of the same replication, which
    met the same random numbers, so their interval is narrower than that of two means.

    Returns one row a policy other than the base, round and metric, as `summarise` does.

    Args:
        table: `Run.metrics` of all policies; several seeds in one table need the column `seed`.
        base: the policy whose numbers are subtracted.
        metrics: which columns; None: all that are no key.
        alpha: error rate of each interval.

    Raises:
        ConfigError: no such policy, and as `summarise`.

    >>> import polars as pl
    >>> rows = {"policy": ["a", "a", "b", "b"], "replication": [0, 1, 0, 1], "round": [0] * 4}
    >>> table = pl.DataFrame({**rows, "gini": [0.5, 0.7, 0.6, 0.8]})
    >>> [round(x, 6) for x in paired(table, base="a").row(0)[3:]]
    [0.1, 0.1, 0.1, 2]
    """
    import polars as pl

    names = _asked(table, metrics)
    policies = table["policy"].unique().to_list()
    if base not in policies:
        raise ConfigError(
            f"there is no policy {base!r} in the table; there are {sorted(policies)}."
            f"{nearest(base, policies)}"
        )
    rows = _long(table, names)
    mine = [name for name in rows.columns if name not in ("policy", "value")]
    other = rows.filter(pl.col("policy") == base).drop("policy").rename({"value": "base"})
    both = rows.filter(pl.col("policy") != base).join(other, on=mine, how="inner")
    return _intervals(both.with_columns(pl.col("value") - pl.col("base")), names, alpha)


def _asked(table: pl.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    """The columns to look at, after a look at the keys."""
    lacking = [key for key in ("policy", "replication", "round") if key not in table.columns]
    names = [name for name in table.columns if name not in KEYS]
    wrong = lacking + [name for name in metrics or () if name not in names]
    if wrong:
        raise ConfigError(
            f"the table has no column {wrong[0]!r}; it has {table.columns}. Pass `Run.metrics`."
        )
    keys = [key for key in KEYS if key in table.columns]
    if table.select(keys).is_duplicated().any():
        raise ConfigError(
            "the table has a policy, replication and round twice. Several seeds need a column: "
            'run.metrics.with_columns(pl.lit(seed).alias("seed"))'
        )
    return list(metrics) if metrics is not None else names


def _long(table: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """One row a key and metric that is defined: columns `metric` and `value`."""
    import polars as pl

    keys = [key for key in KEYS if key in table.columns]
    rows = table.with_columns(pl.col(names).cast(pl.Float64).fill_nan(None))
    rows = rows.unpivot(names, index=keys, variable_name="metric", value_name="value")
    return rows.drop_nulls("value")


def _intervals(rows: pl.DataFrame, names: Sequence[str], alpha: float) -> pl.DataFrame:
    import polars as pl
    from scipy.special import stdtrit

    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is an error rate in (0, 1), found {alpha}. Try alpha=0.05")
    order = pl.Enum(list(names))
    value = pl.col("value")
    table = rows.group_by("policy", "round", pl.col("metric").cast(order)).agg(
        mean=value.mean(), se=value.std() / value.len().sqrt(), n=value.len()
    )
    t = stdtrit((table["n"] - 1).to_numpy().astype(float), 1 - alpha / 2)
    half = pl.col("se") * pl.Series(t).fill_nan(None)
    table = table.with_columns(lower=pl.col("mean") - half, upper=pl.col("mean") + half)
    table = table.sort("policy", "metric", "round").with_columns(pl.col("metric").cast(pl.String))
    return table.select("policy", "round", "metric", "mean", "lower", "upper", "n")


__all__ = ["paired", "summarise"]
