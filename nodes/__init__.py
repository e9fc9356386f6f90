"""The pack's nodes, one subject per file."""

from comfy_api.latest import ComfyExtension, io

from ..comfyui.architecture import register
from .attach import AttachISA
from .decode import DecodeVideo
from .load import LoadLIVEditor
from .references import InContextReferences
from .routes import add_routes


class LIVEditorExtension(ComfyExtension):
    async def on_load(self) -> None:
        register()
        add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadLIVEditor, AttachISA, InContextReferences, DecodeVideo]
