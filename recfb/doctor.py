"""What a table holds, which columns to map, and what can be done with it: the sheet `recfb doctor`
prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from recfb.data import files, text
from recfb.data.columns import COLUMNS
from recfb.data.log import Log

WORDS: dict[str, list[str]] = {
    name: words.split()
    for name, words in {
        "user": "user_id userid uid member member_id customer customer_id visitor account",
        "item": "item_id itemid iid sku product product_id movie video action arm article "
        "shown shown_item shown_product product_shown item_shown offer treatment variant",
        "reward": "click clicked clicks label rating purchase converted outcome target "
        "bought purchased conversion sale revenue response",
        "propensity": "pscore propensity_score prob probability action_prob p_logged logging_prob",
        "time": "timestamp ts datetime date event_time created_at round",
        "position": "rank pos slot place",
        "slate": "request_id impression_id slate_id session_id query_id",
        "duration": "video_duration length",
    }.items()
}
"""Names under which people keep the canonical columns."""

START = """\
    explore = random.random() < 0.05  # 5 % of the requests show any of their items
    item = random.choice(items) if explore else best
    propensity = 0.05 / len(items) + 0.95 * (item == best)  # store it with the row"""
"""How to start logging propensities, to be copied to where an item is chosen."""

EPOCH_SECONDS, EPOCH_MICROS = 10**9, 10**14


@dataclass(frozen=True, slots=True)
class Sheet:
    """Lines of (what, found), and the line to type next."""

    lines: tuple[tuple[str, str], ...]
    advice: tuple[str, ...]

    def __str__(self) -> str:
        width = max(len(what) for what, _ in self.lines)
        body = [f"{what:<{width}}  {found}" for what, found in self.lines]
        return "\n".join([*body, *(["", *self.advice] if self.advice else [])])


