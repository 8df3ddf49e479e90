"""Where the vectors of human and machine-written texts come from: drawn, or the user's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Generator, Tensor

from recfb.contracts import Component
from recfb.data.tables import to_frame
from recfb.errors import ConfigError, LogError, PrepareError
from recfb.random import spawn
from recfb.worlds.arrivals import FOREVER
from recfb.worlds.copies import Copies, artefact, fit_copies, normal, split, unit


@dataclass(frozen=True, slots=True)
class Texts:
    """Vectors of n items: the human text, its copy, and the copy of the copy."""

    human: Tensor  # (n, d)
    copy: Tensor  # (n, d)
    again: Tensor  # (n, d)
    artefact: Tensor  # (d,) the direction that copies are shifted in, known or estimated
    approx_rewrite: bool = False  # `again` is a guess
    arrives: Tensor | None = (
        None  # (n,) int64, the round in which each copy is written; None: all are
    )


class TextSource(Component, ABC):
    """Gives the texts of n items."""

    n: int

    @abstractmethod
    def draw(self, generator: Generator) -> Texts:
        """The texts, on the generator's device."""


class DrawnTexts(TextSource):
    """Texts at random: contents uniform on a unit sphere, styles z ~ spread N(0, 1), and copies.

    Contents are orthogonal to the artefact; copies and their copies are made by `copies`. The
    artefact is the first coordinate. That is no loss of generality for the world, but it is for
    optimisers that treat coordinates apart, as Adam: in a random direction (`rotate`) they learn
    the style of histories as fast as that of items, and a weak artefact escalates less.

    Args:
        n: items.
        dim: length of the vectors.
        spread: of the style of humans.
        copies: how copies are made.
        jitter: deviation of noise on every coordinate of both texts, over sqrt(dim): with it copies
            that keep all are told apart from originals by chance alone.
        rotate: put the artefact in a random direction.

    Raises:
        ConfigError: no items, fewer than three dimensions, a negative spread or jitter.

    >>> from recfb.random import stream
    >>> texts = DrawnTexts(5, dim=8).draw(stream(0))
    >>> bool(((texts.copy - texts.human) @ texts.artefact > 0.19).all())
    True
    """

    def __init__(
        self,
        n: int = 500,
        dim: int = 32,
        *,
        spread: float = 0.5,
        copies: Copies = Copies(),
        jitter: float = 0.0,
        rotate: bool = False,
    ) -> None:
        super().__init__()
        if n < 1 or dim < 3 or spread < 0 or jitter < 0:
            raise ConfigError(
                "texts have an item, at least 3 dimensions, and a spread and jitter of at least 0, "
                f"found n={n}, dim={dim}, spread={spread}, jitter={jitter}."
            )
        self.n, self.dim, self.spread, self.copies = n, dim, spread, copies
        self.jitter, self.rotate = jitter, rotate

    def draw(self, generator: Generator) -> Texts:
        v = torch.eye(self.dim, device=generator.device)[0]  # (d,)
        if self.rotate:
            v = unit(normal(spawn(generator, "rotate"), self.dim))
        content = unit(split(normal(generator, self.n, self.dim), v)[0])  # (n, d)
        human = content + self.spread * normal(generator, self.n)[:, None] * v
        copy = self.copies(human, v, generator)
        again = self.copies(copy, v, generator)
        noise = self.jitter / self.dim**0.5 * normal(generator, 3, self.n, self.dim)
        return Texts(human + noise[0], copy + noise[1], again + noise[2], v)


class GradualTexts(TextSource):
    """The copies are written one after the other, in random order, and are in no request before.

    In round t those of a share first + rate t of the items are there.

    Args:
        texts: what is written.
        first: the share of copies that are there from the beginning.
        rate: the share that is written in each later round.

    Raises:
        ConfigError: a share outside [0, 1].

    >>> from recfb.random import stream
    >>> texts = GradualTexts(DrawnTexts(5), first=0.4, rate=0.2).draw(stream(0))
    >>> texts.arrives.sort().values.tolist()
    [0, 0, 1, 2, 3]
    """

    def __init__(
        self, texts: TextSource | None = None, *, first: float = 0.0, rate: float = 0.1
    ) -> None:
        super().__init__()
        if not 0 <= first <= 1 or not 0 <= rate <= 1:
            raise ConfigError(
                f"first and rate are shares of the items, found first={first}, rate={rate}. For a "
                "tenth in each round: rate=0.1"
            )
        self.texts = DrawnTexts() if texts is None else texts
        self.first, self.rate, self.n = first, rate, self.texts.n

    def draw(self, generator: Generator) -> Texts:
        texts = self.texts.draw(generator)
        order = torch.randperm(
            self.n, generator=spawn(generator, "arrivals"), device=generator.device
        )
        late = ((order + 1) / self.n - self.first).clamp(
            min=0
        )  # (n,), beyond what is there at first
        if not self.rate:
            return replace(texts, arrives=torch.where(late > 0, FOREVER, 0))
        return replace(texts, arrives=(late / self.rate - 1e-6).ceil().clamp(min=0).long())


