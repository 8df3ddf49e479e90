"""More populations: simplex tastes, qualities with a long tail, factors that are given."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from torch import Generator, Tensor

from recfb.data import Log
from recfb.errors import ConfigError
from recfb.worlds.population import People, Population, normal, random_topics

EVEN = 100.0
"""n ~ Dir(100): over all items the attributes are nearly even."""


def dirichlet(alpha: Tensor, generator: Generator) -> Tensor:
    """One draw of Dir(alpha) a row: (n, d) -> (n, d) float64; rows sum to 1.

    Gamma draws with shape alpha, divided by their sum. Small shapes are drawn as Gamma(alpha + 1)
    times U^(1 / alpha), in logarithms, so that nothing underflows: Marsaglia and Tsang, 2000.

    >>> from recfb.random import stream
    >>> x = dirichlet(torch.full((2, 3), 0.01), stream(0))
    >>> x.sum(1).tolist(), bool((x >= 0).all())
    ([1.0, 1.0], True)
    """
    alpha = alpha.to(torch.float64)
    gamma = torch._standard_gamma(alpha + 1, generator=generator)
    u = torch.rand(alpha.shape, generator=generator, dtype=torch.float64, device=alpha.device)
    return (gamma.log() + (1 - u).log() / alpha).softmax(1)


class Dirichlet(Population):
    """Tastes and contents on the simplex; relevance = taste . content, without a sigmoid.

    Chaney, Stewart and Engelhardt, RecSys 2018: taste_u ~ Dir(users m), m ~ Dir(1), and
    content_i ~ Dir(items n), n ~ Dir(100), with one m and one n for the whole population: it is m
    that makes some attributes popular. Qualities are 0, and the topic of an item is its
    largest attribute. Their noise around the mean, with a standard deviation of 1e-5, is left out,
    and so is what users know of an item, a share of 0.98 that no order of items depends on. A world
    of these has offset=0.0 and no base rate.

    Args:
        dim: the number of attributes.
        users: how alike users are; large, all have the taste m.
        items: how alike items are; small, most have one attribute.

    Raises:
        ConfigError: no attributes, or a concentration that is not positive.

    >>> from recfb.random import stream
    >>> people = Dirichlet(dim=4).draw(2, 3, stream(0))
    >>> torch.allclose(people.taste.sum(1), torch.ones(2))
    True
    """

    probabilities: ClassVar[bool] = True

    def __init__(self, dim: int = 20, *, users: float = 10.0, items: float = 0.1) -> None:
        super().__init__()
        if dim < 1 or users <= 0 or items <= 0:
            raise ConfigError(
                "a Dirichlet population has attributes and positive concentrations, found "
                f"dim={dim}, users={users} and items={items}."
            )
        self.dim = dim
        self.users = users
        self.items = items

    def draw(self, n_users: int, n_items: int, generator: Generator) -> People:
        device = generator.device
        m = dirichlet(torch.ones(1, self.dim, device=device), generator)  # (1, d)
        n = dirichlet(torch.full((1, self.dim), EVEN, device=device), generator)  # (1, d)
        taste = dirichlet((self.users * m).expand(n_users, -1), generator).float()  # (U, d)
        content = dirichlet((self.items * n).expand(n_items, -1), generator).float()  # (I, d)
        group = torch.zeros(n_users, dtype=torch.int64, device=device)
        quality = torch.zeros(n_items, device=device)
        return People(taste, content, quality, group, content.argmax(1))


def long_tail(z: Tensor, tail: Literal["zipf", "lognormal"], power: float) -> Tensor:
    """A popularity prior in the order of z, scaled to mean 0 and variance 1: (n,) -> (n,).

    zipf: the r-th largest has weight r^-power; lognormal: exp(power z). Equal weights are all 0.

    >>> x = long_tail(torch.tensor([0.0, 2.0, 1.0]), "zipf", 1.0)
    >>> [round(float(w), 3) for w in x]
    [-0.981, 1.373, -0.392]
    """
    if tail == "zipf":
        rank = z.argsort(descending=True).argsort() + 1  # (n,)
        weight = rank.to(z.dtype) ** -power
    else:
        weight = (power * z).exp()
    apart = weight - weight.mean()
    return apart / apart.square().mean().sqrt().clamp(min=1e-9)


class LongTail(Population):
    """Few items of very high quality: quality_i follows a Zipf or log-normal prior of popularity.

    taste ~ N(0, I). Items have z ~ N(0, 1), which orders their quality, and content ~ N(0, I / dim)
    exp(spread s), where s ~ N(0, 1) has the given correlation with z: popular items have longer
    contents, so that they divide the users more.

    Args:
        dim: the number of true factors.
        quality: the standard deviation of item quality.
        tail: the shape of the prior.
        power: how heavy the tail is.
        correlation: between z and the logarithm of the content's scale.
        spread: the standard deviation of that logarithm.
        topics: how many topics the items have, drawn apart from their content.

    Raises:
        ConfigError: no factors or topics, no tail, or a correlation outside [-1, 1].

    >>> from recfb.random import stream
    >>> quality = LongTail(quality=1.0).draw(1, 1000, stream(0)).quality
    >>> float(quality.median()) < -0.1 and float(quality.max()) > 10
    True
    """

    def __init__(
        self,
        dim: int = 8,
        quality: float = 1.0,
        *,
        tail: Literal["zipf", "lognormal"] = "zipf",
        power: float = 1.0,
        correlation: float = 0.5,
        spread: float = 0.3,
        topics: int = 1,
    ) -> None:
        super().__init__()
        if dim < 1 or topics < 1 or power <= 0 or not -1 <= correlation <= 1:
            raise ConfigError(
                "a long tail has factors, topics, a positive power and a correlation in [-1, 1], "
                f"found dim={dim}, topics={topics}, power={power}, correlation={correlation}."
            )
        self.dim, self.quality, self.topics = dim, quality, topics
        self.tail, self.power = tail, power
        self.correlation, self.spread = correlation, spread

    def draw(self, n_users: int, n_items: int, generator: Generator) -> People:
        taste = normal(generator, n_users, self.dim)
        content = normal(generator, n_items, self.dim) / self.dim**0.5
        z, other = normal(generator, 2, n_items)
        s = self.correlation * z + (1 - self.correlation**2) ** 0.5 * other  # (I,)
        content = content * (self.spread * s).exp()[:, None]  # (I, d)
        quality = self.quality * long_tail(z, self.tail, self.power)
        group = torch.zeros(n_users, dtype=torch.int64, device=generator.device)
        topic = random_topics(n_items, self.topics, generator)
        return People(taste, content, quality, group, topic)


class Interests(Population):
    """Independent interests: taste ~ N(0, I) with one factor an item, content = the unit vectors.

    So the utility of a pair is its own entry of the taste, (U, I) numbers in all. Jiang et al.,
    "Degenerate feedback loops in recommender systems", AIES 2019. Each item is its own topic.

    >>> from recfb.random import stream
    >>> people = Interests().draw(2, 3, stream(0))
    >>> bool((people.taste @ people.content.T == people.taste).all())
    True
    """

    def draw(self, n_users: int, n_items: int, generator: Generator) -> People:
        device = generator.device
        taste, content = normal(generator, n_users, n_items), torch.eye(n_items, device=device)
        group = torch.zeros(n_users, dtype=torch.int64, device=device)
        topic = torch.arange(n_items, device=device)
        return People(taste, content, torch.zeros(n_items, device=device), group, topic)


def factorise(rewards: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best factors of a matrix without its column means: (U, I) -> (U, dim), (I, dim), (I,).

    The truncated singular value decomposition, (A - mean) ~ taste content^T in least squares
    (Eckart and Young, 1936). Tastes have a mean square of 1; the columns' means, less their own
    mean, are the qualities.

    >>> taste, content, quality = factorise(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), 1)
    >>> (taste @ content.T).abs().tolist(), quality.tolist()
    ([[1.0, 2.0], [1.0, 2.0]], [-1.0, 1.0])
    """
    a = rewards.to(torch.float64)
    mean = a.mean(0)  # (I,)
    u, s, v = torch.linalg.svd(a - mean, full_matrices=False)
    scale = len(a) ** 0.5
    taste, content = u[:, :dim] * scale, v[:dim].T * (s[:dim] / scale)
    return taste.float(), content.float(), (mean - mean.mean()).float()


