"""`recfb evaluate LOG`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recfb import plots
from recfb.cli.common import add_log, parse, parser_of, plain, read_log, run_folder, say
from recfb.cli.fit import split_imports
from recfb.config import build
from recfb.contracts import Policy
from recfb.data.recipe import read_yaml
from recfb.errors import ConfigError, OverlapWarning
from recfb.evaluate import evaluate
from recfb.evaluation import Report, words
from recfb.shelf import dataset, pages

SKIP: set[str | int] = {"log", "policies", "reward_model", "executor", "reward_range", "unit"}
SKIP |= {"loggers"}  # functions of a log


def main(argv: Sequence[str]) -> int:
    """Print what policies would have earned; exit code 0 usable, 3 do not use, 4 no value."""
    modules, argv = split_imports(argv)
    about = "What other policies would have earned, and whether the number may be used."
    parser = parser_of("evaluate", about, modules)
    add_log(parser)
    about = "name: {class_path, init_args}; the data set's own without it"
    parser.add_argument("--policies", type=Path | None, metavar="YAML", help=about)
    parser.add_argument(
        "--name", type=str | None, help="write table, report, state and pictures to runs/NAME"
    )
    parser.add_function_arguments(evaluate, skip=SKIP, as_group=False)
    cfg = parse(parser, argv)
    policies = _policies(cfg.log, cfg.policies, modules)
    log = read_log(cfg.log, cfg, scan=True)
    options = {
        k: cfg[k] for k in ("estimators", "interval", "alpha", "by", "base", "buckets", "seed")
    }
    with run_folder(cfg.name, "evaluate", plain(cfg)) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)  # the table says it
        report = evaluate(log, policies, **options)
        say(f"{report}\n\n{report.sentence}")
        if folder is not None:
            _write(report, folder, cfg.log)
    return report.exit_code


def _write(report: Report, folder: Path, name: str) -> None:
    report.write(folder / "table.parquet")
    (folder / "report.json").write_text(json.dumps(words.record(report), indent=1))
    report.state.compact().save(folder / "state.parquet")
    plots.write(plots.evaluated(report.table, name), folder / "values.png")
    plots.write(plots.weights(report.weights, name), folder / "weights.png")


def _policies(log: str, page: Path | None, modules: Sequence[str]) -> dict[str, Policy]:
    if page is not None:
        described: Any = read_yaml(page)
        if not isinstance(described, dict) or not described:
            raise ConfigError(f"{page} has no policies. One a line: name: {{class_path: Uniform}}")
        return {str(name): build(Policy, spec, modules) for name, spec in described.items()}
    first = log.partition(":")[0]
    if first.partition("/")[0] in pages("datasets") and dataset(first).card.policies:
        return dataset(first).policies
    raise ConfigError(
        "which policies? Name them in a YAML file and pass it: --policies policies.yaml\n"
        "for example  uniform: {class_path: Uniform}"
    )
