"""Published checkpoint files -> the weights of each graph; every key is used or named as ignored."""

from __future__ import annotations

import glob
import os
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vllama.runtime.errors import FileError, MissingFileError, SpecError
from vllama.runtime.files import check_permission
from vllama.runtime.spec import ModelSpec, WeightFile
from vllama.runtime.types import Float32

from .eva_vit import resize_positions
from .graphs import Graph, GraphName, empty_graph, graph_names
from .request import check_folder

MAPPED_BYTES = 1 << 29  # that may be read of a mapped file before it is opened anew
_DEPTH = 3  # folders below --weights in which a file is looked for
_LFS_POINTER = b"version https://git-lfs"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# What torch's unpickler and the safetensors reader raise on cut or changed bytes.
_DAMAGE = (
    SafetensorError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
    struct.error,
)  # fmt: skip
_POSITIONS = {"video": "video_frame_position_embedding.weight", "audio": "audio_position_embedding.weight"}

# Keys that are in the published files and that inference does not need, with the reason.
_IGNORED = {
    "encoder": r"norm\..*|head\..*",  # what follows the last block
    "qformer": (
        r"Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..*"  # the text branch
        r"|Qformer\.bert\.embeddings\.(word_embeddings|position_embeddings)\.weight|Qformer\.cls\..*"
        r"|Qformer\.bert\.embeddings\.position_ids|t5_proj\..*|opt_proj\..*|vision_proj\..*|text_proj\..*|itm_head\..*"
        r"|temp|visual_encoder\..*"
    ),
    "imagebind": r"modality_\w+\.(vision|text|depth|thermal|imu)\..*",  # the other senses
    # What a saver that drops frozen parameters still writes: buffers of the training model, and the frozen parts
    # themselves where nothing was frozen; the encoder and LLM files of their own count.
    "branch": (
        r".*\.position_ids|.*\.inv_freq|.*\.log_logit_scale|.*\.text\.mask"
        r"|(Qformer|ln_vision|visual_encoder|llama_model|audio_encoder)\..*|query_tokens"
    ),
}
# The other branch, which upstream's saver writes too when both were trained at once; never without its own.
_OTHER_BRANCH = {
    "video": r"audio_Qformer\..*|audio_query_tokens|audio_position_embedding\..*|audio_llama_proj\..*",
    "audio": r"video_Qformer\..*|video_query_tokens|video_frame_position_embedding\..*|llama_proj\..*",
}
_LOOKS_LIKE = (
    ("visual_encoder.patch_embed.proj.weight", "a whole training checkpoint"),
    ("patch_embed.proj.weight", "an EVA vision encoder"),
    ("t5_proj.weight", "a BLIP-2 Q-Former file"),
    ("modality_trunks.audio.blocks.0.norm_1.weight", "an ImageBind file"),
    ("video_query_tokens", "a VL branch"),
    ("audio_query_tokens", "an AL branch"),
    ("model.embed_tokens.weight", "a LLaMA shard"),
    ("query_tokens", "a Q-Former file"),
    ("llama_proj.weight", "a MiniGPT-4 projection"),
)


@dataclass(frozen=True)
class Part:
    """One graph's weights by its module's own keys, as stored; positions: its position table, if it has one."""

    name: GraphName
    state: dict[str, Tensor] = field(repr=False)
    sources: tuple[Path, ...]
    positions: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class _Source:
    """What of one file goes into a graph: the file's keys are the graph's behind `prefix`."""

    path: Path
    prefix: str
    takes: Callable[[str], bool]
    ignored: tuple[str, ...]
    depth: int | None = None  # blocks from this one on are ignored too


def find_file(weights: Path, file: WeightFile, vl: WeightFile | None = None) -> Path:
    """The file or folder of that name in `weights`, or up to three folders below; of several, the one beside `vl`.

    Args:
        vl: the file that tells the variants of a model apart.

    Raises:
        MissingFileError: it is not there, or `weights` is no folder.
        FileError: the system does not let a folder be looked into.
        SpecError: it is there twice.
    """
    check_folder(weights)
    found = _find(weights, file.name)
    if not found:
        where = f"; it comes from {file.source}" if file.source else ""
        raise MissingFileError(f"{file.name}: not in {weights} nor {_DEPTH} folders below{where}")
    if len(found) > 1:
        folders = [path.parent for path in _find(weights, vl.name)] if vl else []
        beside = [path for path in found if [path.parent] == folders]
        if not beside:
            raise SpecError(
                f"{file.name}: there are two, {found[0]} and {found[1]}; keep one, or give one of their folders "
                "as --weights"
            )
        found = beside
    check_permission(found[0])
    return found[0]