class GivenTexts(TextSource):
    """The user's own texts: a table with two rows an item, or more with rewrites of rewrites.

    Args:
        table: a frame, or the path of a Parquet file, with columns item_id, src (0 human, 1
            machine), x (an Array or lists of one length) and optionally gen, the depth of the
            rewrite: 0 human, 1 copy, 2 its copy. Without depth 2 the copy of a copy is guessed by
            `Copies` as fitted to the pairs, and `approx_rewrite` says so.

    Raises:
        PrepareError: there is no such file.
        LogError: what the table lacks.
    """

    def __init__(self, table: str | Path | pl.DataFrame) -> None:
        super().__init__()
        self.table = table
        if not isinstance(table, pl.DataFrame):
            if not Path(table).exists():
                raise PrepareError(f"there is no table of texts at {table}.")
            table = pl.read_parquet(table)
        self.found = read_texts(table)
        self.n = len(self.found.human)

    def draw(self, generator: Generator) -> Texts:
        texts = self.found
        if texts.approx_rewrite:
            copies = fit_copies(texts.human, texts.copy).copies
            again = copies(texts.copy, texts.artefact, generator)
            texts = replace(texts, again=again)
        return texts


def read_texts(table: Any) -> Texts:
    """Pairs of texts from a table as `GivenTexts` describes it; the artefact is estimated.

    Without rewrites of depth 2 `again` repeats the copy, and `approx_rewrite` is set.

    Raises:
        LogError: a column that is missing; items without exactly one human text and one copy;
            vectors of several lengths, not finite or without numbers; copies that all equal their
            originals.

    >>> table = {"item_id": [7, 7], "src": [0, 1], "x": [[1.0, 0.0], [1.0, 0.5]]}
    >>> read_texts(table).copy.tolist()
    [[1.0, 0.5]]
    """
    frame = to_frame(table)
    for name in ("item_id", "src", "x"):
        if name not in frame.columns:
            raise LogError(
                f"a table of texts has the columns item_id, src and x, this one {frame.columns}. "
                f'Rename yours: frame.rename({{"...": "{name}"}}).'
            )
    depth = pl.col("gen") if "gen" in frame.columns else pl.col("src")
    frame = frame.with_columns(depth.cast(pl.Int64).alias("gen")).sort("item_id")
    frame = frame.with_columns(pl.col("x").cast(pl.List(pl.Float64)))
    _check_vectors(frame)
    ids = frame["item_id"].unique().sort()
    human, copy = (_depth(frame, ids, gen, src) for gen, src in ((0, 0), (1, 1)))
    deep = frame.filter(pl.col("gen") == 2)
    again = _depth(frame, ids, 2, 1) if deep.height else copy
    if torch.equal(human, copy):
        raise LogError(
            "every copy equals its original, so there is nothing to tell apart. Check that src 1 "
            "has the vectors of the machine-written texts."
        )
    return Texts(human, copy, again, artefact(human, copy), approx_rewrite=not deep.height)


def _check_vectors(frame: pl.DataFrame) -> None:
    lengths = frame["x"].list.len().unique().drop_nulls().to_list()
    if len(lengths) != 1 or not lengths[0] or frame["x"].null_count():
        raise LogError(
            f"all texts need vectors x of one length, found lengths {sorted(lengths)} and "
            f"{frame['x'].null_count()} nulls. Encode all texts with one encoder."
        )


def _depth(frame: pl.DataFrame, ids: pl.Series, gen: int, src: int) -> Tensor:
    """The vectors of one depth, in the order of the items: (n, d) float32."""
    rows = frame.filter(pl.col("gen") == gen, pl.col("src") == src)
    counts = rows.group_by("item_id").len()
    if rows.height != len(ids) or counts.height != len(ids):
        missing = ids.filter(~ids.is_in(rows["item_id"].implode()))
        first = missing[0] if len(missing) else counts.filter(pl.col("len") > 1)["item_id"][0]
        raise LogError(
            f"every item needs one text of src {src} and depth {gen}, found {rows.height} for "
            f"{len(ids)} items, first wrong item {first!r}. Drop items that are not in pairs."
        )
    x = torch.tensor(rows["x"].to_list(), dtype=torch.float32)  # (n, d)
    bad = ~torch.isfinite(x).all(1)
    if bool(bad.any()):
        first = ids[int(bad.nonzero()[0])]
        raise LogError(
            f"{int(bad.sum())} texts of src {src} have NaN or infinity in x, first item "
            f"{first!r}. Drop those items from the table."
        )
    return x


def table_of(texts: Texts) -> pl.DataFrame:
    """The table that `read_texts` reads: item_id, src, gen and x.

    >>> x = torch.tensor([[1.0, 2.0]])
    >>> table_of(Texts(x, x + 1, x + 2, x[0]))["gen"].to_list()
    [0, 1, 2]
    """
    depths = [texts.human, texts.copy] + ([] if texts.approx_rewrite else [texts.again])
    n = len(texts.human)
    x = torch.cat(depths).float().cpu()
    gen = torch.arange(len(depths)).repeat_interleave(n)
    return pl.DataFrame(
        {
            "item_id": torch.arange(n).repeat(len(depths)).numpy(),
            "src": gen.clamp(max=1).to(torch.int8).numpy(),
            "gen": gen.to(torch.int8).numpy(),
            "x": pl.Series(x.numpy(), dtype=pl.Array(pl.Float32, x.shape[1])),
        }
    )
