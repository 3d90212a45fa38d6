from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vllama.export import meter
from vllama.export.meter import Meter


def test_time_of_waiting_is_no_processor_time() -> None:
    running = Meter()
    time.sleep(0.2)
    cost = running.read("nap", 7)
    assert (cost.part, cost.bytes) == ("nap", 7)
    assert cost.seconds >= 0.2
    assert cost.cpu_seconds < cost.seconds


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the peak part by part")
def test_peak_is_that_of_the_part_and_not_of_an_earlier_one() -> None:
    large = Meter()
    np.ones(50_000_000, np.float32)
    before = large.read("large", 0).peak_bytes
    after = Meter().read("small", 0).peak_bytes
    assert before is not None
    assert after is not None
    assert before - after > 150_000_000


def test_peak_that_cannot_begin_anew_is_none_of_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "_RESET", tmp_path / "none" / "clear_refs")
    assert Meter().read("part", 0).peak_bytes is None
