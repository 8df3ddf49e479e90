"""The item of the largest score: no exploration."""

from __future__ import annotations

from torch import Tensor

from recfb.contracts import Context, Model
from recfb.policies.slates import Certain


class Greedy(Certain):
    """Shows the K items that the model scores highest, for sure.

    Its log has no support outside its own slates, so it can evaluate no other policy, and what it
    does not show it does not learn about.

    Args:
        model: anything with `scores`.

    Raises:
        ConfigError: a slate longer than the items of a request.

    >>> from recfb.beliefs import Linear
    >>> Greedy(Linear(l2=2.0))
    Greedy(Linear(l2=2.0))
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    @property
    def vectorised(self) -> bool:  # type: ignore[override]
        """As the model."""
        return bool(getattr(self.model, "vectorised", False))

    def index(self, context: Context) -> Tensor:
        return self.model.scores(context)
