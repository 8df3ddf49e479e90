"""What is killed, starved and shut out: jobs for processes of their own, and such processes.

Processes come from a server that has imported recfb once and has no threads, so one costs
milliseconds and ends without touching the tests.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import polars as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from recfb import Evaluation, Log, Meta, Recommender, fit, simulate, solvers
from recfb.contracts import Context, Fitted, Policy
from recfb.data.product import atomic_folder
from recfb.evaluation.state import State, total
from recfb.fit import every_epoch
from recfb.fit.keep import Whole
from recfb.objectives import BPR
from recfb.optim import Adam, Cosine
from recfb.policies import Ranked, Uniform
from recfb.random import stream
from recfb.samplers import Clicks
from recfb.scorers import MF
from recfb.simulate import Refit, record, saved
from recfb.store import save
from recfb.worlds import Attraction, Tastes

SERVER = multiprocessing.get_context("forkserver")
TARGET = [0.1, 0.2, 0.3, 0.4]


# ---- processes


def _serve() -> None:
    """Begin the server, with all that jobs import."""
    SERVER.set_forkserver_preload(["pytest", "recfb.tune", "fault_jobs", "test_faults_killed"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), before or ""])
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        os.environ.update({} if before is None else {"PYTHONPATH": before})


def start(job: Callable[..., Any], *args: Any) -> Any:
    """A process that does a job quietly."""
    _serve()
    process = SERVER.Process(target=_quietly, args=(job, *args))
    process.start()
    return process


def _quietly(job: Callable[..., Any], *args: Any) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    job(*args)


def finish(job: Callable[..., Any], *args: Any) -> float:
    """Do a job to its end in a process of its own: how many seconds it took."""
    begin = time.perf_counter()
    process = start(job, *args)
    process.join()
    assert process.exitcode == 0, f"{job.__name__} ended with {process.exitcode}"
    return time.perf_counter() - begin


def apart(job: Callable[..., Any], *args: Any, late: float = 300) -> Any:
    """What a job returns, or raises, in a process of its own; one that is late is killed."""
    mine, other = SERVER.Pipe(duplex=False)
    process = start(_send, other, job, *args)
    other.close()
    try:
        if not mine.poll(late):
            process.kill()
        value, error = mine.recv()
    except EOFError:
        process.join()
        raise MemoryError(f"the process ended with {process.exitcode}") from None
    process.join()
    if error is not None:
        raise error
    return value


def _send(pipe: Any, job: Callable[..., Any], *args: Any) -> None:
    try:
        answer: tuple[Any, BaseException | None] = job(*args), None
    except BaseException as error:
        answer = None, error
    try:
        pipe.send(answer)
    except Exception:  # an error that cannot be sent
        pipe.send((None, RuntimeError(repr(answer))))


def unprivileged() -> None:
    """From here on, a user who owns nothing."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


# ---- small things to work on


def taste(users: int = 40, items: int = 30) -> Log:
    """Users click items of their own half, with times."""
    user, item = torch.meshgrid(torch.arange(users), torch.arange(items), indexing="ij")
    u = torch.rand(users, items, generator=stream(0))
    keep = (u < 0.45) & ((user % 2) == (item % 2)) | (u < 0.02)
    n = int(keep.sum())
    time = torch.randperm(n, generator=stream(0, "time"))
    rows = {"user": user[keep], "item": item[keep], "reward": torch.ones(n), "time": time}
    return Log.of(rows, n_users=users, n_items=items)


def bpr(lr: float = 0.05) -> Recommender:
    """Under one cycle of the learning rate: up, and down."""
    return Recommender(MF(dim=4), BPR(), Clicks(), optimizer=Adam(lr, schedule=Cosine(warmup=6)))


class Fixed(Policy):
    """The same distribution for every request; kills the process it is asked in, if that is not
    `home`."""

    def __init__(self, given: list[float], home: int | None = None) -> None:
        super().__init__()
        self.given, self.home = given, home

    def probs(self, context: Context) -> Tensor:
        if self.home is not None and self.home != os.getpid():
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor([self.given], dtype=torch.float64).expand(len(context), -1)


def logged(n: int = 2000, seed: int = 0) -> Log:
    """What a uniform policy logged."""
    g = stream(seed, "log")
    item = torch.randint(4, (n,), generator=g)
    click = torch.rand(n, generator=g) < 0.3 + 0.1 * item
    rows = {"item": item, "reward": click.float(), "propensity": torch.full((n,), 0.25)}
    return Log.of(rows, n_items=4, meta=Meta(reward_range=(0, 1), propensity="exact"))


def plan() -> Evaluation:
    policies = {"t": Fixed(TARGET), "u": Uniform()}
    return Evaluation(policies, estimators=["ips", "snips", "dr"], buckets=64)


# ---- jobs that go on where they were killed


