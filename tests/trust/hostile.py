"""Rows to spoil, and what is asked of them, shared by the families on logs and policies."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recfb import Log, evaluate
from recfb.contracts import Context, Policy
from recfb.policies import Uniform

F = torch.float64

NAN, INF = float("nan"), float("inf")

ROWS = pl.DataFrame(
    {
        "user": [1, 1, 2, 3],
        "item": [5, 6, 5, 7],
        "reward": [1.0, 0.0, 0.0, 1.0],
        "propensity": [0.5, 0.25, 0.5, 0.25],
    }
)


def same(rows: pl.DataFrame = ROWS) -> Callable[[Log], bool]:
    """Whether a log holds these rows, all of them and in their order."""
    return lambda log: len(log) == rows.height and log.decode().equals(rows.select(log.columns))


def table(log: Log, policies: Any = None, **options: Any) -> list[dict[str, Any]]:
    """The table of `evaluate`, with its warnings of little overlap left out."""
    policies = {"uniform": Uniform()} if policies is None else policies
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate(log, policies, **options).table.to_dicts()


Say = Callable[[int], Any]


def rows(*values: float) -> Say:
    """The same row for each of n requests."""
    return lambda n: torch.tensor([values], dtype=F).expand(n, -1)


even = rows(1 / 3, 1 / 3, 1 / 3)
BAD: dict[str, tuple[Say, str]] = {
    "sum 1.001": (rows(0.334, 0.333, 0.334), "sum to 1"),
    "sum 0.999": (rows(0.333, 0.333, 0.333), "sum to 1"),
    "sum 0": (rows(0, 0, 0), "sum to 1"),
    "below 0": (rows(-0.1, 0.6, 0.5), "negative"),
    "NaN": (rows(NAN, 0.5, 0.5), "NaN"),
    "infinite": (rows(INF, 0, 0), "infinit"),
    "half precision": (lambda n: even(n).half(), "sum to 1"),
    "complex": (lambda n: even(n).to(torch.complex128), "complex128"),
    "too narrow": (rows(0.5, 0.5), "(2,)"),
    "too wide": (rows(0.25, 0.25, 0.25, 0.25), "(4,)"),
    "one number a request": (lambda n: even(n)[:, 0], "shape ()"),
    "one dimension more": (lambda n: even(n)[..., None], "(3, 1)"),
    "one row for all": (lambda n: even(1), "shape"),
    "a row too few": (lambda n: even(n)[:-1], "shape"),
    "numpy": (lambda n: even(n).numpy(), "ndarray"),
    "lists": (lambda n: even(n).tolist(), "list"),
    "nothing": (lambda n: None, "None"),
}


class Said(Policy):
    """A policy of given answers."""

    def __init__(self, say: Say) -> None:
        super().__init__()
        self.say = say

    def probs(self, context: Context) -> Tensor:
        found: Tensor = self.say(len(context))
        return found
