# SPDX-License-Identifier: BSD-2-Clause
"""The test kit of the Python package: TAP on stdout, attention in double precision as rondo-attend(1) states it, and numbers to try it
on."""
import json
import sys

import numpy as np

import rondo

_count, _failed = 0, 0


def ok(condition, what):
    global _count, _failed
    _count += 1
    _failed += not condition
    print("%sok %d - %s" % ("" if condition else "not ", _count, what))
    sys.stdout.flush()
    return condition


def skip(what, why):
    global _count
    _count += 1
    print("ok %d # SKIP %s: %s" % (_count, what, why))


def refused(what, names, call, kind=rondo.InvalidError):
    """The call raises an error of a kind whose sentence has all these words."""
    try:
        call()
    except kind as failure:
        text = str(failure)
        good = all(name in text for name in names) and "\n" not in text and (not isinstance(failure, rondo.Error) or failure.code < 0)
        if not ok(good, "%s: refused" % what):
            print("# " + text)
    except BaseException as failure:
        ok(False, "%s: refused" % what)
        print("# %r" % failure)
    else:
        ok(False, "%s: refused" % what)


def done():
    print("1..%d" % _count)
    sys.exit(_failed > 0)


def same(a, b):
    """Bit for bit."""
    if not isinstance(a, tuple):
        a, b = (a,), (b,)
    return len(a) == len(b) and all(x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in zip(a, b))


def numbers(seed, *shape):
    return np.random.default_rng(seed).uniform(-2, 2, shape).astype(np.float32)


def inputs(batch, tokens, keys, heads, kv_heads, dim, value_dim, seed=1):
    return numbers(seed, batch, tokens, heads, dim), numbers(seed + 1, batch, keys, kv_heads, dim), numbers(seed + 2, batch, keys, kv_heads, value_dim)


def safetensors(path, **arrays):
    """A file for the program."""
    header, data = {}, b""
    for name, array in arrays.items():
        header[name] = {"dtype": {"float32": "F32", "float16": "F16"}[array.dtype.name], "shape": list(array.shape),
                        "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)


def reference(q, k, v, *, causal=False, window_size=(-1, -1), softmax_scale=None, softcap=0.0, alibi_slopes=None, sinks=None, bias=None,
              mask=None, documents=None, lengths_k=None):
    """out, lse and probabilities of [B,T,H,D] arrays in double precision."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    (batch, tokens, heads, dim), (_, keys, kv_heads, value_dim) = q.shape, v.shape
    out, lse = np.zeros((batch, tokens, heads, value_dim)), np.full((batch, heads, tokens), -np.inf)
    probs = np.zeros((batch, heads, tokens, keys))
    j = np.arange(keys)
    for b in range(batch):
        length = keys if lengths_k is None else int(lengths_k[b])
        own = None if documents is None else (documents if documents.ndim == 1 else documents[b])
        for i in range(tokens):
            at = i + length - tokens
            seen = j < length
            if causal:
                seen = seen & (j <= at)
            if window_size[0] >= 0:
                seen = seen & (j >= at - window_size[0])
            if window_size[1] >= 0:
                seen = seen & (j <= at + window_size[1])
            if own is not None:
                seen = seen & (own == own[at]) if at >= 0 else np.zeros(keys, bool)
            for h in range(heads):
                visible = seen if mask is None else seen & (mask[b % mask.shape[0], h % mask.shape[1], i] != 0)
                g = h // (heads // kv_heads)
                s = k[b, :, g] @ q[b, i, h] * (dim ** -0.5 if softmax_scale is None else softmax_scale)
                if softcap:
                    s = softcap * np.tanh(s / softcap)
                if alibi_slopes is not None:
                    s = s - float(alibi_slopes[h]) * abs(j - at)
                if bias is not None:
                    s = s + bias[b % bias.shape[0], h % bias.shape[1], i]
                s = np.where(visible, s, -np.inf)
                terms = s if sinks is None else np.append(s, sinks[h])
                if visible.any():   # a row that sees no key has -inf, with a sink too
                    most = terms.max()
                    lse[b, h, i] = most + np.log(np.exp(terms - most).sum())
                    probs[b, h, i] = np.exp(s - lse[b, h, i])
                    out[b, i, h] = probs[b, h, i] @ v[b, :, g]
    return out, lse, probs


def far(got, want):
    """The largest difference; infinite where only one is."""
    got = np.asarray(got, np.float64)
    if got.shape != want.shape:
        return np.inf
    with np.errstate(invalid="ignore"):
        d = np.where(got == want, 0, np.abs(got - want))
    return float(np.nan_to_num(d, nan=np.inf).max(initial=0))


def reference_gradients(dout, q, k, v, *, dlse=None, softmax_scale=None, softcap=0.0, sinks=None, bias=None, **more):
    """dq, dk, dv, dbias and dsinks of [B,T,H,D] arrays in double precision, by what reference() says of the probabilities."""
    out, lse, p = reference(q, k, v, softmax_scale=softmax_scale, softcap=softcap, sinks=sinks, bias=bias, **more)
    dout, q, k, v = (np.asarray(x, np.float64) for x in (dout, q, k, v))
    scale, group = q.shape[3] ** -0.5 if softmax_scale is None else softmax_scale, q.shape[2] // k.shape[2]
    wide_k, wide_v = k.repeat(group, 2), v.repeat(group, 2)
    delta = (dout * out).sum(-1).transpose(0, 2, 1) - (0 if dlse is None else np.asarray(dlse, np.float64))   # [B,H,T]
    ds = p * (np.einsum("bihd,bjhd->bhij", dout, wide_v) - delta[..., None])
    dbias = ds if bias is None else ds.sum(tuple(a for a in (0, 1) if bias.shape[a] == 1), keepdims=True)
    if softcap:
        s = np.einsum("bihd,bjhd->bhij", q, wide_k) * scale
        ds = ds * (1 - np.tanh(s / softcap) ** 2)
    narrow = lambda x: x.reshape(x.shape[:2] + (k.shape[2], group, x.shape[3])).sum(3)
    dq = np.einsum("bhij,bjhd->bihd", ds, wide_k) * scale
    dk, dv = narrow(np.einsum("bhij,bihd->bjhd", ds, q) * scale), narrow(np.einsum("bhij,bihd->bjhd", p, dout))
    dsinks = None if sinks is None else -(np.where(lse > -np.inf, np.exp(sinks[None, :, None] - np.where(lse > -np.inf, lse, 0)), 0) * delta).sum((0, 2))
    return dq, dk, dv, dbias, dsinks
