"""BPR and lists of recommendations, side by side with implicit: speed, quality, memory.

    OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=1 python tests/bench/bench_implicit.py

20,000 users, 10,000 items, 2,000,000 clicks whose items follow Zipf's law and the users' tastes,
d = 64, two threads for both libraries. Ratios, not a gate. One twentieth of the clicks is held out.
"""

from __future__ import annotations

import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from recfb import Log, Recommender, fit, measure
from recfb.contracts import Batch, Solver
from recfb.objectives import BPR
from recfb.random import stream
from recfb.samplers import Clicks
from recfb.scorers import MF

USERS, ITEMS, CLICKS, DIM, THREADS, EPOCHS = 20_000, 10_000, 2_000_000, 64, 2, 10


def megabytes() -> float:
    """The most memory this process has had so far (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def memory(folder: str) -> None:
    """In a process of its own: read the log, fit one epoch, and say what that took."""
    options = {"max_epochs": 1, "enable_progress_bar": False, "accelerator": "cpu"}
    small = Log.of({"user": [0], "item": [0], "reward": [1]}, n_users=2, n_items=2)
    fit(small, Recommender(MF(dim=2), BPR(), Clicks()), **options)  # imports everything
    before = megabytes()
    log = Log.read(folder)
    after = megabytes()
    fit(log, Recommender(MF(dim=DIM), BPR(), Clicks()), batch_size=8192, **options)
    took = f"reading {after - before:.0f} MB, reading and training {megabytes() - before:.0f} MB"
    print(f"memory above the imports: {took}")


def synthetic() -> Log:
    """Distinct pairs: an item drawn by Zipf's law is clicked where the user's taste agrees."""
    generator = stream(0)
    taste, kind = (torch.randn(n, 8, generator=generator) for n in (USERS, ITEMS))
    chance = 1 / torch.arange(1, ITEMS + 1, dtype=torch.float64) ** 0.8
    keys = torch.empty(0, dtype=torch.int64)
    while len(keys) < CLICKS:
        user = torch.randint(USERS, (CLICKS,), generator=generator)
        item = torch.multinomial(chance, CLICKS, replacement=True, generator=generator)
        agree = torch.sigmoid((taste[user] * kind[item]).sum(1))
        keep = torch.rand(CLICKS, generator=generator) < agree
        keys = torch.unique(torch.cat([keys, user[keep] * ITEMS + item[keep]]))
    keys = keys[torch.randperm(len(keys), generator=generator)[:CLICKS]]
    rows = {"user": keys // ITEMS, "item": keys % ITEMS, "reward": torch.ones(len(keys))}
    return Log.of(rows, n_users=USERS, n_items=ITEMS)


class Theirs(Solver):
    """Tables of implicit as a model that `measure` ranks."""

    def __init__(self, tables: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.tables = tables

    def solve(self, log: Log) -> Theirs:
        return self

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        return (self.tables[0][user][:, None] * self.tables[1][item]).sum(-1)

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        return self.tables[0][user] @ self.tables[1].T


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    from implicit.bpr import BayesianPersonalizedRanking as Bpr

    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    whole = synthetic()
    log, test = whole.split_by_row(0.95)
    with tempfile.TemporaryDirectory() as folder:
        log.write(f"{folder}/log")
        subprocess.run([sys.executable, __file__, f"{folder}/log"], check=True)
    n = len(log.clicks)
    options = {"max_epochs": EPOCHS, "enable_progress_bar": False, "accelerator": "cpu"}
    ours = Recommender(MF(dim=DIM), BPR(), Clicks())
    own = seconds(lambda: fit(log, ours, batch_size=8192, **options))
    print(f"{log}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    user, item = log.clicks.user.numpy(), log.clicks.item.numpy()
    ones = np.ones(len(user), dtype=np.float32)
    matrix = scipy.sparse.csr_matrix((ones, (user, item)), shape=(USERS, ITEMS))
    settings = {"factors": DIM, "iterations": EPOCHS, "num_threads": THREADS, "random_state": 0}
    theirs = Bpr(**settings)
    other = seconds(lambda: theirs.fit(matrix, show_progress=False))
    print(
        f"BPR: fit {n * EPOCHS / own / 1e6:.2f} M clicks/s, implicit {n * EPOCHS / other / 1e6:.2f}"
    )
    print(f"    fit / implicit {other / own:.2f}")
    tables = (torch.from_numpy(theirs.user_factors), torch.from_numpy(theirs.item_factors))
    models = {"recfb": ours, "implicit": fit(log, Theirs(tables))}
    print(measure(test, models, exclude=log, metrics=["ndcg@10", "recall@10"]))
    everyone = np.arange(USERS)
    times: dict[str, list[float]] = {"recfb": [], "implicit": []}
    for _ in range(3):
        times["recfb"].append(seconds(lambda: ours.recommend(everyone, 20)))
        call = lambda: theirs.recommend(everyone, matrix, N=20)  # noqa: E731
        times["implicit"].append(seconds(call))
    mine, peer = (statistics.median(found) for found in times.values())
    print(f"top 20 of all users: {mine:.2f} s, implicit {peer:.2f} s, x{peer / mine:.2f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        memory(sys.argv[1])
    else:
        main()
