"""The traffic of an online test: one page of results per entry, as arrays in files. P pages, U units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rrad_ray.config import ExperimentConfig

SPAN = 2**20  # pages that are looked at together

Inside = Callable[[slice], np.ndarray]  # a mask over the pages of a span: True for those that count

# The arrays over pages, with what one entry is.
COLUMNS = {
    "unit_P": np.int32,  # numbers of the units, ascending by their names
    "variant_P": np.int8,  # indexes `variants`; -1: interleaved
    "time_P": np.float64,  # seconds since 1970
    "clicked_P": np.bool_,  # True if any document was clicked
    "clicked_k_P": np.bool_,  # True if one of the first k was clicked
    "dwell_P": np.float64,  # seconds, summed over the clicks whose dwell is known
    "dwelt_P": np.int32,  # the number of these clicks
    "reformulated_P": np.bool_,  # True if the page was given up, see `traffic_join`
    "words_P": np.int32,  # words of the query
    "frequency_P": np.int32,  # pages of the same query, compared in lower case and without punctuation
    "won_P": np.int32,  # interleaved: clicked documents of the treatment's team less those of the control's
}


@dataclass(frozen=True)
class Traffic:
    """The pages that count, in the order of their units' names and then of time.

    `variants`: of the config. `units`: their number. The arrays are those of `COLUMNS`, mapped from files: a span of
    them is in memory while somebody looks at it.
    """

    variants: list[str]
    units: int
    pages: int
    arrays: Mapping[str, np.ndarray]

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in COLUMNS:
            raise AttributeError(name)
        return self.arrays[name]

    def spans(self) -> Iterator[slice]:
        """Yield spans of pages, of about `SPAN` each, none of which parts the pages of a unit."""
        start = 0
        while start < self.pages:
            stop = start + SPAN
            if stop < self.pages:
                stop = int(np.searchsorted(self.unit_P, self.unit_P[stop - 1], side="right"))
            yield slice(start, min(stop, self.pages))
            start = stop

    def of_variant(self, variant: str, more: Inside | None = None) -> Inside:
        """Return the mask of a variant's pages, of those alone that are inside another mask too."""
        number = self.variants.index(variant)
        if more is None:
            return lambda span: self.variant_P[span] == number
        return lambda span: (self.variant_P[span] == number) & more(span)

    def count(self, inside: Inside) -> int:
        """Return the number of pages inside a mask."""
        return sum(int(inside(span).sum()) for span in self.spans())

    def period(self) -> list[float]:
        """Return the times of the first and the last page; empty without a page."""
        times = [(self.time_P[span].min(), self.time_P[span].max()) for span in self.spans()]
        return [float(min(low for low, _ in times)), float(max(high for _, high in times))] if times else []

    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the different values of `frequency_P`, the highest first, and how many pages have each."""
        counts = np.zeros(1, np.int64)
        for span in self.spans():
            more = np.bincount(self.frequency_P[span])
            counts, more = (counts, more) if len(counts) >= len(more) else (more, counts)
            counts[: len(more)] += more
        values = np.flatnonzero(counts)[::-1]
        return values, counts[values]


def new_arrays(folder: Path, pages: int) -> dict[str, np.ndarray]:
    """Return the arrays of `COLUMNS`, all zeros, in files of a folder."""
    if not pages:  # nothing can be mapped
        return {name: np.zeros(0, kind) for name, kind in COLUMNS.items()}
    return {name: np.memmap(folder / name, kind, "w+", shape=(pages,)) for name, kind in COLUMNS.items()}


def variant_numbers(cfg: ExperimentConfig) -> dict[str, int]:
    """Return the number of each variant in `variant_P`."""
    return {variant: number for number, variant in enumerate(cfg.variants)}
