"""liveditor benchmark: the speed of ISA on this machine."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from ..checkpoint.dtypes import DTYPES
from ..isa_core import TokenLayout, dense_attention
from ..video.geometry import token_count
from .options import add_isa_options, frame_size, isa_choice, whole_number
from .outcome import Outcome, Status

EPILOG = """\
examples:
  liveditor benchmark                          on a GPU 480p of 81 frames, as LIVEditor-14B attends to it
  liveditor benchmark --size 960x544 --frames 81
  liveditor benchmark --size 320x176 --frames 17 --heads 4

One call of attention over a video and its edit, in random numbers: time depends on size and settings, not on content. Both
take turns in one process; the times are medians, of the calls after the first, in which kernels are compiled.
"""


USUAL = {
    "cuda": {"size": (832, 480), "frames": 81, "heads": 40},
    "cpu": {"size": (320, 176), "frames": 33, "heads": 4},
}
"""What is measured where nothing is said, by the kind of device: a GPU's would take a CPU an hour."""


def add_arguments(parser: argparse.ArgumentParser):
    parser.description, parser.epilog = "Measure what sparse attention brings on this machine.", EPILOG
    gpu, cpu = USUAL["cuda"], USUAL["cpu"]
    parser.add_argument(
        "--size", type=frame_size, metavar="WxH", help="of the video, multiples of 16 (default: 832x480, on a CPU 320x176)"
    )
    parser.add_argument(
        "--frames", type=whole_number, metavar="N", help=f"of the video (default: {gpu['frames']}, on a CPU {cpu['frames']})"
    )
    parser.add_argument(
        "--heads",
        type=whole_number,
        help=f"attention heads, of 128 channels (default: {gpu['heads']}, on a CPU {cpu['heads']})",
    )
    parser.add_argument("--turns", type=whole_number, default=5, help="how often each is timed (default: %(default)s)")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="default: bf16 on a GPU")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    add_isa_options(parser)


def run(options: argparse.Namespace) -> Outcome:
    from ..isa_core import in_context_sparse_attention  # whose import takes seconds

    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device)
    dtype = DTYPES.get(options.dtype, torch.bfloat16 if device.type == "cuda" else torch.float32)
    usual = USUAL.get(device.type, USUAL["cuda"])
    frames, heads = options.frames or usual["frames"], options.heads or usual["heads"]
    width, height = options.size or usual["size"]
    tokens = token_count(frames, width, height)
    layout = TokenLayout(tokens, (tokens,))
    config = isa_choice(options)
    q, k, v = (torch.randn(1, layout.total, heads, 128, device=device, dtype=dtype) for _ in range(3))
    stats = {}

    def isa():
        stats["isa"] = in_context_sparse_attention(q, k, v, layout=layout, config=config, return_stats=True)[1]

    calls = {"full attention": lambda: dense_attention(q, k, v), "ISA": isa}
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{width}×{height}, {frames} frames: {layout.total:,} tokens with the edit, {heads} heads, {dtype}, {where}", flush=True
    )
    times: dict[str, list[float]] = {name: [] for name in calls}
    with tqdm(total=len(calls) * (1 + options.turns), unit="call", leave=False, disable=options.quiet) as bar:
        for _ in range(1 + options.turns):
            for name, call in calls.items():
                bar.set_description(name)
                times[name].append(seconds(call, device))
                bar.update()
    first = {name: taken.pop(0) for name, taken in times.items()}
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, taken in times.items():
        low, high = 1000 * min(taken), 1000 * max(taken)
        print(
            f"  {name:<15}{1000 * medians[name]:10.1f} ms   ({low:.1f} to {high:.1f}; the first call {1000 * first[name]:.0f})"
        )
    stats = stats["isa"]
    ratio = medians["full attention"] / medians["ISA"]
    print(f"  ISA is {ratio:.2f} times as fast")
    print(f"  {stats.flop_ratio:.1%} of its arithmetic, on {stats.backend} ({stats.backend_reason})")
    facts = {
        "width": width,
        "height": height,
        "frames": frames,
        "tokens": layout.total,
        "heads": heads,
        "dtype": str(dtype),
        "where": where,
    }
    facts |= {"full_attention_seconds": medians["full attention"], "isa_seconds": medians["ISA"], "speed_up": ratio}
    return Outcome(Status.DONE, facts | {"flop_ratio": stats.flop_ratio, "backend": stats.backend})


def seconds(call: Callable, device: torch.device) -> float:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    begun = now()
    call()
    return now() - begun
