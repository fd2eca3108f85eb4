"""Exact search by vectors: products in float32 say which documents may be the nearest, exact ones which are.

Vectors stand on a grid (`on_grid`) on which a dot product in float64 has no rounding error, in any order of
summation. So a score does not depend on the block, part, thread or device that computed it.
"""

from __future__ import annotations

import numpy as np
import torch

TILE = 64  # columns of a tile; blocks of scores have whole tiles

GRID = 2.0**26  # products of two multiples of 1 / GRID that sum up to less than 2 fit into float64's 53 bits

MARGIN = 6  # documents beyond `depth` that are looked at exactly: the float32 order may differ there

LOW_BITS = 2**31 - 1  # a key is a score and below it `LOW_BITS - column`: of equal scores the first is the largest


def on_grid(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (N, E) with length 1 and components rounded to multiples of 2^-26, float32.

    A vector without a direction (zeros, NaN, infinite values) becomes zeros, which no query is near to.
    """
    exact = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    usable = np.isfinite(lengths) & (lengths > 0)
    unit = np.where(usable, exact, 0.0) / np.where(usable, lengths, 1.0)
    return (np.rint(unit * GRID) / GRID).astype(np.float32)


def padded(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (N, E) with rows of zeros behind them, up to whole tiles of one at least."""
    return np.pad(vectors, ((0, max(TILE - len(vectors), -len(vectors) % TILE)), (0, 0)))


def pair_scores(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the dot products of vectors on the grid, (..., E) each, in float32: exact, then rounded once."""
    return (first.double() * second.double()).sum(-1).float()


def best_of_rows(scores: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and columns of the best `depth` of each row of a block (B, whole tiles), best first.

    Of equal scores the first column comes first. Scores below 0 count as 0. A row's best `depth` lie in the `depth`
    tiles with the largest maxima: each of the others has as many tiles before it.
    """
    tiles = scores.view(len(scores), -1, TILE)
    numbers = torch.arange(tiles.shape[1], device=scores.device).expand(len(scores), -1)
    chosen = first_by_score(tiles.amax(2), numbers, depth)[1].unsqueeze(2)
    columns = chosen * TILE + torch.arange(TILE, device=scores.device)
    return first_by_score(tiles.gather(1, chosen.expand_as(columns)).flatten(1), columns.flatten(1), depth)


def first_by_score(scores: torch.Tensor, columns: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and columns (B, depth) of the largest scores, ties by column. Bits of floats that are not
    negative order as the floats do, so one key orders by both."""
    keys = scores.clamp(min=0).contiguous().view(torch.int32).long() << 32 | (LOW_BITS - columns)
    best = keys.topk(min(depth, keys.shape[1]), dim=1).values
    return (best >> 32).int().view(torch.float32), LOW_BITS - (best & 0xFFFFFFFF)


def product_error(queries: torch.Tensor) -> float:
    """Return the largest error of a float32 dot product of unit vectors (B, E): that of (E + 2) roundings (Higham,
    2002, section 3.1)."""
    return 1.01 * (queries.shape[1] + 2) * 2.0**-24


def nearest(queries: torch.Tensor, documents: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return exact scores and rows (B, at most `depth`) of the documents nearest to each query, best first; of equal
    ones the first.

    Vectors (B, E) and (`padded`, E) are on the grid, on one device. Scores below 0 count as 0.
    """
    if depth == 0:
        return queries.new_zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.long)
    block = queries @ documents.T
    roughly, columns = best_of_rows(block, depth + MARGIN)
    exact = pair_scores(queries.unsqueeze(1), documents[columns])
    scores, columns = first_by_score(exact, columns, depth)
    unsure = roughly[:, -1] + product_error(queries) >= scores[:, -1]
    if roughly.shape[1] < block.shape[1] and unsure.any():  # such as copies of a document, all as near
        whole = (queries[unsure].double() @ documents.double().T).float()
        scores[unsure], columns[unsure] = best_of_rows(whole, depth)
    return scores, columns