def suggest(names: list[str], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Which column is probably which: canonical=theirs.

    >>> suggest(["member", "sku", "clicked", "price"])
    {'user': 'member', 'item': 'sku', 'reward': 'clicked'}
    """
    chosen = dict(given or {})
    for canonical in COLUMNS:
        if canonical in chosen:
            continue
        free = [name for name in names if name not in chosen.values()]
        words = (canonical, *WORDS.get(canonical, ()))
        match = next((name for word in words for name in free if name.lower() == word), None)
        if match is not None:
            chosen[canonical] = match
    return {name: chosen[name] for name in COLUMNS if name in chosen}


def examine(path: str | Path, columns: Mapping[str, str]) -> Sheet:
    """Look at a file as a log: with the given mapping and what the other columns' names suggest."""
    first = files.files_of(path)[0]
    if files.suffix(first) in (*files.PARQUET, *files.ARROW):
        raw = files.open_columns(first).head(5).collect()
    else:
        raw = text.read(first, None, True).head(5)
    chosen = suggest(raw.columns, columns)
    missing = [name for name in ("item", "reward") if name not in chosen]
    if missing:
        columns_line = ("columns", ", ".join(f"{name} ({raw[name].dtype})" for name in raw.columns))
        return Sheet((columns_line,), tuple(_which(missing, str(path))))
    floats = [name for name in raw.columns if _fractions(raw[name])]
    odd, chosen = _odd_propensities(path, chosen)
    unused = [name for name in raw.columns if name not in chosen.values()]
    log = Log.read(path, keep=[x for x in floats if x in unused], **chosen)  # type: ignore[arg-type]
    mapped = " ".join(f"--{name} {theirs}" for name, theirs in chosen.items() if name != theirs)
    advice = [f"Read it so:  Log.read({str(path)!r}{_arguments(chosen)})"]
    if mapped:
        advice.append(f"or:          recfb ... {path} {mapped}")
    if unused:
        advice.append(f"Not used: {', '.join(unused[:12])}{' ...' if len(unused) > 12 else ''}")
    advice += odd
    if "propensity" not in chosen:
        advice += [line for name in unused if name in floats for line in _candidate(log, name)]
    sheet = describe_log(log)
    return Sheet(sheet.lines, (*advice, *sheet.advice))


def _odd_propensities(path: str | Path, chosen: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """A column named like propensities whose values are none is said, and not mapped."""
    name = chosen.get("propensity")
    if not isinstance(name, str):
        return [], chosen
    rest = {key: theirs for key, theirs in chosen.items() if key != "propensity"}
    column = Log.read(path, keep=[name], **rest).frame[name]  # type: ignore[arg-type]
    p = column.drop_nulls().cast(pl.Float64, strict=False)
    outside = len(p) - int(((p > 0) & (p <= 1)).sum())  # what is no number too
    if not outside:
        return [], chosen
    return [f"{name} is no propensity: {outside:,} of {len(p):,} values outside (0, 1]."], rest


def _fractions(column: pl.Series) -> bool:
    """Whether these are numbers and not all whole; text files hold numbers as text."""
    if column.dtype != pl.String and not column.dtype.is_float():
        return False
    numbers = column.cast(pl.Float64, strict=False)
    return numbers.null_count() == column.null_count() and bool((numbers % 1 != 0).any())


def _candidate(log: Log, name: str) -> Iterator[str]:
    """What an unused column of probabilities could be."""
    p = log.frame[name].drop_nulls().cast(pl.Float64, strict=False)
    if len(p) and bool(((p > 0) & (p <= 1)).all()):
        fits, why = looks_like_propensities(p, _choices(log))
        if fits:
            yield f"{name} could be the propensity: {why}. If it is:  --propensity {name}"
        else:
            yield f"{name} lies in (0, 1] but is no propensity: {why}."


def looks_like_propensities(p: pl.Series, choices: float) -> tuple[bool, str]:
    """Whether values in (0, 1] may be the probabilities with which the logged items were chosen,
    and the evidence.

    E[1/p] under the logging policy is the number of items that it could choose from. A mean that
    is five standard errors and a tenth away from that is refused.

    >>> looks_like_propensities(pl.Series([0.25] * 8), 4)
    (True, 'always 0.25, uniform over 4 items')
    >>> looks_like_propensities(pl.Series([0.9, 0.8] * 50), 4)[0]
    False
    """
    inverse, low = 1 / p, float(p.min())  # type: ignore[arg-type]
    mean, fit = float(inverse.mean()), f"{choices:,.4g} items"  # type: ignore[arg-type]
    if low == 1.0:
        return False, "always 1, a choice without chance that tells nothing of other items"
    if low == p.max():
        if mean > choices * (1 - 1e-6):
            return True, f"always {low:.4g}, uniform over {mean:,.4g} items"
        return False, f"always {low:.4g}, uniform over {mean:,.4g} items, but there are {fit}"
    error = float(inverse.std() or 0.0) / len(p) ** 0.5  # type: ignore[arg-type]
    text = f"the mean of 1/p is {mean:,.4g} +- {error:.3g}"
    if abs(mean - choices) > max(5 * error, 0.1 * choices):
        return False, f"{text}, which should be the number of items, {choices:,.4g}"
    return True, f"{text}, as for {fit}"


def _choices(log: Log) -> float:
    """How many items a request could have shown."""
    if "available" not in log.columns:
        return float(log.n_items)
    return float(log.frame["available"].list.len().mean())  # type: ignore[arg-type]


def _arguments(chosen: Mapping[str, str]) -> str:
    return "".join(f", {name}={theirs!r}" for name, theirs in chosen.items() if name != theirs)


def _which(missing: list[str], path: str) -> Iterator[str]:
    for name in missing:
        yield f"No column looks like {name!r} ({COLUMNS[name].meaning})."
        yield f"Name it:  recfb doctor {path} --{name} COLUMN"
    if "reward" in missing:
        yield "If every row is a click:  --reward 1"


def describe_log(log: Log) -> Sheet:
    """Users, items, density, dates, rewards and propensities of a log, and what it can be used
    for."""
    frame, n = log.frame, len(log)
    lines = [("rows", f"{n:,}")]
    if "user" in log.columns:
        lines.append(("users", f"{log.n_users:,}"))
    lines.append(("items", f"{log.n_items:,} ({frame['item'].n_unique():,} shown)"))
    if n == 0:
        return Sheet(tuple(lines), ("The log has no rows.",))
    if "user" in log.columns:
        pairs, cells = len(log.shown), log.n_users * log.n_items
        lines.append(
            (
                "density",
                f"{pairs / cells:.3%} of user-item pairs, {n / log.n_users:.1f} rows a user",
            )
        )
    if "time" in log.columns:
        lines.append(("time", _span(frame["time"])))
    lines.append(("rewards", _rewards(frame["reward"])))
    if "position" in log.columns:
        lines.append(("positions", f"1 to {int(log.tensor('position').max())}"))
    lines.append(("propensities", _propensities(log)))
    return Sheet(tuple(lines), tuple(_advice(log)))


def _span(time: pl.Series) -> str:
    low, high = int(time.min()), int(time.max())  # type: ignore[arg-type]
    if low >= EPOCH_MICROS:
        first, last = (datetime.fromtimestamp(t / 1e6, UTC).date() for t in (low, high))
        return f"{first} to {last}"
    if low >= EPOCH_SECONDS:
        first, last = (datetime.fromtimestamp(t, UTC).date() for t in (low, high))
        return f"{first} to {last}, if these are seconds"
    return f"{low:,} to {high:,}"


def _rewards(reward: pl.Series) -> str:
    known = reward.drop_nulls()
    hidden = f", {reward.null_count():,} never revealed" if reward.null_count() else ""
    if not len(known):
        return f"none revealed{hidden}"
    kinds = known.value_counts(sort=True)
    if kinds.height <= 12:
        shown = ", ".join(
            f"{value:g}: {count / len(reward):.1%}" for value, count in kinds.sort("reward").rows()
        )
        return f"{shown}{hidden}"
    low, high, mean = (float(x) for x in (known.min(), known.max(), known.mean()))  # type: ignore[arg-type]
    return f"{low:g} to {high:g}, mean {mean:.4g}{hidden}"


def _propensities(log: Log) -> str:
    if "propensity" not in log.columns:
        return "not logged"
    p = log.tensor("propensity")
    absent = int(p.isnan().sum())
    known = p[~p.isnan()]
    if not len(known):
        return f"null in all {absent:,} rows"
    low, high = float(known.min()), float(known.max())
    rest = f", {absent:,} rows without" if absent else ""
    why = looks_like_propensities(pl.Series(known.numpy()), _choices(log))[1]
    return f"{low:.3g} to {high:.3g}, largest weight {1 / low:,.0f}{rest}; {why}"


def _advice(log: Log) -> Iterator[str]:
    if "propensity" not in log.columns:
        yield from _missing_propensities(log)
    else:
        p = log.frame["propensity"].drop_nulls()
        fits, why = looks_like_propensities(p, _choices(log)) if len(p) else (True, "")
        if not fits:
            yield f"These do not look like propensities: {why}. See docs/logging.md."
    known = log.frame["reward"].drop_nulls()
    if len(known) > 1 and known.n_unique() == 1:
        yield "All rewards are equal: rows of what was shown in vain are missing (docs/logging.md)."
    if "user" not in log.columns:
        yield "Without users there is nothing to fit; policies can be evaluated."
    elif "time" not in log.columns:
        yield "Without times, split by user; where there are times, a cut in time is the test."
    if log.meta.task != "clicks" and log.frame["reward"].drop_nulls().n_unique() > 2:
        yield "Ratings become clicks with log.binarise(at=...), or --binarise on the command line."


def _missing_propensities(log: Log) -> Iterator[str]:
    yield "Propensities are missing. Without them only dm and replay can evaluate a policy, and"
    yield "replay only if items were shown uniformly at random."
    if log.meta.task != "ratings":
        yield "To log them from now on (docs/logging.md), where the item is chosen:"
        yield START
