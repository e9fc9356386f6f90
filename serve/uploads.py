"""What clients send: files are written into a job's folder and looked at, values become an Edit, within the server's limits."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import sentence
from ..pipelines.request import Edit, box_of
from .engine import Engine
from .jobs import Job
from .worker import new_processes

FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,h264,hevc,m4v,av1,obu,ivf,flv,asf,ogg,mxf,gif,apng,image2,"
    "png_pipe,jpeg_pipe,jpegls_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
"""Demuxers of ffmpeg that an upload may need. All others are shut out: playlists among them name further files to read, of
other clients, of the machine or of its network."""

SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")
"""Endings of a client's names that files keep. Nothing else of such a name is used."""

FRAME_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


@dataclass(frozen=True)
class Limits:
    """bytes: of a whole request. frames: of an edit. pixels: width times height of an edit whose size the client chooses."""

    bytes: int = 512 * 2**20
    frames: int = 81
    pixels: int = 1280 * 720


class Upload(NamedTuple):
    """A file as a client sends it. name: the client's; its ending alone is used."""

    name: str
    content: BinaryIO


class Uploads:
    """Makes jobs of requests. A process of its own looks at the files, so that one that crashes the decoder takes nothing down.

    A context manager, whose end is that process's.
    """

    def __init__(self, engine: Engine, limits: Limits):
        self._engine, self.limits = engine, limits
        self._readers, self._one_at_a_time = _readers(), threading.Lock()

    def __enter__(self) -> Uploads:
        return self

    def __exit__(self, *error):
        self._readers.shutdown(cancel_futures=True)

    def submit(self, owner: str, values: Mapping[str, object], files: Mapping[str, Sequence[Upload]]) -> Job:
        """values: fields of an Edit but its files; `size` as "832x480", `boxes` as texts. None is the default; of `frames`, the whole clip.
        files: {"video": [one], "mask": [one or none], "reference": [...]}.

        Raises ValueError in one sentence for what is wrong or over a limit, OSError for a full disk, QueueFull and ModelGone. Nothing
        of the upload is left then.
        """
        self._engine.check_room()
        id, folder = self._engine.jobs.new_folder()
        try:
            names = {
                kind: [_kept(folder, f"{kind}{number or ''}", upload) for number, upload in enumerate(uploads)]
                for kind, uploads in files.items()
            }
            edit = self._edit(values, names)
            for name in edit.files:
                self._look(folder / name, edit, is_clip=name == edit.video)
            return self._engine.submit(id, owner, edit)
        except BaseException:
            self._engine.jobs.remove(id)
            raise

    def _edit(self, values: Mapping[str, object], names: Mapping[str, list[str]]) -> Edit:
        given = {name: value for name, value in values.items() if value is not None}
        if unknown := given.keys() - {field.name for field in fields(Edit)}:
            raise ValueError(f"An edit has no {', '.join(sorted(unknown))}.")
        if isinstance(size := given.get("size"), str):
            given["size"] = self._size(size)
        given["boxes"] = tuple(box_of(box) if isinstance(box, str) else box for box in given.get("boxes", ()))
        edit = Edit(
            video=names["video"][0],
            mask=next(iter(names.get("mask", ())), None),
            references=tuple(names.get("reference", ())),
            **{"frames": 0} | given,
        )
        if edit.frames > self.limits.frames:
            raise ValueError(
                f"{edit.frames} frames are more than the {self.limits.frames} that this server edits: ask for fewer."
            )
        return edit

    def _size(self, text: str) -> tuple[int, int]:
        found = FRAME_SIZE.fullmatch(text)
        size = (int(found[1]), int(found[2])) if found else (0, 0)
        if not all(size) or any(side % 16 for side in size):
            raise ValueError(f"size is width and height, multiples of 16, as in 832x480; got {text!r:.40}.")
        if size[0] * size[1] > self.limits.pixels:
            raise ValueError(
                f"{text} is more than the {self.limits.pixels:,} pixels that this server edits: take a smaller size."
            )
        return size

    def _look(self, path: Path, edit: Edit, is_clip: bool):
        most = self.limits.frames
        request = (edit.frames or most + 1, edit.fps, edit.start_frame, edit.every_nth) if is_clip else (1, 0, 0, 1)
        try:
            with self._one_at_a_time:  # else a crash would be every other file's too
                frames = self._readers.submit(frames_in, path, *request).result()
        except BrokenProcessPool:
            self._readers = _readers()
            raise ValueError(f"The {path.stem} crashed its decoder: convert it to an mp4 of H.264 and AAC.") from None
        except ValueError as error:
            raise ValueError(f"The {path.stem} cannot be used: {sentence(error)}") from None
        if is_clip and not edit.frames and frames > most:
            raise ValueError(
                f"The video has more than the {most} frames that this server edits: cut it, or say with frames how many to edit."
            )


def frames_in(path: Path, most: int, fps: float, start_frame: int, every_nth: int) -> int:
    """How many frames of a clip an edit would have, counted no further than to `most`. Raises ValueError for what cannot be read."""
    import av

    from ..video.clip import open_clip
    from ..video.source import FileSource

    try:
        with closing(av.open(str(path), options={"format_whitelist": FORMATS, "protocol_whitelist": "file"})):
            pass
    except (OSError, ValueError):  # PyAV's own are among them
        raise ValueError("it is no video or picture of a format that this server reads: convert it to mp4 or PNG.") from None
    return open_clip(FileSource(path), most, fps, start_frame, every_nth, sound=False).frames


def _readers() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=new_processes())


def _kept(folder: Path, name: str, upload: Upload) -> str:
    """The name under which an upload is kept. Raises ValueError for an empty file."""
    ending = SUFFIX.fullmatch(Path(upload.name).suffix.lower())
    kept = f"{name}{ending[0] if ending else ''}"
    with open(folder / kept, "xb") as file:
        shutil.copyfileobj(upload.content, file, 2**20)
        if not file.tell():
            raise ValueError(f"The {name} is empty: send the file's content.")
    return kept
