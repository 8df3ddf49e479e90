"""`recfb evaluate LOG`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from recfb import plots
from recfb.cli.common import add_log, parse, parser_of, plain, read_log, run_folder, say
from recfb.cli.fit import split_imports
from recfb.cli.policies import Page, read_page, vocabulary_of
from recfb.data import Log
from recfb.data.columns import COLUMNS
from recfb.errors import ConfigError
from recfb.evaluate import Evaluation, evaluate
from recfb.evaluation import INTERVALS, Report, State, words
from recfb.shelf import dataset, pages
from recfb.store import load

PLAN = ("interval", "by", "buckets", "seed")
SKIP: set[str | int] = {"log", "policies", "estimators", "reward_model", "loggers", "interval"}
SKIP |= {"unit", "reward_range", "executor"}  # said otherwise on a command line


def main(argv: Sequence[str]) -> int:
    """Print what policies would have earned; exit code 0 usable, 3 do not use, 4 no value."""
    modules, argv = split_imports(argv)
    cfg = parse(_parser(modules), argv)
    page = _page(cfg, modules)
    log = _log(cfg, page, modules)
    plan = Evaluation(
        page.policies,
        estimators=names_of(cfg.estimators),
        reward_model=page.reward_model,
        loggers=page.loggers,
        reward_range=None if cfg.reward_range is None else tuple(cfg.reward_range),
        **{name: cfg[name] for name in PLAN},
    )
    with run_folder(cfg.name, "evaluate", {**plain(cfg), "page": page.described}) as folder:
        state = plan.scan(log)
        for earlier in cfg.add or []:
            state = state + _state(Path(earlier))
        report = plan.report(state, alpha=cfg.alpha, base=cfg.base)
        say(f"{report}\n\n{report.sentence}")
        if folder is not None:
            _write(report, folder, cfg.log)
    return report.exit_code


def _parser(modules: Sequence[str]) -> ArgumentParser:
    about = "What other policies would have earned, and whether the number may be used."
    parser = parser_of("evaluate", about, modules)
    add_log(parser)
    kinds = ", ".join(INTERVALS)
    options = {
        "policies": ("YAML", "a file with the policies; a data set's own without it"),
        "estimators": ("NAME,NAME", "how to estimate, for example ips,dr,dros:mse"),
        "interval": ("NAME", f"one of {kinds}; each estimator's own without it"),
        "like": ("LOG", "a log, or a run, whose users and items the ids are of"),
        "name": ("NAME", "write table, report, state and pictures to runs/NAME"),
    }
    for name, (metavar, about) in options.items():
        parser.add_argument(f"--{name}", type=str | None, metavar=metavar, help=about)
    parser.set_defaults({"estimators": "snips,dr"})
    about = "the least and the largest reward that could occur; 0 1 unless the log says"
    parser.add_argument("--reward_range", type=float, nargs=2, metavar=("LOW", "HIGH"), help=about)
    about = "count the rows of an earlier run too: its state.parquet or folder; may be repeated"
    parser.add_argument("--add", type=str, action="append", metavar="STATE", help=about)
    parser.add_function_arguments(evaluate, skip=SKIP, as_group=False)
    return parser


def names_of(text: str) -> list[str]:
    """Names from a list as it is typed.

    >>> names_of("ips,dr"), names_of('["ips", "dr"]')
    (['ips', 'dr'], ['ips', 'dr'])
    """
    return [name.strip(" \"'") for name in text.strip("[] ").split(",")]


def _page(cfg: Namespace, modules: Sequence[str]) -> Page:
    """The page that was named, with the data set's own policies where it has none."""
    page = Page({}, {}, None, None, {})
    if cfg.policies is not None:
        page = read_page(Path(cfg.policies), modules)
    if page.policies:
        return page
    first = cfg.log.partition(":")[0]
    if first.partition("/")[0] in pages("datasets") and dataset(first).card.policies:
        own = dataset(first).policies
        return Page(page.described, own, page.loggers, page.reward_model, page.runs)
    raise ConfigError(
        "which policies? Name them in a YAML file and pass it: --policies policies.yaml\n"
        "for example  uniform: {class_path: Uniform}"
    )


def _log(cfg: Namespace, page: Page, modules: Sequence[str]) -> Log:
    """The log, with the ids of the runs that the policies are made of, or of `--like`."""
    like: Any = vocabulary_of(page.runs)
    if cfg.like is not None:
        folder = Path(cfg.like)
        is_run = (folder / "model").is_dir() or (folder / "model.safetensors").exists()
        like = load(folder, modules=modules) if is_run else read_log(cfg.like, cfg, scan=True)
        vocabulary_of({**page.runs, cfg.like: like})
    keep = [cfg.by] if cfg.by is not None and cfg.by not in COLUMNS else []
    return read_log(cfg.log, cfg, scan=True, like=like, keep=keep)


def _state(path: Path) -> State:
    return State.load(path / "state.parquet" if (path / "config.yaml").exists() else path)


def _write(report: Report, folder: Path, name: str) -> None:
    report.write(folder / "table.parquet")
    (folder / "report.json").write_text(json.dumps(words.record(report), indent=1))
    report.state.compact().save(folder / "state.parquet")
    plots.write(plots.evaluated(report.table, name), folder / "values.png")
    plots.write(plots.weights(report.weights, name), folder / "weights.png")
