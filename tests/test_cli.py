from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from torch import Tensor

from recfb import RecfbError, Recommender, load
from recfb.cli import VERBS, main
from recfb.data.product import verify
from recfb.evaluation import State


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


def test_simulate_writes_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "two_arms", "--rounds", "30", "--name", "s"]) == 0
    run = Path("runs/s")
    assert {"table.parquet", "rounds.png", "log", "config.yaml"} <= {p.name for p in run.iterdir()}
    page = yaml.safe_load((run / "config.yaml").read_text())
    assert page["simulator"]["init_args"]["rounds"] == 30
    verify(run)
