"""Attach ISA beside core's other nodes: the same result as composed by hand, or a sentence that says why not."""

import time
from types import SimpleNamespace

import comfy.context_windows
import comfy.ldm.modules.attention as core_attention
import comfy.ldm.wan.model
import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import (
    BasicGuider,
    CFGGuider,
    DualCFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_model_merging import ModelAdd, ModelMergeSimple
from comfy_extras.nodes_multigpu import MultiGPUCFGSplitNode
from comfy_extras.nodes_nag import NAGuidance
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple
from comfy_extras.nodes_torch_compile import TorchCompileModel
from liveditor_isa.comfyui import attach
from liveditor_isa.comfyui import network as liveditor_network
from liveditor_isa.comfyui.attach import OVERRIDE, Watcher, attach_isa
from liveditor_isa.comfyui.loaders import load_diffusion_model
from liveditor_isa.isa_core import ISAConfig
from liveditor_isa.runtime.context_reuse import ContextStore
from liveditor_isa.runtime.kept_context import Refresh, Reuse
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.report import RunReport
from liveditor_isa.runtime.schedule import Schedule
from safetensors.torch import load_file, save_file

import nodes as core

FULL = ISAConfig(keep_ratio=1, dense_query_ratio=1)
STEPS, BLOCKS = 2, 4


def noise(seed=0, frames=2, height=12, width=16, batch=1):
    return torch.randn(batch, 16, frames, height, width, generator=torch.Generator().manual_seed(seed))


def text(seed, tokens=9):
    return torch.randn(1, tokens, 64, generator=torch.Generator().manual_seed(seed))


CONTEXT = (noise(1),)
PARTS = (96, 96)
TOKENS = sum(PARTS)
CALLS = STEPS * BLOCKS


@pytest.fixture(params=["liveditor", "plain_wan"])
def network(request):
    """Both kinds of in-context attention: LIVEditor's and core's own (Bernini)."""
    return request.getfixturevalue(request.param)


def conditioning(seed, contexts=CONTEXT, tokens=9):
    return [[text(seed, tokens), {"context_latents": list(contexts)} if contexts else {}]]


def sample(model, positive=None, negative=None, *, steps=STEPS, cfg=2.5, sampler="euler", batch=1, start=0, end=10_000,
           latent=None, noisy=True, frames=2, mask=None):  # fmt: skip
    """Core's KSamplerAdvanced."""
    latent = noise(9, frames=frames, batch=batch) * 0 if latent is None else latent
    given = {"samples": latent} if mask is None else {"samples": latent, "noise_mask": mask}
    (out,) = core.KSamplerAdvanced().sample(
        model, "enable" if noisy else "disable", 1, steps, cfg, sampler, "simple", positive or conditioning(2),
        negative or conditioning(3), given, start, end, "enable" if end < steps else "disable",
    )  # fmt: skip
    return out["samples"]


class Rows(Watcher):
    """What a page would be told of the steps of a run."""

    def __init__(self):
        self.rows = []

    def stepped(self, row):
        self.rows.append(row)


def attached(model, config=ISAConfig(), schedule=Schedule(), watcher=None, live=None):
    """(model, lines the node would show after each run)."""
    shown = []
    return attach_isa(model, live or LiveSettings(Settings(config)), schedule, "torch", shown.append, watcher), shown


def error(out, reference):
    return float((out - reference).norm() / reference.norm())


def same(out, reference):
    return out.shape == reference.shape and error(out, reference) < 1e-5


@pytest.fixture(scope="module")
def dense(liveditor):
    """Without ISA."""
    return sample(liveditor)


@pytest.fixture(scope="module")
def sparse(liveditor):
    """With ISA and nothing else."""
    return sample(attached(liveditor)[0])


# Another attention


def exact(q, k, v, scale=None):
    """Attention over [B, S, H, D]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)


def sageattn(q, k, v, is_causal, tensor_layout, sm_scale, smooth_k):
    assert tensor_layout == "NHD" and not is_causal
    return exact(q, k, v, sm_scale)


def memory_efficient_attention(q, k, v, attn_bias, scale):
    assert attn_bias is None
    return exact(q, k, v, scale)


def flash_attn_func(q, k, v, dropout_p, causal, softmax_scale):
    assert dropout_p == 0 and not causal
    return exact(q, k, v, None if softmax_scale == -1 else softmax_scale)


@pytest.fixture
def kernels(monkeypatch):
    """Exact stand-ins for three packages that need a GPU, under core's own adapters to them."""
    monkeypatch.setattr(core_attention, "sageattn", sageattn, raising=False)
    monkeypatch.setattr(core_attention, "flash_attn_wrapper", flash_attn_func)
    ops = SimpleNamespace(memory_efficient_attention=memory_efficient_attention)
    monkeypatch.setattr(core_attention, "xformers", SimpleNamespace(ops=ops), raising=False)


def counted(function, log):
    def attention(q, k, v, heads, *args, **kwargs):
        log.append((q.shape[1], k.shape[1]))
        return function(q, k, v, heads, *args, **kwargs)

    return attention


ATTENTIONS = ["basic", "sub_quad", "split", "pytorch", "xformers", "sage", "flash"]


@pytest.mark.parametrize("name", ATTENTIONS)
def test_the_attention_chosen_at_start_runs_the_dense_group(liveditor, sparse, kernels, monkeypatch, name):
    log = []
    chosen = core_attention.wrap_attn(counted(getattr(core_attention, f"attention_{name}").__wrapped__, log))
    for module in (liveditor_network, comfy.ldm.wan.model):
        monkeypatch.setattr(module, "optimized_attention", chosen)
    assert same(sample(attached(liveditor)[0]), sparse)
    of_dense_group = [queries for queries, keys in log if keys not in (9, TOKENS)]
    assert len(of_dense_group) >= CALLS and all(queries < TOKENS for queries in of_dense_group)


def with_sage(model, log):
    """As KJNodes' Patch Sage Attention registers it: an override that does not ask for the one before it."""
    clone = model.clone()
    own = core_attention.wrap_attn(counted(core_attention.attention_sage.__wrapped__, log))
    clone.model_options["transformer_options"][OVERRIDE] = lambda func, *args, **kwargs: own.__wrapped__(*args, **kwargs)
    return clone


def test_a_sage_patch_before_attach_runs_the_dense_group_and_cross_attention(network, kernels):
    log = []
    alone = sample(attached(network)[0])
    model, shown = attached(with_sage(network, log))
    assert same(sample(model), alone)
    assert f"ISA: {CALLS} attention calls" in shown[0]
    assert sum(keys == 9 for _, keys in log) == CALLS and all(keys < TOKENS for _, keys in log)


def test_a_sage_patch_after_attach_takes_all_attention_and_that_is_said(network, kernels, caplog):
    log = []
    model, shown = attached(network)
    with caplog.at_level("INFO"):
        assert same(sample(with_sage(model, log)), sample(network))
    assert len(log) == 2 * CALLS
    assert "place Attach ISA after other nodes that replace the attention" in shown[0] and shown[0] in caplog.text


# LoRA


def lora_file(folder):
    """Rank 4, on a query and a value projection, on a gate and on the second patch embedding."""
    generator = torch.Generator().manual_seed(4)
    weights = {}
    for name, rows, columns in (
        ("blocks.0.self_attn.q", 256, (256,)),
        ("blocks.2.self_attn.v", 256, (256,)),
        ("blocks.1.self_attn.alpha_1", 1, (256,)),
        ("source_video_embedding_more_memory", 256, (16, 1, 2, 2)),
    ):
        tail = (1,) * (len(columns) - 1)
        weights[f"diffusion_model.{name}.lora_up.weight"] = 0.2 * torch.randn(rows, 4, *tail, generator=generator)
        weights[f"diffusion_model.{name}.lora_down.weight"] = 0.2 * torch.randn(4, *columns, generator=generator)
    save_file(weights, folder / "edit.safetensors")
    return weights


def merged(weights, lora, strength):
    weights = {name: weight.clone() for name, weight in weights.items()}
    for name, up in lora.items():
        if name.endswith("lora_up.weight"):
            down = lora[name.replace("lora_up", "lora_down")]
            weight = weights[name.removeprefix("diffusion_model.").replace("lora_up.", "")]
            weight += strength * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return weights


def test_lora_before_or_after_attach_equals_merged_weights(liveditor, liveditor_file, tmp_path, monkeypatch):
    lora = lora_file(tmp_path)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))

    def load(model):
        return core.LoraLoaderModelOnly().load_lora_model_only(model, "edit.safetensors", 0.7)[0]

    save_file(merged(load_file(liveditor_file), lora, 0.7), tmp_path / "merged.safetensors")
    by_hand = attached(load_diffusion_model(str(tmp_path / "merged.safetensors")))[0]
    expected = sample(by_hand)
    assert same(sample(attached(load(liveditor))[0]), expected)
    model, shown = attached(liveditor)
    assert same(sample(load(model)), expected) and f"ISA: {CALLS} attention calls" in shown[0]
    assert error(expected, sample(model)) > 1e-3


