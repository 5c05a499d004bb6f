# SPDX-License-Identifier: BSD-2-Clause
"""Trains a toy of two layers by attention on 1, 2, 3 and 4 ranks: the losses are equal to the last bit.

    python3 python/examples/train.py            # needs torch

The toy learns to repeat: the second half of each text is its first half again, so that a layer must look far back. Everything but
attention is torch's; attention, forward and backward, is on ranks that are threads.
"""
import torch

import rondo.torch

TOKENS, WIDTH, HEADS, WORDS = 384, 32, 4, 16


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.into, self.back = torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x, ranks):
        q, k, v = self.into(self.norm(x)).unflatten(-1, (3, HEADS, WIDTH // HEADS)).unbind(2)   # used where they lie, inside of one tensor
        return x + self.back(rondo.torch.attention(q, k, v, causal=True, ranks=ranks).flatten(2))


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = torch.nn.Embedding(WORDS, WIDTH), torch.nn.Embedding(TOKENS, WIDTH)
        self.layers, self.head = torch.nn.ModuleList([Layer(), Layer()]), torch.nn.Linear(WIDTH, WORDS)

    def forward(self, ids, ranks):
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = layer(x, ranks)
        return self.head(x)


def train(ranks, steps=5):
    torch.manual_seed(0)
    toy, losses = Toy(), []
    descent = torch.optim.SGD(toy.parameters(), lr=0.5)
    for _ in range(steps):
        half = torch.randint(WORDS, (1, TOKENS // 2))
        text = torch.cat([half, half], 1)
        loss = torch.nn.functional.cross_entropy(toy(text[:, :-1], ranks).flatten(0, 1), text[:, 1:].flatten())
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    losses = {ranks: train(ranks) for ranks in (1, 2, 3, 4)}
    for ranks, values in losses.items():
        print(ranks, "ranks:", *[x.hex() for x in values])
    assert all(values == losses[1] for values in losses.values())
    print("equal, to the last bit")
