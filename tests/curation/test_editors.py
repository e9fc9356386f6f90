"""Editors of pairs besides LIVEditor: pipelines of diffusers with small random weights, and workflows on a real ComfyUI server."""

import itertools
import json
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("cv2", reason="the data extra is not installed")
pytest.importorskip("diffusers", reason="the diffusers extra is not installed")

import diffusers  # noqa: E402
from comfy_headless import ROOT  # noqa: E402
from liveditor_isa.checkpoint.keys import CheckpointError  # noqa: E402
from liveditor_isa.curation.editors import Request, WrongEdit, animate, best_edit, editor_of, pipeline  # noqa: E402
from liveditor_isa.curation.outcomes import Work  # noqa: E402
from liveditor_isa.curation.settings import Settings, StageChoice  # noqa: E402
from liveditor_isa.errors import NotFiniteError  # noqa: E402
from liveditor_isa.evaluation.frames import read_video, to_unit  # noqa: E402
from liveditor_isa.pipelines.pipeline import LIVEditorPipeline  # noqa: E402
from liveditor_isa.pipelines.request import ModelChoice  # noqa: E402
from liveditor_isa.video.mp4 import write_mp4  # noqa: E402
from PIL import Image  # noqa: E402
from small_detectors import write_detector, write_poses  # noqa: E402

FRAMES, SIZE = 5, (96, 64)
SAVED = {
    "class_type": "SaveVideo",
    "inputs": {"video": ["4", 0], "filename_prefix": "pairs", "format": "auto", "codec": "auto"},
}
NEGATIVE_VIDEO = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "%video%"}},
    "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
    "3": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
    "4": {"class_type": "CreateVideo", "inputs": {"images": ["3", 0], "fps": 8.0}},
    "5": SAVED,
    "6": {"class_type": "PreviewAny", "inputs": {"source": "%instruction%, %seed%"}},
}
NEGATIVE_PICTURE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "%frame%"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "ImageScale", "inputs": {"image": ["2", 0], "upscale_method": "bilinear", "width": "%width%", "height": "%height%", "crop": "disabled"}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "%instruction%"}},
}  # fmt: skip


@pytest.fixture
def request_of(tmp_path):
    """A clip and an edited first frame of it."""
    coarse = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(3))
    picture = torch.nn.functional.interpolate(coarse, (64, 128), mode="bicubic")[0].clamp(0, 1).movedim(0, -1)
    frames = torch.stack([picture.roll(index, 1)[:, 16:112] for index in range(FRAMES)])
    clip = write_mp4(tmp_path / "clip.mp4", [frames], Fraction(8), crf=10)
    target = write_mp4(tmp_path / "target.mp4", [1 - frames[:1]], Fraction(8), crf=10)

    number = itertools.count()

    def made(frames: int, seed: int = 0, steps: int = 2) -> Request:
        known, output = str(target) if frames > 1 else None, tmp_path / f"edit{next(number)}.mp4"
        return Request(str(clip), "make it a negative", frames, seed, steps, None, SIZE, known, output)

    return made


def choice(**settings) -> StageChoice:
    settings = Settings(frames=FRAMES, fps=8, width=SIZE[0], height=SIZE[1], **settings)
    return StageChoice(settings, ModelChoice(device="cpu"), (), True)


def made_by(editor, request) -> torch.Tensor:
    """[T, 3, H, W] in 0..1."""
    facts = editor.module.edit(editor.tools, request)
    assert facts["model"] and facts["edit_seconds"] >= 0
    assert not [*request.output.parent.glob("saved*")]
    return to_unit(read_video(str(request.output)).frames)


# Pipelines ------------------------------------------------------------------------------------------------------------

WAN = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 16, "text_dim": 256, "freq_dim": 32, "ffn_dim": 32,
    "num_layers": 2, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{name: a folder of the pipeline with random weights}, with LIVEditor-tiny's VAE and text encoder."""
    place = tmp_path_factory.mktemp("pipelines")
    tiny = LIVEditorPipeline.included(torch.float32)
    parts = {name: getattr(tiny, name) for name in ("tokenizer", "text_encoder", "vae")}
    parts["scheduler"] = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    torch.manual_seed(0)
    vace = diffusers.WanVACETransformer3DModel(in_channels=16, out_channels=16, vace_layers=[0], vace_in_channels=96, **WAN)
    after = diffusers.WanTransformer3DModel(in_channels=36, out_channels=16, **WAN)
    made = {
        "vace": diffusers.WanVACEPipeline(transformer=vace, **parts),
        "image to video": diffusers.WanImageToVideoPipeline(
            transformer=after, image_encoder=None, image_processor=None, **parts
        ),
        "kontext": _kontext(place),
        "animate": _animate(parts),
    }
    for name, pipe in made.items():
        pipe.save_pretrained(str(place / name))
    return {name: str(place / name) for name in made}