# Merging


@pytest.fixture(scope="module")
def other(liveditor_file, tmp_path_factory):
    """Another LIVEditor."""
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    generator = torch.Generator().manual_seed(8)
    weights = load_file(liveditor_file)
    save_file({name: w + 0.01 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}, path)
    return path


@pytest.mark.parametrize(
    "node, by_hand",
    [
        (lambda one, two: ModelMergeSimple().merge(one, two, 0.3)[0], lambda one, two: 0.3 * one + 0.7 * two),
        (lambda one, two: ModelAdd().merge(one, two)[0], lambda one, two: one + two),
    ],
    ids=["ModelMergeSimple", "ModelMergeAdd"],
)
def test_merging_before_or_after_attach(liveditor, liveditor_file, other, tmp_path, node, by_hand):
    one, two = load_file(liveditor_file), load_file(other)
    # Core does not patch a parameter beside submodules: of every Wan the first model's modulation stays.
    stays = {name: weight for name, weight in one.items() if name.endswith("modulation")}
    save_file({name: by_hand(one[name], two[name]) for name in one} | stays, tmp_path / "merged.safetensors")
    expected = sample(attached(load_diffusion_model(str(tmp_path / "merged.safetensors")))[0], steps=1)
    second = load_diffusion_model(str(other))
    assert same(sample(attached(node(liveditor, second))[0], steps=1), expected)
    model, shown = attached(liveditor)
    assert same(sample(node(model, second), steps=1), expected) and f"ISA: {BLOCKS} attention calls" in shown[0]


