"""An HF LLaMA folder as people have it, or a base with a delta, opened and checked before any work."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vllama.runtime.errors import FileError, MissingFileError, SpecError
from vllama.runtime.llm.quants import LlamaDimensions, LlamaTensor, llama_tensors
from vllama.runtime.spec import ModelSpec, WeightFile

from .checkpoint import MAPPED_BYTES, find_file, is_lfs_pointer, open_state_dict
from .request import check_folder
from .vocabulary import Vocabulary, read_json, read_vocabulary

StoredType = Literal["F32", "F16", "BF16"]
_STORED: dict[torch.dtype, StoredType] = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_IGNORED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # computed from rope_theta
_EMBEDDING, _HEAD, _LAST_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_LEAST_NORM = 0.1  # mean of the absolute values of the last norm: about 1 or more in a trained LLaMA, 0.002 in a delta
_HF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_FORMATS = (("model", ".safetensors"), ("pytorch_model", ".bin"))


@dataclass(frozen=True)
class LlamaConfig(LlamaDimensions):
    """What a config.json says; n_ctx_train: positions it was trained with."""

    rms_norm_eps: float
    rope_theta: float
    n_ctx_train: int


@dataclass(frozen=True)
class _Stored:
    shape: tuple[int, ...]
    dtype: torch.dtype


class LlamaFolder:
    """The tensors of one LLaMA, read when they are asked for.

    Attributes:
        config: its dimensions; vocab_size is the number of embedding rows.
        shapes: names and shapes of its tensors, in the order of the computation.
        dtype: how the tensors are stored.
        vocabulary: one entry per embedding row.
        sources: every file that was read.
        ignored: keys in the files that a LLaMA does not need.
        notes: what in the folder was not followed, in sentences.
    """

    def __init__(
        self,
        config: LlamaConfig,
        vocabulary: Vocabulary,
        folder: _Folder,
        base: _Folder | None,
        whole: tuple[str, ...],
        notes: tuple[str, ...],
    ) -> None:
        """
        Args:
            base: what `folder` is a delta to, if it is one. whole: the tensors that it holds whole all the same.
        """
        self.config = config
        self.vocabulary = vocabulary
        self.shapes = tuple(tensor_shapes(config))
        self.dtype: StoredType = "F16" if base else _STORED[folder.stored[_EMBEDDING].dtype]
        self.sources = tuple(sorted({*folder.sources, *(base.sources if base else ()), *vocabulary.sources}))
        self.ignored = tuple(sorted({*folder.ignored, *(base.ignored if base else ())}))
        self.notes = (*vocabulary.notes, *notes)
        self._folder = folder
        self._base = base
        self._whole = whole

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor by its HF name; base and delta are added in float16 as upstream does it.

        Sources: FastChat, fastchat/model/apply_delta.py, for the Vicuna v0 deltas that Video-LLaMA 64888c0 uses; for
        Ziya, whose embedding and head are whole, Fengshenbang-LM 8ddfc84, fengshen/utils/apply_delta.py.
        """
        tensor = self._folder.named(name)
        if self._base is None:
            return tensor
        total = tensor.to(torch.float16, copy=True)
        if name in self._whole:
            return total
        base = self._base.named(name).to(torch.float16)
        total[: base.shape[0]] += base  # the base has no row for [PAD], which counts as zero
        return total


def open_llama(spec: ModelSpec, weights: Path) -> LlamaFolder:
    """The language model of `spec` in `weights`: one folder, or base and delta.

    Raises:
        MissingFileError: the folder, a shard, config.json or tokenizer.model is not there.
        FileError: a tensor is missing, unknown or of another shape than config.json and the spec say; the folder
            holds a delta, or Meta's own format; or the tokenizer cannot write the stop strings of the prompt format.
        SpecError: a folder is there twice, or the entry names a tensor that no LLaMA has.
    """
    check_folder(weights)
    folder, base = _open_folders(spec, weights)
    config, place, files = folder.config, folder.path, spec.files
    _check_dimensions(folder, spec)
    if base is None and folder.last_norm < _LEAST_NORM:
        whole = "fetch the whole weights, or give an entry of your own (--models) llm_delta and llm_base"
        if files.llm_delta and files.llm_base:
            whole = f"call it {files.llm_delta.name} and put its base, {files.llm_base.name}, beside it"
        raise FileError(
            f"{place}: a delta, not a whole model: the values of {_LAST_NORM} are {folder.last_norm:.2g} on average; "
            f"{whole}"
        )
    if base is not None and (
        replace(base.config, vocab_size=0, n_ctx_train=0) != replace(config, vocab_size=0, n_ctx_train=0)
        or base.config.vocab_size > config.vocab_size
    ):
        raise FileError(f"{base.path}: its config.json does not fit that of {place}; use the base of this delta")
    if unknown := set(files.llm_delta_whole) - dict(tensor_shapes(config)).keys():
        raise SpecError(
            f"models.{spec.name}: files.llm_delta_whole: {min(unknown)!r} is no tensor of a LLaMA; fix the entry"
        )
    vocabulary = read_vocabulary(place, config.vocab_size)
    for stop in spec.prompt.stop:
        vocabulary.check_encodes(stop)
    return LlamaFolder(config, vocabulary, folder, base, files.llm_delta_whole, _odd_ids(place, vocabulary))


