from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor

from tests.conftest import read_tensors
from vllama.export.llama import LlamaFolder, open_llama
from vllama.export.vocabulary import CONTROL, UNUSED
from vllama.runtime.errors import FileError, MissingFileError, SpecError
from vllama.runtime.registry import find_spec
from vllama.runtime.spec import LlmDimensions, ModelSpec, WeightFile

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"


@pytest.fixture
def folder(vicuna_spec: ModelSpec, tiny_weights: Path, tmp_path: Path) -> Path:
    """A copy of the tiny language model; its parent is the weights folder."""
    return copied(tiny_weights / vicuna_spec.files.llm.name, tmp_path / vicuna_spec.files.llm.name)


@pytest.fixture
def delta(folder: Path) -> Path:
    """The tiny model as a base, a delta in float16 with [PAD] beside it, and no merged folder."""
    base, delta = folder.with_name("base"), copied(folder, folder.with_name("delta"))
    folder.rename(base)
    tensors = read_tensors(base)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], torch.full_like(tensors[name][:1], 7)])
    save_file({name: (tensor / 3).half() for name, tensor in tensors.items()}, delta / "model.safetensors")
    rows = len(tensors["lm_head.weight"])
    edit(delta / "config.json", lambda table: table.update(vocab_size=rows))
    (delta / "added_tokens.json").write_text(json.dumps({"[PAD]": rows - 1}), "utf-8")
    return delta


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
    return target


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(path.read_text("utf-8"))
    change(table)
    path.write_text(json.dumps(table), "utf-8")


def delta_spec(spec: ModelSpec) -> ModelSpec:
    return replace(
        spec, files=replace(spec.files, llm_base=WeightFile("base"), llm_delta=WeightFile("delta", "its.home"))
    )


