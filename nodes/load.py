"""Load LIVEditor: its diffusion model, text encoder and VAE in one node."""

from __future__ import annotations

import os

import folder_paths
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ..checkpoint import included
from ..comfyui.loaders import WEIGHT_OPTIONS, load_diffusion_model, load_text_encoder, load_vae
from .node_text import show_on_node

CONVERT, DIRECT = "convert once to safetensors", "load directly"

PARTS = {
    "diffusion_model": ("diffusion_models", "liveditor", "the LIVEditor checkpoint"),
    "text_encoder": ("text_encoders", "umt5", "UMT5-XXL, such as umt5_xxl_fp8_e4m3fn_scaled.safetensors"),
    "vae": ("vae", "wan", "the Wan 2.1 VAE, wan_2.1_vae.safetensors"),
}
"""Input name: (folder under models/, what a fitting file's name contains, what belongs there)."""


def _picker(name: str, tooltip: str) -> io.Combo.Input:
    folder = PARTS[name][0]
    options = [included.NAME, *folder_paths.get_filename_list(folder)]
    return io.Combo.Input(name, options=options, default=_default(name), tooltip=f"{tooltip} From models/{folder}.")


def _default(name: str) -> str:
    """The included model, or the fitting files if LIVEditor's diffusion model is installed."""
    return _fitting("diffusion_model") and _fitting(name) or included.NAME


def _fitting(name: str) -> str | None:
    folder, hint, _ = PARTS[name]
    return next((file for file in folder_paths.get_filename_list(folder) if hint in file.lower()), None)


class LoadLIVEditor(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LIVEditorLoad",
            display_name="Load LIVEditor",
            category="LIVEditor",
            description="Loads the LIVEditor video editing model with its text encoder and VAE. "
            "LIVEditor-tiny, which is included, edits clips in seconds without a GPU, but understands only simple instructions: "
            "styles of the whole video, and coloured shapes. The node's help lists them.",
            search_aliases=["LIVEditor", "edit", "edit video", "load liveditor", "video editing model", "in-context video editing", "checkpoint"],
            inputs=[
                _picker(
                    "diffusion_model",
                    "LIVEditor's diffusion model, the official .bin or a .safetensors. A plain Wan model does not work.",
                ),
                _picker("text_encoder", "UMT5-XXL, or the small encoder of a small LIVEditor model."),
                _picker("vae", "The Wan 2.1 VAE (16 channels), not the one of Wan 2.2 5B."),
                io.Combo.Input(
                    "weight_dtype", options=list(WEIGHT_OPTIONS), default="default", advanced=True,
                    tooltip="default runs in bf16 where the GPU supports it, an fp16 file in fp16; the fp8 types halve the memory of the weights.",
                ),
                io.Combo.Input(
                    "bin_checkpoint", options=[CONVERT, DIRECT], default=CONVERT, advanced=True,
                    tooltip="For a .bin file: write a .safetensors beside it the first time and use that afterwards "
                    "(faster loading, low memory), or read the .bin each time.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="For Attach ISA, or directly for the sampler."),
                io.Clip.Output(tooltip="For CLIP Text Encode: the instruction, and the negative prompt."),
                io.Vae.Output(tooltip="For In-Context References and Decode Video."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, diffusion_model, text_encoder, vae):
        """Stops core from rejecting a missing file with "value not in list"; `execute` says which file belongs where."""
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        """Changes when a file is replaced under its name, and on every call while one is missing."""
        files = [os.stat(_path_of(part, inputs[part])) for part in PARTS]
        return [(file.st_ino, file.st_size, file.st_mtime_ns) for file in files]

    @classmethod
    def execute(cls, diffusion_model, text_encoder, vae, weight_dtype, bin_checkpoint) -> io.NodeOutput:
        # All files are checked first, then the small parts loaded, so that errors come before gigabytes are read.
        files = {"diffusion_model": diffusion_model, "text_encoder": text_encoder, "vae": vae}
        included.check_parts(files)
        paths = {name: _path_of(name, file) for name, file in files.items()}
        decoder = load_vae(paths["vae"])
        encoder = load_text_encoder(paths["text_encoder"], tell=_show_unknown_words)
        model = load_diffusion_model(paths["diffusion_model"], weight_dtype, convert=bin_checkpoint == CONVERT)
        return io.NodeOutput(model, encoder, decoder)


def _show_unknown_words(unknown: list[str]):
    """Show the unknown words on the node that encodes the text."""
    running = get_executing_context()
    show_on_node(
        running and running.node_id, f"This model was never taught: {', '.join(unknown)}. See the help of Load LIVEditor."
    )


def _path_of(name: str, file: str | None) -> str:
    if file == included.NAME:
        return included.path_of(name)
    folder, _, what = PARTS[name]
    path = file and folder_paths.get_full_path(folder, file)
    if not path:
        fault = f"'{file}' is not in models/{folder}" if file else f"models/{folder} holds no file"
        raise FileNotFoundError(f"Load LIVEditor, {name}: {fault}. Put {what} there, press R to refresh and pick it.")
    return path
