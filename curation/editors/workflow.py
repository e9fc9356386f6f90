"""A ComfyUI workflow as an editor of frames or videos, run by a server that is there (`comfyui_url`).

The file is in API format (*Export (API)* in ComfyUI), with these words in the place of values: %video% and %frame%, files of the real clip and of its
first frame for LoadVideo and LoadImage; %target_frame%, the edited one; %instruction%; %description%, what the edit shows, or the
instruction where the plan does not say; %seed%, %frames%, %width%, %height%, numbers. The first video or picture that the workflow saves is the
edit.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...errors import UnreachableError
from ...evaluation.frames import read_video, to_unit
from ...optional import needed
from ...video.geometry import fit_frames
from ...video.mp4 import write_mp4
from ...video.pictures import PICTURES, read_picture
from .. import EXTRA
from ..settings import StageChoice, read_object
from . import Request, WrongEdit, pictures

WORD = re.compile(r"%([a-z_]+)%")
KNOWN = ("video", "frame", "target_frame", "instruction", "description", "seed", "frames", "width", "height")
COMFYUIS = ("year", "month", "day", "hour", "minute", "second")
"""Words that ComfyUI knows in names of files."""
POLL = 0.5
"""Seconds between two questions whether an edit is done."""

GATEWAYS = (502, 503, 504)
"""States of HTTP by which a proxy says that there is no server behind it."""

SHOWN = (*PICTURES, ".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif")
"""Endings of what is an edit: workflows save sound and latents too."""

ANSWER = 60.0
"""Seconds that the server may take for one answer, which is not an edit."""


class Tools(NamedTuple):
    """client: httpx's, at the server's address. words: that the workflow has."""

    client: Any
    workflow: dict
    words: frozenset[str]
    name: str
    fps: Fraction


def load(choice: StageChoice, model: str | None, frames: int) -> Tools:
    """Raises ValueError in one sentence for a file that is no workflow in API format, or that does not take the edit's words."""
    if not model:
        raise ValueError("The editor workflow needs the setting frame_model or video_model: a ComfyUI workflow in API format.")
    workflow = read_object(Path(model), "workflow", '{"1": {"class_type": "LoadVideo", "inputs": {"file": "%video%"}}}')
    if not all(isinstance(node, dict) and "class_type" in node for node in workflow.values()):
        raise ValueError(f"{model} is no workflow in API format: save it with Export (API) in ComfyUI's menu.")
    words = frozenset(
        word for node in workflow.values() for value in _values(node.get("inputs")) for word in WORD.findall(value)
    )
    if unknown := sorted(words - {*KNOWN, *COMFYUIS}):
        raise ValueError(f"{model} asks for %{unknown[0]}%; there are {', '.join(f'%{word}%' for word in KNOWN)}.")
    if not words & {"instruction", "description"} or not words & {"video", "frame", "target_frame"}:
        raise ValueError(
            f"{model} must take %instruction% or %description%, and %video%, %frame% or %target_frame%: write them in the place of values."
        )
    if frames == 1 and "target_frame" in words:
        raise ValueError(f"{model} asks for %target_frame%, which a workflow of target frames makes.")
    client = _client(choice.settings.comfyui_url)
    _ask(client, "GET", "/system_stats")
    return Tools(client, workflow, words, Path(model).name, Fraction(choice.settings.fps).limit_denominator(1000))


def edit(tools: Tools, request: Request) -> dict:
    """Raises WrongEdit, a sentence, where the server refuses the workflow, or it fails or saves nothing; UnreachableError where there is no
    server any more."""
    begun = time.monotonic()
    values = {
        "instruction": request.instruction, "description": request.video_prompt, "seed": request.seed, "frames": request.frames,
        "width": request.size[0], "height": request.size[1],
    }  # fmt: skip
    for word, video in (("frame", request.video), ("target_frame", request.target_frame)):
        if word in tools.words:
            assert video
            values[word] = _uploaded(tools.client, _first_frame(video), ".png")
    if "video" in tools.words:
        values["video"] = _uploaded(tools.client, Path(request.video).read_bytes(), Path(request.video).suffix)
    identity = _ask(tools.client, "POST", "/prompt", json={"prompt": _filled(tools.workflow, values)})["prompt_id"]
    done = _done(tools.client, identity)
    if done["status"]["status_str"] != "success":
        raise WrongEdit(f"The workflow {tools.name} failed: {_error_of(done['status'])}.")
    saved = [file for output in done["outputs"].values() for kind in output.values() for file in kind if _is_saved(file)]
    if not saved:
        raise WrongEdit(f"The workflow {tools.name} saved nothing: end it with Save Video or Save Image.")
    place = {name: saved[0].get(name, "") for name in ("filename", "subfolder", "type")}
    file = request.output.with_name(f"saved{Path(place['filename']).suffix.lower()}")
    try:
        file.write_bytes(_answer(tools.client, "GET", "/view", params=place).content)
        frames = _frames_of(file)[: request.frames]
    finally:
        file.unlink(missing_ok=True)
    write_mp4(request.output, [fit_frames(to_unit(frames).movedim(1, -1), *request.size)[0]], tools.fps)
    return {"model": tools.name, "edit_seconds": round(time.monotonic() - begun, 3)}


