"""What a judge's answers took: measured, as the records of its answers hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Cost(NamedTuple):
    """questions: that were answered. attempts: put for them, failed ones included. tokens: of these, where the server counts them.
    seconds: waiting between attempts included."""

    questions: int = 0
    attempts: int = 0
    tokens: int = 0
    seconds: float = 0.0


COLUMNS = ("answered", "questions", "attempts", "tokens", "tokens each", "seconds each")
NOTE = "Of answers alone: what was given up is not in it. Tokens are the server's count, where it states one."


def cost_of(answers: Iterable[Mapping]) -> Cost:
    """answers: `facts["judge"]` of a judge's values."""
    found = [*answers]
    seconds = sum(answer.get("seconds") or 0.0 for answer in found)
    return Cost(
        len(found),
        sum(answer["attempts"] for answer in found),
        sum(answer["tokens"] or 0 for answer in found),
        round(seconds, 3),
    )


def table_row(costs: Iterable[Cost]) -> tuple[str, ...]:
    """COLUMNS of a table's row. costs: one for each item that was answered."""
    found = [*costs]
    whole = Cost(*map(sum, zip(*found)))
    each = max(1, len(found))
    counts = (len(found), whole.questions, whole.attempts, whole.tokens)
    return (*map(str, counts), f"{whole.tokens / each:.0f}", f"{whole.seconds / each:.2f}")
