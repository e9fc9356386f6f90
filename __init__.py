"""LIVEditor with In-context Sparse Attention for ComfyUI.

ComfyUI imports this folder as a custom node; installed with pip it is `liveditor_isa`, whose `isa_core` needs no ComfyUI.
"""

from .comfyui.core import lacking
from .version import __version__ as __version__

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI. Anything that needs ComfyUI, or may be missing, is imported here and not above.

    Raises RuntimeError with one sentence, which ComfyUI logs, where ComfyUI lacks something that the pack needs.
    """
    if sentence := lacking():
        raise RuntimeError(sentence)
    try:
        from .nodes import LIVEditorExtension
    except Exception:
        # ComfyUI logs one line for a failing pack; the traceback is what a bug report needs.
        import logging

        logging.getLogger(__name__).exception("LIVEditor · ISA could not be loaded")
        raise
    return LIVEditorExtension()
