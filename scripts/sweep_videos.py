#!/usr/bin/env python3
"""Reads videos of many kinds and compares frames, times, colours and sound with what ffmpeg's own command reads.

A real ComfyUI server edits each, too.

`make sweep` tries COMBINATIONS of them and writes benchmarks/results/videos-DATE.json; tests/video/test_sweep.py tries a few.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import video_results
from video_kinds import TURNS, WIDE, Kind, any_kind, ffmpeg, make

EXACT = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
"""How ffmpeg is asked to convert: by default its versions do it in different ways."""

LEVELS = 2
"""By how many of 255 a colour may differ. ffmpeg's own white is 254."""

BLOCK = 1024
"""Samples of sound in a block."""

NO_TIMES = {"gif", "apng"}
"""Formats whose frames carry durations instead of times."""


def read_by_ffmpeg(path: Path, kind: Kind, size: tuple[int, int], rate: int | None, start: float):
    """Frames [F, H, W, 3] in levels, their times in seconds from the first, and the sound [samples, channels]."""
    import numpy as np

    scale = f"scale=flags={EXACT}"
    if kind.colours in WIDE:
        scale += ":out_primaries=bt709:out_transfer=bt709"
    elif (
        kind.colours == "untagged"
        and kind.codec != "vp8"
        and kind.size == (1280, 720)
        and kind.pixels.startswith("yuv")
        and not kind.pixels.startswith("yuvj")
    ):
        scale += ":in_color_matrix=bt709"
    # ffmpeg turns frames before it converts them, and so interpolates colour samples from another side. In wide gamuts that
    # changes colours by more than LEVELS.
    turned_after = kind.colours in WIDE and kind.turn != "upright"
    before = ["-noautorotate"] if turned_after else []
    filters = ["-vf", f"{scale},format=gbrpf32le"]
    raw = ffmpeg(*before, "-i", path, "-map", "0:v:0", *filters, "-fps_mode", "passthrough", "-f", "rawvideo", "-")
    width, height = kind.size if turned_after else size
    pictures = np.frombuffer(raw.stdout, "<f4").reshape(-1, 3, height, width)[:, [2, 0, 1]].transpose(0, 2, 3, 1) * 255
    if turned_after:
        pictures = TURNS[kind.turn][1](pictures)
    lines = ffmpeg(
        "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-enc_time_base", "demux", "-f", "framecrc", "-"
    ).stdout.decode()
    base = Fraction(re.search(r"#tb 0: (\S+)", lines).group(1))
    times = [int(line.split(",")[2]) * base for line in lines.splitlines() if line and not line.startswith("#")]
    sound = None
    if rate:
        heard = ffmpeg(
            "-i",
            path,
            "-map",
            "0:a:0",
            "-copyts",
            "-af",
            f"aresample=async=1:first_pts={round(start * rate)}",
            "-f",
            "f32le",
            "-",
        ).stdout
        sound = np.frombuffer(heard, "<f4")
    return pictures, [time - times[0] for time in times], sound


def differences(kind: Kind, path: Path) -> list[str]:
    """What the pack reads otherwise than ffmpeg, in words; none where all is well."""
    import numpy as np
    import torch
    from liveditor_isa.video.clip import open_clip
    from liveditor_isa.video.source import FileSource

    source = FileSource(path)
    stamps = [*source.stamps()]
    clip = open_clip(FileSource(path), 0, 0)
    images = torch.stack([*source.images(range(len(stamps)))]).numpy() * 255
    rate = clip.audio["sample_rate"] if clip.audio else None
    pictures, times, sound = read_by_ffmpeg(path, kind, stamps[0].size, rate, float(stamps[0].time or 0))
    found = []
    if len(stamps) != len(pictures):
        return [f"{len(stamps)} frames, ffmpeg {len(pictures)}"]
    if kind.codec not in NO_TIMES:
        late = max(abs(stamp.time - stamps[0].time - time) for stamp, time in zip(stamps, times))
        if late > 0.001:
            found.append(f"times differ by {float(late):.3f} s")
    off = np.abs(images - pictures)
    if off.max() > LEVELS:
        found.append(f"colours differ by up to {off.max():.1f} levels, on average {off.mean():.2f}")
    if (clip.audio is None) != (kind.sound is None):
        found.append(f"sound {kind.sound}, read {clip.audio is not None}")
    elif sound is not None:
        mine = clip.audio["waveform"][0].T.numpy()
        theirs = sound.reshape(-1, mine.shape[1])
        shared = min(len(mine), len(theirs))
        if abs(len(mine) - min(len(theirs), round(rate * clip.frames / clip.fps))) > 2048:
            found.append(f"{len(mine)} samples, ffmpeg {len(theirs)}")
        else:
            lag, rest = lag_of(mine[:shared, 0], theirs[:shared, 0])
            if lag > BLOCK or rest > 0.02:
                found.append(f"sound lags by {lag} samples and then differs by {rest:.3f}")
    return found


def lag_of(mine, theirs) -> tuple[int, float]:
    """Samples by which one lags behind the other, and the mean difference that remains without that."""
    import numpy as np

    reach = min(BLOCK + 1, len(mine) // 4)
    end = len(mine) - reach
    fixed = theirs[reach:end]
    differences = {lag: np.abs(mine[reach + lag : end + lag] - fixed).mean() for lag in range(-reach, reach + 1)}
    lag = min(differences, key=lambda each: (differences[each], abs(each)))
    return abs(lag), float(differences[lag])


def sweep(count: int, seed: int = 0, say=lambda line: None, edit=lambda path: None) -> dict:
    """Tries `count` kinds; those that ffmpeg cannot make are left out and counted.

    edit: has something else read the file; gives what it says against it.
    """
    choose, kinds, not_made, wrong = random.Random(seed), set(), {}, {}
    while len(kinds) < count:
        kind = any_kind(choose)
        if kind in kinds:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = make(kind, Path(folder))
            except RuntimeError as error:
                not_made[str(kind)] = str(error)
                if len(not_made) > count:
                    raise RuntimeError(f"Most kinds cannot be made here: {error}") from None
                continue
            kinds.add(kind)
            try:
                found = differences(kind, path)
                if said := edit(path):
                    found.append(f"the server: {said}")
            except Exception as error:
                found = [f"{type(error).__name__}: {error}"]
            if found:
                wrong[str(kind)] = found
                say(f"{kind}: {'; '.join(found)}")
    return {"combinations": len(kinds), "not_made": not_made, "different": wrong, "kinds": sorted(map(str, kinds))}


def main():
    given = video_results.options(__doc__, "combinations", 600)
    import video_server
    from comfy_headless import import_comfy

    import_comfy()
    with video_server.VideoServer() as server:
        result = sweep(
            given.count, given.seed, lambda line: print(line, flush=True), lambda path: video_server.edit(server, path)
        )
    different, not_made = len(result["different"]), len(result["not_made"])
    print(f"{result['combinations']} combinations, {different} different, {not_made} that ffmpeg cannot make")
    video_results.save(given, result)
    return bool(result["different"])


if __name__ == "__main__":
    sys.exit(main())
