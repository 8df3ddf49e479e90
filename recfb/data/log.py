"""The log: an immutable, validated table of feedback, one row a shown item. The hub of every
verb."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import torch
from torch import Tensor
from typing_extensions import Unpack

from recfb.data import door, split, tables
from recfb.data.blocks import Part, parts_of
from recfb.data.columns import COLUMNS, Columns
from recfb.data.pairs import Pairs
from recfb.data.product import atomic_folder
from recfb.data.vocabulary import Vocabulary, identity
from recfb.errors import LogError

if TYPE_CHECKING:
    from recfb.data.batch import Block
    from recfb.data.scan import ScannedPart

ROW_GROUP = 131_072
PART_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class Meta:
    """What a log's owner declares about it. Unknown is None."""

    horizon: int | None = None
    learners: int = 1
    reward_range: tuple[float, float] | None = None
    propensity: Literal["exact", "simulated", "estimated"] | None = None
    draws: int | None = None
    floor: float | None = None
    task: Literal["clicks", "ratings", "decisions"] | None = None


class Log:
    """One row a shown item, with canonical columns and dense ids; nothing downstream checks it
    again.

    Make one with `Log.of` (a frame), `Log.read` (files), `Log.scan` (files larger than memory) or
    `Log.empty` (sizes).

    >>> frame = {"member": ["ann", "bob"], "item": [7, 9], "clicked": [1, 0]}
    >>> log = Log.of(frame, user="member", reward="clicked")
    >>> log.n_users, log.n_items, log.frame["item"].to_list(), log.decode()["user"].to_list()
    (2, 2, [0, 1], ['ann', 'bob'])
    """

    def __init__(
        self, frame: pl.DataFrame, vocabulary: Vocabulary, meta: Meta | None = None, name: str = ""
    ) -> None:
        """Internal: the frame is already valid and encoded. Use `Log.of`."""
        self._frame = frame
        self.vocabulary = vocabulary
        self.meta = meta or Meta()
        self._name = name

    # ---- making one

    @classmethod
    def of(
        cls,
        data: Any,
        *,
        like: Any = None,
        n_users: int | None = None,
        n_items: int | None = None,
        keep: Sequence[str] = (),
        meta: Meta | None = None,
        **columns: Unpack[Columns],
    ) -> Log:
        """A log from a polars frame, a dict of columns, or anything with `__arrow_c_stream__`
        (pandas, pyarrow, duckdb).

        Args:
            data: the table.
            like: a log or a fitted module whose vocabularies are re-used; an unknown id is an
                error.
            n_users: the user ids are already 0..n_users-1.
            n_items: the item ids are already 0..n_items-1, so that items never shown keep their
                place.
            keep: further columns of the table to carry along.
            meta: what you declare about it, for example `Meta(reward_range=(0, 1),
                propensity="exact")`.
            **columns: canonical=theirs for any canonical column: a name, a number for all rows, or
                a polars expression.

        Raises:
            LogError: with every problem of the table: column, count, first row, what to type.
        """
        frame = tables.to_frame(data)
        chosen = door.sources(frame.columns, tables.checked_names(columns), keep)
        problems = door.Problems()
        frame = door.check(door.made(door.pick(frame.lazy(), chosen, keep)), problems)
        door.check_slates(frame, problems)
        vocabulary = tables.vocabulary_of(frame, like, n_users, n_items)
        frame = tables.encode_ids(frame, vocabulary, problems, 0)
        problems.raise_any()
        return cls(frame, vocabulary, meta)

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        separator: str | None = None,
        has_header: bool = True,
        like: Any = None,
        n_users: int | None = None,
        n_items: int | None = None,
        keep: Sequence[str] = (),
        meta: Meta | None = None,
        **columns: Unpack[Columns],
    ) -> Log:
        """A log from Parquet, Arrow or separated text; unnamed columns are dropped.

        Args:
            path: a file, a folder of Parquet parts, a pattern, or a folder that `write` made.
            separator: of text; found from the first line unless given, also "::".
            has_header: without one, columns are named column_0, column_1 and so on.
            like, n_users, n_items, keep, meta, **columns: as in `Log.of`.

        Raises:
            LogError: with every problem of the table.
            PrepareError: a file is missing, cut or damaged.
        """
        from recfb.data import files  # builds logs

        names = tables.checked_names(columns)
        how = files.Reading(names, separator, has_header, like, n_users, n_items, keep, meta)
        return files.read(path, how)

    @classmethod
    def scan(
        cls,
        path: str | Path,
        *,
        like: Any = None,
        n_users: int | None = None,
        n_items: int | None = None,
        keep: Sequence[str] = (),
        meta: Meta | None = None,
        **columns: Unpack[Columns],
    ) -> Log:
        """As `read`, but the rows stay in their Parquet files and are streamed part by part.

        The vocabularies are made in a first pass, unless `like`, `n_users` and `n_items` give them.
        """
        from recfb.data import files, scan  # build logs

        names = tables.checked_names(columns)
        how = files.Reading(names, None, True, like, n_users, n_items, keep, meta)
        return scan.scan(path, how)

    @classmethod
    def empty(
        cls,
        n_users: int,
        n_items: int,
        *,
        meta: Meta | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> Log:
        """A log without rows: a shape. Binding a policy to it gives the prior.

        >>> len(Log.empty(3, 5)), Log.empty(3, 5).n_items
        (0, 5)
        """
        schema = {name: COLUMNS[name].dtype for name in ("user", "item", "reward")}
        return cls(
            pl.DataFrame(schema=schema),
            vocabulary or Vocabulary(identity(n_users), identity(n_items)),
            meta,
        )

    # ---- what it holds

    @property
    def frame(self) -> pl.DataFrame:
        """The rows, with dense ids and canonical names."""
        return self._frame

    @property
    def users(self) -> pl.DataFrame:
        """One row a user in dense order: `id` and optional features."""
        return self.vocabulary.users

    @property
    def items(self) -> pl.DataFrame:
        """One row an item in dense order: `id` and optional features, dates, groups."""
        return self.vocabulary.items

    @property
    def n_users(self) -> int:
        return self.users.height

    @property
    def n_items(self) -> int:
        return self.items.height

    @property
    def columns(self) -> list[str]:
        return self.frame.columns

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        size = f"{len(self):,} rows, {self.n_users:,} users, {self.n_items:,} items"
        return f"Log({size}, columns {self.columns})"

    def tensor(self, column: str) -> Tensor:
        """A column as a tensor: ids and integers int64, reward float32 with NaN for null, lists (n,
        width).

        >>> Log.of({"item": [4, 5], "reward": [1.0, None]}).tensor("reward").tolist()
        [1.0, nan]
        """
        if column == "user" and "user" not in self.columns:
            return torch.zeros(len(self), dtype=torch.int64)
        self.require(column)
        return tables.series_tensor(self.frame[column])

    def require(self, *columns: str) -> None:
        """Refuse to go on without these columns."""
        for column in columns:
            if column not in self.columns:
                raise LogError(
                    f"this needs the column {column!r} ({COLUMNS[column].meaning}), but the log "
                    f"has {self.columns}. "
                    f'Map yours: Log.read(path, {column}="...").'
                    if column in COLUMNS
                    else f"log has no column {column!r}; it has {self.columns}. "
                    f"Keep yours: Log.read(path, keep=[{column!r}])."
                )

    @cached_property
    def clicks(self) -> Pairs:
        """The distinct (user, item) with a positive reward."""
        return self._pairs(clicked=True)

    @cached_property
    def shown(self) -> Pairs:
        """The distinct (user, item) in the log."""
        return self._pairs(clicked=False)

    def _pairs(self, clicked: bool) -> Pairs:
        rows = self.filter(pl.col("reward") > 0) if clicked else self
        user, item = rows.tensor("user"), rows.tensor("item")
        return Pairs(user, item, n_users=self.n_users, n_items=self.n_items)

    @cached_property
    def name(self) -> str:
        """What names the parts of this log: where it was read from, else a digest of its
        content."""
        if self._name:
            return self._name
        state = hashlib.blake2b(digest_size=8)
        for column in self.frame.columns:
            series = self.frame[column]
            state.update(column.encode())
            state.update(series.rechunk().hash().to_numpy().tobytes())
        return state.hexdigest()

    def parts(self) -> Iterator[Part | ScannedPart]:
        """The log in parts of 2^18 rows, which the data fixes: the unit of work of `evaluate`."""
        return parts_of(self)

    def blocks(
        self, rows: int = 2048, *, unit: str | None = None, by: str | None = None
    ) -> Iterator[Block]:
        """The rows as acting records, `rows` at a time; none straddles a part.

        What is wrong with a scanned log is raised once, after the last block.
        """
        problems = door.Problems()
        for part in self.parts():
            whole = part.record(problems, unit, by)
            for first in range(0, len(whole), rows):
                yield whole[first : first + rows]
        problems.raise_any()

    def decode(self) -> pl.DataFrame:
        """The rows with the original ids."""
        names = {"user": self.users["id"], "item": self.items["id"]}
        return self.frame.with_columns(
            ids.gather(self.frame[side]).alias(side)
            for side, ids in names.items()
            if side in self.columns
        )

    # ---- new logs from old ones

    def with_frame(self, frame: pl.DataFrame, meta: Meta | None = None) -> Log:
        """The same vocabularies over other rows that are valid and dense already."""
        return Log(frame, self.vocabulary, meta or self.meta)

    def filter(self, *rows: pl.Expr) -> Log:
        """The rows for which all expressions over `log.frame` hold."""
        return self.with_frame(self.frame.filter(*rows))

    def binarise(self, at: float) -> Log:
        """Rewards become 1 where they are at least `at`, else 0; null stays null.

        >>> Log.of({"item": [1, 2], "reward": [3.0, 8.0]}).binarise(at=7).frame["reward"].to_list()
        [0.0, 1.0]
        """
        meta = replace(self.meta, reward_range=(0.0, 1.0), task="clicks")
        return self.with_frame(
            self.frame.with_columns((pl.col("reward") >= at).cast(pl.Float32)), meta
        )

    def with_items(self, frame: Any, *, id: str = "id") -> Log:
        """Attach features, dates or groups of items, joined on their original ids."""
        return Log(
            self.frame,
            replace(self.vocabulary, items=tables.attach(self.items, frame, id)),
            self.meta,
            self._name,
        )

    def with_users(self, frame: Any, *, id: str = "id") -> Log:
        """Attach features or groups of users, joined on their original ids."""
        return Log(
            self.frame,
            replace(self.vocabulary, users=tables.attach(self.users, frame, id)),
            self.meta,
            self._name,
        )

    def extend(self, other: Log) -> Log:
        """These rows, then the other's. New ids get the next dense numbers, so old ones keep
        theirs."""
        if self.vocabulary.digest == other.vocabulary.digest:
            return self.with_frame(pl.concat([self.frame, other.frame], how="diagonal"))
        users, items = tables.grow(self.users, other.users), tables.grow(self.items, other.items)
        tables.check_numbers(other.frame, other.items, items)
        vocabulary = Vocabulary(users, items)
        moved = tables.encode_ids(other.decode(), vocabulary, door.Problems(), 0)
        return Log(pl.concat([self.frame, moved], how="diagonal"), vocabulary, self.meta)

    def recode(self, vocabulary: Vocabulary) -> Log:
        """The same rows in another vocabulary; rows whose user or item it does not know are left
        out."""
        if vocabulary.digest == self.vocabulary.digest:
            return Log(self.frame, vocabulary, self.meta, self._name)
        tables.check_numbers(self.frame, self.items, vocabulary.items)
        frame = tables.encode_ids(self.decode(), vocabulary, None, 0)
        sides = [side for side in ("user", "item") if side in frame.columns]
        return Log(frame.drop_nulls(sides), vocabulary, self.meta)

    def split_by_time(self, train: float = 0.8) -> tuple[Log, Log]:
        """One global cut in time: the earliest share of the rows, and the rest. Equal times stay
        together."""
        return split.by_time(self, train)

    def split_by_user(self, train: float = 0.8, *, seed: int = 0) -> tuple[Log, Log]:
        """Users whole on one side or the other, by a hash of the user."""
        return split.by_user(self, train, seed)

    def split_by_row(self, train: float = 0.8, *, seed: int = 0) -> tuple[Log, Log]:
        """Rows at random, by a hash of user and item: what is left for logs without times."""
        return split.by_row(self, train, seed)

    def leave_last(self, k: int = 1) -> tuple[Log, Log]:
        """All but each user's last k rows in time, and those."""
        return split.leave_last(self, k)

    def split_randomised(self, logger: int = 1) -> tuple[Log, Log]:
        """The biased rows, and the rows of the logging policy that showed items at random (column
        `logger`)."""
        return split.randomised(self, logger)

    def write(self, folder: str | Path) -> Path:
        """Write the log as a folder of Parquet parts with its vocabularies and checksums; whole or
        not at all."""
        folder = Path(folder)
        with atomic_folder(folder) as part:
            for k, start in enumerate(range(0, max(1, len(self)), PART_ROWS)):
                rows = self.frame.slice(start, PART_ROWS)
                rows.write_parquet(
                    part / f"part-{k:05d}.parquet", row_group_size=ROW_GROUP, statistics=True
                )
            self.users.write_parquet(part / "users.parquet")
            self.items.write_parquet(part / "items.parquet")
            (part / "log.json").write_text(
                json.dumps({"rows": len(self), "meta": asdict(self.meta)}, indent=1)
            )
        return folder
