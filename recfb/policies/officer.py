"""A decision maker of old, who sees what a model may not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor

from recfb.beliefs.rows import features_of
from recfb.contracts import Context
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.accept_reject import AcceptReject, two_sided


class Officer(AcceptReject):
    """Accepts with probability sigmoid(w . x), kept between floor and 1 - floor; never learns.

    Lakkaraju et al., "The selective labels problem", KDD 2017. Play it first, with
    `Switch(at, Officer(...), policy)`, and `policy` learns from its decisions. Where w weighs a
    feature that the policy's model is `blind` to, the labels of the accepted are not those of
    people with the same features: no model is right that counts all rows alike, and one that
    weights them by 1 / e is.

    Args:
        weights: w, one a feature.
        floor: the least probability of either decision, so that every label might be seen.

    Raises:
        ConfigError: a floor outside [0, 1/2], weights of another number than features, or not two
            items.

    >>> import torch
    >>> from recfb.data import Log
    >>> officer = Officer([-9.0], floor=0.25).bind(Log.empty(1, 2))
    >>> officer.probs(Context(torch.tensor([0]))).tolist()
    [[0.75, 0.25]]
    """

    def __init__(self, weights: Sequence[float], *, floor: float = 0.1) -> None:
        super().__init__()
        if not 0 <= floor <= 0.5:
            raise ConfigError(f"floor is a probability in [0, 1/2], found {floor}. Try 0.1.")
        self.weights = [float(w) for w in weights]
        self.floor = floor

    def bind(self, log: Log) -> Self:
        width = getattr(log.frame.schema.get("features"), "size", 1)
        if width != len(self.weights):
            raise ConfigError(
                f"requests have {width} features here, the constant among them, found "
                f"{len(self.weights)} weights."
            )
        return super().bind(log)

    def probs(self, context: Context) -> Tensor:
        x = features_of(context)
        accept = (x @ x.new_tensor(self.weights)).sigmoid()  # (B,)
        return two_sided(accept.clamp(self.floor, 1 - self.floor), context)
