"""Questions that yes or no answers; false statements are drawn as true ones are, so that guessing gives one half."""

from __future__ import annotations

from random import Random

from .asked_of_order import timed
from .asked_of_sounds import heard, order_of, with_it
from .facts import a_thing, deed, eighth, event_text, name
from .questions import Question, yes_no
from .sampler import INSTANT, MOVES, sample_clip
from .wording import ask, refer, sound_name, verb
from .world import COLOURS, SHAPES, Clip, Event, Sound, Thing


def thing(clip: Clip, rng: Random) -> Question | None:
    """Is there a red circle, a circle, anything red?"""
    colours = {one.colour for one in clip.things} | {event.colour for event in clip.events}
    shapes = {one.shape for one in clip.things}
    here = rng.choice(clip.things)
    form = rng.choice(("both", "shape", "colour"))
    truth = rng.random() < 0.5
    said = here
    if not truth:
        other_colour = rng.choice([colour for colour in COLOURS if colour not in colours])
        other_shape = rng.choice([shape for shape in SHAPES if shape not in shapes])
        wrong = rng.choice(("colour", "shape", "mixed")) if form == "both" else form
        if wrong == "mixed" and len(clip.things) > 1:
            another = rng.choice([one for one in clip.things if one != here])
            other_shape, wrong = another.shape, "shape"
        said = Thing(
            other_colour if wrong != "shape" else here.colour, other_shape if wrong != "colour" else here.shape, 0, 0, 0
        )
    things = "[thing|object|shape|figure]"
    what = {
        "both": f"a {name(said)}",
        "shape": f"a {said.shape}",
        "colour": f"[a {said.colour} {things}|anything {said.colour}|something {said.colour}]",
    }[form]
    many = {"both": f"{name(said)}s", "shape": f"{said.shape}s", "colour": f"{said.colour} {things}s"}[form]
    some = f"[any|some|] {many}".replace("crosss", "crosses")
    text = ask(
        rng,
        f"are there {some}", f"is there {what}", f"is there {what} in the [video|clip|picture]",
        f"[do|can] you see {what}",
        f"does the [video|clip] show {what}",
        f"is {what} [to be seen|visible|shown|there|in the picture]", f"[tell me|say] whether there is {what}",
        f"can {what} be seen", f"there is {what}, right", f"does {what} [exist|occur]", f"did you see {what}",
    )  # fmt: skip
    plain = {"both": a_thing(said), "shape": f"a {said.shape}", "colour": said.colour}[form]
    if form == "colour":
        found = [a_thing(one) for one in clip.things if one.colour == said.colour] or [f"{plain} is missing"]
    else:
        found = [f"the {said.shape} is {one.colour}" for one in clip.things if one.shape == said.shape]
        found = found or [f"the {said.shape} is missing"]
    return yes_no("is there", text, plain, found[0], truth)


def attribute(clip: Clip, rng: Random) -> Question | None:
    """Is the circle red? Is the red thing a circle?"""
    here = rng.choice(clip.things)
    if any(event.action == "turns" and clip.things[event.thing] == here for event in clip.events):
        return None
    truth = rng.random() < 0.5
    others = [one for one in clip.things if one != here]
    if rng.random() < 0.5:
        pool = [one.colour for one in others] if others and rng.random() < 0.5 else list(COLOURS)
        value = here.colour if truth else rng.choice([colour for colour in pool if colour != here.colour])
        text = ask(
            rng, "is {x} {c}", "is the [colour|color] of {x} {c}", "is {x} {c} [or not|in colour|in color]",
            "does {x} have the [colour|color] {c}",
            "{x} is {c}, right", "[tell me|say] whether {x} is {c}", "is {c} the [colour|color] of {x}",
            x=f"the {here.shape}", c=value,
        )  # fmt: skip
        return yes_no("is it", text, value, f"the {here.shape} is {here.colour}", truth)
    pool = [one.shape for one in others] if others and rng.random() < 0.5 else list(SHAPES)
    value = here.shape if truth else rng.choice([shape for shape in pool if shape != here.shape])
    text = ask(
        rng, "is the {c} [thing|object|shape|one] a {s}", "does the {c} [thing|object|one] have the shape of a {s}",
        "the {c} [thing|object|one] is a {s}, right", "[tell me|say] whether the {c} [thing|object] is a {s}",
        "is the [shape|form] of the {c} [thing|object] a {s}", "is what is {c} a {s}",
        c=here.colour, s=value,
    )  # fmt: skip
    return yes_no("is it", text, f"a {value}", a_thing(here), truth)


