from __future__ import annotations

import textwrap
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from recfb import Log, Meta
from recfb.doctor import START, describe_log, examine, suggest


def test_suggest_knows_what_people_call_things() -> None:
    names = ["ts", "member", "sku", "clicked", "pscore", "price"]
    assert suggest(names) == {
        "user": "member",
        "item": "sku",
        "reward": "clicked",
        "propensity": "pscore",
        "time": "ts",
    }


def test_a_given_name_wins_and_is_not_used_twice() -> None:
    assert suggest(["item_id", "click", "sku"], {"item": "sku"}) == {
        "item": "sku",
        "reward": "click",
    }


def test_a_file_is_examined(tmp_path: Path) -> None:
    rows = {
        "member": ["a", "b"],
        "sku": [1, 2],
        "clicked": [1, 0],
        "prob": [0.5, 0.25],
        "x": [0, 0],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    text = str(examine(tmp_path / "log.parquet", {}))
    for line in (
        "users         2",
        "items         2 (2 shown)",
        "50.000% of user-item pairs",
        "0: 50.0%, 1: 50.0%",
        "0.25 to 0.5, largest weight 4",
        "user='member', item='sku', reward='clicked', propensity='prob'",
        "--user member --item sku",
        "Not used: x",
    ):
        assert line in text


def test_a_file_without_a_reward_says_how_to_name_one(tmp_path: Path) -> None:
    pl.DataFrame({"member": ["a"], "sku": [1], "hit": [1]}).write_parquet(tmp_path / "log.parquet")
    text = str(examine(tmp_path / "log.parquet", {}))
    assert "No column looks like 'reward'" in text
    assert "--reward 1" in text
    assert "hit (Int64)" in text


def test_the_sheet_of_a_log_without_rows() -> None:
    assert "no rows" in str(describe_log(Log.empty(2, 3)))


def test_times_are_read_as_dates() -> None:
    for scale in (1, 10**6):
        log = Log.of({"item": [0, 1], "reward": [1, 0], "time": [1_700_000_000 * scale] * 2})
        assert "2023-11-14 to 2023-11-14" in str(describe_log(log))
    log = Log.of({"item": [0, 1], "reward": [1, None], "time": [0, 7]})
    assert "0 to 7" in str(describe_log(log))
    assert "1 never revealed" in str(describe_log(log))


def shop(n: int = 2000, **more: object) -> pl.DataFrame:
    """A decision table without propensities: item k of 4 is shown to a quarter of the visitors."""
    score = [0.4 + 0.2 * (k % 3) for k in range(n)]
    rows = {
        "user_id": [f"u{k % 300}" for k in range(n)],
        "shown_product": [f"sku{k % 4}" for k in range(n)],
        "bought": [int(k % 50 == 0) for k in range(n)],
        "model_score": score,
        "ts": [1_700_000_000 + k for k in range(n)],
    }
    return pl.DataFrame({**rows, **more})


def advice(table: pl.DataFrame, suffix: str = ".parquet", **columns: str) -> list[str]:
    """What the doctor advises on a file called t, without the lines on how to read it."""
    path = Path(f"t{suffix}")
    table.write_csv(path) if suffix == ".csv" else table.write_parquet(path)
    return list(examine(path, columns).advice)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_decision_table_without_propensities(suffix: str) -> None:
    file = f"t{suffix}"
    assert advice(shop(), suffix) == [
        f"Read it so:  Log.read('{file}', user='user_id', item='shown_product', reward='bought', "
        "time='ts')",
        f"or:          recfb ... {file} --user user_id --item shown_product --reward bought "
        "--time ts",
        "Not used: model_score",
        "model_score lies in (0, 1] but is no propensity: the mean of 1/p is 1.806 +- 0.0116, "
        "which should be the number of items, 4.",
        "Propensities are missing. Without them only dm and replay can evaluate a policy, and",
        "replay only if items were shown uniformly at random.",
        "To log them from now on (docs/logging.md), where the item is chosen:",
        START,
    ]  # 1/.4, 1/.6 and 1/.8: mean 1.806, sd .520


def test_the_lines_to_copy_are_those_of_the_page() -> None:
    page = (Path(__file__).parents[1] / "docs" / "logging.md").read_text()
    assert f"{START}\n" in page


def test_the_lines_to_copy_give_the_probability_of_the_choice() -> None:
    """Exactly: over the coin and the choices, each item comes with the probability it is given."""
    items, best = ["a", "b", "c"], "b"
    chance: dict[str, float] = dict.fromkeys(items, 0.0)
    given: dict[str, float] = {}
    outcomes = [(0.0, 0.05 / 3, item) for item in items] + [
        (0.9, 0.95, "a")
    ]  # (coin, chance, drawn)
    for coin, weight, drawn in outcomes:
        fake = SimpleNamespace(random=lambda coin=coin: coin, choice=lambda _, drawn=drawn: drawn)
        scope = {"random": fake, "items": items, "best": best}
        exec(textwrap.dedent(START), scope)
        chance[scope["item"]] += weight
        given[scope["item"]] = scope["propensity"]
    assert given == pytest.approx(chance)
    assert sum(given.values()) == pytest.approx(1)


def test_a_column_that_could_be_the_propensity() -> None:
    quarter = advice(shop(prob_served=0.25))
    assert (
        "prob_served could be the propensity: always 0.25, uniform over 4 items. If it is:  "
        "--propensity prob_served"
    ) in quarter
    p = [[0.4, 0.3, 0.2, 0.1][k % 4] for k in range(1000)]
    drawn = [x for k, x in enumerate(p) for _ in range(round(x * 40))]  # each as often as likely
    skus = [f"sku{k % 4}" for k, x in enumerate(p) for _ in range(round(x * 40))]
    n = len(drawn)
    table = shop(n).with_columns(p_served=pl.Series(drawn), shown_product=pl.Series(skus))
    (line,) = (line for line in advice(table) if line.startswith("p_served"))
    assert line == (
        "p_served could be the propensity: the mean of 1/p is 4 +- 0.022, as for 4 items. If it "
        "is:  --propensity p_served"
    )


@pytest.mark.parametrize(
    ("p", "why"),
    [
        (1.0, "always 1, a choice without chance that tells nothing of other items"),
        (0.5, "always 0.5, uniform over 2 items, but there are 4 items"),
    ],
)
def test_propensities_that_are_none(p: float, why: str) -> None:
    assert advice(shop(propensity=p))[-1] == (
        f"These do not look like propensities: {why}. See docs/logging.md."
    )


def test_a_uniform_logger_is_recognised_though_some_items_were_never_shown() -> None:
    lines = str(examine_of(shop(prob=0.125)))
    assert "propensities  0.125 to 0.125, largest weight 8; always 0.125, uniform over 8" in lines
    assert "do not look" not in lines


def examine_of(table: pl.DataFrame) -> object:
    table.write_parquet("t.parquet")
    return examine("t.parquet", {})


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_values_that_are_no_probabilities_are_not_mapped(suffix: str) -> None:
    table = shop(prob=pl.Series([12.5, 0.0] + [0.5] * 1998))
    lines = advice(table, suffix)
    assert "prob is no propensity: 2 of 2,000 values outside (0, 1]." in lines
    assert "propensity=" not in lines[0]
    words = shop(prob="high")
    assert "prob is no propensity: 2,000 of 2,000 values outside (0, 1]." in advice(words, suffix)


def test_availability_counts_the_choices() -> None:
    rows = {"item": [0, 1] * 50, "reward": [0, 1] * 50, "propensity": [0.5] * 100}
    log = Log.of({**rows, "available": [[0, 1]] * 100}, n_items=9)
    assert "do not look" not in str(describe_log(log))
    assert "do not look" in str(describe_log(Log.of(rows, n_items=9)))


def test_rows_of_clicks_only_are_named() -> None:
    line = "All rewards are equal: rows of what was shown in vain are missing (docs/logging.md)."
    assert line in advice(shop(bought=1))
    assert line not in advice(shop())


def test_a_log_of_ratings_is_not_told_how_to_choose_items() -> None:
    text = str(describe_log(Log.of({"item": [0], "reward": [7]}, meta=Meta(task="ratings"))))
    assert "Propensities are missing." in text
    assert "random.choice" not in text
