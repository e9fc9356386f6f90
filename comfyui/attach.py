"""Attach ISA to a ComfyUI model: one attention override and four wrappers on a clone, nothing global."""

from __future__ import annotations

import logging
from collections.abc import Callable

import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy_execution.utils import get_executing_context

from ..isa_core import ISAConfig, TokenLayout, add_coarse_residual, in_context_sparse_attention, resolve_backend, resolve_dense
from ..runtime import decisions
from ..runtime.call import ModelCall
from ..runtime.context_reuse import ContextStore
from ..runtime.core_attention import OVERRIDE, in_context_override
from ..runtime.decisions import Decisions
from ..runtime.finite import FiniteGuard, tensors_of
from ..runtime.in_context import BLOCK, CALL, CONTEXT_LATENTS, IN_CONTEXT, InContextCall
from ..runtime.kept_context import Keeping, Refresh, Reuse
from ..runtime.live import LiveSettings
from ..runtime.schedule import Schedule
from . import memory
from .compiled import apart_when_compiled
from .context_reuse import sequence_of, with_context_reuse
from .core_nodes import in_front, node_of, taken_beneath
from .hosts import host_of, is_in_context, keeps_of, layout_of
from .memory_graph import outside_memory_graph
from .model_call import (
    Arguments,
    give_blocks_their_numbers,
    leave_blocks_their_attention,
    mark_when_running,
    run_blocks_without_context,
)  # fmt: skip
from .network import name_of
from .sampling_run import SamplingRun, Watcher, going, run_of
from .scene import scene

logger = logging.getLogger(__name__)

KEY = "liveditor_isa"

NETWORK_RAN = "total_blocks"
"""What core's networks write into `transformer_options`. A cache of steps that stands between answers without."""

EIGHT_BIT = "8-bit"
"""The choice of a backend that is Triton with its 8-bit kernel for the dense query blocks."""

PYTORCH = getattr(attention_pytorch, "__wrapped__", attention_pytorch)
"""Core's default attention, in the form in which an override receives it."""


def can_attach(model) -> bool:
    """Whether the model's diffusion network has in-context attention: LIVEditor, or a network of `hosts`."""
    return is_in_context(model.model.diffusion_model)


def implementation(backend: str, device: torch.device, config: ISAConfig) -> tuple[str, str]:
    """(backend, reason) for a choice on the node. Raises BackendUnavailable when a backend chosen by name cannot run."""
    if backend != EIGHT_BIT:
        return resolve_backend(backend, device, config=config)
    name, reason = resolve_backend("triton", device, config=config)
    resolve_dense("8bit", name, device, config)
    return name, f"{reason}, dense blocks in 8 bits"


def attach_isa(
    model,
    live: LiveSettings,
    schedule: Schedule,
    backend: str,
    notify: Callable[[str], None],
    watcher: Watcher | None = None,
    keeping: Keeping = Keeping(),
):
    """A clone of ModelPatcher `model` whose in-context self-attention runs ISA. An earlier ISA on it is replaced.

    live: the settings, step by step. notify: called with a summary after every sampling run. keeping: of contexts for reuse.
    Raises BackendUnavailable when `backend` was chosen by name and cannot run.
    """
    implementation(backend, comfy.model_management.get_torch_device(), live.first.config)
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    previous = options.get(OVERRIDE)
    if isinstance(previous, ISAOverride):
        previous = previous.previous
    override = ISAOverride(live, schedule, backend, previous, notify, watcher or Watcher(), keeping)
    override.acting = override.acting_between(clone.get_model_object("model_sampling"))
    options[OVERRIDE] = override
    for kind, wrapper in (
        (comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, override.around_sampling),
        (comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, override.around_prepare),
        (comfy.patcher_extension.WrappersMP.PREDICT_NOISE, override.around_step),
        (comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, override.around_model),
    ):
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    memory.count_context(clone)
    return clone


