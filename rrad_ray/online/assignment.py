"""Assignment in an online test: a unit's variant by a hash, and team-draft interleaving. The endpoint calls it."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence

from rrad_ray.config import ExperimentDesign


def assign_variant(unit: str, cfg: ExperimentDesign, salt: bytes = b"") -> str:
    """Return the variant of a unit (a user or session id): the same for every request, process and machine.

    Weighted rendezvous hashing (Thaler and Ravishankar, 1998; weights after Schindelhauer and Schomaker, 2005): each
    variant draws an exponential waiting time of rate `weight` from BLAKE2b (64 bits) of the experiment's name, its
    own name and the unit; the shortest wins. So a variant's share is its weight's share, a unit's variants in two
    experiments of different names are independent, and a weight that grows, or a new variant, moves units to that
    variant only: no unit changes between two others. `salt`: a secret of at most 64 bytes, without which nobody can
    find the units of a variant beforehand.
    """
    return min(cfg.variants, key=lambda variant: _wait(cfg.name, variant, unit, cfg.variants[variant], salt))


def _wait(name: str, variant: str, unit: str, weight: float, salt: bytes) -> float:
    """Return a variant's exponential waiting time of rate `weight` for a unit; infinite for weight 0."""
    if not weight:
        return math.inf
    text = json.dumps([name, variant, unit]).encode()  # JSON keeps the parts apart
    digest = hashlib.blake2b(text, digest_size=8, key=salt).digest()
    # 52 bits: the middle of each step is exact as a float, so that neither 0 nor 1 comes up.
    return -math.log(((int.from_bytes(digest) >> 12) + 0.5) / 2**52) / weight


def interleave(
    run_a: Sequence[str], run_b: Sequence[str], seed: int | str, depth: int = 0
) -> tuple[list[str], list[int]]:
    """Merge two rankings by team-draft interleaving (Radlinski, Kurup and Joachims, CIKM 2008, algorithm 2).

    In every round each ranking adds its best document that is not in the list yet; a coin decides which goes first. A
    click on a document counts for the ranking that added it. Once one ranking has no more to add, the other goes on.
    `depth`: the length of the list; 0: all documents of both. `seed`: such as the request's id; the same seed gives
    the same list. Returns the documents and the team of each: 0 for `run_a`, 1 for `run_b`.
    """
    coin, runs = random.Random(seed), (run_a, run_b)
    docs: dict[str, int] = {}
    total = len({*run_a, *run_b})
    total = min(depth, total) if depth else total
    heads, sizes = [0, 0], [0, 0]  # by team: the index of its next document, and how many it has added
    while len(docs) < total:
        first = coin.getrandbits(1) if sizes[0] == sizes[1] else int(sizes[1] < sizes[0])
        for team in (first, 1 - first):
            while heads[team] < len(runs[team]) and runs[team][heads[team]] in docs:
                heads[team] += 1
            if heads[team] < len(runs[team]):
                docs[runs[team][heads[team]]] = team
                sizes[team] += 1
                break
    return list(docs), list(docs.values())
