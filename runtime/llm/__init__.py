"""The language model in llama.cpp."""