def _done(client, identity: str) -> dict:
    """What became of a workflow that was sent. Raises ValueError where the server forgot it."""
    while True:
        # The queue first: what leaves it is in the history at that moment.
        queue = _ask(client, "GET", "/queue")
        if history := _ask(client, "GET", f"/history/{identity}"):
            return history[identity]
        if not any(identity in entry[:2] for entries in queue.values() for entry in entries):
            raise ValueError("ComfyUI forgot the edit: it was started anew, or its queue was emptied; try again what failed.")
        time.sleep(POLL)


def _values(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, (dict, list)):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _values(value)


def _filled(node: Any, values: dict[str, str | int]) -> Any:
    """The same with the values in the place of their words; a number where nothing but its word is there."""
    if isinstance(node, dict):
        return {name: _filled(value, values) for name, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values) for value in node]
    if not isinstance(node, str):
        return node
    alone = WORD.fullmatch(node)
    if alone and alone[1] in values:
        return values[alone[1]]
    return WORD.sub(lambda word: str(values.get(word[1], word[0])), node)


def _client(url: str):
    """Raises ValueError in one sentence for what is no address."""
    httpx = needed("httpx", "httpx", EXTRA)
    try:
        return httpx.Client(base_url=url, timeout=ANSWER)
    except httpx.InvalidURL as error:
        raise ValueError(f"comfyui_url {url!r} is no address ({error}): give one like http://127.0.0.1:8188.") from None


def _answer(client, method: str, path: str, **more):
    """Raises WrongEdit, a sentence, where the server refuses; UnreachableError where it does not answer, or a proxy says so."""
    httpx = needed("httpx", "httpx", EXTRA)
    try:
        answer = client.request(method, path, **more)
        why = f"a gateway says {answer.status_code}" if answer.status_code in GATEWAYS else None
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
    if why:
        raise UnreachableError(f"ComfyUI at {client.base_url} does not answer ({why}): start it, or set comfyui_url.")
    if answer.is_error:
        raise WrongEdit(f"ComfyUI refused {path} ({answer.status_code}): {_refusal(answer.text)}.")
    return answer


def _ask(client, method: str, path: str, **more) -> dict:
    """Raises as `_answer` does, and UnreachableError where something else than ComfyUI answers."""
    answer = _answer(client, method, path, **more)
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UnreachableError(f"{client.base_url} is no ComfyUI: its answer to {path} is no JSON object; set comfyui_url.")
    return found


def _refusal(text: str) -> str:
    """What is wrong with a workflow, by ComfyUI's answer."""
    try:
        answer = json.loads(text)
        wrong = [
            f"{node['class_type']}: {error['message']}, {error['details']}"
            for node in (answer.get("node_errors") or {}).values()
            for error in node["errors"]
        ]
        return "; ".join(wrong) or answer["error"]["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return " ".join(text.split())[:200] or "no reason given"


def _error_of(status: dict) -> str:
    for kind, facts in status.get("messages") or []:
        if kind == "execution_error":
            return f"{facts['node_type']}: {' '.join(facts['exception_message'].split())}".rstrip(".")
    return "it was interrupted"


def _is_saved(file: Any) -> bool:
    return isinstance(file, dict) and file.get("type") == "output" and str(file.get("filename")).lower().endswith(SHOWN)


def _uploaded(client, content: bytes, suffix: str) -> str:
    """Its name in the server's input folder, which follows from the content: other runs' files are not replaced."""
    name = f"liveditor-{hashlib.sha256(content).hexdigest()[:24]}{suffix}"
    form = {"overwrite": "true", "type": "input"}
    return _ask(client, "POST", "/upload/image", files={"image": (name, content)}, data=form)["name"]


def _first_frame(video: str) -> bytes:
    content = io.BytesIO()
    next(pictures(video, 1)).save(content, "PNG")
    return content.getvalue()


def _frames_of(file: Path) -> torch.Tensor:
    """[T, H, W, 3] uint8 of a video or a picture. Raises ValueError for what is neither."""
    return read_picture(file)[None] if file.suffix in PICTURES else read_video(str(file)).frames
