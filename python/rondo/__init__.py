# SPDX-License-Identifier: BSD-2-Clause
"""rondo: exact attention over long contexts on many ranks, with bits that do not depend on the layout.

    import numpy as np, rondo
    q, k, v = (np.random.rand(1, 4096, heads, 64).astype("f") for heads in (8, 2, 2))
    out, lse = rondo.attention(q, k, v, causal=True, ranks=4, return_lse=True)
    assert rondo.hash(out, lse) == rondo.hash(*rondo.attention(q, k, v, causal=True, return_lse=True))

attention() and attention_varlen() take whole arrays and share them among ranks that are threads of this process. Plan and Context are for
ranks that each have their own rows: inside of run(), or one process each under mpirun, with Context("mpi"). Schedule says what ranks
would do that need not be there. The layers around attention and their gradients are functions of rows, on one rank or on a Team's. rondo.torch
has the same on tensors, for autograd, and rondo.lm runs language models. What the library refuses raises Error, which has its sentence.
"""
from ._attention import attention, attention_backward, attention_varlen, attention_varlen_backward, hash
from ._delta import KdaSchedule, kda, kda_backward
from ._layers import (Linear, Team, Tokens, cross_entropy, cross_entropy_backward, embedding, embedding_dw, linear, linear_dw, rmsnorm, rmsnorm_backward,
                      rope, rope_backward, swiglu, swiglu_backward, token_loss, token_sum)
from ._library import DeadlineError, Error, InvalidError, NoMemoryError, lib as _lib, path as library
from ._plan import Plan, RankCost, Schedule, Span
from ._ranks import Context, run, stopping

__version__ = _lib.rondo_version().decode()
numerics = _lib.rondo_numerics_version()

__all__ = ["attention", "attention_backward", "attention_varlen", "attention_varlen_backward", "hash", "kda", "kda_backward", "run", "stopping", "Context",
           "Linear", "Team", "Tokens", "cross_entropy", "cross_entropy_backward", "embedding", "embedding_dw", "linear", "linear_dw", "rmsnorm",
           "rmsnorm_backward", "rope", "rope_backward", "swiglu", "swiglu_backward", "token_loss", "token_sum", "Plan", "Schedule", "KdaSchedule", "Span", "RankCost", "Error", "InvalidError", "NoMemoryError", "DeadlineError", "library", "numerics"]
