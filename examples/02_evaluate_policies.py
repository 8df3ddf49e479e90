"""Is policy B better than A? A decision log, a policy of your own, intervals and a verdict."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

import recfb
from recfb import policies
from recfb.contracts import Context, Policy
from recfb.random import stream

# A log that a uniform policy wrote: four offers, two kinds of customers, which offer was shown,
# with which probability, and whether it was taken. (Yours comes from Log.read.)
rate = torch.tensor([[0.05, 0.10, 0.02, 0.04], [0.12, 0.03, 0.02, 0.06]])  # (kinds, offers)
draw = stream(0, "example")
kind = torch.randint(2, (50_000,), generator=draw)
offer = torch.randint(4, (50_000,), generator=draw)
taken = torch.rand(50_000, generator=draw) < rate[kind, offer]
log = recfb.Log.of(
    {
        "item": offer,
        "reward": taken.float(),
        "propensity": torch.full((50_000,), 0.25, dtype=torch.float64),
        "features": torch.nn.functional.one_hot(kind, 2).float(),
    },
    n_items=4,
    meta=recfb.Meta(reward_range=(0, 1), propensity="exact", task="decisions"),
)


class ByKind(Policy):
    """Offer 1 to the first kind of customers and offer 0 to the second, nine times in ten."""

    def probs(self, context: Context) -> Tensor:
        best = torch.tensor([1, 0])[context.features.argmax(1)]  # (B,)
        probs = torch.full((len(context), 4), 0.1 / 4, dtype=torch.float64)
        probs[torch.arange(len(context)), best] += 0.9
        return probs  # (B, offers), rows sum to 1


report = recfb.evaluate(log, {"uniform": policies.Uniform(), "by kind": ByKind()}, base="uniform")
print(report)
print(report.compare)
truth = 0.9 * (rate[0, 1] + rate[1, 0]) / 2 + 0.1 * rate.mean()
print(f"the truth of 'by kind' is {float(truth):.4f}")

with tempfile.TemporaryDirectory() as folder:
    report.write(Path(folder) / "report.parquet")  # numbers that are not to be used become null
    print(f"exit code {report.exit_code}: every number may be used")