# Caches


def easy(model):
    """So generous that it skips all that it can."""
    return EasyCacheNode.execute(model, 100.0, 0.1, 1.0, False).args[0]


def lazy(model):
    return LazyCacheNode.execute(model, 100.0, 0.1, 1.0, False).args[0]


@pytest.mark.slow
@pytest.mark.parametrize("cache", [easy, lazy])
@pytest.mark.parametrize("order", ["cache first", "ISA first"])
def test_steps_that_a_cache_skips(liveditor, cache, order):
    rows = Rows()
    if order == "cache first":
        model, shown = attached(cache(liveditor), FULL, watcher=rows)
    else:
        model, shown = attached(liveditor, FULL, watcher=rows)
        model = cache(model)
    steps = 5
    assert same(sample(model, steps=steps), sample(cache(liveditor), steps=steps))
    calls = int(shown[0].removeprefix("ISA: ").split()[0])
    assert 0 < calls < steps * BLOCKS and calls % BLOCKS == 0
    computed = [row for row in rows.rows if row["tokens"]]
    assert len(computed) == calls // BLOCKS
    assert all(row["density"] == 1 and row["tokens"] == PARTS for row in computed)
    assert all("density" not in row and "pace" in row and not row["pace"] for row in rows.rows if not row["tokens"])
    assert [row["at"] for row in rows.rows] == list(range(len(rows.rows)))


# Context windows


def windows(model):
    """Windows of three latent frames that overlap by one."""
    return WanContextWindowsManualNode.execute(
        model, 9, 4, comfy.context_windows.ContextSchedules.STATIC_STANDARD, 1, False,
        comfy.context_windows.ContextFuseMethods.PYRAMID, False,
    ).args[0]  # fmt: skip


