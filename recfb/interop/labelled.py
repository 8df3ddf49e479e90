"""The labelled data sets that scikit-learn ships, as bandits."""

from __future__ import annotations

from typing import Literal, get_args

from recfb.errors import ConfigError, nearest
from recfb.worlds.classification import Classification

Name = Literal["breast_cancer", "digits", "iris", "wine"]


class Labelled(Classification):
    """`Classification` on one of scikit-learn's data sets; nothing is downloaded.

    Args:
        name: digits has 1,797 examples of 64 pixels and 10 classes; breast_cancer 569, 30 and 2;
            wine 178, 13 and 3; iris 150, 4 and 3.
        noise: the share of examples whose label is replaced by a uniform one.
        requests: examples of a round and replication.

    Raises:
        ConfigError: a name that is not there.

    >>> Labelled("iris").n_items
    3
    """

    def __init__(self, name: Name = "digits", *, noise: float = 0.0, requests: int = 1) -> None:
        from sklearn import datasets

        if name not in get_args(Name):
            names = list(get_args(Name))
            raise ConfigError(f"there are {names}, not {name!r}.{nearest(name, names)}")
        bunch = getattr(datasets, f"load_{name}")()
        super().__init__(bunch.data.tolist(), bunch.target.tolist(), noise=noise, requests=requests)
        self.name = name
