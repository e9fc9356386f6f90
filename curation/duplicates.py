"""Near duplicates: how near a clip is to the nearest that was kept before it, by features of its middle frame.

Every clip is compared with every kept one, which is exact and grows with the square of their number: 10,000 clips are 50 million
comparisons at most. A set of millions needs an approximate index in this place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from .gates import Gate, verdict
from .outcomes import DONE, Outcome

SCORE = "duplicate"


def scored(outcomes: Sequence[Outcome], gates: Sequence[Gate]) -> list[Outcome]:
    """With the score `duplicate`, the cosine to the nearest clip kept before, in the order of the rows. Clips that other gates reject
    are compared but push nobody out. Without features nothing is measured."""
    kept: torch.Tensor | None = None
    found = []
    for one in outcomes:
        features = one.made.get("features") if one.status == DONE else None
        if not features:
            found.append(one)
            continue
        vector = torch.tensor(features)
        nearest = float((kept @ vector).max()) if kept is not None else 0.0
        scores = {**one.scores, SCORE: round(nearest, 4)}
        judged = replace(one, made={**one.made, "scores": scores}, verdict=verdict(scores, gates))
        if judged.is_kept:
            kept = vector[None] if kept is None else torch.cat([kept, vector[None]])
        found.append(judged)
    return found