class Factors(Population):
    """A population that is known: of a fitted model, of a log, or of the user's own making.

    Args:
        taste: (n_users, d).
        content: (n_items, d).
        quality: (n_items,); default 0.

    Raises:
        ConfigError: shapes that do not belong together, numbers that are not finite, or a world of
            other sizes.

    >>> from recfb.random import stream
    >>> Factors([[1.0], [2.0]], [[0.5]]).draw(2, 1, stream(0)).quality.tolist()
    [0.0]
    """

    def __init__(
        self,
        taste: Tensor | list[list[float]],
        content: Tensor | list[list[float]],
        *,
        quality: Tensor | list[float] | None = None,
    ) -> None:
        super().__init__()
        taste = torch.as_tensor(taste, dtype=torch.float32)
        content = torch.as_tensor(content, dtype=torch.float32)
        quality = content.new_zeros(len(content)) if quality is None else quality
        quality = torch.as_tensor(quality, dtype=torch.float32)
        shapes = taste.shape, content.shape, quality.shape
        if (
            [x.dim() for x in (taste, content, quality)] != [2, 2, 1]
            or taste.shape[1] != content.shape[1]
            or len(content) != len(quality)
        ):
            found = ", ".join(str(tuple(shape)) for shape in shapes)
            raise ConfigError(
                "tastes (n_users, d), contents (n_items, d) and qualities (n_items,) belong "
                f"together, found {found}."
            )
        if not all(bool(x.isfinite().all()) for x in (taste, content, quality)):
            raise ConfigError("a given population is of finite numbers, found NaN or infinity.")
        self.register_buffer("taste", taste)
        self.register_buffer("content", content)
        self.register_buffer("quality", quality)

    @classmethod
    def of(
        cls, log: Log, dim: int = 8, *, missing: float | None = None, spread: float | None = None
    ) -> Self:
        """The factors of a log's mean rewards. `Matrix.of` plays a log without holes as it is.

        Args:
            log: rows with user, item and reward; n_users x n_items numbers are made of it.
            dim: how many factors.
            missing: what a pair without rewards counts as: 0.0 for clicks; None: the mean of all
                rows.
            spread: the standard deviation of taste . content + quality over all pairs. Holes make
                it small; None leaves it. A sigmoid's users differ a good deal at 1.5.

        Raises:
            ConfigError: a spread that is not positive, or of a log whose pairs are all alike.
        """
        if spread is not None and not spread > 0:
            raise ConfigError(f"a spread is positive, found {spread}. Try spread=1.5")
        key = log.tensor("user") * log.n_items + log.tensor("item")  # (rows,)
        reward = log.tensor("reward").to(torch.float64)
        size = log.n_users * log.n_items
        key, reward = key[~reward.isnan()], reward[~reward.isnan()]
        total = torch.bincount(key, weights=reward, minlength=size)
        count = torch.bincount(key, minlength=size)
        hole = reward.mean() if missing is None else missing
        mean = torch.where(count > 0, total / count.clamp(min=1), hole)
        taste, content, quality = factorise(mean.view(log.n_users, log.n_items), dim)
        if spread is not None:
            utility = taste.double() @ content.T.double() + quality
            if not float(utility.std()) > 1e-9:
                raise ConfigError(
                    "all pairs of this log are alike, so no spread can be given to them. Look at "
                    "its rewards, or count pairs without one as 0: missing=0.0"
                )
            stretch = float(spread / utility.std())
            content, quality = content * stretch, quality * stretch
        return cls(taste, content, quality=quality)

    def draw(self, n_users: int, n_items: int, generator: Generator) -> People:
        device = generator.device
        taste, content, quality = (x.to(device) for x in self.buffers())
        sizes = len(taste), len(content)
        if (n_users, n_items) != sizes:
            raise ConfigError(
                f"a given population has {sizes[0]} users and {sizes[1]} items, found a world of "
                f"{n_users} and {n_items}. Make it Tastes({sizes[0]}, {sizes[1]}, ...)"
            )
        group = torch.zeros(n_users, dtype=torch.int64, device=device)
        topic = torch.zeros(n_items, dtype=torch.int64, device=device)
        return People(taste, content, quality, group, topic)
