"""Fingerprints (SHA-256) of what this pack makes on the CPU from fixed seeds: do two trees make the same, bit by bit?

    .venv/bin/python scripts/same_numbers.py > before.json
    .venv/bin/python scripts/same_numbers.py --compare before.json
    PYTHONPATH=/elsewhere .venv/bin/python scripts/same_numbers.py --tree /elsewhere/liveditor_isa > other.json

The last looks at another tree, whose folder has the package's name. Compare on one machine: another may round otherwise.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module, util
from itertools import product
from pathlib import Path

# Before torch: how many threads share a sum decides how it is rounded. The command and the server inherit it.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import av
import comfy_headless
import liveditor_isa
import torch
from liveditor_isa.isa_core import ISAConfig, TokenLayout, add_coarse_residual, in_context_sparse_attention
from liveditor_isa.isa_core.reference import reference_attention
from liveditor_isa.pipelines import LIVEditorPipeline, attach_isa
from liveditor_isa.training import TASKS, EditStream
from PIL import Image
from safetensors.torch import load_file
from setup import SAMPLE_VIDEO
from torch.utils._pytree import tree_leaves
from workflow_api import Workflow

PROMPT, NEGATIVE, SEED, GUIDANCE, STEPS, FRAMES = "Make the video look like sunset", "night", 7, 1.5, 2, 5
# Tokens of target and contexts: tokens per block. Then keep, dense query and exact ratios: nothing, the paper's, all.
LAYOUTS = {(150,): 16, (128, 64): 16, (131, 90): 16, (127, 77, 40): 16, (191, 140, 65): 64}
RATIOS = [*product((0, 0.125, 1), (0, 0.5, 1), (0, 0.0625, 1))]
SHARPNESS = ("variance", None), ("top_mass", None), ("variance", 1e-3), ("top_mass", 0.3)  # and the threshold

ISA, CONTEXT, DECODE = "LIVEditorAttachISA", "LIVEditorInContextReferences", "LIVEditorDecodeVideo"
SETTINGS = {  # all that decides over the numbers of an example workflow, whose own values may change
    ISA: {"enabled": True, "keep_ratio": 0.25, "routing": "ratio", "routing.dense_query_ratio": 0.5, "exact_ratio": 0.0625,
        "sharpness": "variance", "context_tail": "drop", "start_percent": 0, "end_percent": 1, "dense_blocks": "",
        "min_tokens": 0, "backend": "torch", "live_changes": "", "context_refresh": 0, "context_device": "auto",
        "context_dtype": "default", "context_copies": "each"},
    CONTEXT: {"size": "custom", "size.width": 256, "size.height": 144, "length": FRAMES, "fps": 0},
    DECODE: {"crf": 18, "fps": 0, "whole_frame": False, "feather": 8, "match_colors": False},
    "LoadVideo": {"file": SAMPLE_VIDEO.name}, "ModelSamplingSD3": {"shift": 6},
    "KSampler": {"seed": SEED, "steps": STEPS, "cfg": GUIDANCE, "sampler_name": "euler", "scheduler": "simple", "denoise": 1},
}  # fmt: skip
RUNS = {
    "ISA": (ISA, {}),
    "full": (ISA, {"enabled": False}),
    "reuse": (ISA, {"context_refresh": 2}),
    "threshold": (ISA, {"routing": "threshold", "routing.sharpness_threshold": 0.3, "sharpness": "top_mass"}),
    "taylor, schedule": (ISA, {"context_tail": "taylor", "end_percent": 0.5, "dense_blocks": "0-1,-1"}),
    "reference": (CONTEXT, {"references.reference_0": ["picture", 0]}),
    "mask, colours": (DECODE, {"mask": ["mask", 0], "match_colors": True}),
    "box": (DECODE, {"box": ["box", 0]}),
}
MORE_NODES = {
    "picture": {"class_type": "LoadImage", "inputs": {"image": "picture.png"}},
    "mask": {"class_type": "LoadImageMask", "inputs": {"image": "picture.png", "channel": "red"}},
    "box": {"class_type": "PrimitiveBoundingBox", "inputs": {"x": 500, "y": 200, "width": 400, "height": 304}},
}


def core():
    cases = product(LAYOUTS.items(), (torch.float32, torch.bfloat16), SHARPNESS, ("drop", "taylor"), (0, 2), (1, 2))
    for number, ((segments, size), dtype, (sharpness, threshold), tail, order, batch) in enumerate(cases):
        layout, generator = TokenLayout(segments[0], segments[1:]), torch.Generator().manual_seed(number)
        shapes = [(batch, layout.total, 2, 32)] * 4 + [(batch, layout.total, 1, 1)]
        drawn = (1.5 * torch.randn(shape, generator=generator) for shape in shapes)
        q, k, v, other, gate = (tensor.to(dtype).requires_grad_() for tensor in drawn)
        inputs, gated = ((q, k, v, gate), {"coarse_gate": gate}) if batch == 2 else ((q, k, v), {})
        made = []
        for ratios in RATIOS[number % 9 :: 9]:
            config = ISAConfig(*ratios, sharpness, threshold, tail, size, order)
            options = {"layout": layout, "config": config, "backend": "torch", "return_stats": True}
            out, stats = in_context_sparse_attention(q, k, v, **options, **gated)
            made += [out, stats.kept_context, stats.dense_queries, stats.sharpness, *torch.autograd.grad(out, inputs, other)]
        if gated and not threshold:
            made += reference_attention(q, k, v, layout, config, gate)
            out = add_coarse_residual(other, q, k, v, gate, layout, size)
            made += [out, *torch.autograd.grad(out, (other, q, k, v, gate), other)]
        yield f"{segments}, {dtype}, {sharpness}, {threshold}, {tail}, {order}{', gate' if gated else ''}", made


def pipeline():
    video = EditStream(SEED, 1, FRAMES, 96, 160)[0].source[0].transpose(0, 1)
    sparse, taylor = ISAConfig(0.5, block_size=16), ISAConfig(context_tail="taylor", tail_order=2, block_size=16)
    for name, config, references, kind in (
        ("full", None, [], "latent"),
        ("ISA", sparse, [], "pt"),
        ("taylor, reference", taylor, [video[4:, :, :80]], "latent"),
    ):
        pipe, noise = LIVEditorPipeline.included(), torch.Generator().manual_seed(SEED)
        pipe.set_progress_bar_config(disable=True)
        if config:
            attach_isa(pipe.transformer, config, min_tokens=0)
        made = pipe(video, PROMPT, NEGATIVE, references, 96, 160, STEPS, GUIDANCE, generator=noise, output_type=kind)
        yield name, made.frames


def training():
    for split, task in product(("train", "held-out"), TASKS):
        yield f"edits, {split}, {task}", EditStream(SEED, 6, 5, 64, 80, split=split, tasks=(task,))[0]
    comfy_headless.import_comfy()
    # Older trees have the included model's training a folder higher.
    home = "liveditor_isa.training.tiny" if util.find_spec("liveditor_isa.training.tiny") else "liveditor_isa.training"
    editor, latents, text, vae = (import_module(f"{home}.{name}") for name in ("editor", "latents", "text", "vae"))
    size = (5, 48, 64, 4)
    phases = tuple(editor.Phase(2, (size,), (2e-3, 1e-3), isa) for isa in (None, ISAConfig(block_size=16)))
    settings = editor.EditorSettings(dim=128, ffn_dim=128, blocks=2, warm_up=2, phases=phases)
    stream, words = EditStream(SEED, size[3], *size[:3]), text.Tokenizer(text.vocabulary())
    pool = latents.LatentPool(vae.new_network(8).eval(), stream, words, size[3], batches=2, every=2)
    trainer = editor.EditorTrainer(settings, lambda step, _: pool.draw(step), "cpu")
    for step in range(settings.steps):
        yield f"editor, step {step}", [pool.draw(step), trainer.step(), trainer.weights, trainer.averaged]


def command():
    usual = f"--size 160x96 --frames {FRAMES} --steps {STEPS} --guidance {GUIDANCE} --seed {SEED} --negative-prompt {NEGATIVE} --context-refresh 0"
    isa = "--min-tokens 0 --keep-ratio 0.5 --dense-query-ratio 0.5 --exact-ratio 0.0625 --block-size 16"
    for name, more in (("full", "--no-isa"), ("ISA, reference", f"{isa} --reference picture.png --whole-frame")):
        with tempfile.TemporaryDirectory() as folder:
            Image.linear_gradient("L").convert("RGB").save(Path(folder, "picture.png"))
            line = [sys.executable, "-m", "liveditor_isa", "edit", str(SAMPLE_VIDEO), PROMPT, "--out", "out.mp4"]
            line += f"{usual} --device cpu --dtype fp32 {more}".split()
            subprocess.run(line, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            yield name, pictures_and_sound(Path(folder, "out.mp4"))


def nodes():
    saved = json.loads((comfy_headless.ROOT / "example_workflows/1 First edit, without a GPU.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder, comfy_headless.ComfyServer(Path(folder), None) as server:
        server.add_input(SAMPLE_VIDEO)
        Image.linear_gradient("L").convert("RGB").save(Path(folder, "input/picture.png"))
        workflow = Workflow(saved, server.get("/object_info"))
        for number, (name, (kind, changed)) in enumerate(RUNS.items()):
            prompt = workflow.prompt(SETTINGS | {kind: SETTINGS[kind] | changed}) | MORE_NODES
            inputs = {entry["class_type"]: entry["inputs"] for entry in prompt.values()}
            for link, text in (("positive", PROMPT), ("negative", NEGATIVE)):
                prompt[inputs[CONTEXT][link][0]]["inputs"]["text"] = text
            inputs[DECODE]["filename_prefix"] = f"run{number}"
            latent = {"samples": inputs[DECODE]["samples"], "filename_prefix": f"run{number}"}
            run = server.run(prompt | {"save": {"class_type": "SaveLatent", "inputs": latent}})
            assert not run.error, f"{name}: {run.error}"
            made = {path.suffix: path for path in Path(folder, "output").glob(f"run{number}_*")}
            yield f"{name}: latent", load_file(made[".latent"])
            yield f"{name}: video", pictures_and_sound(made[".mp4"])


def pictures_and_sound(path: Path) -> list:
    with av.open(str(path)) as container:
        return [(frame.pts, torch.from_numpy(frame.to_ndarray())) for frame in container.decode()]


def fingerprint(made) -> str:
    digest = hashlib.sha256()
    for leaf in tree_leaves(made):
        if isinstance(leaf, torch.Tensor):
            digest.update(leaf.detach().flatten().view(torch.uint8).numpy())
            leaf = leaf.dtype, leaf.shape
        digest.update(repr(leaf).encode())
    return digest.hexdigest()


def fingerprints(*parts) -> dict[str, str]:
    return {f"{part.__name__}: {name}": fingerprint(made) for part in parts for name, made in part()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=comfy_headless.ROOT, help="the tree to look at (default: this one)")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="print what is not as in this file, exit with 1")
    options = parser.parse_args()
    tree = comfy_headless.ROOT = options.tree.resolve()  # the server's custom node
    print(f"liveditor_isa is {liveditor_isa.__file__}", file=sys.stderr)
    if not Path(liveditor_isa.__file__).resolve().is_relative_to(tree):
        sys.exit(f"That is not in {tree}: set PYTHONPATH to the folder that it is in.")
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    with ThreadPoolExecutor(1) as pool:  # for the nodes, which compute in the server's process
        others = pool.submit(fingerprints, nodes)
        found = fingerprints(core, pipeline, training, command) | others.result()
    if options.compare:
        before = json.loads(options.compare.read_text(encoding="utf-8"))
        differing = [name for name in before | found if before.get(name) != found.get(name)]
        print(*differing, f"{len(differing)} of {len(before | found)} differ", sep="\n")
        sys.exit(bool(differing))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
