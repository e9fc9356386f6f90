"""The procedural edits: the same whenever asked for, exact where nothing changes, visible where something does."""

import re
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from liveditor_isa.data.procedural import photos, phrases, textures
from liveditor_isa.data.procedural.edits import plan
from liveditor_isa.data.procedural.render import from_the_first_frame, show_background
from liveditor_isa.data.procedural.scenes import COLOURS, LOOKS, PLACES, SHAPES, SLOTS, Thing, half_extents, sample_motion
from liveditor_isa.data.procedural.styles import STYLES
from liveditor_isa.training import TASKS, EditStream, all_instructions, capabilities

SPLITS = ("train", "held-out")
SMALL = {"batch": 4, "frames": 5, "height": 64, "width": 80}


def plans(count, seed=0, split="train", tasks=TASKS):
    rng = Random(seed)
    return [plan(rng, split, tasks) for _ in range(count)]


def says(instruction, phrase):
    return re.search(rf"\b{re.escape(phrase)}\b", instruction, re.IGNORECASE)


def says_any(instruction, choices):
    """In British or American spelling."""
    for british, american in phrases.AMERICAN.items():
        instruction = instruction.replace(american, british)
    return any(says(instruction, words) for words in choices)


@pytest.mark.parametrize("split", SPLITS)
def test_a_batch_is_the_same_whenever_it_is_asked_for(split):
    stream = EditStream(3, **SMALL, split=split)
    first = [batch for batch, _ in zip(stream, range(3))]
    again = EditStream(3, **SMALL, split=split)[2]
    for ours, theirs in zip(first[2], again):
        assert ours == theirs if isinstance(ours, list) else torch.equal(ours, theirs)
    for other in (first[1], EditStream(4, **SMALL, split=split)[2], EditStream(3, **SMALL, split=SPLITS[split == "train"])[2]):
        assert other.instructions != again.instructions
        assert not torch.equal(other.source, again.source)


@pytest.mark.parametrize("frames, height, width", [(1, 16, 16), (5, 64, 32), (9, 48, 112)])
def test_shapes_and_ranges(frames, height, width):
    batch = EditStream(0, 3, frames, height, width)[0]
    for clip in (batch.source, batch.target):
        assert clip.shape == (3, 3, frames, height, width) and clip.dtype == torch.float32
        assert clip.isfinite().all() and clip.min() >= 0 and clip.max() <= 1
    assert batch.region.shape == (3, 1, frames, height, width) and batch.region.dtype == torch.bool
    assert len(batch.instructions) == len(batch.tasks) == 3


@pytest.mark.parametrize(
    "wrong",
    [{"frames": 4}, {"frames": 0}, {"height": 60}, {"width": 0}, {"split": "test"}, {"tasks": ("paint",)}, {"tasks": ()}],
    ids=str,
)
def test_what_cannot_be_streamed_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("width", "height and width")):
        EditStream(0, **(SMALL | wrong))
    with pytest.raises(IndexError):
        EditStream(0, **SMALL)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_outside_the_region_nothing_changes_and_inside_it_shows(task, split):
    shown = []
    for index in range(3):
        batch = EditStream(1, 6, 5, 80, 96, split=split, tasks=(task,))[index]
        assert batch.tasks == [task] * 6
        difference = (batch.source - batch.target).abs().amax(1, keepdim=True)
        assert not ((difference > 0) & ~batch.region).any()
        if task == "style":
            assert batch.region.all()
        else:
            assert not batch.region.flatten(1).all(1).any()
            assert (batch.region.float().mean((1, 3, 4)) > 0.015).all(), "the edited object left the frame"
        size = batch.region.sum((1, 2, 3, 4))
        assert (((difference > 0.02) & batch.region).sum((1, 2, 3, 4)) > 0.2 * size).all(), batch.instructions
        shown.append((difference * batch.region).sum((1, 2, 3, 4)) / size)
    assert torch.cat(shown).mean() > 0.15


def test_every_background_and_style_has_its_effect():
    """Over the same picture, no two styles and no two named backgrounds look alike."""
    source = EditStream(2, 2, 1, 96, 96, tasks=("style",))[0].source[:, :, 0]
    styled = {"": source} | {name: style(source).clamp(0, 1) for name, style in STYLES.items()}
    generator = torch.Generator().manual_seed(0)
    chance = textures.Chance.draw(len(textures.NAMED), generator)
    painted = textures.paint(list(textures.NAMED), chance, 96, 96, "train", torch.device("cpu"))
    for pictures in (list(styled.values()), list(painted)):
        for index, picture in enumerate(pictures):
            assert all((picture - other).abs().mean() > 0.03 for other in pictures[:index])