def test_context_windows(network):
    context = (noise(1, frames=5),)
    long = {"frames": 5, "steps": 1, "positive": conditioning(2, context), "negative": conditioning(3, context)}
    model, shown = attached(network, FULL)
    in_windows = sample(windows(network), **long)
    assert same(sample(windows(model), **long), in_windows)
    assert error(in_windows, sample(network, **long)) > 1e-3
    assert shown[0].startswith(f"ISA: {2 * BLOCKS} attention calls at 100.0% density")
    sparse, shown = attached(windows(network))
    assert 1e-4 < error(sample(sparse, **long), in_windows) < 0.5
    density = float(shown[0].split(" at ")[1].split("%")[0])
    assert shown[0].startswith(f"ISA: {2 * BLOCKS} attention calls") and 20 < density < 60


# Guidance and patches


def test_normalized_attention_guidance_is_without_effect_on_wan_as_in_core(network):
    """Core's Wan has no place where it acts; LIVEditor is Wan."""
    alone = sample(attached(network)[0])
    for order in (lambda m: attached(nag(m))[0], lambda m: nag(attached(m)[0])):
        assert torch.equal(sample(order(network)), alone)


def nag(model):
    return NAGuidance.execute(model, 5.0, 0.5, 1.5).args[0]


def slg(model):
    return SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, 1.0, "1", "", 0.0).args[0]


def slg_simple(model):
    return SkipLayerGuidanceDiTSimple.execute(model, 0.0, 1.0, "1, 2", "").args[0]


@pytest.mark.slow
@pytest.mark.parametrize("skip, calls", [(slg, CALLS + STEPS * (BLOCKS - 1)), (slg_simple, STEPS * (BLOCKS + BLOCKS - 2))])
@pytest.mark.parametrize("order", ["guidance first", "ISA first"])
def test_skip_layer_guidance(network, skip, calls, order):
    model, shown = attached(skip(network) if order == "guidance first" else network, FULL)
    guided = sample(skip(network))
    assert same(sample(model if order == "guidance first" else skip(model)), guided)
    assert shown[0].startswith(f"ISA: {calls} attention calls at 100.0% density")
    assert error(guided, sample(network)) > 1e-3


def patched(model, log):
    """Core's patches inside a block, after it and in place of it, each changing what it gets."""
    clone = model.clone()

    def inside(args):
        log.append(("inside", tuple(args["q"].shape), args["transformer_options"]["block_index"]))
        return args["x"] * 0.9

    def after(args):
        log.append(("after", args["block_index"]))
        return {"img": args["img"] * 1.01}

    def instead(args, extra):
        return {"img": extra["original_block"](args)["img"] + 0.1 * args["img"]}

    clone.set_model_patch(inside, "attn1_patch")
    clone.set_model_patch(after, "double_block")
    clone.set_model_patch_replace(instead, "dit", "double_block", 2)
    return clone


@pytest.mark.parametrize("order", ["patches first", "ISA first"])
def test_patches_inside_after_and_in_place_of_blocks(network, order):
    log, reference = [], []
    model, shown = attached(patched(network, log) if order == "patches first" else network, FULL)
    expected = sample(patched(network, reference))
    assert same(sample(model if order == "patches first" else patched(model, log)), expected)
    assert log == reference and len(log) == 2 * CALLS and error(expected, sample(network)) > 1e-3
    assert f"ISA: {CALLS} attention calls" in shown[0]


# Batches


def test_a_batch_of_latents_equals_each_alone(network):
    model, shown = attached(network)
    both = sample(model, batch=2, sampler="euler")
    # KSampler makes noise for the whole batch; each alone gets its own row of it.
    given = comfy.sample.prepare_noise(noise(9, batch=2) * 0, 1)
    for row in range(2):
        alone = comfy.sample.sample(
            model, given[row : row + 1], STEPS, 2.5, "euler", "simple", conditioning(2), conditioning(3), noise(9) * 0, seed=1
        )
        assert same(both[row : row + 1], alone)
    assert len({line.split(" at ")[0] for line in shown}) == 1


def test_cond_and_uncond_split_for_memory_equal_one_call(network, monkeypatch):
    model, shown = attached(network)
    together = sample(model)
    monkeypatch.setattr(type(network.model), "memory_required", lambda *args, **kwargs: 1e30)
    assert same(sample(model), together)
    assert f"ISA: {CALLS} attention calls" in shown[0] and f"ISA: {2 * CALLS} attention calls" in shown[1]


