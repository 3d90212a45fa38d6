"""Questions about what is heard, and about when it is heard beside what is seen."""

from __future__ import annotations

from random import Random

from .asked_of_order import timed
from .asked_of_pictures import EVENT_WORDS
from .facts import NUMBERS, audio_facts, caption, deed, eighth, event_text, name, sound_text
from .questions import SOUNDS, Question, question
from .sampler import INSTANT, WITH
from .wording import ask, refer, sentence, sound_name, verb
from .world import Clip, Event, Sound

_ORDERS = ("before", "with", "after")
_PARTS = ("start", "middle", "end")


def heard(clip: Clip) -> str:
    """Such as "I hear two beeps", "I hear a knock" or "I hear silence"."""
    if not clip.sounds:
        return "I hear silence"
    article = "" if clip.sounds[0].kind == "beeps" else "a "
    return f"I hear {article}{sound_text(clip.sounds[0])}"


def order_of(sound: Sound, event: Event) -> str:
    """Whether a sound comes before, with or after an event; "" where it is not clear, as during a movement."""
    eighths = eighth(sound.start) - eighth(event.start)
    if event.action not in INSTANT and event.start - 0.1 < sound.start < event.end:
        return ""
    if abs(sound.start - event.start) <= WITH:
        return "with"
    return "before" if eighths <= -2 else "after" if eighths >= 2 else ""


def with_it(word: str) -> str:
    """The word as an answer says it."""
    return "with it" if word == "with" else word


def sound(clip: Clip, rng: Random) -> Question | None:
    if not clip.sounds and rng.random() < 0.3:
        return None
    text = ask(
        rng,
        "what do you hear", "what do you hear",
        "what [sound|noise|kind of sound] [is there|can be heard|do you hear|is heard|is played|is it]",
        "what [is heard|can be heard|is to be heard|can you hear]", "what is the sound",
        "which sound [is played|is heard|do you hear|comes]",
        "describe [the|what you] [sound|hear]", "what does it sound like", "[tell me|say] what you hear",
        "name the sound",
        "what is [on|in] the [audio|sound track|soundtrack]", "you hear what", "listen: what is it",
        "how does it sound",
    )  # fmt: skip
    words = sound_text(clip.sounds[0]).split() if clip.sounds else ["silence"]
    words = [word for word in words if word != "burst"]
    return question("sound", text, f"{heard(clip)}.", words, (*SOUNDS, *NUMBERS), "audio")


def beeps(clip: Clip, rng: Random) -> Question | None:
    if not clip.sounds or clip.sounds[0].kind != "beeps":
        return None
    text = ask(
        rng,
        "how many beeps [do you hear|are there|can be heard|sound|are played|can you hear|did you hear|]",
        "count the beeps", "how [often|many times] does it beep", "how many times do you hear a beep",
        "what is the number of beeps",
        "[tell me|say] how many beeps [there are|you hear]", "the beeps are how many",
        "how many beeps are in the [audio|sound|video|clip]",
        "there are how many beeps", "what number of beeps is [heard|there]", "how many beeps does the clip have",
    )  # fmt: skip
    return question("beeps", text, f"{heard(clip)}.", [NUMBERS[clip.sounds[0].count]], NUMBERS, "audio")


def pitch(clip: Clip, rng: Random) -> Question | None:
    if not clip.sounds or not clip.sounds[0].kind.endswith("sweep"):
        return None
    rising = clip.sounds[0].kind.startswith("rising")
    it = "the [pitch|pitch|tone|sound|sweep|frequency]"
    text = ask(
        rng,
        f"does {it} [rise or fall|go up or down|fall or rise|go down or up]",
        f"is {it} [rising or falling|going up or down|falling or rising]",
        f"[which|what] [way|direction] does {it} go", "what happens to the [pitch|tone]",
        "how does the [pitch|tone|sound] change",
        f"[tell me|say] whether {it} [rises or falls|goes up or down]",
        "does it [rise or fall|get higher or lower|go up or down]",
        f"{it} [rises or falls|goes up or down]", "what does the [pitch|sweep] do",
        "is it a rising or a falling [sweep|tone|sound]",
    )  # fmt: skip
    word, rival = ("rises", "falls") if rising else ("falls", "rises")
    kind = "rising" if rising else "falling"
    answer = f"{heard(clip)}, so the pitch {word}."
    return question("pitch", text, answer, [word, kind], (rival, "rising", "falling"), "audio")


