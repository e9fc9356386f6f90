"""When a kept context is reused, and what is kept: no host, no model."""

import copy
import itertools
import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from liveditor_isa.isa_core import ISAConfig, TokenLayout
from liveditor_isa.runtime import kept_context
from liveditor_isa.runtime.context_reuse import ContextStore, Passes, distance
from liveditor_isa.runtime.kept_context import Keeping, Refresh, Reuse
from liveditor_isa.runtime.live import Settings

LAYOUT = TokenLayout(3, (2, 1))


def kept(blocks=2, of_blocks=2, refresh=None):
    refresh, generator = refresh or Refresh(), torch.Generator().manual_seed(0)
    for block in range(blocks):
        k, v = (torch.randn(1, LAYOUT.total, 2, 4, generator=generator) for _ in range(2))
        assert refresh.attended(block, of_blocks, k, v, LAYOUT) == (k, v, LAYOUT)
    return refresh


def holding(*sequences):
    """A store with what was kept of them at level 0.5."""
    store = ContextStore()
    assert all(store.end(kept(refresh=store.begin(sequence, 0.5, 1))) for sequence in sequences)
    return store


def is_due(store, sequence, level, change):
    return isinstance(store.begin(sequence, level, change), Refresh)


def refreshes(levels, change, store=None):
    """Positions of the levels at which a refresh was due."""
    store, found = store or ContextStore(), []
    for position, level in enumerate(levels):
        call = store.begin("sequence", level, change)
        if isinstance(call, Refresh):
            store.end(kept(refresh=call))
            found.append(position)
    return found


def test_a_refresh_is_due_when_the_noise_level_has_fallen_far_enough():
    odds = [0, 0.3, 0.9, 1.0, 1.5, 2.1]
    levels = [1 / (1 + math.exp(each)) for each in odds]
    assert refreshes(levels, 1) == [0, 3, 5]
    assert refreshes(levels, 0) == [0, 1, 2, 3, 4, 5]
    assert refreshes([0.9, 0.5, 0.01], 10) == [0]


def test_from_pure_noise_every_step_is_too_far():
    assert refreshes([1.0, 1.0, 0.999, 0.99, 0.9], 10) == [0, 2]
    assert distance(1, 0) == distance(1, 0.5) == distance(0.5, 0) == math.inf and distance(1, 1) == distance(0, 0) == 0


@pytest.mark.parametrize("change, some", [(0.5, (12, 14)), (1, (7, 9)), (2, (4, 5))])
def test_a_shift_and_the_number_of_steps_hardly_change_how_often(change, some):
    for shift, steps in itertools.product((1, 3, 6, 12), (20, 32, 50)):
        times = [1 - step / steps for step in range(steps)]
        count = len(refreshes([shift * time / (1 + (shift - 1) * time) for time in times], change))
        assert some[0] - 3 * (steps == 20) <= count <= some[1]


def test_a_rise_counts_like_a_fall():
    """A sampler that adds noise goes back to a level at which the context looked different."""
    assert refreshes([0.5, 0.9, 0.85], 1) == [0, 1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0, 10))
def test_nothing_older_than_asked_for_is_ever_reused(levels, change):
    last = None
    for position, level in enumerate(levels):
        if position in set(refreshes(levels, change)):
            last = level
        assert last is not None and distance(last, level) <= change


def keeps(store, levels, change=1.0):
    """How many contexts are kept after a call at each level."""
    return [len(refreshes([level], change, store)) and len(store._kept) for level in levels]


FEW_STEPS = (1.0, 0.9375, 0.8333, 0.625)
"""Of a LoRA for four steps, at a shift of 5."""


def test_nothing_is_kept_that_no_step_of_the_run_would_reuse():
    store = ContextStore((*FEW_STEPS, 0.0))
    assert not store.serves(1) and store.serves(1.2)
    assert keeps(store, FEW_STEPS) == [0, 0, 0, 0] and store.held == (0, 0)
    assert keeps(ContextStore((*FEW_STEPS, 0.0)), FEW_STEPS, 1.2) == [0, 1, 0, 0]
    assert keeps(ContextStore(), FEW_STEPS) == [1, 1, 1, 1]
    # Stochastic samplers of core's begin just below pure noise.
    assert keeps(ContextStore((*FEW_STEPS, 0.0)), (0.9999, *FEW_STEPS[1:])) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "levels, found",
    [
        ((1.0, 0.9375, 0.9, 0.8333, 0.8, 0.625), [0, 1, 2, 5]),
        ((1.0, 0.9375, 0.9375, 0.8333, 0.8333, 0.625, 0.625), [0, 1, 2, 3, 5]),
    ],
)
def test_a_sampler_that_evaluates_more_often_than_once_a_step_reuses_all_the_same(levels, found):
    """Between the steps of its schedule, or at each of them twice. It is known by the second evaluation."""
    assert refreshes(levels, 1, ContextStore((*FEW_STEPS, 0.0))) == found


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=40, unique=True), st.floats(0.05, 3))
def test_what_is_left_out_changes_no_refresh(levels, change):
    levels = sorted(levels, reverse=True)
    store = ContextStore((*levels, 0.0))
    serves = store.serves(change)
    assert refreshes(levels, change, store) == refreshes(levels, change)
    assert serves == (len(refreshes(levels, change)) < len(levels))


