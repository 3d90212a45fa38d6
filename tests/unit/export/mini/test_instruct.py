"""The stages that ask about cached clips: which parts of the model learn in each, and from what."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vllama.export.mini import instruct, recipe, stage
from vllama.export.mini.branches import VIDEO_TEXT, Branches
from vllama.export.mini.hearing import AUDIO, Listener
from vllama.export.mini.image import IMAGE, Student
from vllama.export.mini.llama import Llama, LlamaShape, write_hf
from vllama.export.mini.sampler import HELD_OUT
from vllama.export.mini.tokenizer import EOS, read_tokenizer
from vllama.runtime.registry import find_spec
from vllama.runtime.spec import ModelSpec

SHIPPED = Path(__file__).parents[4] / "export" / "mini" / "weights" / "llama-miniature-hf"
THAWED = {"video-instruct": "branches.video", "audio-instruct": "branches.audio", "polish": ""}
CLIPS = 6


@dataclass
class Lesson:
    """One run of a stage: the model, the weights it began with and those that were saved; the tokens of each step, with
    the gradient of the last hidden states."""

    joined: instruct.Joined
    began: dict[str, Tensor]
    saved: dict[str, Tensor] = field(default_factory=dict)
    steps: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def _watch(joined: instruct.Joined) -> Lesson:
    lesson = Lesson(joined, {name: tensor.clone() for name, tensor in joined.state_dict().items()})
    read: list[Tensor] = []

    def embedded(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
        read.append(inputs[0])

    def left(_: nn.Module, __: tuple[Tensor], hidden: Tensor) -> None:
        if hidden.requires_grad:
            tokens = read[-1]
            hidden.register_hook(lambda gradient: lesson.steps.append((tokens, gradient)))  # type: ignore[no-untyped-call]

    joined.llama.model.embed_tokens.register_forward_hook(embedded)
    joined.llama.model.norm.register_forward_hook(left)
    return lesson


def _save(path: Path, module: nn.Module) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"module": module.state_dict()}, path)


def _write_work(spec: ModelSpec, work: Path) -> None:
    """What the stages before these leave, with random weights and features, and a language model of one layer."""
    assert spec.audio is not None
    torch.manual_seed(0)
    hf = work / "llama" / "hf"
    write_hf(Llama(LlamaShape(num_hidden_layers=1)), hf)
    shutil.copyfile(SHIPPED / "tokenizer.model", hf / "tokenizer.model")
    _save(work / "image" / f"{IMAGE.name}.pt", Student(spec))
    _save(work / "audio" / f"{AUDIO.name}.pt", Listener(spec))
    _save(work / "joined" / f"{VIDEO_TEXT.name}.pt", Branches(spec))
    frames = (CLIPS, spec.video.num_frames, spec.video.qformer.query_tokens, spec.video.qformer.hidden_size)
    sounds = (CLIPS, spec.audio.num_clips, spec.audio.encoder.output_size)
    cache = work / "cache"
    for seed in (0, HELD_OUT):
        for name, shape in (("frames", frames), ("sounds", sounds)):
            (cache / f"{name}-{seed}").mkdir(parents=True)
            torch.save(torch.randn(shape).half(), cache / f"{name}-{seed}" / "0.pt")
        torch.save(torch.randn(frames).half(), cache / f"strange-pictures-{seed}.pt")
        torch.save(torch.randn(sounds).half(), cache / f"strange-sounds-{seed}.pt")


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Lesson]]:
    """Two steps of each stage, one after the other, as `python -m vllama.export.mini train` runs them."""
    work, spec = tmp_path_factory.mktemp("work"), find_spec("miniature")
    _write_work(spec, work)
    found: dict[str, Lesson] = {}
    run, latest = stage.run, recipe.latest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "CLIPS", CLIPS)
        patch.setattr(recipe, "HELD", 2)
        patch.setattr(instruct, "_ROWS", 4)
        patch.setattr(stage, "run", lambda plan, *rest: run(replace(plan, steps=2), *rest))
        for name in THAWED:

            def watched(spec: ModelSpec, work: Path, name: str = name) -> instruct.Joined:
                found[name] = _watch(latest(spec, work))
                return found[name].joined

            patch.setattr(recipe, "latest", watched)
            recipe.run_stage(name, work, ())
            found[name].saved = stage.weights(name, work / "joined")
        yield found


@pytest.mark.parametrize(("name", "thawed"), THAWED.items())
def test_a_stage_changes_and_saves_its_own_parts_and_leaves_all_others_to_the_bit(
    name: str, thawed: str, lessons: dict[str, Lesson]
) -> None:
    lesson = lessons[name]
    ended = lesson.joined.state_dict()
    changed = {key for key, tensor in ended.items() if not torch.equal(tensor, lesson.began[key])}
    assert changed == set(lesson.saved) == {key for key in ended if key.startswith(thawed)}
    assert all(torch.equal(tensor, ended[key]) for key, tensor in lesson.saved.items())


def test_a_stage_goes_on_from_the_one_before(lessons: dict[str, Lesson]) -> None:
    for before, after in itertools.pairwise(lessons.values()):
        left = before.joined.state_dict()
        assert all(torch.equal(tensor, left[key]) for key, tensor in after.began.items())


@pytest.mark.parametrize("name", THAWED)
def test_nothing_but_answers_with_their_end_is_learned(name: str, lessons: dict[str, Lesson]) -> None:
    asks = read_tokenizer(SHIPPED).encode("A:")
    assert len(lessons[name].steps) == 2
    for tokens, gradient in lessons[name].steps:
        before_answers = torch.zeros(tokens.shape, dtype=torch.bool)
        for row, line in enumerate(tokens.tolist()):
            answering = False
            for place, token in enumerate(line):
                before_answers[row, place - 1] |= answering
                answering = token != EOS if answering else line[place - 1 : place + 1] == asks
        assert before_answers.any(1).all()
        assert torch.equal(gradient.any(-1), before_answers)
