"""A lender who sees only the loans it grants, and what repairs it."""

from __future__ import annotations

import polars as pl

import recfb
from recfb import plots
from recfb.beliefs import Linear, Logistic, Payoff
from recfb.policies import Greedy, Officer, Switch, Tasting, Thompson
from recfb.worlds import Applicants

# A good loan pays 1, a bad one costs 1, a refusal pays nothing and teaches nothing. Most applicants
# are good. The seventh thing about them, how hard they press, makes them worse.
world = Applicants([0.2] * 6 + [-1.5], bias=0.7, link="logistic", requests=5)
PRESSING = 6


def lender(belief=Logistic, **options) -> Payoff:
    """P(good | applicant), by what an application form says."""
    return Payoff(belief(), blind=[PRESSING], **options)


def after_an_officer(weights: str) -> Switch:
    """For 300 rounds an officer grants loans to those who press; then a lender learns from them."""
    officer = Officer([0.0] * PRESSING + [3.0, 0.0])
    return Switch(300, officer, Tasting(lender(Linear, weights=weights), 0.1))


policies = {
    # After a few bad experiences: who grants what it believes in grants nothing, and never learns.
    "greedy": Greedy(lender(doubt=3.7)),
    "10 % tasted": Tasting(lender(doubt=3.7), 0.1),  # and one in ten of the others
    "Thompson": Thompson(lender(doubt=3.7)),  # with the probability that it would pay
    # The officer's loans are worse than others would have been, which the form does not explain.
    # Weights know how likely each loan was.
    "officer, then 10 % tasted": after_an_officer("none"),
    "officer, then 10 % tasted, DR": after_an_officer("dr"),
}

metrics, logs = [], {}
for name, policy in policies.items():
    run = recfb.simulate(
        world, policy, rounds=500, replications=8, refit=recfb.Refit(warmup=0), metrics=["regret"]
    )
    logs[name] = run.log
    frame = run.log.frame.select("replication", pl.col("time").alias("round"), "item")
    spell = (pl.col("round") // 20 * 20 + 19).alias("round")  # shares of 20 rounds
    granted = frame.group_by("replication", spell).agg(pl.col("item").mean().alias("granted"))
    table = run.metrics.join(granted, on=["replication", "round"])
    metrics.append(table.with_columns(policy=pl.lit(name)))
    late = frame.filter(pl.col("round") >= 300)["item"].mean()
    before, end = (table.filter(round=t)["regret"] for t in (299, 499))
    lost = 5 * (end - before)  # five applicants a round
    print(
        f"{name:30} grants {late:.0%} of the last 1,000 loans, and loses {lost.mean():.0f} +- "
        f"{lost.std() / 8**0.5:.0f} to a lender who knows everything"
    )

figure = plots.by_round(pl.concat(metrics), ["granted", "regret"], "A lender's loans and regret")
plots.write(figure, "lending.png")

# What would another rule have earned? The tasting lender's log can tell: anyone might have been
# granted a loan. The greedy one's cannot, whatever the estimator.
for name in ("10 % tasted", "greedy"):
    everybody = Tasting(Payoff(Linear()), 1.0).bind(logs[name])
    report = recfb.evaluate(logs[name], {"grant all": everybody}, estimators=["ips"])
    print(name, report, sep="\n")
