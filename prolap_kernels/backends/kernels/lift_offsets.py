"""What the sigmoid tiles know of each row and column before they meet: offsets in base 2 and ids, padded to whole tiles."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
FAR = tl.constexpr(1e30)
"""Offset of an ignored column, and the bound of all others: finite, since a vanished slope times it must be 0."""
NEAR = tl.constexpr(1e28)
"""Bound of a row's offset in units of c: no row outweighs an ignored column."""
LEAST = tl.constexpr(1e-24)
"""Smallest |c|, so that c * FAR still means infinity; scores below 1e24 never notice."""


@triton.jit
def base2(scale):
    """c = log2(e) scale, kept from 0."""
    c = tl.load(scale) * LOG2E
    return tl.where(tl.abs(c) < LEAST, LEAST, c)


@triton.jit
def put_ids(ids, out, at, size, stride, ABSENT: tl.constexpr):
    """Each id as its lower 31 bits, which are never ABSENT, and the rest, in two planes; ABSENT and 0 where it is negative or
    past the end. Returns whether it counts."""
    value = tl.load(ids + at, mask=at < size, other=-1)
    counts = value >= 0
    low = tl.where(counts, value & 0x7FFFFFFF, ABSENT).to(tl.int32)
    tl.store(out + at, low)
    tl.store(out + stride + at, tl.where(counts, value >> 31, 0).to(tl.int32))
    return counts


@triton.jit(do_not_specialize=["rows", "cols", "stride_a", "stride_b"])
def sigmoid_offsets(
    alpha, beta, scale, bias, x_id, y_id, a, b, xi, yj, rows, cols, stride_a, stride_b,
    OFFSETS: tl.constexpr, IDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """a [stride_a]: c alpha + log2(e) bias within +-c NEAR, -inf in rows that are ignored or past the end.

    b [stride_b]: beta within +-FAR, and as far as makes the logit -inf in columns that are ignored or past the end.
    xi [2, stride_a], yj [2, stride_b] int32, with IDS: the halves of the ids; those of ignored rows never equal a column's.
    The strides are multiples of BLOCK.
    """
    pid = tl.program_id(0)
    blocks = stride_a // BLOCK
    c = base2(scale)
    if pid < blocks:
        at = pid * BLOCK + tl.arange(0, BLOCK)
        inside = at < rows
        value = tl.zeros((BLOCK,), tl.float32)
        if OFFSETS:
            value = tl.load(alpha + at, mask=inside, other=0.0) * c
        value += tl.load(bias) * LOG2E
        if IDS:
            inside = put_ids(x_id, xi, at, rows, stride_a, -1)
        most = NEAR * tl.abs(c)
        value = tl.where(value > most, most, tl.where(value < -most, -most, value))
        tl.store(a + at, tl.where(inside, value, float("-inf")))
    else:
        at = (pid - blocks) * BLOCK + tl.arange(0, BLOCK)
        inside = at < cols
        value = tl.zeros((BLOCK,), tl.float32)
        if OFFSETS:
            value = tl.load(beta + at, mask=inside, other=0.0)
        if IDS:
            inside = put_ids(y_id, yj, at, cols, stride_b, -2)
        value = tl.where(value > FAR, FAR, tl.where(value < -FAR, -FAR, value))
        tl.store(b + at, tl.where(inside, value, tl.where(c < 0.0, FAR, -FAR)))
