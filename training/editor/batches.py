"""Which pairs a step sees: a function of seed and step alone, so that a run goes on in the middle of an epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from .pairs import Bucket


class Place(NamedTuple):
    """A pair: the number of its source, and its number there."""

    source: int
    pair: int


class Order:
    """Batches of one bucket each. In an epoch every pair of weight 1 is seen once; a bucket's last batch is filled up from its first.

    buckets: of the pairs of each source. weights: of each source.
    """

    def __init__(self, buckets: Sequence[Sequence[Bucket]], weights: Sequence[float], batch: int, seed: int):
        self.weights, self.batch, self.seed = weights, batch, seed
        self.groups: dict[Bucket, dict[int, list[int]]] = {}
        for source, of_source in enumerate(buckets):
            for pair, bucket in enumerate(of_source):
                self.groups.setdefault(bucket, {}).setdefault(source, []).append(pair)
        self.length = sum(math.ceil(self._seen(group) / batch) for group in self.groups.values())
        """Steps of an epoch."""
        self._epoch: tuple[int, list[tuple[Bucket, list[Place]]]] = -1, []

    def __getitem__(self, step: int) -> tuple[Bucket, list[Place]]:
        epoch, at = divmod(step, self.length)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._drawn(epoch)
        return self._epoch[1][at]

    def _seen(self, group: dict[int, list[int]]) -> int:
        """How many of a bucket's pairs an epoch sees, each time that it does."""
        return sum(self._times(source, pairs) for source, pairs in group.items())

    def _times(self, source: int, pairs: list[int]) -> int:
        return max(1, round(self.weights[source] * len(pairs)))

    def _drawn(self, epoch: int) -> list[tuple[Bucket, list[Place]]]:
        random, batches = Random(f"{self.seed} {epoch}"), []
        for bucket, group in self.groups.items():
            places = []
            for source, pairs in group.items():
                times = self._times(source, pairs)
                drawn = [pair for _ in range(math.ceil(times / len(pairs))) for pair in random.sample(pairs, len(pairs))]
                places += [Place(source, pair) for pair in drawn[:times]]
            random.shuffle(places)
            for start in range(0, len(places), self.batch):
                chosen = places[start : start + self.batch]
                missing = self.batch - len(chosen)
                batches.append((bucket, chosen + [places[number % len(places)] for number in range(missing)]))
        random.shuffle(batches)
        return batches