def tone(clip: Clip, rng: Random) -> Question | None:
    if not clip.sounds or not clip.sounds[0].kind.endswith("tone"):
        return None
    text = ask(
        rng,
        "is the [tone|sound|pitch] [high or low|low or high]", "is it a [high or a low|low or a high] [tone|sound]",
        "how high is the [tone|sound|pitch]", "[what|which] kind of tone [is it|do you hear|is heard]",
        "do you hear a [high or a low|low or a high|high or low] tone",
        "[tell me|say] whether the tone is [high or low|low or high]",
        "the tone is [high or low|low or high]", "is what you hear [high or low|low or high]",
        "[what|which] pitch does the tone have",
        "does it sound [high or low|low or high]", "how is the pitch of the tone",
    )  # fmt: skip
    return question("tone", text, f"{heard(clip)}.", [clip.sounds[0].kind.split()[0]], ("low", "high"), "audio")


def sound_time(clip: Clip, rng: Random) -> Question | None:
    if not clip.sounds:
        return None
    heard_at = clip.sounds[0]
    part = _PARTS[(0, 0, 0, 1, 1, 2, 2, 2)[eighth(heard_at.start)]]
    centre = (heard_at.start + heard_at.end) / 2
    if part != _PARTS[min(2, int(3 * centre))]:
        return None  # it begins in one part of the clip and lies in another
    if part == "start" and rng.random() < 0.35:
        return None  # or most sounds would be there
    text = ask(
        rng,
        "when [does {s} come|is {s} heard|do you hear {s}|can {s} be heard|is {s}|is {s} played]",
        "when [do you hear it|does it sound|do you hear something|is something heard]",
        "in [which|what] part of the [clip|video] is {s}",
        "[is|does] {s} [come |heard |]at the start, in the middle or at the end",
        "at [what|which] [time|point] [is|do you hear] {s}",
        "[tell me|say] when {s} [comes|is heard]", "is {s} at the [start|beginning], middle or end",
        "{s} is [heard|there] when",
        "where in the [clip|video] is {s}", "is {s} heard early, in the middle or late",
        s=sound_name(heard_at, rng),
    )  # fmt: skip
    place = "in the middle" if part == "middle" else f"at the {part}"
    answer = f"{heard(clip)} at {eighth(heard_at.start)}, so {place}."
    return question("sound time", text, answer, [part], _PARTS, "audio")


def sound_order(clip: Clip, rng: Random) -> Question | None:
    found = _sound_and_event(clip, rng)
    if found is None:
        return None
    heard_at, event, word = found
    asked, said = refer(clip.things[event.thing], rng)
    vs = verb(event, rng)[1]
    if len(clip.events) == 1 and rng.random() < 0.25:
        asked, vs, said = (
            "[what|the thing|the change|the event] [you see|is seen]",
            "",
            f"the {name(clip.things[event.thing])}",
        )
    three = "[before, with or after|before, with, or after|before, at the same time as or after|after, with or before]"
    how = f"[{three[1:-1]}|before or after]" if word != "with" else three
    text = ask(
        rng,
        f"does {{s}} come {how} [the moment |]{asked} {vs}", f"is {{s}} {how} {asked} {vs}",
        f"{{s}} comes {how} {asked} {vs}",
        f"is {{s}} heard {how} {asked} {vs}", f"do you hear {{s}} {how} {asked} {vs}",
        f"when is {{s}}, {how} {asked} {vs}",
        f"[tell me|say] whether {{s}} comes {how} {asked} {vs}",
        f"does {{s}} [sound|come|start|begin] {how} {asked} {vs}",
        f"{asked} {vs}: is {{s}} before, with or after [it|that]",
        s=sound_name(heard_at, rng),
    )  # fmt: skip
    answer = f"{heard(clip)} at {eighth(heard_at.start)}, {timed(said, event)}, so {with_it(word)}."
    return question("sound order", text, answer, [word], _ORDERS, "both")


