"""Questions about what is seen: things, places and events."""

from __future__ import annotations

from random import Random

from .facts import NUMBERS, a_thing, caption, deed, event_text, name, video_facts
from .questions import ACTIONS, DIRECTIONS, PLACES, Question, question
from .sampler import MOVES, zone
from .wording import ask, expand, refer, sentence, verb
from .world import COLOURS, SHAPES, Clip

_VIDEO = "[video|video|clip|film|scene]"
_LOOK = ("picture", "frame", "video", "screen", "image")
_AT = {
    "middle": "in the [middle|centre|center]",
    **{side: f"[on|at] the {side}" for side in ("left", "right")},
    "top": "at the top",
    "bottom": "at the bottom",
    **{
        f"{row} {side}": f"[in|at] the {row} {side}[ corner|]"
        for row in ("top", "bottom")
        for side in ("left", "right")
    },
}
EVENT_WORDS = (*COLOURS, *SHAPES, *ACTIONS, *DIRECTIONS)


def colour(clip: Clip, rng: Random) -> Question | None:
    number = rng.randrange(len(clip.things))
    thing = clip.things[number]
    turned = [event.colour for event in clip.events if event.thing == number and event.action == "turns"]
    when, answer = "", thing.colour
    if turned:
        when, answer = rng.choice(((" at the [start|beginning]", thing.colour), (" at the end", turned[0])))
    x = "the [thing|object|shape|figure]" if len(clip.things) == 1 and rng.random() < 0.3 else f"the {thing.shape}"
    text = ask(
        rng,
        "[what|what|which] [colour|color] is {x}" + when, "what is the [colour|color] of {x}" + when,
        "[tell me|say|name|give] the [colour|color] of {x}" + when, "{x} is [what|which] [colour|color]" + when,
        "what [colour|color] does {x} have" + when, "[what|which] [colour|color] [has|is] {x}" + when,
        "in [what|which] [colour|color] is {x} [drawn|shown|painted]" + when, "how is {x} [coloured|colored]" + when,
        "{x} has [what|which] [colour|color]" + when, "[colour|color] of {x}" + when,
        x=expand(x, rng),
    )  # fmt: skip
    return question("colour", text, f"The {thing.shape} is {answer}.", [answer], COLOURS)


def shape(clip: Clip, rng: Random) -> Question | None:
    thing = rng.choice(clip.things)
    x = expand(f"the {thing.colour} [thing|object|one|figure|shape]", rng)
    if len(clip.things) == 1 and rng.random() < 0.3:
        x = expand("the [thing|object|figure]", rng)
    text = ask(
        rng,
        "[what|what|which] [shape|form] is {x}", "what is the [shape|form] of {x}", "what is {x}",
        "[what|which] [shape|form|kind of shape|kind of thing] is the {c} [thing|object|one]",
        "[what|which] [shape|form] does {x} have", "{x} [is|has] [what|which] shape", "which shape is {c}",
        "[tell me|say|name|give] the shape of {x}", "[what|which] [thing|object|shape|figure] is {c}",
        "what {c} [thing|object|shape] [is there|do you see|can be seen]", "what kind of [shape|object|thing] is {x}",
        x=x, c=thing.colour,
    )  # fmt: skip
    return question("shape", text, sentence(a_thing(thing)), [thing.shape], SHAPES)


def count(clip: Clip, rng: Random) -> Question | None:
    things = "[coloured |colored |][things|objects|shapes|figures|items]"
    text = ask(
        rng,
        f"how many {things} [are there|do you see|can you see|are visible|are in the {_VIDEO}|are shown|can be seen]",
        f"how many {things} does the {_VIDEO} [show|have|contain]", f"count the {things}", f"how many {things}",
        f"what is the number of {things}", f"[tell me|say] how many {things} [there are|you see]",
        f"what number of {things} is [there|shown]", f"how many different {things} [are there|do you see]",
        f"there are how many {things}", f"number of {things}", f"in total, how many {things} [are there|appear]",
    )  # fmt: skip
    return question("count", text, f"I see {NUMBERS[len(clip.things)]}.", [NUMBERS[len(clip.things)]], NUMBERS)


