"""The bench that times `vllama ask` by its own calls."""

from __future__ import annotations

import runpy
from operator import attrgetter
from pathlib import Path
from pkgutil import resolve_name

BENCH = Path(__file__).parents[1] / "bench" / "bench_start.py"


def test_every_call_that_is_timed_is_there() -> None:
    timed = runpy.run_path(str(BENCH))["_CALLS"]
    assert timed
    for module, path, _ in timed:
        assert callable(attrgetter(path)(resolve_name(module))), (module, path)
