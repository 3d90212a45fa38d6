"""What is true of a clip, in the sentences that stand in for its media while the language model learns to read."""

from __future__ import annotations

from collections.abc import Sequence

from .sampler import zone
from .world import Clip, Event, Sound, Thing

NUMBERS = ("zero", "one", "two", "three", "four", "five")
FOREIGN = "foreign"  # stands in for pictures or sounds from outside this world
SILENCE = "silence"


def video_facts(clip: Clip) -> str:
    """All that is seen: "two: yellow cross right, white square top left. white square grows at 0."

    The number of an event is that of the last of eight frames before it shows.
    """
    events = [f"{event_text(clip, event)} at {eighth(event.start)}." for event in clip.events]
    return " ".join([image_facts(clip.things), *(events or ["nothing happens."])])


def image_facts(things: Sequence[Thing]) -> str:
    """What one picture shows, in the order of the things."""
    places = [f"{thing.colour} {thing.shape} {zone(thing.x, thing.y)}" for thing in things]
    return f"{NUMBERS[len(things)]}: {', '.join(places)}."


def audio_facts(clip: Clip) -> str:
    """All that is heard: "two beeps at 3." with the eighth of the clip in which it begins."""
    if not clip.sounds:
        return f"{SILENCE}."
    return " ".join(f"{sound_text(sound)} at {eighth(sound.start)}." for sound in clip.sounds)


def caption(clip: Clip) -> str:
    """Things and events as one says it."""
    seen = _listed([a_thing(thing) for thing in clip.things])
    done = " then ".join(f"the {event_text(clip, event)}" for event in clip.events)
    return f"{seen}; {done or 'nothing happens'}."


def eighth(time: float) -> int:
    """The part of the clip, 0 to 7, that a fraction of it falls into."""
    return min(7, int(8 * time))


def name(thing: Thing) -> str:
    """Its colour as the clip begins, and its shape."""
    return f"{thing.colour} {thing.shape}"


def a_thing(thing: Thing) -> str:
    """Such as "a red circle"."""
    return f"{'an' if thing.colour == 'orange' else 'a'} {name(thing)}"


def event_text(clip: Clip, event: Event) -> str:
    """Such as "white square grows" or "red circle turns blue"."""
    return f"{name(clip.things[event.thing])} {deed(event)}"


def deed(event: Event) -> str:
    """The action with its colour."""
    return f"{event.action} {event.colour}".strip()


def sound_text(sound: Sound) -> str:
    """The kind, beeps with their number."""
    if sound.kind == "beeps":
        return f"{NUMBERS[sound.count]} {'beep' if sound.count == 1 else 'beeps'}"
    return sound.kind


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