def test_prompts_of_unequal_length_and_conds_of_unequal_contexts(network):
    given = {
        "positive": conditioning(2, (noise(1), noise(4, 1, 10, 14)), tokens=7),
        "negative": conditioning(3, (noise(1),), tokens=12),
    }
    model, shown = attached(network, FULL)
    assert same(sample(model, **given), sample(network, **given))
    assert shown[0].startswith(f"ISA: {2 * CALLS} attention calls at 100.0% density")
    given["negative"] = conditioning(3, ())
    assert same(sample(model, **given), sample(network, **given))
    assert f"ISA: {CALLS} attention calls" in shown[1]


# Samplers and guiders


@pytest.mark.parametrize("sampler, evaluations", [("heun", 3), ("dpmpp_2m", 2), ("uni_pc", 2), ("dpmpp_2s_ancestral", 3)])
def test_samplers_of_second_order(liveditor, sampler, evaluations):
    rows = Rows()
    model, shown = attached(liveditor, FULL, watcher=rows)
    assert same(sample(model, sampler=sampler), sample(liveditor, sampler=sampler))
    assert f"ISA: {evaluations * BLOCKS} attention calls" in shown[0] and len(rows.rows) == evaluations


@pytest.mark.parametrize("cfg", [0.0, 1.0, 30.0])
def test_guidance_from_none_to_extreme(network, cfg):
    model, shown = attached(network, FULL)
    out = sample(model, cfg=cfg)
    assert same(out, sample(network, cfg=cfg)) and out.isfinite().all()
    assert f"ISA: {CALLS} attention calls" in shown[0]


