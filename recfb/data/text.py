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
    names = _names(lines[0], separator, has_header, file)
    quoted = lines.str.contains('"', literal=True)
    _refuse_ragged(lines, quoted, separator, len(names), file)
    if len(separator) == 1:
        return _parse(file, separator, has_header, names)
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
        )
    except pl.exceptions.NoDataError:
        return pl.Series("line", [], dtype=pl.String)
    except PrepareError:
        raise
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise _unreadable(file, error) from None
    return frame["line"].fill_null("").str.strip_suffix("\r")


def _unreadable(file: Path, error: BaseException) -> PrepareError:
    first = (str(error).splitlines() or [""])[0]
    return PrepareError(f"{file} is no readable UTF-8 text ({first}). Save it as UTF-8.")


def _sniff(line: str) -> str:
    """The separator of a first line."""
    for separator in ("::", "\t", ";", "|", ","):
        if separator in line:
            return separator
    return ","


def _names(line: str, separator: str, has_header: bool, file: Path) -> list[str]:
    line = line.removeprefix("\ufeff")
    fields = (
        next(csv.reader([line], delimiter=separator))
        if len(separator) == 1
        else line.split(separator)
    )
    if not has_header:
        return [f"column_{k}" for k in range(len(fields))]
    twice = sorted({name for name in fields if fields.count(name) > 1})
    if twice:
        raise LogError(f"{file} names the columns {twice} twice. Give each column its own name.")
    return fields


def _refuse_ragged(
    lines: pl.Series, quoted: pl.Series, separator: str, width: int, file: Path
) -> None:
    """Rows with too few or too many fields; lines with quotes are left to the parser."""
    count = lines.str.count_matches(separator, literal=True)
    odd = (count != width - 1) & ~quoted & (lines != "")
    if bool(odd.any()):
        first = int(odd.arg_max() or 0)
        raise LogError(
            f"{file}: {int(odd.sum()):,} lines do not have {width} fields (first: line "
            f"{first + 1:,}, "
            f"{lines[first][:60]!r}). Correct them, or name the separator: separator=','."
        )


def _parse(file: Path, separator: str, has_header: bool, names: list[str]) -> pl.DataFrame:
    try:
        frame = pl.read_csv(file, separator=separator, has_header=has_header, infer_schema=False)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise _unreadable(file, error) from None
    frame.columns = names
    return frame
