"""Near duplicates: how near a clip is to the nearest that was kept before it, by features of its middle frame.

Every clip is compared with every kept one, which is exact and grows with the square of their number: 10,000 clips are 50 million
comparisons at most. A set of millions needs an approximate index in this place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from .gates import Gate, verdict
from .outcomes import DONE, Outcome
from .settings import DINO, MOBILENET

SCORES = {MOBILENET: "duplicate", DINO: "duplicate_dino"}
"""{network: name of the cosine}: cosines of unlike networks do not compare, so that each has a gate of its own."""

FEATURES, NETWORK = "features", "features_by"


def applicable(gates: Sequence[Gate], network: str) -> tuple[Gate, ...]:
    """Without the gates of other networks than the run's."""
    return tuple(gate for gate in gates if gate.score not in set(SCORES.values()) - {SCORES[network]})


def scored(outcomes: Iterable[Outcome], gates: Sequence[Gate]) -> Iterator[Outcome]:
    """With one of SCORES, the cosine to the nearest clip kept before, in the order of the rows, and without the features, which are most
    of a record. Clips that other gates reject are compared but push nobody out. Without features nothing is measured."""
    kept = {network: _Kept() for network in SCORES}
    for one in outcomes:
        features = one.made.get(FEATURES) if one.status == DONE else None
        if not features:
            yield one
            continue
        vector, network = torch.tensor(features), one.made.get(NETWORK, MOBILENET)
        scores = {**one.scores, SCORES[network]: round(kept[network].nearest(vector), 4)}
        made = {name: value for name, value in one.made.items() if name != FEATURES}
        judged = replace(one, made={**made, "scores": scores}, verdict=verdict(scores, gates))
        if judged.is_kept:
            kept[network].add(vector)
        yield judged


class _Kept:
    """Vectors in one tensor, which doubles when it is full."""

    def __init__(self):
        self._vectors, self._count = torch.empty(0, 0), 0

    def nearest(self, vector: torch.Tensor) -> float:
        return float((self._vectors[: self._count] @ vector).max()) if self._count else 0.0

    def add(self, vector: torch.Tensor) -> None:
        if self._count == len(self._vectors):
            wider = torch.empty(max(64, 2 * self._count), len(vector))
            if self._count:
                wider[: self._count] = self._vectors
            self._vectors = wider
        self._vectors[self._count] = vector
        self._count += 1
