"""Source bias: how differently a model ranks human texts and machine-written copies of them.

Zhou et al., "Exploring the escalation of source bias in user, data, and recommender system feedback
loop", SIGIR 2025.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recfb.metrics.ranking import average_precision, ndcg, top_k

CUTS = (1, 3, 5)


def rel_delta(human: Tensor, ai: Tensor) -> Tensor:
    """2 (human - ai) / (human + ai), in percent: negative is biased to AI; NaN at 0/0.

    >>> rel_delta(torch.tensor(0.2), torch.tensor(0.6)).item().__round__(3)
    -100.0
    """
    return 200 * (human - ai) / (human + ai)


def source_share(machine: Tensor, k: int) -> Tensor:
    """SS@k: the share of machine-written texts in the top k, of indicators in ranked order:
    (B, K >= k) -> (B,).

    >>> source_share(torch.tensor([[1, 0, 1, 1]]), 2).tolist()
    [0.5]
    """
    return machine[:, :k].to(torch.float64).mean(1)


def place(scores: Tensor, target: int, k: int) -> tuple[Tensor, Tensor]:
    """Where one column of each list is ranked: 1 at its rank, (B, k), and the ranked columns,
    (B, k). Ties are broken by a hash.

    >>> place(torch.tensor([[0.1, 0.9, 0.5]]), 2, 3)
    (tensor([[0., 1., 0.]]), tensor([[1, 2, 0]]))
    """
    user = torch.arange(len(scores), device=scores.device)
    order = top_k(scores, k, user)  # (B, k)
    return (order == target).to(torch.float32), order


def source_metrics(scores: Tensor, cuts: Sequence[int] = CUTS) -> dict[str, Tensor]:
    """Means over impressions of what a ranking of both texts of C items says: (B, C, 2) scores,
    the clicked item first, source 0 human and 1 AI.

    - `ndcg_F@k`, `map_F@k` times 100 of the families F: "human" and "ai", the clicked item among
      the texts of one source; "human_target" and "ai_target", one of its texts among all 2 C.
      The average precision is divided by the number of relevant entries, here 1;
    - `rel_delta@k` of the ndcg of both targets;
    - `share@k`: machine-written texts in the top k; `lift@k`: that over their share of all;
    - `win`: how often the AI text of the clicked item outscores the human one.

    Impressions whose clicked item scores the same for both texts are left out, as in the published
    evaluation; NaN where none is left.

    >>> scores = torch.tensor([[[0.2, 0.9], [0.1, 0.0]]])
    >>> found = source_metrics(scores, cuts=[1])
    >>> [float(found[name]) for name in ("rel_delta@1", "share@1", "lift@1", "win")]
    [-200.0, 1.0, 2.0, 1.0]
    """
    apart = scores[:, 0, 0] != scores[:, 0, 1]  # (B,)
    scores = scores[apart]
    found = _rankings(scores, cuts)
    count = scores.shape[1]
    both = scores.transpose(1, 2).flatten(1)  # (B, 2 C): the human texts, then the others
    order = place(both, 0, min(max(cuts), 2 * count))[1]  # (B, K)
    for k in cuts:
        found[f"rel_delta@{k}"] = rel_delta(
            found[f"ndcg_human_target@{k}"], found[f"ndcg_ai_target@{k}"]
        )
        found[f"share@{k}"] = source_share(order >= count, k).mean()
        found[f"lift@{k}"] = 2 * found[f"share@{k}"]
    found["win"] = (scores[:, 0, 1] > scores[:, 0, 0]).to(torch.float64).mean()
    return found


def _rankings(scores: Tensor, cuts: Sequence[int]) -> dict[str, Tensor]:
    """ndcg and map of the four families: means over impressions, (B, C, 2) scores."""
    count, most = scores.shape[1], max(cuts)
    one = torch.ones(len(scores), dtype=torch.int64, device=scores.device)
    both = scores.transpose(1, 2).flatten(1)  # (B, 2 C): the human texts, then the others
    lists = {
        "human": (scores[:, :, 0], 0),
        "ai": (scores[:, :, 1], 0),
        "human_target": (both, 0),
        "ai_target": (both, count),
    }
    found: dict[str, Tensor] = {}
    for name, (values, target) in lists.items():
        gain = place(values, target, min(most, values.shape[1]))[0]  # (B, K)
        for k in cuts:
            cut = gain[:, :k]
            found[f"ndcg_{name}@{k}"] = 100 * ndcg(cut, one).mean()
            found[f"map_{name}@{k}"] = 100 * average_precision(cut, one, norm="n_pos").mean()
    return found


__all__ = ["CUTS", "place", "rel_delta", "source_metrics", "source_share"]
