"""Separated text without surprises: every field is read as text, and typed by the column it is
for."""

from __future__ import annotations

import csv
from pathlib import Path

import polars as pl

from recfb.data.columns import COLUMNS
from recfb.data.door import Problems
from recfb.errors import LogError, PrepareError

_NO_SEPARATOR = "\x01"


def read(file: Path, separator: str | None, has_header: bool) -> pl.DataFrame:
    """All fields as text, with the header's names, or `column_0`, `column_1` ... without one."""
    lines = _lines(file)
    if not len(lines):
        raise PrepareError(f"{file} is empty.")
    separator = separator or _sniff(lines[0])
    if not isinstance(separator, str) or set(separator) & {'"', "\n", "\r"}:
        raise LogError(f"separator={separator!r} cannot part fields. Try separator=','.")
    plain = len(separator.encode()) > 1  # such files have no quotes
    lines, numbers = (lines, None) if plain else _records(lines, file)
    names = _names(lines[0], separator, has_header, file)
    _refuse_ragged(lines, numbers, separator, len(names), file, plain)
    if not plain:
        return _parse(file, separator, has_header, names, len(lines) - has_header)
    fields = lines.slice(1 if has_header else 0).str.split_exact(separator, len(names) - 1)
    return fields.struct.rename_fields(names).struct.unnest()


def typed(frame: pl.DataFrame, problems: Problems, offset: int) -> pl.DataFrame:
    """Text -> ids, numbers and times; a field that is none of them is a problem. Empty is null."""
    done = []
    for column in frame:
        if column.dtype != pl.String:
            done.append(column)
            continue
        clean = column.str.strip_chars().replace("", None)
        done.append(
            _ids(clean)
            if column.name in ("user", "item", "slate", "unit") or column.name not in COLUMNS
            else _numbers(clean, problems, offset)
        )
    return pl.DataFrame(done)


def _ids(column: pl.Series) -> pl.Series:
    """Integers only where text and number are one and the same: "007" stays text."""
    plain = column.str.contains(r"^(0|-?[1-9][0-9]{0,17})$")
    return column.cast(pl.Int64) if bool(plain.all()) else column


def as_text(ids: pl.Series) -> pl.Series:
    """Ids as they stood in the file: only what is one and the same as text became a number."""
    return ids.cast(pl.String) if ids.dtype == pl.Int64 else ids


def _numbers(column: pl.Series, problems: Problems, offset: int) -> pl.Series:
    if COLUMNS[column.name].dtype == pl.Int64:
        number = column.cast(pl.Int64, strict=False)
        if bool((number.is_null() & column.is_not_null()).any()):
            time = column.str.to_datetime(strict=False, time_unit="us", time_zone="UTC")
            number = time if time.null_count() == column.null_count() else number
    else:
        number = column.cast(pl.Float64, strict=False)
    lost = number.is_null() & column.is_not_null()
    if bool(lost.any()):
        what = f"are not numbers, for example {column.filter(lost)[0]!r}"
        problems.add_mask(
            column.name, what, lost, offset, "correct the file, or leave the field empty"
        )
    return number


def _lines(file: Path) -> pl.Series:
    """The lines of a file, one string each."""
    try:
        with file.open("rb") as stream:
            head = stream.read(4)
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise PrepareError(f"{file} is UTF-16. Save it as UTF-8: iconv -f UTF-16 -t UTF-8.")
        frame = pl.read_csv(
            file,
            separator=_NO_SEPARATOR,
            has_header=False,
            new_columns=["line"],
            quote_char=None,
            infer_schema=False,
            glob=False,
        )
    except pl.exceptions.NoDataError:
        return pl.Series("line", [], dtype=pl.String)
    except PrepareError:
        raise
    except OSError as error:
        raise PrepareError(f"cannot read {file}: {error.strerror or error}.") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _unreadable(file, error) from None
    return frame["line"].fill_null("").str.strip_suffix("\r")


