"""Every figure is drawn from the tables that the verbs return, without a warning."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recfb import plots


def test_rankings_have_a_panel_a_metric() -> None:
    table = pl.DataFrame(
        {
            "recommender": ["a", "b"] * 2,
            "metric": ["ndcg@10"] * 2 + ["coverage@10"] * 2,
            "value": [0.1, 0.2, 0.3, 0.4],
            "lower": [0.05, 0.15, None, None],
            "upper": [0.15, 0.25, None, None],
        }
    )
    figure = plots.measured(table, "title")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["ndcg@10", "coverage@10"]


def test_a_wide_interval_leaves_the_view_with_an_arrow() -> None:
    table = pl.DataFrame(
        {
            "policy": ["a", "b", "c"],
            "estimator": ["snips"] * 3,
            "value": [0.1, 0.12, 0.11],
            "lower": [0.08, 0.1, 0.0],
            "upper": [0.12, 0.14, 1.0],
            "verdict": ["usable", "usable with care", "do not use"],
        }
    )
    axis = plots.evaluated(table, truth={"a": 0.11}).axes[0]
    assert axis.get_xlim()[1] < 0.2
    assert ">" in [line.get_marker() for line in axis.lines]


def test_weights_show_rows_and_what_they_count_as(tmp_path: Path) -> None:
    rows = {"policy": ["a", "b"], "n": [1000, 1000], "ess": [900.0, 2.0], "mean_weight": [1.0, 3.0]}
    rows |= {"max_weight": [2.0, 900.0], "top_row": [0.002, 0.7], "buckets": [500, 500]}
    rows |= {"top": [[0.002, 0.005, 0.02, 0.05, 0.12, 0.33, 1.0], [0.7] * 6 + [1.0]]}
    figure = plots.weights(pl.DataFrame(rows), "title")
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [1000, 900.0, 1000, 2.0]
    assert "2 of 1,000; largest weight 900, 70.0% of all" in [
        text.get_text() for text in left.texts
    ]
    assert list(right.lines[1].get_ydata()) == [0.7] * 6 + [1.0]
    assert plots.write(figure, tmp_path / "weights.png").read_bytes().startswith(b"\x89PNG")


def test_weights_of_a_log_without_propensities() -> None:
    nothing = pl.DataFrame(schema={"policy": pl.String, **dict.fromkeys(("n", "ess"), pl.Float64)})
    texts = [text.get_text() for text in plots.weights(nothing).axes[0].texts]
    assert texts == ["the log has no propensities"]


def test_rounds_show_the_mean_and_a_band(tmp_path: Path) -> None:
    rows = [(p, r, t, t * (1 + r)) for p in ("a", "b") for r in range(3) for t in range(4)]
    metrics = pl.DataFrame(rows, schema=["policy", "replication", "round", "gini"], orient="row")
    figure = plots.by_round(metrics, ["gini"], "title " * 40)
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.0, 2.0, 4.0, 6.0]
    path = plots.write(figure, tmp_path / "rounds.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_rates_have_a_panel_an_instance_and_dashes_for_theory(tmp_path: Path) -> None:
    x = [1.0, 10.0, 100.0]
    rows = [(p, w, t, t**0.5) for p in ("a", "b") for w in ("easy", "hard") for t in x]
    table = pl.DataFrame(rows, schema=["policy", "walk", "rounds", "regret"], orient="row")
    theory = table.filter(policy="a").with_columns(policy=pl.lit("T^1/2"))
    figure = plots.log_log(table, theory, "rounds", "regret", panel="walk", title="Rates")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["easy", "hard"]
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "-", "--"]
    assert figure.axes[1].get_xscale() == figure.axes[1].get_yscale() == "log"
    assert plots.write(figure, tmp_path / "rates.png").stat().st_size > 0
    one = table.filter(walk="easy").drop("walk")
    assert len(plots.log_log(one, theory.drop("walk"), "rounds", "regret").axes) == 1