def event(clip: Clip, rng: Random) -> Question | None:
    """Does the circle grow? Does anything grow?"""
    truth = rng.random() < 0.5
    if truth and not clip.events:
        return None
    if not clip.events and rng.random() < 0.9:
        return None  # false statements about clips without events would be more frequent than true ones
    anything = rng.random() < 0.25
    shown = rng.choice(clip.events) if truth else _foreign_event(clip, rng, anything)
    if anything:
        base = verb(shown, rng)
        text = ask(
            rng, "does [anything|something|any thing|any shape] {v}", "is there [anything|something] that {vs}",
            "do you see [anything|something] {v}",
            "[tell me|say] whether [anything|something] {vs}", "does one of [the things|them] {v}",
            v=base[0], vs=base[1],
        )  # fmt: skip
        done = " and ".join(f"the {event_text(clip, other)}" for other in clip.events) or "nothing happens"
        return yes_no("does anything", text, deed(shown), done, truth)
    number = shown.thing
    own = [other for other in clip.events if other.thing == number]
    asked, said = refer(clip.things[number], rng)
    v, vs = verb(shown, rng)
    claim = deed(shown)
    unsure = any(other.action in ("rotates", "bounces") for other in own)
    moving = any(other.action in MOVES for other in own)
    if shown.action in MOVES and not unsure and truth == moving and rng.random() < 0.3:
        v, vs, claim = "move", "moves", "moves"
    text = ask(
        rng, "does {x} {v}", "does {x} {v} [in the clip|in the video|at some time|or not]", "do you see {x} {v}",
        "does {x} [ever|really] {v}",
        "is it true that {x} {vs}", "{x} {vs}, right", "[tell me|say] whether {x} {vs}", "did {x} {v}",
        "can you see {x} {v}", "will {x} {v}",
        x=asked, v=v, vs=vs,
    )  # fmt: skip
    done = " then ".join(deed(other) for other in own) or "stays still"
    return yes_no("does it", text, claim, f"{said} {done}", truth)


def order(clip: Clip, rng: Random) -> Question | None:
    if len(clip.events) < 2:
        return None
    one, other = rng.sample(clip.events, 2)
    word = rng.choice(("before", "after"))
    truth = (one.start < other.start) == (word == "before")
    (x, x_said), (y, y_said) = refer(clip.things[one.thing], rng), refer(clip.things[other.thing], rng)
    (v, vs), (_, ws) = verb(one, rng), verb(other, rng)
    text = ask(
        rng, "does {x} {v} {w} {y} {ws}", "is it {w} {y} {ws} that {x} {vs}",
        "[tell me|say] whether {x} {vs} {w} {y} {ws}",
        "{x} {vs} {w} {y} {ws}, right", "is it true that {x} {vs} {w} {y} {ws}", "did {x} {v} {w} {y} {ws}",
        x=x, y=y, v=v, vs=vs, ws=ws, w=word,
    )  # fmt: skip
    found = "before" if one.start < other.start else "after"
    times = f"{timed(x_said, one)}, {timed(y_said, other)}, so {found}"
    return yes_no("is it before", text, word, times, truth)


def sound(clip: Clip, rng: Random) -> Question | None:
    """Is there a knock?"""
    truth = rng.random() < 0.5
    if truth and not clip.sounds:
        return None
    if truth:
        said = clip.sounds[0]
    else:
        if not clip.sounds and rng.random() < 0.9:
            return None
        said = _foreign_sound(clip, rng)
    plain = {
        "beeps": "[a beep|any beep|beeps|any beeps]", "noise burst": "[a noise burst|noise|a burst of noise]",
        "low tone": "a low tone",
        "high tone": "a high tone", "rising sweep": "a rising sweep", "falling sweep": "a falling sweep",
    }.get(said.kind, f"a {said.kind}")  # fmt: skip
    text = ask(
        rng, f"[do|can|did] you hear {plain}", f"is there {plain}", f"can {plain} be heard",
        f"is {plain} [heard|to be heard|played]",
        f"[tell me|say] whether you hear {plain}", f"is the sound {plain}", f"you hear {plain}, right",
        f"is it {plain}",
    )  # fmt: skip
    return yes_no("is it heard", text, _plain(said), heard(clip), truth, "audio")