class _Folder:
    """config.json and shards of one folder, checked against each other."""

    def __init__(self, path: Path, ignored: str) -> None:
        """
        Args:
            ignored: keys that match it all, and are no tensors of a LLaMA, are left out.
        """
        _refuse_meta(path)
        table = read_json(path / "config.json")
        self.path = path
        self.config = _read_config(path / "config.json", table)
        self.tied = bool(table.get("tie_word_embeddings", False))
        files, index = _find_shards(path)
        self.sources = [path / "config.json", *index, *files]
        self.stored: dict[str, _Stored] = {}
        self.last_norm = math.nan  # mean of the absolute values
        self._where: dict[str, Path] = {}
        for file in files:
            for key, tensor in open_state_dict(file).items():
                if key in self._where:
                    raise FileError(f"{file}: {key} is also in {self._where[key].name}; keep one set of shards")
                self.stored[key], self._where[key] = _Stored(tuple(tensor.shape), tensor.dtype), file
                if key == _LAST_NORM:
                    self.last_norm = tensor.float().abs().mean().item()
        surplus = self.stored.keys() - dict(tensor_shapes(self.config)).keys()
        self.ignored = tuple(key for key in surplus if _IGNORED.fullmatch(key) or re.fullmatch(ignored, key))
        self._check(path)
        self._open: tuple[Path, dict[str, torch.Tensor]] | None = None
        self._read_bytes = 0

    def named(self, name: str) -> torch.Tensor:
        key = _EMBEDDING if name == _HEAD and _HEAD not in self.stored else name
        path = self._where[key]
        # What was read of a mapped file counts as memory until the mapping is closed.
        if self._open is None or self._open[0] != path or self._read_bytes > MAPPED_BYTES:
            self._open, self._read_bytes = (path, open_state_dict(path)), 0
        tensor = self._open[1][key]
        self._read_bytes += tensor.nbytes
        return tensor

    def _check(self, path: Path) -> None:
        expected = dict(tensor_shapes(self.config))
        for key, shape in expected.items():
            if key not in self.stored:
                if key == _HEAD and self.tied:
                    continue
                raise FileError(f"{path}: no file has {key} {shape}; fetch the whole folder")
            found = self.stored[key]
            if found.shape != shape or found.dtype not in _STORED:
                raise FileError(
                    f"{self._where[key]}: {key} is {found.dtype} {tuple(found.shape)} and config.json asks for {shape} "
                    "in float32, float16 or bfloat16; fetch both again"
                )
        surplus = self.stored.keys() - expected.keys() - set(self.ignored)
        if surplus:
            key = min(surplus)
            shape = self.stored[key].shape
            raise FileError(
                f"{self._where[key]}: {key} {shape} is no tensor of a LLaMA; use the original weights, or an entry of "
                "your own (--models) with `ignored`, a regular expression, for this folder"
            )


def tensor_shapes(config: LlamaDimensions) -> Iterator[tuple[str, tuple[int, ...]]]:
    """HF names and shapes of all tensors, in the order of the computation."""
    for tensor in llama_tensors(config):
        yield hf_name(tensor), tensor.shape


def hf_name(tensor: LlamaTensor) -> str:
    """What a tensor is called in a folder."""
    block = "" if tensor.layer is None else f"model.layers.{tensor.layer}."
    return f"{block}{_HF_NAMES[tensor.name]}.weight"


def _open_folders(spec: ModelSpec, weights: Path) -> tuple[_Folder, _Folder | None]:
    """The whole model, or a delta and its base."""
    files = spec.files
    try:
        whole = find_file(weights, files.llm, files.vl)
    except MissingFileError:
        if files.llm_base is None or files.llm_delta is None:
            raise
    else:
        return _Folder(whole, files.llm.ignored), None
    delta, base = (_find_or_none(weights, file, files.vl) for file in (files.llm_delta, files.llm_base))
    if delta and base:
        return _Folder(delta, files.llm_delta.ignored), _Folder(base, files.llm_base.ignored)
    absent = [file for file, path in ((files.llm_delta, delta), (files.llm_base, base)) if path is None]
    lacking = " and no ".join(f"{file.name} (from {file.source})" if file.source else file.name for file in absent)
    raise MissingFileError(
        f"{weights}: there is no {files.llm.name}, and of {files.llm_delta.name} and {files.llm_base.name}, which make "
        f"it, there is no {lacking}; fetch the one or the other"
    )


def _find_or_none(weights: Path, file: WeightFile, vl: WeightFile) -> Path | None:
    try:
        return find_file(weights, file, vl)
    except MissingFileError:
        return None


