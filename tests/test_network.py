"""The network that scorers and exposures share."""

from __future__ import annotations

import torch

from recfb.network import Network, network
from recfb.random import stream


def test_two_layers_by_hand() -> None:
    net = Network([2, 2, 1])
    with torch.no_grad():
        net.weights[0].copy_(torch.tensor([[1.0, 1.0], [-1.0, 0.0]]))
        net.biases[0].copy_(torch.tensor([0.5, 0.0]))
        net.weights[1].copy_(torch.tensor([[2.0, 10.0]]))
        net.biases[1].copy_(torch.tensor([-1.0]))
    x = torch.tensor([[[1.0, 2.0]], [[-3.0, 1.0]]])  # ReLU: (3.5, 0) and (0, 3)
    assert net(x).tolist() == [[[6.0]], [[29.0]]]


def test_first_values_come_from_the_generator_and_the_last_map_is_scaled() -> None:
    nets = [Network([4, 3, 2]) for _ in range(3)]
    nets[0].reset(stream(0))
    nets[1].reset(stream(0), last=0.5)
    nets[2].reset(stream(1))
    assert torch.equal(nets[0].weights[0], nets[1].weights[0])
    assert torch.equal(nets[0].weights[1], 2 * nets[1].weights[1])
    assert not torch.equal(nets[0].weights[0], nets[2].weights[0])
    most = (6 / 7) ** 0.5  # Xavier: 4 numbers in, 3 out
    assert 0.5 * most < float(nets[0].weights[0].abs().max().detach()) <= most
    nets[0].biases[0].data.fill_(1.0)
    nets[0].reset(stream(0))
    assert nets[0].biases[0].tolist() == [0.0] * 3


def test_a_network_of_the_same_sizes_is_kept_and_another_takes_its_type() -> None:
    old = network(None, [2, 3]).double()
    assert network(old, (2, 3)) is old
    new = network(old, [2, 4])
    assert new.sizes == (2, 4) and new.weights[0].dtype == torch.float64
