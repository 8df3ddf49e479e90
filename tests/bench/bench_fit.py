"""Learning, side by side: BPR through `fit`, a bare loop and a DataLoader; closed forms.

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
from torch.utils.data import DataLoader, Dataset

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


def bare_loop(log: Log, batch: int, steps: int) -> float:
    """The same draws, loss, penalty and optimiser, written down without any framework."""
    pairs: Pairs = log.clicks.index()
    mf = MF(dim=DIM).bind(log)
    mf.reset(stream(0))
    start = time.perf_counter()
    optimizer = Adagrad().build([{"params": list(mf.parameters())}])
    rows = torch.randperm(len(pairs), generator=stream(0))
    generator = stream(1)
    for step in range(steps):
        key = pairs.key[rows[step * batch : (step + 1) * batch]]
        user = key // ITEMS
        free = pairs.negatives(user, 1, generator)
        item = torch.cat([(key - user * ITEMS)[:, None], free], 1)
        view = mf.ready()
        u, v, b = view.rows(user, item)
        s = torch.linalg.vecdot(u[:, None], v) + b.squeeze(-1) + mf.offset.squeeze()
        loss = torch.nn.functional.softplus(s[:, 1] - s[:, 0]).mean()
        squares = torch.dot(u.view(-1), u.view(-1)) + torch.dot(v.view(-1), v.view(-1))
        optimizer.zero_grad()
        (loss + 0.5 * mf.l2 / batch * squares).backward()
        optimizer.step()
    return steps * batch / (time.perf_counter() - start)


class PerRow(Dataset[tuple[int, int, int]]):
    """One Python call a row, with a rejected negative: how most toolkits do it."""

    def __init__(self, log: Log) -> None:
        user, item = log.clicks.user.tolist(), log.clicks.item.tolist()
        self.rows = list(zip(user, item, strict=True))
        self.own = set(self.rows)
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, int, int]:
        user, item = self.rows[index]
        other = int(self.rng.integers(ITEMS))
        while (user, other) in self.own:
            other = int(self.rng.integers(ITEMS))
        return user, item, other


def data_loader(log: Log, batch: int, steps: int) -> float:
    data = PerRow(log)
    mf = torch.nn.ModuleList([torch.nn.Embedding(n, DIM) for n in (USERS, ITEMS)])
    optimizer = torch.optim.Adam(mf.parameters())
    loader = DataLoader(data, batch_size=batch, shuffle=True, generator=stream(0))
    start = time.perf_counter()
    for _, (user, item, other) in zip(range(steps), loader, strict=False):
        u, v, w = mf[0](user), mf[1](item), mf[1](other)
        loss = torch.nn.functional.softplus((u * w).sum(1) - (u * v).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
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
            times[name].append((run(4) - run(1)) / 3)  # one iteration, without the setting-up
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
        rates: dict[str, list[float]] = {"fit": [], "bare loop": []}
        for _ in range(5):
            rates["fit"].append(through_fit(log, batch, steps))
            rates["bare loop"].append(bare_loop(log, batch, steps))
        own, bare = (statistics.median(rates[name]) for name in ("fit", "bare loop"))
        print(f"BPR, batch {batch}: fit {own / 1e6:.2f} M clicks/s, bare loop {bare / 1e6:.2f}")
        print(f"    fit / bare loop {own / bare:.2f}")
        if batch == 8192:
            rows = data_loader(log, batch, 6)
            print(f"    per-row DataLoader {rows / 1e6:.3f} M clicks/s, fit is {own / rows:.0f} x")
    solvers(log)


if __name__ == "__main__":
    main()
