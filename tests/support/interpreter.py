"""Triton's interpreter, so that kernels run on a CPU. Import before triton."""

import importlib.util
import os

import torch

if not torch.cuda.is_available() and importlib.util.find_spec("triton"):
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    patch_lang_tensor = interpreter._patch_lang_tensor

    def patch_for_numpy(tensor, scope):
        """Triton 3.6 makes loop bounds of arrays of one element with int(), which NumPy 2.4 no longer allows."""
        patch_lang_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_for_numpy
