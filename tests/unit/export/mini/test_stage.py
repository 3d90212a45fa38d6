"""A training stage that was stopped goes on as if it had not been."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vllama.export.mini import stage

PLAN = stage.Plan("test", steps=6, rate=1e-2, warmup=2)


def _train(plan: stage.Plan, work: Path) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(5, 3, generator=generator)
        return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}

    stage.run(plan, model, loss, work)
    return model


def test_a_resumed_stage_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = _train(PLAN, tmp_path / "whole").state_dict()
    monkeypatch.setattr(stage, "_SAVE_SECONDS", -1.0)

    class Stop(Exception):
        pass

    def stopping(plan: stage.Plan, step: int) -> torch.Generator:
        if step == 3:
            raise Stop
        return original(plan, step)

    original = stage.generator
    with monkeypatch.context() as context:
        context.setattr(stage, "generator", stopping)
        with pytest.raises(Stop):
            _train(PLAN, tmp_path / "parts")
    assert not stage.finished(PLAN, tmp_path / "parts")
    resumed = _train(PLAN, tmp_path / "parts").state_dict()
    assert stage.finished(PLAN, tmp_path / "parts")
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    assert "test 6/6" in capsys.readouterr().out


def test_the_rate_rises_stays_and_falls() -> None:
    plan = replace(PLAN, steps=100, warmup=10, flat=0.5)
    assert plan.scale(0) == pytest.approx(0.1)
    assert plan.scale(30) == 1.0
    assert plan.scale(99) < 0.03
