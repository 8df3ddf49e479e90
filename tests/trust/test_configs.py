"""Configurations that would run code, or mean something else than they look like."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse._common
import pytest
import yaml
from ledger import Ledger
from payloads import EVIL, Payload, payload, spec, typed

import recfb
from recfb import Log, dataset, simulator, solvers
from recfb.config import build
from recfb.contracts import Policy, Solver
from recfb.data.plain import read_yaml
from recfb.data.product import write_sums

LOG = "user,item,reward,propensity\n1,1,1,0.5\n1,2,0,0.5\n2,1,1,0.5\n2,2,1,0.5\n"
HEAD = {"summary": "s", "source": "s", "licence": "MIT"}
Door = Callable[[Any], Any]


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Payload:
    """A payload, in a working folder with a log, a shelf and a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "datasets" / "mine").mkdir(parents=True)
    (tmp_path / "datasets" / "mine" / "log.csv").write_text(LOG)
    (tmp_path / "simulators").mkdir()
    recfb.save(recfb.fit(Log.read("log.csv"), solvers.ALS(dim=2, sweeps=1)), "model")
    return payload(tmp_path, monkeypatch)


def page(name: str, data: Any) -> str:
    """A page with these data, or this text."""
    Path(name).write_text(data if isinstance(data, str) else json.dumps(data))
    return name


def in_fit(one: Any) -> int:
    return typed("fit", "log.csv", "--config", page("fit.yaml", {"model": one}))


def in_scorer(one: Any) -> int:
    return in_fit(spec("Recommender", scorer=one, objective=spec("BPR"), sampler=spec("Clicks")))


def in_page(one: Any) -> int:
    return typed("evaluate", "log.csv", "--policies", page("policies.yaml", {"p": one}))


def in_simulator(one: Any, verb: Callable[[str], Any] = simulator) -> Any:
    policies = {"p": spec("Mixture", policy=one)}
    page("simulators/loop.yaml",
         {"world": spec("Arms", means=[0.2, 0.8]), "policies": policies, "rounds": 2})  # fmt: skip
    return verb("loop")


def in_recipe(one: Any) -> Any:
    page("datasets/mine/recipe.yaml",
         {**HEAD, "files": {"log": {"path": "log.csv"}}, "policies": {"p": one}})  # fmt: skip
    return dataset("mine").policies


def in_model(one: Any) -> Any:
    """A model whose page was changed together with its checksums."""
    shutil.copytree("model", "sent", dirs_exist_ok=True)
    page("sent/config.yaml", {**read_yaml(Path("model/config.yaml")), "model": one})
    (Path("sent") / "SHA256SUMS").unlink()
    write_sums(Path("sent"))
    return recfb.load("sent")


DOORS: dict[str, Door] = {
    "build": lambda one: build(Policy, one),
    "nested": lambda one: build(Policy, spec("Mixture", policy=spec("Mixture", policy=one))),
    "fit": in_fit,
    "fit a scorer": in_scorer,
    "evaluate": in_page,
    "a simulator": in_simulator,
    "simulate": lambda one: in_simulator(one, lambda name: typed("simulate", name)),
    "a recipe": in_recipe,
    "a model": in_model,
}


def hostile(bad: Payload) -> dict[str, tuple[Any, str]]:
    """What no configuration may do, and a word of what it is told."""
    verb = spec("recfb.store.load", folder="model", modules=[EVIL])
    kwargs = {"class_path": "Uniform", "dict_kwargs": {"x": 1}}
    return {
        "a process": (spec("subprocess.Popen", args=bad.command, shell=True), "subprocess.Popen"),
        "a shell": (spec("os.system", command=bad.command), "os.system"),
        "eval": (spec("builtins.eval", source="1"), "builtins.eval"),
        "a module that acts when imported": (spec(f"{EVIL}.Mine"), f"{EVIL}.Mine"),
        "a function of it": (spec(f"{EVIL}.make"), f"{EVIL}.make"),
        "it, as a text": (json.dumps(spec(f"{EVIL}.Mine")), EVIL),
        "it, by name alone": (f"{EVIL}.Mine", EVIL),
        "a shell through recfb": (spec("recfb.shelf.os.system", command=bad.command), "system"),
        "rmtree through recfb": (spec("recfb.data.product.shutil.rmtree", path="none"), "rmtree"),
        "an import through recfb": (spec("recfb.config.import_module", name=EVIL), "import_module"),
        "a pickle": (spec("torch.load", f="x"), "torch.load"),
        "a verb that imports": (verb, "recfb.store.load"),
        "a verb that writes": (spec("recfb.store.save", model=None, folder="x"), "save"),
        "unchecked arguments": (kwargs, "dict_kwargs"),
        "unchecked arguments, as a text": (json.dumps(kwargs), "dict_kwargs"),
        "no name of a class": (spec(5), "class_path"),
        "a list of names": (spec(["os.system"]), "class_path"),
        "arguments in a list": ({"class_path": "Uniform", "init_args": [1]}, "init_args"),
        "an unknown argument": (spec("recfb.policies.Mixture", polcy=1), "Mixture"),
    }