def any_sound(clip: Clip, rng: Random) -> Question | None:
    if clip.sounds and rng.random() < 0.89:
        return None  # nine clips of ten have a sound; asked so, one of two
    if rng.random() < 0.3:
        text = ask(
            rng, "is [it|the clip|the video] [silent|quiet|mute]", "is there [silence|no sound]",
            "is it all [silent|quiet]", "do you hear nothing",
            "is there nothing to hear", "does the [clip|video] have no sound",
        )  # fmt: skip
        return yes_no("any sound", text, "silence", heard(clip), not clip.sounds, "audio")
    text = ask(
        rng, "is there [any |a |]sound", "[do|can] you hear [anything|something|a sound|any sound]",
        "is there [anything|something] to hear",
        "does the [clip|video] have [sound|any sound|a sound]", "is [anything|something|any sound|a sound] heard",
        "can [anything|a sound] be heard",
        "[tell me|say] whether there is [a|any] sound", "is [anything|something] audible",
        "is there [any audio|a noise|any noise]",
    )  # fmt: skip
    return yes_no("any sound", text, "sound", heard(clip), bool(clip.sounds), "audio")


def sound_with(clip: Clip, rng: Random) -> Question | None:
    """Is there a sound when the circle appears?"""
    instant = [other for other in clip.events if other.action in INSTANT]
    if not clip.sounds or not instant:
        return None
    shown = rng.choice(instant)
    true_word = order_of(clip.sounds[0], shown)
    if not true_word:
        return None
    truth = rng.random() < 0.5
    word = true_word if truth else rng.choice([w for w in ("before", "with", "after") if w != true_word])
    if word != "with" and rng.random() < 0.3:
        return None
    asked, said = refer(clip.things[shown.thing], rng)
    vs = verb(shown, rng)[1]
    when = {"before": "before", "with": "[when|when|as|exactly when|at the moment]", "after": "after"}[word]
    text = ask(
        rng, f"is there a sound {when} {{x}} {{vs}}", f"[do|can] you hear {{s}} {when} {{x}} {{vs}}",
        f"is {{s}} [heard|there|played] {when} {{x}} {{vs}}",
        f"does {{s}} come {when} {{x}} {{vs}}", f"[tell me|say] whether {{s}} comes {when} {{x}} {{vs}}",
        f"{{s}} comes {when} {{x}} {{vs}}, right",
        x=asked, vs=vs, s=sound_name(clip.sounds[0], rng),
    )  # fmt: skip
    found = f"{heard(clip)} at {eighth(clip.sounds[0].start)}, {timed(said, shown)}, so {with_it(true_word)}"
    return yes_no("is the sound", text, with_it(word), found, truth, "both")


def _plain(said: Sound) -> str:
    return "beeps" if said.kind == "beeps" else f"a {said.kind}"


def _foreign_event(clip: Clip, rng: Random, by_any: bool) -> Event:
    """An event of another clip done by a thing of this one, that neither it nor (by_any) any other does here."""
    actors = [event.thing for event in clip.events]
    colours = {one.colour for one in clip.things}
    while True:
        donors = sample_clip(rng).events
        number = rng.choice(actors) if actors and rng.random() < 0.7 else rng.randrange(len(clip.things))
        for donor in donors[:1]:
            same = any((by_any or event.thing == number) and _same(event, donor) for event in clip.events)
            round_turn = donor.action == "rotates" and clip.things[number].shape == "circle"
            if not same and not round_turn and donor.colour not in colours:
                return Event(number, donor.action, donor.start, donor.end, donor.amount, donor.colour)


def _foreign_sound(clip: Clip, rng: Random) -> Sound:
    while True:
        donors = sample_clip(rng).sounds
        if donors and not (clip.sounds and donors[0].kind == clip.sounds[0].kind):
            return donors[0]


def _same(one: Event, other: Event) -> bool:
    return (one.action, one.colour) == (other.action, other.colour)
