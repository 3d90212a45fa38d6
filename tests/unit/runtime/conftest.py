from __future__ import annotations

from collections.abc import Iterator

import pytest

from vllama.runtime.bundle import find_bundle, open_bundle
from vllama.runtime.encoders import Encoders


@pytest.fixture(scope="module")
def encoders() -> Iterator[Encoders]:
    """The miniature's."""
    with Encoders(open_bundle(find_bundle("miniature")), threads=1) as encoders:
        yield encoders
