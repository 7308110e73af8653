"""Pillow's antialiased resize of a part of an RGB image, with identical results in a quarter of the time.

Compiled by numba and run without the interpreter lock. The algorithm is that of Pillow 13: a triangle or
cubic filter, widened when shrinking, with weights of 22 bits; along rows, rounded to 8 bits, then along
columns. Columns come first where the height shrinks by more than twice as many pixels as the width. Earlier
versions of Pillow always begin with the rows, which changes a few pixels by one level.
"""

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_BITS = 22  # of a weight; with 8 of the pixel and 2 for overshoot these are 32
_SPARE = 16  # bytes behind the last pixel that may be overwritten


def _compiled(function):
    """Compile a function at its first call, and cache the result for later processes if possible."""
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache is writable
        return njit(nogil=True, error_model="numpy")(function)


@intrinsic
def _weigh_pixels(typing_context, source, starts, weights, group, taps, target, place):
    """Compute four adjacent RGB pixels of a resized row, each a weighted sum of pixels of `source`.

    Vectorised by hand, as compilers do not vectorise pixels of three bytes: each load takes four bytes, of
    which the fourth belongs to the next pixel, and each store writes sixteen, of which the last four are
    overwritten later.

    Args:
        source: uint8 (bytes,).
        starts: int64 (4 * groups,), where in `source` the first pixel of each sum begins.
        weights: int32 (groups * taps * 16,), for each group of four, tap, pixel and byte.
        group: number of the group.
        taps: number of pixels in a sum.
        target, place: uint8 (bytes,), and where in it the results go.
    """

    def generate(context, builder, signature, arguments):
        source, starts, weights, group, taps, target, place = arguments
        four_bytes, sixteen_bytes = (ir.VectorType(ir.IntType(8), n) for n in (4, 16))
        sixteen = ir.VectorType(ir.IntType(32), 16)

        def pointer(argument, array, index, pointed_type):
            made = context.make_array(signature.args[argument])(context, builder, array)
            return builder.bitcast(builder.gep(made.data, [index]), pointed_type.as_pointer())

        def lanes(*numbers):
            return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)

        def joined(a, b):
            return builder.shuffle_vector(a, b, lanes(*range(2 * a.type.count)))

        begins = []
        for i in range(4):
            index = builder.add(builder.mul(group, group.type(4)), group.type(i))
            begins.append(builder.load(pointer(1, starts, index, ir.IntType(64))))
        sums = cgutils.alloca_once_value(builder, lanes(*[1 << (_BITS - 1)] * 16))
        with cgutils.for_range(builder, taps) as loop:
            byte = builder.mul(loop.index, taps.type(3))
            a, b, c, d = (
                builder.load(pointer(0, source, builder.add(begin, byte), four_bytes), align=1)
                for begin in begins
            )
            colours = builder.zext(joined(joined(a, b), joined(c, d)), sixteen)
            row = builder.add(builder.mul(group, taps), loop.index)
            shares = builder.load(
                pointer(2, weights, builder.mul(row, row.type(16)), sixteen), align=4
            )
            builder.store(builder.add(builder.load(sums), builder.mul(colours, shares)), sums)
        total = builder.ashr(builder.load(sums), lanes(*[_BITS] * 16))
        for sign, bound in ((">", 0), ("<", 255)):
            bounds = lanes(*[bound] * 16)
            total = builder.select(builder.icmp_signed(sign, total, bounds), total, bounds)
        rounded = builder.trunc(total, sixteen_bytes)
        three_each = lanes(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15)
        packed = builder.shuffle_vector(rounded, rounded, three_each)
        builder.store(packed, pointer(5, target, place, sixteen_bytes), align=1)
        return context.get_dummy_value()

    bytes_, number = types.uint8[::1], types.intp
    arguments = (bytes_, types.int64[::1], types.int32[::1], number, number, bytes_, number)
    return types.void(*arguments), generate


@_compiled
def _filter(x, cubic):
    x = abs(x)
    if not cubic:
        return max(1.0 - x, 0.0)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return 0.0


@_compiled
def _weights(size_in, size_out, cubic):
    """First pixel (size_out,) and 22-bit weights (size_out, taps) of each output pixel; unused ones are 0."""
    scale = size_in / size_out
    support = (2.0 if cubic else 1.0) * max(scale, 1.0)
    narrow = 1.0 / max(scale, 1.0)
    taps = math.ceil(2.0 * support)
    first = np.empty(size_out, np.int64)
    weights = np.zeros((size_out, taps), np.int32)
    for i in range(size_out):
        centre = (i + 0.5) * scale
        low = max(int(centre - support + 0.5), 0)
        high = min(int(centre + support + 0.5), size_in)
        total = 0.0
        for x in range(low, high):
            total += _filter((x - centre + 0.5) * narrow, cubic)
        for x in range(low, min(high, low + taps)):
            weight = _filter((x - centre + 0.5) * narrow, cubic) / total * (1 << _BITS)
            weights[i, x - low] = int(weight - 0.5) if weight < 0 else int(weight + 0.5)
        first[i] = low
    return first, weights


