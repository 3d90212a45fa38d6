"""Questions about what comes first, last, before and after."""

from __future__ import annotations

from random import Random

from .asked_of_pictures import EVENT_WORDS
from .facts import deed, eighth, event_text
from .questions import Question, question
from .wording import ask, refer, sentence, verb
from .world import Clip, Event


def first(clip: Clip, rng: Random) -> Question | None:
    return _end_of_order(
        clip, rng, 0, "first", "[first|first|at first|at the start|at the beginning|earlier|to begin with]", "first"
    )


def last(clip: Clip, rng: Random) -> Question | None:
    return _end_of_order(
        clip, rng, 1, "last", "[last|last|at last|at the end|in the end|later|finally]", "[last|final]"
    )


def _end_of_order(clip: Clip, rng: Random, number: int, kind: str, when: str, which: str) -> Question | None:
    if len(clip.events) < 2:
        return None
    text = ask(
        rng,
        f"what happens {when}", f"what happens {when}",
        f"what is the {which} [thing that happens|event|action|change]",
        f"[which|what] [event|change|action] [comes|happens|is] {when}", f"what [comes|occurs|takes place] {when}",
        f"what do you see happen {when}", f"{when}, what happens", f"[tell me|say|describe] what happens {when}",
        f"[what|which thing|which object|which shape] [does something|changes|acts] {when}",
        f"the {which} event is what",
        f"what was the {which} [thing to happen|event]", f"which of the [two |]events [comes|is] {when}",
    )  # fmt: skip
    if rng.random() < 0.25:
        one, other = (_said(clip, event, rng) for event in rng.sample(clip.events, 2))
        text = ask(
            rng,
            f"[what|which] [happens|comes|is] {when}[,|:] {{one}} or {{other}}",
            f"{{one}} or {{other}}[,|:] [what|which] [happens|comes|is] {when}",
            f"[which is|what is|which one is] {which}[,|:] {{one}} or {{other}}",
            one=one, other=other,
        )  # fmt: skip
    event = clip.events[number]
    return question(kind, text, _happening(clip, event), _words(clip, event), EVENT_WORDS)


def order(clip: Clip, rng: Random) -> Question | None:
    if len(clip.events) < 2:
        return None
    one, other = rng.sample(clip.events, 2)
    (x, x_said), (y, y_said) = refer(clip.things[one.thing], rng), refer(clip.things[other.thing], rng)
    (v, vs), (_, ws) = verb(one, rng), verb(other, rng)
    word = "before" if one.start < other.start else "after"
    text = ask(
        rng,
        "does {x} {v} before or after {y} {ws}", "{x} {vs} before or after {y} {ws}",
        "is it before or after {y} {ws} that {x} {vs}", "before or after {y} {ws}, when does {x} {v}",
        "when does {x} {v}, before or after {y} {ws}", "[tell me|say] whether {x} {vs} before or after {y} {ws}",
        "did {x} {v} before or after {y} {ws}", "{x} {vs}: is that before or after {y} {ws}",
        x=x, y=y, v=v, vs=vs, ws=ws,
    )  # fmt: skip
    times = f"{timed(x_said, one)}, {timed(y_said, other)}"
    return question("order", text, sentence(f"{times}, so {word}"), [word], ("before", "after"))


def neighbour(clip: Clip, rng: Random) -> Question | None:
    if len(clip.events) < 2:
        return None
    number = rng.randrange(2)
    known, wanted = clip.events[number], clip.events[1 - number]
    when = "after" if number == 0 else "before"
    text = ask(
        rng,
        "what happens {when} {y} {ws}", "{when} {y} {ws}, what happens",
        "what [happens|comes|is seen|takes place] {when} {y} {ws}",
        "what do you see {when} {y} {ws}", "[tell me|say] what happens {when} {y} {ws}",
        "{y} {ws}. what happens {when} that",
        "[which|what] [event|change] [comes|happens] {when} {y} {ws}", "what happened {when} {y} {ws}",
        when=when, y=refer(clip.things[known.thing], rng)[0], ws=verb(known, rng)[1],
    )  # fmt: skip
    return question("neighbour", text, _happening(clip, wanted), _words(clip, wanted), EVENT_WORDS)


def timed(said: str, event: Event) -> str:
    """An event with the time that the facts give it, after the name of its thing."""
    return f"{said} {deed(event)} at {eighth(event.start)}"


def _said(clip: Clip, event: Event, rng: Random) -> str:
    return f"{refer(clip.things[event.thing], rng)[0]} {verb(event, rng)[1]}"


def _happening(clip: Clip, event: Event) -> str:
    return sentence(f"the {event_text(clip, event)}")


def _words(clip: Clip, event: Event) -> list[str]:
    thing = clip.things[event.thing]
    return [thing.colour, thing.shape, *deed(event).split()]
