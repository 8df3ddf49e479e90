from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from torch import Tensor

from recfb import Log, RecfbError, Recommender, evaluate, load
from recfb.cli import VERBS, main
from recfb.data.product import verify
from recfb.evaluation import State
from recfb.policies import Ranked, Uniform


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def clicks() -> Path:
    user, item = zip(
        *[(u, i) for u in range(30) for i in range(20) if (u + i) % 3 == 0], strict=True
    )
    frame = pl.DataFrame(
        {
            "member": [f"m{u}" for u in user],
            "sku": [100 + i for i in item],
            "clicked": [1] * len(user),
            "ts": range(len(user)),
        }
    ).sample(fraction=1.0, shuffle=True, seed=1)
    frame.with_columns(ts=pl.int_range(pl.len())).write_parquet("clicks.parquet")
    return Path("clicks.parquet")


MIXED_UP = ["--model.scorer", "MF", "--model.sampler", "Clicks", "--model.objective", "RelMF"]
MIXED_UP += ["--model.objective.exposure", "Popularity"]
BPR = ["--model.scorer", "MF", "--model.scorer.dim", "8", "--model.objective", "BPR"]
BPR += ["--model.sampler", "Clicks"]
COLUMNS = ["--user", "member", "--item", "sku", "--reward", "clicked", "--time", "ts"]


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    code = "import sys; from recfb.cli import main; main(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, modules = done.stdout.rsplit("\n", 2)[:2]
    assert all(verb in text for verb in VERBS)
    for heavy in ("torch", "polars", "pytorch_lightning", "sklearn", "obp", "jsonargparse"):
        assert f"'{heavy}'" not in modules


def test_a_wrong_verb_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulat"]) == 2
    assert "Did you mean 'simulate'?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "demo"])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([verb, "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: recfb {verb}")
    assert "TYPE:" not in text.split("columns of your file")[0].split("options:")[0]


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in ("movietweetings", "open_bandit/men/bts", "popularity_loop", "RelMF", "LinUCB"):
        assert name in text
    assert main(["list", "objectives"]) == 0
    assert "Saito" in capsys.readouterr().out
    assert main(["list", "objective"]) == 1
    assert "Did you mean 'objectives'?" in capsys.readouterr().err


def test_doctor_maps_columns(clicks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(clicks)]) == 0
    text = capsys.readouterr().out
    assert "user='member', item='sku', reward='clicked', time='ts'" in text
    assert main(["doctor", "movietweetings"]) == 0
    assert "2013-02-28 to 2013-09-01" in capsys.readouterr().out


def test_fit_measure_and_recommend(clicks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(clicks), *COLUMNS, *BPR, "--max_epochs", "2", "--name", "bpr"]) == 0
    assert (
        main(["fit", str(clicks), *COLUMNS, "--model", "ALS", "--model.dim", "4", "--name", "als"])
        == 0
    )
    for name in ("bpr", "als"):
        verify(Path("runs") / name)
        names = {path.name for path in (Path("runs") / name).iterdir()}
        assert {"config.yaml", "versions.txt", "model", "SHA256SUMS"} <= names
        assert "torch" in (Path("runs") / name / "versions.txt").read_text()
    capsys.readouterr()
    command = [
        "measure",
        str(clicks),
        *COLUMNS,
        "runs/bpr",
        "runs/als",
        "--metrics",
        '["recall@5"]',
    ]
    assert main([*command, "--base", "als", "--name", "m"]) == 0
    assert "bpr" in capsys.readouterr().out
    assert pl.read_parquet("runs/m/table.parquet")["recommender"].n_unique() == 2
    assert main(["recommend", "runs/als", "--users", "m3,nobody", "--k", "2"]) == 0
    text = capsys.readouterr().out
    assert "model" in text
    assert "popularity" in text
    assert main(["recommend", "runs/als", "--k", "3", "--out", "top.parquet"]) == 0
    assert pl.read_parquet("top.parquet").height > 30