@_compiled
def _groups_of_four(first, weights):
    """Starts and weights as `_weigh_pixels` takes them; the last group is filled up with sums of weight 0."""
    size, taps = weights.shape
    groups = (size + 3) // 4
    starts = np.zeros(4 * groups, np.int64)
    starts[:size] = 3 * first
    lanes = np.zeros((groups, taps, 4, 4), np.int32)
    for x in range(size):
        for k in range(taps):
            lanes[x // 4, k, x % 4, :] = weights[x, k]
    return starts, lanes.reshape(-1)


# Inlined, so that common numbers of taps become constants and the loop over them is unrolled.
@njit(inline="always")
def _resize_row(line, starts, weights, taps, out, place):
    for group in range(len(starts) // 4):
        _weigh_pixels(line, starts, weights, group, taps, out, place + 12 * group)


@_compiled
def _along_rows(pixels, begin, stride, height, old_width, width, cubic, flip, out):
    """(height, old_width, 3) -> (height, width, 3), flattened, with `_SPARE` unused bytes at the end.

    Args:
        pixels, begin, stride: uint8 (bytes,), start of its first row, and distance between rows.
        height, old_width: size of the part.
        width: width of the result.
        cubic, flip: see `resize_part`.
        out: array of the result.
    """
    first, weights = _weights(old_width, width, cubic)
    if flip:
        first, weights = first[::-1].copy(), weights[::-1].copy()
    taps = weights.shape[1]
    starts, weights = _groups_of_four(first, weights)
    line = np.zeros(3 * (old_width + taps) + 1, np.uint8)  # padding after the row has weight 0
    for y in range(height):
        part = pixels[begin + stride * y :][: 3 * old_width]
        for x in range(len(part)):  # faster than slice assignment
            line[x] = part[x]
        place = 3 * width * y
        if taps == 2:
            _resize_row(line, starts, weights, 2, out, place)
        elif taps == 3:
            _resize_row(line, starts, weights, 3, out, place)
        elif taps == 4:
            _resize_row(line, starts, weights, 4, out, place)
        else:
            _resize_row(line, starts, weights, taps, out, place)


@_compiled
def _along_columns(rows, height, cubic, out, floats):
    """(old height, length) -> (height, length), as uint8 or as float32 in [-1, 1]."""
    old_height, length = rows.shape
    first, weights = _weights(old_height, height, cubic)
    sums = np.empty(length, np.int32)
    for y in range(height):
        sums[:] = 1 << (_BITS - 1)
        for k in range(weights.shape[1]):
            row, weight = rows[min(first[y] + k, old_height - 1)], weights[y, k]
            for x in range(length):
                sums[x] += weight * np.int32(row[x])
        target = out[y]
        if floats:
            for x in range(length):
                target[x] = _scaled(min(max(sums[x] >> _BITS, 0), 255))
        else:
            for x in range(length):
                target[x] = min(max(sums[x] >> _BITS, 0), 255)


@njit(inline="always")
def _scaled(value):
    return np.float32(value) * np.float32(2 / 255) - np.float32(1)


@_compiled
def resize_part(pixels, top, left, height, width, flip, cubic, out, floats):
    """Write a part of an image, resized as by Pillow, into `out`.

    The caller must ensure that the part lies inside the image; it is not checked here.

    Args:
        pixels: uint8 (height, width, 3), contiguous.
        top, left, height, width: position and size of the part.
        flip: whether to mirror it from left to right.
        cubic: bicubic (a = -0.5) instead of bilinear interpolation.
        out: (new height, new width, 3), contiguous: uint8, or float32 with `floats`.
        floats: whether to write float32 in [-1, 1].
    """
    new_height, new_width, _ = out.shape
    shrinks = height - new_height
    if shrinks > 0 and shrinks > 2 * (width - new_width):
        part = np.ascontiguousarray(pixels[top : top + height, left : left + width])
        between = np.empty((new_height, 3 * width), np.uint8)
        _along_columns(part.reshape(height, 3 * width), new_height, cubic, between, False)
        rows = np.empty(out.size + _SPARE, np.uint8)
        flat = between.reshape(-1)
        _along_rows(flat, 0, 3 * width, new_height, width, new_width, cubic, flip, rows)
        target = out.reshape(-1)
        if floats:
            for x in range(len(target)):
                target[x] = _scaled(rows[x])
        else:
            for x in range(len(target)):
                target[x] = rows[x]
    else:
        rows = np.empty(3 * new_width * height + _SPARE, np.uint8)
        stride = 3 * pixels.shape[1]
        begin = stride * top + 3 * left
        _along_rows(pixels.reshape(-1), begin, stride, height, width, new_width, cubic, flip, rows)
        between = rows[:-_SPARE].reshape(height, 3 * new_width)
        _along_columns(between, new_height, cubic, out.reshape(new_height, -1), floats)
