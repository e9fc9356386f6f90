"""The code blocks and commands of the documentation, and what stands in the Markdown source in front of them.

A block in `sh` or `python` is run unless a comment in front of it says why it cannot be:

    <!-- not run: needs a GPU -->       one of LACKING, and more words
    <!-- long -->                       run by `make long` alone
    <!-- after: CODE -->                CODE, Python, is run before it; `long, after:` is both
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from liveditor_isa.video.clip import open_clip
from liveditor_isa.video.geometry import fit_frames
from liveditor_isa.video.mp4 import write_mp4
from liveditor_isa.video.source import FileSource
from make_tiny_model import ENCODER, MODEL, VAE
from setup import MODELS, ROOT, SAMPLE_VIDEO

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "weights/README.md", *sorted((ROOT / "docs").rglob("*.md"))]

LACKING = (
    "needs network", "needs a GPU", "needs two GPUs", "needs a cluster", "needs other weights", "needs Windows", "needs Docker",
)  # fmt: skip
"""What CI has not, as a mark begins."""

RUN, SHOWN = ("sh", "python"), ("jsonl", "text", "mermaid", "bat", "toml", "json")
"""Languages that are run, and those that nothing runs."""

BLOCK = re.compile(r"(?:<!--(?P<mark>(?:(?!-->).)*)-->\n)?```(?P<language>\S*)\n(?P<code>.*?)^```$", re.S | re.M)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
COMMAND = re.compile(r"(liveditor|make|torchrun(?= )|python -m liveditor_isa\S*|(\.venv/bin/)?python scripts/\S+)( .*)?")


NAMES = {
    "liveditor_ckpt.bin": MODEL, "umt5_xxl_fp8_e4m3fn_scaled.safetensors": ENCODER, "umt5_xxl_fp16.safetensors": ENCODER,
    "wan_2.1_vae.safetensors": VAE,
}  # fmt: skip
"""Files of LIVEditor-14B that pages name, and the stand-ins in the same formats."""

VIDEOS = ("holiday.mp4", "beach.mp4", "street.mp4", "film.mp4")
CLIPS = '{"video": "beach.mp4", "prompt": "Let it snow"}\n'


@dataclass(frozen=True)
class Block:
    """mark: the comment in front, "" without one."""

    page: Path
    line: int
    language: str
    mark: str
    code: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def lacks(self) -> str | None:
        """What CI lacks for it."""
        return self.mark.removeprefix("not run:").strip() if self.mark.startswith("not run:") else None

    @property
    def is_long(self) -> bool:
        return self.mark.startswith("long")

    @property
    def runs(self) -> bool:
        return self.language in RUN and self.lacks is None

    @property
    def source(self) -> str:
        """What is run."""
        before = self.mark.partition("after:")[2].strip() if self.runs else ""
        return f"{before}\n{self.code}" if before else self.code

    def __str__(self) -> str:
        how = f"not run: {self.lacks}" if self.lacks else "shown" if not self.runs else "long" if self.is_long else "run"
        return f"{self.name:<30} {self.language:<8} {how:<40} {self.code.splitlines()[0][:80]}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start("language")) + 1, found["language"], (found["mark"] or "").strip(), found["code"])
        for found in BLOCK.finditer(text)
    ]  # fmt: skip


def commands_in(page: Path) -> list[list[str]]:
    """Commands within the text, and in blocks that nothing runs, as words."""
    text = INLINE.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    marked = [block.code.replace("\\\n", "") for block in blocks_of(page) if block.language == "sh" and not block.runs]
    lines = [line.split("#")[0].strip() for code in marked for line in code.splitlines()]
    return [shlex.split(line) for line in text + lines if COMMAND.fullmatch(line)]


def write_files_of_a_reader(folder: Path, models: Path = MODELS, video: Path = SAMPLE_VIDEO):
    """What the pages take for granted: videos, which are small and short here, a manifest, and a model."""
    clip = open_clip(FileSource(str(video)), 5, 0, sound=False)
    frames = torch.cat([fit_frames(chunk, 96, 64)[0] for chunk in clip.chunks()])
    for name in VIDEOS:
        write_mp4(folder / name, [frames], Fraction(25))
    (folder / "clips.jsonl").write_text(CLIPS, encoding="utf-8")
    for name, stand_in in NAMES.items():
        shutil.copyfile(models / stand_in, folder / name)