def _unreadable(file: Path, error: BaseException) -> PrepareError:
    first = (str(error).splitlines() or [""])[0]
    return PrepareError(
        f"{file} is no readable UTF-8 text ({first}). Save it as UTF-8; if it is compressed, write "
        "or copy it again."
    )


def _records(lines: pl.Series, file: Path) -> tuple[pl.Series, pl.Series | None]:
    """Lines, joined where a quoted field goes over several, and the first line of each, from 0;
    None where each is one line."""
    quotes = lines.str.count_matches('"', literal=True)
    if not quotes.sum():
        return lines, None
    inside = quotes.cum_sum() % 2 == 1  # at the end of the line
    start = ~inside.shift(1, fill_value=False)
    if inside[-1]:
        first = int(start.arg_true()[-1])
        raise LogError(
            f"{file}: the quote that opens in line {first + 1:,}, {lines[first][:60]!r}, is never "
            "closed. Close it, or double a quote that is part of a field."
        )
    if bool(start.all()):
        return lines, None
    frame = pl.DataFrame({"record": start.cum_sum(), "line": lines}).with_row_index("number")
    joined = frame.group_by("record", maintain_order=True).agg(
        pl.col("line").str.join("\n"), pl.col("number").first()
    )
    return joined["line"], joined["number"]


def _sniff(line: str) -> str:
    """The separator of a first line."""
    for separator in ("::", "\t", ";", "|", ","):
        if separator in line:
            return separator
    return ","


def _names(line: str, separator: str, has_header: bool, file: Path) -> list[str]:
    line = line.removeprefix("\ufeff")
    if not line.strip() or "\x00" in line:
        what = "NUL bytes in" if line.strip() else "nothing in"
        raise PrepareError(f"{file} has {what} its first line. Save it as UTF-8 text.")
    try:
        single = len(separator) == 1
        fields = (
            next(csv.reader(line.splitlines(keepends=True), delimiter=separator))
            if single
            else line.split(separator)
        )
    except csv.Error as error:
        raise PrepareError(
            f"{file} begins with no line of fields ({error}). Save it with lines that end in \\n."
        ) from None
    if not has_header:
        return [f"column_{k}" for k in range(len(fields))]
    twice = sorted({name for name in fields if fields.count(name) > 1})
    if twice:
        raise LogError(f"{file} names the columns {twice} twice. Give each column its own name.")
    return fields


def _refuse_ragged(
    lines: pl.Series,
    numbers: pl.Series | None,
    separator: str,
    width: int,
    file: Path,
    plain: bool,
) -> None:
    """Rows with too few or too many fields; separators between quotes part nothing."""
    bare = lines if plain else lines.str.replace_all('"[^"]*"', "")
    count = bare.str.count_matches(separator, literal=True)
    odd = count != width - 1
    if bool(odd.any()):
        first = int(odd.arg_max() or 0)
        number = first if numbers is None else int(numbers[first])
        raise LogError(
            f"{file}: {int(odd.sum()):,} lines do not have {width} fields (first: line "
            f"{number + 1:,}, "
            f"{lines[first][:60]!r}). Correct them, or name the separator: separator=','."
        )


def _parse(
    file: Path, separator: str, has_header: bool, names: list[str], rows: int
) -> pl.DataFrame:
    try:
        frame = pl.read_csv(
            file, separator=separator, has_header=has_header, infer_schema=False, glob=False
        )
        found = f"{frame.height:,} rows of {frame.width} fields in {rows:,} lines"
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        frame, found = None, (str(error).splitlines() or [""])[0]
    if frame is None or frame.shape != (rows, len(names)):
        raise LogError(
            f"{file}: its quotes cannot be read ({found}). A field with a separator, a quote or a "
            "line break stands in quotes as a whole, with the quotes inside it doubled."
        )
    frame.columns = names
    return frame
