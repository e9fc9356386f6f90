"""The data of a model call: one call a thread, kept by what runs again, gone after the call."""

import copy
import pickle
import threading
from contextlib import suppress

import pytest
import torch
from liveditor_isa.isa_core import ISAConfig, TokenLayout, coarse_gate
from liveditor_isa.runtime import decisions
from liveditor_isa.runtime.call import (
    Carried,
    CarryingCheckpoint,
    ModelCall,
    current,
    enter,
    in_backward,
    layouts_seen,
    leave,
    within,
)
from liveditor_isa.runtime.core_attention import OVERRIDE, in_context_override, reason_not_to_touch, with_isa, with_residual
from liveditor_isa.runtime.decisions import Decisions
from liveditor_isa.runtime.finite import FiniteGuard
from liveditor_isa.runtime.in_context import IN_CONTEXT, InContextCall
from liveditor_isa.runtime.live import LiveSettings, Settings
from liveditor_isa.runtime.report import ReportRecorder
from liveditor_isa.runtime.schedule import Schedule

ONE, OTHER = ModelCall(TokenLayout(3, (4,))), ModelCall(TokenLayout(5, (2,)))
LAYOUT = TokenLayout(40, (24,))


def test_a_call_is_current_within_itself_alone():
    assert current() is None
    assert within(ONE, lambda: (current(), within(OTHER, current), current())) == (ONE, OTHER, ONE)
    with suppress(KeyboardInterrupt):
        within(ONE, lambda: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert current() is None


def test_every_thread_has_its_own():
    seen = []

    def look():
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()

    within(ONE, look)
    assert seen == [None]


def test_hooks_leave_their_own_call_only():
    owner = object()
    enter(ModelCall(LAYOUT, owner=owner))
    leave(object())
    assert current().owner is owner
    leave(owner)
    leave(owner)
    assert current() is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_is_checkpointed_runs_again_in_its_call(reentrant):
    seen = []

    def block(x):
        seen.append((current(), in_backward()))
        return x.sin()

    def checkpoint(function, x):
        return torch.utils.checkpoint.checkpoint(function, x, use_reentrant=reentrant)

    x = torch.ones(3, requires_grad=True)
    one = within(ONE, CarryingCheckpoint(checkpoint), block, x)
    other = within(OTHER, CarryingCheckpoint(checkpoint), block, x)
    within(ModelCall(), (one + other).sum().backward)
    assert [call for call, _ in seen[:2]] == [ONE, OTHER] and {call for call, _ in seen[2:]} == {ONE, OTHER} and len(seen) == 4
    assert [again for _, again in seen] == [False, False, True, True] and not in_backward()


def test_a_carried_block_is_still_the_block_to_who_looks():
    block = torch.nn.Linear(2, 2)
    assert Carried(block, ONE).weight is block.weight
    assert CarryingCheckpoint(lambda function, x: function is block)(block, 0), "outside of a call there is nothing to carry"


def test_the_last_layout_is_seen():
    with layouts_seen() as outer:
        within(ONE, current)
        with layouts_seen() as inner:
            within(OTHER, current)
    within(ONE, current)
    assert outer == inner == [OTHER.layout]


# When a call stays full


def decided(**fields):
    return Decisions(Settings(ISAConfig(), fields.pop("enabled", True)), Schedule(**fields.pop("schedule", {})), **fields)


@pytest.mark.parametrize(
    "decision, layout, words",
    [
        (decided(), TokenLayout(64), "no context tokens: connect In-Context References"),
        (decided(enabled=False), LAYOUT, "switched off"),
        (decided(whole=decisions.OUTSIDE_SCHEDULE), LAYOUT, "outside start_percent to end_percent"),
        (decided(schedule={"min_tokens": 65}), LAYOUT, "64 tokens are fewer than min_tokens 65"),
        (decided(schedule={"dense_blocks": "1"}), LAYOUT, "dense_blocks 1"),
        (decided(), LAYOUT, None),
    ],
)
def test_reasons_for_full_attention(decision, layout, words):
    found = decision.reason_for_full(layout, 1, 4)
    assert found is None if words is None else found.startswith(words)


def test_a_block_that_was_not_finite_stays_full():
    guard = FiniteGuard()
    guard.blocks[2] = 4
    decision = decided(guard=guard)
    assert decision.reason_for_full(LAYOUT, 1, 4) is None
    assert decision.reason_for_full(LAYOUT, 2, 4) == "block 2 was not finite in model call 5"


@pytest.mark.parametrize(
    "shape, options, mask, expected",
    [
        ((1, 64, 32), {}, None, None),
        ((1, 63, 32), {}, None, ""),
        ((1, 64, 32), {}, True, decisions.MASKED),
        ((1, 2, 64, 16), {"skip_reshape": True}, None, None),
        ((1, 2, 64, 16), {"skip_reshape": True}, True, decisions.MASKED),
        ((1, 64, 32), {"scale": 0.3}, None, decisions.NOT_PLAIN),
        ((1, 2, 65, 16), {"skip_reshape": True}, None, decisions.other_tokens(65, LAYOUT)),
        ((1, 64, 32), {"skip_reshape": True}, None, ""),
        ((1, 2, 63, 16), {"skip_reshape": True}, None, ""),
    ],
)
def test_which_attention_is_not_touched(shape, options, mask, expected):
    q = torch.zeros(shape)
    assert reason_not_to_touch(InContextCall(LAYOUT), q, q, mask, options) == expected


# Overrides


def attention(func_log):
    def core(q, k, v, heads, mask=None, **kwargs):
        func_log.append(kwargs.get("transformer_options", {}).get(IN_CONTEXT))
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    return core


def heads(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 64, 32, generator=generator) for _ in range(3)]


