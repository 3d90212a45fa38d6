"""Checkpoints of full size in the published layout, random and seeded: what `vllama export` reads.

    python tests/bench/make_full_size.py --out FOLDER [--model video-llama-2-7b-chat] [--parts vision,qformer,llama]

Names, shapes and types of the tensors are those recorded of the published files (`keys_used.json`). Speed and memory do
not depend on the values; what rounding costs does, so they have what makes rounding hard in trained transformers: a few
channels of each norm and of each attention's values are 20 to 60 times as large as the others, with the next matrix as
much smaller, and a few units of each MLP are always on. Everything is written tensor by tensor; a 7B takes 17 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import mmap
import pydoc_data.topics
import random
import re
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2
from torch import Tensor
from torch.serialization import set_default_mmap_options, skip_data

from vllama.runtime.registry import find_spec
from vllama.runtime.spec import ModelSpec

PARTS = ("vision", "qformer", "llama", "audio", "branches")
KEYS = Path(__file__).parents[1] / "golden" / "manifests" / "keys_used.json"
Shapes = dict[str, tuple[list[int], str]]
_PERIOD = 4_194_301  # of the noise; a prime, so that no two rows of a matrix are the same
_CHANNELS, _UNITS = 6, 8
_FACTORS = (20.0, 60.0)
_SHARD_BYTES = 9_976_000_000
_LEARNED_PIECES = 8000


@dataclass(frozen=True)
class Outliers:
    """Where one tensor's share of the large channels is.

    pattern: of its key. axis: of the channels. site: what shares them, made from the pattern's groups. power: 1 for
    what is large, -1 for the matrix that takes it back. third: they are in the last third of the axis, the values.
    """

    pattern: str
    axis: int
    site: str
    power: int
    third: bool = False


_OUTLIERS = (
    Outliers(r"(.*blocks\.\d+)\.norm_?1\.(?:weight|bias)", 0, r"\1 before attention", 1),
    Outliers(r"(.*blocks\.\d+)\.attn\.(?:qkv\.|in_proj_)weight", 1, r"\1 before attention", -1),
    Outliers(r"(.*blocks\.\d+)\.norm_?2\.(?:weight|bias)", 0, r"\1 before MLP", 1),
    Outliers(r"(.*blocks\.\d+)\.mlp\.fc1\.weight", 1, r"\1 before MLP", -1),
    Outliers(r"(.*blocks\.\d+)\.attn\.(?:qkv\.weight|in_proj_weight|in_proj_bias)", 0, r"\1 values", 1, third=True),
    Outliers(r"(.*blocks\.\d+)\.attn\.(?:v_bias|bias_v)", -1, r"\1 values", 1),
    Outliers(r"(.*blocks\.\d+)\.attn\.(?:out_)?proj\.weight", 1, r"\1 values", -1),
    Outliers(r"ln_vision\.(?:weight|bias)", 0, "vision", 1),
    Outliers(r"Qformer\..*\.crossattention\.self\.(?:key|value)\.weight", 1, "vision", -1),
    Outliers(r"(.*attention)\.self\.value\.(?:weight|bias)", 0, r"\1 values", 1),
    Outliers(r"(.*attention)\.output\.dense\.weight", 1, r"\1 values", -1),
    Outliers(r"(model\.layers\.\d+)\.input_layernorm\.weight", 0, r"\1 before attention", 1),
    Outliers(r"(model\.layers\.\d+)\.self_attn\.[qkv]_proj\.weight", 1, r"\1 before attention", -1),
    Outliers(r"(model\.layers\.\d+)\.post_attention_layernorm\.weight", 0, r"\1 before MLP", 1),
    Outliers(r"(model\.layers\.\d+)\.mlp\.(?:gate|up)_proj\.weight", 1, r"\1 before MLP", -1),
)
_STDS = (
    (r".*llama_proj\.weight", 0.002),  # media rows then are about as long as the rows of words
    (r".*query_tokens", 0.5),
    (r".*(?:norm|ln_vision|LayerNorm).*\.bias", 0.1),
)
_STD = 0.02


class Noise:
    """Normal noise that repeats after 4 M values; a key always gets the same."""

    def __init__(self, seed: int = 0) -> None:
        self._values = torch.randn(_PERIOD, generator=torch.Generator().manual_seed(seed))

    def fill(self, target: Tensor, key: str, std: float) -> None:
        """Write as many values as the contiguous `target` has."""
        flat, start = target.view(-1), zlib.crc32(key.encode()) % _PERIOD
        done = 0
        while done < flat.numel():
            taken = min(_PERIOD - start, flat.numel() - done)
            torch.mul(self._values[start : start + taken], std, out=flat[done : done + taken])
            done, start = done + taken, 0


def main() -> None:
    """Write the parts and say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="a folder, not in the repository")
    parser.add_argument("--model", default="video-llama-2-7b-chat", help="an entry of models.toml")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--keys", type=Path, default=KEYS, help="the recorded names, shapes and types")
    given = parser.parse_args()
    wanted = given.parts.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))} is not one of {', '.join(PARTS)}")
    spec, recorded, noise = find_spec(given.model), json.loads(given.keys.read_text("utf-8")), Noise()
    given.out.mkdir(parents=True, exist_ok=True)
    for part, path, write in files(spec, recorded, given.out, noise):
        if part in wanted:
            started = time.perf_counter()
            write()
            written = sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
            print(f"{path}: {written:,} bytes in {time.perf_counter() - started:.1f} s", flush=True)


