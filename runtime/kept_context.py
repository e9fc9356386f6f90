"""What a refresh of the context keeps, and a reuse that attends to it: `context_reuse` says when.

Keys and values of every self-attention stay on the GPU or in main memory, as computed or in 8 bits. No host is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from ..errors import is_out_of_memory
from ..isa_core import TokenLayout
from ..isa_core.exact_rows import rows_of
from ..isa_core.layout import CONTEXT
from . import decisions
from .pinned import Pinned, taken_bytes

LEFT_FREE = 0.15
"""Share of a GPU's memory, and of main memory, that what is kept must leave free."""

KEEPING_DEVICES = AUTO, GPU, MAIN_MEMORY = ("auto", "gpu", "cpu")
KEEPING_DTYPES = AS_COMPUTED, INT8 = ("default", "int8")
KEEPING_COPIES = EACH, ONE = ("each", "one")
"""Core's words for where its own context caches are kept, and in what; whether each pass of guidance keeps one, or one for all."""


@dataclass(frozen=True)
class Keeping:
    """How contexts are kept.

    device: "auto" is the GPU if enough of its memory remains free, else main memory if enough of that does, else nowhere; "gpu"
        and "cpu" (main memory) are kept to.
    dtype: "default" keeps the numbers as they are computed, "int8" in 8 bits with a scale for each token and head.
    copies: "each" keeps a context of each pass of guidance, "one" that of the leading pass, which all of them reuse.

    Raises ValueError for another word.
    """

    device: str = AUTO
    dtype: str = AS_COMPUTED
    copies: str = EACH

    def __post_init__(self):
        for name, known in (("device", KEEPING_DEVICES), ("dtype", KEEPING_DTYPES), ("copies", KEEPING_COPIES)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"context_{name} must be one of {', '.join(known)}; got {value!r}.")

    def sizes_of(self, numbers: int, element_size: int, head_dim: int) -> tuple[int, ...]:
        """Bytes of each tensor that holds so many numbers of keys or values."""
        return (numbers, 4 * numbers // head_dim) if self.dtype == INT8 else (numbers * element_size,)


SMALLEST = 1e-20
"""Of an 8-bit scale's range, so that nothing is divided by zero."""


class _Kept(NamedTuple):
    """A tensor as it is kept: numbers, and their scale if they are in 8 bits."""

    numbers: torch.Tensor
    scale: torch.Tensor | None

    def on(self, device: torch.device) -> _Kept:
        scale = None if self.scale is None else self.scale.to(device, non_blocking=True)
        return _Kept(self.numbers.to(device, non_blocking=True), scale)

    def restored(self, dtype: torch.dtype) -> torch.Tensor:
        return self.numbers if self.scale is None else self.numbers.to(dtype) * self.scale.to(dtype)


class Refresh:
    """A model call that computes the whole sequence, and what it keeps of the context.

    sequence: identifies what is kept. level: the call's noise level, 0..1. home: where there is room, if that is known.
    agreed: from whether this process has room to whether all processes have it that share the call's tokens: they keep the
        context all or none.
    part: (place, number of parts) of the batch's part that is kept; None where nothing is, because another call keeps it or none
        would reuse it.
    """

    def __init__(
        self,
        sequence: Hashable = None,
        level: float = 0.0,
        keeping: Keeping = Keeping(),
        home: torch.device | None = None,
        agreed: Callable[[bool], bool] = bool,
        part: tuple[int, int] | None = (0, 1),
    ):
        self.sequence, self.level, self.keeping, self._agreed, self.part = sequence, level, keeping, agreed, part
        self.refused: str | None = None
        """Why nothing is kept."""
        self.ran = self.skipped = False
        """Set by the host: where the network ran for sure, and where it did not, because a cache of steps answered for it."""
        self.passed_by: str | None = None
        """Set by the host: why an attention took no part, where it is known."""
        self.layout: TokenLayout | None = None
        self.of_blocks = 0
        self.home = home
        """Where it is kept: on the GPU, or on the CPU where that has too little free memory."""
        self.positions: object = None
        """Of the target, where a network computes them with the context's: as it takes them."""
        self._pinned: Pinned | None = None
        self._held: dict[int, tuple[_Kept, _Kept]] = {}
        self._met: list[int] = []

    def begin(self) -> None:
        """The model is called, or called again."""
        self._met.clear()

    def attended(
        self, block: int, of_blocks: int, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout
    ) -> tuple[torch.Tensor, torch.Tensor, TokenLayout]:
        """The keys and values [B, S, H, D] that transformer block `block` attends to, and their layout: its own."""
        self.layout, self.of_blocks = layout, of_blocks
        self._met.append(block)
        if self.part is None:
            return k, v, layout
        kept_k, kept_v = (_of_context(x, layout).chunk(self.part[1])[self.part[0]] for x in (k, v))
        sizes = [*self.keeping.sizes_of(kept_k.numel(), k.element_size(), k.shape[3])] * 2 * of_blocks
        if self.home is None and self.refused is None:
            home = _home(self.keeping.device, k.device, sizes)
            if self._agreed(home is not None):
                self.home = home
            else:
                self.refused = decisions.NO_ROOM
        if self.home is not None:
            self._pinned = self._pinned or Pinned(sizes)
            try:
                self._held[block] = self._kept(kept_k), self._kept(kept_v)
            except (RuntimeError, MemoryError) as error:
                # Others took the room meanwhile. Processes that share the call have agreed to keep it.
                if self._agreed is not bool or not is_out_of_memory(error):
                    raise
                self.home, self.refused, self._pinned = None, decisions.NO_ROOM, None
                self._held.clear()
        return k, v, layout

    def _kept(self, x: torch.Tensor) -> _Kept:
        assert self.home is not None and self._pinned is not None, "there is room"
        if self.keeping.dtype == AS_COMPUTED:
            return _Kept(_copied(x, self.home, self._pinned), None)
        scale = x.abs().amax(-1, keepdim=True).float().clamp(min=SMALLEST) / 127
        return _Kept(
            _copied((x / scale).round().to(torch.int8), self.home, self._pinned), _copied(scale, self.home, self._pinned)
        )

    @property
    def met(self) -> bool:
        """Whether any attention took part."""
        return bool(self._met)

    @property
    def whole(self) -> bool:
        """Whether every transformer block was met once and kept what it had to, so that none goes without its context in a reuse."""
        blocks = [*range(self.of_blocks)]
        return sorted(self._met) == blocks != [] and (self.part is None or self._held.keys() == {*blocks})

    @property
    def bytes(self) -> int:
        return sum(x.numel() * x.element_size() for pair in self._held.values() for kept in pair for x in kept if x is not None)

    def of(self, block: int) -> tuple[_Kept, _Kept]:
        """What is kept of keys and values [B, context tokens, H, D] of transformer block `block`."""
        return self._held[block]

    def __deepcopy__(self, memo):
        return self  # nodes copy whole model options in the middle of a call

    def __reduce__(self):
        return type(None), ()  # a pickled copy is None: the call does not continue elsewhere


class Reuse:
    """A model call of all but the context's tokens, with the context of an earlier `Refresh`."""

    def __init__(self, kept: Refresh):
        assert kept.layout is not None, "an attention was kept"
        self.kept, self.layout = kept, kept.layout
        self.ran = self.skipped = False
        self.passed_by: str | None = None
        self._met: list[int] = []
        self._coming: dict[int, tuple[_Kept, _Kept, torch.cuda.Event]] = {}

    def attended(
        self, block: int, of_blocks: int, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout
    ) -> tuple[torch.Tensor, torch.Tensor, TokenLayout]:
        """As of a Refresh, from the keys and values [B, T, H, D] of the tokens that run: with the kept ones, all tokens'."""
        self._met.append(block)
        kept_k, kept_v = (kept.restored(k.dtype) for kept in self._here(block, k.device))
        if self.kept.keeping.copies == ONE:  # for all passes of the batch
            kept_k, kept_v = (x.repeat(len(k) // len(x), 1, 1, 1) for x in (kept_k, kept_v))
        if layout.order:  # another pass of guidance may have another text
            others = iter(layout.in_memory)
            self.layout = TokenLayout.of(*(each if each.kind == CONTEXT else next(others) for each in self.layout.in_memory))
        return _woven(k, kept_k, self.layout), _woven(v, kept_v, self.layout), self.layout

    def _here(self, block: int, device: torch.device) -> tuple[_Kept, _Kept]:
        """What was kept of a block, on `device`. From main memory the next block's comes while this one is in work."""
        k, v = self.kept.of(block)
        if self.kept.home == device:
            return k, v
        if device.type != "cuda":
            return k.on(device), v.on(device)
        coming = self._coming.pop(block) if block in self._coming else None
        if coming is None or coming[0].numbers.device != device:  # a network on several GPUs goes on on the next one
            coming = self._send(block, device)
        k, v, arrived = coming
        if block + 1 < self.kept.of_blocks:
            self._coming[block + 1] = self._send(block + 1, device)
        stream = torch.cuda.current_stream(device)
        stream.wait_event(arrived)
        for x in (*k, *v):
            if x is not None:
                x.record_stream(stream)  # it was allocated for the other one
        return k, v

    def _send(self, block: int, device: torch.device) -> tuple[_Kept, _Kept, torch.cuda.Event]:
        # Not before the GPU gets here: the host is blocks ahead of it, and so would be the memory of what was sent.
        _copies(device).wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(_copies(device)):
            k, v = (kept.on(device) for kept in self.kept.of(block))
            arrived = torch.cuda.Event()
            arrived.record()
        return k, v, arrived

    begin, met = Refresh.begin, Refresh.met

    @property
    def whole(self) -> bool:
        """Whether every transformer block attended to the context, and once. Otherwise the call's result is wrong."""
        return sorted(self._met) == [*range(self.kept.of_blocks)]

    __deepcopy__ = Refresh.__deepcopy__
    __reduce__ = Refresh.__reduce__


def _of_context(x: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """x [B, S, H, D] -> the tokens of all contexts, in memory order."""
    if not layout.order:
        return x[:, layout.target :]
    return rows_of(x, layout.spans(CONTEXT))


def _woven(x: torch.Tensor, kept: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """All tokens in memory order, from those that ran and those of the contexts."""
    if not layout.order:
        return torch.cat([x, kept], dim=1)
    of_kept, of_others = ([n for kind, n in layout.in_memory if (kind == CONTEXT) == wanted] for wanted in (True, False))
    held, ran = iter(kept.split(of_kept, dim=1)), iter(x.split(of_others, dim=1))
    return torch.cat([next(held if kind == CONTEXT else ran) for kind, _ in layout.in_memory], dim=1)


def _home(choice: str, device: torch.device, sizes: Sequence[int]) -> torch.device | None:
    """Where tensors of so many bytes, keys and values that are on `device`, are kept, by a choice of KEEPING_DEVICES; None for
    nowhere."""
    if device.type == "cuda" and choice != MAIN_MEMORY:
        free, total = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        if choice == GPU or free - sum(sizes) >= LEFT_FREE * total:
            return device
    elif device.type not in ("cuda", "cpu") and choice != MAIN_MEMORY:
        return device  # of which nobody says how much is free
    available, total = _main_memory()
    needed = taken_bytes(sizes) if device.type == "cuda" else sum(sizes)
    enough = available - needed >= LEFT_FREE * total
    return torch.device("cpu") if enough or choice == MAIN_MEMORY else None


CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Where Linux says what a container may use, in its second and first version: folder, limit, use, and of that what it can drop."""


def _main_memory() -> tuple[int, int]:
    """Bytes that are available and in all, of the machine or, if that has less, of the container."""
    memory = psutil.virtual_memory()
    available, total = memory.available, memory.total
    for folder, limit, used, droppable in CGROUPS:
        with suppress(OSError, ValueError, KeyError):  # no container, or no limit
            most = int(Path(folder, limit).read_text(encoding="utf-8"))
            words = Path(folder, "memory.stat").read_text(encoding="utf-8").split()
            stat = dict(zip(words[::2], words[1::2]))
            left = most - int(Path(folder, used).read_text(encoding="utf-8")) + int(stat[droppable])
            available, total = min(available, left), min(total, most)
    return available, total


def _copied(x: torch.Tensor, home: torch.device, pinned: Pinned) -> torch.Tensor:
    """A copy of its own, contiguous: a part of a tensor would hold the whole one's memory too. From a GPU to main memory it is pinned."""
    if home == x.device:
        return x.clone(memory_format=torch.contiguous_format)
    copy = pinned.empty(x.shape, x.dtype) if x.is_cuda else torch.empty(x.shape, dtype=x.dtype)
    return copy.copy_(x, non_blocking=True)


@lru_cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
