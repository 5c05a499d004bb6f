# SPDX-License-Identifier: BSD-2-Clause
"""Trains a toy of two layers on 1, 2, 3 and 4 ranks: the losses are equal to the last bit.

    python3 python/examples/train.py            # needs torch

The toy learns to repeat: the second half of each text is its first half again, so that a layer must look far back. Each rank has tokens of
its own, from the ids to the loss, and all the weights; attention is over all tokens, and gradients of weights are sums over those of all
ranks. Ranks are threads here; under mpirun train(rondo.Context("mpi")) is the same.
"""
import torch

import rondo
from rondo.torch import cross_entropy, embedding, execute, linear, rmsnorm, rope

TOKENS, WIDTH, HEADS, WORDS = 384, 32, 4, 16


class Rank:
    """The tokens of a rank, as the plan deals them out; `sums` is what gradients of weights are made over."""
    def __init__(self, context):
        self.plan = rondo.Plan(context, tokens=TOKENS, heads=HEADS, head_dim=WIDTH // HEADS, causal=True, gradients=True, layout="zigzag")
        self.at = torch.from_numpy(self.plan.positions())
        self.sums = {"tokens": rondo.Tokens.of(self.plan), "team": rondo.Team(context)}
        angles = self.at[:, None] / torch.tensor([1.0, 8.0, 64.0, 512.0])
        self.turns = torch.cat([angles.cos(), angles.sin()], -1)


class Layer(torch.nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.norm, self.into, self.back = draw(WIDTH), draw(3 * WIDTH, WIDTH), draw(WIDTH, WIDTH)

    def forward(self, x, rank):
        q, k, v = linear(rmsnorm(x, self.norm, **rank.sums), self.into, **rank.sums).unflatten(1, (3, HEADS, -1)).unbind(1)
        heads = execute(rank.plan, rope(q, rank.turns), rope(k, rank.turns), v)
        return x + linear(heads.flatten(1), self.back, **rank.sums)


class Toy(torch.nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.words, self.layers, self.head = draw(WORDS, WIDTH), torch.nn.ModuleList([Layer(draw), Layer(draw)]), draw(WORDS, WIDTH)

    def forward(self, ids, rank):
        x = embedding(ids, self.words, **rank.sums)
        for layer in self.layers:
            x = layer(x, rank)
        return linear(x, self.head, **rank.sums)


def train(context, steps=5):
    chance = torch.Generator().manual_seed(0)   # the same on every rank
    draw = lambda *shape: torch.nn.Parameter(torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=chance) * WIDTH ** -0.5)
    rank, toy, losses = Rank(context), Toy(draw), []
    descent = torch.optim.SGD(toy.parameters(), lr=0.1)
    for _ in range(steps):
        half = torch.randint(WORDS, (TOKENS // 2,), generator=chance)
        text = torch.cat([half, half, half[:1]])
        loss = cross_entropy(toy(text[:-1][rank.at], rank), text[1:][rank.at], **rank.sums)
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    losses = {ranks: rondo.run(ranks, train) for ranks in (1, 2, 3, 4)}
    for ranks, values in losses.items():
        print(ranks, "ranks:", *[x.hex() for x in values[0]])
    assert all(mine == losses[1][0] for values in losses.values() for mine in values)
    print("equal, to the last bit")