@pytest.mark.parametrize("split", SPLITS)
@given(seed=st.integers(0, 10**9))
@settings(max_examples=150, deadline=None)
def test_an_edit_does_what_its_instruction_says(split, seed):
    (item,) = plans(1, seed, split)
    assert len(item.before) == len(item.after) == SLOTS
    assert "{" not in item.instruction and "[" not in item.instruction and "  " not in item.instruction
    assert (item.edited is None) == (item.task in ("style", "background"))
    words = item.instruction
    if item.task == "style":
        assert item.style in STYLES
        return
    if item.task == "background":
        assert item.background != item.new_background
        assert says_any(words, sum(phrases.BACKGROUND_WORDS[item.new_background], ()))
        assert any(item.before)
        return
    old, new = item.before[item.edited], item.after[item.edited]
    others = [thing for slot, thing in enumerate(item.before) if thing and slot != item.edited]
    assert (old is None) == (item.task == "add") and (new is None) == (item.task == "remove")
    if item.task in ("add", "swap"):
        assert says_any(words, phrases.SHAPE_WORDS[new.shape])
        assert new.look == "golden" or says_any(words, phrases.COLOUR_WORDS[new.colour])
        assert new.look == "plain" or says_any(words, phrases.LOOK_WORDS[new.look][0])
    if item.task == "add":
        said = [place for place, choices in phrases.PLACE_WORDS.items() if says_any(words, choices)]
        assert item.place in (said or ["centre"])
    if item.task == "recolour":
        assert old.colour != new.colour and (old.shape, old.look) == (new.shape, new.look)
        assert says_any(words, phrases.COLOUR_WORDS[new.colour])
    if item.task == "stylise_object":
        assert old.look != new.look and (old.shape, old.colour) == (new.shape, new.colour)
    if item.task == "swap":
        assert old.shape != new.shape
    if old:
        assert_refers_to_one(words, old, others)


def assert_refers_to_one(words, thing, others):
    """Whatever is said of the old object, no other object fits it."""
    by_shape = says_any(words, phrases.SHAPE_WORDS[thing.shape])
    by_colour = says_any(words, phrases.COLOUR_WORDS[thing.colour])
    assert by_shape or by_colour
    assert not any(
        (other.shape == thing.shape or not by_shape) and (other.colour == thing.colour or not by_colour) for other in others
    )


@given(st.integers(0, 10**9))
@settings(max_examples=100, deadline=None)
def test_objects_of_a_scene_differ(seed):
    (item,) = plans(1, seed)
    for things in (item.before, item.after):
        pairs = [(thing.shape, thing.colour) for thing in things if thing]
        assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize("height, width", [(96, 96), (64, 160)])
@pytest.mark.parametrize("place", PLACES)
def test_an_added_object_is_where_it_was_asked_for(place, height, width):
    extent = torch.tensor(half_extents(height, width))
    motion = sample_motion([[None, place, None]] * 40, 33, height, width, torch.Generator().manual_seed(5))
    centre = motion.centre[:, 1] / extent
    for axis, side in enumerate(PLACES[place]):
        if side:
            assert (centre[..., axis] * side > 0.33).all()
        else:
            assert (centre[..., axis].abs() < 0.33).all()


def test_the_added_object_itself_is_drawn_there():
    """From plan to pixels: the changed pixels lie about the place that the instruction names."""
    seen = set()
    for index in range(6):
        stream = EditStream(8, 8, 5, 64, 64, tasks=("add",))
        batch = stream[index]
        line = torch.arange(64) / 31.5 - 1
        region = batch.region.float()[:, 0].mean(1)
        mass = region.sum((1, 2))
        middle = torch.stack([(region.sum(1) * line).sum(1) / mass, (region.sum(2) * line).sum(1) / mass], dim=1)
        for text, where in zip(batch.instructions, middle):
            for place, choices in phrases.PLACE_WORDS.items():
                if place != "centre" and says_any(text, choices):
                    seen.add(place)
                    assert all(side == 0 or side * part > 0.2 for side, part in zip(PLACES[place], where)), text
    assert len(seen) >= 6


