"""The Python API of vllama."""
