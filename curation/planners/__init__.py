"""Planners, one file each: `propose(settings, work)` chooses edits of a clip and writes their instructions.

A proposal is of JSON: {"task", "instruction": real to synthetic, as the editor is told it, "forward", "backward": variants of the instruction
in both directions, "back_task": what the way back is called, "expected": as in `measure.pair_scores`}.
"""

OWN = ("rules", "vlm")
"""Modules of this folder."""
