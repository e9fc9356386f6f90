"""What context reuse costs on the small trained editor: the same clips and noise with and without it, by how seldom it refreshes.

    python -m liveditor_isa.benchmarks.fidelity.reuse [--weights weights] [--clips 20] [--steps 12 32] [--video FILE ...] [--out FILE]

Needs ComfyUI, `make setup` fetches it. Edits clips that training never shows, against their ground truth, and
a real video in several styles, which has none. Of every number of sampling steps and every way to attend, full attention
and settings of ISA, it compares edits with reuse to those without, in pairs: mean and standard error over the clips. Every
row is stored when it is done.
"""

from __future__ import annotations

import argparse
import hashlib
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from tqdm import tqdm

from ...isa_core import add_coarse_residual, in_context_sparse_attention
from ...runtime.call import ModelCall
from ...runtime.context_reuse import ContextStore, Passes
from ...runtime.core_attention import OVERRIDE, in_context_override
from ...runtime.in_context import CALL
from ...runtime.kept_context import KEEPING_COPIES, KEEPING_DTYPES, Keeping, Reuse
from ..editor import EDITOR, Editor, edit, held_out, load_editor, real_clip
from ..machine import ROOT, heading, result_file
from .quality import against_full, against_truth, means, standard_error
from .settings import Setting, settings
from .study import one_row_a_line, rounded, tokens

PASSES = Passes(("with instruction", "without"), 0)
"""The passes of guidance that `training.tiny.preview.edit` puts into one call."""

FALLS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
WAYS = ("full", "isa-equal-keep-all-no-dense", "isa-paper")


class ReusingNetwork:
    """The editor's network as `training.preview.edit` calls it, with its context computed anew where `fall`, a context_refresh, asks for it.

    One of these serves one edit: all of its calls are of one sequence. fall 0: every call computes the context.
    """

    def __init__(self, network: torch.nn.Module, setting: Setting, fall: float, keeping: Keeping):
        self.network, self.setting, self.fall, self.keeping = network, setting, fall, keeping
        self.store, self.refreshed, self.calls = ContextStore(), 0, 0
        self.override = in_context_override(self._attend)

    def __call__(self, x, time, words, context_latents):
        level = float(time.max()) / 1000
        contexts = self.store.begin("edit", level, self.fall, self.keeping, passes=PASSES)
        reused = isinstance(contexts, Reuse)
        options = {OVERRIDE: self.override, CALL: ModelCall(context=contexts)}
        out = self.network(x, time, words, context_latents=() if reused else context_latents, transformer_options=options)
        assert self.store.end(contexts), "every block attended to the context"
        self.calls, self.refreshed = self.calls + 1, self.refreshed + (not reused)
        return out

    def _attend(self, call, q, k, v, options, full, core):
        k, v, layout = options[CALL].context.attended(options["block_index"], options["total_blocks"], k, v, call.layout)
        if self.setting.config is None:
            out = full(q, k, v)
        else:
            out = in_context_sparse_attention(q, k, v, layout=layout, config=self.setting.config)
        call.residual_added = True
        return add_coarse_residual(out, q, k, v, call.coarse_gate, layout)


def edited(
    editor: Editor, source: torch.Tensor, instructions: list[str], steps: int, setting: Setting, fall: float, keeping: Keeping
):
    """(edited clips [B, 3, T, H, W] in 0..1, the share of model calls that computed the context)."""
    network = ReusingNetwork(editor.network, setting, fall, keeping)
    output = edit(network, *editor[1:], source, instructions, steps=steps)
    return output, network.refreshed / network.calls


class Results:
    """The result file, written anew with every row."""

    def __init__(self, path: Path, about: dict):
        self.path, self.held = path, {**about, "rows": []}

    def add(self, row: dict):
        self.held["rows"].append(rounded(row))
        self.path.write_text(one_row_a_line(self.held))


def compare(
    editor: Editor, sources: list, steps: int, way: str, setting: Setting, falls, keeping, truths, results: Results, what: dict
):
    """Rows of one number of steps and one way to attend; sources: (clips, instructions), truths: their EditBatch or None."""
    plain = None
    for fall in tqdm((0.0, *falls), desc=f"{what['clips_of']}, {steps} steps, {way}", unit="fall"):
        found = [edited(editor, *source, steps, setting, fall, keeping) for source in sources]
        outputs, share = [output for output, _ in found], fmean(share for _, share in found)
        clips = [clip for pair in zip(truths, outputs) if pair[0] is not None for clip in against_truth(*pair)]
        plain = plain or (outputs, clips)
        near = [clip for pair in zip(outputs, plain[0]) for clip in against_full(*pair)]
        row = {**what, "steps": steps, "attention": way, "fall": fall, "refreshed": share, "clips": len(near)}
        row |= {"context_dtype": keeping.dtype, "context_copies": keeping.copies}
        row |= {name.replace("vs_full", "vs_no_reuse"): value for name, value in means(near).items()}
        if clips:
            change = [clip["psnr_gt"] - other["psnr_gt"] for clip, other in zip(clips, plain[1])]
            row |= means(clips) | {"psnr_gt_change": fmean(change), "psnr_gt_change_se": standard_error(change)}
        results.add(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights", help="folder of the three exported files")
    parser.add_argument("--video", type=Path, nargs="+", default=[], help="real videos, or folders of their frames as pictures")
    parser.add_argument("--clips", type=int, default=20, help="held-out clips of each of the seven tasks")
    parser.add_argument("--steps", type=int, nargs="+", default=(12, 32), help="of sampling")
    parser.add_argument("--falls", type=float, nargs="+", default=FALLS, help="context_refresh")
    parser.add_argument("--attention", nargs="+", choices=[*settings(0.0)], default=WAYS, metavar="NAME")
    parser.add_argument("--context-dtype", choices=KEEPING_DTYPES, default=Keeping.dtype, help="of what is kept")
    parser.add_argument("--context-copies", choices=KEEPING_COPIES, default=Keeping.copies, help="for the passes of guidance")
    parser.add_argument("--size", type=int, nargs=3, default=(33, 256, 256), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--first", type=int, default=100, help="number of the first batch of clips: the study's begin with 0")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=result_file("context-reuse"))
    options = parser.parse_args()
    size = tuple(options.size)
    about = {
        **heading(__spec__.name, options.device),
        "weights": hashlib.sha256((options.weights / EDITOR).read_bytes()).hexdigest(),
        "size": dict(zip(("frames", "height", "width"), size)) | {"block_size": options.block_size},
        "tokens": tokens(size),
    }
    results = Results(options.out, about)
    editor = load_editor(options.weights, options.weights, options.device)
    batches = [held_out(size, options.first + number, options.device) for number in range(options.clips)]
    sources = [(batch.source, batch.instructions) for batch in batches]
    every = settings(0.0, options.block_size)
    keeping = Keeping(dtype=options.context_dtype, copies=options.context_copies)
    for steps in options.steps:
        for way in options.attention:
            run = partial(
                compare, editor, steps=steps, way=way, setting=every[way], falls=options.falls, keeping=keeping, results=results
            )
            run(sources=sources, truths=batches, what={"clips_of": "held-out"})
            for video in options.video:
                run(sources=[real_clip(video, size, options.device)], truths=[None], what={"clips_of": video.name})
    print(options.out)


if __name__ == "__main__":
    main()
