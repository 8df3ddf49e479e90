"""Products whose bits were flipped, that were cut, swapped, or are of another version."""

from __future__ import annotations

import io
import pickle
import random
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from ledger import Ledger
from payloads import EVIL, Payload, payload, spec, typed

import recfb
from recfb import Log, Recommender, objectives, samplers, scorers, solvers
from recfb.contracts import Context
from recfb.data.product import verify, write_sums
from recfb.evaluate import Evaluation
from recfb.evaluation import State
from recfb.policies import Uniform
from recfb.simulate import saved

ROWS = {
    "user": [f"u{k % 7}" for k in range(70)],
    "item": [k * k % 11 for k in range(70)],
    "reward": [float(k % 3 == 0) for k in range(70)],
    "propensity": [1 / (1 + k % 4) for k in range(70)],
}


@cache
def log() -> Log:
    return Log.of(ROWS)


def learner(dim: int = 2) -> Recommender:
    return Recommender(scorers.MF(dim=dim), objectives.BPR(), samplers.Clicks())


def trained(log: Log, checkpoint: Path | None, folder: Path | None = None, dim: int = 2) -> Any:
    """The weights after two epochs, or after a third that goes on from a checkpoint."""
    options: dict[str, Any] = {
        "max_epochs": 2 if checkpoint is None else 3,
        "ckpt_path": checkpoint,
    }
    if folder is not None:
        options["default_root_dir"] = str(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = recfb.fit(log, learner(dim), enable_progress_bar=False, **options)
    return model.state_dict()


def model_of(path: Path) -> Any:
    model = recfb.load(path)
    return [model.scores(Context(torch.arange(7))), model.recommend(["u1", "x"], 3).to_dicts()]


def log_of(read: Callable[[Path], Log]) -> Callable[[Path], Any]:
    def content(path: Path) -> Any:
        found = read(path)
        return [found.decode().to_dicts(), found.users.to_dicts(), found.items.to_dicts(),
                repr(found.meta)]  # fmt: skip

    return content


def state_of(path: Path) -> Any:
    state = State.load(path)
    return [repr(state.facts), state.groups(), repr(state.faults), sorted(state.folded)]


def table_of(path: Path) -> Any:
    verify(path)
    return pl.read_parquet(path / "table.parquet").to_dicts()


READERS: dict[str, Callable[[Path], Any]] = {
    "model": model_of,
    "log": log_of(Log.read),
    "log, scanned": log_of(Log.scan),
    "simulator.pt": lambda path: saved.load(path, "cpu"),
    "training.ckpt": lambda path: trained(log(), path),
    "state.parquet": state_of,
    "table": table_of,
}


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One product of each kind."""
    home = tmp_path_factory.mktemp("products")
    recfb.save(recfb.fit(log(), solvers.ALS(dim=2, sweeps=1)), home / "model")
    log().write(home / "log")
    policy = recfb.policies.BetaThompson().bind(log())
    state = {"world": {"x": torch.arange(50.0)}, "policy": saved.policy_state(policy), "time": 3}
    saved.save(home / "simulator.pt", state)
    trained(log(), None, home / "training")
    shutil.copy(next((home / "training").rglob("*.ckpt")), home / "training.ckpt")
    Evaluation({"u": Uniform()}).scan(log()).save(home / "state.parquet")
    (home / "table").mkdir()
    pl.DataFrame(ROWS).write_parquet(home / "table" / "table.parquet")
    write_sums(home / "table")
    return home


def alike(a: Any, b: Any) -> bool:
    """Whether two contents are the same, bit by bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    return type(a) is type(b) and a == b


def files(product: Path) -> list[Path]:
    inside = sorted(file for file in product.rglob("*") if file.is_file())
    return [product] if product.is_file() else inside


def flips(ledger: Ledger, products: Path, whole: bool, kinds: list[str]) -> None:
    """Single bits of a product, at random over all its bytes, one after the other."""
    for kind in kinds:
        product, read = products / kind.partition(",")[0], READERS[kind]
        truth, draw = read(product), random.Random(kind)
        places = [(file, at) for file in files(product) for at in range(8 * file.stat().st_size)]
        for file, at in draw.sample(places, 100 if whole else 20):
            good = file.read_bytes()
            file.write_bytes(flipped(good, at))
            case = f"{kind}: bit {at} of {file.name}"
            ledger.settles(case, lambda r=read, p=product: r(p), lambda v, t=truth: alike(t, v))
            file.write_bytes(good)


def flipped(data: bytes, at: int) -> bytes:
    """The same bytes with one bit turned over."""
    turned = bytearray(data)
    turned[at // 8] ^= 1 << at % 8
    return bytes(turned)


def cuts(ledger: Ledger, products: Path) -> None:
    """Files that end early, or with something else, or are gone."""
    for kind, read in READERS.items():
        product = products / kind.partition(",")[0]
        truth = read(product)
        for file in files(product):
            good = file.read_bytes()
            half = good[: len(good) // 2]
            for case, data in {"empty": b"", "half": half, "zeros": bytes(len(good))}.items():
                file.write_bytes(data)
                ledger.refuses(
                    f"{kind}: {file.name} {case}", lambda r=read, p=product: r(p), file.name
                )
            file.write_bytes(good[:-1])  # of a text it is the end of the last line
            last = f"{kind}: {file.name} less one byte"
            ledger.settles(last, lambda r=read, p=product: r(p), lambda v, t=truth: alike(t, v))
            file.write_bytes(good)


def strangers(ledger: Ledger, products: Path, bad: Payload, folder: Path) -> None:
    """What somebody else could send: with checksums that fit."""
    poison = pickle.dumps(bad)
    other = pl.DataFrame({"a": [1]})
    changes: dict[str, tuple[str, bytes | None, str]] = {
        "a pickle as weights": ("model.safetensors", poison, "weights"),
        "a pickle as a vocabulary": ("vocabulary.parquet", poison, "vocabulary.parquet"),
        "a table as a vocabulary": ("vocabulary.parquet", bytes_of(other), "vocabulary.parquet"),
        "no weights": ("model.safetensors", None, "model.safetensors"),
        "no page": ("config.yaml", None, "config.yaml"),
        "no vocabulary": ("vocabulary.parquet", None, "vocabulary.parquet"),
    }
    for case, (name, data, says) in changes.items():
        sent = copied(products / "model", folder / "sent")
        (sent / name).unlink() if data is None else (sent / name).write_bytes(data)
        write_sums(sent)
        ledger.refuses(case, lambda s=sent: recfb.load(s), says)
    page = yaml.safe_load((products / "model" / "config.yaml").read_text())
    for case, (change, says) in {
        "a model of a later version": ({"format": 2}, "format 2"),
        "a model without a version": ({"format": None}, "format None"),
        "another vocabulary": ({"vocabulary": {"sha256": "0" * 64}}, "vocabulary"),
        "no model": ({"model": None}, "class_path"),
        "a hostile class": ({"model": spec(f"{EVIL}.Mine")}, EVIL),
        "a process": ({"model": spec("subprocess.Popen", args=bad.command)}, "subprocess"),
        "another size": ({"model": spec("ALS", dim=3)}, "weights"),
        "a size beyond memory": ({"model": spec("ALS", dim=10**13)}, "weights"),
    }.items():
        sent = copied(products / "model", folder / "sent")
        (sent / "config.yaml").write_text(yaml.safe_dump({**page, **change}))
        write_sums(sent)
        ledger.refuses(case, lambda s=sent: recfb.load(s), says)
        ledger.refuses(f"{case}, recfb", lambda s=sent: typed("recommend", str(s)), says)
    for kind in ("simulator.pt", "training.ckpt"):
        for case, data in {"a pickle": poison, "torch's pickle": bytes_of(bad)}.items():
            (folder / kind).write_bytes(data)
            ledger.refuses(f"{case} as {kind}", lambda k=kind: READERS[k](folder / k), kind)


def bytes_of(value: Any) -> bytes:
    buffer = io.BytesIO()
    value.write_parquet(buffer) if isinstance(value, pl.DataFrame) else torch.save(value, buffer)
    return buffer.getvalue()


def copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    (target / "SHA256SUMS").unlink()
    return target


def checkpoints(ledger: Ledger, products: Path, folder: Path) -> None:
    """Checkpoints of another log, model, version or library."""
    point = products / "training.ckpt"
    renamed = Log.of({**ROWS, "user": [f"v{k % 7}" for k in range(70)]})
    ledger.refuses("another vocabulary", lambda: trained(renamed, point), "vocabulary")
    ledger.refuses("another model", lambda: trained(log(), point, dim=3), "another model")
    held = torch.load(point, weights_only=True)
    for case, mark in {"a later version": {**held["recfb"], "format": 2}, "no version": {}}.items():
        torch.save({**held, "recfb": mark}, folder / "other.ckpt")
        ledger.refuses(case, lambda: trained(log(), folder / "other.ckpt"), "format")
    ledger.gives("itself", lambda: trained(log(), point), lambda found: bool(found))
    run = folder / "run"
    with pytest.raises(KeyboardInterrupt), saved.unfinished(run, {"seed": 1}):
        raise KeyboardInterrupt  # as a killed process leaves it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved, "FORMAT", saved.FORMAT + 1)
        later = saved.unfinished(run, {"seed": 1})
        ledger.refuses("a run of a later version", later.__enter__, "another version")


KINDS = list(READERS)


def test_flipped_bits_are_refused_or_harmless(
    ledger: Callable[..., Ledger], whole: bool, products: Path
) -> None:
    with ledger("products: flipped bits") as each:
        flips(each, products, whole, KINDS)


@pytest.mark.usefixtures("whole")
def test_cut_products_are_refused(ledger: Callable[..., Ledger], products: Path) -> None:
    with ledger("products: cut files") as each:
        cuts(each, products)


@pytest.mark.usefixtures("whole")
def test_what_strangers_send_is_refused(
    ledger: Callable[..., Ledger],
    products: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = payload(tmp_path, monkeypatch)
    with ledger("products: tampered", clean=bad.clean) as each:
        strangers(each, products, bad, tmp_path)
    with ledger("products: of others") as each:
        checkpoints(each, products, tmp_path)


def test_the_families_can_fail(
    products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = payload(tmp_path, monkeypatch)
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda f, **_: load(f, weights_only=False))
    for module in ("recfb.fit.keep", "recfb.simulate.saved"):
        monkeypatch.setattr(import_module(module), "damage", lambda path: None)
    each = Ledger("x", clean=bad.clean)
    strangers(each, products, bad, tmp_path)
    assert each.counts["executed"], each.faults
    monkeypatch.undo()
    for module in ("recfb.store", "recfb.data.files", "recfb.data.scan"):
        monkeypatch.setattr(import_module(module), "verify", lambda folder: None)
    monkeypatch.setattr(saved, "damage", lambda path: None)
    each = Ledger("x")
    flips(each, products, True, ["model", "log", "simulator.pt"])
    cuts(each, products)
    assert {"silent", "rude"} <= set(each.counts), each.faults
    each = Ledger("x")
    monkeypatch.setattr("recfb.recommender.FORMAT", 2)
    checkpoints(each, products, tmp_path)
    assert each.counts["silent"], each.faults
