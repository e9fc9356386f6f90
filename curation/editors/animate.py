"""What Wan-Animate is given besides the target frame (arXiv 2509.14055): a person's pose and face in every frame of the clip, and where the
person is. Its mode "replace" then changes the person, who moves as before, and leaves the rest of each frame as it is.

A detector finds the person, ViTPose the pose. The released preprocessing draws hands too and follows outlines: this one draws the body, by
OpenPose's colours, and takes the person's box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from ...evaluation.metrics.features import HubModel, load, ready
from .. import objects
from ..settings import Settings
from . import Request, pictures, target_frame

SEGMENT, LONGEST = 77, 81
"""Frames that Wan-Animate makes at a time, and how many it is asked for at once: two segments for Wan's usual 81 would be twice the work."""

SURE = 0.3
"""Confidence from which a keypoint is drawn, as in OpenPose's and DWPose's drawings."""

FACE_SIDE = 512
GROWN = 0.15
"""Share of a box's sides by which it is widened on each side, for hair and clothes of another cut."""

NOSE, SHOULDERS = 0, (5, 6)
FACE = range(5)
NECK = 17
"""Behind COCO's 17 keypoints: between the shoulders."""

LIMBS = (
    ((NECK, 6), (255, 0, 0)), ((NECK, 5), (255, 85, 0)), ((6, 8), (255, 170, 0)), ((8, 10), (255, 255, 0)), ((5, 7), (170, 255, 0)),
    ((7, 9), (85, 255, 0)), ((NECK, 12), (0, 255, 0)), ((12, 14), (0, 255, 85)), ((14, 16), (0, 255, 170)), ((NECK, 11), (0, 255, 255)),
    ((11, 13), (0, 170, 255)), ((13, 15), (0, 85, 255)), ((NECK, NOSE), (0, 0, 255)), ((NOSE, 2), (85, 0, 255)), ((2, 4), (170, 0, 255)),
    ((NOSE, 1), (255, 0, 255)), ((1, 3), (255, 0, 170)),
)  # fmt: skip
"""Ends by COCO's numbers, and OpenPose's colours."""


class Person(NamedTuple):
    """In one frame. box: left, top, right, bottom in pixels. points: [17, 2] in pixels, by COCO's numbers; sure: [17], 0 to 1."""

    box: tuple[float, float, float, float]
    points: np.ndarray
    sure: np.ndarray


class Persons(NamedTuple):
    """The models that find them."""

    detector: HubModel
    poses: HubModel

    @classmethod
    def of(cls, settings: Settings) -> Persons:
        """Raises ValueError where the settings name no models, RuntimeError where one is not there, each a sentence."""
        if not settings.pose_model or not settings.detector_model:
            raise ValueError(
                "WanAnimatePipeline follows a person: set pose_model to a ViTPose, and detector_model to a detector that knows persons."
            )
        found = cls(
            HubModel(settings.detector_model, "main", "AutoModelForObjectDetection"),
            HubModel(settings.pose_model, "main", "VitPoseForPoseEstimation"),
        )
        for model in found:
            ready(model)
        if not _labels_of_persons(found.detector):
            raise ValueError(f"The detector {settings.detector_model} knows no persons: name one whose labels have a person.")
        return found

    @torch.no_grad()
    def seen(self, frames: Sequence[Image.Image]) -> list[Person | None]:
        """The largest person of each frame; None where there is none."""
        return [self._seen(frame) for frame in frames]

    def _seen(self, frame: Image.Image) -> Person | None:
        (boxes,) = objects.seen(self.detector, torch.from_numpy(np.array(frame))[None])
        persons = _labels_of_persons(self.detector)
        corners = [tuple(map(float, one)) for one, label in zip(boxes.corners, boxes.labels) if int(label) in persons]
        if not corners:
            return None
        left, top, right, bottom = box = max(corners, key=lambda one: (one[2] - one[0]) * (one[3] - one[1]))
        network, processor = load(self.poses)
        inside = [[[left, top, right - left, bottom - top]]]
        experts = getattr(network.config.backbone_config, "num_experts", 1)
        of_coco = {"dataset_index": torch.tensor([0])} if experts > 1 else {}
        out = network(**processor(frame, boxes=inside, return_tensors="pt"), **of_coco)
        ((pose,),) = processor.post_process_pose_estimation(out, boxes=inside)
        return Person(box, pose["keypoints"].numpy(), pose["scores"].numpy())


def _labels_of_persons(detector: HubModel) -> set[int]:
    return {int(number) for number, name in load(detector)[0].config.id2label.items() if name.lower() == "person"}


def inputs(request: Request, persons: Persons) -> dict:
    """Of the pipeline's call. Raises ValueError for a clip without a person."""
    frames = [*pictures(request.video, request.frames)]
    found = _without_gaps(persons.seen(frames))
    if not any(found):
        raise ValueError("The clip shows no person, whom Wan-Animate could change: leave such clips to another video editor.")
    size = frames[0].size
    masks = [whereabouts(one, size) for one in found]
    black = Image.new("RGB", size)
    return {
        "image": target_frame(request),
        "pose_video": [drawn(one, size) for one in found],
        "face_video": [face(frame, one) for frame, one in zip(frames, found)],
        # The person who goes is not to be seen, as in the released preprocessing.
        "background_video": [Image.composite(black, frame, mask) for frame, mask in zip(frames, masks)],
        "mask_video": masks,
        "mode": "replace",
        "segment_frame_length": request.frames if request.frames <= LONGEST else SEGMENT,
    }


def _without_gaps(found: list[Person | None]) -> list[Person | None]:
    """Between two frames with a person the nearest stands for one that was missed, who would else be shown as before."""
    at = [number for number, one in enumerate(found) if one]
    between = range(at[0], at[-1] + 1) if at else range(0)
    return [
        found[min(at, key=lambda each: abs(each - number))] if number in between else one for number, one in enumerate(found)
    ]


def drawn(person: Person | None, size: tuple[int, int]) -> Image.Image:
    """The pose before black."""
    picture = Image.new("RGB", size)
    if person is None:
        return picture
    draw, width = ImageDraw.Draw(picture), max(2, round(max(size) / 150))
    points = np.concatenate([person.points, person.points[[*SHOULDERS]].mean(0, keepdims=True)])
    sure = np.append(person.sure, person.sure[[*SHOULDERS]].min())
    for ends, colour in LIMBS:
        if min(sure[[*ends]]) >= SURE:
            draw.line([tuple(points[end]) for end in ends], fill=colour, width=width)
    return picture


def face(frame: Image.Image, person: Person | None) -> Image.Image:
    """Square, black where none is seen."""
    seen = [] if person is None else [number for number in FACE if person.sure[number] >= SURE]
    if person is None or NOSE not in seen or len(seen) < 2:
        return Image.new("RGB", (FACE_SIDE, FACE_SIDE))
    points = person.points[seen]
    half = 1.2 * float((points.max(0) - points.min(0)).max()) + 1
    x, y = points.mean(0)
    corners = tuple(round(float(each)) for each in (x - half, y - half, x + half, y + half))
    return frame.crop(corners).resize((FACE_SIDE, FACE_SIDE))  # black beyond the frame


def whereabouts(person: Person | None, size: tuple[int, int]) -> Image.Image:
    """White where the person may be, who is drawn anew there."""
    mask = Image.new("L", size)
    if person is not None:
        left, top, right, bottom = person.box
        wider, higher = GROWN * (right - left), GROWN * (bottom - top)
        ImageDraw.Draw(mask).rectangle((left - wider, top - higher, right + wider, bottom + higher), fill=255)
    return mask
