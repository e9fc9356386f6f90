#!/usr/bin/env python3
"""Damages videos in many ways and has a real ComfyUI server edit each: it reads what is left or says one sentence, and goes on.

`make fuzz-videos` tries FILES of them and writes benchmarks/results/damaged-videos-DATE.json;
tests/nodes/test_damaged.py tries a few.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import video_results
from video_kinds import Kind, make
from video_server import VideoServer, edit

KINDS = [
    Kind("h264", "mp4", "yuv420p", "bt709", "25", "90", (98, 70), "aac", 44_100, "5.1"),
    Kind("hevc", "mkv", "yuv420p10le", "hlg", "25", "upright", (98, 70), "flac", 44_100, "7.1"),
    Kind("h264", "ts", "yuv420p", "untagged", "50", "upright", (64, 48), "aac", 48_000, "stereo"),
    Kind("h264", "flv", "yuv420p", "untagged", "25", "upright", (64, 48), "aac", 44_100, "mono"),
    Kind("vp9", "webm", "yuva420p", "untagged", "varying", "upright", (98, 70), "libopus", 48_000, "7.1"),
    Kind("av1", "mp4", "yuv420p", "bt709", "25", "mirrored", (98, 70), "ac3", 48_000, "5.1(side)"),
    Kind("mpeg2", "mpg", "yuv420p", "untagged", "25", "upright", (64, 48), "mp2", 48_000, "stereo"),
    Kind("mpeg4", "avi", "yuv420p", "untagged", "25", "upright", (64, 48), "libmp3lame", 44_100, "stereo"),
    Kind("prores", "mov", "yuva444p10le", "untagged", "25", "upright", (64, 48), "pcm_s16le", 48_000, "hexadecagonal"),
    Kind("mjpeg", "avi", "yuvj420p", "untagged", "25", "upright", (64, 48), "pcm_s16le", 8000, "quad"),
    Kind("wmv", "asf", "yuv420p", "untagged", "25", "upright", (64, 48), "wmav2", 44_100, "mono"),
    Kind("ffv1", "mkv", "gbrp10le", "untagged", "25", "upright", (64, 48), "libvorbis", 44_100, "5.1"),
    Kind("png", "mov", "rgba", "untagged", "25", "270", (64, 48), None, 0, ""),
    Kind("gif", "gif", "pal8", "untagged", "25", "upright", (64, 48), None, 0, ""),
    Kind("apng", "apng", "rgba", "untagged", "25", "upright", (64, 48), None, 0, ""),
]

HEADER = 2048
EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\0\0\x7f\xff")


def flipped(data: bytes, choose: random.Random, within: int | None = None) -> bytes:
    changed = bytearray(data)
    for _ in range(choose.choice((1, 3, 20, 200))):
        changed[choose.randrange(min(within or len(data), len(data)))] = choose.randrange(256)
    return bytes(changed)


def with_extremes(data: bytes, choose: random.Random) -> bytes:
    """Sizes, counts and times of four bytes that are as small or large as can be."""
    changed = bytearray(data)
    for _ in range(choose.choice((1, 4))):
        at = choose.randrange(min(HEADER, len(data) - 4))
        changed[at : at + 4] = choose.choice(EXTREMES)
    return bytes(changed)


def without_part(data: bytes, choose: random.Random) -> bytes:
    start, end = sorted(choose.randrange(len(data)) for _ in range(2))
    return data[:start] + choose.choice((b"", bytes(end - start), choose.randbytes(end - start))) + data[end:]


def repeated(data: bytes, choose: random.Random) -> bytes:
    start, end = sorted(choose.randrange(len(data)) for _ in range(2))
    return data[:end] + data[start:]


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut off": lambda data, choose: data[: choose.randrange(len(data))],
    "bytes changed": flipped,
    "bytes of the header changed": lambda data, choose: flipped(data, choose, HEADER),
    "extreme numbers": with_extremes,
    "a part lost": without_part,
    "a part repeated": repeated,
    "the beginning lost": lambda data, choose: data[choose.randrange(len(data)) :],
}


def fuzz(server, files: int, seed: int = 0, say=lambda line: None) -> dict:
    """Has the server edit `files` damaged videos. `wrong` holds what is no sentence, and what ended the server."""
    choose, outcomes, sentences, wrong = random.Random(seed), Counter(), Counter(), {}
    with tempfile.TemporaryDirectory() as folder:
        whole = {kind: make(kind, _folder(folder, index)).read_bytes() for index, kind in enumerate(KINDS)}
        for index in range(files):
            kind, how = choose.choice(KINDS), choose.choice([*DAMAGE])
            path = Path(folder) / f"damaged.{kind.container}"
            path.write_bytes(DAMAGE[how](whole[kind], choose))
            settings = {
                "length": choose.choice((0, 9)),
                "fps": choose.choice((0.0, 16.0)),
                "whole_frame": choose.random() < 0.5,
            }
            case = f"{index}: {kind}, {how}, {settings}"
            try:
                said = edit(server, path, **settings)
            except RuntimeError as error:
                wrong[case] = str(error)
                say(f"{case}: {error}")
                server.__enter__()
                continue
            outcomes["refused" if said else "edited"] += 1
            if said:
                sentences[re.sub(r"\S*/\d+", "damaged", said)] += 1
                if not is_sentence(said):
                    wrong[case] = said
                    say(f"{case}: {said}")
    return {"files": files, **outcomes, "sentences": dict(sentences.most_common()), "wrong": wrong}


def is_sentence(said: str) -> bool:
    return "\n" not in said and said.rstrip().endswith((".", ")")) and not re.search(r"Traceback|object has no|Error\(", said)


def _folder(parent: str, index: int) -> Path:
    folder = Path(parent) / str(index)
    folder.mkdir()
    return folder


def main():
    given = video_results.options(__doc__, "files", 2000)
    with VideoServer() as server:
        result = fuzz(server, given.count, given.seed, say=lambda line: print(line, flush=True))
    edited, refused = result.get("edited", 0), result.get("refused", 0)
    print(f"{result['files']} files, {edited} edited, {refused} refused, {len(result['wrong'])} wrong")
    video_results.save(given, result)
    return bool(result["wrong"])


if __name__ == "__main__":
    sys.exit(main())