def test_what_an_edit_brings_in_is_always_the_same():
    """Its look is not said, so that it must be known; or else no answer could be exact."""
    chance = textures.Chance.always(3)
    pictures = textures.paint(["city", "desert", "city"], chance, 64, 96, "train", torch.device("cpu"))
    assert torch.equal(pictures[0], pictures[2]) and not torch.equal(pictures[0], pictures[1])
    motion = sample_motion([["left"] + [None] * 2] * 6, 9, 64, 96, torch.Generator().manual_seed(3))
    first = from_the_first_frame(motion.camera)
    assert first[:, 0].allclose(torch.eye(2, 3).expand(6, 2, 3), atol=1e-6) and not first[:, -1].allclose(first[:, 0])
    shown = show_background(pictures[:1].expand(6, -1, -1, -1), first, 64, 96)
    assert all(clip.allclose(shown[0, :, 0], atol=1e-4) for clip in shown[:, :, 0])
    for part in (motion.centre, motion.radius, motion.angle):
        assert (part[:, 0] == part[0, 0]).all() and not (part[:, 1] == part[0, 1]).all()


def test_objects_stay_in_sight_and_mostly_apart():
    motion = sample_motion([[None] * 3] * 64, 81, 96, 96, torch.Generator().manual_seed(1))
    assert motion.centre.abs().max() < 1
    gaps = [
        (motion.centre[:, a] - motion.centre[:, b]).norm(dim=-1) - motion.radius[:, a].maximum(motion.radius[:, b])
        for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    assert (torch.stack(gaps) > 0).float().mean() > 0.97, "objects hide each other"
    speed = motion.centre.diff(dim=2).norm(dim=-1)
    assert speed.max() < 0.2 and speed.mean() > 0.003


def test_held_out_phrases_pairs_and_photographs_are_not_in_train():
    shown = {split: plans(3000, 1, split) for split in SPLITS}
    sentences = {split: {item.instruction.lower().strip(".") for item in items} for split, items in shown.items()}
    assert not sentences["train"] & sentences["held-out"]

    def pairs(items):
        return {thing for item in items for thing in (*item.before, *item.after) if thing}

    assert not any(thing.is_held_out for thing in pairs(shown["train"]))
    assert all(
        any(thing and thing.is_held_out for thing in (*item.before, *item.after))
        for item in shown["held-out"]
        if any(item.before) or any(item.after)
    )
    assert len({(shape, colour) for shape in SHAPES for colour in COLOURS if Thing(shape, colour).is_held_out}) == 8
    assert not set(photos.names("train")) & set(photos.HELD_OUT) and set(photos.names("held-out")) <= set(photos.HELD_OUT)


def test_held_out_phrases_use_words_that_train_uses():
    known = set(re.findall(r"[a-z-]+", " ".join(all_instructions(6000)).lower()))
    asked = set(re.findall(r"[a-z-]+", " ".join(item.instruction for item in plans(2000, 2, "held-out")).lower()))
    assert asked <= known, asked - known


def test_instructions_name_everything_in_many_ways():
    texts = list(all_instructions(9000, seed=1))
    assert texts[:50] == list(all_instructions(50, seed=1)) != list(all_instructions(50, seed=2))
    assert len(set(texts)) > 6000
    assert {text[0].isupper() for text in texts} == {True, False}
    assert all(len(templates) >= 8 for templates in phrases.TEMPLATES.values())
    named = capabilities()
    assert set(named["looks"]) == set(LOOKS) and len(named["styles"]) >= 8
    spoken = " ".join(texts).lower()
    dictionaries = (phrases.SHAPE_WORDS, phrases.COLOUR_WORDS, phrases.PLACE_WORDS)
    phrasings = [words for entries in dictionaries for choices in entries.values() for words in choices]
    for entries in (phrases.LOOK_WORDS, phrases.BACKGROUND_WORDS, phrases.STYLE_WORDS):
        phrasings += [words for groups in entries.values() for choices in groups for words in choices]
    assert [words for words in phrasings if words not in spoken] == []
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", spoken)


def test_without_photographs_painted_backgrounds_take_their_place(monkeypatch, caplog):
    monkeypatch.setattr(photos, "_path", lambda name: None)
    photos.available.cache_clear()
    try:
        batch = EditStream(0, **SMALL)[0]
        EditStream(0, **SMALL)[1]
    finally:
        photos.available.cache_clear()
    assert batch.source.std() > 0.05
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "scikit-image" in caplog.text


@pytest.mark.skipif(not photos.available(), reason="the packages with photographs are not installed")
def test_half_of_the_scenes_are_photographs_some_without_objects():
    items = plans(2000, 3)
    photographed = [item for item in items if item.background.startswith("photo")]
    assert 0.45 < len(photographed) / len(items) < 0.6
    assert 20 < sum(not any(item.before) for item in photographed if item.style)
