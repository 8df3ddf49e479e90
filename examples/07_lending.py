"""A lender who sees only the loans it grants, and what repairs it."""

from __future__ import annotations

import polars as pl

import recfb
from recfb import plots
from recfb.beliefs import Linear
from recfb.beliefs.logistic import Logistic
from recfb.policies.apple_tasting import Tasting
from recfb.policies.greedy import Greedy
from recfb.policies.payoff import Payoff
from recfb.policies.thompson import Thompson
from recfb.worlds.applicants import Applicants

# A good loan pays 1, a bad one costs 1, a refusal pays nothing and teaches nothing.
world = Applicants([0.4] * 6, link="logistic", requests=1)


def lender(**options) -> Payoff:
    """P(good | applicant) by logistic regression, after a few bad experiences."""
    return Payoff(Logistic(), doubt=3.7, **options)


policies = {
    "greedy": Greedy(lender()),  # grants what it believes in: nothing, so it never learns better
    "5 % tasted": Tasting(lender(), 0.05),  # and one in twenty of the others
    "Thompson": Thompson(lender()),  # grants with the probability that it would pay
    "5 % tasted, DR": Tasting(Payoff(Linear(), doubt=1.0, weights="dr"), 0.05),
}

metrics, logs = [], {}
for name, policy in policies.items():
    run = recfb.simulate(
        world, policy, rounds=600, replications=8, refit=recfb.Refit(warmup=0), metrics=["regret"]
    )
    logs[name] = run.log
    metrics.append(run.metrics.with_columns(policy=pl.lit(name)))
    last = run.metrics.filter(pl.col("round") == 599)["regret"].mean()
    granted = run.log.frame["item"].mean()
    print(f"{name:16} grants {granted:.0%} of the loans, and loses {last:.0f} to the best lender")

plots.write(plots.by_round(pl.concat(metrics), ["regret"], "A lender's regret"), "lending.png")

# What would another rule have earned? The tasting lender's log can tell: anyone might have been
# granted a loan. The greedy one's cannot, whatever the estimator.
for name in ("5 % tasted", "greedy"):
    everybody = Tasting(Payoff(Linear()), 1.0).bind(logs[name])
    report = recfb.evaluate(logs[name], {"grant all": everybody}, estimators=["ips"])
    print(name, report, sep="\n")