def test_an_unknown_sequence_is_refreshed():
    store = holding(("uuid", 0))
    assert is_due(store, ("uuid", 1), 0.5, 0.3) and not is_due(store, ("uuid", 0), 0.5, 0.3)


def test_what_is_due_is_freed_before_the_next_is_kept_of_every_sequence():
    """Windows that move from step to step never come again."""
    store = holding("a", "b")
    assert is_due(store, "a", 0.9, 1) and store.held == (0, 0)


def test_what_is_kept_is_the_context_and_not_the_memory_of_the_whole():
    refresh = kept()
    k, v = (each.numbers for each in refresh.of(1))
    assert k.shape == v.shape == (1, 3, 2, 4) and k.untyped_storage().nbytes() == k.numel() * 4
    assert refresh.bytes == 2 * 2 * 3 * 2 * 4 * 4


def test_a_reuse_joins_its_own_target_and_the_kept_context():
    refresh, k = kept(), torch.ones(1, 3, 2, 4)
    reuse = Reuse(refresh)
    joined_k, joined_v, layout = reuse.attended(0, 2, k, 2 * k, TokenLayout(3))
    assert layout == LAYOUT
    assert torch.equal(joined_k[:, :3], k) and torch.equal(joined_k[:, 3:], refresh.of(0)[0].numbers)
    assert torch.equal(joined_v[:, :3], 2 * k) and torch.equal(joined_v[:, 3:], refresh.of(0)[1].numbers)
    assert not reuse.whole
    reuse.attended(1, 2, k, k, TokenLayout(3))
    assert reuse.whole


@pytest.mark.parametrize("blocks, of_blocks, whole", [(0, 0, False), (1, 2, False), (2, 2, True)])
def test_a_context_without_some_block_is_not_whole_and_not_kept(blocks, of_blocks, whole):
    store = ContextStore()
    assert store.end(kept(blocks, of_blocks, store.begin("a", 0.5, 1))) is whole
    assert is_due(store, "a", 0.5, 1) is not whole


def test_a_block_that_is_met_twice_in_one_call_is_not_whole():
    refresh = kept(refresh=kept())
    assert not refresh.whole
    refresh.begin()
    assert kept(refresh=refresh).whole
    reuse, k = Reuse(refresh), torch.ones(1, LAYOUT.target, 2, 4)
    for blocks, whole in (((0, 1), True), ((0, 0, 1), False)):
        reuse.begin()
        for block in blocks:
            reuse.attended(block, 2, k, k, TokenLayout(LAYOUT.target))
        assert reuse.whole is whole


# One copy for all passes of guidance

ONE_COPY = Keeping(copies="one")
POSITIVE, NEGATIVE, BOTH = Passes(("positive",), 0), Passes(("negative",), None), Passes(("negative", "positive"), 1)


def computed(store, level, passes, change=1.0):
    """Whether a model call computes the context; it is gone through."""
    call = store.begin("edit", level, change, ONE_COPY, passes=passes)
    for block in range(2):
        tokens = LAYOUT.total if isinstance(call, Refresh) else LAYOUT.target
        k = torch.arange(1.0, 1 + len(passes.names))[:, None, None, None].expand(-1, tokens, 2, 4)
        call.attended(block, 2, k, -k, LAYOUT if tokens == LAYOUT.total else TokenLayout(tokens))
    assert store.end(call)
    return isinstance(call, Refresh)


@pytest.mark.parametrize("order", [(POSITIVE, NEGATIVE), (NEGATIVE, POSITIVE)])
def test_one_copy_is_the_leading_passs_in_whatever_order_they_come(order):
    store = ContextStore()
    assert [computed(store, level, each) for level in (0.5, 0.4, 0.2) for each in order] == [
        True,
        True,
        False,
        False,
        True,
        True,
    ]
    assert store.held == (0, 2 * 2 * 3 * 2 * 4 * 4)


