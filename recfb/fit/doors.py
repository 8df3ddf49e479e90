"""What `fit` refuses, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule

from recfb.contracts import Exposure, Fitted, Sampler, Scorer, Step
from recfb.data import Log
from recfb.errors import ConfigError, LogError, PrepareError
from recfb.random import stream

_RUN_LENGTH = ("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time")
_ROWS = 1024  # of the batch that is drawn to look at exposures


def check_call(
    module: Fitted, trainer: dict[str, Any], valid: Log | None, ckpt_path: str | Path | None
) -> None:
    """Options that do not go together, and what is neither a recommender nor a solver."""
    if trainer.get("gradient_clip_val"):
        raise ConfigError(
            "gradient_clip_val does not act under manual optimisation. A component asks for "
            'clipping in its optimiser group: yield {"params": [...], "clip": 1.0} from groups().'
        )
    if ckpt_path is not None and "://" in str(ckpt_path):
        raise ConfigError(
            f"ckpt_path={str(ckpt_path)!r} is an address. Download the file from a source you "
            "trust and give its path."
        )
    named = {"last", "best", "registry", "hpc"}
    if ckpt_path is not None and str(ckpt_path) not in named and not Path(ckpt_path).exists():
        raise PrepareError(f"there is no checkpoint at {ckpt_path}.")
    if isinstance(module, LightningModule):
        return
    if not hasattr(module, "solve"):
        raise ConfigError(
            f"fit(log, module) takes a Recommender or a solver, found {type(module).__name__}. "
            "A scorer becomes one with an objective and a sampler: "
            "Recommender(scorers.MF(), objectives.BPR(), samplers.Clicks())."
        )
    idle = [name for name in _RUN_LENGTH if trainer.get(name) not in (None, -1)]
    idle += ["valid"] if valid is not None else []
    idle += ["ckpt_path"] if ckpt_path is not None else []
    if idle:
        raise ConfigError(
            f"{type(module).__name__} is solved in one go, so {', '.join(idle)} would do nothing. "
            "Leave it out; its own hyperparameters say how long it works."
        )


def check_rows(log: Log, sampler: Sampler) -> None:
    """A log that has nothing to learn from."""
    if not len(sampler):
        raise LogError(
            f"nothing to learn from: {type(sampler).__name__} finds no rows in {log!r}. A click is "
            "a row with a reward above 0: log.binarise(at=...) makes them of ratings."
        )
    if sampler.gives in ("rows", "shown_pairs"):
        _require_contrast(log)


def _require_contrast(log: Log) -> None:
    """Shown rows alone teach nothing where all rewards are the same."""
    known = log.frame["reward"].drop_nulls()
    if known.n_unique() == 1:
        raise LogError(
            f"all {len(known)} revealed rewards are {known[0]:g}, so shown rows teach nothing. "
            "Learn from what was not clicked as well, samplers.Clicks() or samplers.AllPairs(), or "
            "give the log the rows without a click."
        )


@torch.no_grad()
def check_exposures(module: LightningModule) -> None:
    """Exposures that are no probabilities of what the sampler draws: a batch is looked at."""
    sampler: Sampler = module.sampler  # type: ignore[assignment]
    scorer: Scorer = module.scorer  # type: ignore[assignment]
    exposures = [part for part in module.modules() if isinstance(part, Exposure)]
    if not exposures:
        return
    rows = sampler.rows(stream(0, "look"))[:_ROWS]
    batch = sampler(rows, scorer.ready(), Step(generator=stream(0, "look", "draws")))
    for exposure in exposures:
        theta, name = exposure(batch), type(exposure).__name__
        if theta.shape != batch.item.shape:
            raise ConfigError(
                f"{name} gives exposures of shape {tuple(theta.shape)} for items of shape "
                f"{tuple(batch.item.shape)}: return one value an item, theta[batch.item]."
            )
        clicked = theta[batch.reward > 0]
        wrong = clicked[~((clicked > 0) & (clicked <= 1))]
        if len(wrong):
            raise ConfigError(
                f"{name} gives {len(wrong)} of {len(clicked)} clicks an exposure outside (0, 1], "
                f"for example {float(wrong[0]):g}. It is the probability that feedback is "
                "observed: theta.clamp(1e-3, 1)."
            )
