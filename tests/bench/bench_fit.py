"""Learning, side by side: BPR through `fit`, a bare loop and a per-row DataLoader; closed forms.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python tests/bench/bench_fit.py

20,000 users, 10,000 items, 2,000,000 clicks, d = 64, one thread. Ratios, not a gate. Rounds
alternate between the candidates and the median is taken, because other work disturbs the clock.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from recfb import Log, Recommender, fit
from recfb.data.pairs import Pairs
from recfb.exposures import Popularity
from recfb.objectives import BPR
from recfb.optim import Adagrad
from recfb.random import stream
from recfb.samplers import Clicks
from recfb.scorers import MF
from recfb.solvers import ALS, RelMF

USERS, ITEMS, CLICKS, DIM = 20_000, 10_000, 2_000_000, 64


def synthetic() -> Log:
    """Distinct pairs; items are popular as a power law has it."""
    generator = stream(0)
    user = torch.randint(USERS, (5 * CLICKS // 4,), generator=generator)
    u = torch.rand(len(user), generator=generator)
    key = torch.unique(user * ITEMS + (u**1.5 * ITEMS).long())
    key = key[torch.randperm(len(key), generator=generator)[:CLICKS]]
    rows = {"user": key // ITEMS, "item": key % ITEMS, "reward": torch.ones(len(key))}
    return Log.of(rows, n_users=USERS, n_items=ITEMS)


def through_fit(log: Log, batch: int, steps: int) -> float:
    model = Recommender(MF(dim=DIM), BPR(), Clicks())
    options = {"max_steps": steps, "enable_progress_bar": False, "accelerator": "cpu"}
    log.clicks.index()
    start = time.perf_counter()
    fit(log, model, batch_size=batch, **options)
    return steps * batch / (time.perf_counter() - start)


class Bare:
    """The same draws, loss, penalty and optimiser, written down without any framework."""

    def __init__(self, log: Log) -> None:
        self.pairs: Pairs = log.clicks.index()
        self.mf = MF(dim=DIM).bind(log)
        self.mf.reset(stream(0))
        self.optimizer = Adagrad().build([{"params": list(self.mf.parameters())}])
        self.generator = stream(1)

    def step(self, user: Tensor, item: Tensor) -> None:
        free = self.pairs.negatives(user, 1, self.generator)
        u, v, b = self.mf.ready().rows(user, torch.cat([item[:, None], free], 1))
        s = torch.linalg.vecdot(u[:, None], v) + b.squeeze(-1) + self.mf.offset.squeeze()
        loss = torch.nn.functional.softplus(s[:, 1] - s[:, 0]).mean()
        squares = torch.dot(u.view(-1), u.view(-1)) + torch.dot(v.view(-1), v.view(-1))
        self.optimizer.zero_grad()
        (loss + 0.5 * self.mf.l2 / len(user) * squares).backward()
        self.optimizer.step()


def bare_loop(log: Log, batch: int, steps: int) -> float:
    start = time.perf_counter()
    bare = Bare(log)
    rows = torch.randperm(len(bare.pairs), generator=stream(0))
    for step in range(steps):
        key = bare.pairs.key[rows[step * batch : (step + 1) * batch]]
        user = key // ITEMS
        bare.step(user, key - user * ITEMS)
    return steps * batch / (time.perf_counter() - start)


def data_loader(log: Log, batch: int, steps: int) -> float:
    """The same steps on rows from `DataLoader(TensorDataset(...))`, which fetches one at a time."""
    data = TensorDataset(log.clicks.user, log.clicks.item)
    loader = DataLoader(data, batch_size=batch, shuffle=True, generator=stream(0))
    bare = Bare(log)
    rows = iter(loader)
    start = time.perf_counter()
    for _ in range(steps):
        user, item = next(rows)
        bare.step(user, item)
    return steps * batch / (time.perf_counter() - start)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def solvers(log: Log, rounds: int = 3) -> None:
    import scipy.sparse
    from implicit.als import AlternatingLeastSquares

    user, item = log.clicks.user.numpy(), log.clicks.item.numpy()
    matrix = scipy.sparse.csr_matrix(
        (np.ones(len(user), dtype=np.float32), (user, item)), shape=(USERS, ITEMS)
    )

    def theirs(sweeps: int) -> float:
        model = AlternatingLeastSquares(
            factors=DIM, iterations=sweeps, num_threads=1, random_state=0
        )
        return seconds(lambda: model.fit(matrix, show_progress=False))

    def ours(solver: type[RelMF] | type[ALS], sweeps: int) -> float:
        model = RelMF(Popularity(), dim=DIM, sweeps=sweeps)
        model = model if solver is RelMF else ALS(dim=DIM, sweeps=sweeps)
        model.bind(log)
        model.reset(stream(0))
        return seconds(lambda: model.solve(log))

    candidates: dict[str, Callable[[int], float]] = {
        "implicit ALS (3 conjugate gradient steps)": theirs,
        "recfb RelMF": lambda sweeps: ours(RelMF, sweeps),
        "recfb ALS (exact)": lambda sweeps: ours(ALS, sweeps),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            more = 40 if "RelMF" in name else 3  # one iteration, without the setting-up
            times[name].append((run(1 + more) - run(1)) / more)
    base = statistics.median(times["implicit ALS (3 conjugate gradient steps)"])
    for name, found in times.items():
        middle = statistics.median(found)
        rate = len(user) / middle / 1e6
        print(f"{name:45s} {middle:7.3f} s an iteration {rate:6.2f} M/s  x{base / middle:.2f}")


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    log = synthetic()
    print(f"{log}, torch {torch.__version__}, {torch.get_num_threads()} thread")
    for batch, steps in ((8192, 200), (65_536, 25)):
        rates: dict[str, list[float]] = {"fit": [], "bare loop": [], "loader": []}
        for _ in range(5):
            rates["fit"].append(through_fit(log, batch, steps))
            rates["bare loop"].append(bare_loop(log, batch, steps))
            rates["loader"].append(data_loader(log, batch, 2))
        own, bare, rows = (statistics.median(found) / 1e6 for found in rates.values())
        print(f"BPR, batch {batch}: fit {own:.2f} M clicks/s, bare {bare:.2f}, loader {rows:.3f}")
        print(f"    fit / bare loop {own / bare:.2f}, fit / per-row DataLoader {own / rows:.1f}")
    solvers(log)


if __name__ == "__main__":
    main()
