"""Clicks with mistakes among them: PLD learns less from clicks that fit their user badly."""

from __future__ import annotations

import polars as pl

import recfb
from recfb import Recommender, Space, objectives, samplers, scorers

# Every rating is a click here, so that films rated below 7 are mistakes; later good ones count.
log = recfb.dataset("movietweetings").log
log = log.filter(pl.len().over("user") >= 10, pl.len().over("item") >= 20)
before, after = log.split_by_time(0.8)
test = after.binarise(at=7)
train, valid = before.binarise(at=0).split_by_time(0.9)

# The same model and loss; only which clicks are drawn differs. Both draw users uniformly.
model, loss = scorers.MF(dim=32, l2=0.02), objectives.BPR()
spaces = {
    "bpr": Space(Recommender(model, loss, samplers.Clicks(by="user")), {"scorer.l2": [0.01, 0.05]}),
    "pld": Space(
        Recommender(model, loss, samplers.PLD(k=5, temperature=0.1, warmup=2)),
        {"scorer.l2": [0.01, 0.05], "sampler.temperature": [0.1, 0.3]},
    ),
}

# One budget for both, on held-out clicks that have mistakes too: that is what one has in practice.
tuned = recfb.tune(train, spaces, valid=valid, budget=3, metric="recall@20", max_epochs=15)
print(tuned.table.select("method", "trial", "value", "epochs", "setting"))
print(
    recfb.measure(test, tuned.models, metrics=["recall@20"], exclude=train, base="bpr").select(
        "recommender", "value", "difference", "difference_lower", "difference_upper"
    )
)