def where(clip: Clip, rng: Random) -> Question | None:
    number = rng.randrange(len(clip.things))
    thing = clip.things[number]
    own = [event.action for event in clip.events if event.thing == number]
    moving = any(action in MOVES or action == "bounces" for action in own)
    if moving and "appears" in own:
        return None
    place = zone(thing.x, thing.y)
    templates = [
        "where is {x}", "[where is|where's] {x}", "where [can I|do I|do you|can you] [see|find] {x}",
        "where is {x} [placed|located|shown]",
        f"in [which|what] part of the [{'|'.join(_LOOK)}] is {{x}}", "what is the [position|place|location] of {x}",
        "[tell me|say] where {x} is", "{x} is where", f"where in the [{'|'.join(_LOOK)}] is {{x}}",
        "[on|at] [which|what] side is {x}", "[which|what] [position|place] [has|is] {x} [in|at]",
    ]  # fmt: skip
    if "left" in place or "right" in place:
        templates += ["is {x} on the left or [on the |]right[ side|]", "is {x} left or right"]
    if "top" in place or "bottom" in place:
        templates += ["is {x} at the top or [at the |]bottom", "is {x} top or bottom"]
    when = " [at the start|at the beginning|first|at first]" if moving else ""
    asked, answered = refer(thing, rng)
    text = ask(rng, *(template + when for template in templates), x=asked)
    return question("where", text, sentence(f"{answered} is {place}"), place.split(), PLACES)


def placed(clip: Clip, rng: Random) -> Question | None:
    """What is at a place where only one thing is."""
    moving = any(event.action in (*MOVES, "bounces") for event in clip.events)
    zones = [zone(thing.x, thing.y) for thing in clip.things]
    number = rng.randrange(len(clip.things))
    place = rng.choice([zones[number], *zones[number].split()])
    if sum(set(place.split()) <= set(other.split()) for other in zones) > 1:
        return None
    if any(event.action in ("turns", "appears") and event.thing == number for event in clip.events):
        return None
    text = ask(
        rng,
        "what is {at}{when}", "[what|which] [thing|object|shape] is {at}{when}", "what do you see {at}{when}",
        "what [can be seen|is shown|is there|is visible] {at}{when}", "{at}, what [is there|do you see]{when}",
        "[tell me|say] what is {at}{when}", "which of the [things|objects|shapes] is {at}{when}",
        at=expand(_AT[place], rng),
        when=" " + expand("[at the start|at the beginning|at first]", rng) if moving else "",
    )  # fmt: skip
    thing = clip.things[number]
    answer = f"{'In' if place == 'middle' else 'At'} the {place}: {a_thing(thing)}."
    return question("placed", text, answer, [thing.colour, thing.shape], (*COLOURS, *SHAPES))


def direction(clip: Clip, rng: Random) -> Question | None:
    moves = [event for event in clip.events if event.action in MOVES]
    if not moves:
        return None
    event = rng.choice(moves)
    same = [other for other in moves if other.thing == event.thing]
    if len(same) > 1:
        return None
    way = event.action.split()[1]
    asked, answered = refer(clip.things[event.thing], rng)
    if len(moves) == 1 and rng.random() < 0.2:
        asked = expand("the [moving thing|thing that moves|moving object|moving shape]", rng)
        answered = f"the {name(clip.things[event.thing])}"
    go = "[move|move|go|travel|head|slide]"
    either = "left or right" if way in ("left", "right") else "up or down"
    text = ask(
        rng,
        f"[which|what] [way|direction] does {{x}} {go}", f"in [what|which] direction does {{x}} {go}",
        f"where does {{x}} {go}[ to|]", "[which|what] [way|direction] is {x} [moving|going]",
        "where is {x} [moving|going][ to|]",
        "what is the direction of {x}", f"does {{x}} {go} {either}", "to [which|what] side does {x} move",
        "is {x} [moving|going] left, right, up or down", f"{{x}} {go}s [which|what] way",
        "[tell me|say|give] the direction [in which {x} moves|of {x}]",
        "[towards|toward] [where|which side] does {x} move",
        x=asked,
    )  # fmt: skip
    return question("direction", text, sentence(f"{answered} {event.action}"), [way], DIRECTIONS)


def action(clip: Clip, rng: Random) -> Question | None:
    actors = [event.thing for event in clip.events]
    number = rng.choice(actors) if actors and rng.random() < 0.75 else rng.randrange(len(clip.things))
    own = [event for event in clip.events if event.thing == number]
    asked, answered = refer(clip.things[number], rng)
    done = " then ".join(deed(event) for event in own) or "stays still"
    text = ask(
        rng,
        "what does {x} do", "what happens to {x}", "what is {x} doing", "how does {x} [change|behave]",
        "what does {x} do in the clip",
        "describe what {x} does", "what is [going on|happening] with {x}", "[tell me|say] what {x} does",
        "{x} does what",
        "what [action|change] [does {x} make|can be seen of {x}]", "what becomes of {x}",
        "which action does {x} [do|perform]",
        x=asked,
    )  # fmt: skip
    words = [word for event in own for word in event.action.split()] or ["still"]
    return question("action", text, sentence(f"{answered} {done}"), words, (*ACTIONS, *DIRECTIONS))


