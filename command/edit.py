"""liveditor edit: one video, one instruction."""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import fields
from pathlib import Path

from ..pipelines import require
from ..pipelines.record import AS_GIVEN, found_from, recorded_in, with_paths
from ..pipelines.request import Edit, ModelChoice, box_of
from ..runtime.torchrun import is_first
from ..video.room import check_output
from ..video.writing.formats import encoder_for, format_of
from .options import ISA_OPTIONS, add_model_options, frame_size, model_choice
from .outcome import Outcome, Status
from .output import quiet_loading

logger = logging.getLogger(__name__)

EPILOG = """\
examples:
  liveditor edit holiday.mp4 "Make the video look like sunset"
  liveditor edit holiday.mp4 "Make the ball red" --box 500,200,400,304 --match-colors      the rest stays as it is
  liveditor edit film.mp4 "Make it night" --frames 0 --window 81                            a long video
  liveditor edit holiday.mp4 "Put the hat of the picture on the man" --reference hat.png --model FOLDER --out hat.mp4
  torchrun --nproc-per-node 2 -m liveditor_isa edit holiday.mp4 "Let it snow" --model FOLDER      on two GPUs

The edit has the video's frame rate and sound. Frames are resized keeping their aspect and centre-cropped to the size of the
edit; --whole-frame puts it back over the source, as do --mask and --box.
"""


ANEW = {
    "video": "name the video anew, behind --repeat FILE",
    "reference": "name all references anew with --reference",
    "mask": "name the mask anew with --mask",
    "model": "name the model anew with --model",
    "text_encoder": "name it anew with --text-encoder",
    "vae": "name it anew with --vae",
    "lora": "name all LoRAs anew with --lora",
}
"""{option that names a file: the cure where it is missing}."""


def recorded(path: Path, parser: argparse.ArgumentParser) -> dict:
    """{option: value} as the file has recorded them, with paths as `found_from` finds them, {"recorded": all that}, and {"elsewhere":
    paths that are not there as seen from the file}.

    Raises ValueError in one sentence for a file without a record, or with what is no option's.
    """
    record, elsewhere = recorded_in(path), []
    folder = path if path.is_dir() else path.parent

    def found_path(name: str) -> str:
        there = None if name in record.get(AS_GIVEN, ()) else found_from(folder, name)
        if there is None or os.path.samefile(there, path):  # an older record may name another folder's file of this name
            elsewhere.append(name)
            return name
        return there

    try:
        found = _options_of(with_paths(record, found_path))
    except (AttributeError, TypeError, KeyError) as error:  # of a record that somebody changed
        raise ValueError(f"{path.name} records something else than an edit ({error}).") from None
    for action in parser._actions:
        value = found.get(action.dest)
        if value is not None and action.choices and value not in action.choices:
            raise ValueError(
                f"{path.name} records the {action.dest} {value!r}, but there are {', '.join(map(str, action.choices))}."
            )
    return found | {"recorded": found, "elsewhere": elsewhere}


def _options_of(record: dict) -> dict:
    """{option: value} of this command, for what `record_of` made."""
    model = dict(record["model"])
    isa = model.pop("isa")
    known = {*ISA_OPTIONS, *(one.name for one in fields(ModelChoice))}
    if unknown := [name for name in (*model, *(isa or {})) if name not in known]:
        raise KeyError(unknown[0])  # it would be another option's value
    found = {"isa": isa is not None, **(isa or {}), "lora": [*model.pop("loras")], **model}
    edit = vars(Edit.from_dict(record)).copy()
    references, boxes = edit.pop("references"), edit.pop("boxes")
    edit |= {
        "video": Path(edit["video"]),
        "fps": edit["fps"] or None,
        "reference": [*references],
        "box": [box_of(",".join(map(str, box))) for box in boxes],
    }
    return found | edit


