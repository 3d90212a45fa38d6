"""Every kind of question by its name, and the questions of one clip."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from . import asked_of_order as orders
from . import asked_of_pictures as pictures
from . import asked_of_sounds as sounds
from . import asked_whether as whether
from .questions import Maker, Question
from .world import Clip

MAKERS: dict[str, Maker] = {
    "colour": pictures.colour,
    "shape": pictures.shape,
    "count": pictures.count,
    "where": pictures.where,
    "placed": pictures.placed,
    "direction": pictures.direction,
    "action": pictures.action,
    "actor": pictures.actor,
    "turned": pictures.turned,
    "first": orders.first,
    "last": orders.last,
    "order": orders.order,
    "neighbour": orders.neighbour,
    "caption": pictures.described,
    "timeline": pictures.timeline,
    "sound": sounds.sound,
    "beeps": sounds.beeps,
    "pitch": sounds.pitch,
    "tone": sounds.tone,
    "sound time": sounds.sound_time,
    "sound order": sounds.sound_order,
    "sound with": sounds.sound_with,
    "caption of both": sounds.seen_and_heard,
    "sound timeline": sounds.sound_timeline,
    "is there": whether.thing,
    "is it": whether.attribute,
    "does it": whether.event,
    "is it before": whether.order,
    "is it heard": whether.sound,
    "any sound": whether.any_sound,
    "is the sound": whether.sound_with,
}
IMAGE_MAKERS: dict[str, Maker] = {
    "colour": pictures.colour,
    "shape": pictures.shape,
    "count": pictures.count,
    "where": pictures.where,
    "placed": pictures.placed,
    "picture": pictures.pictured,
    "is there": whether.thing,
    "is it": whether.attribute,
}


def questions(
    clip: Clip,
    rng: Random,
    count: int,
    makers: Mapping[str, Maker] = MAKERS,
    weights: Mapping[str, float] | None = None,
) -> list[Question]:
    """Up to `count` questions that this clip answers without doubt.

    makers: the kinds that may be asked. weights: how often each is drawn, relative to the others; 1 if it is not named.
    """
    drawn = [1.0 if weights is None else weights.get(kind, 1.0) for kind in makers]
    asked: list[Question] = []
    for maker in rng.choices(list(makers.values()), drawn, k=6 * count):
        made = maker(clip, rng)
        if made is not None:
            asked.append(made)
            if len(asked) == count:
                break
    return asked