GUIDERS = {
    "BasicGuider": lambda model: BasicGuider.execute(model, conditioning(2)),
    "CFGGuider": lambda model: CFGGuider.execute(model, conditioning(2), conditioning(3), 2.5),
    "DualCFGGuider": lambda model: DualCFGGuider.execute(
        model, conditioning(2), conditioning(4), conditioning(3), 2.5, 1.5, "regular"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("guider", GUIDERS)
def test_custom_samplers(network, guider):
    sigmas = torch.tensor([1.0, 0.7, 0.0])

    def run(model):
        given = RandomNoise.execute(3).args[0], GUIDERS[guider](model).args[0], KSamplerSelect.execute("euler").args[0]
        return SamplerCustomAdvanced.execute(*given, sigmas, {"samples": noise(9) * 0}).args[0]["samples"]

    model, shown = attached(network, FULL)
    assert same(run(model), run(network))
    assert f"ISA: {CALLS} attention calls at 100.0% density" in shown[0]


# Two samplers


@pytest.mark.slow
def test_full_attention_first_and_isa_later_by_two_samplers_or_by_start_percent(network):
    steps, first = 4, 2
    sampling = network.get_model_object("model_sampling")
    sigma = float(comfy.samplers.calculate_sigmas(sampling, "simple", steps)[first])
    starts = next(p / 1000 for p in range(1000) if sampling.percent_to_sigma(p / 1000) <= sigma + 1e-6)
    one, shown_one = attached(network, schedule=Schedule(start_percent=starts))
    by_percent = sample(one, steps=steps)

    model, shown = attached(network)
    half = sample(network, steps=steps, end=first)
    by_samplers = sample(model, steps=steps, latent=half, start=first, noisy=False)
    assert same(by_samplers, by_percent)
    assert error(by_percent, sample(network, steps=steps)) > 1e-4
    later = (steps - first) * BLOCKS
    assert f"ISA: {later} attention calls" in shown[0] and f"ISA: {later} attention calls" in shown_one[0]


# The node itself


def test_attaching_leaves_no_trace_on_a_model_that_was_sampled_and_survives_clones(liveditor, dense, sparse):
    model, shown = attached(liveditor)
    for each in (model, model.clone(), model.clone().clone(), attached(model.clone())[0]):
        assert torch.equal(sample(each), sparse)
    assert len(shown) == 3
    # Without the node, which is what bypassing it is.
    assert torch.equal(sample(liveditor), dense)
    again, _ = attached(liveditor)
    assert torch.equal(sample(again), sparse)


# Several GPUs


def test_one_device_makes_multigpu_cfg_split_do_nothing(liveditor, sparse):
    assert torch.equal(sample(attached(MultiGPUCFGSplitNode.execute(liveditor, 2).args[0])[0]), sparse)


@pytest.fixture
def two_devices(monkeypatch):
    """The CPU under two names, which core takes for two devices with a thread each."""
    devices = [torch.device("cpu"), torch.device("cpu", 0)]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: list(devices))
    # Core's node stumbles over patchers of earlier tests that are gone.
    loaded = comfy.model_management.loaded_models
    monkeypatch.setattr(
        comfy.model_management, "loaded_models", lambda: [patcher for patcher in loaded() if patcher is not None]
    )


class Mapped(Rows):
    """Asks for heat maps as well."""

    def __init__(self):
        super().__init__()
        self.maps = []

    def started(self, live, steps, parts):
        return "thumbnail"

    def mapped(self, at, blocks, maps):
        self.maps.append(maps.tensor())


@pytest.mark.parametrize("order", ["split first", "ISA first"])
def test_multigpu_cfg_split(liveditor, sparse, two_devices, monkeypatch, order):
    inside, most, add = [], [], RunReport.add_sparse

    def slow(self, stats):
        inside.append(1)
        time.sleep(0.01)  # in which another thread would come in
        most.append(len(inside))
        add(self, stats)
        inside.pop()

    one_gpu, watcher = Mapped(), Mapped()
    sample(attached(liveditor, watcher=one_gpu)[0])
    monkeypatch.setattr(RunReport, "add_sparse", slow)
    split = MultiGPUCFGSplitNode.execute(liveditor, 2).args[0] if order == "split first" else liveditor
    model, shown = attached(split, watcher=watcher)
    if order == "ISA first":
        model = MultiGPUCFGSplitNode.execute(model, 2).args[0]
    assert [patcher.load_device for patcher in model.get_additional_models_with_key("multigpu")] == [torch.device("cpu", 0)]
    assert same(sample(model), sparse)
    # A cond on each: twice the calls of one GPU that batches them.
    assert f"ISA: {2 * CALLS} attention calls" in shown[0]
    assert max(most) == 1, "two threads recorded at once"
    assert [row["tokens"] for row in watcher.rows] == [PARTS] * STEPS
    for found, expected in zip(watcher.maps, one_gpu.maps, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


# torch.compile


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Teller(Watcher):
    """Changes a setting after the first step, as the page does."""

    def stepped(self, row):
        if row["at"] == 0:
            self.live.tell({"keep_ratio": 1.0, "dense_query_ratio": 1.0})

    def started(self, live, steps, parts):
        self.live = live
        return "off"


@pytest.mark.slow
def test_torch_compile(liveditor, dense, sparse, fresh_compiler):
    """Core's node, with the backend that runs what Dynamo traced as it is: what goes wrong here are guards, not kernels."""

    def compiled(model):
        return TorchCompileModel.execute(model, "eager").args[0]

    assert same(sample(compiled(liveditor)), dense)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    first, _ = attached(compiled(liveditor))
    last, shown = attached(liveditor)
    assert same(sample(first), sparse) and same(sample(compiled(last)), sparse)
    assert f"ISA: {CALLS} attention calls" in shown[0]
    assert same(sample(compiled(liveditor)), dense)
    for config, schedule, watcher in (
        (ISAConfig(), Schedule(start_percent=0.2, dense_blocks="0,3"), Watcher()),
        (ISAConfig(), Schedule(), Teller()),
    ):
        expected, said = attached(liveditor, config, schedule, watcher)
        expected = sample(expected)
        model, shown = attached(compiled(liveditor), config, schedule, watcher)
        assert same(sample(model), expected) and shown == said
        assert error(expected, sparse) > 1e-5


# Context reuse


def reusing(model, watcher=None):
    """Whose context is computed in the first two steps alone: from pure noise every step is too far."""
    return attached(model, FULL, watcher=watcher, live=LiveSettings(Settings(FULL, context_refresh=10)))


@pytest.fixture
def at_once(monkeypatch) -> list[float]:
    """Every model call twice: the target alone over the context that was kept a moment ago. Holds the errors."""
    errors = []

    def twice(run, sequence, passes, sigmas, call):
        refresh = Refresh()
        out = call(refresh)
        assert refresh.whole is not refresh.skipped
        if refresh.whole:
            reuse = Reuse(refresh)
            errors.append(error(call(reuse), out))
            assert reuse.whole
        return out

    monkeypatch.setattr(attach, "with_context_reuse", twice)
    return errors


LONG = (noise(1, frames=5),)
MASK = torch.zeros(1, 2, 12, 16).index_fill_(3, torch.arange(8), 1)
COMPOSED = {
    "alone": (lambda model: model, {}),
    "windows": (windows, {"frames": 5, "positive": conditioning(2, LONG), "negative": conditioning(3, LONG)}),
    "a mask": (lambda model: model, {"mask": MASK, "latent": noise(8)}),
    "texts of unequal length": (lambda model: model, {"negative": conditioning(3, tokens=14)}),
    "contexts of unequal size": (lambda model: model, {"negative": conditioning(3, (noise(4, height=8),))}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("order", ["it first", "ISA first"])
def test_a_reuse_gives_what_the_refresh_gave_beside(network, at_once, name, order):
    add, options = COMPOSED[name]
    model = reusing(add(network))[0] if order == "it first" else add(reusing(network)[0])
    sample(model, **options)
    assert at_once and max(at_once) < 1e-5


@pytest.mark.slow
def test_a_reuse_under_a_lora(liveditor, at_once, tmp_path, monkeypatch):
    lora_file(tmp_path)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))

    def load(model):
        return core.LoraLoaderModelOnly().load_lora_model_only(model, "edit.safetensors", 0.7)[0]

    before, after = sample(reusing(load(liveditor))[0]), sample(load(reusing(liveditor)[0]))
    assert same(before, after) and len(at_once) == 2 * STEPS and max(at_once) < 1e-5
    assert error(before, sample(reusing(liveditor)[0])) > 1e-3


@pytest.mark.long
def test_a_reuse_under_torch_compile(liveditor, at_once, fresh_compiler):
    for model in (
        TorchCompileModel.execute(reusing(liveditor)[0], "eager").args[0],
        reusing(TorchCompileModel.execute(liveditor, "eager").args[0])[0],
    ):
        sample(model, steps=1)
    assert len(at_once) == 2 and max(at_once) < 1e-5


@pytest.mark.slow
def test_every_window_and_every_pass_keeps_a_context_of_its_own(network, monkeypatch):
    begun, begin = [], ContextStore.begin

    def noted(self, sequence, *args, **options):
        begun.append((sequence, type(found := begin(self, sequence, *args, **options))))
        return found

    monkeypatch.setattr(ContextStore, "begin", noted)
    model, shown = reusing(windows(network))
    options = COMPOSED["windows"][1]
    found = sample(model, steps=4, **options)
    assert len({sequence for sequence, _ in begun}) == len(begun) // 4 == 2
    assert [kind for _, kind in begun] == [Refresh] * 4 + [Reuse] * 4
    assert "The context was computed in 4 of 8 model calls" in shown[0]
    assert 0 < error(found, sample(windows(network), steps=4, **options)) < 0.2


@pytest.mark.slow
def test_each_gpu_keeps_its_own_context(liveditor, two_devices):
    one, _ = reusing(liveditor)
    split, shown = reusing(MultiGPUCFGSplitNode.execute(liveditor, 2).args[0])
    assert same(sample(split, steps=4), sample(one, steps=4))
    assert "The context was computed in 4 of 8 model calls" in shown[0]


@pytest.mark.slow
@pytest.mark.parametrize("cache", [easy, lazy])
@pytest.mark.parametrize("order", ["cache first", "ISA first"])
def test_steps_that_a_cache_skips_neither_keep_nor_reuse(network, cache, order):
    rows, steps = Rows(), 8
    if order == "cache first":
        model, shown = reusing(cache(network), watcher=rows)
    else:
        model, shown = reusing(network, watcher=rows)
        model = cache(model)
    sample(model, steps=steps)
    computed = [row for row in rows.rows if row["tokens"]]
    assert 2 <= len(computed) < steps
    assert [row.get("context") for row in computed] == ["refreshed"] * 2 + ["reused"] * (len(computed) - 2)
    assert all("context" not in row for row in rows.rows if not row["tokens"])
    assert f"The context was computed in 2 of {len(computed)} model calls" in shown[0] and "could not reuse" not in shown[0]
