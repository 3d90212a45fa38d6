from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vllama.runtime.errors import MissingFileError, ModelNotFoundError, SpecError
from vllama.runtime.registry import find_spec, read_specs, spec_from_dict, spec_to_dict
from vllama.runtime.spec import MOST_TOKENS, Sampling

RIGHT = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=1)


def test_every_published_variant_has_an_entry() -> None:
    specs = {name: spec for name, spec in read_specs().items() if name.startswith("video-llama-")}
    wide = {name for name, spec in specs.items() if spec.llm.hidden_size == 5120}
    assert len(specs) == 12
    assert {name for name in specs if "13b" in name} == wide
    assert {name for name, spec in specs.items() if spec.audio} == {
        name for name in specs if name.startswith(("video-llama-2-", "video-llama-vicuna-7b"))
    }


def test_the_ten_files_of_the_series_are_named_and_no_other() -> None:
    series = "https://huggingface.co/DAMO-NLP-SG/Video-LLaMA-Series"
    files = [file for spec in read_specs().values() for file in (spec.files.vl, spec.files.al)]
    names = [file.name for file in files if file and file.source == series]
    assert len(names) == len(set(names)) == 10


def test_published_decoder_has_the_rows_of_its_vocabulary() -> None:
    dimensions = {name: spec.llm.dimensions for name, spec in read_specs().items()}
    rows = {"2-": 32000, "vicuna": 32001, "ziya": 39424}
    for kind, count in rows.items():
        found = {
            each.vocab_size for name, each in dimensions.items() if each and name.startswith(f"video-llama-{kind}")
        }
        assert found == {count}


def test_entry_survives_the_manifest_and_back() -> None:
    for spec in read_specs().values():
        assert spec_from_dict(spec_to_dict(spec), "test") == spec


def test_entries_of_another_file_win(tmp_path: Path) -> None:
    extra = tmp_path / "mine.toml"
    extra.write_text(
        '[prompt.vicuna]\nfirst="{message}"\nanswer="{answer}"\nnext="{message}"\nstop=[]\nkeep_after=""\n'
    )
    assert find_spec("video-llama-vicuna-7b", extra).prompt.first == "{message}"
    assert find_spec("video-llama-vicuna-7b").prompt.first != "{message}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('source = "x"', "weights"),
        ("surplus = 1", "surplus"),
        ('video = "nothing"', "names no [video.nothing]"),
        ('llm = { architecture = "gpt" }', "llm.architecture"),
        ('files = { vl = { name = "/a.pth" }, llm = { name = "b" } }', "files.vl.name"),
        ('files = { vl = { name = "" }, llm = { name = "b" } }', "files.vl.name"),
        ('files = { vl = { name = "a", ignored = "(" }, llm = { name = "b" } }', "files.vl.ignored: "),
        ('files = { vl = { name = "a" }, llm = { name = "b", ignored = "[" } }', "not a regular expression (unterm"),
    ],
)
def test_wrong_entry_is_refused_by_field(tmp_path: Path, change: str, said: str) -> None:
    entry = {"source": '"x"', "weights": '"x"', "license": '"x"', "video": '"eva-vit-g"', "llm": '"llama-7b"',
             "prompt": '"vicuna"', "messages": '"video-llama"', "files": '{vl={name="a"}, llm={name="b"}}'}  # fmt: skip
    key, _, value = change.partition(" = ")
    if said == "weights":
        del entry["weights"]
    entry[key] = value
    path = tmp_path / "models.toml"
    path.write_text("[models.mine]\n" + "\n".join(f"{k} = {v}" for k, v in entry.items()))
    with pytest.raises(SpecError) as error:
        read_specs(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_audio_part_without_its_branch_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        '[models.mine]\nsource="x"\nweights="x"\nlicense="x"\nvideo="eva-vit-g"\naudio="imagebind-huge"\nllm="llama-7b"\n'
        'prompt="vicuna"\nmessages="video-llama"\nfiles={vl={name="a"}, llm={name="b"}}\n'
    )
    with pytest.raises(SpecError, match=r"no files\.al"):
        read_specs(path)