def add_arguments(parser: argparse.ArgumentParser):
    parser.description, parser.epilog = "Edit a video as an instruction says.", EPILOG
    parser.add_argument("video", type=Path, nargs="?", help="the video to edit: a file, or a folder of its frames as pictures")
    parser.add_argument("prompt", nargs="?", help="what to change")
    parser.add_argument(
        "--repeat", type=Path, metavar="FILE",
        help="make the edit again that FILE, a result of this command, was made by; what is given beside it replaces what was "
        "recorded: another video or seed, for example, or another model, which then has its own parts",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the video to write (default: NAME_edited.mp4 beside the video), numbered on if there; its ending chooses the format: "
        ".mp4 (H.264), .mov (ProRes), .webm (VP9), .gif, or none for a folder of PNG files",
    )
    edit = parser.add_argument_group("edit")
    edit.add_argument(
        "--frames", type=int, default=Edit.frames, metavar="N", help="at most N, 0 for all (default: %(default)s)"
    )
    edit.add_argument(
        "--fps",
        type=float,
        help="edit at this rate, by nearest frame (default: the video's own); of a folder of frames its rate (default: 16)",
    )
    edit.add_argument(
        "--start-frame", type=int, default=Edit.start_frame, metavar="N", help="skip N frames, counted at --fps (default: 0)"
    )
    edit.add_argument(
        "--every-nth", type=int, default=Edit.every_nth, metavar="N", help="take every N-th frame only, at an N-th of the rate"
    )
    edit.add_argument(
        "--size", type=frame_size, metavar="WxH", help="of the edit, multiples of 16 (default: the model's nearest in shape)"
    )
    edit.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    edit.add_argument("--guidance", type=float, help="classifier-free guidance; 1 turns it off (default: the model's)")
    edit.add_argument("--seed", type=int, default=Edit.seed, help="default: %(default)s")
    edit.add_argument("--negative-prompt", help="what to avoid (default: the model's)")
    edit.add_argument(
        "--reference", action="append", default=[], metavar="FILE",
        help="an image or video that the instruction may refer to; may be given several times",
    )  # fmt: skip
    edit.add_argument("--whole-frame", action="store_true", help="put the edit back over the source's frame, at its size")
    edit.add_argument(
        "--mask", metavar="FILE",
        help="an image, or a video with a mask for each frame, over the source's frame: the edit shows where it is white, and everywhere else "
        "the frame is the source's",
    )  # fmt: skip
    edit.add_argument(
        "--box", action="append", type=_box, default=[], metavar="X,Y,W,H",
        help="the same by a box in pixels of the source; may be given several times; --box=-8,0,64,64 for one that begins outside",
    )  # fmt: skip
    edit.add_argument(
        "--feather", type=int, default=Edit.feather, metavar="N",
        help="pixels over which the edit fades in, from the edge of mask or box inwards (default: %(default)s)",
    )  # fmt: skip
    edit.add_argument(
        "--match-colors", action="store_true",
        help="give the surroundings of a mask or box the source's colours; without them, keep colours from drifting over time",
    )  # fmt: skip
    edit.add_argument(
        "--window", type=int, default=Edit.window, metavar="N",
        help="edit a longer video in windows of N frames, 4n+1: 81, or 33 for LIVEditor-tiny; with --frames 0 all of it (default: at once)",
    )  # fmt: skip
    edit.add_argument(
        "--window-overlap", type=int, metavar="N", help="frames that neighbouring windows share (default: half a window)"
    )
    add_model_options(parser)


def _box(text: str) -> tuple[int, int, int, int]:
    try:
        return box_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _settle_repeat(options: argparse.Namespace) -> None:
    """Leaves out what was recorded and does not go with what is given beside it.

    Raises ValueError for a recorded file that is missing, with the option that names it anew.
    """
    file, recorded = options.repeat, options.recorded

    def leave_out(*names: str):
        vars(options).update({name: None for name in names if getattr(options, name) == recorded.get(name)})

    if not options.isa:
        leave_out(*ISA_OPTIONS)
    if not options.window:
        leave_out("window_overlap")
    if options.model != recorded.get("model") and (options.model == ModelChoice.model or os.path.isdir(options.model)):
        leave_out("text_encoder", "vae")  # they are the recorded model's, and this one has its own
    for name, cure in ANEW.items():
        value = getattr(options, name)
        if value != recorded.get(name) or value == ModelChoice.model:
            continue
        for path in value if isinstance(value, list) else [value] if value else []:
            if not os.path.exists(path):
                raise ValueError(f"{file.name} was made with {path}, which is not there: {cure}.")
            if str(path) in options.elsewhere:
                logger.warning(
                    "%s records %s, which is not there as seen from that file: this folder's is taken.", file.name, path
                )


def run(options: argparse.Namespace) -> Outcome:
    if options.video is None or options.prompt is None:
        raise ValueError("Name the video and say what to change, or give --repeat a file that was edited before.")
    if options.repeat:
        _settle_repeat(options)
    if options.fps == 0:
        raise ValueError("--fps 0 is no frame rate: leave it out for the video's own.")
    edit = Edit(
        str(options.video), options.prompt, options.negative_prompt, options.seed, options.steps, options.guidance,
        options.frames, options.fps or Edit.fps, options.size, tuple(options.reference), options.whole_frame,
        options.start_frame, options.every_nth, options.mask, tuple(options.box), options.feather, options.match_colors,
        options.window, options.window_overlap,
    )  # fmt: skip
    out = options.out or options.video.parent / f"{options.video.stem}_edited.mp4"
    choice = model_choice(options)
    # What cannot be done is refused before any long work, the import of diffusers included.
    encoder_for(format_of(out))
    edit.check_files()
    choice.check_files()
    check_output(out)
    require("av")
    from ..pipelines.edit import edit_file, load

    if options.quiet:
        quiet_loading()
    path, facts = edit_file(load(choice), edit, out, progress=not options.quiet)
    if is_first():
        print(f"{path}: {facts['width']}×{facts['height']}, {facts['frames']} frames, {facts['fps']:g} fps")
        print(f"{facts['steps']} steps of {facts['tokens']:,} tokens, {facts['sampling_seconds']:.1f} s")
        for line in facts.get("isa", ()):
            print(line)
    return Outcome(Status.DONE, {"output": str(path), **facts})