def _animate(parts):
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
    network = diffusers.WanAnimateTransformer3DModel(
        in_channels=36, latent_channels=16, out_channels=16, image_dim=16, inject_face_latents_blocks=2, motion_encoder_size=16,
        motion_encoder_channel_sizes={str(side): 8 for side in (4, 8, 16)}, motion_style_dim=16, motion_dim=4, motion_encoder_dim=16,
        face_encoder_hidden_dim=16, face_encoder_num_heads=2, **WAN,
    )  # fmt: skip
    return diffusers.WanAnimatePipeline(
        transformer=network, image_encoder=CLIPVisionModel(CLIPVisionConfig(patch_size=16, **size)),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32), **parts,
    )  # fmt: skip


def _kontext(place):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

    words = {
        word: number
        for number, word in enumerate(["<|startoftext|>", "<|endoftext|>", *"abcdefghiklmnorstv", "a</w>", "e</w>"])
    }
    (place / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
    (place / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    clip = CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    t5 = T5Config(vocab_size=512, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, latent_channels=4, shift_factor=0.0, scaling_factor=1.0,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, mid_block_add_attention=False,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    network = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1, joint_attention_dim=16,
        pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    return diffusers.FluxKontextPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=CLIPTextModel(text), tokenizer=clip,
        text_encoder_2=T5EncoderModel(t5), tokenizer_2=LIVEditorPipeline.included(torch.float32).tokenizer, transformer=network,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["vace", "image to video"])
def test_a_pipeline_makes_the_clip_from_its_target_frame(folders, request_of, name):
    editor = editor_of("pipeline", choice(), folders[name], FRAMES)
    one, other, again = (made_by(editor, request_of(FRAMES, seed)) for seed in (0, 1, 0))
    assert one.shape == (FRAMES, 3, SIZE[1], SIZE[0])
    assert torch.equal(one, again) and not torch.equal(one, other)


PERSON = animate.Person(
    (30.0, 10.0, 60.0, 60.0),
    np.array([(45, 16), (47, 14), (43, 14), (49, 15), (41, 15), (52, 24), (38, 24), (55, 34), (35, 34), (56, 44), (34, 44), (50, 40),
              (40, 40), (50, 50), (40, 50), (50, 58), (40, 58)], dtype=float),
    np.full(17, 0.9),
)  # fmt: skip


def test_wan_animate_changes_a_person_where_one_is(folders, request_of, monkeypatch, tmp_path):
    settings = {"pose_model": write_poses(tmp_path / "poses"), "detector_model": str(write_detector(tmp_path / "detector"))}
    with pytest.raises(ValueError, match="set pose_model to a ViTPose"):
        editor_of("pipeline", choice(), folders["animate"], FRAMES)
    monkeypatch.setattr(animate, "_labels_of_persons", lambda detector: {1})
    editor = editor_of("pipeline", choice(video_editor="pipeline", **settings), folders["animate"], FRAMES)
    monkeypatch.setattr(animate.Persons, "seen", lambda self, frames: [PERSON] * (len(frames) - 1) + [None])
    assert made_by(editor, request_of(FRAMES)).shape == (FRAMES, 3, SIZE[1], SIZE[0])
    given = animate.inputs(request_of(FRAMES), editor_persons(settings))
    poses, faces, masks = (given[f"{name}_video"] for name in ("pose", "face", "mask"))
    assert len(poses) == len(faces) == len(masks) == len(given["background_video"]) == FRAMES
    assert poses[0].getpixel((45, 20)) == (0, 0, 255) and not np.array(poses[-1]).any()  # from neck to nose
    assert np.array(faces[0]).any() and not np.array(faces[-1]).any()
    assert not np.array(given["background_video"][0])[np.array(masks[0]) > 0].any()  # who goes is not seen
    assert masks[0].getpixel((45, 30)) == 255 and masks[0].getpixel((10, 30)) == 0 and not np.array(masks[-1]).any()
    monkeypatch.setattr(animate.Persons, "seen", lambda self, frames: [None] * len(frames))
    with pytest.raises(ValueError, match="shows no person"):
        animate.inputs(request_of(FRAMES), editor_persons(settings))


def test_a_person_who_is_missed_for_a_moment_is_not_shown_as_before():
    other = PERSON._replace(box=(0.0, 0.0, 9.0, 9.0))
    assert animate._without_gaps([None, PERSON, None, None, other, None]) == [None, PERSON, PERSON, other, other, None]
    assert animate._without_gaps([None, None]) == [None, None]


def test_a_detector_and_vitpose_find_the_largest_person(tmp_path, monkeypatch):
    persons = editor_persons(
        {"pose_model": write_poses(tmp_path / "poses"), "detector_model": str(write_detector(tmp_path / "detector"))}
    )
    corners = torch.tensor([(0.0, 0.0, 90.0, 60.0), (4.0, 4.0, 30.0, 50.0), (40.0, 8.0, 80.0, 60.0)])
    names = {0: "car", 1: "Person"}
    monkeypatch.setattr(animate.objects, "seen", lambda *_: [animate.objects.Boxes(corners, torch.tensor([0, 1, 1]))])
    with pytest.raises(ValueError, match="knows no persons"):
        animate.Persons.of(
            replace(
                Settings(video_editor="pipeline"),
                pose_model=persons.poses.repository,
                detector_model=persons.detector.repository,
            )
        )
    monkeypatch.setattr(animate.load(persons.detector)[0].config, "id2label", names)
    (found,) = persons.seen([Image.new("RGB", SIZE, (90, 40, 200))])
    assert found.box == (40.0, 8.0, 80.0, 60.0) and found.points.shape == (17, 2) and found.sure.shape == (17,)
    assert np.isfinite(found.points).all()


def editor_persons(settings) -> animate.Persons:
    found = (
        (settings["detector_model"], "main", "AutoModelForObjectDetection"),
        (settings["pose_model"], "main", "VitPoseForPoseEstimation"),
    )
    return animate.Persons(*(animate.HubModel(*one) for one in found))


def test_vace_keeps_the_target_frame_and_follows_the_clip(request_of):
    request = request_of(FRAMES)
    given = pipeline.controlled(request, pipeline.grey)
    assert len(given["video"]) == len(given["mask"]) == FRAMES
    assert [mask.getextrema() for mask in given["mask"]] == [(0, 0)] + [(255, 255)] * (FRAMES - 1)
    first, clip = read_video(request.target_frame).frames[0], list(pipeline.pictures(request.video, FRAMES))
    assert torch.equal(torch.tensor(list(given["video"][0].getdata())).view(first.shape), first.int())
    assert given["reference_images"] == [given["video"][0]]
    assert [frame.tobytes() for frame in given["video"][1:]] == [pipeline.grey(frame).tobytes() for frame in clip[1:]]


def test_a_depth_model_says_what_is_followed(folders, request_of, tmp_path):
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    config = DPTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16, is_hybrid=False,
        backbone_out_indices=[0, 1], neck_hidden_sizes=[8, 8], reassemble_factors=[1, 0.5], fusion_hidden_size=8, neck_ignore_stages=[],
    )  # fmt: skip
    torch.manual_seed(1)
    DPTForDepthEstimation(config).save_pretrained(tmp_path / "depth")
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "depth")
    plain, deep = (
        made_by(
            editor_of("pipeline", choice(video_editor="pipeline", depth_model=depth), folders["vace"], FRAMES),
            request_of(FRAMES),
        )
        for depth in (None, str(tmp_path / "depth"))
    )
    assert plain.shape == deep.shape and not torch.equal(plain, deep)


