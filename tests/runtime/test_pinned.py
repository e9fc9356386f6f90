"""Tensors that share large pieces of pinned memory. Without a GPU nothing is pinned; how they lie is the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from liveditor_isa.runtime import pinned
from liveditor_isa.runtime.pinned import ALIGNED, Pinned, piece_bytes, taken_bytes

MIB = 1 << 20


@pytest.fixture
def pieces(monkeypatch):
    """Bytes of each piece as it is taken."""
    taken = []

    def piece(size):
        taken.append(size)
        return torch.zeros(size, dtype=torch.uint8)

    monkeypatch.setattr(pinned, "_bytes", piece)
    return taken


def test_contexts_of_40_blocks_take_little_more_than_they_are():
    """LIVEditor-14B's at 81 frames of 832\u00d7480: 80 tensors of 335 MB. Each by itself would take 537 MB."""
    sizes = [32760 * 40 * 128 * 2] * 80
    assert piece_bytes(sizes) == 1 << 30
    assert taken_bytes(sizes) == 27 << 30 < 1.09 * sum(sizes)


@given(st.lists(st.integers(1, 50_000), min_size=1, max_size=30))
def test_what_is_taken_is_what_was_foretold(sizes):
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pinned, "_bytes", lambda size: taken.append(size) or torch.zeros(size, dtype=torch.uint8))
        room = Pinned(sizes)
        tensors = [room.empty((size,), torch.uint8) for size in sizes]
    assert sum(taken) == taken_bytes(sizes) and {size.bit_count() for size in taken} == {1}
    assert taken_bytes(sizes) <= len(sizes) << (max(sizes) - 1).bit_length()  # a piece for each
    for number, tensor in enumerate(tensors):
        tensor.fill_(number)
    assert all((tensor == number).all() for number, tensor in enumerate(tensors))


def test_types_and_shapes_share_a_piece(pieces):
    room = Pinned([3, 24, 2100])
    odd, scale, numbers = room.empty((3,), torch.int8), room.empty((2, 3), torch.float32), room.empty((10, 105), torch.bfloat16)
    assert pieces == [4096] and [x.shape for x in (odd, scale, numbers)] == [(3,), (2, 3), (10, 105)]
    assert {x.untyped_storage().data_ptr() for x in (odd, scale, numbers)} == {odd.data_ptr()}
    assert all(x.is_contiguous() and x.storage_offset() * x.element_size() % ALIGNED == 0 for x in (odd, scale, numbers))


def test_more_than_was_announced_opens_another_piece(pieces):
    room = Pinned([1000])
    for shape in ((1000,), (1000,), (5000,)):
        assert room.empty(shape, torch.uint8).shape == shape
    assert pieces == [1024, 1024, 5000]


def test_where_no_more_can_be_pinned_other_memory_is_taken(monkeypatch):
    empty = torch.empty

    def some(*size, pin_memory=False, **kwargs):
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return empty(*size, **kwargs)

    monkeypatch.setattr(torch, "empty", some)
    assert Pinned([4 * MIB]).empty((1024, 1024), torch.float32).shape == (1024, 1024)
