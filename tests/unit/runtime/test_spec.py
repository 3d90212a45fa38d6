from __future__ import annotations

from pathlib import Path

import pytest

from vllama.runtime.errors import MissingFileError, ModelNotFoundError, SpecError
from vllama.runtime.spec import find_spec, read_specs, spec_from_dict, spec_to_dict


def test_every_published_variant_has_an_entry() -> None:
    specs = {name: spec for name, spec in read_specs().items() if name.startswith("video-llama-")}
    wide = {name for name, spec in specs.items() if spec.llm.hidden_size == 5120}
    assert len(specs) == 14
    assert {name for name in specs if "13b" in name} == wide
    assert {name for name, spec in specs.items() if spec.audio} == {
        name for name in specs if name.startswith(("video-llama-2-", "video-llama-vicuna-7b"))
    }


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
    ],
)
def test_wrong_entry_is_refused_by_field(tmp_path: Path, change: str, said: str) -> None:
    entry = {"source": '"x"', "weights": '"x"', "license": '"x"', "video": '"eva-vit-g"', "llm": '"llama-2-7b"',
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
        '[models.mine]\nsource="x"\nweights="x"\nlicense="x"\nvideo="eva-vit-g"\naudio="imagebind-huge"\nllm="llama-2-7b"\n'
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


def test_unknown_model_lists_the_known() -> None:
    with pytest.raises(ModelNotFoundError, match="video-llama-2-7b-chat"):
        find_spec("video-llama-3")