def same_tensors(llama: LlamaFolder, tensors: dict[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        torch.testing.assert_close(llama.tensor(name), tensor, rtol=0, atol=0)


def test_the_tiny_folder_is_read_as_its_config_says(
    vicuna_spec: ModelSpec, tiny_weights: Path, tiny_config: dict[str, Any]
) -> None:
    llama = open_llama(vicuna_spec, tiny_weights)
    dims = tiny_config["llama"]
    config = llama.config
    assert (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_layers, config.num_heads) == (
        dims["vocab_size"],
        dims["hidden_size"],
        dims["intermediate_size"],
        dims["num_hidden_layers"],
        dims["num_attention_heads"],
    )
    assert (config.rms_norm_eps, config.rope_theta) == (dims["rms_norm_eps"], dims["rope_theta"])
    assert config.n_ctx_train == dims["max_position_embeddings"]
    assert (llama.dtype, llama.ignored, llama.notes) == ("F32", (), ())
    assert {path.name for path in llama.sources} >= {"config.json", "model.safetensors", "tokenizer.model"}
    same_tensors(llama, load_file(tiny_weights / vicuna_spec.files.llm.name / "model.safetensors"))


@pytest.mark.parametrize("index", [True, False], ids=["index", "no-index"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shards_are_read_with_and_without_an_index(
    folder: Path, vicuna_spec: ModelSpec, suffix: str, index: bool, dtype: torch.dtype
) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in read_tensors(folder).items()}
    (folder / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    places = {name: f"{stem}-{1 + number % 2:05}-of-00002.{suffix}" for number, name in enumerate(tensors)}
    for place in set(places.values()):
        part = {name: tensors[name] for name in tensors if places[name] == place}
        save_file(part, folder / place) if suffix == "safetensors" else torch.save(part, folder / place)
    if index:
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": places}), "utf-8")
    llama = open_llama(vicuna_spec, folder.parent)
    assert llama.dtype == {torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    assert {path.name for path in llama.sources} >= set(places.values())
    same_tensors(llama, tensors)


def test_the_format_that_is_complete_is_taken(folder: Path, vicuna_spec: ModelSpec) -> None:
    tensors = read_tensors(folder)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    torch.save(tensors, folder / "pytorch_model.bin")
    assert "pytorch_model.bin" in {path.name for path in open_llama(vicuna_spec, folder.parent).sources}


def test_shards_without_leading_zeros_are_a_set(folder: Path, vicuna_spec: ModelSpec) -> None:
    tensors = read_tensors(folder)
    (folder / "model.safetensors").unlink()
    for shard in range(11):
        part = {name: tensor for number, (name, tensor) in enumerate(tensors.items()) if number % 11 == shard}
        torch.save(part, folder / f"pytorch_model-{shard + 1}-of-11.bin")
    same_tensors(open_llama(vicuna_spec, folder.parent), tensors)
    (folder / "pytorch_model-3-of-11.bin").unlink()
    with pytest.raises(MissingFileError, match=r"pytorch_model-3-of-11\.bin: there is no such file"):
        open_llama(vicuna_spec, folder.parent)


def test_a_shard_that_lacks_is_named_as_the_others_are(folder: Path, vicuna_spec: ModelSpec) -> None:
    (folder / "model.safetensors").rename(folder / "model-00012-of-00012.safetensors")
    with pytest.raises(MissingFileError, match=r"model-00001-of-00012\.safetensors: there is no such file"):
        open_llama(vicuna_spec, folder.parent)


def test_pointers_are_no_set_where_there_is_another(folder: Path, vicuna_spec: ModelSpec) -> None:
    tensors = read_tensors(folder)
    (folder / "model.safetensors").unlink()
    for shard in (1, 2):
        (folder / f"model-{shard:05}-of-00002.safetensors").write_bytes(POINTER)
    with pytest.raises(FileError, match=r"model-00001-of-00002\.safetensors: is a Git LFS pointer"):
        open_llama(vicuna_spec, folder.parent)
    torch.save(tensors, folder / "pytorch_model.bin")
    same_tensors(open_llama(vicuna_spec, folder.parent), tensors)


def test_a_folder_without_weights_is_missing_them(folder: Path, vicuna_spec: ModelSpec) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"no model\*\.safetensors"):
        open_llama(vicuna_spec, folder.parent)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model"])
def test_a_folder_lacks_no_other_file(name: str, folder: Path, vicuna_spec: ModelSpec) -> None:
    (folder / name).unlink()
    with pytest.raises(MissingFileError, match=name):
        open_llama(vicuna_spec, folder.parent)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "added_tokens.json", "tokenizer_config.json"])
def test_a_spoilt_file_is_named(name: str, folder: Path, vicuna_spec: ModelSpec) -> None:
    (folder / name).write_bytes(b"\xff{[" * 9)
    with pytest.raises(FileError, match=name):
        open_llama(vicuna_spec, folder.parent)


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "config.json", "tokenizer.model"])
def test_a_pointer_in_place_of_a_small_file_is_told(name: str, folder: Path, vicuna_spec: ModelSpec) -> None:
    (folder / name).write_bytes(POINTER)
    with pytest.raises(FileError, match=rf"{name}: is a Git LFS pointer"):
        open_llama(vicuna_spec, folder.parent)


@pytest.mark.parametrize("name", ["params.json", "consolidated.00.pth"])
def test_metas_own_format_is_told(name: str, folder: Path, vicuna_spec: ModelSpec) -> None:
    (folder / "config.json").unlink()
    (folder / name).touch()
    with pytest.raises(FileError, match=rf"llama: is in Meta's own format \({name}\).*convert_llama_weights_to_hf\.py"):
        open_llama(vicuna_spec, folder.parent)


def test_unknown_tensors_that_an_entry_ignores_are_left_out(folder: Path, vicuna_spec: ModelSpec) -> None:
    tensors = read_tensors(folder)
    save_file({**tensors, "lora.a": torch.zeros(8)}, folder / "model.safetensors")
    with pytest.raises(FileError, match=r"lora\.a \(8,\) is no tensor of a LLaMA; .*\(--models\) with `ignored`"):
        open_llama(vicuna_spec, folder.parent)
    for ignored, names in ((r"lora\..*", ("lora.a",)), (".*", ("lora.a",))):
        llm = replace(vicuna_spec.files.llm, ignored=ignored)
        spec = replace(vicuna_spec, files=replace(vicuna_spec.files, llm=llm))
        assert open_llama(spec, folder.parent).ignored == names
    same_tensors(open_llama(spec, folder.parent), tensors)


