"""Clicks say what was seen as well as what is wanted: Rel-MF, and how to see that it helped."""

from __future__ import annotations

import recfb
from recfb import exposures, objectives, samplers, scorers, solvers

# A log that its own policy chose, and a test whose items were shown at random.
data = recfb.dataset("autodebias_simulation")
train, test = data.train, data.test

# What would the clicks be worth under each exposure model, and is it right? A random test tells.
models = {
    "popularity ^ .5": exposures.Popularity(power=0.5),
    "popularity": exposures.Popularity(power=1.0),
    "position": exposures.Position(),
}
print(recfb.exposure_table(train, models, clip=0.05))

# Rel-MF weighs each click by 1 / exposure and learns from all pairs, those without a click too. A
# mean over all pairs wants a smaller l2 than one over clicks.
relmf = recfb.Recommender(
    scorers.MF(dim=32, l2=0.007),
    objectives.RelMF(models["popularity ^ .5"], link="bce"),
    samplers.AllPairs(draw="balanced_iw"),
)
plain = recfb.Recommender(scorers.MF(dim=32, l2=0.02), objectives.BCE(), samplers.Clicks())
fitted = {
    "random": recfb.fit(train, solvers.Random()),
    "popularity": recfb.fit(train, solvers.Popularity()),
    "clicks as labels": recfb.fit(train, plain, max_epochs=20, enable_progress_bar=False),
    "rel-mf": recfb.fit(train, relmf, max_epochs=20, enable_progress_bar=False),
}

# On random exposure only the judged items are ranked, and pairs of the training log left out.
table = recfb.measure(
    test, fitted, metrics=["ndcg@5"], exclude=train, candidates="judged", base="clicks as labels"
)
print(table.select("recommender", "value", "lower", "upper", "difference", "p_value"))
