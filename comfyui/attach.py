"""Attach ISA to a ComfyUI model: one attention override and two wrappers on a clone, nothing global."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.ldm.wan.model import WanModel
from comfy_execution.utils import get_executing_context

from ..isa_core import ISAConfig, in_context_sparse_attention, resolve_backend, resolve_dense
from ..runtime.finite import GUARDED, FiniteGuard
from ..runtime.heatmap import OFF, HeatMaps
from ..runtime.in_context import IN_CONTEXT, InContextCall, InContextNetwork
from ..runtime.live import LiveSettings
from ..runtime.monitor import StepMonitor
from ..runtime.read_back import ReadBack
from ..runtime.report import RunReport
from ..runtime.schedule import Schedule
from . import windows
from .compiled import apart_when_compiled
from .memory import count_context
from .native_context import native_layout
from .scene import Part, scene

KEY = "liveditor_isa"
OVERRIDE = "optimized_attention_override"

EIGHT_BIT = "8-bit"
"""The choice of a backend that is Triton with its 8-bit kernel for the sharp query group."""


def can_attach(model) -> bool:
    """Whether the model's diffusion network knows in-context attention: LIVEditor, or core's Wan with `context_latents`.

    Wan variants with a forward pass of their own (VACE, camera, ...) append other tokens and are left alone.
    """
    network = model.model.diffusion_model
    return isinstance(network, InContextNetwork) or (
        isinstance(network, WanModel)
        and type(network).forward_orig is WanModel.forward_orig
        and type(network).forward is WanModel.forward
    )


def implementation(backend: str, device: torch.device, config: ISAConfig) -> tuple[str, str]:
    """(backend, why that one) for a choice on the node. Raises BackendUnavailable when a choice by name cannot run."""
    if backend != EIGHT_BIT:
        return resolve_backend(backend, device, config=config)
    name, reason = resolve_backend("triton", device, config=config)
    resolve_dense("8bit", name, device, config.context_tail)
    return name, f"{reason}, sharp blocks in 8 bits"


class Watcher:
    """Whoever wants to know of sampling runs, and to change them; this one does not.

    Called from the sampler's thread.
    """

    def started(self, live: LiveSettings, steps: int, parts: list[Part]) -> str:
        """A sampling run of so many steps begins, and `live` may be told. Returns how much of heat maps to make."""
        return OFF

    def stepped(self, row: dict):
        """An evaluation of the model is over: `StepMonitor`'s row."""

    def mapped(self, at: int, blocks: list[int], maps: ReadBack):
        """Its heat maps: of which transformer blocks, and the maps, [3, blocks of tokens] each."""

    def ended(self, live: LiveSettings):
        """It is over, or was stopped."""


def attach_isa(
    model, live: LiveSettings, schedule: Schedule, backend: str, notify: Callable[[str], None], watcher: Watcher | None = None
):
    """A clone of ModelPatcher `model` whose in-context self-attention runs ISA. An earlier ISA on it is replaced.

    live: the settings, step by step. notify: called with a summary after every sampling run.
    Raises BackendUnavailable when `backend` was chosen by name and cannot run.
    """
    implementation(backend, comfy.model_management.get_torch_device(), live.first.config)
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    previous = options.get(OVERRIDE)
    if isinstance(previous, ISAOverride):
        previous = previous.previous
    override = ISAOverride(live, schedule, backend, previous, notify, watcher or Watcher())
    options[OVERRIDE] = override
    for kind, wrapper in (
        (comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, override.around_sampling),
        (comfy.patcher_extension.WrappersMP.PREDICT_NOISE, override.around_step),
        (comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, override.around_model),
    ):
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    # Before the context is counted.
    clone.remove_wrappers_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, windows.KEY)
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, windows.KEY, windows.around_prepare)
    count_context(clone)
    return clone