def files(
    spec: ModelSpec, recorded: dict[str, dict[str, Any]], out: Path, noise: Noise
) -> Iterator[tuple[str, Path, Callable[[], None]]]:
    """(part, file or folder, what writes it) of everything that the entry names."""
    size = _size(spec)

    def checkpoint(part: str, name: str, key: str) -> tuple[str, Path, Callable[[], None]]:
        return part, out / name, lambda: write_checkpoint(out / name, recorded[key], noise)

    yield checkpoint("vision", spec.video.files.encoder.name, "eva_vit_g.pth")
    yield checkpoint("qformer", spec.video.files.qformer.name, "blip2_pretrained_flant5xxl.pth")
    yield checkpoint("branches", spec.files.vl.name, f"VL_{size}.pth")
    if spec.audio:
        assert spec.files.al is not None
        yield checkpoint("branches", spec.files.al.name, f"AL_{size}.pth")
        yield checkpoint("audio", spec.audio.files.encoder.name, "imagebind_huge.pth")
    folder = out / spec.files.llm.name
    yield "llama", folder, lambda: write_llama(folder, recorded_llama(spec, recorded), noise)


def recorded_llama(spec: ModelSpec, recorded: dict[str, dict[str, Any]]) -> Shapes:
    """Shapes and types of the language model of an entry."""
    name = f"llama2_{_size(spec)}_chat" if "llama-2" in spec.files.llm.name else f"vicuna_{_size(spec)}_v0"
    shapes: Shapes = dict(recorded[f"llama_dir_{name}"])
    if spec.llm.dimensions:
        for key in ("model.embed_tokens.weight", "lm_head.weight"):
            (_, width), dtype = shapes[key]
            shapes[key] = [spec.llm.dimensions.vocab_size, width], dtype
    return shapes


def write_checkpoint(path: Path, shapes: dict[str, Any], noise: Noise) -> None:
    """A file as torch.save makes it: first its frame, then the values through a mapping of the file."""
    nested = "model" in shapes or path.name.startswith("blip2")
    shapes = shapes.get("model", shapes)
    state = {key: torch.empty(shape, dtype=getattr(torch, dtype)) for key, (shape, dtype) in shapes.items()}
    trained = {"optimizer": {}, "config": {}, "scaler": {}, "epoch": 3} if path.name.startswith(("VL", "AL")) else {}
    with skip_data():
        torch.save({"model": state, **trained} if nested else state, path)
    with set_default_mmap_options(mmap.MAP_SHARED):
        loaded = torch.load(path, mmap=True, weights_only=True)
    for key, tensor in (loaded["model"] if nested else loaded).items():
        write_values(tensor, key, noise)


