from __future__ import annotations

import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import needs_links
from vllama.export.checkpoint import Part, Reader, build_graph, find_file, open_state_dict, position_tables, read_parts
from vllama.export.eva_vit import resize_positions
from vllama.export.graphs import graph_names
from vllama.export.llama import open_llama
from vllama.runtime.errors import FileError, MissingFileError, SpecError
from vllama.runtime.registry import read_specs
from vllama.runtime.spec import ModelSpec, WeightFile

PUBLISHED = sorted(name for name in read_specs() if name != "miniature")
Edit = Callable[[dict[str, Tensor]], object]


@pytest.fixture(scope="module")
def published(reference: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with the files of an entry of models.toml: all keys of the lists, at full size, each of one number."""
    lists = {
        kind: json.loads((reference / "manifests" / f"keys_{kind}.json").read_text("utf-8"))
        for kind in ("used", "ignored")
    }

    def tensors(name: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for table in lists.values():
            for key, (shape, dtype) in table[name].get("model", table[name]).items():
                sizes = [size if isinstance(size, int) else 1000 for size in shape]
                number = float(key.endswith("norm.weight"))
                found[key] = torch.tensor(number, dtype=getattr(torch, dtype.split()[0])).expand(sizes)
        return found

    def write(spec: ModelSpec) -> Path:
        folder = tmp_path_factory.mktemp("published")
        size = {4096: "7b", 5120: "13b"}[spec.llm.hidden_size]
        extras = dict.fromkeys(lists["ignored"][f"VL_{size}.pth"]["top_level_besides_model"], 0)
        torch.save(tensors("eva_vit_g.pth"), folder / spec.video.files.encoder.name)
        torch.save({"model": tensors("blip2_pretrained_flant5xxl.pth")}, folder / spec.video.files.qformer.name)
        torch.save({"model": tensors(f"VL_{size}.pth"), **extras}, folder / spec.files.vl.name)
        if spec.audio:
            assert spec.files.al is not None
            torch.save(tensors("imagebind_huge.pth"), folder / spec.audio.files.encoder.name)
            torch.save({"model": tensors(f"AL_{size}.pth"), **extras}, folder / spec.files.al.name)
        llama = "llama2" if "llama-2" in spec.name else "vicuna"
        keys = tensors(f"llama_dir_{llama}_{size}_{'chat' if llama == 'llama2' else 'v0'}")
        if spec.llm.dimensions:
            for key in ("model.embed_tokens.weight", "lm_head.weight"):
                keys[key] = keys[key][:1].expand(spec.llm.dimensions.vocab_size, -1)
        _llama_folder(folder / spec.files.llm.name, keys, tiny_weights / "llama")
        return folder

    return write


def _llama_folder(folder: Path, keys: dict[str, Tensor], tiny: Path) -> None:
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes((tiny / "tokenizer.model").read_bytes())
    rows, hidden = keys["model.embed_tokens.weight"].shape
    layers = sum(key.endswith("q_proj.weight") for key in keys)
    config = {
        "vocab_size": rows, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": hidden // 128,
        "intermediate_size": len(keys["model.layers.0.mlp.gate_proj.weight"]), "rms_norm_eps": 1e-6,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    for shard in range(2):
        part = {key: tensor for number, (key, tensor) in enumerate(keys.items()) if number % 2 == shard}
        torch.save(part, folder / f"pytorch_model-{shard + 1:05}-of-00002.bin")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_of_every_entry_fit_it(name: str, published: Callable[..., Path]) -> None:
    spec = read_specs()[name]
    weights = published(spec)
    parts = {part.name: part for part in read_parts(spec, weights)}
    assert list(parts) == graph_names(spec)
    assert parts["frames"].state["visual_encoder.blocks.38.attn.qkv.weight"].dtype == torch.float16
    assert {name: table.shape for name, table in position_tables(parts.values()).items()} == {
        "video": (32, 768),
        **({"audio": (8, 1024)} if spec.audio else {}),
    }
    llama = open_llama(spec, weights)
    assert llama.ignored
    assert {path for part in parts.values() for path in part.sources} | set(llama.sources) == {
        path for path in weights.rglob("*") if path.is_file()
    }


def test_branch_of_the_other_size_is_refused_with_both_shapes(published: Callable[..., Path]) -> None:
    specs = read_specs()
    weights = published(specs["video-llama-2-13b-chat"])
    spec = specs["video-llama-2-7b-chat"]
    for old, new in (("VL_LLaMA_2_13B", "VL_LLaMA_2_7B"), ("AL_LLaMA_2_13B", "AL_LLaMA_2_7B")):
        (weights / f"{old}_Finetuned.pth").rename(weights / f"{new}_Finetuned.pth")
    with pytest.raises(FileError, match=r"VL_LLaMA_2_7B.*llama_proj\.\w+ is .*5120.*needs float \(4096.*13B"):
        read_parts(spec, weights)
    (weights / "llama-2-13b-chat-hf").rename(weights / "llama-2-7b-chat-hf")
    with pytest.raises(FileError, match="hidden_size is 5120 and that of video-llama-2-7b-chat is 4096"):
        open_llama(spec, weights)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_float_type_and_both_pickle_formats_are_read(
    dtype: torch.dtype, zipped: bool, other_spec: ModelSpec, write_weights: Callable[..., Path]
) -> None:
    wide = {part.name: part for part in read_parts(other_spec, write_weights(other_spec))}
    for part in read_parts(other_spec, write_weights(other_spec, dtype, zipped=zipped)):
        for key, tensor in build_graph(part, other_spec).state_dict().items():
            assert tensor.dtype == torch.float32
            torch.testing.assert_close(tensor, wide[part.name].state[key].to(dtype).float(), rtol=0, atol=0, msg=key)


def test_file_with_both_branches_serves_both(other_spec: ModelSpec, write_weights: Callable[..., Path]) -> None:
    weights = write_weights(other_spec)
    assert other_spec.files.al is not None
    vl, al = weights / other_spec.files.vl.name, weights / other_spec.files.al.name
    # Copied: a file that is mapped cannot be removed on Windows.
    both = {key: tensor.clone() for path in (vl, al) for key, tensor in open_state_dict(path).items()}
    before = {part.name: set(part.state) for part in read_parts(other_spec, weights)}
    for path in (vl, al):
        path.unlink()
        torch.save({"model": both}, path)
    for part in read_parts(other_spec, weights):
        assert set(part.state) == before[part.name]


def test_model_without_sound_needs_no_sound_files(other_spec: ModelSpec, write_weights: Callable[..., Path]) -> None:
    deaf = replace(other_spec, audio=None, files=replace(other_spec.files, al=None))
    weights = write_weights(deaf)
    assert len(list(weights.iterdir())) == 3
    parts = read_parts(deaf, weights)
    assert [part.name for part in parts] == ["frames", "video"]
    assert position_tables(parts).keys() == {"video"}


ROLES = ["encoder", "qformer", "vl", "imagebind", "al"]
SAMPLE = {
    "encoder": "blocks.1.attn.q_bias",
    "qformer": "ln_vision.weight",
    "vl": "video_frame_position_embedding.weight",
    "imagebind": "modality_trunks.audio.blocks.0.attn.bias_k",
    "al": "audio_llama_proj.weight",
}


def _path(role: str, spec: ModelSpec, weights: Path) -> Path:
    assert spec.audio is not None
    assert spec.files.al is not None
    names = {
        "encoder": spec.video.files.encoder, "qformer": spec.video.files.qformer, "vl": spec.files.vl,
        "imagebind": spec.audio.files.encoder, "al": spec.files.al,
    }  # fmt: skip
    return weights / names[role].name


def _edited(path: Path, change: Edit) -> None:
    loaded: Any = torch.load(path, weights_only=True)
    change(loaded.get("model", loaded))
    torch.save(loaded, path)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("fault", ["missing", "misshapen", "integer", "surplus"])
def test_wrong_key_is_named_with_file_and_shapes(
    role: str, fault: str, other_spec: ModelSpec, write_weights: Callable[..., Path]
) -> None:
    weights = write_weights(other_spec)
    path, key = _path(role, other_spec, weights), SAMPLE[role]
    shape = tuple(open_state_dict(path)[key].shape)
    taller = (shape[0] + 1, *shape[1:])
    changes: dict[str, tuple[Edit, list[str]]] = {
        "missing": (
            lambda state: state.pop(key),
            [f"has no {key} {shape}", f"models.toml names for {other_spec.name}"],
        ),
        "misshapen": (lambda state: state.update({key: torch.zeros(taller)}), [key, str(taller), f"float {shape}"]),
        "integer": (lambda state: state.update({key: state[key].int()}), [f"{key} is int32 {shape}"]),
        "surplus": (
            lambda state: state.update({"strange.weight": torch.ones(3, 2)}),
            ["strange.weight (3, 2)", "an entry of your own (--models) with `ignored`"],
        ),
    }
    change, told = changes[fault]
    _edited(path, change)
    with pytest.raises(FileError) as caught:
        read_parts(other_spec, weights)
    message = str(caught.value)
    for words in (str(path), *told):
        assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("role", ROLES)
def test_unknown_keys_that_an_entry_ignores_are_left_out(
    role: str, other_spec: ModelSpec, write_weights: Callable[..., Path]
) -> None:
    weights = write_weights(other_spec)
    before = {part.name: set(part.state) for part in read_parts(other_spec, weights)}
    path = _path(role, other_spec, weights)
    ignoring = _ignoring(path.name, r"lora\..*", other_spec)
    _edited(path, lambda state: state.update({"lora.a": torch.ones(3), "lora.b": torch.ones(3)}))
    assert {part.name: set(part.state) for part in read_parts(ignoring, weights)} == before
    _edited(path, lambda state: state.update({"my.lora.a": torch.ones(3)}))
    with pytest.raises(FileError, match=r"my\.lora\.a \(3,\) is not known \(1 such keys\)"):
        read_parts(ignoring, weights)
    _edited(path, lambda state: (state.pop("my.lora.a"), state.pop(SAMPLE[role])))
    with pytest.raises(FileError, match=f"has no {SAMPLE[role]}"):
        read_parts(_ignoring(path.name, ".*", other_spec), weights)


def _ignoring(name: str, ignored: str, spec: ModelSpec) -> ModelSpec:
    """The spec with that expression for one of its files."""

    def changed(value: Any) -> Any:
        if isinstance(value, WeightFile):
            return replace(value, ignored=ignored) if value.name == name else value
        return replace(value, **{key: changed(each) for key, each in vars(value).items() if each is not None})

    assert spec.audio is not None
    return replace(
        spec,
        files=replace(spec.files, vl=changed(spec.files.vl), al=changed(spec.files.al)),
        video=replace(spec.video, files=changed(spec.video.files)),
        audio=replace(spec.audio, files=changed(spec.audio.files)),
    )


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("vl", "al", "an AL branch"),
        ("encoder", "qformer", "a Q-Former file"),
        ("qformer", "encoder", "an EVA vision encoder"),
        ("imagebind", "vl", "a VL branch"),
        ("al", "imagebind", "an ImageBind file"),
    ],
)
def test_swapped_file_is_said_to_look_like_the_other(
    one: str, other: str, kind: str, other_spec: ModelSpec, write_weights: Callable[..., Path]
) -> None:
    weights = write_weights(other_spec)
    path = _path(one, other_spec, weights)
    path.write_bytes(_path(other, other_spec, weights).read_bytes())
    with pytest.raises(FileError, match=rf"{path.name}: has no .*looks like {kind}"):
        read_parts(other_spec, weights)


def test_blocks_after_the_last_used_one_are_ignored_and_those_before_are_needed(
    other_spec: ModelSpec, write_weights: Callable[..., Path]
) -> None:
    weights = write_weights(other_spec)
    path = _path("encoder", other_spec, weights)
    _edited(path, lambda state: state.update({"blocks.2.attn.q_bias": torch.zeros(45), "norm.weight": torch.ones(45)}))
    read_parts(other_spec, weights)
    _edited(path, lambda state: state.update({"blocks.1.attn.k_bias": torch.zeros(45)}))
    with pytest.raises(FileError, match=r"blocks\.1\.attn\.k_bias \(45,\) is not known"):
        read_parts(other_spec, weights)


def test_positions_of_another_grid_are_resized_and_others_refused(
    other_spec: ModelSpec, write_weights: Callable[..., Path]
) -> None:
    weights = write_weights(other_spec)
    path = _path("encoder", other_spec, weights)
    table = torch.randn(1, 26, 45).half()
    _edited(path, lambda state: state.update(pos_embed=table))
    found = read_parts(other_spec, weights)[0].state["visual_encoder.pos_embed"]
    torch.testing.assert_close(found, resize_positions(table, 9), rtol=0, atol=0)
    assert torch.equal(found[:, 0], table[:, 0].float())
    for shape in ((1, 27, 45), (1, 26, 46)):
        _edited(path, methodcaller("update", pos_embed=torch.zeros(shape)))
        with pytest.raises(FileError, match=r"pos_embed is float32 \(1, .*needs float \(1, 10, 45\)"):
            read_parts(other_spec, weights)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        (b"\n <!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"PK\x03\x04 not a zip after all", "damaged"),
        (b"just some text\n" * 9, "damaged"),
        (b"\x80\x02}q\x00(X\x05\x00\x00\x00", "damaged"),
    ],
    ids=["empty", "lfs", "html", "zip", "text", "cut pickle"],
)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
def test_file_that_is_no_checkpoint_is_refused_by_name(
    content: bytes, reason: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"weights{suffix}: .*{reason}") as caught:
        open_state_dict(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_cut_file_is_refused_wherever_it_was_cut(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pth'}"
    tensors = {f"layer.{number}.weight": torch.randn(3, 4) for number in range(3)}
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save({"model": tensors}, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match="weights"):
            open_state_dict(path)


def test_pickle_with_other_objects_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {"a": torch.zeros(2)}, "args": Namespace(lr=1)}, path)
    with pytest.raises(FileError, match=r"weights\.pth: holds objects that are not tensors"):
        open_state_dict(path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"epoch": 3}, {"state_dict": {"a": torch.zeros(1)}}, {}])
def test_pickle_without_named_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(FileError, match="holds no named tensors"):
        open_state_dict(tmp_path / "weights.pth")


def test_parameters_are_read_like_tensors(tmp_path: Path) -> None:
    torch.save({"a": torch.nn.Parameter(torch.ones(2)), 3: torch.zeros(1), "epoch": 3}, tmp_path / "weights.pth")
    (tensor,) = open_state_dict(tmp_path / "weights.pth").values()
    assert tensor.numpy().tolist() == [1, 1]


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_opening_a_large_file_maps_it(name: str, tmp_path: Path) -> None:
    tensors = {f"layer.{number}.weight": torch.zeros(25 << 18) for number in range(4)}  # 4 x 25 MiB
    save_file(tensors, tmp_path / name) if name.endswith("safetensors") else torch.save(tensors, tmp_path / name)
    code = """
import sys
from pathlib import Path
from vllama.export.checkpoint import open_state_dict

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

before = resident()
state = open_state_dict(Path(sys.argv[1]))
print(len(state), resident() - before)
"""
    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / name], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 4
    assert grown < 20 << 20, f"{grown:,} bytes became resident"


def test_files_are_found_in_subfolders_and_refused_when_twice_there(tmp_path: Path) -> None:
    name = WeightFile("VL[v2].pth", "https://example.org")
    with pytest.raises(MissingFileError, match=r"VL\[v2\]\.pth: not in .*comes from https://example\.org"):
        find_file(tmp_path, name)
    with pytest.raises(MissingFileError, match="not a folder"):
        find_file(tmp_path / "none", name)
    deep = tmp_path / "models--x" / "snapshots" / "1f" / name.name
    deep.parent.mkdir(parents=True)
    deep.touch()
    assert find_file(tmp_path, name) == deep
    (tmp_path / name.name).touch()
    with pytest.raises(
        SpecError, match=r"there are two, .*keep one, or give one of their folders as --weights"
    ) as told:
        find_file(tmp_path, name)
    assert str(deep) in str(told.value)
    assert str(tmp_path / name.name) in str(told.value)


def test_what_a_download_keeps_for_itself_is_no_file_of_the_model(
    vicuna_spec: ModelSpec, tiny_weights: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copytree(tiny_weights, tmp_path / "weights"))
    for file in tiny_weights.rglob("*"):
        kept = weights / ".cache" / "huggingface" / "download" / file.relative_to(tiny_weights)
        if file.is_dir():
            kept.mkdir(parents=True)
        else:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.with_name(f"{kept.name}.metadata").write_text("the commit, the tag and the time")
    (weights / ".git").mkdir()
    (weights / ".git" / vicuna_spec.files.vl.name).touch()
    sources = {path for part in read_parts(vicuna_spec, weights) for path in part.sources}
    sources |= set(open_llama(vicuna_spec, weights).sources)
    assert {path.parent for path in sources} == {weights, weights / "llama"}


def test_weights_below_a_hidden_folder_are_found(tmp_path: Path) -> None:
    path = tmp_path / ".cache" / "hub" / "models--x" / "snapshots" / "1f" / "VL.pth"
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_file(tmp_path / ".cache" / "hub", WeightFile("VL.pth")) == path


@needs_links
def test_links_to_one_file_are_one_file(tmp_path: Path) -> None:
    blob = tmp_path / "models--x" / "blobs" / "9c"
    blob.parent.mkdir(parents=True)
    blob.touch()
    for snapshot in ("1f", "2e"):
        folder = tmp_path / "models--x" / "snapshots" / snapshot
        (folder / "llama").mkdir(parents=True)
        (folder / "VL.pth").symlink_to(blob)
    vl = WeightFile("VL.pth")
    assert find_file(tmp_path, vl, vl) == tmp_path / "models--x" / "snapshots" / "1f" / "VL.pth"
    assert find_file(tmp_path, WeightFile("llama"), vl) == tmp_path / "models--x" / "snapshots" / "1f" / "llama"


def test_of_two_variants_side_by_side_each_has_its_own_files(
    vicuna_spec: ModelSpec, tiny_weights: Path, tmp_path: Path
) -> None:
    shared = {vicuna_spec.video.files.encoder.name, vicuna_spec.video.files.qformer.name}
    specs = {
        name: replace(vicuna_spec, files=replace(vicuna_spec.files, vl=WeightFile(f"VL_{name}.pth")))
        for name in ("Finetuned", "Pretrained")
    }
    for name, spec in specs.items():
        folder = Path(shutil.copytree(tiny_weights, tmp_path / f"7B-{name}", ignore=shutil.ignore_patterns(*shared)))
        shutil.move(folder / vicuna_spec.files.vl.name, folder / spec.files.vl.name)
    for file in shared:
        shutil.copyfile(tiny_weights / file, tmp_path / file)
    for name, spec in specs.items():
        sources = {path for part in read_parts(spec, tmp_path) for path in part.sources if path.name not in shared}
        sources |= set(open_llama(spec, tmp_path).sources)
        assert {path.parent for path in sources} == {tmp_path / f"7B-{name}", tmp_path / f"7B-{name}" / "llama"}
    (tmp_path / "7B-Pretrained" / "VL_Finetuned.pth").touch()
    with pytest.raises(SpecError, match=r"llama: there are two, .*7B-Finetuned.*7B-Pretrained.*keep one, or give"):
        open_llama(specs["Finetuned"], tmp_path)


def test_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="a folder, not a file"):
        open_state_dict(tmp_path)
    with pytest.raises(MissingFileError, match="no such file"):
        open_state_dict(tmp_path / "none.pth")


def test_recorded_checkpoints_keep_their_values(vicuna_spec: ModelSpec, tiny_weights: Path) -> None:
    parts = {part.name: part for part in read_parts(vicuna_spec, tiny_weights)}
    encoder = torch.load(tiny_weights / vicuna_spec.video.files.encoder.name, weights_only=True)
    key = "blocks.0.attn.qkv.weight"
    assert torch.equal(parts["frames"].state[f"visual_encoder.{key}"], encoder[key])
    shards = load_file(tiny_weights / vicuna_spec.files.llm.name / "model.safetensors")
    assert not shards.keys() & {key for part in parts.values() for key in part.state}


def test_reader_gives_the_tensors_of_the_part_and_closes_what_it_mapped(
    other_spec: ModelSpec, other_parts: dict[str, Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllama.export.checkpoint.MAPPED_BYTES", 4096)
    state, sizes = other_parts["frames"].state, list[int]()
    reader = Reader("frames", other_spec, other_parts["frames"].sources[0].parent, sizes.append)
    mappings = [reader._state]
    for key, tensor in state.items():
        assert torch.equal(reader(key), tensor), key
        mappings.append(reader._state)
    assert sum(sizes) == sum(tensor.nbytes for tensor in state.values())
    assert len({id(each) for each in mappings}) > 2
