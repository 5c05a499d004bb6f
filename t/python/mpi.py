# SPDX-License-Identifier: BSD-2-Clause
"""One rank of several MPI processes, each with its own rows: the last one has the whole arrays and prints the hash of what is gathered.
With "fail" as an argument rank 1 fails, and all end; else the argument is the algorithm."""
import sys

import numpy as np

import rondo
from kit import numbers

shape = dict(tokens=[200, 77], heads=4, kv_heads=2, head_dim=16, causal=True, gradients=True)
with rondo.Context("mpi", threads=1, deadline=60) as context:
    root = context.ranks - 1
    word = sys.argv[1] if len(sys.argv) > 1 else None
    plan = rondo.Plan(context, algorithm=None if word == "fail" else word, **shape)
    q, k, v = (numbers(n, 277, heads, 16) if context.rank == root else None for n, heads in ((1, 4), (2, 2), (3, 2)))
    mine = plan.scatter(q, 4, 16, root=root), plan.scatter(k, 2, 16, keys=True, root=root), plan.scatter(v, 2, 16, keys=True, root=root)
    if word == "fail" and context.rank == 1:
        raise ZeroDivisionError("on purpose")
    out, lse = plan(*mine, return_lse=True)
    back = plan.backward(out, *mine, out, lse)   # of half the sum of squares
    back = [plan.gather(x, keys=i > 0, root=root) for i, x in enumerate(back)]
    out, lse = plan.gather(out, root=root), plan.gather(np.ascontiguousarray(lse[:, :, None]), root=root)
    context.barrier()
    if context.rank == root:
        print(context.ranks, context.transport, rondo.hash(out, np.ascontiguousarray(lse[:, :, 0].T), *back))
