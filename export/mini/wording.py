"""How people word things: alternatives in brackets, names of things, verbs, capitals and question marks; and the prompt
that their questions stand in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from random import Random

from vllama.runtime.registry import find_spec

from .facts import name
from .world import Event, Sound, Thing

_ENTRY = find_spec("miniature")
MESSAGES: Mapping[str, str] = asdict(_ENTRY.messages.message)
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_THING = "[thing|object|shape|figure|one]"
_OPENINGS = (
    "[in|looking at] [the|this] [video|clip], ", "[please |]tell me[:|,] ", "please say: ",
    "[can|could] you [tell me|say][:|,] ",
    "[one more |]question: ", "[ok|now|and|so][,|] ", "I [want to know|wonder][:|,] ",
)  # fmt: skip
_VERBS: dict[str, str] = {
    "moves left": "[move|move|go|travel|slide|shift] [left|left|to the left|leftwards]",
    "moves right": "[move|move|go|travel|slide|shift] [right|right|to the right|rightwards]",
    "moves up": "[move|move|go|travel|slide|shift] [up|up|upwards|upward]",
    "moves down": "[move|move|go|travel|slide|shift] [down|down|downwards|downward]",
    "grows": "[grow|grow|get bigger|get larger|become bigger|become larger|increase in size|expand]",
    "shrinks": "[shrink|shrink|get smaller|become smaller|decrease in size]",
    "rotates": "[rotate|rotate|spin|turn around]",
    "blinks": "[blink|blink|flash|flicker]",
    "bounces": "[bounce|bounce|jump|hop]",
    "turns": "[turn|turn|become|change to|change [colour|color] to]",
    "appears": "[appear|appear|show up|come into view|pop up]",
    "disappears": "[disappear|disappear|vanish|go away]",
}


def expand(template: str, rng: Random) -> str:
    """One reading of a template, in which "[a|b|]" offers a, b or nothing, also one inside the other."""
    while found := _CHOICE.search(template):
        template = template[: found.start()] + rng.choice(found[1].split("|")) + template[found.end() :]
    return re.sub(" {2,}", " ", template).strip()


def ask(rng: Random, *templates: str, **words: str) -> str:
    """A question from one of the templates, with the words put in; capitals, openings and endings vary."""
    text = expand(rng.choice(templates), rng).format(**words)
    text = re.sub(r"\b(an?) orange", "an orange", text)
    order = text.split(" ", 1)[0].lower() in ("describe", "list", "give", "tell", "show", "count", "name", "say")
    if rng.random() < 0.12:
        text = expand(rng.choice(_OPENINGS), rng) + " " + text
    if rng.random() < 0.7:
        text = text[0].upper() + text[1:]
    elif rng.random() < 0.7:
        text = text.lower()
    elif rng.random() < 0.6:
        text = text.upper()
    if order:
        return text + rng.choice((".", ".", ""))
    return text + rng.choices(("?", "", " ?"), (0.8, 0.18, 0.02))[0]


def turn(question: str) -> str:
    """A question as it stands in the prompt, up to its answer."""
    return _ENTRY.prompt.next.format(message=MESSAGES["text"].format(question=question))


def sentence(text: str) -> str:
    """An answer with a capital and a stop."""
    return text[0].upper() + text[1:] + "."


def refer(thing: Thing, rng: Random) -> tuple[str, str]:
    """How a question names a thing, and how the answer does: by its shape where it was asked by it, else by both."""
    by = rng.choice(("shape", "shape", "colour", "both"))
    if by == "shape":
        return f"the {thing.shape}", f"the {thing.shape}"
    if by == "colour":
        return expand(f"the {thing.colour} {_THING}", rng), f"the {name(thing)}"
    return f"the {name(thing)}", f"the {name(thing)}"


def verb(event: Event, rng: Random) -> tuple[str, str]:
    """What an event does, worded: ("get bigger", "gets bigger")."""
    base = expand(_VERBS[event.action], rng) + (f" {event.colour}" if event.action == "turns" else "")
    first, _, rest = base.partition(" ")
    ending = "es" if first.endswith(("sh", "go")) else "s"
    return base, f"{first}{ending} {rest}".strip()


def sound_name(sound: Sound, rng: Random) -> str:
    """How a question names a sound: "the knock", "the beeps", or only "the sound"."""
    if rng.random() < 0.5:
        return expand("the [sound|sound|noise]", rng)
    if sound.kind == "beeps":
        return "the beep" if sound.count == 1 else "the beeps"
    return "the " + expand(_SOUND_NAMES.get(sound.kind, sound.kind), rng)


_SOUND_NAMES = {
    "low tone": "[low tone|tone]",
    "high tone": "[high tone|tone]",
    "rising sweep": "[rising sweep|sweep]",
    "falling sweep": "[falling sweep|sweep]",
    "noise burst": "[noise burst|burst of noise|noise]",
}