def fitting(folder: Path, often: bool = False, patience: int = 9, lr: float = 0.05) -> Fitted:
    """Fit with validation, from the last checkpoint if there is one, and save the model."""
    train, valid = taste().split_by_time(0.8)
    last = folder / "kept" / "last.ckpt"
    keep = every_epoch(last.parent)
    if often:
        keep = ModelCheckpoint(
            last.parent, filename="last", every_n_train_steps=1, enable_version_counter=False
        )
    model = fit(
        train, bpr(lr), valid=valid, patience=patience, max_epochs=12, batch_size=60,
        callbacks=keep, ckpt_path=last if last.exists() else None,
        default_root_dir=folder / "fit", enable_progress_bar=False, accelerator="cpu",
    )  # fmt: skip
    if not (folder / "model").exists():
        save(model, folder / "model")
    return model


def fitted(folder: Path) -> Any:
    """The weights, and the figures of all epochs."""
    tables = sorted((folder / "fit").rglob("metrics.csv"), key=lambda p: int(p.parent.name[8:]))
    return (folder / "model" / "model.safetensors").read_bytes(), tables[-1].read_text()


def looping(folder: Path, warm: bool = False) -> None:
    """A closed loop that retrains its model, and writes a part before every training."""
    record.KEPT_ROWS = record.CHUNK_ROWS = 1
    if not (folder / "run" / "log").exists():
        policy = Ranked(solvers.ALS(dim=3, sweeps=4), 0.2)
        world = Tastes(60, 30, drift=Attraction(0.1))
        refit = Refit(warmup=1, warm=warm)
        simulate(world, policy, rounds=24, slate=4, refit=refit, seed=3, out=folder / "run")


def looped(folder: Path) -> Any:
    """Every byte of log and truth."""
    files = sorted([*(folder / "run" / "log").rglob("*"), *(folder / "run" / "truth").rglob("*")])
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.is_file()}


def parts_of(folder: Path) -> Log:
    """A log of twelve files."""
    folder.mkdir(exist_ok=True)
    for k in range(12):
        path = folder / f"part-{k}.parquet"
        if not path.exists():
            logged(500, k).frame.write_parquet(path)
    return Log.scan(folder, n_items=4, meta=Meta(reward_range=(0, 1), propensity="exact"))


def evaluating(folder: Path, data: Path) -> None:
    """Evaluate file by file; what was evaluated before is read."""
    log = Log.scan(data, n_items=4, meta=Meta(reward_range=(0, 1), propensity="exact"))
    ready = plan().fit(log)
    states = []
    for k, part in enumerate(log.parts()):
        path = folder / "states" / f"{k}.parquet"
        if not path.exists():
            ready.scan(log, part).save(path)
        states.append(State.load(path))
    assert ready.facts is not None
    ready.report(total(states, ready.facts)).write(folder / "table.parquet")


def evaluated(folder: Path) -> Any:
    return pl.read_parquet(folder / "table.parquet").to_dicts()


# ---- products that are written again and again


def versions(kind: str, folder: Path) -> None:
    """Write a product over and over, each version other than the one before, until killed."""
    write = {name: make() for name, make in WRITERS.items() if name == kind}[kind]
    for k in itertools.count():
        write(folder, k)


def _model() -> Callable[[Path, int], Any]:
    model = fit(taste(), solvers.Popularity())
    return lambda folder, k: save(model, folder / str(k))


def _log() -> Callable[[Path, int], Any]:
    log = logged(4000)
    return lambda folder, k: log.write(folder / str(k))


def _state() -> Callable[[Path, int], Any]:
    ready = plan()
    states = [ready.scan(logged(50, k)) for k in range(2)]
    return lambda folder, k: states[k % 2].save(folder / "state.parquet")


def _table() -> Callable[[Path, int], Any]:
    ready = plan()
    reports = [ready.report(ready.scan(logged(50, k))) for k in range(2)]
    return lambda folder, k: [reports[k % 2].write(folder / f"t.{end}") for end in ("csv", "json")]


def _checkpoint() -> Callable[[Path, int], Any]:
    return lambda folder, k: Whole().save_checkpoint(
        {"x": torch.full((50_000,), float(k))}, folder / "last.ckpt"
    )


def _loop_state() -> Callable[[Path, int], Any]:
    return lambda folder, k: saved.save(
        folder / "state.pt", {"x": torch.full((50_000,), float(k)), "k": k}
    )


def _replaced() -> Callable[[Path, int], Any]:
    def write(folder: Path, k: int) -> None:
        with atomic_folder(folder / "set", replace=True) as part:
            for name in "abc":
                (part / name).write_text(str(k))

    return write


WRITERS: dict[str, Callable[[], Callable[[Path, int], Any]]] = {
    "model": _model,
    "log": _log,
    "state": _state,
    "table": _table,
    "checkpoint": _checkpoint,
    "state of a loop": _loop_state,
    "prepared data set": _replaced,
}