def open_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of one checkpoint file, memory-mapped where its format allows; the one under "model" if there is.

    Raises:
        MissingFileError: it is not there.
        FileError: it is no checkpoint, is cut, or holds other objects than tensors.
    """
    if not os.path.isfile(path):
        what = "a folder, not a file" if os.path.isdir(path) else "no such file"
        raise MissingFileError(f"{path}: {what}; fetch it again")
    try:
        refuse_text(path)
        loaded = load_file(path) if path.suffix == ".safetensors" else _torch_load(path)
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{path}: holds objects that are not tensors, or is damaged; fetch the original again"
        ) from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:100]
        raise FileError(f"{path}: cut or damaged ({reason}); fetch it again") from error
    state = loaded.get("model", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise FileError(f"{path}: holds no named tensors; fetch the original again")
    return {key: value.detach() for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}


def refuse_text(path: Path) -> None:
    """Refuse what is often found in place of a file.

    Raises:
        FileError: it is empty, a Git LFS pointer or a web page.
        OSError: it cannot be read.
    """
    start = _start(path)
    if not start:
        raise FileError(f"{path}: is empty; fetch it again")
    if start.startswith(_LFS_POINTER):
        raise FileError(f"{path}: is a Git LFS pointer, not the file; run `git lfs pull` there")
    if start.lstrip().startswith(b"<"):
        raise FileError(f"{path}: is a web page in place of the file; fetch the file itself")


def is_lfs_pointer(path: Path) -> bool:
    """Whether it stands for a file that was not fetched; what cannot be read is none, and whoever reads it says so."""
    try:
        return _start(path).startswith(_LFS_POINTER)
    except OSError:
        return False


def read_parts(spec: ModelSpec, weights: Path) -> list[Part]:
    """Open and check every encoder file of a model.

    Raises:
        MissingFileError: a file is not there.
        FileError: a key is missing, of another shape or unknown; named with its file.
    """
    return [read_part(name, spec, weights) for name in graph_names(spec)]


def read_part(name: GraphName, spec: ModelSpec, weights: Path) -> Part:
    """Open and check the files of one graph; they are mapped as long as its tensors are held.

    Raises: as `read_parts` does.
    """
    expected = {key: tuple(tensor.shape) for key, tensor in empty_graph(name, spec).state_dict().items()}
    state: dict[str, Tensor] = {}
    positions = None
    sources = _sources(name, spec, weights)
    for source in sources:
        found = open_state_dict(source.path)
        wanted = {key.removeprefix(source.prefix): shape for key, shape in expected.items() if source.takes(key)}
        if name in _POSITIONS:
            wanted[_POSITIONS[name]] = _position_shape(name, spec)
        fitting = _fitting(source, found, wanted, spec)
        if name in _POSITIONS:
            positions = fitting.pop(_POSITIONS[name])
        state.update({source.prefix + key: tensor for key, tensor in fitting.items()})
    return Part(name, state, tuple(source.path for source in sources), positions)


class Reader:
    """Reads the tensors of one graph by key, as stored.

    What was read of a mapped file counts as memory until the mapping is closed, so it is opened anew now and then.
    """

    def __init__(self, name: GraphName, spec: ModelSpec, weights: Path, read: Callable[[int], None]) -> None:
        """
        Args:
            read: told the bytes of each tensor.
        """
        self._open = partial(read_part, name, spec, weights)
        self._state = self._open().state
        self._mapped_bytes = 0
        self._read = read

    def __call__(self, key: str) -> Tensor:
        """One tensor."""
        if self._mapped_bytes > MAPPED_BYTES:
            self._state, self._mapped_bytes = self._open().state, 0
        tensor = self._state[key]
        self._mapped_bytes += tensor.nbytes
        self._read(tensor.nbytes)
        return tensor

    def close(self) -> None:
        """Close the mapping, whoever still holds the reader."""
        self._state = {}


def build_graph(part: Part, spec: ModelSpec) -> Graph:
    """The torch module of a part with its weights in float32; what is stored so is not copied."""
    graph = empty_graph(part.name, spec)
    graph.load_state_dict({key: tensor.float() for key, tensor in part.state.items()}, assign=True)
    return graph


def position_tables(parts: Iterable[Part]) -> dict[str, Float32]:
    """`video` (max_frames, hidden_size) and, where there is sound, `audio` (max_clips, output_size)."""
    return {part.name: part.positions.float().numpy() for part in parts if part.positions is not None}


def _find(weights: Path, name: str) -> list[Path]:
    """Everything of that name, in order; a hub's cache has links to one file in several folders, and `hf download` and
    git keep what is not the file itself in hidden ones."""
    files: dict[str, Path] = {}
    for depth in range(_DEPTH + 1):
        for path in sorted(weights.glob("[!.]*/" * depth + glob.escape(name))):
            files.setdefault(os.path.realpath(path), path)
    return list(files.values())


def _sources(name: GraphName, spec: ModelSpec, weights: Path) -> list[_Source]:
    def vit(key: str) -> bool:
        return key.startswith("visual_encoder.")

    def source(
        file: WeightFile,
        *ignored: str,
        prefix: str = "",
        takes: Callable[[str], bool] = lambda key: True,
        depth: int | None = None,
    ) -> _Source:
        return _Source(find_file(weights, file, spec.files.vl), prefix, takes, (*ignored, file.ignored), depth)

    if name == "frames":
        files, depth = spec.video.files, spec.video.encoder.depth
        return [
            source(files.encoder, _IGNORED["encoder"], prefix="visual_encoder.", takes=vit, depth=depth),
            source(files.qformer, _IGNORED["qformer"], takes=lambda key: not vit(key)),
        ]
    if name == "video":
        return [source(spec.files.vl, _IGNORED["branch"], _OTHER_BRANCH["video"])]
    assert spec.audio is not None
    assert spec.files.al is not None
    if name == "clips":
        return [source(spec.audio.files.encoder, _IGNORED["imagebind"])]
    return [source(spec.files.al, _IGNORED["branch"], _OTHER_BRANCH["audio"])]


def _position_shape(name: GraphName, spec: ModelSpec) -> tuple[int, int]:
    if name == "video":
        return spec.video.video_qformer.max_frames, spec.video.qformer.hidden_size
    assert spec.audio is not None
    return spec.audio.audio_qformer.max_clips, spec.audio.encoder.output_size


def _fitting(
    source: _Source, found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], spec: ModelSpec
) -> dict[str, Tensor]:
    missing = wanted.keys() - found.keys()
    if missing:
        kind = next((kind for key, kind in _LOOKS_LIKE if key in found), "another file")
        raise FileError(
            f"{source.path}: has no {min(missing)} {wanted[min(missing)]} "
            f"({len(missing)} of {len(wanted)} keys missing); it looks like {kind}, "
            f"fetch the file that models.toml names for {spec.name}"
        )
    surplus = [key for key in found.keys() - wanted.keys() if not _is_ignored(key, source)]
    if surplus:
        raise FileError(
            f"{source.path}: {min(surplus)} {tuple(found[min(surplus)].shape)} is not known "
            f"({len(surplus)} such keys); {spec.name} needs the original file, or an entry of your own (--models) "
            "with `ignored`, a regular expression, for this file"
        )
    fitting = {}
    for key, shape in wanted.items():
        tensor = found[key]
        if key == "pos_embed" and tensor.ndim == 3 and _is_square(tensor.shape[1] - 1):
            tensor = resize_positions(tensor, shape[1] - 1)
        if tuple(tensor.shape) != shape or tensor.dtype not in _FLOATS:
            hint = " (a 7B file for a 13B model, or the other way round?)" if key.endswith("llama_proj.weight") else ""
            raise FileError(
                f"{source.path}: {key} is {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}, "
                f"{spec.name} needs float {shape}{hint}; fetch the file that models.toml names"
            )
        fitting[key] = tensor
    return fitting


def _is_ignored(key: str, source: _Source) -> bool:
    block = re.match(r"blocks\.(\d+)\.", key)
    if block and source.depth is not None and int(block[1]) >= source.depth:
        return True
    return any(re.fullmatch(pattern, key) for pattern in source.ignored)


def _is_square(count: int) -> bool:
    return count > 0 and round(count**0.5) ** 2 == count


def _torch_load(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)  # only the zip format can be mapped


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(200)
