"""Estimators of one logger's rows, one shown item each: functions of (rows, mean)."""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.estimate.rows import Estimator, Mean, Rows, known


def ips(t: Rows, mean: Mean) -> Tensor:
    """Inverse propensity scoring, mean(w r): unbiased under common support and right propensities.

    Horvitz and Thompson (1952); Dudik et al. (2014), eq. 2.
    """
    return mean(t.wr)


def cips(t: Rows, mean: Mean, lam: float = 10.0) -> Tensor:
    """Clipped IPS, mean(min(w, lam) r); bias -E[(w - lam)+ q].

    Bottou et al. (2013), section 4.4.
    """
    return mean(t.w.clamp(max=lam) * t.r)


def snips(t: Rows, mean: Mean) -> Tensor:
    """Self-normalised IPS, mean(w r) / mean(w): shifts with the reward, stays in its range.

    Bias -Cov(SNIPS, mean w), of order 1/n. Swaminathan and Joachims (2015), eq. 4.

    >>> from recfb.estimate import average
    >>> two, half = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    >>> float(snips(Rows(two, half, torch.tensor([0.6, 0.2])), average))
    0.75
    """
    return mean(t.wr) / mean(t.w)


def dm(t: Rows, mean: Mean) -> Tensor:
    """Direct method, mean(v): the reward model's word; its bias is E_pi[q_hat - q]."""
    return mean(known(t.v))


def dr(t: Rows, mean: Mean) -> Tensor:
    """Doubly robust, mean(v) + mean(w e): unbiased if the propensities or the model are right.

    Dudik et al. (2014), eq. 9.
    """
    return mean(known(t.v)) + mean(t.we)


def shrink(w: Tensor, lam: float) -> Tensor:
    """Optimistic shrinkage of weights, lam w / (w^2 + lam): 0 at lam = 0, w at lam = inf.

    Su et al. (2020), section 4.2.

    >>> import torch
    >>> shrink(torch.tensor([2.0]), 4.0).tolist()
    [1.0]
    """
    if lam >= 1:
        return w / (1 + w * w / lam)  # no overflow
    return lam * w / (w * w + lam).clamp(min=torch.finfo(w.dtype).tiny)  # no 0 / 0


def dros(t: Rows, mean: Mean, lam: float = 10.0) -> Tensor:
    """Doubly robust with optimistic shrinkage, mean(v) + mean(lam w / (w^2 + lam) e).

    lam = 0 is DM, inf is DR; bias E[(h - w)(q - q_hat)]. Su et al. (2020), section 4.2.
    """
    return mean(known(t.v)) + mean(shrink(t.w, lam) * t.e)


def switch(t: Rows, mean: Mean, lam: float = 10.0) -> Tensor:
    """Switch-DR, mean(v) + mean(w 1[w <= lam] e): the model alone where weights are large.

    lam = 0 is DM, inf is DR. Wang, Agarwal and Dudik (2017), section 4.
    """
    return mean(known(t.v)) + mean(torch.where(t.w <= lam, t.we, 0.0))


def replay(t: Rows, mean: Mean) -> Tensor:
    """Replay: the mean reward of the rows whose item a deterministic target picks too.

    Unbiased under a uniform logger. Without a match 0/0 = NaN, never 0. Li et al. (2011),
    algorithm 3.
    """
    hit = (t.pe == 1).to(t.r.dtype)  # (P, n)
    return mean(hit * t.r) / mean(hit)


def sndr(t: Rows, mean: Mean) -> Tensor:
    """Self-normalised DR, mean(v) + mean(w e) / mean(w): corrects by the mean weighted residual D.

    Bias -Cov(D, mean w), of order 1/n; shifts with the reward. Kallus and Uehara (2019).

    >>> from recfb.estimate import average
    >>> one, half = torch.ones(2), torch.tensor([0.5, 0.5])
    >>> float(sndr(Rows(one, half, torch.tensor([0.6, 0.2]), v=one, q=half), average))
    1.5
    """
    return mean(known(t.v)) + mean(t.we) / mean(t.w)