def actor(clip: Clip, rng: Random) -> Question | None:
    if not clip.events:
        return None
    event = rng.choice(clip.events)
    if sum(other.action == event.action for other in clip.events) > 1:
        return None
    thing = clip.things[event.thing]
    doing = verb(event, rng)[1]
    if event.action == "turns" and rng.random() < 0.3:
        doing = expand("changes [colour|color|its colour|its color]", rng)
    elif event.action in MOVES and sum(other.action in MOVES for other in clip.events) == 1 and rng.random() < 0.3:
        doing = "moves"
    if rng.random() < 0.15:
        doing = {"disappears": "disappeared", "appears": "appeared", "moves": "moved"}.get(doing, doing)
    text = ask(
        rng,
        "[what|what|which thing|which object|which shape|which one] {v}",
        "[who|what] [is it that|is the thing that] {v}",
        "name the [thing|object|shape] that {v}", "which [thing|object|shape] is it that {v}",
        "what [thing|object|shape] {v}", "[tell me|say] [what|which thing] {v}",
        "which of [them|the things|the shapes] {v}",
        v=expand(doing, rng),
    )  # fmt: skip
    rivals = {*COLOURS, *SHAPES} - {event.colour}
    answer = f"{deed(event)}? {sentence(f'the {event_text(clip, event)}')}"
    return question("actor", text, answer, [thing.colour, thing.shape], rivals)


def turned(clip: Clip, rng: Random) -> Question | None:
    turns = [event for event in clip.events if event.action == "turns"]
    if not turns:
        return None
    event = turns[0]
    thing = clip.things[event.thing]
    text = ask(
        rng,
        "[what|which] [colour|color] does {x} [turn|become|change to|turn into|take|get]", "what does {x} turn into",
        "[what|which] [colour|color] is {x} [afterwards|in the end|after the change]",
        "into [what|which] [colour|color] does {x} turn",
        "{x} [turns|becomes] [what|which] [colour|color]", "what is the new [colour|color] of {x}",
        "to [what|which] [colour|color] does {x} change", "[how|in what way] does the [colour|color] of {x} change",
        x=rng.choice((f"the {thing.shape}", f"the {thing.shape}", f"the {name(thing)}")),
    )  # fmt: skip
    return question("turned", text, f"The {thing.shape} turns {event.colour}.", [event.colour], COLOURS)


def described(clip: Clip, rng: Random) -> Question | None:
    text = ask(
        rng,
        f"describe [the|this] {_VIDEO}",
        f"what [happens|is going on|is happening|takes place] in [the|this] {_VIDEO}",
        "what happens", "what [do you see|can be seen|is shown|is to be seen]", f"what is in [the|this] {_VIDEO}",
        "what do you see",
        f"give [me |]a [short |]caption[ of the {_VIDEO}|]", f"give [me |]a [short |]description[ of the {_VIDEO}|]",
        "tell me what [you see|happens|is going on]", f"what does [the|this] {_VIDEO} show",
        f"summarize [the|this] {_VIDEO}",
        f"write a caption for [the|this] {_VIDEO}", "describe what [happens|you see|is seen]",
        f"what is [the|this] {_VIDEO} about",
    )  # fmt: skip
    words = [word for thing in clip.things for word in (thing.colour, thing.shape)]
    words += [word for event in clip.events for word in deed(event).split()]
    return question("caption", text, sentence(caption(clip)[:-1]), words, EVENT_WORDS)


def pictured(clip: Clip, rng: Random) -> Question | None:
    """A caption of a single picture."""
    image = "[image|picture|photo|frame]"
    text = ask(
        rng,
        f"describe [the|this] {image}", f"what is in [the|this] {image}", "what do you see", "tell me what you see",
        f"what does [the|this] {image} show", "what is shown",
        f"give [me |]a [caption|description] of [the|this] {image}",
    )  # fmt: skip
    words = [word for thing in clip.things for word in (thing.colour, thing.shape)]
    return question("picture", text, sentence(caption(clip).partition(";")[0]), words, (*COLOURS, *SHAPES))


def timeline(clip: Clip, rng: Random) -> Question | None:
    text = ask(
        rng,
        "[list|give|show|write] [me |][the|a] timeline", "timeline", "what is the timeline",
        "list the [events|facts]",
        "list [everything|all] [that happens|you see|that is seen]", "list [everything|all] with times",
        "list the events and [their |]times",
    )  # fmt: skip
    words = video_facts(clip).replace(".", "").replace(",", "").replace(":", "").split()
    return question("timeline", text, video_facts(clip), words, (*EVENT_WORDS, *PLACES))