TEXTS = ("it, as a text", "it, by name alone", "unchecked arguments, as a text")


def classes(ledger: Ledger, bad: Payload, whole: bool) -> None:
    doors = DOORS if whole else {name: DOORS[name] for name in ("build", "fit", "a model")}
    for case, (one, says) in hostile(bad).items():
        for name, door in doors.items():
            if case in TEXTS and name in ("fit", "evaluate", "fit a scorer"):
                ledger.refuses(f"{case}, by {name}", lambda d=door, o=one: d(o))
            else:
                ledger.refuses(f"{case}, by {name}", lambda d=door, o=one: d(o), says)


def callables(ledger: Ledger, bad: Payload) -> None:
    """Parameters that take a function, or anything; and what the user trusts by name."""
    for path in ("os.system", f"{EVIL}.make", "recfb.cli.main"):
        hook = spec("pytorch_lightning.callbacks.LambdaCallback", setup=path)
        model = spec(
            "Recommender", scorer=spec("MF"), objective=spec("BPR"), sampler=spec("Clicks")
        )
        text = page("hooks.yaml", {"model": model, "callbacks": [hook], "max_epochs": 1})
        words = ("fit", "log.csv", "--config", text)
        ledger.refuses(f"{path} as a callback", lambda w=words: typed(*w), path.split(".")[-1])
    sweep = json.dumps({"world.means": [spec(f"{EVIL}.Mine")]})
    in_simulator(spec("Uniform"), str)
    ledger.refuses("a class in a sweep of anything",
                   lambda: typed("simulate", "loop", "--sweep", sweep))  # fmt: skip
    mine = page("mine.yaml", {"p": spec(f"{EVIL}.Mine")})
    words = ("evaluate", "log.csv", "--policies", mine)
    ledger.gives("--import runs the user's code, as asked",
                 lambda: typed(*words, "--import", EVIL),
                 lambda code: code in (0, 3, 4) and bad.ran())  # fmt: skip
    ledger.refuses("and the next call does not", lambda: typed(*words), EVIL)
    inside = page("x.yaml", {"import": EVIL, "model": spec(f"{EVIL}.Mine")})
    ledger.refuses("import: in a page", lambda: typed("fit", "log.csv", "--config", inside), EVIL)
    for name in ("*", "jsonargparse", "no name", "--name"):
        ledger.refuses(f"--import {name}", lambda n=name: typed(*words, f"--import={n}"), name)


PAGES = {
    "a key twice": ("dim: 2, dim: 3", "'dim'"),
    "octal or not": ("dim: 010", "010"),
    "minus octal": ("dim: -010", "-010"),
    "minutes and seconds": ("dim: 1:30", "1:30"),
    "null for a number": ("dim: null", "dim"),
    "nothing for a number": ("dim: ", "dim"),
    "a fraction for a number": ("dim: 1.7", "1.7"),
    "a truth for a number": ("dim: true", "True"),
    "a list for a number": ("dim: [3]", "dim"),
    "not a number": ("dim: .nan", "nan"),
    "a text for a number": ("dim: many", "many"),
    "5,000 digits": ("dim: " + "9" * 5000, "999"),
    "a tag that calls": ("dim: !!python/object/apply:os.system ['touch x']", "os.system"),
    "a tag that names": ("dim: !!python/name:os.system", "os.system"),
    "a tag of YAML": ("dim: !!int '3'", "!!int"),
    "a set": ("dim: !!set {x, y}", "!!set"),
    "an alias": ("dim: &a 3, sweeps: *a", "alias"),
    "a merge": ("<<: {dim: 3}", "merge"),
    "a list as a key": ("? [a] : 1", "['a']"),
    "a truth as a key": ("no: 1", "'no'"),
    "another parameter": ("dimm: 3", "'dim'"),
    "too deep": ("dim: " + "[" * 5000, "levels"),
    "too deep, closed": ("dim: " + "{a: " * 900 + "}" * 900, "levels"),
    "not YAML": ("dim: [", "YAML"),
}