def _check_dimensions(folder: _Folder, spec: ModelSpec) -> None:
    wanted = {"hidden_size": spec.llm.hidden_size, **(asdict(spec.llm.dimensions) if spec.llm.dimensions else {})}
    found = asdict(folder.config)
    for name, number in wanted.items():
        if found[name] != number:
            source = f" ({spec.files.llm.source})" if spec.files.llm.source else ""
            raise FileError(
                f"{folder.path / 'config.json'}: {name} is {found[name]} and that of {spec.name} is {number}; "
                f"use the weights that models.toml names{source}"
            )


def _refuse_meta(folder: Path) -> None:
    if (folder / "config.json").is_file():
        return
    for pattern in ("params.json", "consolidated.*.pth"):
        for found in folder.glob(pattern):
            raise FileError(
                f"{folder}: is in Meta's own format ({found.name}), not in that of Hugging Face; convert it with "
                "convert_llama_weights_to_hf.py of transformers"
            )


def _find_shards(folder: Path) -> tuple[list[Path], list[Path]]:
    """The shards of one format that are all there, and their index if there is one.

    A set of Git LFS pointers is taken where there is no other, and refused when it is read.
    """
    missing: list[Path] = []
    pointers: tuple[list[Path], list[Path]] | None = None
    for stem, suffix in _FORMATS:
        index = folder / f"{stem}{suffix}.index.json"
        if index.is_file():
            names = _indexed(index)
        elif (folder / f"{stem}{suffix}").is_file():
            names = [f"{stem}{suffix}"]
        else:
            names = _numbered(folder, stem, suffix)
        paths = [folder / name for name in names]
        absent = [path for path in paths if not path.is_file()]
        if paths and not absent:
            found = paths, [index] if index.is_file() else []
            if not any(map(is_lfs_pointer, paths)):
                return found
            pointers = pointers or found
        missing += absent
    if pointers:
        return pointers
    what = f"{missing[0]}: there is no such file" if missing else f"{folder}: no model*.safetensors, pytorch_model*.bin"
    raise MissingFileError(f"{what}; fetch the whole folder")


def _indexed(index: Path) -> list[str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise FileError(f"{index}: it has no weight_map of file names; fetch it again")
    return sorted(set(names.values()))


def _numbered(folder: Path, stem: str, suffix: str) -> list[str]:
    """All shards of the set of which at least one is there."""
    sets: dict[str, dict[int, re.Match[str]]] = {}
    for path in sorted(folder.glob(f"{stem}-*-of-*{suffix}")):
        if found := re.fullmatch(rf"{stem}-(\d+)-of-(\d+){re.escape(suffix)}", path.name):
            sets.setdefault(found[2], {})[int(found[1])] = found
    if not sets:
        return []
    total, shards = next(iter(sets.items()))
    digits = min(len(shard[1]) for shard in shards.values())  # some have no leading zeros
    return [
        shards[number][0] if number in shards else f"{stem}-{number:0{digits}}-of-{total}{suffix}"
        for number in range(1, int(total) + 1)
    ]


def _read_config(path: Path, table: dict[str, Any]) -> LlamaConfig:
    rope = table.get("rope_parameters") or {}
    try:
        heads = int(table["num_attention_heads"])
        config = LlamaConfig(
            vocab_size=int(table["vocab_size"]),
            hidden_size=int(table["hidden_size"]),
            intermediate_size=int(table["intermediate_size"]),
            num_layers=int(table["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(table.get("num_key_value_heads") or heads),
            rms_norm_eps=float(table["rms_norm_eps"]),
            rope_theta=float(table.get("rope_theta") or rope.get("rope_theta") or 10000.0),
            n_ctx_train=int(table.get("max_position_embeddings") or table.get("max_sequence_length") or 2048),
        )
        scaled = table.get("rope_scaling") or rope.get("rope_type", "default") != "default"
    except KeyError as error:
        raise FileError(f"{path}: it has no {error}; fetch it again") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise FileError(f"{path}: not the configuration of a LLaMA: {error}; fetch it again") from error
    fits = config.num_heads > 0 and config.num_kv_heads > 0 and not config.num_heads % config.num_kv_heads
    if not fits or config.hidden_size % (2 * config.num_heads):
        raise FileError(f"{path}: its numbers of heads do not fit hidden_size {config.hidden_size}; fetch it again")
    if table.get("model_type", "llama") != "llama" or table.get("hidden_act", "silu") != "silu" or scaled:
        raise FileError(f"{path}: not a plain LLaMA; use the weights that models.toml names")
    return config


def _odd_ids(folder: Path, vocabulary: Vocabulary) -> tuple[str, ...]:
    table = read_json(folder / "config.json")
    names = {"bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.eos}
    return tuple(
        f"config.json says {name} {table[name]}; {token} of tokenizer.model is used"
        for name, token in names.items()
        if table.get(name, token) != token
    )