class ISAOverride:
    """The attention override of one Attach ISA node, which calls the override before it.

    It holds what was set on the node and nothing of a call: that is in `transformer_options` (`runtime.call`), and what a
    sampling run adds up in its SamplingRun. Called without its wrappers, or outside of sampling, it does the same by the
    settings on the node, and nobody is told. A deep copy is itself, as core's own way of copying options has it; a pickled
    one has the settings, and tells nobody.
    """

    def __init__(self, live, schedule, backend, previous=None, notify=logger.debug, watcher=None, keeping: Keeping = Keeping()):
        self.live, self.schedule, self.backend, self.keeping = live, schedule, backend, keeping
        self.previous, self.notify, self.watcher = previous, notify, watcher or Watcher()
        self.acting: tuple[float, float] | None = None
        """(highest, lowest) sigma at which ISA acts as the model was attached; None for all."""

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        given = LiveSettings(self.live.current, self.live.recorded)
        return type(self), (given, self.schedule, self.backend, self.previous), {"acting": self.acting, "keeping": self.keeping}

    def around_prepare(self, executor, model, noise_shape, conds, *args, model_options=None, **kwargs):
        """PREPARE_SAMPLING: reserve memory for the context, and for what of it is kept, before weights get the rest."""
        run = run_of(self, (model_options or {}).get("transformer_options", {}))
        contexts = run.contexts if run else ContextStore()
        reuses = any(each.reuses_context and contexts.serves(each.context_refresh) for each in self.live.planned())
        keeping = self.keeping if reuses and keeps_of(model.model.diffusion_model) else None
        with memory.shape_to_estimate(model, noise_shape, conds, model_options, keeping) as shape:
            return executor(model, shape, conds, *args, model_options=model_options, **kwargs)

    def around_sampling(self, executor, *args, **kwargs):
        """OUTER_SAMPLE: find the sigmas between which ISA acts (model sampling may be patched after attaching), report."""
        guider = executor.class_obj
        options = getattr(guider, "model_options", {}).get("transformer_options", {})
        if (outer := run_of(self, options)) and outer.guider is guider:
            return executor(*args, **kwargs)  # of two models whose wrappers were put together
        patcher = guider.model_patcher
        running = get_executing_context()
        noise, sigmas, shapes = _noise_and_sigmas(*args, **kwargs)
        self.live.begin(running and running.prompt_id, running.node_id if running else "")
        run = SamplingRun(
            self, guider, self.live, self.watcher, sigmas,
            self.acting_between(patcher.get_model_object("model_sampling")), scene(guider, noise, shapes),
        )  # fmt: skip
        whole = False
        try:
            with going(run):
                result = executor(*args, **kwargs)
            whole = True
        finally:
            # After an error the GPU may not accept further work.
            try:
                run.pass_on(wait=whole)
            finally:
                run.contexts.clear()
                self.watcher.ended(self.live)
        # Only after a complete run: a stopped one does not show a fault of the graph.
        summary = run.summary()
        logger.info(summary)
        self.notify(summary)
        return result

    def acting_between(self, sampling) -> tuple[float, float] | None:
        """(highest, lowest) sigma at which ISA acts; None for all, which saves a check at every call."""
        percents = self.schedule.start_percent, self.schedule.end_percent
        return None if percents == (0, 1) else tuple(float(sampling.percent_to_sigma(percent)) for percent in percents)

    def around_step(self, executor, x, timestep, *args, **kwargs):
        """PREDICT_NOISE: once per evaluation, whatever it is batched into. Settings hold for a whole evaluation."""
        run = run_of(self, getattr(executor.class_obj, "model_options", {}).get("transformer_options", {}))
        if run is None:
            return executor(x, timestep, *args, **kwargs)
        with run.evaluation(x, timestep):
            return executor(x, timestep, *args, **kwargs)

    @apart_when_compiled
    def around_model(self, executor, *args, **kwargs):
        """DIFFUSION_MODEL: once per model call, not per block, decide by sigma; publish the layout where core does not."""
        network, arguments = executor.class_obj, Arguments(executor.class_obj, args, kwargs)
        inputs = arguments.by_name
        transformer_options = inputs.setdefault("transformer_options", {})
        outer = transformer_options.get(CALL)
        if outer is not None and outer.owner is self:  # of two models whose wrappers were put together
            return executor(*args, **kwargs)
        run = run_of(self, transformer_options)
        if run is not None:
            front = transformer_options.get(OVERRIDE)
            in_front_of = None if front is None or front is self else node_of(front) or name_of(front)
            run.called(tensors_of(inputs["x"])[0].shape[0], in_front_of)
        options, layout, host, keeps = dict(transformer_options), None, host_of(network), keeps_of(network)
        if host is not None:
            layout = layout_of(host, network, inputs)
            if not isinstance(layout, TokenLayout):
                if run is not None:
                    run.left_out(layout)
                layout = None
            options[IN_CONTEXT] = layout and InContextCall(layout)
            if layout and (torch.is_grad_enabled() or not host.numbered):
                give_blocks_their_numbers(options, host.blocks(network))

        given = layout is not None if host else inputs.get(CONTEXT_LATENTS)

        def acts():
            return given and self._decisions(run, transformer_options).reason_for_call() is None

        options = in_front(options, self, acts, run and run.set_aside)
        if host is not None and options.get(OVERRIDE) is self and options.get("patches_replace") and acts():
            leave_blocks_their_attention(options, host.blocks(network))

        def call(careful: bool, contexts: Refresh | Reuse | None = None):
            decided = self._decisions(run, transformer_options, careful)
            called = {**options, CALL: ModelCall(layout, decided, run, owner=self, context=contexts)}
            called.pop(NETWORK_RAN, None)
            changed = {"transformer_options": called}
            if contexts is not None:
                contexts.begin()
            if isinstance(contexts, Reuse):
                if keeps.left_out:
                    changed[keeps.left_out] = None
                else:
                    run_blocks_without_context(called, host.blocks(network), layout, keeps.of_block)
                if layout is not None:
                    called[IN_CONTEXT] = InContextCall(layout.without_context)
            if contexts is not None and layout is not None and not keeps.left_out:
                mark_when_running(called, host.blocks(network), contexts)
            out = arguments.passed(executor, **changed)
            if contexts is not None:
                # A wrapper that copies the options keeps the network's word from us, but not the attention's.
                contexts.skipped = not (contexts.met or contexts.ran or NETWORK_RAN in called)
            return out

        guard = run.guard if run else FiniteGuard()
        sequence = run and self._sequence(run, network, layout, inputs)
        if sequence is None:
            return guard.run(call, network, inputs["x"])
        return with_context_reuse(run, *sequence, transformer_options["sigmas"], lambda contexts: guard.run(
            lambda careful: call(careful, contexts), network, inputs["x"]
        ))  # fmt: skip

    def _sequence(self, run: SamplingRun, network, layout, inputs: dict):
        """What identifies the sequence of a model call whose context may be kept or reused; None for another call."""
        if not run.settings.reuses_context:
            run.contexts.clear()  # it may have been switched off in the middle of the run
            return None
        keeps = keeps_of(network)
        if keeps is None:
            if layout is not None:
                run.recomputed(decisions.NO_REUSE)
            return None
        if layout is None and not keeps.left_out or not keeps.of_call(inputs):  # of which the layout says why
            return None
        sequence = run.contexts.given_up or sequence_of(run, network, layout, inputs, keeps)
        if isinstance(sequence, str):
            run.recomputed(sequence)
            sigmas = inputs["transformer_options"].get("sigmas")
            if sigmas is not None and not run.contexts.given_up:  # what is due is freed, although nothing takes its place
                run.contexts.free_due(float(sigmas.max()), run.settings.context_refresh)
            return None
        return sequence

    def _decisions(self, run: SamplingRun | None, options: dict, careful: bool = False) -> Decisions:
        """Decide for one model call."""
        whole, acting = None, run.acting if run else self.acting
        if acting is not None:
            sigmas, (start, end) = options.get("sigmas"), acting
            if sigmas is None:
                whole = decisions.NO_NOISE_LEVEL
            # A step on the boundary belongs to the range, despite the rounding of its sigma in fp32.
            elif not end - 1e-6 <= float(sigmas.max()) <= start + 1e-6:
                whole = decisions.OUTSIDE_SCHEDULE
        settings, at = (run.settings, run.at) if run else (self.live.current, 0)
        guard = run.guard if run else FiniteGuard()
        return Decisions(settings, self.schedule, whole, self.backend, guard, at, careful)

    @torch.compiler.disable
    def __call__(self, func, q, k, v, heads, mask=None, **kwargs):
        """Stands in for core's attention; q, k, v are [B, S, H·D]."""
        options = kwargs.get("transformer_options") or {}
        if CALL not in options and q.shape == k.shape and options.get("block_index") == 0:
            if run := run_of(self, options):
                run.left_out(decisions.WITHOUT_WRAPPERS)
        previous, kwargs = taken_beneath(self, kwargs)
        override = in_context_override(outside_memory_graph(self._attend), previous, self._refused)
        return override(func, q, k, v, heads, mask=mask, **kwargs)

    def _call_of(self, options: dict) -> ModelCall:
        """The model call, also for an attention that was called without `around_model`."""
        call = options.get(CALL)
        if call is not None and call.owner is self:
            return call
        run = run_of(self, options)
        return ModelCall(decisions=self._decisions(run, options), record=run, owner=self)

    def _refused(self, reason: str, options: dict):
        call = self._call_of(options)
        if call.context:
            call.context.ran, call.context.passed_by = True, reason
        if call.record:
            call.record.full(reason, options[IN_CONTEXT].layout)

    def _attend(self, call: InContextCall, q, k, v, options, full, core) -> torch.Tensor | None:
        model_call = self._call_of(options)
        decided, record, contexts = model_call.decisions, model_call.record, model_call.context
        block, of_blocks = options.get(BLOCK) or (options.get("block_index", 0), options.get("total_blocks", 1))
        layout, reused = call.layout, isinstance(contexts, Reuse)
        if contexts is not None:
            k, v, layout = contexts.attended(block, of_blocks, k, v, layout)

        def with_residual(out):
            """Full attention's output and the residual, which the network cannot add where it has the target's tokens alone."""
            if call.coarse_gate is not None:
                out = add_coarse_residual(out, q, k, v, call.coarse_gate, layout)
            call.residual_added = True
            return out

        reason = decided.reason_for_full(layout, block, of_blocks)
        if reason:
            if record:
                record.full(reason, layout)
            return with_residual(full(q, k, v)) if reused else None
        dense = full
        if self.backend == EIGHT_BIT:
            dense = "8bit"
        elif core is PYTORCH:
            # Without a choice, core uses PyTorch's attention too, but with FlashAttention 2 first, even where cuDNN is faster.
            dense = "auto"
        out, stats = in_context_sparse_attention(
            q, k, v,
            layout=layout,
            config=decided.settings.config,
            coarse_gate=call.coarse_gate,
            backend="triton" if self.backend == EIGHT_BIT else self.backend,
            dense=dense,
            return_stats=True,
            count_attended=isinstance(record, SamplingRun) and record.wants_map(layout, q.shape[1], block, of_blocks),
        )  # fmt: skip
        if decided.careful:
            instead = decided.guard.checked(out, lambda: full(q, k, v), block, decided.at)
            if instead is not None:
                if record:
                    record.full(decided.guard.reason(block), layout)
                return with_residual(instead) if reused else instead
        if record:
            record.sparse(stats, layout, block, of_blocks)
        call.residual_added = True
        return out


def _noise_and_sigmas(
    noise, latent_image, sampler, sigmas, *args, latent_shapes=None, **kwargs
) -> tuple[torch.Tensor, list[float], list | None]:
    """Of an OUTER_SAMPLE call: also the shapes of several latents that core packed into one."""
    return noise, sigmas.tolist(), latent_shapes