def cdr(t: Rows, mean: Mean, lam: float = 10.0) -> Tensor:
    """Clipped DR, mean(v + min(w, lam) e): lam = 0 is DM, inf is DR; bias E[(h - w)(q - q_hat)].

    Su et al. (2020), pessimistic shrinkage.

    >>> from recfb.estimate import average
    >>> one = torch.ones(1)
    >>> float(cdr(Rows(3 * one, 0.1 * one, one, v=one, q=one), average, lam=2.0))
    5.0
    """
    return mean(known(t.v) + t.w.clamp(max=lam) * t.e)


def harmonic(w: Tensor, lam: float) -> Tensor:
    """Weights bounded by 1/lam, w / (1 - lam + lam w): w at lam = 0, 1 (or 0) at lam = 1.

    The weighted harmonic mean of w and 1. Metelli, Russo and Restelli (2021), s = -1.

    >>> harmonic(torch.tensor([0.0, 1.0, 3.0]), 0.5).tolist()
    [0.0, 1.0, 1.5]
    """
    return w / (1 - lam + lam * w).clamp(min=torch.finfo(w.dtype).tiny)


def sgips(t: Rows, mean: Mean, lam: float = 0.1) -> Tensor:
    """Sub-Gaussian IPS, mean(h r) with h = w / (1 - lam + lam w); bias E[(h - w) q].

    0 <= lam <= 1. The order that minimises its bound is sqrt(2 log(1/delta) / (3 n mean(w^2))).
    Metelli, Russo and Restelli (2021).

    >>> from recfb.estimate import average
    >>> one = torch.ones(1)
    >>> float(sgips(Rows(one, 0.25 * one, 0.75 * one), average, lam=0.5))
    1.5
    """
    return mean(harmonic(t.w, lam) * t.r)


def sgdr(t: Rows, mean: Mean, lam: float = 0.1) -> Tensor:
    """Sub-Gaussian DR, mean(v + h e) with h = w / (1 - lam + lam w); bias E[(h - w)(q - q_hat)].

    lam = 0 is DR. Metelli, Russo and Restelli (2021).

    >>> from recfb.estimate import average
    >>> one = torch.ones(1)
    >>> float(sgdr(Rows(3 * one, 0.25 * one, 0.75 * one, v=one, q=one), average, lam=0.5))
    4.0
    """
    return mean(known(t.v) + harmonic(t.w, lam) * t.e)


def ix(t: Rows, mean: Mean, gamma: float = 0.01) -> Tensor:
    """Implicit exploration, mean(r pe / (p + gamma)): for rewards >= 0 a lower estimate.

    Bias -E_pi[gamma / (p + gamma) q]. Neu (2015).

    >>> from recfb.estimate import average
    >>> one = torch.ones(1)
    >>> float(ix(Rows(one, 0.25 * one, one), average, gamma=0.25))
    2.0
    """
    return mean(t.r * t.pe / (t.p + gamma))


def cvips(t: Rows, mean: Mean) -> Tensor:
    """IPS with the control variate mean w, mean(w r) - b (mean(w) - 1), b = cov(w r, w) / var(w).

    Bias -Cov(b, mean w), of order 1/n; its variance is at most that of IPS, to first order. Where
    all weights are equal b is 0. Owen (2013), chapter 9.

    >>> from recfb.estimate import average
    >>> rows = Rows(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.6, 0.2]))
    >>> round(float(cvips(rows, average)), 6)
    1.0
    """
    w, wr, ww = mean(t.w), mean(t.wr), mean(t.ww)
    var, cov = ww - w * w, mean(t.w * t.wr) - w * wr
    spread = var > 1e-12 * ww
    return wr - torch.where(spread, cov / torch.where(spread, var, 1.0), 0.0) * (w - 1)


def mrdr(t: Rows, mean: Mean) -> Tensor:
    """More robust DR: `dr` with the reward model that makes its variance least; unbiased as DR is.

    Farajtabar, Chow and Ghavamzadeh (2018); `evaluation.mrdr` fits the model.

    >>> from recfb.estimate import average
    >>> one = torch.ones(1)
    >>> float(mrdr(Rows(3 * one, 0.5 * one, one, vm=one, qm=2 * one), average))
    3.0
    """
    return dr(t.robust, mean)


UNSHRUNK: dict[Estimator, Estimator] = {
    cips: ips,
    sgips: ips,
    ix: ips,
    cdr: dr,
    dros: dr,
    switch: dr,
    sgdr: dr,
}
"""Which estimator a biased one becomes without its shrinkage: their difference estimates the bias
(gate G14)."""