def sound_with(clip: Clip, rng: Random) -> Question | None:
    """What is heard when something happens, what happens when something is heard; where both come together."""
    found = _sound_and_event(clip, rng)
    if found is None or found[2] != "with":
        return None
    heard_at, event, _ = found
    if rng.random() < 0.5:
        x, vs = refer(clip.things[event.thing], rng)[0], verb(event, rng)[1]
        text = ask(
            rng,
            "what do you hear [when|as] {x} {vs}", "[when|as] {x} {vs}, what do you hear",
            "what [sound|noise] [comes|is heard] [when|as] {x} {vs}",
            "what [is|can be] heard [when|as] {x} {vs}", "[which|what] sound is there [when|as] {x} {vs}",
            "[tell me|say] what you hear when {x} {vs}", "{x} {vs}: with [which|what] sound",
            x=x, vs=vs,
        )  # fmt: skip
        words = [word for word in sound_text(heard_at).split() if word != "burst"]
        return question("sound with", text, f"{heard(clip)}.", words, (*SOUNDS, *NUMBERS), "both")
    text = ask(
        rng,
        "what happens when [{s} comes|you hear {s}|{s} is heard|{s} sounds]", "what do you see when you hear {s}",
        "when [you hear {s}|{s} comes|{s} is heard], what happens",
        "what [comes|happens|is seen] [together |]with {s}",
        "what happens at the same time as {s}", "[tell me|say] what happens when you hear {s}",
        s=sound_name(heard_at, rng),
    )  # fmt: skip
    thing = clip.things[event.thing]
    words = [thing.colour, thing.shape, *deed(event).split()]
    return question("sound with", text, sentence(f"the {event_text(clip, event)}"), words, EVENT_WORDS, "both")


def seen_and_heard(clip: Clip, rng: Random) -> Question | None:
    text = ask(
        rng,
        "what do you see and hear", "describe what you see and hear", "describe [everything|all] you see and hear",
        "what is seen and heard", "what [can be|is to be] seen and heard", "tell me what you see and hear",
        "what do you hear and see",
        "describe the [video|clip] and [its|the] sound", "give [me |]a description of picture and sound",
    )  # fmt: skip
    words = [word for thing in clip.things for word in (thing.colour, thing.shape)]
    words += [word for event in clip.events for word in deed(event).split()]
    words += [word for word in heard(clip).split()[2:] if word not in ("a", "burst")]
    answer = sentence(f"{caption(clip)[:-1]}; {heard(clip)}")
    return question("caption of both", text, answer, words, (*EVENT_WORDS, *SOUNDS), "both")


def sound_timeline(clip: Clip, rng: Random) -> Question | None:
    text = ask(
        rng,
        "list the sounds", "[list|give|show|write] [me |][the|a] timeline of the [sound|sounds|audio]",
        "list [everything|all] you hear",
        "list the sounds [with|and] [their |]times", "[list|give] all [sounds|that is heard]",
    )  # fmt: skip
    words = audio_facts(clip).replace(".", "").split()
    return question("sound timeline", text, audio_facts(clip), words, (*SOUNDS, *NUMBERS), "audio")


def _sound_and_event(clip: Clip, rng: Random) -> tuple[Sound, Event, str] | None:
    gradual = rng.random() < 0.15
    events = [event for event in clip.events if gradual or event.action in INSTANT]
    if not clip.sounds or not events:
        return None
    event = rng.choice(events)
    word = order_of(clip.sounds[0], event)
    if not word or rng.random() < _LEFT_OUT[word]:
        return None
    return clip.sounds[0], event, word


_LEFT_OUT = {"before": 0.45, "with": 0.4, "after": 0.25}  # shares that make the three answers equally frequent
