from __future__ import annotations

import torch

from recfb.random import derive, mix64, spawn, splitmix64, stream


def test_splitmix64_reference_sequence() -> None:
    """The first outputs of the reference generator seeded with 0: state advances by the golden
    gamma."""
    gamma = 0x9E3779B97F4A7C15
    states = [(k * gamma) & (2**64 - 1) for k in range(3)]
    assert [splitmix64(s) for s in states] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_mix64_equals_splitmix64_for_negative_and_large_values() -> None:
    values = [-1, -(2**63), 2**63 - 1, 12345678901234567, 0]
    mixed = mix64(torch.tensor(values)).tolist()
    assert [m & (2**64 - 1) for m in mixed] == [splitmix64(v & (2**64 - 1)) for v in values]


def test_streams_are_named_and_independent() -> None:
    draws = {
        names: torch.rand(2000, generator=stream(3, *names), dtype=torch.float64)
        for names in [("world",), ("policy",), ("world", 1), ("world", 2)]
    }
    table = torch.corrcoef(torch.stack(list(draws.values())))
    assert float((table - torch.eye(4)).abs().max()) < 4.5 / 2000**0.5


def test_derive_distinguishes_word_boundaries_and_numbers_from_words() -> None:
    seeds = {derive(0, "ab", "c"), derive(0, "a", "bc"), derive(0, "1"), derive(0, 1), derive(1, 1)}
    assert len(seeds) == 5


def test_spawn_leaves_the_generator_where_it_was() -> None:
    with_child, alone = stream(5, "x"), stream(5, "x")
    torch.rand(3, generator=spawn(with_child, "child"))
    assert torch.equal(torch.rand(4, generator=with_child), torch.rand(4, generator=alone))