def write_llama(folder: Path, shapes: Shapes, noise: Noise) -> None:
    """A folder as Hugging Face keeps a LLaMA: safetensors shards and their index, config, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(shapes)
    places = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        places.update(dict.fromkeys(shard, name))
        _write_shard(folder / name, shard, noise)
    total = sum(_bytes(*each) for each in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps(_llama_config(shapes), indent=2))
    write_tokenizer(folder / "tokenizer.model", 32000)


def write_tokenizer(path: Path, size: int) -> None:
    """A SentencePiece model of `size` pieces: some thousand learned from Python's own manual, the rest made up."""
    text = " ".join(pydoc_data.topics.topics.values())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(re.split(r"\n\s*\n|(?<=\.)\s", text)),
        model_prefix=str(path.with_suffix("")),
        model_type="bpe",
        vocab_size=_LEARNED_PIECES,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path.with_suffix(".vocab").unlink()
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # protobuf makes it when it is imported
    model.ParseFromString(path.read_bytes())
    known, rng = {piece.piece for piece in model.pieces}, random.Random(0)
    lowest = min(piece.score for piece in model.pieces)
    while len(model.pieces) < size:
        word = "\u2581" + "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))
        if word not in known:
            known.add(word)
            lowest -= 1.0
            model.pieces.add(piece=word, score=lowest)
    model.trainer_spec.vocab_size = size
    path.write_bytes(model.SerializeToString())


def write_values(tensor: Tensor, key: str, noise: Noise) -> None:
    """What a trained tensor of that name could look like, in place."""
    if key.endswith("log_logit_scale"):
        tensor.fill_(math.log(20.0))
        return
    norm = tensor.ndim == 1 and key.endswith(".weight")
    std = next((std for pattern, std in _STDS if re.fullmatch(pattern, key)), 0.1 if norm else _STD)
    noise.fill(tensor, key, std)
    if norm:
        tensor += 1
    for each in _OUTLIERS:
        if found := re.fullmatch(each.pattern, key):
            _enlarge(tensor, each, found.expand(each.site))
    if found := re.fullmatch(r"(.*blocks\.\d+\.mlp)\.fc1\.bias", key):
        tensor[_units(found[1], len(tensor))] += 30
    elif found := re.fullmatch(r"(.*blocks\.\d+\.mlp)\.fc2\.weight", key):
        tensor[:, _units(found[1], tensor.shape[1])] *= 0.25


def _enlarge(tensor: Tensor, outliers: Outliers, site: str) -> None:
    length = tensor.shape[outliers.axis]
    width = length // 3 if outliers.third else length
    kind = site.rpartition(" ")[2] if "before" in site else site  # the same channels of the residual in every block
    channels = random.Random(kind).sample(range(width), _CHANNELS)
    rng = random.Random(site)
    for channel in channels:
        factor = rng.uniform(*_FACTORS) ** outliers.power
        tensor.select(outliers.axis, channel + (length - width)).mul_(factor)


def _units(site: str, count: int) -> list[int]:
    return random.Random(site).sample(range(count), _UNITS)


def _size(spec: ModelSpec) -> str:
    return {4096: "7b", 5120: "13b"}[spec.llm.hidden_size]


def _shards(shapes: Shapes) -> list[Shapes]:
    shards: list[Shapes] = [{}]
    size = 0
    for key, each in shapes.items():
        if size + _bytes(*each) > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = each
        size += _bytes(*each)
    return shards


def _write_shard(path: Path, shapes: Shapes, noise: Noise) -> None:
    """The format of safetensors: length of the header, header, tensors."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for key, (shape, dtype) in shapes.items():
        end = offset + _bytes(shape, dtype)
        header[key] = {"dtype": {"float16": "F16"}[dtype], "shape": shape, "data_offsets": [offset, end]}  # type: ignore[dict-item]
        offset = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for key, (shape, dtype) in shapes.items():
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            write_values(tensor, key, noise)
            file.write(tensor.numpy())  # type: ignore[arg-type]


def _llama_config(shapes: Shapes) -> dict[str, object]:
    vocab_size, hidden_size = shapes["model.embed_tokens.weight"][0]
    heads = hidden_size // 128
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "float16",
        "vocab_size": vocab_size, "hidden_size": hidden_size, "num_attention_heads": heads,
        "num_key_value_heads": heads, "num_hidden_layers": sum(key.endswith(".q_proj.weight") for key in shapes),
        "intermediate_size": shapes["model.layers.0.mlp.gate_proj.weight"][0][0], "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
    }  # fmt: skip


def _bytes(shape: list[int], dtype: str) -> int:
    return int(np.prod(shape)) * torch.empty(0, dtype=getattr(torch, dtype)).element_size()


if __name__ == "__main__":
    main()
