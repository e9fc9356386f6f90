"""Error against latency: many settings of ISA and of sol_attn on the same structured inputs, and their ratio at equal error."""

from __future__ import annotations

import math

from ...isa_core import ISAConfig
from . import inputs, timing
from .errors import errors_vs_full
from .variants import Bench, isa, sol_attn

RATIOS = [
    (0.125, 0.5, 0.0625), (0.125, 0.25, 0.0625), (0.125, 0.25, 0.125), (0.25, 0.5, 0.0625), (0.25, 0.25, 0.125),
    (0.5, 0.25, 0.125), (0.5, 0.5, 0.125), (1, 0.5, 0.0625), (1, 0.25, 0.125), (1, 0.0625, 0.125), (1, 0.0625, 0.25),
    (1, 0.0625, 0.375), (1, 0.25, 0.25), (1, 0.5, 0.25), (1, 0, 0.125), (1, 0, 0.25), (1, 0.03, 0.25), (1, 0.125, 0.1875),
    (0.75, 0.03, 0.25),
]  # fmt: skip
"""keep_ratio, dense_query_ratio, exact_ratio. All blocks are kept where little may be lost: on the structured inputs
context queries look mostly at the context, of which the paper's keep ratio leaves an eighth."""

SECOND = [
    (0.125, 0.5, 0.0625),
    (0.5, 0.25, 0.125),
    *((1, 0, share) for share in (0.0625, 0.125, 0.1875, 0.25, 0.375)),
    (1, 0.0625, 0.1875),
]
"""The same, of second order: the first two cost as much as above, the others lie where few means are off by much."""

SETTINGS, OF_SECOND_ORDER = (
    [dict(zip(("keep_ratio", "dense_query_ratio", "exact_ratio"), ratios)) for ratios in group] for group in (RATIOS, SECOND)
)
SETTINGS += [settings | {"context_tail": "taylor"} for settings in (SETTINGS[0], SETTINGS[2], SETTINGS[5])]
SETTINGS += [settings | {"tail_order": 2} for settings in OF_SECOND_ORDER]

TAUS = (0.7, 1.0, 1.3, 1.6, 2.0)
DENSE = {"bf16": "auto", "8bit": "8bit"}


def points() -> dict[str, tuple[dict, object]]:
    """{unique name: (what the row says, function that makes the attention)}."""
    found = {}
    for name, dense in DENSE.items():
        for settings in SETTINGS:
            row = {"variant": f"sweep-isa-{name}", "settings": settings}
            found[unique(row)] = row, lambda s=settings, d=dense: isa(ISAConfig(**s), dense=d)
    for tau in TAUS:
        row = {"variant": "sweep-sol-attn", "settings": {"tau": tau}}
        found[unique(row)] = row, lambda tau=tau: sol_attn(tau)
    return found


def unique(row: dict) -> str:
    """sweep-isa-bf16 0.125 0.5 0.0625"""
    return " ".join([row["variant"], *map(str, row["settings"].values())])


def sweep(q, k, v, layout, rows, exact, turns: int = 3) -> tuple[list[dict], dict[str, str]]:
    """(rows of the table, {skipped setting: reason}); `exact` are the exact outputs of the queries `rows`."""
    chosen = points()
    bench = Bench({name: make for name, (_, make) in chosen.items()})
    found = {}
    for name, attention in list(bench.running.items()):
        out = bench.attempt(name, lambda attention=attention: attention(q, k, v, layout))
        if out is not None:
            found[name] = chosen[name][0] | {"tokens": layout.total, "inputs": "structured"}
            found[name] |= {key: float(f"{value:.3g}") for key, value in errors_vs_full(out, exact, rows, layout).items()}
        del out
    gate = inputs.gate(layout)
    calls = {name: lambda run=bench.running[name]: run(q, k, v, layout, gate) for name in found}
    for name, times in timing.alternate(calls, turns, alone=False).items():
        found[name] |= times
    return list(found.values()), bench.skipped


def equal_error(rows: list[dict], error: str = "err_vs_full", tau: float = 1.3) -> dict | None:
    """sol_attn's latency at `tau` over ISA's at the same error; None where the sweep holds no such points.

    interpolated: along ISA's frontier; measured: by the fastest setting that was run and errs no more. None: ISA does not
    get there. `error` names the column.
    """
    ours = [(row[error], row["ms"]) for row in rows if row["variant"].startswith("sweep-isa")]
    sol = [row for row in rows if row["variant"] == "sweep-sol-attn" and row["settings"]["tau"] == tau]
    if not ours or not sol:
        return None
    allowed, ms = sol[0][error], sol[0]["ms"]
    between = ms_at_error(ours, allowed)
    run = min((own for err, own in ours if err <= allowed), default=None)
    found = {"error": allowed, "sol_attn_ms": ms}
    found |= {"interpolated": between and round(ms / between, 2), "measured": run and round(ms / run, 2)}
    return found


def frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (error, ms) that no other beats in both, from the fastest to the most accurate."""
    best = []
    for error, ms in sorted(points, key=lambda point: (point[1], point[0])):
        if not best or error < best[-1][0]:
            best.append((error, ms))
    return best


def ms_at_error(points: list[tuple[float, float]], error: float) -> float | None:
    """Latency at an error, on straight lines between frontier points in logarithms; nothing is extrapolated.

    An error larger than the fastest point's is served by that point; one smaller than the most accurate point's by none.
    """
    line = frontier(points)
    if not line or error < line[-1][0]:
        return None
    if error >= line[0][0]:
        return line[0][1]
    for (worse, fast), (better, slow) in zip(line, line[1:]):
        if better <= error:
            share = math.log(worse / error) / math.log(worse / better)
            return fast * (slow / fast) ** share
