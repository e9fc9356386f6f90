"""Attach ISA: sliders for In-context Sparse Attention on a model."""

from __future__ import annotations

import logging

import comfy.model_management
from comfy_api.latest import io

from ..comfyui.attach import EIGHT_BIT, attach_isa, can_attach, implementation
from ..isa_core import BACKENDS, CONTEXT_TAILS, SHARPNESS_METRICS, TRAINING_FREE, ISAConfig
from ..isa_core.config import ERROR_AWARE, SEGMENT_TOP_K
from ..runtime.kept_context import AS_COMPUTED, AUTO, EACH, KEEPING_COPIES, KEEPING_DEVICES, KEEPING_DTYPES, Keeping
from ..runtime.live import CONTEXT_REFRESH, MOST_REFRESH, USUAL_REFRESH, LiveSettings, Settings, read_changes, routed
from ..runtime.schedule import MIN_TOKENS, Schedule
from .live import CHANGED, LIVE_CHANGES, PageWatcher
from .node_text import OUTSIDE_A_GRAPH

logger = logging.getLogger(__name__)


def _ratio(name: str, default: float, tooltip: str):
    display = io.NumberDisplay.slider
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.005, display_mode=display, tooltip=tooltip)


def way_to_route(routing: dict) -> dict:
    """The value of the dynamic input **routing**, {"routing": the choice, its inputs}, in `live.routed`'s terms."""
    choice, inputs = routing["routing"], {name: value for name, value in routing.items() if name != "routing"}
    return {SEGMENT_TOP_K: True} if choice == SEGMENT_TOP_K else inputs


