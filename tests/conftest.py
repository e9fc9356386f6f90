"""What the tests share: a real ComfyUI, in this process and as a server, the stand-in models, a real video."""

import os
import shutil
from pathlib import Path

# Before torch: threads that wait for each other over such small work make it many times slower on a busy machine, and
# these tests make theirs busy (`make test` runs two workers). Servers inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import interpreter  # noqa: F401  before anything that imports triton
import pytest
from comfy_headless import COMFYUI, ComfyServer, import_comfy
from hypothesis import HealthCheck, settings
from setup import MODELS, SAMPLE_VIDEO

# Before any test module is imported: the pack's ComfyUI side imports `comfy` at its top.
if (COMFYUI / "main.py").exists():
    import_comfy()

# No test fails for the time that it takes, on whatever machine.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

NEEDS = {"browser": {"browser"}, "server": {"server", "server_models"}}
"""Markers by the fixtures that a test uses, itself or through others."""


def is_of_the_page(node: str) -> bool:
    return "web/" in node.partition("::")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks what needs a server or a browser. First come the page's tests, which take longest: other workers have something
    to do beside them until the end."""
    for item in items:
        for marker, fixtures in NEEDS.items():
            if fixtures & {*item.fixturenames}:
                item.add_marker(marker)
    items.sort(key=lambda item: not is_of_the_page(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """For `--dist loadfile`, and the page's files on the same worker: two browsers at once are too much for two cores."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneBrowser(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "the page" if is_of_the_page(nodeid) else super()._split_scope(nodeid)

    return OneBrowser(config, log)


@pytest.fixture(scope="session")
def sample_video() -> Path:
    """1280×720, 25 fps, 132 frames, AAC 5.1 sound."""
    return SAMPLE_VIDEO


@pytest.fixture(scope="session")
def models() -> Path:
    """A models folder with the stand-in set; read-only, shared by all tests."""
    return MODELS


@pytest.fixture(scope="session")
def weights() -> dict:
    """The stand-in's diffusion weights by official name, dead ones included."""
    from make_tiny_model import diffusion_weights

    return diffusion_weights()


@pytest.fixture(scope="session")
def liveditor_file(models, tmp_path_factory) -> Path:
    """The stand-in diffusion model as safetensors, converted from the official wrapping."""
    from liveditor_isa.checkpoint.convert import convert_checkpoint
    from make_tiny_model import MODEL

    target = tmp_path_factory.mktemp("converted") / "liveditor.safetensors"
    convert_checkpoint(models / MODEL, target)
    return target


@pytest.fixture(scope="module")
def liveditor(liveditor_file):
    """The stand-in in ComfyUI; a module's own, because tests patch weights."""
    from liveditor_isa.comfyui.architecture import register
    from liveditor_isa.comfyui.loaders import load_diffusion_model

    register()
    return load_diffusion_model(str(liveditor_file))


@pytest.fixture(scope="module")
def plain_wan(models):
    """Plain Wan in ComfyUI, as Bernini is."""
    import comfy.sd
    from make_tiny_model import PLAIN_WAN

    return comfy.sd.load_diffusion_model(str(models / PLAIN_WAN))


@pytest.fixture(params=["liveditor", "plain_wan"])
def in_context_model(request):
    """Both kinds of in-context attention: LIVEditor's and core's own (Bernini)."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def server_models(models, tmp_path_factory) -> Path:
    """A models folder of the server's own, so that tests may add files to it."""
    folder = tmp_path_factory.mktemp("server") / "models"
    shutil.copytree(models, folder)
    return folder


@pytest.fixture(scope="session")
def server(server_models, sample_video) -> ComfyServer:
    """ComfyUI's server with this pack, and nodes of the tests' own; one for the whole session."""
    prepared = ComfyServer(server_models.parent, server_models)
    shutil.copy(Path(__file__).parent / "support/stand_in_nodes.py", prepared.base / "custom_nodes")
    with prepared as running:
        running.add_input(sample_video)
        yield running


@pytest.fixture(scope="session")
def info(server) -> dict:
    """What the server says of its nodes."""
    return server.get("/object_info")


@pytest.fixture(scope="session")
def schemas() -> list:
    """The nodes' own."""
    from node_inputs import all_schemas

    return all_schemas()
