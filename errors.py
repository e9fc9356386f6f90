"""Classifies errors and puts them into one sentence for a user. Needs no host program."""

from __future__ import annotations

import errno

import torch

OUT_OF_MEMORY = (
    "can't allocate memory",  # torch's CPU allocator, which raises a plain RuntimeError
    "not enough memory",  # the same on Windows
    "cannot allocate memory",  # a file that cannot be mapped
    "out of memory",
    "std::bad_alloc",
    "cublas_status_alloc_failed",
)
"""Lower-case parts of libraries' out-of-memory messages, in exception types that have other causes too."""

AMBIGUOUS = ("RuntimeError", "AcceleratorError", "SafetensorError")
"""These exception types: torch's and safetensors'."""

CURE = "ask for fewer frames or a smaller size; on a GPU, --offload keeps less there"


class NotFiniteError(ValueError):
    """A result that holds NaN or infinity: one sentence with cause and remedy. The input is valid; other inputs may fail in the same way."""


class UnreachableError(ValueError):
    """A server that all work needs does not answer, or refuses whatever it is asked: one sentence with cause and remedy. The input is valid;
    all others would fail too."""


class FaultsError(ValueError):
    """What is wrong with an input: the first fault in one sentence, and how many more there are. faults: all of them."""

    more = "are wrong"
    """What the others are, and where they are listed."""

    def __init__(self, *faults: str):
        others = f" {len(faults) - 1} more {self.more}." if len(faults) > 1 else ""
        super().__init__(faults[0] + others)
        self.faults = faults


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the machine or on a GPU, also if a library has raised another exception for it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if _says_out_of_memory(cause):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return False


def _says_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # By its own name: a subclass of RuntimeError, such as this project's, may quote another error's words.
    return type(error).__name__ in AMBIGUOUS and any(words in str(error).lower() for words in OUT_OF_MEMORY)


def is_of_device(error: BaseException) -> bool:
    """Whether CUDA accepts no further calls in this process after the error. It does after out of memory."""
    if is_out_of_memory(error):
        return False
    return type(error).__name__ == "AcceleratorError" or (type(error) is RuntimeError and "CUDA error" in str(error))


def sentence(error: BaseException) -> str:
    """The message to the user for an error that ends an edit, in one line."""
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None or str(error.filename) in error.strerror else f": {error.filename}"
        return f"{error.strerror}{where}."
    if is_out_of_memory(error):
        words = str(error).strip().split("\n")[0].split(". ")[0] or "no memory is left"
        return f"Out of memory ({words}): {CURE}."
    if isinstance(error, (ValueError, RuntimeError)) and str(error).strip():
        return str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {error}".split("\n")[0]
