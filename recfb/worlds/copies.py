"""Machine-written copies of texts, as vectors: how they are made, and how real ones are described.

An item's text is a vector x = c + z a: its content c, and z of a unit artefact direction a, which
is how much it sounds like a machine. A copy keeps most of the content and shifts z.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from recfb.errors import ConfigError

_FOLDS, _NEWTON, _RIDGE = 5, 12, 1.0


def split(x: Tensor, artefact: Tensor) -> tuple[Tensor, Tensor]:
    """x = c + z a: vectors (n, d) and a unit direction (d,) -> c (n, d), z (n,).

    >>> split(torch.tensor([[3.0, 4.0]]), torch.tensor([0.0, 1.0]))
    (tensor([[3., 0.]]), tensor([4.]))
    """
    z = x @ artefact  # (n,)
    return x - z[:, None] * artefact, z


@dataclass(frozen=True)
class Copies:
    """How a text becomes a copy of it, without a language model.

        c' = (kappa c / |c| + sqrt(1 - kappa^2) eps) |c|      eps a random unit vector, orthogonal
        z' = gamma z + (delta + noise xi) |c|                 to a and c;  xi ~ N(0, 1)

    Copying twice gives the copy of a copy: with gamma < 1 the style of repeated copies goes to
    delta |c| / (1 - gamma). At kappa = gamma = 1 and delta = noise = 0 a copy is its original.

    Args:
        kappa: cos(c, c'): how much of the meaning is kept.
        delta: the shift along the artefact, in lengths of the content.
        gamma: contraction of the style: generated texts sound more alike.
        noise: of the style.
        focus: what components of c outside its first `rank` principal directions are multiplied by;
            1 leaves them.
        rank: how many directions are left as they are.

    Raises:
        ConfigError: kappa, gamma or focus outside [0, 1], a negative noise, no direction.

    >>> from recfb.random import stream
    >>> a, x = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([[2.0, 0.0, 0.5]])
    >>> Copies(kappa=1.0, delta=0.2, gamma=0.5)(x, a, stream(0))
    tensor([[2.0000, 0.0000, 0.6500]])
    """

    kappa: float = 0.98
    delta: float = 0.2
    gamma: float = 1.0
    noise: float = 0.0
    focus: float = 1.0
    rank: int = 8

    def __post_init__(self) -> None:
        shares = {"kappa": self.kappa, "gamma": self.gamma, "focus": self.focus}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} of copies is in [0, 1], found {value}.")
        if self.noise < 0 or self.rank < 1:
            raise ConfigError(
                "copies have a noise of at least 0 and a rank of at least 1, found "
                f"noise={self.noise} and rank={self.rank}."
            )

    def __call__(self, x: Tensor, artefact: Tensor, generator: Generator) -> Tensor:
        """The copies of texts: (n, d), (d,) -> (n, d). Texts without content keep their style."""
        c, z = split(x, artefact)  # (n, d), (n,)
        size = c.norm(dim=1, keepdim=True)  # (n, 1)
        unit = c / size.clamp(min=1e-12)
        eps, _ = split(normal(generator, *x.shape), artefact)  # (n, d)
        eps = eps - (eps * unit).sum(1, keepdim=True) * unit
        eps = eps / eps.norm(dim=1, keepdim=True)
        content = (self.kappa * unit + (1 - self.kappa**2) ** 0.5 * eps) * size  # (n, d)
        if self.focus < 1:
            content = focused(content, c, self.rank, self.focus)
        xi = normal(generator, len(x))  # (n,)
        style = self.gamma * z + (self.delta + self.noise * xi) * size[:, 0]  # (n,)
        copy: Tensor = content + style[:, None] * artefact
        return copy


def focused(x: Tensor, like: Tensor, rank: int, factor: float) -> Tensor:
    """x with its components outside the first principal directions of `like` multiplied by
    `factor`: (n, d), (m, d) -> (n, d).

    >>> focused(torch.ones(1, 2), torch.tensor([[5.0, 0.0], [-5.0, 0.1]]), 1, 0.5).round(decimals=1)
    tensor([[1.0000, 0.5000]])
    """
    main: Tensor = torch.linalg.svd(like, full_matrices=False).Vh[:rank]  # (rank, d)
    kept = x @ main.T @ main  # (n, d)
    shrunk: Tensor = kept + factor * (x - kept)
    return shrunk


def normal(generator: Generator, *shape: int) -> Tensor:
    """Standard normal draws on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1: (..., d) -> (..., d)."""
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length.clamp(min=1e-12)


def artefact(human: Tensor, generated: Tensor) -> Tensor:
    """The estimated artefact direction mean(x' - x) / |mean(x' - x)|: (n, d), (n, d) -> (d,).

    >>> artefact(torch.zeros(2, 2), torch.tensor([[0.0, 2.0], [0.0, 4.0]]))
    tensor([0., 1.])
    """
    change = generated.double() - human.double()  # (n, d)
    return unit(change.mean(0)).to(human)


@dataclass(frozen=True)
class CopyFit:
    """What pairs of texts and copies look like to the one-direction model of `Copies`.

    `direction`: the artefact v, the normalised mean difference; `delta`: mean (x' - x) . v over
    the mean length of the content; `share`: of E|x' - x|^2 that lies on v; `kappa`: mean cosine of
    the contents; `gamma`: slope of x' . v on x . v; `noise`: deviation around that line, in lengths
    of the content; `shift`: its intercept, likewise: the delta of `copies`; `auc`: how well a
    logistic probe tells copies from originals, 5-fold by item: .5 not at all.
    """

    direction: Tensor  # (d,)
    delta: float
    share: float
    kappa: float
    gamma: float
    noise: float
    shift: float
    auc: float

    @property
    def copies(self) -> Copies:
        """The parametric twin: copies with these statistics."""
        kappa, gamma = min(1.0, max(0.0, self.kappa)), min(1.0, max(0.0, self.gamma))
        return Copies(kappa, self.shift, gamma, noise=self.noise)


def fit_copies(human: Tensor, generated: Tensor) -> CopyFit:
    """Describe pairs of texts and their copies: (n, d), (n, d).

    >>> from recfb.random import stream
    >>> g = stream(0)
    >>> a, x = torch.eye(16)[0], torch.randn(400, 16, generator=g)
    >>> found = fit_copies(x, Copies(0.9, 0.6, 0.5)(x, a, g))
    >>> round(found.kappa, 1), round(found.gamma, 1), abs(found.shift - 0.6) < 0.02
    (0.9, 0.5, True)
    """
    x, y = human.double(), generated.double()
    v = artefact(x, y)  # (d,)
    (c, z), (content, style) = split(x, v), split(y, v)
    size = float(c.norm(dim=1).mean())
    centred = z - z.mean()
    spread = float(centred.square().sum())
    gamma = float((centred * style).sum()) / spread if spread > 0 else 1.0
    rest = style - style.mean() - gamma * centred  # (n,)
    change = y - x  # (n, d)
    return CopyFit(
        direction=v.to(human),
        delta=float((change @ v).mean()) / size,
        share=float((change @ v).square().sum() / change.square().sum()),
        kappa=float((unit(c) * unit(content)).sum(1).mean()),
        gamma=gamma,
        noise=float(rest.std()) / size,
        shift=float((style - gamma * z).mean()) / size,
        auc=provenance_auc(human, generated),
    )


def provenance_auc(human: Tensor, generated: Tensor) -> float:
    """How well a logistic probe tells copies from originals on items it has not seen: the area
    under the curve of 5 folds by item, .5 for not at all. (n, d), (n, d).

    >>> x = torch.linspace(0, 1, 10)[:, None]
    >>> provenance_auc(x, x + 2.0)
    1.0
    """
    n = len(human)
    x = torch.cat([human, generated]).double()  # (2n, d)
    x = torch.cat([(x - x.mean(0)) / x.std(0).clamp(min=1e-12), x.new_ones(2 * n, 1)], 1)
    label = (torch.arange(2 * n, device=x.device) >= n).double()  # (2n,)
    fold = torch.arange(n, device=x.device).repeat(2) % min(_FOLDS, n)  # (2n,)
    score = torch.zeros_like(label)
    for k in range(min(_FOLDS, n)):
        held = fold == k
        score[held] = x[held] @ _logistic(x[~held], label[~held])
    order = torch.cat([score[:n], score[n:]])
    below = (order[n:, None] > order[None, :n]).double()  # (n, n)
    ties = (order[n:, None] == order[None, :n]).double()
    return float((below + ties / 2).mean())


def _logistic(x: Tensor, label: Tensor) -> Tensor:
    """Weights of a ridge logistic regression by Newton's method: (n, D), (n,) -> (D,)."""
    w = x.new_zeros(x.shape[1])
    ridge = _RIDGE * torch.eye(len(w), dtype=x.dtype, device=x.device)
    for _ in range(_NEWTON):
        p = (x @ w).sigmoid()
        slope = x.T @ (label - p) - _RIDGE * w
        curve = (x * (p * (1 - p))[:, None]).T @ x + ridge
        w = w + torch.linalg.solve(curve, slope)
    return w
