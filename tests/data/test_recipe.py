from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from recfb import ConfigError, PrepareError
from recfb.data.plain import read_yaml
from recfb.data.recipe import recipe_of

PAGE = """
summary: three clicks
source: nobody
licence: MIT
files: {log: {path: clicks.csv}}
columns: {user: who, item: what, reward: hit}
counts: {rows: 3, users: 2, items: 2}
"""
ROWS = "who,what,hit\na,1,1\nb,2,0\na,2,1\n"


def shelf(tmp_path: Path, page: str = PAGE) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(page)
    (folder / "clicks.csv").write_text(ROWS)
    return folder / "recipe.yaml"


def test_a_recipe_reads_its_files(tmp_path: Path) -> None:
    page = shelf(tmp_path)
    recipe = recipe_of(read_yaml(page), "", page)
    log = recipe.read("log", page.parent)
    assert log.decode().rows() == [("a", 1, 1.0), ("b", 2, 0.0), ("a", 2, 1.0)]
    recipe.check({"rows": 3, "users": 2, "items": 2})
    with pytest.raises(PrepareError, match=r"hold {'rows': 4}, but the recipe counts {'rows': 3}"):
        recipe.check({"rows": 4, "users": 2, "items": 2})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("summary:", "sumary:"), r"unknown key 'sumary'.*Did you mean 'summary'"),
        (("{path: clicks.csv}", "{path: clicks.csv, sha: x}"), r"unknown key 'sha'"),
        (("files: {log:", "files: {rows:"), "files are named log"),
        (("licence: MIT\n", ""), "missing 1 required .*licence"),
        (("licence: MIT\n", "licence: MIT\nlicence: BSD\n"), r"'licence' stands twice \(line"),
        (("licence: MIT\n", "licence: &x MIT\nbinarise: *x\n"), "aliases"),
        (("licence: MIT\n", "licence: !!python/name:os.system\n"), "tags"),
        (("licence: MIT\n", "licence: [\n"), "no plain YAML"),
    ],
)
def test_a_bad_page_is_refused(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    page = shelf(tmp_path, PAGE.replace(*change))
    with pytest.raises(ConfigError, match=says):
        recipe_of(read_yaml(page), "", page)


@pytest.mark.parametrize("path", ["../clicks.csv", "/etc/hostname", "link.csv"])
def test_a_recipe_stays_in_its_folder(tmp_path: Path, path: str) -> None:
    page = shelf(tmp_path, PAGE.replace("clicks.csv", path))
    (tmp_path / "clicks.csv").write_text(ROWS)
    (page.parent / "link.csv").symlink_to(tmp_path / "clicks.csv")
    with pytest.raises(ConfigError, match="leaves"):
        recipe_of(read_yaml(page), "", page).read("log", page.parent)


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    page = shelf(tmp_path, PAGE.replace("clicks.csv}", f"clicks.csv, sha256: {'f' * 64}}}"))
    with pytest.raises(PrepareError, match="its SHA-256 differs"):
        recipe_of(read_yaml(page), "", page).read("log", page.parent)


def test_variants_override_and_are_listed(tmp_path: Path) -> None:
    variants = "variants:\n  small: {counts: {rows: 3}}\n  large: {counts: {rows: 9}}\n"
    page = shelf(tmp_path, PAGE + variants)
    assert recipe_of(read_yaml(page), "large", page).counts == {"rows": 9}
    with pytest.raises(ConfigError, match=r"no variant 'larg'.*Did you mean 'large'"):
        recipe_of(read_yaml(page), "larg", page)


def test_a_matrix_becomes_rows(tmp_path: Path) -> None:
    page = shelf(tmp_path, PAGE.replace("{path: clicks.csv}", "{path: m.txt, layout: matrix}"))
    page.write_text(page.read_text().replace("columns: {user: who, item: what, reward: hit}\n", ""))
    (page.parent / "m.txt").write_text("5 0 1\n0 0 3\n")
    log = recipe_of(read_yaml(page), "", page).read("log", page.parent)
    assert log.decode().rows() == [(0, 0, 5.0), (0, 2, 1.0), (1, 2, 3.0)]


def test_items_bring_their_features(tmp_path: Path) -> None:
    page = shelf(tmp_path, PAGE.replace("csv}}", "csv}, items: {path: items.parquet}}"))
    pl.DataFrame({"id": [2, 1], "title": ["two", "one"]}).write_parquet(
        page.parent / "items.parquet"
    )
    log = recipe_of(read_yaml(page), "", page).read("log", page.parent)
    assert log.items["title"].to_list() == ["one", "two"]