def test_an_existing_run_is_not_overwritten(
    clicks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", str(clicks), *COLUMNS, "--model", "Popularity", "--name", "p"]
    assert main(command) == 0
    assert main(command) == 1
    assert "runs/p exists already" in capsys.readouterr().err


def test_an_interrupted_fit_goes_on(
    clicks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the third of four epochs: then the same weights as in one go."""
    command = ["fit", str(clicks), *COLUMNS, *BPR, "--max_epochs", "4", "--name"]
    assert main([*command, "whole"]) == 0
    assert not Path("runs/whole.checkpoints").exists()
    with monkeypatch.context() as patch:
        step = Recommender.training_step

        def fail(self: Recommender, rows: Tensor, batch_idx: int) -> None:
            if self.current_epoch == 2:
                raise RecfbError("the loss is nan in epoch 2.")
            step(self, rows, batch_idx)

        patch.setattr(Recommender, "training_step", fail)
        assert main([*command, "cut"]) == 1
    assert "last good epoch are in runs/cut.checkpoints/last.ckpt" in capsys.readouterr().err
    assert not Path("runs/cut").exists()
    assert main([*command, "cut"]) == 1
    assert "Go on with it: --resume" in capsys.readouterr().err
    assert main([*command, "cut", "--resume"]) == 0
    assert not Path("runs/cut.checkpoints").exists()
    for name in ("whole", "cut"):
        verify(Path("runs") / name)
    models = [load(Path("runs") / name / "model") for name in ("whole", "cut")]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)
    assert main([*command, "new", "--resume"]) == 1
    assert "there is nothing to resume" in capsys.readouterr().err


def test_resume_is_refused_where_it_would_do_nothing(
    clicks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ["fit", str(clicks), *COLUMNS]
    assert main([*fit, *BPR, "--resume"]) == 1
    assert "--resume goes on with a fit that has a --name" in capsys.readouterr().err
    assert main([*fit, "--model", "Popularity", "--name", "p", "--resume"]) == 1
    assert "Popularity is solved in one go" in capsys.readouterr().err
    assert not Path("runs/p").exists()


def test_a_solver_leaves_the_checkpoints_of_an_interrupted_fit(clicks: Path) -> None:
    last = Path("runs/p.checkpoints/last.ckpt")
    last.parent.mkdir(parents=True)
    last.touch()
    assert main(["fit", str(clicks), *COLUMNS, "--model", "Popularity", "--name", "p"]) == 0
    assert last.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fit", "clicks.parquet", "--model", "ALS", "--model.dimm", "4"], "dim"),
        (["fit", "clicks.parquet", "--model", "AlS"], "'ALS'"),
        (["fit", "clicks.parquet", "--model", "ALS", "--max_epoch", "4"], "max_epochs"),
        (["fit", "clicks.parquet", "--model", "subprocess.Popen"], "outside what a configuration"),
        (["fit", "nothing.parquet", "--model", "ALS"], "neither a file nor a data set"),
        (["fit", "clicks.parquet", *MIXED_UP], "objectives.RelMF does not go with samplers.Clicks"),
        (["evaluate", "clicks.parquet"], "--policies policies.yaml"),
        (["simulate", "two_arm"], "Did you mean 'two_arms'"),
        (["recommend", "runs/none"], "is not a folder"),
    ],
)
def test_a_mistake_is_explained_in_few_lines(
    clicks: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) <= 3
    assert not Path("runs").exists()


def test_evaluate_exits_with_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    rows = pl.DataFrame(
        {"item": [0, 1] * 1000, "reward": [1, 0] * 1000, "propensity": [0.5] * 2000}
    )
    rows.write_parquet("log.parquet")
    Path("policies.yaml").write_text("uniform: {class_path: Uniform}\n")
    command = ["evaluate", "log.parquet", "--policies", "policies.yaml", "--name", "e"]
    assert main(command) == 0
    says = "uniform: 0.5 a row, as the logging policy (snips, 2,000 rows); usable."
    assert says in capsys.readouterr().out.splitlines()
    run = Path("runs/e")
    products = {"table.parquet", "report.json", "state.parquet", "values.png", "weights.png"}
    assert products <= {path.name for path in run.iterdir()}
    verify(run)
    assert json.loads((run / "report.json").read_text())["sentence"] == says
    assert State.load(run / "state.parquet").groups()[""].n == 2000
    unrevealed = {"item": [0], "reward": [None], "propensity": [0.5]}
    pl.DataFrame(unrevealed, schema_overrides={"reward": pl.Float64}).write_parquet("empty.parquet")
    assert main(["evaluate", "empty.parquet", "--policies", "policies.yaml"]) == 4


@pytest.mark.parametrize(
    ("log", "code", "says"),
    [
        ("all/random", 3, "bts@start: 0.00472 a row against 0.0038 of the logging policy, +24.3 %"),
        ("men/random", 0, ""),
        ("women/random", 0, ""),
        ("all/bts", 3, ""),
        ("men/bts", 0, ""),
        ("women/bts", 3, "uniform: do not use (G1: effective sample size 2.08; "),
    ],
)
def test_every_open_bandit_log_has_a_sentence(
    log: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", f"open_bandit/{log}"]) == code
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert says in last
    assert last.endswith(".")


def test_the_policies_of_the_guide_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "guide.md").read_text()
    (fence,) = re.findall(r"^```yaml\n(uniform:.*?)^```", page, re.MULTILINE | re.DOTALL)
    Path("policies.yaml").write_text(fence)
    rows = {"item": [0, 1, 2] * 200, "reward": [1, 0, 0] * 200, "propensity": [1 / 3] * 600}
    pl.DataFrame(rows).write_parquet("log.parquet")
    assert main(["evaluate", "log.parquet", "--policies", "policies.yaml"]) in (0, 3)
    text = capsys.readouterr().out
    assert "uniform " in text and "thompson " in text


def test_evaluate_reads_your_own_columns(capsys: pytest.CaptureFixture[str]) -> None:
    g = random.Random(0)
    shown = [g.choices("abc", [0.6, 0.3, 0.1])[0] for _ in range(4000)]
    p = {"a": 0.6, "b": 0.3, "c": 0.1}
    rows = {"shown": shown, "prob": [p[item] for item in shown], "visit": range(4000)}
    bought = [int(g.random() < {"a": 0.1, "b": 0.3, "c": 0.5}[item]) for item in shown]
    pl.DataFrame({**rows, "bought": bought}).write_parquet("shop.parquet")
    third = "third: {class_path: BetaThompson, init_args: {alpha: [1, 1, 90]}}"
    Path("policies.yaml").write_text(f"uniform: {{class_path: Uniform}}\n{third}\n")
    columns = ["--item", "shown", "--reward", "bought", "--propensity", "prob", "--unit", "visit"]
    command = ["evaluate", "shop.parquet", *columns, "--policies", "policies.yaml"]
    assert main([*command, "--base", "uniform"]) in (0, 3)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("third: 0.")
    assert "of uniform, +" in last
    assert "decided." in last


# ---- policies.yaml with runs, loggers and a reward model; yesterday's rows


def shown_log(path: str, seed: int, days: int = 1, skus: int = 20) -> None:
    """Requests of the members of `clicks`, one uniform sku each."""
    g = random.Random(seed)
    n = 600 * days
    rows = {"member": [f"m{g.randrange(30)}" for _ in range(n)]}
    rows |= {"sku": [100 + k % skus for k in range(n)], "p": [1 / skus] * n}
    rows["bought"] = [int(g.random() < 0.1 + 0.02 * (sku % 20)) for sku in rows["sku"]]
    pl.DataFrame(rows).with_columns(
        pl.Series("week", [k // 100 % 2 for k in range(n)])
    ).write_parquet(path)


EVALUATE = ["--item", "sku", "--reward", "bought", "--propensity", "p", "--policies", "page.yaml"]


def table_of(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    rows = pl.read_parquet(f"runs/{name}/table.parquet").to_dicts()
    return {(row["policy"], row["estimator"]): row for row in rows}


def test_a_fitted_run_is_a_policy_and_a_reward_model(clicks: Path) -> None:
    assert (
        main(["fit", str(clicks), *COLUMNS, "--model", "ALS", "--model.dim", "4", "--name", "als"])
        == 0
    )
    shown_log("log.parquet", 0)
    Path("page.yaml").write_text(
        "policies:\n"
        "  uniform: {class_path: Uniform}\n"
        "  mixed: {run: runs/als, epsilon: 0.2}\n"
        "  same: {class_path: Ranked, init_args: {model: {run: runs/als}, epsilon: 0.2}}\n"
        "reward_model: {run: runs/als}\n"
    )
    command = ["evaluate", "log.parquet", "--user", "member", *EVALUATE, "--estimators", "ips,dr"]
    assert main([*command, "--name", "e", "--seed", "3"]) in (0, 3)
    found = table_of("e")
    log = Log.read(
        "log.parquet",
        like=load("runs/als"),
        user="member",
        item="sku",
        reward="bought",
        propensity="p",
    )
    policies = {"uniform": Uniform(), "mixed": Ranked(load("runs/als"), epsilon=0.2)}
    mine = evaluate(log, policies, estimators=["ips", "dr"], reward_model=load("runs/als"), seed=3)
    for row in mine.table.to_dicts():
        names = ["mixed", "same"] if row["policy"] == "mixed" else ["uniform"]
        for name in names:
            value = found[name, row["estimator"]]["value"]
            assert value is None or value == pytest.approx(row["value"], rel=1e-12)
    assert found["mixed", "ips"]["value"] is not None
    config = yaml.safe_load(Path("runs/e/config.yaml").read_text())
    assert config["page"]["policies"]["mixed"] == {"run": "runs/als", "epsilon": 0.2}
    assert config["estimators"] == "ips,dr"


def test_a_page_names_loggers_and_a_cross_fitted_reward_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    g = random.Random(1)
    rows: dict[str, list[float]] = {"item": [], "reward": [], "propensity": [], "logger": []}
    for k in range(2000):
        who = k % 2
        item = g.choices([0, 1], [0.5, 0.5] if who == 0 else [0.8, 0.2])[0]
        p = 0.5 if who == 0 else [0.8, 0.2][item]
        for column, value in zip(rows, (item, g.random() < 0.3 + 0.3 * item, p, who), strict=True):
            rows[column].append(value)
    pl.DataFrame(rows).with_columns(
        pl.col("item", "logger").cast(pl.Int64), pl.col("reward").cast(pl.Int64)
    ).write_parquet("log.parquet")
    Path("page.yaml").write_text(
        "policies:\n"
        "  second: {class_path: BetaThompson, init_args: {alpha: [1, 90]}}\n"
        "loggers:\n"
        "  0: {class_path: Uniform}\n"
        "  1: {class_path: BetaThompson, init_args: {alpha: [4, 1]}}\n"  # P(first) = 4 / 5
        "reward_model:\n"
        "  class_path: CrossFit\n"
        "  init_args: {folds: 4, model: {class_path: Reward, init_args: {estimator: linear}}}\n"
    )
    command = ["evaluate", "log.parquet", "--policies", "page.yaml", "--name", "e"]
    assert main([*command, "--estimators", "balanced_ips,balanced_dr"]) in (0, 3)
    assert "cross-fitted Reward(estimator='linear'), 4 folds by unit" in capsys.readouterr().out
    found = table_of("e")
    truth = 0.6  # of the second item, which is nearly always chosen
    for name in ("balanced_ips", "balanced_dr"):
        assert found["second", name]["value"] == pytest.approx(truth, abs=0.08)


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (
            "policies: {u: {class_path: Uniform}}\nlogers: {0: {class_path: Uniform}}",
            "Did you mean 'loggers'?",
        ),
        (
            "polices: {u: {class_path: Uniform}}",
            "'polices' is a policy by class_path or by run, found ['u']. Did you mean 'policies'?",
        ),
        ("u: {class_pth: Uniform}", "found ['class_pth']"),
        ("u: {class_path: Uniform, init_arg: {}}", "Did you mean 'init_args'?"),
        (
            "u: {class_path: Ranked, init_args: {model: {run: runs/als, k: 3}}}",
            "'k' does not go with run",
        ),
        ("u: {run: runs/als, epsilom: 0.1}", "Did you mean 'epsilon'?"),
        ("u: {run: runs/none}", "runs/none is not a folder"),
        ("u: Uniform", "found 'Uniform'"),
        ("u: {class_path: Unifrm}", "Did you mean 'Uniform'?"),
        ("policies: [Uniform]", "policies is a policy a line"),
        ("policies: {u: {class_path: Uniform}}\nloggers: {a: {class_path: Uniform}}", "found 'a'"),
        ("policies: {}", "which policies?"),
        ("loggers: {0: {class_path: Uniform}}", "which policies?"),
        ("[]", "has no policies"),
        ("u: {class_path: subprocess.Popen}", "outside what a configuration"),
        (
            "reward_model: {class_path: CrossFit, init_args: {model: {class_path: ALS}, fold: 2}}\n"
            "policies: {u: {class_path: Uniform}}",
            "Did you mean 'folds'?",
        ),
    ],
)
def test_a_mistake_on_the_page_is_explained(
    clicks: Path, page: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(clicks), *COLUMNS, "--model", "Popularity", "--name", "als"]) == 0
    shown_log("log.parquet", 0)
    Path("page.yaml").write_text(page)
    assert main(["evaluate", "log.parquet", "--user", "member", *EVALUATE, "--name", "e"]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) <= 3
    assert not Path("runs/e").exists()


def test_runs_of_other_items_are_not_evaluated_together(
    clicks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown_log("other.parquet", 0, skus=5)
    fit = ["fit", str(clicks), *COLUMNS, "--model", "Popularity", "--name", "a"]
    assert main(fit) == 0
    other = ["--user", "member", "--item", "sku", "--reward", "bought"]
    assert main(["fit", "other.parquet", *other, "--model", "Popularity", "--name", "b"]) == 0
    Path("page.yaml").write_text("a: {run: runs/a}\nb: {run: runs/b}\n")
    command = ["evaluate", "other.parquet", "--user", "member", *EVALUATE]
    assert main(command) == 1
    assert "fitted to different users or items" in capsys.readouterr().err
    Path("page.yaml").write_text("b: {run: runs/b}\n")
    assert main(command) in (0, 3)
    assert main([*command, "--like", "runs/a"]) == 1
    assert "fitted to different users or items" in capsys.readouterr().err
    shown_log("log.parquet", 0)
    assert main(["evaluate", "log.parquet", "--user", "member", *EVALUATE]) == 1
    assert "item" in capsys.readouterr().err  # 105 is no item of run b
    ints = {"user": [0, 1], "item": ["a", "b"], "reward": [1, 1]}
    pl.DataFrame(ints).write_parquet("ints.parquet")
    assert main(["fit", "ints.parquet", "--model", "Popularity", "--name", "c"]) == 0
    Path("page.yaml").write_text("c: {run: runs/c}\n")
    assert main(["evaluate", "movietweetings", "--policies", "page.yaml"]) == 1
    assert "rows of movietweetings have users or items" in capsys.readouterr().err


def test_yesterday_and_today_are_one_report(capsys: pytest.CaptureFixture[str]) -> None:
    Path("page.yaml").write_text(
        "uniform: {class_path: Uniform}\nfirst: {class_path: BetaThompson, init_args: {alpha: 2}}\n"
    )
    for day in range(3):
        shown_log(f"day{day}.parquet", day)
    days = [pl.read_parquet(f"day{day}.parquet") for day in range(3)]
    pl.concat(days).write_parquet("all.parquet")
    options = [*EVALUATE, "--estimators", "ips,snips", "--base", "uniform", "--interval", "student"]
    assert main(["evaluate", "all.parquet", *options, "--name", "all"]) in (0, 3)
    assert main(["evaluate", "day0.parquet", *options, "--name", "d0"]) in (0, 3)
    assert main(["evaluate", "day1.parquet", *options, "--name", "d1", "--add", "runs/d0"]) in (
        0,
        3,
    )
    assert main(["evaluate", "day2.parquet", *options, "--name", "d2"]) in (0, 3)
    first, last = "runs/d1/state.parquet", "runs/d2/state.parquet"
    assert main(["evaluate", "day2.parquet", *options, "--name", "sum", "--add", first]) in (0, 3)
    three = ["--add", first, "--add", last]
    capsys.readouterr()
    assert main(["evaluate", "day2.parquet", *options, *three]) == 1
    assert "their rows would count twice" in " ".join(capsys.readouterr().err.split())
    whole, parts = table_of("all"), table_of("sum")
    for key, row in whole.items():
        assert parts[key]["n"] == row["n"] == 1800
        assert parts[key]["value"] == pytest.approx(row["value"], rel=1e-12)
        # rows without a unit are named by their file, so their buckets differ
        assert parts[key]["se"] == pytest.approx(row["se"], rel=0.1)
        if key[0] != "uniform":
            assert parts[key]["difference"] == pytest.approx(row["difference"], rel=1e-9)


def test_a_state_of_another_plan_is_not_added(
    clicks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown_log("day0.parquet", 0)
    shown_log("day1.parquet", 1)
    fit = ["fit", str(clicks), *COLUMNS, "--model", "ALS", "--model.dim", "4", "--name", "als"]
    assert main(fit) == 0
    Path("page.yaml").write_text("als: {run: runs/als, epsilon: 0.5}\n")
    options = ["--user", "member", *EVALUATE, "--estimators", "ips"]
    assert main(["evaluate", "day0.parquet", *options, "--name", "d0"]) in (0, 3)
    again = ["evaluate", "day1.parquet", *options, "--add", "runs/d0"]
    assert main(again) in (0, 3)
    capsys.readouterr()
    assert main([*again, "--seed", "1"]) == 1
    assert "states are of different evaluations" in capsys.readouterr().err
    shutil.rmtree("runs/als")
    assert main([*fit[:-2], "--seed", "1", "--name", "als"]) == 0  # the same words, other weights
    assert main(again) == 1
    assert "states are of different evaluations" in capsys.readouterr().err
    assert main([*again[:-1], "runs/none"]) == 1
    assert "runs/none" in capsys.readouterr().err


def test_states_of_other_items_users_or_loggers_are_not_added(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = "policies: {u: {class_path: Uniform}}\nloggers: {0: {class_path: Uniform}}\n"
    Path("page.yaml").write_text(page)
    shown_log("day0.parquet", 0)
    shown_log("day1.parquet", 1, skus=5)
    frame = pl.read_parquet("day0.parquet").with_columns(pl.lit(0).alias("logger"))
    frame.write_parquet("day0.parquet")
    frame.sample(fraction=1.0, shuffle=True, seed=2).write_parquet("day2.parquet")
    frame.with_columns(pl.lit("new").alias("member")).write_parquet("day3.parquet")
    few = pl.read_parquet("day1.parquet")
    few.with_columns(pl.lit(0).alias("logger"), pl.lit(0.05).alias("p")).write_parquet(
        "day1.parquet"
    )
    options = [*EVALUATE, "--estimators", "balanced_ips"]
    assert main(["evaluate", "day0.parquet", *options, "--name", "d0"]) in (0, 3)
    by_user = ["--user", "member", *options]
    assert main(["evaluate", "day0.parquet", *by_user, "--name", "u0"]) in (0, 3)
    assert main(["evaluate", "day2.parquet", *options, "--add", "runs/d0"]) in (0, 3)
    assert main(["evaluate", "day3.parquet", *options, "--add", "runs/d0"]) in (0, 3)
    capsys.readouterr()
    assert main(["evaluate", "day1.parquet", *options, "--add", "runs/d0"]) == 1  # other items
    assert "states are of different evaluations" in capsys.readouterr().err
    assert main(
        ["evaluate", "day1.parquet", *options, "--like", "day0.parquet", "--add", "runs/d0"]
    ) in (0, 3)
    assert main(["evaluate", "day3.parquet", *by_user, "--add", "runs/u0"]) == 1  # other clusters
    assert "states are of different evaluations" in capsys.readouterr().err
    Path("page.yaml").write_text(
        page.replace("0: {class_path: Uniform}", "0: {class_path: BetaThompson}")
    )
    assert main(["evaluate", "day2.parquet", *options, "--add", "runs/d0"]) == 1
    assert "states are of different evaluations" in capsys.readouterr().err


def test_evaluate_takes_the_range_of_rewards_and_further_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown_log("log.parquet", 0)
    frame = pl.read_parquet("log.parquet").with_columns(bought=5.0 * pl.col("bought"))
    frame.write_parquet("log.parquet")
    Path("page.yaml").write_text("uniform: {class_path: Uniform}\n")
    command = [
        "evaluate",
        "log.parquet",
        *EVALUATE,
        "--estimators",
        "snips",
        "--interval",
        "likelihood",
    ]
    assert main(command) == 1
    assert "reward_range" in capsys.readouterr().err
    assert main([*command, "--reward_range", "0", "5", "--by", "week", "--name", "e"]) in (0, 3)
    table = pl.read_parquet("runs/e/table.parquet")
    assert table["week"].to_list() == ["0", "1"] and table["upper"].max() <= 5
    assert main([*command, "--reward_range", "5", "0"]) == 1
    assert "reward_range is (low, high)" in capsys.readouterr().err
    assert main([*command, "--reward_range", "0", "5", "--by", "weeks"]) == 1
    assert "weeks" in capsys.readouterr().err
    assert main([*command, "--reward_range", "0", "5", "--like", "log.parquet"]) in (0, 3)


def test_simulate_sweeps(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "two_arms", "--rounds", "5", "--name", "s", "--policy", "thompson"]
    assert main([*words, "--sweep", "{world.means: [[0.4, 0.6], [0.1, 0.9]]}"]) == 0
    out = capsys.readouterr().out
    assert "500 rows a policy and cell" in out and "world.means" in out
    table = pl.read_parquet("runs/s/table.parquet")
    assert table["world.means"].to_list()[0] == [0.4, 0.6]
    assert main(["simulate", "two_arms", "--sweep", "{world.mean: [1]}"]) == 1
    assert "Did you mean 'means'" in capsys.readouterr().err


def test_simulate_writes_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "two_arms", "--rounds", "30", "--name", "s"]) == 0
    run = Path("runs/s")
    assert {"table.parquet", "rounds.png", "log", "config.yaml"} <= {p.name for p in run.iterdir()}
    page = yaml.safe_load((run / "config.yaml").read_text())
    assert page["simulator"]["init_args"]["rounds"] == 30
    verify(run)