def test_rotary_buffers_are_ignored_by_name(folder: Path, vicuna_spec: ModelSpec) -> None:
    tensors = read_tensors(folder)
    save_file({**tensors, INV_FREQ: torch.zeros(8)}, folder / "model.safetensors")
    assert open_llama(vicuna_spec, folder.parent).ignored == (INV_FREQ,)


def test_a_tied_head_is_the_embedding(folder: Path, vicuna_spec: ModelSpec) -> None:
    tensors = read_tensors(folder)
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    edit(folder / "config.json", lambda table: table.update(tie_word_embeddings=True))
    llama = open_llama(vicuna_spec, folder.parent)
    assert torch.equal(llama.tensor("lm_head.weight"), tensors["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_attention_heads": 5}, "heads do not fit"),
        ({"num_attention_heads": 0}, "heads do not fit"),
        ({"num_key_value_heads": 3}, "heads do not fit"),
        ({"intermediate_size": 32}, r"mlp\.gate_proj\.weight is"),
        ({"model_type": "mistral"}, "not a plain LLaMA"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "not a plain LLaMA"),
        ({"rms_norm_eps": "small"}, "not the configuration"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    change: dict[str, object], reason: str, folder: Path, vicuna_spec: ModelSpec
) -> None:
    edit(folder / "config.json", lambda table: table.update(change))
    with pytest.raises(FileError, match=reason):
        open_llama(vicuna_spec, folder.parent)


def test_weights_of_another_width_than_the_spec_are_refused(vicuna_spec: ModelSpec, tiny_weights: Path) -> None:
    wide = replace(vicuna_spec, llm=replace(vicuna_spec.llm, hidden_size=4096))
    with pytest.raises(FileError, match=rf"hidden_size is {vicuna_spec.llm.hidden_size} .* is 4096"):
        open_llama(wide, tiny_weights)


def test_a_missing_number_in_the_config_is_named(folder: Path, vicuna_spec: ModelSpec) -> None:
    edit(folder / "config.json", lambda table: table.pop("num_hidden_layers"))
    with pytest.raises(FileError, match="num_hidden_layers"):
        open_llama(vicuna_spec, folder.parent)


def test_a_delta_is_added_in_float16_and_keeps_its_own_rows(delta: Path, vicuna_spec: ModelSpec) -> None:
    llama = open_llama(delta_spec(vicuna_spec), delta.parent)
    base, added = (load_file(path / "model.safetensors") for path in (delta.with_name("base"), delta))
    assert llama.dtype == "F16"
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(llama.tensor(name), base[name].half() + added[name])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        whole = llama.tensor(name)
        assert torch.equal(whole[:-1], base[name].half() + added[name][:-1])
        assert torch.equal(whole[-1], added[name][-1])
    assert (llama.vocabulary.pieces[-1], llama.vocabulary.types[-1]) == ("[PAD]", CONTROL)
    assert llama.vocabulary.sources[0] == delta / "tokenizer.model"
    assert {path.parent.name for path in llama.sources} == {"base", "delta"}


def test_adding_a_delta_leaves_the_files_alone(delta: Path, vicuna_spec: ModelSpec) -> None:
    llama = open_llama(delta_spec(vicuna_spec), delta.parent)
    first = llama.tensor("model.norm.weight").clone()
    assert torch.equal(llama.tensor("model.norm.weight"), first)


def test_a_merged_folder_wins_over_a_delta(delta: Path, vicuna_spec: ModelSpec) -> None:
    copied(delta.with_name("base"), delta.with_name(vicuna_spec.files.llm.name))
    llama = open_llama(delta_spec(vicuna_spec), delta.parent)
    assert {path.parent.name for path in llama.sources} == {vicuna_spec.files.llm.name}


def test_a_delta_without_its_base_is_missing_it(delta: Path, vicuna_spec: ModelSpec) -> None:
    shutil.rmtree(delta.with_name("base"))
    with pytest.raises(MissingFileError, match=r"there is no llama, and of delta and base, .* there is no base; fetch"):
        open_llama(delta_spec(vicuna_spec), delta.parent)


