"""Random streams as functions of a seed and names. No generator is ever stored.

A component asks for `stream(seed, "rows", epoch)`: the same words give the same numbers, other
words give independent ones, and adding a component changes nobody else's draws. Names are chained
through the
finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
2014).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(x: int) -> int:
    """The finaliser of SplitMix64: a bijection of 64-bit integers that mixes every bit.

    >>> hex(splitmix64(0))
    '0xe220a8397b1dcdaf'
    """
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@lru_cache(maxsize=4096)
def _word(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def derive(seed: int, *names: str | int) -> int:
    """A 64-bit seed for these names under this seed.

    >>> derive(0, "world", 3) == derive(0, "world", 3)
    True
    >>> derive(0, "world", 3) == derive(0, "policy", 3)
    False
    """
    x = splitmix64(seed & _MASK)
    for name in names:
        x = splitmix64(x ^ (_word(name) if isinstance(name, str) else splitmix64(name & _MASK)))
    return x


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for these names under this seed.

    >>> a, b = stream(7, "rows", 0), stream(7, "rows", 0)
    >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
    True
    """
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


def spawn(generator: torch.Generator, tag: str | int) -> torch.Generator:
    """A generator for a component with noise of its own. `generator` is not advanced.

    A wrapper that draws from `spawn(generator, "Delayed")` leaves the numbers of what it wraps as
    they were.

    >>> g = stream(0, "world", 4)
    >>> _ = spawn(g, "Delayed")
    >>> bool((torch.rand(2, generator=g) == torch.rand(2, generator=stream(0, "world", 4))).all())
    True
    """
    return stream(generator.initial_seed(), tag, device=generator.device)


def mix64(x: torch.Tensor) -> torch.Tensor:
    """`splitmix64` of every element of an int64 tensor; arithmetic wraps, shifts are masked to be
    logical.

    >>> int(mix64(torch.tensor([0]))[0]) & (2**64 - 1) == splitmix64(0)
    True
    """
    x = x + (_GOLDEN - (1 << 64))
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * (0x94D049BB133111EB - (1 << 64))
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def splitmix64_run(start: int, count: int) -> list[int]:
    """`splitmix64` of start, start + 1, ..., as many as asked for.

    >>> splitmix64_run(2**64 - 1, 2) == [splitmix64(2**64 - 1), splitmix64(0)]
    True
    """
    signed = (start & _MASK) - ((start & _MASK) >> 63 << 64)
    run = torch.arange(count, dtype=torch.int64) + signed  # wraps
    return [x & _MASK for x in mix64(run).tolist()]
