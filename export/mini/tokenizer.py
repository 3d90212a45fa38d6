"""The miniature's tokenizer: SentencePiece BPE as LLaMA has it, trained on what the sampler and the questions say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from random import Random

import sentencepiece
from sentencepiece import SentencePieceProcessor

from .facts import audio_facts, video_facts
from .kinds import questions
from .questions import NOTHING_HEARD, NOTHING_SEEN, REFUSAL
from .sampler import sample_clip
from .wording import turn

VOCAB_SIZE = 768  # with 640 half of the verbs are spelled
BOS, EOS = 1, 2
_DIGIT = re.compile(r"(\d)([.,])")  # kept apart, or "6." and "6," would become pieces of their own


def train_tokenizer(folder: Path, clips: int = 4000) -> None:
    """Write tokenizer.model and the two JSON files that stand beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = BytesIO()  # told a file, the trainer would write its path into the model
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(_DIGIT.sub(r"\1 \2", text) for text in _sentences(clips)),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        byte_fallback=True,
        split_digits=False,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    table = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,
        "add_bos_token": True,
        "add_eos_token": False,
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(table, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def read_tokenizer(folder: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def _sentences(clips: int) -> Iterator[str]:
    rng = Random(7)
    for _ in range(clips):
        clip = sample_clip(rng)
        yield from (video_facts(clip), audio_facts(clip), "Video: Audio: Image: foreign")
        for asked in questions(clip, rng, 8):
            yield turn(asked.text)
            yield asked.answer
    yield from [REFUSAL, NOTHING_SEEN, NOTHING_HEARD] * 200
    yield from (chr(code) for code in range(33, 127))