def test_every_leading_pass_is_computed_at_the_level_of_a_refresh_and_once():
    """Two prompts in calls of their own; a sampler of second order evaluates twice at a level."""
    store, other = ContextStore(), Passes(("another prompt",), 0)
    order = POSITIVE, other, NEGATIVE
    assert [computed(store, level, each) for level in (0.5, 0.5, 0.4) for each in order] == [True] * 3 + [False] * 6


@pytest.mark.parametrize("passes, rows", [(BOTH, [1, 2]), (POSITIVE, [1])])
def test_one_copy_serves_every_pass_of_a_batch_and_calls_of_their_own(passes, rows):
    store = ContextStore()
    assert computed(store, 0.5, BOTH)
    reuse = store.begin("edit", 0.4, 1, ONE_COPY, passes=passes)
    k = torch.tensor(rows, dtype=torch.float32)[:, None, None, None].expand(-1, LAYOUT.target, 2, 4)
    joined_k, joined_v, _ = reuse.attended(0, 2, k, -k, TokenLayout(LAYOUT.target))
    assert torch.equal(joined_k[:, : LAYOUT.target], k) and (joined_k[:, LAYOUT.target :] == 2).all()
    assert torch.equal(joined_v[:, : LAYOUT.target], -k) and (joined_v[:, LAYOUT.target :] == -2).all()


def test_a_pass_that_never_meets_the_leading_one_keeps_its_own():
    """As one whose context has another size."""
    store = ContextStore()
    assert [computed(store, level, NEGATIVE) for level in (0.5, 0.49, 0.48)] == [True, True, False]


def test_what_is_due_is_freed_also_where_nothing_takes_its_place():
    store = holding("a")
    store.free_due(0.5, 1)
    assert store.held == (0, kept().bytes)
    store.free_due(0.1, 1)
    assert store.held == (0, 0)


