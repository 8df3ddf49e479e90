"""`recfb fit LOG --model ...`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from recfb.cli.common import add_log, parse, parser_of, plain, read_log, run_folder, say
from recfb.config import instantiate
from recfb.contracts import Fitted, Solver, describe
from recfb.data.columns import COLUMNS
from recfb.errors import ConfigError, PrepareError, RecfbError
from recfb.fit import every_epoch, fit
from recfb.recommender import Recommender
from recfb.store import save

NOT_OPTIONS: set[str | int] = {"log", "module", "valid", "ckpt_path"}


def main(argv: Sequence[str]) -> int:
    """Fit a recommender or a solver to a log and write runs/NAME/model."""
    modules, argv = split_imports(argv)
    parser = _parser(modules)
    cfg = parse(parser, argv)
    made = instantiate(parser, cfg)
    model: Fitted = made.model
    log = read_log(cfg.log, cfg)
    train, valid = (log, None) if cfg.valid is None else log.split_by_time(1 - cfg.valid)
    say(f"{log}\n{model}")
    options = _options(made, parser.get_defaults())
    if cfg.resume:
        _check_resume(model, cfg.name)
    kept = None if cfg.name is None else Path("runs") / f"{cfg.name}.checkpoints"
    with run_folder(cfg.name, "fit", {**plain(cfg), "model": describe(model)}) as folder:
        if isinstance(model, Recommender):
            options.setdefault("enable_progress_bar", sys.stderr.isatty())
            if folder is not None and kept is not None:
                options = _resumable(options, folder, kept, cfg.resume)
        try:
            fit(train, model, valid=valid, **options)
        except RecfbError as error:
            raise _with_hint(error, kept) from None
        if folder is not None:
            save(model, folder / "model")
    if kept is None:
        say("fitted, and not kept: give it a --name to write runs/NAME")
    elif isinstance(model, Recommender) and kept.exists():
        shutil.rmtree(kept)
    return 0


def _check_resume(model: Fitted, name: str | None) -> None:
    if name is None:
        raise ConfigError("--resume goes on with a fit that has a --name: runs/NAME.checkpoints.")
    if not isinstance(model, Recommender):
        raise ConfigError(
            f"{type(model).__name__} is solved in one go, so there is nothing to resume. Leave "
            "--resume out."
        )


def _resumable(options: dict[str, Any], folder: Path, kept: Path, resume: bool) -> dict[str, Any]:
    """Trainer options that write every epoch to runs/NAME.checkpoints, and go on from there."""
    last = kept / "last.ckpt"
    if resume and not last.exists():
        raise PrepareError(f"there is nothing to resume: no {last}. Leave --resume out.")
    if kept.exists() and not resume:
        raise PrepareError(
            f"an earlier fit of this name did not end and left {kept}. Go on with it: --resume. "
            f"Or remove it: rm -r {kept}"
        )
    options["callbacks"] = [*(options.get("callbacks") or []), every_epoch(kept)]
    options.setdefault("default_root_dir", str(folder))
    return options | ({"ckpt_path": last} if resume else {})


def _with_hint(error: RecfbError, kept: Path | None) -> RecfbError:
    """The error, with where the last good epoch is."""
    last = None if kept is None else kept / "last.ckpt"
    if type(error) is not RecfbError or last is None or not last.exists():
        return error
    return RecfbError(
        f"{error} The weights of the last good epoch are in {last}: "
        'model.load_state_dict(torch.load(path, weights_only=True)["state_dict"]).'
    )


def split_imports(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """--import MODULE, which must be known before anything else is parsed."""
    modules, rest = [], []
    words = iter(argv)
    for word in words:
        if word == "--import":
            modules.append(next(words, ""))
        elif word.startswith("--import="):
            modules.append(word.partition("=")[2])
        else:
            rest.append(word)
    if "" in modules:
        raise ConfigError("--import names a module whose classes you trust: --import my.package")
    return modules, rest


def _parser(modules: Sequence[str]) -> ArgumentParser:
    about = "Fit a recommender (a scorer, an objective and a sampler) or a solver to a log."
    parser = parser_of("fit", about, modules)
    parser.add_argument("--config", action="config", help="options from a YAML file")
    add_log(parser, without=["logger"])  # Lightning has an option of this name
    parser.add_argument("--name", type=str | None, help="write the model to runs/NAME")
    parser.add_argument(
        "--valid", type=float | None, metavar="SHARE", help="the latest rows, for early stopping"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a fit of this name that was interrupted"
    )
    parser.add_argument(
        "--import", type=str | None, metavar="MODULE", help="allow classes of this module"
    )
    parser.add_subclass_arguments(
        (Recommender, Solver),
        "model",
        help="Recommender with .scorer, .objective, .sampler, or a solver such as ALS",
    )
    parser.set_defaults({"model": {"class_path": "recfb.recommender.Recommender"}})
    parser.add_function_arguments(fit, skip=NOT_OPTIONS, as_group=False)
    return parser


def _options(cfg: Namespace, defaults: Namespace) -> dict[str, Any]:
    """The options of `fit` and of Lightning's Trainer that were given a value of their own."""
    ours = {"config", "log", "name", "valid", "resume", "import", "model", "binarise", *COLUMNS}
    given = {k: v for k, v in vars(cfg).items() if k not in ours}
    return {k: v for k, v in given.items() if v != defaults.get(k)}
