"""The `vllama` command."""