def test_the_residual_is_added_once_whoever_adds_it():
    gate = coarse_gate(torch.randn(1, 64, 1, generator=torch.Generator().manual_seed(9)))
    isa = with_isa(ISAConfig(keep_ratio=1, dense_query_ratio=1))[OVERRIDE]
    outs = []
    for previous in (None, isa, lambda func, *args, **kwargs: func(*args, **kwargs)):
        call = InContextCall(LAYOUT, gate)
        options = {"transformer_options": {IN_CONTEXT: call}}
        outs.append(with_residual(previous)(attention([]), *heads(), heads=2, **options))
        assert call.residual_added
    assert all(torch.allclose(out, outs[0], atol=1e-5) for out in outs)
    assert (outs[0] - attention([])(*heads(), 2)).norm() > 1e-2


def test_other_attention_gets_no_residual_and_no_mark():
    call = InContextCall(LAYOUT, torch.ones(1, 64, 1, 1))
    q, k, v = heads()
    out = with_residual()(attention([]), q, k[:, :9], v[:, :9], heads=2, transformer_options={IN_CONTEXT: call})
    assert torch.equal(out, attention([])(q, k[:, :9], v[:, :9], 2)) and not call.residual_added


def test_what_an_override_declines_goes_to_the_one_before_without_the_call():
    log, refused = [], []
    override = in_context_override(lambda *args: None, refused=lambda reason, options: refused.append(reason))
    options = {"transformer_options": {IN_CONTEXT: InContextCall(LAYOUT)}}
    expected = attention([])(*heads(), 2)
    assert torch.equal(override(attention(log), *heads(), 2, **options), expected)
    assert torch.equal(override(attention(log), *heads(), 2, mask=torch.zeros(64, 64), **options), expected)
    assert log == [None, None] and refused == [decisions.MASKED]


# Copies


def test_settings_and_recorders_are_copied_and_pickled():
    live = LiveSettings(Settings(ISAConfig()), {"5": [(1, {"keep_ratio": 0.5})]}, check=lambda config: None)
    for other in (copy.deepcopy(live), pickle.loads(pickle.dumps(live))):
        assert other.first == live.first and other.recorded == live.recorded and other.tell({"keep_ratio": 0.25}) == 0
    recorder = ReportRecorder()
    recorder.full("switched off", LAYOUT)
    for other in (copy.deepcopy(recorder), pickle.loads(pickle.dumps(recorder))):
        assert not other.take().full
    assert recorder.take().full == {"switched off": 1} and not recorder.take().full
