"""Planners, one file each: `propose(settings, work)` chooses edits of a clip and writes their instructions.

A proposal is of JSON: {"task", "instruction": real to synthetic, as the editor is told it, "forward", "backward": variants of the instruction
in both directions, "back_task": what the way back is called, "expected": as in `measure.pair_scores`}.
"""

from ...evaluation.judge.cost import Cost

OWN = ("rules", "vlm")
"""Modules of this folder."""


class Proposals(list[dict]):
    """Of a planner that asks a model: with what the answers took. Others return a plain list."""

    cost = Cost()
