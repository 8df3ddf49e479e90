"""BPR on a CUDA device by batch size: clicks a second, and how well it ranks after equal epochs.

    python tests/bench/bench_gpu.py

The log of `bench_implicit.py`. Without a CUDA device it says so and stops.
"""

from __future__ import annotations

import time
import warnings

import torch
from bench_implicit import DIM, EPOCHS, synthetic

from recfb import Recommender, fit, measure
from recfb.objectives import BPR
from recfb.samplers import Clicks
from recfb.scorers import MF


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing to measure")
        return
    warnings.simplefilter("ignore")
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    train, test = synthetic().split_by_row(0.95)
    options = {"accelerator": "cuda", "devices": 1, "enable_progress_bar": False}
    fit(train, Recommender(MF(dim=DIM), BPR(), Clicks()), max_epochs=1, **options)  # warm
    for batch in (8192, 65_536, 262_144):
        model = Recommender(MF(dim=DIM), BPR(), Clicks())
        start = time.perf_counter()
        fit(train, model, batch_size=batch, max_epochs=EPOCHS, **options)
        torch.cuda.synchronize()
        rate = len(train.clicks) * EPOCHS / (time.perf_counter() - start) / 1e6
        table = measure(test, {"bpr": model.to("cpu")}, metrics=["ndcg@10"], exclude=train)
        print(f"batch {batch:7,}: {rate:6.2f} M clicks/s, ndcg@10 {table['value'].item():.4f}")


if __name__ == "__main__":
    main()
