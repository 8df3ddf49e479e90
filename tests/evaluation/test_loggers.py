"""Logs of several loggers through the verb: shares, mixtures, strata, stratified errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from ope_world import LOGGER, TARGET, Fixed, draw
from torch import Tensor

from recfb import ConfigError, Log, LogError, estimate, evaluate
from recfb.cli.evaluate import main
from recfb.estimate import LOGGERS, Rows
from recfb.evaluation.estimates import BucketEstimates
from recfb.evaluation.loggers import Loggers
from recfb.evaluation.shape import Shape
from recfb.evaluation.terms import Terms, accumulate
from recfb.policies import Uniform

F = torch.float64
TWO = {0: Fixed(LOGGER), 7: Uniform()}
WIDE = [0.25] * 4
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


def both(n: int = 2000, m: int = 1000, **more: Any) -> Log:
    """n rows of LOGGER as logger 0, m uniform ones as logger 7."""
    one, two = draw(n, seed=1), draw(m, seed=2, logger=WIDE)
    frame = pl.concat([one.frame, two.frame]).with_columns(
        pl.Series("logger", [0] * n + [7] * m), pl.int_range(pl.len()).alias("unit")
    )
    return Log.of(frame.with_columns(**more), n_items=4, meta=one.meta)


def table(log: Log, **options: Any) -> dict[str, dict[str, Any]]:
    names = ["ips", "dr", *LOGGERS]
    report = evaluate(log, {"t": Fixed(TARGET)}, estimators=names, **options)
    return {row["estimator"]: row for row in report.table.to_dicts()}


def parts_of(log: Log) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pe = torch.tensor(TARGET, dtype=F)[log.tensor("item")]
    item = log.tensor("item")
    pbar = 2 / 3 * torch.tensor(LOGGER, dtype=F)[item] + 1 / 3 * 0.25
    return pe, log.tensor("propensity"), pbar, log.tensor("reward").to(F)


def test_o_values_by_hand() -> None:
    log = both()
    found = table(log, loggers=TWO)
    pe, p, pbar, r = parts_of(log)
    assert found["naive_ips"]["value"] == pytest.approx(float((pe / p * r).mean()), rel=1e-12)
    balanced = float((pe / pbar * r).mean())
    assert found["balanced_ips"]["value"] == pytest.approx(balanced, rel=1e-12)
    wr = [(pe / p * r)[:2000], (pe / p * r)[2000:]]
    precision = [len(x) / float(x.var(correction=0)) for x in wr]
    means = [float(x.mean()) for x in wr]
    weighted = sum(a * b for a, b in zip(precision, means, strict=True)) / sum(precision)
    assert found["weighted_ips"]["value"] == pytest.approx(weighted, rel=1e-12)
    for name in LOGGERS:
        assert found[name]["value"] == pytest.approx(0.5, abs=0.04)
        assert found[name]["method"] == "student" and found[name]["verdict"] == "usable"


def test_o_the_variance_is_stratified() -> None:
    n, share = 600, torch.tensor([0.5, 0.5], dtype=F)
    r = torch.arange(n, dtype=F) % 7 + 50.0 * (torch.arange(n) >= 300)  # means 50 apart
    one = torch.ones(n, dtype=F)
    own = torch.stack([torch.arange(n) < 300, torch.arange(n) >= 300]).to(F)
    rows = Rows(r, one, one[None], pbar=one, logger=own)
    terms = Terms({"it": estimate.naive_ips}, policies=1, shape=Shape(loggers=2))
    sums = accumulate(terms, rows, torch.arange(n), n)
    made = BucketEstimates("it", terms, sums, 0, (0, 100), (0, 1))
    var = torch.stack([r[:300].var(correction=0), r[300:].var(correction=0)])
    exact = float((share**2 * var / 300).sum()) ** 0.5
    assert float(made.value) == pytest.approx(float(r.mean()), rel=1e-12)
    assert float(made.se()[0]) == pytest.approx(exact * (1 + 1 / (n - 1)) ** 0.5, rel=1e-9)
    assert float(made.se()[0]) < 0.1 * float(r.std()) / n**0.5


def test_o_balanced_has_its_own_weights_in_the_diagnostics() -> None:
    log = both()
    found, (pe, p, pbar, _) = table(log, loggers=TWO), parts_of(both())
    w = pe / pbar
    assert found["balanced_ips"]["ess"] == pytest.approx(float(w.sum() ** 2 / (w * w).sum()))
    assert found["balanced_ips"]["max_weight"] == pytest.approx(float(w.max()))
    assert found["naive_ips"]["max_weight"] == pytest.approx(float((pe / p).max())) == 4
    assert found["balanced_ips"]["se"] < found["naive_ips"]["se"]
    assert found["balanced_dr"]["se"] < found["naive_dr"]["se"]


def test_o_mu_may_hold_the_mixture() -> None:
    log = both()
    mix = [2 / 3 * p + 1 / 3 * 0.25 for p in LOGGER]
    given = both(mu=pl.lit(mix, dtype=pl.List(pl.Float64)))
    a, b = table(log, loggers=TWO), table(given)
    for name in LOGGERS:
        assert a[name]["value"] == pytest.approx(b[name]["value"], rel=1e-6)  # mu is float32


def test_o_mu_of_each_rows_own_logger_is_refused() -> None:
    own = pl.when(pl.col("logger") == 0).then(pl.lit(LOGGER)).otherwise(pl.lit(WIDE))
    with pytest.raises(ConfigError, match="but it is each row's own propensity"):
        table(both(mu=own))


def test_o_a_mixture_below_a_loggers_own_part_is_refused() -> None:
    wrong = {0: Fixed([0.0, 0.2, 0.4, 0.4]), 7: Uniform()}
    with pytest.raises(LogError, match=r"mixture: \d+ rows have a mixture below their own"):
        table(both(), loggers=wrong)


def test_o_what_is_missing_is_named() -> None:
    with pytest.raises(LogError, match="balanced forms need the probability"):
        table(both())
    with pytest.raises(ConfigError, match=r"loggers \[0, 7\], and loggers= names \[0\]"):
        table(both(), loggers={0: Fixed(LOGGER)})
    with pytest.raises(LogError, match="'logger'"):
        evaluate(draw(50), {"t": Fixed(TARGET)}, estimators=["naive_ips"])
    names = ["naive_ips", "weighted_ips", "naive_dr", "weighted_dr"]
    assert evaluate(both(), {"t": Fixed(TARGET)}, estimators=names).exit_code == 0  # no mixture


def test_o_few_rows_of_a_logger_count_with_the_largest() -> None:
    counts = [(torch.tensor([0, 3, 5]), torch.tensor([100, 29, 30]), 0)]
    loggers = Loggers.of(counts, TWO | {3: Uniform(), 5: Uniform()})
    assert loggers.stratum.tolist() == [0, 0, 1] and loggers.strata == 2
    assert loggers.share.tolist() == pytest.approx([100 / 159, 29 / 159, 30 / 159])
    tiny = Loggers.of(
        [(torch.tensor([2, 4]), torch.tensor([3, 9]), 0)], {2: Uniform(), 4: Uniform()}
    )
    assert tiny.stratum.tolist() == [0, 0] and tiny.strata == 1


def test_o_parts_and_subgroups_agree_with_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from recfb.data import blocks

    whole = table(both(), loggers=TWO)
    by = evaluate(
        both(), {"t": Fixed(TARGET)}, estimators=list(LOGGERS), loggers=TWO, by="position"
    ).table
    alone = both().filter(pl.col("position") == 2)
    naive = evaluate(alone, {"t": Fixed(TARGET)}, estimators=["naive_ips"]).table
    mine = by.filter(position="2", estimator="naive_ips")
    assert mine["value"].item() == pytest.approx(naive["value"].item(), rel=1e-12)
    monkeypatch.setattr(blocks, "PART", 700)
    parts = table(both(), loggers=TWO)
    for name in LOGGERS:
        assert parts[name]["value"] == pytest.approx(whole[name]["value"], rel=1e-12)
        assert parts[name]["se"] == pytest.approx(whole[name]["se"], rel=1e-9)


def test_o_an_empty_log_of_several_loggers() -> None:
    log = both(0, 0)
    report = evaluate(log, {"t": Fixed(TARGET)}, estimators=list(LOGGERS), loggers=TWO)
    assert report.exit_code == 4 and set(report.table["reasons"]) == {"no rows"}


def test_o_by_name_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mix = [2 / 3 * p + 1 / 3 * 0.25 for p in LOGGER]
    both(mu=pl.lit(mix, dtype=pl.List(pl.Float64))).frame.write_parquet("log.parquet")
    (tmp_path / "policies.yaml").write_text("uniform: {class_path: Uniform}\n")
    names = ["balanced_ips", "weighted_dr", "sndr", "mrdr", "dros:slope"]
    code = main(["log.parquet", "--policies", "policies.yaml", "--estimators", json.dumps(names)])
    shown = capsys.readouterr().out
    assert code in (0, 3) and all(name in shown for name in names)
