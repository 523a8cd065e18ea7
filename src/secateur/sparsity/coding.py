"""Entropy coding of one sparse weight: gaps between what is left, and which shared value each has.

The Huffman code is DEFLATE's (RFC 1951), as zlib writes it: a well-kept codec, with a code of its own for every few
tens of thousands of symbols. Repetitions are coded too where that is shorter, which for weights it seldom is.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.core.errors import WeightsError

__all__ = ["GAP", "Coded", "decode", "deflate", "encode", "inflate"]

GAP = 255
"""Gap symbols below stand for so many zeros and then a weight; this one for as many zeros and no weight."""

Codes = NDArray[np.uint8]

_PIECE = 2**20  # symbols that are looked at together; each takes some 20 bytes meanwhile


@dataclass(frozen=True)
class Coded:
    """A coded weight.

    Attributes:
        gaps: Coded gap symbols; empty where zeros are symbols among the codes.
        codes: Coded positions in the codebook (from 1 where zeros are symbols, zero being 0).
        symbols: Number of gap symbols and of codes.
    """

    gaps: bytes
    codes: bytes
    symbols: tuple[int, int]


def deflate(data: bytes) -> bytes:
    """Huffman-codes bytes, without or with the repetitions in them, whichever is shorter."""
    found = []
    for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY):
        coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
        found.append(coder.compress(data) + coder.flush())
    return min(found, key=len)


def inflate(data: bytes, size: int, what: str) -> bytes:
    """Decodes exactly ``size`` bytes, never more.

    Raises:
        WeightsError: Damaged, or of another size.
    """
    decoder = zlib.decompressobj(-15)
    try:
        found = decoder.decompress(data, size + 1)
    except zlib.error as error:
        raise WeightsError(f"{what} is damaged: {error}.") from error
    if len(found) != size or not decoder.eof or decoder.unused_data:
        raise WeightsError(f"{what} is damaged: it does not hold the {size:,} symbols that it should.")
    return found


def encode(codes: NDArray[np.int64], stays: NDArray[np.bool_]) -> Coded:
    """Codes one weight in the shorter of two forms.

    Args:
        codes: (kept,), positions in the codebook, 0 to 254 (to 255 where ``stays`` is all true).
        stays: (n,), where the weights are that are not zero.
    """
    sparse = _with_gaps(codes, stays)
    if stays.all() or codes.max(initial=0) > 254:
        return sparse
    every = np.zeros(len(stays), np.uint8)
    every[stays] = codes + 1
    dense = Coded(b"", deflate(every.tobytes()), (0, len(every)))
    return min(sparse, dense, key=lambda coded: len(coded.gaps) + len(coded.codes))


def _with_gaps(codes: NDArray[np.int64], stays: NDArray[np.bool_]) -> Coded:
    """Zeros before each weight, as in arXiv:1510.00149 §2; longer gaps than a symbol holds get fillers first."""
    gaps = np.diff(np.flatnonzero(stays), prepend=-1) - 1
    fillers = gaps // GAP
    symbols = np.full(int(fillers.sum()) + len(gaps), GAP, np.uint8)
    symbols[np.cumsum(fillers + 1) - 1] = gaps % GAP
    values = codes.astype(np.uint8)
    return Coded(deflate(symbols.tobytes()), deflate(values.tobytes()), (len(symbols), len(values)))


def decode(coded: Coded, count: int, values: int, what: str) -> tuple[Codes, NDArray[np.bool_]]:
    """Takes back what :func:`encode` was given; codes stay bytes, as a file may hold as many as the memory takes.

    Args:
        coded: The two streams.
        count: Entries of the weight.
        values: Size of the codebook.
        what: Name for error messages.

    Raises:
        WeightsError: Streams that do not hold what they say, positions outside the weight or the codebook.
    """
    gap_count, code_count = coded.symbols
    if not (0 <= code_count <= count and 0 <= gap_count <= code_count + count // GAP + 1):
        raise WeightsError(f"{what} is damaged: {code_count:,} codes and {gap_count:,} gaps for {count:,} weights.")
    codes = np.frombuffer(inflate(coded.codes, code_count, what), np.uint8)
    if not coded.gaps:
        if code_count != count:
            raise WeightsError(f"{what} is damaged: {code_count:,} codes for {count:,} weights.")
        stays = codes > 0
        codes = codes[stays] - 1
    else:
        stays = _places(np.frombuffer(inflate(coded.gaps, gap_count, what), np.uint8), count, code_count, what)
    if codes.max(initial=0) >= max(values, 1) or (len(codes) and not values):
        raise WeightsError(f"{what} is damaged: a code above its {values} values.")
    return codes, stays


def _places(symbols: Codes, count: int, wanted: int, what: str) -> NDArray[np.bool_]:
    stays, found, end = np.zeros(count, dtype=bool), 0, 0
    for start in range(0, len(symbols), _PIECE):
        piece = symbols[start : start + _PIECE]
        filler = piece == GAP
        ends = end + np.cumsum(piece.astype(np.int64) + ~filler)  # a filler is zeros alone
        places = ends[~filler] - 1
        found, end = found + len(places), int(ends[-1])
        if len(places) and places[-1] >= count:
            found = -1
            break
        stays[places] = True
    if found != wanted:
        raise WeightsError(f"{what} is damaged: its gaps do not lead to {wanted:,} places within {count:,}.")
    return stays