def test_giving_up_and_clearing_free_what_is_kept():
    store = holding("a")
    assert store.held == (0, kept().bytes)
    store.give_up("why")
    assert store.held == (0, 0) and store.given_up == "why" and is_due(store, "a", 0.5, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_8_bits_it_takes_a_quarter_or_half_and_is_near(dtype):
    generator = torch.Generator().manual_seed(0)
    k = torch.randn(1, LAYOUT.total, 2, 128, generator=generator).to(dtype)
    v = 1e-3 * k.flip(3)
    v[0, 3] = 0
    plain, small = Refresh(), Refresh(keeping=Keeping(dtype="int8"))
    for refresh in (plain, small):
        refresh.attended(0, 1, k, v, LAYOUT)
    numbers = 2 * 3 * 2 * 128
    assert small.bytes == 2 * sum(small.keeping.sizes_of(numbers // 2, k.element_size(), 128)) == numbers + 4 * numbers // 128
    assert plain.bytes == 2 * sum(plain.keeping.sizes_of(numbers // 2, k.element_size(), 128)) == numbers * k.element_size()
    for whole, found in zip((k, v), Reuse(small).attended(0, 1, k[:, :3], v[:, :3], TokenLayout(3))):
        assert found.dtype == dtype and torch.equal(found[:, :3], whole[:, :3])
        assert (found - whole).float().norm() / whole.float().norm() < 0.01


def memory(monkeypatch, main: int, gpu: int):
    """Free KiB of a hundred each."""
    monkeypatch.setattr(kept_context.psutil, "virtual_memory", lambda: SimpleNamespace(available=1024 * main, total=1024 * 100))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1024 * gpu, 1024 * 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1024 * 7)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1024 * 2)


@pytest.mark.parametrize(
    "choice, main, gpu, home",
    [
        ("auto", 100, 58, "cuda"), ("auto", 63, 57, "cpu"), ("auto", 62, 57, None), ("gpu", 0, 0, "cuda"), ("cpu", 0, 100, "cpu"),
    ],
)  # fmt: skip
def test_where_it_is_kept(monkeypatch, choice, main, gpu, home):
    """48 KiB, 15 of which must stay free; 5 of the GPU's are the process's own to use again."""
    memory(monkeypatch, main, gpu)
    found = kept_context._home(choice, torch.device("cuda", 0), [1024 * 16] * 3)
    assert (found and found.type) == home
    assert kept_context._home("auto", torch.device("mps"), [1024 * 48]).type == "mps"
    assert kept_context._home("cpu", torch.device("mps"), [1024 * 48]).type == "cpu"


def test_room_for_pinned_memory_is_asked_for_in_whole_pieces(monkeypatch):
    memory(monkeypatch, 78, 0)
    assert kept_context._home("auto", torch.device("cuda", 0), [1024 * 33]) is None
    assert kept_context._home("auto", torch.device("cpu"), [1024 * 33]).type == "cpu"


def test_a_sequence_takes_over_the_memory_of_its_last_context(monkeypatch):
    """Which PyTorch holds for the next pinned tensors, so that it does not count as free."""
    store = holding("a", "b")
    memory(monkeypatch, 0, 0)
    for sequence, room in (("a", True), ("b", True), ("c", False)):
        refresh = store.begin(sequence, 0.9, 1)
        k = torch.ones(1, LAYOUT.total, 2, 4)
        refresh.attended(0, 1, k, k, LAYOUT)
        assert store.end(refresh) is room


def test_processes_keep_all_or_none(monkeypatch):
    asked = []
    refresh = Refresh(agreed=lambda room: bool(asked.append(room)))
    k = torch.ones(1, LAYOUT.total, 2, 4)
    for block in range(2):
        refresh.attended(block, 2, k, k, LAYOUT)
    assert asked == [True] and not refresh.whole and refresh.refused


def test_from_main_memory_it_comes_to_any_device():
    reuse = Reuse(kept())
    assert all(found.numbers.device.type == "meta" for found in reuse._here(0, torch.device("meta")))


def test_room_that_others_took_meanwhile_ends_no_run(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    refresh = kept(blocks=1)
    monkeypatch.setattr(kept_context, "_copied", full)
    assert not ContextStore().end(kept(refresh=refresh)) and refresh.bytes == 0 and "neither the GPU" in refresh.refused
    with pytest.raises(torch.OutOfMemoryError):
        kept(refresh=Refresh(agreed=lambda room: room))
    monkeypatch.setattr(kept_context, "_copied", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kept()


def test_the_memory_of_a_container_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(kept_context.psutil, "virtual_memory", lambda: SimpleNamespace(available=90, total=100))
    files = {"memory.max": "50", "memory.current": "30", "memory.stat": "anon 20\ninactive_file 10\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(
        kept_context, "CGROUPS", [(tmp_path / "none", *[""] * 3), (tmp_path, "memory.max", "memory.current", "inactive_file")]
    )
    assert kept_context._main_memory() == (30, 50)
    (tmp_path / "memory.max").write_text("max\n")
    assert kept_context._main_memory() == (90, 100)


def test_without_room_nothing_is_kept_and_the_reason_told(monkeypatch):
    memory(monkeypatch, 10, 0)
    refresh = kept()
    assert not refresh.whole and refresh.bytes == 0 and "would have 15 % free beside it" in refresh.refused


@pytest.mark.parametrize("wrong", [{"device": "off"}, {"dtype": "fp8"}, {"copies": "two"}])
def test_another_way_to_keep_is_refused(wrong):
    known = "device must be one of auto, gpu, cpu|dtype must be one of default, int8|copies must be one of each, one"
    with pytest.raises(ValueError, match=rf"context_({known}); got"):
        Keeping(**wrong)


def test_copies_of_a_call_share_what_is_kept_and_pickles_leave_it_out():
    refresh = kept()
    for each in (refresh, Reuse(refresh)):
        assert copy.deepcopy(each) is each
        assert pickle.loads(pickle.dumps(each)) is None


@pytest.mark.parametrize("value", [-0.1, 10.5, True, "much", None, float("nan")])
def test_a_fall_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="context_refresh must be a number from 0 to 10"):
        Settings(ISAConfig(), context_refresh=value)
    with pytest.raises(ValueError, match="context_refresh must be a number from 0 to 10"):
        Settings(ISAConfig()).changed({"context_refresh": value})


def test_the_page_says_how_many_steps_compute_the_context():
    page = (Path(__file__).parents[2] / "docs/memory-and-speed.md").read_text(encoding="utf-8")
    all_steps = (4, 8, 12, 20, 32, 50)
    rows = {}
    for change in (0.5, 1, 2):
        counts = []
        for steps in all_steps:
            levels = [5 * level / (1 + 4 * level) for level in (1 - int(step * 1000 / steps) / 1000 for step in range(steps))]
            counts.append(len(refreshes(levels, change)))
        rows[f"context_refresh {change}"] = counts
    most = [steps / (count + (steps - count) / 2) for steps, count in zip(all_steps, rows["context_refresh 1"])]
    for name, cells in (("steps", all_steps), *rows.items(), ("at most, with 1", [f"{one:.2f}" for one in most])):
        assert f"| {name} | {' | '.join(map(str, cells))} |" in page
