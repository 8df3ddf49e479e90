"""What a run leaves behind: rounds kept as references, turned into frames and Parquet parts in
chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, learner_of
from recfb.data.product import add_sum, sync, verify_files

CHUNK_ROWS = 1 << 18
KEPT_ROWS = 1 << 14
CHUNK_ROUNDS = 512
ROW_GROUP = 131_072
SERIAL = 1 << 40
"""Slates of replication r are numbered from r * SERIAL."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One round, by reference: whoever acts must not write into what it returned."""

    time: int
    generation: int
    context: Context
    slate: Slate
    feedback: Feedback
    truth: Truth


class Recorder:
    """Collects the rounds of one replication, or of all learners of a vectorised run.

    Rounds become frames once 2^18 rows or 512 rounds have come together, and, between rounds,
    Parquet parts where folders for log and truth are given (`due`); then frames in memory are
    dropped unless `hold`. With neither, rounds are forgotten at once.
    """

    def __init__(
        self,
        learners: int = 1,
        replication: int = 0,
        *,
        serial: int | None = None,
        folders: tuple[Path, Path] | None = None,
        hold: bool = True,
    ) -> None:
        self.learners = learners
        self.replication = replication
        self.serial = replication * SERIAL if serial is None else serial
        self.folders = folders
        self.hold = hold
        self.rows = 0
        self._entries: list[Entry] = []
        self._waiting = 0
        self._frames: tuple[list[pl.DataFrame], list[pl.DataFrame]] = ([], [])
        self._unwritten: tuple[list[pl.DataFrame], list[pl.DataFrame]] = ([], [])
        self.parts = 0
        self._written = 0

    @property
    def kept(self) -> bool:
        """Whether rounds are written anywhere."""
        return self.hold or self.folders is not None

    def add(self, entry: Entry) -> None:
        """Keep one round; where none are `kept`, nobody needs to."""
        self._entries.append(entry)
        self._waiting += entry.slate.item.numel()
        if self._waiting >= CHUNK_ROWS or len(self._entries) >= CHUNK_ROUNDS:
            self.flush()

    def flush(self) -> None:
        """Turn the waiting rounds into frames; one copy from the device for each column."""
        if not self._entries:
            return
        made = to_frames(self._entries, self.learners, self.replication, self.serial)
        self.serial += sum(len(entry.slate) for entry in self._entries)
        self.rows += self._waiting
        self._entries, self._waiting = [], 0
        for place, frame in zip(self._frames, made, strict=True):
            if self.hold:
                place.append(frame)
        if self.folders is not None:
            for place, frame in zip(self._unwritten, made, strict=True):
                place.append(frame)

    def due(self, trains: bool) -> bool:
        """Whether a part is to be written before this round: 2^18 rows have come together, or 2^14
        where the round begins with a training, from which a run can go on."""
        if self.folders is None:
            return False
        waiting = self.rows + self._waiting - self._written
        return waiting >= (KEPT_ROWS if trains else CHUNK_ROWS)

    def close(self) -> None:
        """Flush, and write the last part."""
        self.write()

    def frames(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Log and truth so far, as far as they are held in memory."""
        self.flush()
        for place in self._frames:
            if len(place) > 1:
                joined = pl.concat(place, how="diagonal")
                place[:] = [joined.rechunk() if joined.n_chunks() > 64 else joined]
        log, truth = self._frames
        return (log[0], truth[0]) if log else (pl.DataFrame(), pl.DataFrame())

    def preload(self, log: pl.DataFrame, truth: pl.DataFrame) -> None:
        """Begin with the rows of an earlier run."""
        if log.height:
            self._frames[0].append(log)
            self._frames[1].append(truth)

    def go_on(self, serial: int, rows: int, parts: int) -> None:
        """Go on after parts that are written already, and still are as they were."""
        self.serial, self.rows, self.parts, self._written = serial, rows, parts, rows
        names = [self._name(part) for part in range(parts)]
        for folder in self.folders or ():
            verify_files(folder, names)
        if self.hold and self.folders is not None and parts:
            log, truth = (pl.read_parquet([f / name for name in names]) for f in self.folders)
            self.preload(log, truth)

    def write(self) -> None:
        """Write what is not yet written, if there are folders, as the next part."""
        self.flush()
        if not self._unwritten[0]:
            return
        for folder, place in zip(self.folders or (), self._unwritten, strict=True):
            frame = pl.concat(place, how="diagonal")
            file = folder / self._name(self.parts)
            frame.write_parquet(file, row_group_size=ROW_GROUP)
            sync(file)
            add_sum(file)
            place.clear()
        self.parts, self._written = self.parts + 1, self.rows

    def _name(self, part: int) -> str:
        return f"part-{self.replication:05d}-{part:05d}.parquet"


def to_frames(
    entries: Sequence[Entry], learners: int, replication: int, serial: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rounds -> (log, truth): one row a shown item, in the same order and under the same key."""
    k = entries[0].slate.item.shape[1]
    sizes = [len(entry.slate) for entry in entries]
    learner = torch.cat(_learners(entries, learners)) + replication
    repeat = [n * k for n in sizes]
    key = {
        "position": np.tile(np.arange(1, k + 1, dtype=np.int16), sum(sizes)),
        "slate": np.repeat(np.arange(serial, serial + sum(sizes)), k),
        "replication": np.repeat(_host(learner, torch.int16), k),
    }
    log = {
        "user": np.repeat(_host(torch.cat([e.context.user for e in entries]), torch.int32), k),
        "item": _host(torch.cat([e.slate.item for e in entries]).view(-1), torch.int32),
        "reward": _host(torch.cat([e.feedback.reward for e in entries]).view(-1), torch.float32),
        "propensity": _maybe([e.slate.propensity for e in entries], sizes, k),
        "time": np.repeat(np.array([e.time for e in entries], dtype=np.int64), repeat),
        "position": key["position"],
        "slate": key["slate"],
        "p_prefix": _maybe([e.slate.p_prefix for e in entries], sizes, k),
        "p_display": _maybe([e.slate.p_display for e in entries], sizes, k),
        "known": _known(entries, repeat),
        "replication": key["replication"],
        "generation": np.repeat(np.array([e.generation for e in entries], dtype=np.int16), repeat),
    }
    frame = pl.DataFrame({**log, **_extras(entries, k)}).with_columns(
        pl.col("reward", "propensity", "p_prefix", "p_display").fill_nan(None)
    )
    frame = frame.with_columns(pl.when(pl.col("reward").is_not_null()).then(pl.col("known")))
    truth = {name: _truth(entries, name, k) for name in entries[0].truth}
    return frame, pl.DataFrame({**key, **truth})


def _host(x: Tensor, dtype: torch.dtype | None = None) -> np.ndarray:
    return x.to(device="cpu", dtype=dtype or x.dtype).numpy()


def _learners(entries: Sequence[Entry], learners: int) -> list[Tensor]:
    """The learner of each request, (B,) a round; rounds of one size without their own share one."""
    first = entries[0].context
    same = learner_of(first, learners)
    alike = len(first) if first.learner is None else -1
    return [
        same if e.context.learner is None and len(e.context) == alike
        else learner_of(e.context, learners)
        for e in entries
    ]  # fmt: skip


def _known(entries: Sequence[Entry], repeat: Sequence[int]) -> np.ndarray:
    """The round in which each reward becomes known, one number a shown item."""
    known = np.repeat(np.array([e.time for e in entries], dtype=np.int64), repeat)
    if all(e.feedback.delay is None for e in entries):
        return known
    delays = [torch.zeros_like(e.slate.item) if e.feedback.delay is None else e.feedback.delay
              for e in entries]  # fmt: skip
    known += _host(torch.cat(delays).view(-1), torch.int64)
    return known


def _maybe(values: Sequence[Tensor | None], sizes: Sequence[int], k: int) -> np.ndarray:
    """A column that some rounds may lack: NaN where there is no exact value."""
    parts = [
        torch.full((n, k), torch.nan, dtype=torch.float64) if x is None else x
        for x, n in zip(values, sizes, strict=True)
    ]
    device = next((x.device for x in values if x is not None), torch.device("cpu"))
    return _host(torch.cat([x.to(device) for x in parts]).view(-1), torch.float64)


def _truth(entries: Sequence[Entry], name: str, k: int) -> np.ndarray:
    """One truth column: (B,) is repeated over the slate, (B, K, ...) is flattened, anything wider,
    such as (B, n_items) outcomes, becomes an array on each row of the slate."""
    x = torch.cat([entry.truth[name] for entry in entries])
    if x.dim() > 1 and x.shape[1] == k and name != "outcomes":
        return _host(x.flatten(0, 1))
    return np.repeat(_host(x), k, axis=0)


def _extras(entries: Sequence[Entry], k: int) -> dict[str, pl.Series]:
    """The columns that only some worlds have."""
    first = entries[0]
    found: dict[str, pl.Series] = {}
    if first.context.history is not None:
        history = torch.cat([e.context.history for e in entries if e.context.history is not None])
        found["history"] = pl.Series(np.repeat(_host(history, torch.int32), k, axis=0))
    if first.context.features is not None:
        features = torch.cat([_shown_features(e) for e in entries])  # (rows, D)
        found["features"] = pl.Series(_host(features, torch.float32))
    if first.feedback.complaint is not None:
        signs = [e.feedback.complaint for e in entries if e.feedback.complaint is not None]
        found["complaint"] = pl.Series(np.repeat(_host(torch.cat(signs), torch.int8), k))
    if first.context.available is not None:
        found["available"] = pl.concat([_available(e, k) for e in entries])
    return found


def _shown_features(entry: Entry) -> Tensor:
    """The features of each shown item, or of its request: (B * K, D)."""
    x, item = entry.context.features, entry.slate.item
    if x is None:
        raise ValueError("a world gives features in every round or in none")
    if x.dim() == 2:
        return x.repeat_interleave(item.shape[1], 0)
    return x.gather(1, item[:, :, None].expand(-1, -1, x.shape[2])).flatten(0, 1)


def _available(entry: Entry, k: int) -> pl.Series:
    """The items that could have been shown, as a list on each row of the slate."""
    mask = entry.context.available
    if mask is None:
        raise ValueError("a world restricts the items in every round or in none")
    row, item = mask.cpu().nonzero(as_tuple=True)
    pairs = pl.DataFrame({"row": _host(row), "item": _host(item, torch.int32)})
    lists = pairs.group_by("row", maintain_order=True).agg("item")["item"]
    rows = np.arange(len(entry.slate)) if len(lists) > 1 else np.zeros(len(entry.slate), np.int64)
    return lists.gather(np.repeat(rows, k))