def values(ledger: Ledger, whole: bool) -> None:
    def api(text: str) -> Any:
        return build(Solver, read_yaml(Path(page("one.yaml", text))))

    def cli(text: str) -> Any:
        return typed("fit", "log.csv", "--config", page("fit.yaml", f"model: {text}\n"))

    for case, (text, says) in PAGES.items():
        full = "{class_path: ALS, init_args: {" + text + "}}"
        ledger.refuses(case, lambda t=full: api(t), says)
        ledger.refuses(f"{case}, recfb fit", lambda t=full: cli(t), says)
    for case, text in {"nothing": "", "a number": "5", "a list": "[1]", "a base": "init_args: {}",
                       "two pages": "a: 1\n---\nb: 2\n", "another kind": "class_path: Uniform",
                       "NUL": "a: \0"}.items():  # fmt: skip
        ledger.refuses(case, lambda t=text: api(t))
        ledger.refuses(f"{case}, recfb fit", lambda t=text: typed(
            "fit", "log.csv", "--config", page("fit.yaml", t)))  # fmt: skip
    for word, says in {"batch_size: null": "batch_size", "modle: {class_path: ALS}": "model",
                       "seed: 010": "010", "seed: 1\nseed: 2": "'seed'"}.items():  # fmt: skip
        ledger.refuses(word, lambda w=word: typed(
            "fit", "log.csv", "--model=ALS", "--config", page("fit.yaml", w)), says)  # fmt: skip
    ledger.refuses("no page", lambda: typed("fit", "log.csv", "--config", "none.yaml"), "none.yaml")
    Path("utf16.yaml").write_bytes("a: 1".encode("utf-16"))
    ledger.refuses("UTF-16", lambda: typed("fit", "log.csv", "--config=utf16.yaml"), "utf16.yaml")
    right = {"3": 3, "0x10": 16, "1_000": 1000, "'3'": 3}
    for text, dim in right.items():
        full = "{class_path: ALS, init_args: {dim: " + text + "}}"
        ledger.gives(text, lambda t=full: api(t), lambda model, d=dim: model.dim == d)
    ledger.gives("a date is a text", lambda: read_yaml(Path(page("d.yaml", "a: 2020-13-45"))),
                 lambda data: data == {"a": "2020-13-45"})  # fmt: skip


def test_no_class_outside_the_library(
    ledger: Callable[..., Ledger], whole: bool, bad: Payload
) -> None:
    with ledger("configs: hostile classes", clean=bad.clean) as each:
        classes(each, bad, whole)
        callables(each, bad)


def test_values_are_read_as_they_look(
    ledger: Callable[..., Ledger], whole: bool, bad: Payload
) -> None:
    with ledger("configs: values", clean=bad.clean) as each:
        values(each, whole)


def test_the_families_can_fail(bad: Payload, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = jsonargparse._common.parsing_settings
    monkeypatch.setitem(settings, "import_path_verdicts", dict(settings["import_path_verdicts"]))
    monkeypatch.setattr("recfb.config.ALLOWED", ("recfb", EVIL, "subprocess"))
    each = Ledger("x", clean=bad.clean)
    classes(each, bad, whole=False)
    assert each.counts["executed"], each.faults
    bad.ran()
    monkeypatch.setattr("recfb.config.refuse_smuggling", lambda data: None)
    each = Ledger("x")
    classes(each, bad, whole=False)
    assert {"silent", "rude"} <= set(each.counts), each.faults
    bad.ran()
    monkeypatch.setattr("recfb.data.plain._Loader", yaml.SafeLoader)
    monkeypatch.setattr("recfb.config._refuse_unfit", lambda path, given: None)
    each = Ledger("x")
    values(each, whole=False)
    assert {"silent", "rude"} <= set(each.counts), each.faults
