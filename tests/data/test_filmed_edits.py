"""Edits before films: as exact and as repeatable as those before painted backgrounds, which stay as they were."""

import hashlib
import re
from random import Random

import pytest
import torch
from liveditor_isa.data.procedural import film_phrases, photos, phrases
from liveditor_isa.data.procedural.edits import FILM, plan
from liveditor_isa.data.procedural.footage import Library, read_library
from liveditor_isa.data.procedural.styles import GRADES, STYLES
from liveditor_isa.training import TASKS, EditStream, all_instructions

SIZE = {"frames": 5, "height": 48, "width": 64}
FILMS = ("train", "held-out films")
NOISE = torch.Generator().manual_seed(0)
LIBRARY = Library(
    [torch.randint(256, (3, 60, 90), generator=NOISE, dtype=torch.uint8) for _ in range(3)],
    [torch.randint(256, (4, 31, 17), generator=NOISE, dtype=torch.uint8)],
    [torch.randint(256, (9, 3, 70, 80), generator=NOISE, dtype=torch.uint8)],
)


def filmed(count, split="train", tasks=TASKS):
    rng = Random(1)
    return [plan(rng, split, tasks, filmed=True) for _ in range(count)]


@pytest.mark.parametrize("split, known", [("train", "e3c280797704f066"), ("held-out", "3ebcd72d2681cb35")])
@pytest.mark.skipif(not photos.available(), reason="the packages with photographs are not installed")
def test_without_a_library_nothing_changed(split, known):
    """LIVEditor-tiny's first edition learnt from these, and its scores are of them."""
    plans = [item for index in range(2) for item in EditStream(3, 64, **SIZE, split=split).plans(index)]
    words = "\n".join(item.instruction for item in plans)
    assert hashlib.sha256(words.encode()).hexdigest()[:16] == known


def test_the_held_out_split_shows_no_films():
    with_, without = (EditStream(3, 4, **SIZE, split="held-out", library=library)[1] for library in (LIBRARY, None))
    assert torch.equal(with_.target, without.target) and with_.instructions == without.instructions


@pytest.mark.parametrize("split", FILMS)
def test_a_batch_is_the_same_whenever_it_is_asked_for(split):
    stream = EditStream(3, 4, **SIZE, split=split, library=LIBRARY)
    first, second = stream[0], stream[1]
    again = EditStream(3, 4, **SIZE, split=split, library=LIBRARY)[1]
    for ours, theirs in zip(second, again):
        assert ours == theirs if isinstance(ours, list) else torch.equal(ours, theirs)
    assert not torch.equal(first.source, second.source)
    assert again.source.shape == (4, 3, 5, 48, 64) and again.source.isfinite().all()


@pytest.mark.parametrize("task", TASKS)
def test_outside_the_region_nothing_changes_and_inside_it_shows(task):
    stream = EditStream(1, 18, **SIZE, split="held-out films", tasks=(task,), library=LIBRARY)
    batch = stream[0]
    assert {item.background for item in stream.plans(0)} == {FILM}
    difference = (batch.source - batch.target).abs().amax(1, keepdim=True)
    assert not ((difference > 0) & ~batch.region).any()
    assert ((difference > 0.01).flatten(1).sum(1) > 0.2 * batch.region.flatten(1).sum(1)).all()
    # More clips than are drawn at a time, and none twice.
    assert len({clip.numpy().tobytes() for clip in batch.source}) == 18


def test_what_replaces_a_film_stands_still():
    """The new background's movement could not be known: the film moves in its own way."""
    batch = EditStream(2, 4, **SIZE, split="held-out films", tasks=("background",), library=LIBRARY)[0]
    still = batch.region.all(2, keepdim=True).expand(-1, 3, 4, -1, -1)
    # An object's soft edge may pass.
    assert (batch.target.diff(dim=2)[still].abs() < 1e-5).float().mean() > 0.8
    assert (batch.source.diff(dim=2)[still].abs() > 1e-2).float().mean() > 0.5


@pytest.mark.skipif(not photos.available(), reason="the packages with photographs are not installed")
def test_grades_differ_from_each_other_from_all_styles_and_from_the_photograph():
    for name in ("china", "astronaut"):
        photograph = photos.load((name,), 128, torch.device("cpu"))
        looks = [photograph] + [look(photograph).clamp(0, 1) for look in (STYLES | GRADES).values()]
        for index, picture in enumerate(looks):
            assert all((picture - other).abs().mean() > 0.025 for other in looks[:index]), list(STYLES | GRADES)[index - 1]


def test_films_are_half_of_the_backgrounds_and_most_of_what_is_restyled():
    items = filmed(3000)
    shares = {style: [item.background == FILM for item in items if (item.task == "style") == style] for style in (False, True)}
    assert abs(sum(shares[False]) / len(shares[False]) - 0.5) < 0.05
    assert abs(sum(shares[True]) / len(shares[True]) - 0.8) < 0.07
    assert {item.style for item in items if item.style} == set(STYLES | GRADES)
    counts = [sum(map(bool, item.before)) for item in items if item.style and item.background == FILM]
    assert max(counts) == 2 and counts.count(0) > 0.5 * len(counts)


def test_instructions_are_freer_and_the_held_out_ones_are_not_among_them():
    texts = list(all_instructions(12000, filmed=True))
    spoken = "\n".join(texts).lower()
    groups = [words for entry in film_phrases.STYLE_WORDS.values() for choices in entry for words in choices]
    assert [words for words in groups if words not in spoken] == []
    for beginning in ("i'd like", "could you please", "how about", "turn this clip into", "this video"):
        assert beginning in spoken
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|[{}\[\]]|please (i|this|could|please)\b", spoken)
    held_out = {item.instruction.lower().strip(".") for item in filmed(2000, "held-out")}
    assert not held_out & {text.lower().strip(".") for text in texts}
    words = set(re.findall(r"[a-z'-]+", " ".join(held_out)))
    assert words <= set(re.findall(r"[a-z'-]+", spoken))


def test_no_word_means_two_styles():
    words = phrases.STYLE_WORDS | film_phrases.STYLE_WORDS
    said = [text for entry in words.values() for text in set(sum(entry, ()))]
    assert set(words) == set(STYLES | GRADES) and len(said) == len(set(said))
    assert set(film_phrases.STYLE_COMMANDS) == set(GRADES)


def test_films_held_out_need_a_library():
    with pytest.raises(ValueError, match="give a library"):
        EditStream(0, 1, **SIZE, split="held-out films")


def test_a_library_is_uploaded_once():
    library = read_library(None).to("cpu")
    streams = [EditStream(0, 1, **SIZE | {"width": width}, library=library) for width in (64, 80)]
    for stream in streams:
        kept = stream.footage.library
        assert all(ours is theirs for kind, other in zip(kept, library) for ours, theirs in zip(kind, other))
