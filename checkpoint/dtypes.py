"""The types of weights and computation that a user may choose, by the names of every command and setting."""

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
