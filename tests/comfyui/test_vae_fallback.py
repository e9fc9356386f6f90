"""Streaming uses inner functions of core's VAE: a version of core that has others is decoded and encoded all at once."""

import logging

import comfy.ldm.wan.vae
import pytest
import torch
from liveditor_isa.comfyui.loaders import load_vae
from liveditor_isa.comfyui.vae_decode import decode_chunks
from liveditor_isa.comfyui.vae_encode import encode_groups
from liveditor_isa.video.geometry import latent_groups
from make_tiny_model import VAE

NO_MEMORY_ON_THE_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")
"""Core itself does not take it for a want of memory."""


@pytest.fixture
def vae(models):
    return load_vae(str(models / VAE))


def renamed(monkeypatch):
    monkeypatch.delattr(comfy.ldm.wan.vae, "count_cache_layers")


def called_otherwise(monkeypatch):
    monkeypatch.setattr(comfy.ldm.wan.vae, "count_cache_layers", lambda network, more: 0)


@pytest.mark.parametrize("change", [renamed, called_otherwise])
def test_another_version_of_core_decodes_and_encodes_at_once(vae, monkeypatch, caplog, change):
    latent = torch.randn(1, 16, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    whole = vae.decode(latent)[0]
    frames = torch.rand(5, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    encoded = vae.encode(frames)
    monkeypatch.setattr(vae, "decode", lambda samples: whole[None])
    monkeypatch.setattr(vae, "encode", lambda pixels: encoded)
    change(monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(torch.cat([*decode_chunks(vae, latent)]), whole)
        assert torch.equal(encode_groups(vae, lambda: latent_groups([frames])), encoded)
    said = [record for record in caplog.records if "at once" in record.message]
    assert len(said) == 2 and all(record.exc_info for record in said), "the traceback is for a report"


def test_memory_that_runs_short_on_the_cpu_counts_too(vae, monkeypatch):
    def no_memory(*_, **__):
        raise NO_MEMORY_ON_THE_CPU

    monkeypatch.setattr(vae.first_stage_model.decoder, "forward", no_memory)
    monkeypatch.setattr(vae.first_stage_model.encoder, "forward", no_memory)
    monkeypatch.setattr(vae, "decode_tiled", lambda samples: torch.zeros(1, 5, 32, 48, 3))
    monkeypatch.setattr(vae, "encode_tiled", lambda pixels, **_: torch.zeros(1, 16, 2, 4, 6))
    assert sum(map(len, decode_chunks(vae, torch.zeros(1, 16, 2, 4, 6)))) == 5
    assert encode_groups(vae, lambda: latent_groups([torch.zeros(5, 32, 48, 3)])).shape == (1, 16, 2, 4, 6)
