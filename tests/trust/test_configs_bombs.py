"""Pages that are small and would fill the memory: refused in a second and 200 MB, measured in a
child."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger import Ledger

from recfb.errors import RecfbError

CHILD = """
import json, resource, signal, sys, time
from pathlib import Path
import recfb.cli.evaluate, recfb.cli.fit, recfb.cli.simulate
from recfb.contracts import Policy
from recfb.config import build
from recfb.data.plain import read_yaml
from recfb.errors import RecfbError
from payloads import typed

doors = {
    "build": lambda page: build(Policy, read_yaml(Path(page))),
    "recfb fit": lambda page: typed("fit", "log.csv", "--config", page),
    "recfb evaluate": lambda page: typed("evaluate", "log.csv", "--policies", page),
    "recfb simulate": lambda page: typed("simulate", Path(page).stem),
}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def timed_out(*_):
    raise TimeoutError("more than 5 s")

build(Policy, {"class_path": "Uniform"})  # what all pages pay for once
for door in ("recfb fit", "recfb simulate"):
    try:
        doors[door]("simulators/right.yaml")
    except RecfbError:
        pass
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
signal.signal(signal.SIGALRM, timed_out)
if sys.argv[1] == "broken":
    import recfb.data.plain, yaml
    recfb.data.plain._Loader = yaml.SafeLoader
for page in sorted(Path("simulators").glob("bomb-*.yaml")):
    for name, door in doors.items():
        start, before, found = time.monotonic(), peak(), {"error": None, "text": "it was read"}
        signal.alarm(5)
        try:
            door(str(page))
        except BaseException as error:
            kind = "RecfbError" if isinstance(error, RecfbError) else type(error).__name__
            found = {"error": kind, "text": str(error)[:500]}
        signal.alarm(0)
        found |= {"seconds": time.monotonic() - start, "megabytes": peak() - before}
        print(json.dumps({"case": f"{page.stem}, {name}", **found}))
"""


def nested(levels: int) -> str:
    """Each line holds the line before nine times."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]" for k in range(levels)]
    return "\n".join(lines) + "\n"


def bombs() -> dict[str, str]:
    """A page each; the word that its refusal says is the first of its name."""
    text = json.dumps(nested(7))
    quoted = f"{{class_path: Mixture, init_args: {{policy: Uniform, weight: {text}}}}}"
    return {
        "aliases": nested(8),
        "aliases-of-mappings": "a: &a {x: 1}\nb: &b {p: *a, q: *a}\nc: {p: *b, q: *b}\n",
        "aliases-to-itself": "a: &a [*a]\n",
        "aliases-merged": "a: &a {x: 1}\nb: {<<: *a}\n",
        "aliases-in-a-text": f"model: {quoted}\np: {quoted}\nclass_path: Mixture\n"
        f"init_args: {{policy: {text}}}\n",
        "levels": "a: " + "[" * 100_000,
        "levels-closed": "a: " + "{a: " * 20_000 + "}" * 20_000,
    }


def measured(folder: Path, how: str) -> list[dict[str, Any]]:
    """What became of each bomb at each door."""
    (folder / "simulators").mkdir(exist_ok=True)
    (folder / "simulators" / "right.yaml").write_text("rounds: 1\n")
    (folder / "log.csv").write_text("user,item,reward\n1,1,1\n")
    for name, text in bombs().items():
        (folder / "simulators" / f"bomb-{name}.yaml").write_text(text)
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, how], cwd=folder, text=True, capture_output=True, timeout=300,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def again(found: dict[str, Any]) -> str:
    """What the child met, met here."""
    if found["error"] not in (None, "RecfbError"):
        raise RuntimeError(f"{found['error']}: {found['text']}")
    if found["seconds"] > 1 or found["megabytes"] > 200:
        raise RuntimeError(f"{found['seconds']:.1f} s, {found['megabytes']:.0f} MB")
    if found["error"] is None:
        return str(found["text"])
    raise RecfbError(found["text"])


def pages(ledger: Ledger, folder: Path, how: str = "as it is") -> None:
    for found in measured(folder, how):
        word = found["case"].split("-")[1].split(",")[0]
        ledger.refuses(found["case"], lambda one=found: again(one), word)


@pytest.mark.usefixtures("whole")
def test_bombs_are_refused_at_once(ledger: Callable[..., Ledger], tmp_path: Path) -> None:
    with ledger("configs: bombs") as each:
        pages(each, tmp_path)
        assert each.tried == 4 * len(bombs())


@pytest.mark.claims
def test_the_family_can_fail(tmp_path: Path) -> None:
    each = Ledger("x")
    pages(each, tmp_path, "broken")
    assert each.counts["rude"] > 10, each.counts
