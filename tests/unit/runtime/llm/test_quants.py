from __future__ import annotations

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from vllama.runtime.llm.quants import BLOCKS, LlamaDimensions, tensor_type


def test_blocks_are_those_of_ggml() -> None:
    assert {name: GGML_QUANT_SIZES[GGMLQuantizationType[name]] for name in BLOCKS} == BLOCKS


def test_the_usual_mixture_widens_the_tensors_that_matter_most() -> None:
    about = LlamaDimensions(32000, 4096, 11008, 32, 32, 32)
    wide = [layer for layer in range(32) if tensor_type("Q4_K_M", "attn_v", layer, about) == "Q6_K"]
    assert wide == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert tensor_type("Q4_K_M", "output", 0, about) == "Q6_K"
    assert tensor_type("Q4_K_M", "attn_q", 0, about) == "Q4_K"