def test_a_base_without_its_delta_is_missing_it_with_its_source(delta: Path, vicuna_spec: ModelSpec) -> None:
    shutil.rmtree(delta)
    with pytest.raises(MissingFileError, match=r"there is no delta \(from its\.home\); fetch"):
        open_llama(delta_spec(vicuna_spec), delta.parent)
    shutil.rmtree(delta.with_name("base"))
    with pytest.raises(MissingFileError, match=r"there is no delta \(from its\.home\) and no base; fetch"):
        open_llama(delta_spec(vicuna_spec), delta.parent)


def test_tensors_that_a_delta_holds_whole_are_its_own(delta: Path, vicuna_spec: ModelSpec) -> None:
    ziya = find_spec("video-llama-ziya-13b-zh").files.llm_delta_whole
    spec = delta_spec(vicuna_spec)
    llama = open_llama(replace(spec, files=replace(spec.files, llm_delta_whole=ziya)), delta.parent)
    base, added = (load_file(path / "model.safetensors") for path in (delta.with_name("base"), delta))
    for name in ziya:
        assert torch.equal(llama.tensor(name), added[name])
    for name in base.keys() - set(ziya):
        assert torch.equal(llama.tensor(name), base[name].half() + added[name])
    with pytest.raises(SpecError, match=r"llm_delta_whole: 'lm_head' is no tensor of a LLaMA"):
        open_llama(replace(spec, files=replace(spec.files, llm_delta_whole=("lm_head",))), delta.parent)


