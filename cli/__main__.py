"""`python -m vllama.cli`."""

from .app import main

main()
