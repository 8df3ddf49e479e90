from __future__ import annotations

import sys

import pytest

from recfb import ConfigError, Recommender
from recfb.config import build
from recfb.contracts import Policy, Solver, describe
from recfb.simulate import Simulator


def test_short_names_nested_objects_and_defaults() -> None:
    page = {
        "class_path": "Recommender",
        "init_args": {
            "scorer": {"class_path": "MF", "init_args": {"dim": 4}},
            "objective": {"class_path": "BPR"},
            "sampler": {"class_path": "Clicks", "init_args": {"negatives": 2}},
        },
    }
    model = build(Recommender, page)
    assert model.scorer.dim == 4
    assert model.sampler.negatives == 2
    written = describe(model)["init_args"]["optimizer"]
    assert written["class_path"] == "recfb.optim.Adagrad"
    assert build(Recommender, describe(model)).sampler.negatives == 2


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (
            {"class_path": "recfb.solvers.ALS", "init_args": {"dimm": 4}},
            r"recfb\.solvers\.ALS has no 'dimm'\.\nIt takes .*Did you mean 'dim'\?",
        ),
        ({"class_path": "recfb.solvers.ALS", "init_args": {"dim": "many"}}, r"dim: Expected a int"),
        (
            {"class_path": "recfb.solvers.ASL"},
            r"recfb\.solvers has no 'ASL'\.\n.*Did you mean 'ALS'",
        ),
        ({"class_path": "ASL"}, r"no class 'ASL'\. Did you mean 'ALS'\?"),
        ({"class_path": "ALS", "dict_kwargs": {"x": 1}}, "'dict_kwargs' is not allowed"),
        (5, "Solver"),
    ],
)
def test_a_bad_page_is_explained_in_three_lines(page: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(Solver, page)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    "path", ["subprocess.Popen", "os.system", "antigravity.fly", "builtins.eval"]
)
def test_a_class_outside_the_allowlist_is_not_even_imported(path: str) -> None:
    with pytest.raises(
        ConfigError, match=r"outside what a configuration may name.*\n.*\n.*--import"
    ):
        build(Policy, {"class_path": path, "init_args": {"args": "touch x"}})
    assert "antigravity" not in sys.modules


def test_a_module_that_the_user_names_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    from recfb.policies import Uniform

    module = types.ModuleType("my_policies")

    class Mine(Uniform):
        pass

    Mine.__module__, Mine.__qualname__ = "my_policies", "Mine"
    module.Mine = Mine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_policies", module)
    made = build(Policy, {"class_path": "my_policies.Mine"}, modules=["my_policies"])
    assert type(made) is Mine
    with pytest.raises(ConfigError, match="outside"):
        build(Policy, {"class_path": "my_policies.Mine"})


def test_a_page_of_nested_policies_asks_of_each_pair_of_types_once() -> None:
    from jsonargparse import _typehints

    build(Simulator, {"class_path": "recfb.simulate.Simulator", "init_args": NESTED})
    asked = _typehints.implements_protocol.cache_info()
    assert asked.misses == asked.currsize
    build(Simulator, {"class_path": "recfb.simulate.Simulator", "init_args": NESTED})
    again = _typehints.implements_protocol.cache_info()
    assert again.misses == asked.misses and again.hits > asked.hits


LINEAR = {"class_path": "recfb.beliefs.Linear"}
GREEDY = {"class_path": "recfb.policies.Greedy", "init_args": {"model": LINEAR}}
MIXED = {"class_path": "recfb.policies.Mixture", "init_args": {"policy": GREEDY}}
NESTED = {
    "world": {"class_path": "recfb.worlds.Arms", "init_args": {"means": [0.2, 0.8]}},
    "policies": {
        "mixed": {"class_path": "recfb.policies.Mixture", "init_args": {"policy": GREEDY}}
    },
    "rounds": 3,
}