def test_a_pipeline_that_edits_pictures_makes_target_frames(folders, request_of):
    editor = editor_of("pipeline", choice(), folders["kontext"], 1)
    assert made_by(editor, request_of(1, steps=1)).shape == (1, 3, SIZE[1], SIZE[0])


def test_what_a_pipeline_cannot_do_is_said_before_anything_is_made(folders, tmp_path):
    for name, frames in (("kontext", FRAMES), ("vace", 1), ("image to video", 1)):
        with pytest.raises(ValueError, match="makes no"):
            editor_of("pipeline", choice(), folders[name], frames)
    with pytest.raises(ValueError, match="needs the setting frame_model or video_model"):
        editor_of("pipeline", choice(), None, 1)
    with pytest.raises(CheckpointError, match="holds no pipeline of diffusers"):
        editor_of("pipeline", choice(), str(tmp_path), 1)


@pytest.mark.parametrize("editor", ["liveditor", "workflow"])
def test_a_depth_model_that_the_video_editor_would_ignore_is_refused_with_the_settings(editor):
    """It was ignored in silence, and the clips did not follow the depth that was asked for."""
    with pytest.raises(ValueError, match=f"{editor} follows no depth maps: set video_editor"):
        choice(video_editor=editor, depth_model="some/depth")
    choice(video_editor="somebodys.module", depth_model="some/depth")


def test_a_depth_model_that_the_pipeline_would_ignore_is_refused_before_anything_is_made(folders):
    with_depth = choice(frame_editor="pipeline", video_editor="pipeline", depth_model="some/depth")
    with pytest.raises(ValueError, match="WanImageToVideoPipeline follows no depth maps"):
        editor_of("pipeline", with_depth, folders["image to video"], FRAMES)
    editor_of("pipeline", with_depth, folders["kontext"], 1)  # of target frames, which follow nothing