def test_unusable_models_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_specs(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[models")
    with pytest.raises(SpecError, match="not TOML"):
        read_specs(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="UTF-8"):
        read_specs(broken)
    broken.write_text("[model.x]\n")
    with pytest.raises(SpecError, match="unknown table 'model'"):
        read_specs(broken)


@pytest.mark.parametrize("name", ["models", "video", "messages"])
def test_what_should_be_tables_and_is_none_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(f"{name} = 3\n")
    with pytest.raises(SpecError, match=rf"models\.toml: {name} is 3; write tables \[{name}\.NAME\]"):
        read_specs(path)


def test_byte_order_mark_is_no_part_of_a_models_file(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text("[models]\n", "utf-8-sig")
    assert read_specs(path) == read_specs()


@pytest.mark.parametrize(
    ("field", "value", "use"),
    [
        ("temperature", -1, "0 or more"),
        ("temperature", float("nan"), "0 or more"),
        ("temperature", float("inf"), "0 or more"),
        ("top_p", 0, "more than 0, and at most 1"),
        ("top_p", 1.01, "more than 0, and at most 1"),
        ("top_p", float("nan"), "more than 0, and at most 1"),
        ("top_k", -1, f"0 to {MOST_TOKENS}"),
        ("top_k", MOST_TOKENS + 1, f"0 to {MOST_TOKENS}"),
        ("max_tokens", 0, f"1 to {MOST_TOKENS}"),
        ("max_tokens", MOST_TOKENS + 1, f"1 to {MOST_TOKENS}"),
        ("repetition_penalty", 0, "0.001 to 1000"),
        ("repetition_penalty", float("inf"), "0.001 to 1000"),
        ("repetition_penalty", float("nan"), "0.001 to 1000"),
    ],
)
def test_sampling_out_of_range_is_refused_wherever_it_comes_from(field: str, value: float, use: str) -> None:
    with pytest.raises(SpecError, match=f"^{field} is {value}; use {use}$"):
        replace(RIGHT, **{field: value})  # type: ignore[arg-type]
    entry = spec_to_dict(find_spec("miniature"))
    entry["llm"]["sampling"] = {**asdict(RIGHT), field: value}
    with pytest.raises(SpecError, match=rf"^here: llm\.sampling: {field} is .*; use {use}; fix the entry$"):
        spec_from_dict(entry, "here")


@pytest.mark.parametrize(
    ("part", "kind", "text"),
    [("prompt", "next", "Human:"), ("messages", "video", "{video} {questoin}"), ("messages", "text", "{")],
)
def test_template_that_no_prompt_can_be_made_of_is_named(part: str, kind: str, text: str) -> None:
    entry = spec_to_dict(find_spec("miniature"))
    texts, name = (entry["prompt"], "") if part == "prompt" else (entry["messages"]["message"], ".message")
    texts[kind] = text
    with pytest.raises(SpecError) as error:
        spec_from_dict(entry, "models.mine")
    assert str(error.value).startswith(f"models.mine: {part}{name}.{kind} is {text!r}; write a template that has {{")
    assert "\n" not in str(error.value)


def test_unknown_model_lists_the_known() -> None:
    with pytest.raises(ModelNotFoundError, match="video-llama-2-7b-chat"):
        find_spec("video-llama-3")


def test_sampling_takes_no_fraction_of_a_token() -> None:
    with pytest.raises(SpecError, match=f"^max_tokens is 3.5; use 1 to {MOST_TOKENS}$"):
        replace(RIGHT, max_tokens=3.5)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=f"^top_k is 0.5; use 0 to {MOST_TOKENS}$"):
        replace(RIGHT, top_k=0.5)  # type: ignore[arg-type]
