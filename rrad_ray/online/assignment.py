"""Who sees what in an online test: sticky variants by a hash, and team-draft interleaving. The endpoint calls it."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence

from rrad_ray.config import ExperimentConfig


def assign_variant(unit: str, cfg: ExperimentConfig) -> str:
    """The variant of a unit (a user or session id): the same at every request, in every process, on every machine.

    Weighted rendezvous hashing (Thaler and Ravishankar, 1998; weights after Schindelhauer and Schomaker, 2005): each
    variant draws an exponential waiting time of rate `weight` from BLAKE2b (64 bits) of the experiment's name, its
    own name and the unit; the shortest wins. So a variant's share is its weight's share, a unit's variant in one
    experiment says nothing of its variant in one of another name, and a weight that grows, or a new variant, moves
    units to that variant only: no unit changes between two others.
    """
    return min(cfg.variants, key=lambda variant: _wait(cfg.name, variant, unit, cfg.variants[variant]))


def _wait(name: str, variant: str, unit: str, weight: float) -> float:
    if not weight:
        return math.inf
    text = json.dumps([name, variant, unit]).encode()  # where one part ends and the next begins stays visible
    digest = hashlib.blake2b(text, digest_size=8).digest()
    # 52 bits: the middle of each step is a float of its own, so that neither 0 nor 1 comes up.
    return -math.log(((int.from_bytes(digest) >> 12) + 0.5) / 2**52) / weight


def interleave(
    run_a: Sequence[str], run_b: Sequence[str], seed: int | str, depth: int = 0
) -> tuple[list[str], list[int]]:
    """Two rankings as one by team draft (Radlinski, Kurup and Joachims, CIKM 2008, algorithm 2).

    In every round each ranking adds the best of its documents that is not there yet; a coin says which goes first. A
    click on a document counts for the ranking that added it. Once one ranking has no more to add, the other goes on.
    `depth`: stop after so many documents; 0: all of both. `seed`: the request's id, for one; the same seed, the same
    list. Returns the documents and, for each of them, whose it is: 0 for `run_a`, 1 for `run_b`.
    """
    coin, runs = random.Random(seed), (run_a, run_b)
    docs: dict[str, int] = {}
    total = len({*run_a, *run_b})
    total = min(depth, total) if depth else total
    places, sizes = [0, 0], [0, 0]
    while len(docs) < total:
        first = coin.getrandbits(1) if sizes[0] == sizes[1] else int(sizes[1] < sizes[0])
        for team in (first, 1 - first):
            while places[team] < len(runs[team]) and runs[team][places[team]] in docs:
                places[team] += 1
            if places[team] < len(runs[team]):
                docs[runs[team][places[team]]] = team
                sizes[team] += 1
                break
    return list(docs), list(docs.values())