class ISAOverride:
    """The attention override of one Attach ISA node; chains the override it found."""

    def __init__(self, live, schedule, backend, previous, notify, watcher):
        self.live, self.schedule, self.backend = live, schedule, backend
        self.previous, self.notify, self.watcher = previous, notify, watcher
        self.settings = live.first
        """Of the evaluation that is going on."""
        self.sigmas: tuple[float, float] | None = None
        self.in_schedule = True
        self.parts: list[Part] = []
        self.report, self.monitor, self.maps = RunReport(), StepMonitor(""), HeatMaps(OFF)
        # Core's MultiGPU CFG Split calls the model from a thread per GPU.
        self._recording = threading.Lock()
        self.guard = FiniteGuard()

    def around_sampling(self, executor, *args, **kwargs):
        """OUTER_SAMPLE: find the sigmas between which ISA acts (model sampling may be patched after attaching), report."""
        patcher = executor.class_obj.model_patcher
        self.sigmas = self._acting_between(patcher.get_model_object("model_sampling"))
        running = get_executing_context()
        noise, sigmas = _noise_and_sigmas(*args, **kwargs)
        timed = patcher.patches_uuid, patcher.model.get_dtype_inference()
        self.report, self.monitor = RunReport(), StepMonitor(timed, sigmas)
        self.guard = FiniteGuard()
        self.live.begin(running and running.prompt_id, running.node_id if running else "")
        self.parts = scene(executor.class_obj, noise)
        self.maps = HeatMaps(self.watcher.started(self.live, len(sigmas) - 1, self.parts))
        whole = False
        try:
            result = executor(*args, **kwargs)
            whole = True
        finally:
            # After an error the GPU may not be asked for more.
            try:
                self._pass_on(wait=whole)
            finally:
                self.watcher.ended(self.live)
        # Only after a whole run: what a stopped one did says nothing of the graph.
        summary = self.report.summary(self.settings.config, self.live.happened, self.live.unmatched)
        logging.info(summary)
        self.notify(summary)
        return result

    def _acting_between(self, sampling) -> tuple[float, float] | None:
        """(highest, lowest) sigma at which ISA acts; None for all, which spares a look at every call."""
        percents = self.schedule.start_percent, self.schedule.end_percent
        return None if percents == (0, 1) else tuple(float(sampling.percent_to_sigma(percent)) for percent in percents)

    def around_step(self, executor, x, timestep, *args, **kwargs):
        """PREDICT_NOISE: once per evaluation, whatever it is batched into. Settings hold for a whole evaluation."""
        self._pass_on()
        at = self.live.at
        self.settings = self.live.next()
        self.monitor.begin(at, self.settings, timestep)
        return executor(x, timestep, *args, **kwargs)

    def _pass_on(self, wait: bool = False):
        """End the evaluation that was going on; the sampler does its part until the next one begins."""
        self.monitor.end()
        if maps := self.maps.take():
            self.watcher.mapped(self.monitor.at, *maps)
        for row in self.monitor.finished(wait):
            self.watcher.stepped(row)

    @apart_when_compiled
    def around_model(
        self, executor, x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options={}, **kwargs
    ):
        """DIFFUSION_MODEL: once per model call, not per block, decide by sigma; publish the layout where core does not."""
        with self._recording:
            self.monitor.called(x.shape[0])
        self.in_schedule = True
        if self.sigmas is not None:
            start, end = self.sigmas
            # A step that lies on the boundary belongs to it, whatever fp32 made of its sigma.
            self.in_schedule = end - 1e-6 <= float(transformer_options["sigmas"].max()) <= start + 1e-6
        transformer_options = dict(transformer_options)
        if not isinstance(executor.class_obj, InContextNetwork):
            layout = native_layout(executor.class_obj, x, context, time_dim_concat=time_dim_concat, **kwargs)
            transformer_options[IN_CONTEXT] = layout and InContextCall(layout)

        def call(careful: bool):
            options = {**transformer_options, GUARDED: careful}
            return executor(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)

        return self.guard.run(call, executor.class_obj, x)

    @torch.compiler.disable
    def __call__(self, func, q, k, v, heads, mask=None, **kwargs):
        """Stands in for core's attention; q, k, v are [B, S, H·D]."""

        options = kwargs.get("transformer_options") or {}
        call = options.get(IN_CONTEXT)
        if call is not None:
            # An ISA further inside, behind somebody else's override, must not take what this one decided on.
            kwargs["transformer_options"] = {**options, IN_CONTEXT: None}

        def chosen(q, k, v, heads, mask=None):
            if self.previous is not None:
                return self.previous(func, q, k, v, heads, mask=mask, **kwargs)
            return func(q, k, v, heads, mask=mask, **kwargs)

        if not self._is_in_context(call, q, k, mask, kwargs):
            return chosen(q, k, v, heads, mask)
        reason = self._reason_for_full(call, options)
        if reason:
            with self._recording:
                self.report.add_full(reason)
                self.monitor.full(reason, call.layout)
            return chosen(q, k, v, heads, mask)

        def dense(q, k, v):
            heads = q.shape[2]
            return chosen(q.flatten(2), k.flatten(2), v.flatten(2), heads).unflatten(2, (heads, -1))

        if self.backend == EIGHT_BIT:
            dense = "8bit"
        elif self.previous is None and func is attention_pytorch.__wrapped__:
            # Nobody chose: core's own is PyTorch's too, but asks for FlashAttention 2 first, also where cuDNN is faster.
            dense = "auto"
        out, stats = in_context_sparse_attention(
            *(x.unflatten(2, (heads, -1)) for x in (q, k, v)),
            layout=call.layout,
            config=self.settings.config,
            coarse_gate=call.coarse_gate,
            backend="triton" if self.backend == EIGHT_BIT else self.backend,
            dense=dense,
            return_stats=True,
        )
        block = options.get("block_index", 0)
        if options.get(GUARDED):
            instead = self.guard.checked(out, lambda: chosen(q, k, v, heads, mask), block, self.live.at - 1)
            if instead is not None:
                with self._recording:
                    self.report.add_full(self.guard.reason(block))
                return instead
        with self._recording:
            self.report.add_sparse(stats)
            self.monitor.sparse(stats, call.layout)
            # A context window cuts another sequence out of the same frames.
            if call.layout.segments == tuple(part.tokens for part in self.parts):
                self.maps.add(stats, block, options.get("total_blocks", 1))
        call.residual_added = True
        return out.flatten(2)

    @staticmethod
    def _is_in_context(call, q, k, mask, kwargs) -> bool:
        """Cross-attention and foreign layouts (q already split into heads, masks) are not ours to touch."""
        plain = mask is None and not kwargs.get("skip_reshape") and not kwargs.get("skip_output_reshape")
        return call is not None and plain and q.ndim == 3 and q.shape[1] == k.shape[1] == call.layout.total

    def _reason_for_full(self, call: InContextCall, options: dict) -> str | None:
        if not call.layout.context:
            return "no context tokens"
        if not self.settings.enabled:
            return "switched off"
        if not self.in_schedule:
            return "outside start_percent to end_percent"
        if call.layout.total < self.schedule.min_tokens:
            return f"{call.layout.total} tokens are fewer than min_tokens {self.schedule.min_tokens}"
        if self.schedule.is_dense_block(options.get("block_index", 0), options.get("total_blocks", 1)):
            return f"dense_blocks {self.schedule.dense_blocks}"
        return self.guard.reason(options.get("block_index", 0))


def _noise_and_sigmas(noise, latent_image, sampler, sigmas, *args, **kwargs) -> tuple[torch.Tensor, list[float]]:
    """Of an OUTER_SAMPLE call."""
    return noise, sigmas.tolist()