def test_a_delta_in_place_of_a_whole_model_is_refused(folder: Path, vicuna_spec: ModelSpec) -> None:
    tensors = read_tensors(folder)
    save_file({name: 0.002 * tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    where = r"a delta, not a whole model: the values of model\.norm\.weight are 0\.002 on average; "
    with pytest.raises(FileError, match=where + "fetch the whole weights, or give an entry of your own"):
        open_llama(vicuna_spec, folder.parent)
    with pytest.raises(FileError, match=where + "call it delta and put its base, base, beside it"):
        open_llama(delta_spec(vicuna_spec), folder.parent)


@pytest.mark.parametrize("name", ["num_layers", "num_heads", "num_kv_heads", "intermediate_size", "vocab_size"])
def test_other_dimensions_than_those_of_the_entry_are_refused(
    name: str, vicuna_spec: ModelSpec, tiny_weights: Path
) -> None:
    config = open_llama(vicuna_spec, tiny_weights).config
    right = LlmDimensions(
        config.num_layers, config.num_heads, config.num_kv_heads, config.intermediate_size, config.vocab_size
    )
    spec = replace(vicuna_spec, llm=replace(vicuna_spec.llm, dimensions=right))
    assert open_llama(spec, tiny_weights).config == config
    number = getattr(right, name)
    wrong = replace(spec, llm=replace(spec.llm, dimensions=replace(right, **{name: number + 1})))
    with pytest.raises(
        FileError, match=rf"config\.json: {name} is {number} and that of tiny-vicuna is {number + 1}; use the weights"
    ):
        open_llama(wrong, tiny_weights)


def test_of_base_and_delta_the_rows_of_the_delta_count(delta: Path, vicuna_spec: ModelSpec) -> None:
    spec = delta_spec(vicuna_spec)
    config = open_llama(spec, delta.parent).config
    dimensions = LlmDimensions(
        config.num_layers, config.num_heads, config.num_kv_heads, config.intermediate_size, config.vocab_size
    )
    spec = replace(spec, llm=replace(spec.llm, dimensions=dimensions))
    assert open_llama(spec, delta.parent).config == config
    v0 = find_spec("video-llama-vicuna-7b").files.llm.source
    spec = replace(spec, files=replace(spec.files, llm=WeightFile("base", v0)))
    with pytest.raises(FileError, match=rf"is {config.vocab_size - 1} and .*v0 has 32001 rows, v1\.1 and later 32000"):
        open_llama(spec, delta.parent)


def test_a_delta_of_another_base_is_refused(delta: Path, vicuna_spec: ModelSpec) -> None:
    edit(delta.with_name("base") / "config.json", lambda table: table.update(rms_norm_eps=1e-3))
    with pytest.raises(FileError, match="use the base of this delta"):
        open_llama(delta_spec(vicuna_spec), delta.parent)


def test_odd_start_and_end_ids_are_noted_and_not_followed(folder: Path, vicuna_spec: ModelSpec) -> None:
    edit(folder / "config.json", lambda table: table.update(bos_token_id=0, eos_token_id=0))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": "", "eos_token": "</s>"}), "utf-8")
    llama = open_llama(vicuna_spec, folder.parent)
    assert (llama.vocabulary.bos, llama.vocabulary.eos, llama.vocabulary.unk) == (1, 2, 0)
    assert [note.split(";")[0] for note in llama.notes] == [
        "special_tokens_map.json says bos_token ''",
        "config.json says bos_token_id 0",
        "config.json says eos_token_id 0",
    ]


def test_placeholders_and_tokens_without_a_row_are_left_out(folder: Path, vicuna_spec: ModelSpec) -> None:
    rows = open_llama(vicuna_spec, folder.parent).config.vocab_size
    grow(folder, 2)
    added = {"<ImageHere>": rows, "[PAD]": rows + 1, "<AudioHere>": rows + 2, "<pad>": rows + 3}
    (folder / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    llama = open_llama(vicuna_spec, folder.parent)
    assert llama.vocabulary.pieces[rows:] == (f"<row {rows}>", "[PAD]")
    assert llama.vocabulary.types[rows:] == (UNUSED, CONTROL)
    assert llama.notes == (f"added token '<pad>' with id {rows + 3} is left out",)


def test_added_tokens_are_also_read_from_the_tokenizer_config(folder: Path, vicuna_spec: ModelSpec) -> None:
    rows = open_llama(vicuna_spec, folder.parent).config.vocab_size
    grow(folder, 1)
    decoder = {"1": {"content": "<s>"}, str(rows): {"content": "[PAD]"}}
    edit(folder / "tokenizer_config.json", lambda table: table.update(added_tokens_decoder=decoder))
    llama = open_llama(vicuna_spec, folder.parent)
    assert llama.vocabulary.pieces[rows:] == ("[PAD]",)
    assert llama.notes == ()


def test_an_embedding_with_fewer_rows_than_pieces_is_refused(folder: Path, vicuna_spec: ModelSpec) -> None:
    grow(folder, -1)
    with pytest.raises(FileError, match="pieces and the embedding"):
        open_llama(vicuna_spec, folder.parent)


def test_pieces_are_those_of_sentencepiece(vicuna_spec: ModelSpec, tiny_weights: Path) -> None:
    vocabulary = open_llama(vicuna_spec, tiny_weights).vocabulary
    pieces = SentencePieceProcessor(model_file=str(vocabulary.sources[0]))
    ids = range(len(pieces))
    assert vocabulary.pieces == tuple(pieces.id_to_piece(token) for token in ids)
    assert vocabulary.scores == tuple(pieces.get_score(token) for token in ids)
    assert [kind == CONTROL for kind in vocabulary.types] == [pieces.is_control(token) for token in ids]


def test_a_format_whose_stop_the_tokenizer_cannot_write_is_refused(vicuna_spec: ModelSpec, tiny_weights: Path) -> None:
    vocabulary = open_llama(vicuna_spec, tiny_weights).vocabulary
    vocabulary.check_encodes("</s>")
    vocabulary.check_encodes("###")
    with pytest.raises(FileError, match="end token is '<s>'"):
        replace(vocabulary, eos=1).check_encodes("</s>")
    hash_mark = SentencePieceProcessor(model_file=str(vocabulary.sources[0])).encode("###")[-1]
    with pytest.raises(FileError, match="stop string '###'"):
        replace(vocabulary, unk=hash_mark).check_encodes("###")


def grow(folder: Path, rows: int) -> None:
    tensors = read_tensors(folder)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        kept = tensors[name][: min(0, rows) or None]
        tensors[name] = torch.cat([kept, torch.zeros(max(0, rows), kept.shape[1])])
    save_file(tensors, folder / "model.safetensors")
    count = len(tensors["lm_head.weight"])
    edit(folder / "config.json", lambda table: table.update(vocab_size=count))