class AttachISA(io.ComfyNode):
    hidden = OUTSIDE_A_GRAPH

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LIVEditorAttachISA",
            display_name="Attach ISA (Sparse Attention)",
            category="LIVEditor",
            description=(
                "Reduces the cost of in-context editing with In-context Sparse Attention: each head keeps the context blocks that "
                "receive most attention; dense query blocks attend exactly, sparse query blocks approximate. Works on LIVEditor, "
                "Bernini, SCAIL-2, MiniMax H3, LTX, FLUX Kontext, Qwen-Image-Edit; other models pass through unchanged."
            ),
            search_aliases=["ISA", "sparse", "in-context sparse attention", "sparse attention", "speed up video editing", "edit video", "LIVEditor"],
            inputs=[
                io.Model.Input("model", tooltip="A model with context: LIVEditor, Bernini, SCAIL-2, MiniMax H3, LTX, FLUX Kontext, Qwen-Image-Edit."),
                io.Boolean.Input(
                    "enabled", default=True, label_on="on", label_off="off",
                    tooltip="Off: full attention. Like the settings below, it can be switched during a run.",
                ),
                _ratio(
                    "keep_ratio", 1.0,
                    "Share of the context video's blocks that each attention head keeps. Lower is faster. With dense query blocks, quality "
                    "depends most on this setting on LIVEditor-tiny; the paper uses 0.125. With segment_top_k it does nothing.",
                ),
                io.DynamicCombo.Input(
                    "routing",
                    # The first is the default: the choice for models without ISA training, which most are.
                    options=[
                        io.DynamicCombo.Option(SEGMENT_TOP_K, []),
                        io.DynamicCombo.Option("ratio", [
                            _ratio(
                                "dense_query_ratio", 0.5,
                                "Share of query blocks that are dense: those of highest sharpness, which attend exactly. Lower is "
                                "faster. On LIVEditor-tiny, quality hardly depends on this setting; the paper uses 0.5.",
                            ),
                        ]),
                        io.DynamicCombo.Option("threshold", [
                            io.Float.Input(
                                "sharpness_threshold", default=0.00001, min=0.0, max=1.0, step=0.000001, round=False,
                                tooltip="A query block is dense when its sharpness exceeds this value. Higher is faster. The scale "
                                "depends on the measure: variance is about 1e-6 to 1e-3, top_mass 0 to 1. `liveditor calibrate` finds a value for a model.",
                            ),
                        ]),
                        io.DynamicCombo.Option(ERROR_AWARE, [
                            io.Float.Input(
                                "error_threshold", default=0.0, min=0.0, max=10.0, step=0.0001, round=False,
                                tooltip="0: exact_ratio is the share of the pairs of blocks that attend exactly. Above 0 it is all pairs whose "
                                "expected error is at least this, more in busy videos than in calm ones; about 0.001 to 0.1. `liveditor calibrate` finds a "
                                "value for a model.",
                            ),
                        ]),
                    ],
                    tooltip="Which query blocks are dense: a fixed share, or all whose sharpness exceeds a threshold. error_aware: none; "
                    "exact_ratio is then one budget for all heads, and goes where a mean would be the worst stand-in. segment_top_k: none; each "
                    "attends exactly to exact_ratio of the target's blocks and of each context's: those that get most of its attention. "
                    "Nearest to full attention on models without ISA training.",
                ),
                io.Float.Input(
                    # A number field: a slider has no room for four decimals. The page rounds to the decimals of the step.
                    "exact_ratio", default=TRAINING_FREE.exact_ratio, min=0.0, max=1.0, step=0.0005,
                    tooltip="Share of key blocks to which a sparse query block attends exactly; each of the others counts by its "
                    "mean. With segment_top_k it decides speed and quality: Balanced has 0.28, Fast 0.125. With dense query blocks it can be "
                    "low; the paper uses 0.0625.",
                ),
                io.Combo.Input(
                    "sharpness", options=list(SHARPNESS_METRICS), default="variance", advanced=True,
                    tooltip="How sharpness is measured: variance, as in the paper, or top_mass, as in the released code.",
                ),
                io.Combo.Input(
                    "context_tail", options=list(CONTEXT_TAILS), default="drop", advanced=True,
                    tooltip="What context blocks that were not kept contribute: nothing (drop, as in the paper) or their mean (taylor: "
                    "closer to full attention at little cost; dense query blocks then run on this pack's or PyTorch's attention).",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, advanced=True,
                    tooltip="Denoising runs from 0 to 1. Attention is full before this point.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, advanced=True,
                    tooltip="Denoising runs from 0 to 1. Attention is full after this point.",
                ),
                io.String.Input(
                    "dense_blocks", default="", advanced=True,
                    tooltip='Transformer blocks that keep full attention, such as "0-2,-1" for the first three and the last.',
                ),
                io.Int.Input(
                    "min_tokens", default=MIN_TOKENS, min=0, max=10_000_000, step=64, advanced=True,
                    tooltip="Shorter sequences, in tokens of target and context together, keep full attention: ISA gains nothing there.",
                ),
                io.Combo.Input(
                    "backend", options=[*BACKENDS, EIGHT_BIT], default="auto", advanced=True,
                    tooltip="auto selects the fastest backend that runs here and shows its name; torch runs everywhere; triton needs the "
                    "GPU kernels; 8-bit is triton with the dense query blocks in 8 bits: faster, with a small error, for GPUs with FP8 "
                    "(Ada and newer) and context_tail drop. A backend chosen by name is an error where it cannot run.",
                ),
                io.String.Input(
                    LIVE_CHANGES, default="", optional=True, advanced=True,
                    tooltip="The page writes this after a run whose settings were changed during the run. It repeats that run step by "
                    "step. Empty: the values above apply throughout.",
                ),
                # The last, so that workflows saved without it keep the order of their values.
                io.Float.Input(
                    CONTEXT_REFRESH, default=USUAL_REFRESH, min=0.0, max=MOST_REFRESH, step=0.05, display_mode=io.NumberDisplay.slider, optional=True,
                    tooltip="How seldom the context video is computed anew: 0 in every step, 1 in about 8 of 32 steps, 2 in 5. In the others "
                    "its keys and values of an earlier step serve, which take memory. Higher is faster and less exact.",
                ),
                io.Combo.Input(
                    "context_device", options=list(KEEPING_DEVICES), default=AUTO, optional=True, advanced=True,
                    tooltip="Where context_refresh keeps what it reuses: gpu, cpu (main memory, copied to the GPU block by block), or auto: "
                    "the GPU if 15 % of its memory stay free, else main memory, else nothing is reused.",
                ),
                io.Combo.Input(
                    "context_dtype", options=list(KEEPING_DTYPES), default=AS_COMPUTED, optional=True, advanced=True,
                    tooltip="In what context_refresh keeps it: default is as computed, int8 takes about half of the memory of 16 bits, with a "
                    "small error.",
                ),
                io.Combo.Input(
                    "context_copies", options=list(KEEPING_COPIES), default=EACH, optional=True, advanced=True,
                    tooltip="With guidance: each keeps a context for every pass; one keeps that of the pass with the instruction, which all "
                    "passes reuse: half of the memory, with slightly different results.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with ISA attached. The input model is not changed.")],
            hidden=[io.Hidden.unique_id],
            # Without this, core's cache runs equal nodes once; each has its own panel and live settings.
            not_idempotent=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        """Settings changed live alter the result, so the cache must not return it for the node's own settings."""
        return CHANGED[cls.hidden.unique_id]

    @classmethod
    def execute(
        cls, model, enabled, keep_ratio, routing, exact_ratio, sharpness, context_tail,
        start_percent, end_percent, dense_blocks, min_tokens, backend, live_changes="",
        context_refresh=USUAL_REFRESH, context_device=AUTO, context_dtype=AS_COMPUTED, context_copies=EACH,
    ) -> io.NodeOutput:  # fmt: skip
        watcher = PageWatcher(cls.hidden.unique_id)
        if not can_attach(model):
            name = type(model.model).__name__
            message = f"ISA: {name} has no in-context attention, the model passes through unchanged"
            logger.info(message)
            watcher.say(message)
            return io.NodeOutput(model)

        config = ISAConfig(
            keep_ratio=keep_ratio,
            **routed(way_to_route(routing)),
            exact_ratio=exact_ratio,
            sharpness=sharpness,
            context_tail=context_tail,
        )
        schedule = Schedule(start_percent, end_percent, dense_blocks, min_tokens)
        device = comfy.model_management.get_torch_device()
        live = LiveSettings(
            Settings(config, enabled, context_refresh),
            read_changes(live_changes),
            lambda config: implementation(backend, device, config),
        )
        keeping = Keeping(context_device, context_dtype, context_copies)
        attached = attach_isa(model, live, schedule, backend, watcher.say, watcher, keeping)
        name, reason = implementation(backend, device, config)
        watcher.say(f"Where ISA acts, it runs on {name} ({reason})")
        return io.NodeOutput(attached)
