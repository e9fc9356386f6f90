"""Where the kernels run in tests, and in which types: on a GPU where there is one, else in Triton's interpreter."""

import torch

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
# In the interpreter bf16 products are wrong (Triton 3.6), fp16 and fp32 right.
DTYPES = [torch.float32, torch.float16, torch.bfloat16] if GPU else [torch.float32, torch.float16]