class Unasked:
    """It has pictures or clips of a picture, whatever is wanted."""

    def __call__(self, image, num_frames=None, num_inference_steps=2): ...


class WithMask:
    def __call__(self, prompt, image, mask_image, num_inference_steps=2): ...


@pytest.mark.parametrize(("pipe", "frames"), [(Unasked(), FRAMES), (WithMask(), 1)])
def test_a_pipeline_that_takes_no_instruction_or_wants_a_mask_is_no_editor(monkeypatch, pipe, frames):
    """The instruction was left out in silence, and pairs were made."""
    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", lambda model, **more: pipe)
    with pytest.raises(ValueError, match="makes no"):
        editor_of("pipeline", choice(), "some/model", frames)


def test_a_result_that_is_not_finite_is_no_edit(request_of):
    """It became a black video."""
    made = SimpleNamespace(images=torch.full((1, 3, SIZE[1], SIZE[0]), torch.nan))
    tools = pipeline.Tools(lambda: made, "some/model", {}, lambda request: {}, Fraction(8))
    with pytest.raises(NotFiniteError, match="some/model made NaN"):
        pipeline.edit(tools, request_of(1))


# Workflows ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def workflow_of(tmp_path):
    def written(workflow: dict) -> str:
        path = tmp_path / "workflow.json"
        path.write_text(json.dumps(workflow), encoding="utf-8")
        return str(path)

    return written


def test_a_workflow_edits_clips_and_frames_on_the_server(server, request_of, workflow_of):
    for workflow, frames in ((NEGATIVE_VIDEO, FRAMES), (NEGATIVE_PICTURE, 1)):
        editor = editor_of("workflow", choice(comfyui_url=server.url), workflow_of(workflow), frames)
        request = request_of(frames)
        edited = made_by(editor, request)
        source = to_unit(read_video(request.video).frames[:frames])
        assert edited.shape == source.shape
        assert (edited - (1 - source)).abs().mean() < 0.02


def test_what_a_server_says_of_a_workflow_is_one_sentence(server, request_of, workflow_of):
    def failing(**changed) -> str:
        workflow = {name: node for name, node in {**NEGATIVE_PICTURE, **changed}.items() if node}
        editor = editor_of("workflow", choice(comfyui_url=server.url), workflow_of(workflow), 1)
        with pytest.raises(WrongEdit) as error:
            editor.module.edit(editor.tools, request_of(1))
        assert "\n" not in str(error.value)
        return str(error.value)

    unknown = {"class_type": "NoSuchNode", "inputs": {"image": ["1", 0]}}
    assert "NoSuchNode" in failing(**{"2": unknown})
    scaled = {**NEGATIVE_PICTURE["3"], "inputs": {**NEGATIVE_PICTURE["3"]["inputs"], "upscale_method": "magic"}}
    assert "ImageScale" in failing(**{"3": scaled})
    shown = {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}}
    text = {"class_type": "PreviewAny", "inputs": {"source": "%instruction%"}}
    assert "saved nothing" in failing(**{"4": shown, "5": text})


def test_what_is_no_workflow_is_said_before_anything_is_made(server, workflow_of, tmp_path):
    def refused(workflow, frames=1, url=server.url) -> str:
        with pytest.raises(ValueError) as error:
            editor_of("workflow", choice(comfyui_url=url), workflow, frames)
        return str(error.value)

    assert "needs the setting" in refused(None)
    assert "cannot be read" in refused(str(tmp_path / "none.json"))
    assert "Export (API)" in refused(workflow_of({"nodes": [], "links": []}))
    assert "%colour%" in refused(
        workflow_of({**NEGATIVE_PICTURE, "5": {"class_type": "PreviewAny", "inputs": {"source": "%colour%"}}})
    )
    assert "must take %instruction%" in refused(workflow_of({"1": NEGATIVE_PICTURE["1"]}))
    after = {**NEGATIVE_PICTURE, "5": {"class_type": "LoadImage", "inputs": {"image": "%target_frame%"}}}
    assert "a workflow of target frames makes" in refused(workflow_of(after))
    assert "does not answer" in refused(workflow_of(NEGATIVE_PICTURE), url="http://127.0.0.1:9")


# Modules of others ----------------------------------------------------------------------------------------------------


def test_the_examples_module_is_a_planner_and_an_editor(request_of, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples/train")
    editor = editor_of("thermal", choice(), None, FRAMES)
    request = request_of(FRAMES)
    (proposal,) = editor.module.propose(choice().settings, Work(request.video))
    work = Work(request.video, {"proposal": proposal})
    file, made = best_edit(editor, choice().settings, work, tmp_path / "edit.mp4", "videos", 1, lambda *_: {})
    assert file.is_file() and made["model"] == "thermal@1" and made["scores"]["present"] > 14.58
