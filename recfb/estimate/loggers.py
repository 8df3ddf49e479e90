"""Estimators for logs that several logging policies wrote: naive, weighted, balanced.

Their values keep the loggers' shares of the rows fixed, so standard errors are stratified: the
spread between loggers is no error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.estimate.rows import Mean, Rows, known, logged

SMALL = 1e-12
"""The least variance of a logger, as a share of the pooled one."""


def _strata(t: Rows, mean: Mean, term: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares, means and variances of a column by logger, each (J, ..., P)."""
    share, first, second = [], [], []
    for on in logged(t.logger):  # (n,), one logger at a time: there are few
        share.append(mean(on + 0 * t.pe))
        first.append(mean(on * term))
        second.append(mean(on * term * term))
    part = torch.stack(share)
    floor = part.clamp(min=torch.finfo(torch.float64).tiny)
    centre = torch.stack(first) / floor
    return part, centre, (torch.stack(second) / floor - centre * centre).clamp(min=0)


def stratified(t: Rows, mean: Mean, term: Tensor) -> Tensor:
    """The mean of a column (P, n), with the loggers' shares of the rows taken as fixed.

    sum_j (n_j / n) mean_j(term): the value of mean(term), with the variance
    sum_j (n_j / n)^2 var_j / n_j. Agarwal et al. (2018).

    >>> from recfb.estimate import average
    >>> r, p = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.25, 0.25])
    >>> own = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    >>> rows = Rows(r, p, 0.5 + 0 * p, 0 * p, 0 * p, pbar=0.5 + 0 * p, logger=own)
    >>> round(float(stratified(rows, average, rows.wr)), 4)
    1.25
    """
    share, centre, _ = _strata(t, mean, term)
    return (share.detach() * centre).sum(0)


def precise(t: Rows, mean: Mean, term: Tensor) -> Tensor:
    """The mean of a column (P, n), each logger weighted by its precision.

    sum_j (n_j / var_j) mean_j(term) / sum_j (n_j / var_j), which is mean(lam_j term) with lam_j =
    n / (var_j sum_l n_l / var_l). A var_j of 0 counts as 1e-12 of the pooled variance. Agarwal et
    al. (2018).

    >>> from recfb.estimate import average
    >>> r, p = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.25, 0.25])
    >>> own = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    >>> rows = Rows(r, p, 0.5 + 0 * p, 0 * p, 0 * p, pbar=0.5 + 0 * p, logger=own)
    >>> round(float(precise(rows, average, rows.wr)), 4)
    2.0
    """
    share, centre, var = _strata(t, mean, term)
    pooled = (share * var).sum(0)
    var = torch.maximum(var, SMALL * pooled).clamp(min=torch.finfo(torch.float64).tiny)
    weight = (share / var).detach()
    return (weight * centre).sum(0) / weight.sum(0)


def naive_ips(t: Rows, mean: Mean) -> Tensor:
    """IPS over the pooled rows, each with its own logger's propensity: unbiased, stratified.

    Agarwal et al. (2018).

    >>> from recfb.estimate import average
    >>> r, p = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.25, 0.25])
    >>> own = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    >>> rows = Rows(r, p, 0.5 + 0 * p, 0 * p, 0 * p, pbar=0.5 + 0 * p, logger=own)
    >>> round(float(naive_ips(rows, average)), 4)
    1.25
    """
    return stratified(t, mean, t.wr)


def weighted_ips(t: Rows, mean: Mean) -> Tensor:
    """IPS logger by logger, weighted by precision: sum_j lam_j mean_j(w r), lam_j ~ n_j / var_j.

    Unbiased for fixed weights; with weights from the same rows the bias is of order 1/n. Agarwal et
    al. (2018).

    >>> from recfb.estimate import average
    >>> r, p = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.25, 0.25])
    >>> own = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    >>> rows = Rows(r, p, 0.5 + 0 * p, 0 * p, 0 * p, pbar=0.5 + 0 * p, logger=own)
    >>> round(float(weighted_ips(rows, average)), 4)
    2.0
    """
    return precise(t, mean, t.wr)


def balanced_ips(t: Rows, mean: Mean) -> Tensor:
    """IPS with the mixture of the loggers as propensity: mean(pe / pbar r), pbar = sum_j rho_j
    mu_j.

    Unbiased where the mixture supports the target; its variance is at most the naive one. Agarwal
    et al. (2018), eq. 4.

    >>> from recfb.estimate import average
    >>> r, p = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.25, 0.25])
    >>> own = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    >>> rows = Rows(r, p, 0.5 + 0 * p, 0 * p, 0 * p, pbar=0.5 + 0 * p, logger=own)
    >>> round(float(balanced_ips(rows, average)), 4)
    0.75
    """
    return stratified(t, mean, t.mixed.wr)


def naive_dr(t: Rows, mean: Mean) -> Tensor:
    """DR over the pooled rows, each with its own logger's propensity: unbiased, stratified.

    Kallus, Saito and Uehara (2021).

    >>> from recfb.estimate import average
    >>> r, p = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.25, 0.25])
    >>> own = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    >>> rows = Rows(r, p, 0.5 + 0 * p, 0 * p, 0 * p, pbar=0.5 + 0 * p, logger=own)
    >>> round(float(naive_dr(rows, average)), 4)
    1.25
    """
    return stratified(t, mean, known(t.v) + t.we)


def weighted_dr(t: Rows, mean: Mean) -> Tensor:
    """DR logger by logger, weighted by precision; bias of order 1/n.

    Kallus, Saito and Uehara (2021).

    >>> from recfb.estimate import average
    >>> r, p = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.25, 0.25])
    >>> own = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    >>> rows = Rows(r, p, 0.5 + 0 * p, 0 * p, 0 * p, pbar=0.5 + 0 * p, logger=own)
    >>> round(float(weighted_dr(rows, average)), 4)
    2.0
    """
    return precise(t, mean, known(t.v) + t.we)


def balanced_dr(t: Rows, mean: Mean) -> Tensor:
    """DR with the mixture of the loggers as propensity: mean(v + pe / pbar e). Unbiased.

    Kallus, Saito and Uehara (2021).

    >>> from recfb.estimate import average
    >>> r, p = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.5, 0.5, 0.25, 0.25])
    >>> own = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    >>> rows = Rows(r, p, 0.5 + 0 * p, 0 * p, 0 * p, pbar=0.5 + 0 * p, logger=own)
    >>> round(float(balanced_dr(rows, average)), 4)
    0.75
    """
    return stratified(t, mean, known(t.mixed.v) + t.mixed.we)
