"""Sets of distinct (user, item) pairs, and exact negatives outside them without a rejection
loop."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from recfb.errors import ConfigError

_MOST_BITS = 1 << 31  # a bitmap of at most 256 MiB


def choose(count: Tensor, k: int, generator: Generator) -> Tensor:
    """k numbers below each count: a uniform set of distinct ones where it has k, else uniform with
    replacement: (B,) -> (B, k). A count of 0 gives 0.

    >>> from recfb.random import stream
    >>> choose(torch.tensor([2, 1]), 2, stream(0)).sort().values.tolist()
    [[0, 1], [0, 0]]
    """
    device = count.device
    u = torch.rand(len(count), k, generator=generator, dtype=torch.float64, device=device)  # (B, k)
    enough = count >= k  # (B,)
    pick = torch.empty(len(count), k, dtype=torch.int64, device=device)
    for j in range(k):  # Floyd (1987): k distinct numbers with one draw each
        most = torch.where(enough, count - k + j, count - 1)  # (B,) the largest number allowed
        here = (u[:, j] * (most + 1)).to(torch.int64).clamp_(min=0)
        seen = (pick[:, :j] == here[:, None]).any(1) & enough
        pick[:, j] = torch.where(seen, most, here)
    return pick


class Pairs(nn.Module):
    """Distinct pairs as sorted int64 keys `user * n_items + item`, grouped by user.

    A module, so that it moves with what holds it; its buffers are training data and never enter a
    state_dict.

    >>> pairs = Pairs(torch.tensor([0, 0, 1]), torch.tensor([2, 0, 1]), n_users=2, n_items=3)
    >>> pairs.key.tolist(), pairs.offset.tolist()
    ([0, 2, 4], [0, 2, 3])
    """

    key: Tensor  # (P,) int64, sorted
    offset: Tensor  # (n_users + 1,) int64: the keys of user u are key[offset[u] : offset[u + 1]]
    item: Tensor  # (P,) int64
    gap: Tensor  # (P,) int64: free keys before the key
    bits: Tensor | None  # one bit a pair, where that is small enough

    def __init__(self, user: Tensor, item: Tensor, *, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        key = torch.unique(user.to(torch.int64) * n_items + item)  # (P,) sorted
        owner = key // max(1, n_items)
        count = torch.bincount(owner, minlength=n_users)  # (n_users,)
        offset = torch.zeros(n_users + 1, dtype=torch.int64, device=key.device)
        offset[1:] = count.cumsum(0)
        self.register_buffer("key", key, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("item", key - owner * n_items, persistent=False)
        self.register_buffer(
            "gap", key - torch.arange(len(key), device=key.device), persistent=False
        )
        self.register_buffer("bits", None, persistent=False)

    def __len__(self) -> int:
        return len(self.key)

    def __copy__(self) -> Pairs:
        """The same tensors in a module of its own: moving one to a device leaves the other."""
        twin = self.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._buffers = dict(self._buffers)
        return twin

    @property
    def user(self) -> Tensor:
        """The user of each pair: (P,)."""
        return self.key // max(1, self.n_items)

    @property
    def per_user(self) -> Tensor:
        """How many pairs each user has: (n_users,)."""
        return self.offset[1:] - self.offset[:-1]

    @property
    def per_item(self) -> Tensor:
        """How many users each item has: (n_items,), zeros included."""
        return torch.bincount(self.item, minlength=self.n_items)

    def has(self, key: Tensor) -> Tensor:
        """Which keys are in the set, shaped like key."""
        if self.bits is not None:
            return ((self.bits[key >> 3] >> (key & 7)) & 1).bool()
        if not len(self.key):
            return torch.zeros_like(key, dtype=torch.bool)
        place = torch.searchsorted(self.key, key).clamp_(max=len(self.key) - 1)
        return self.key[place] == key

    def label(self, user: Tensor, item: Tensor) -> Tensor:
        """1.0 where the pair is in the set, shaped like item."""
        owner = user[:, None] if item.dim() > user.dim() else user
        return self.has(owner * self.n_items + item).to(torch.float32)

    def mask(self, user: Tensor, *, inside: bool = True) -> Tensor:
        """Which items each user has, or with `inside=False` has not: (B,) -> (B, n_items) bool."""
        mask = torch.full((len(user), self.n_items), not inside, device=user.device)
        mask.view(-1).index_fill_(0, self.places(user), inside)
        return mask

    def places(self, user: Tensor) -> Tensor:
        """Where the users' items are in a flattened (B, n_items) table: (B,) -> (R,)."""
        if len(user) and bool((user[1:] - user[:-1] == 1).all()):  # keys are such places already
            first, last = int(user[0]), int(user[-1]) + 1
            return self.key[self.offset[first] : self.offset[last]] - first * self.n_items
        count = self.per_user[user]  # (B,)
        row = torch.repeat_interleave(torch.arange(len(user), device=user.device), count)  # (R,)
        start = self.offset[user] - (count.cumsum(0) - count)  # (B,)
        place = start[row] + torch.arange(len(row), device=user.device)  # (R,)
        return row * self.n_items + self.item[place]  # (R,)

    def index(self) -> Pairs:
        """Build the bitmap that makes `has` and `negatives` fast; skipped where it would be too
        large."""
        cells = self.n_users * self.n_items
        if self.bits is None and cells <= _MOST_BITS:
            bits = torch.zeros((cells >> 3) + 1, dtype=torch.uint8, device=self.key.device)
            one = torch.ones((), dtype=torch.uint8, device=self.key.device) << (self.key & 7).to(
                torch.uint8
            )
            self.bits = bits.index_add_(0, self.key >> 3, one)
        return self

    def require_free(self) -> None:
        """Refuse a log in which some user has every item: there is no negative to draw."""
        full = (self.per_user >= self.n_items).nonzero().squeeze(1)
        if len(full):
            raise ConfigError(
                f"{len(full)} users (first: {int(full[0])}) have clicked all {self.n_items} items, "
                "so they have no "
                "negatives. Remove them first: "
                f"log.filter(~pl.col('user').is_in({full[:3].tolist()}))."
            )

    def nth_free(self, rank: Tensor) -> Tensor:
        """The keys that are not in the set, by rank over all users: exact, any shape."""
        return rank + torch.searchsorted(self.gap, rank, right=True)

    def negatives(self, user: Tensor, k: int, generator: Generator) -> Tensor:
        """k items a row, uniform over what the user does not have: (B,) -> (B, k).

        A uniform guess is kept where it is free and replaced by an exact draw from the complement
        where it is not; both are uniform over the complement, so the mixture is.
        """
        device = user.device
        guess = torch.randint(
            self.n_items, (len(user), k), generator=generator, device=device
        )  # (B, k)
        u = torch.rand(
            len(user), k, generator=generator, dtype=torch.float64, device=device
        )  # (B, k)
        taken = self.has(user[:, None] * self.n_items + guess)  # (B, k)
        row, column = taken.nonzero(as_tuple=True)
        who = user[row]
        first = who * self.n_items - self.offset[who]  # free keys before the user
        free = self.n_items - self.per_user[who]
        rank = first + (u[row, column] * free).to(torch.int64).clamp_(max=free - 1)
        guess[row, column] = self.nth_free(rank) - who * self.n_items
        return guess

    def free(self, n: int, generator: Generator) -> Tensor:
        """n keys uniform over all pairs that are not in the set."""
        total = self.n_users * self.n_items - len(self.key)
        rank = torch.randint(max(1, total), (n,), generator=generator, device=self.key.device)
        return self.nth_free(rank)

    def pool(self, user: Tensor, k: int, generator: Generator) -> Tensor:
        """k items a row from the user's own list: without replacement where it has k, else with:
        (B,) -> (B, k)."""
        pick = choose(self.per_user[user], k, generator)  # (B, k)
        return self.item[self.offset[user][:, None] + pick]
