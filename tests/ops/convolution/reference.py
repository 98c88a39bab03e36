"""Convolutions and their gradients in float64, one kernel position at a time."""

import itertools

import numpy as np


def conv(x, w, stride, padding, dilation):
    """x (N, D, H, W, I), w (O, kD, kH, kW, I) -> (N, D', H', W', O)."""
    padded = np.pad(x, [(0, 0), *((p, p) for p in padding), (0, 0)])
    size = output_size(x, w, stride, padding, dilation)
    y = np.zeros((x.shape[0], *size, w.shape[0]))
    for k in positions(w):
        y += padded[window(k, size, stride, dilation)] @ w[(slice(None), *k)].T
    return y


def conv_gradients(x, w, dy, stride, padding, dilation):
    """Gradients with respect to x and w of sum(conv(x, w) * dy)."""
    padded = np.pad(x, [(0, 0), *((p, p) for p in padding), (0, 0)])
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for k in positions(w):
        at = window(k, dy.shape[1:4], stride, dilation)
        dw[(slice(None), *k)] = np.einsum("ndhwo,ndhwi->oi", dy, padded[at])
        dpadded[at] += dy @ w[(slice(None), *k)]
    inside = tuple(slice(p, p + s) for p, s in zip(padding, x.shape[1:4], strict=True))
    return dpadded[(slice(None), *inside)], dw


def conv_transpose(x, w, stride, padding, output_padding):
    """x (N, D, H, W, I), w (O, kD, kH, kW, I): the adjoint in x of a convolution."""
    y = np.zeros((x.shape[0], *transposed_size(x, w, stride, padding, output_padding), w.shape[0]))
    return conv_gradients(y, np.swapaxes(w, 0, 4), x, stride, padding, (1, 1, 1))[0]


def conv_transpose_gradients(x, w, dy, stride, padding):
    swapped = np.swapaxes(w, 0, 4)
    dx = conv(dy, swapped, stride, padding, (1, 1, 1))
    return dx, np.swapaxes(conv_gradients(dy, swapped, x, stride, padding, (1, 1, 1))[1], 0, 4)


def output_size(x, w, stride, padding, dilation):
    return sizes(x.shape, w.shape, stride, padding, dilation)


def sizes(x, w, stride, padding, dilation):
    parts = zip(x[1:4], w[1:4], stride, padding, dilation, strict=True)
    return tuple((s + 2 * p - d * (k - 1) - 1) // t + 1 for s, k, t, p, d in parts)


def transposed_size(x, w, stride, padding, output_padding):
    parts = zip(x.shape[1:4], w.shape[1:4], stride, padding, output_padding, strict=True)
    return tuple((s - 1) * t - 2 * p + k + extra for s, k, t, p, extra in parts)


def positions(w):
    return itertools.product(*map(range, w.shape[1:4]))


def window(k, size, stride, dilation):
    parts = zip(k, size, stride, dilation, strict=True)
    return (slice(None), *(slice(i * d, i * d + (n - 1) * t + 1, t) for i, n, t, d in parts))
