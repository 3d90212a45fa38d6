"""One training stage: learning rate, progress, checkpoints; a stage that was stopped goes on where it was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vllama.runtime.errors import MissingFileError

Report = Callable[[int], str]  # a step -> a line of held-out figures
_SAVE_SECONDS = 60.0
_REPORT_SECONDS = 15.0


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage learns.

    rate: of AdamW; matrices of the trunk get Muon at the same rate where `muon`. flat: share of the steps at the full
    rate, then a cosine down to 2 %. decay: of the weights. slow: names that begin so learn at that share of the rate.
    thawed: names that begin so learn, all others stay as they are.
    """

    name: str
    steps: int
    rate: float
    flat: float = 0.55
    warmup: int = 100
    decay: float = 0.02
    muon: bool = True
    slow: tuple[str, float] = ("", 1.0)
    thawed: tuple[str, ...] = ("",)

    def scale(self, step: int) -> float:
        """The share of the full rate at a step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step / self.steps - self.flat) / (1 - self.flat)
        return 1.0 if done <= 0 else 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))


def generator(plan: Plan, step: int) -> torch.Generator:
    """The random numbers of one step, the same whether the stage was interrupted or not."""
    seed = int.from_bytes(plan.name.encode()[:3].ljust(3, b"\0"), "little")
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def run(
    plan: Plan,
    module: nn.Module,
    loss: Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]],
    work: Path,
    report: Report | None = None,
    report_every: int = 1000,
) -> None:
    """Train what of `module` the plan thaws; its weights are the last ones afterwards.

    loss: (step, random numbers) -> what to minimise, and figures for the progress line.
    report: (step) -> a line of held-out figures, every `report_every` steps and at the end.
    """
    path = work / f"{plan.name}.pt"
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith(plan.thawed))
    optimisers = _optimisers(plan, module)
    start = _resume(path, module, optimisers)
    parameters = [p for p in module.parameters() if p.requires_grad]
    began = said = saved = time.monotonic()
    mean: dict[str, float] = {}
    for step in range(start, plan.steps):
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["full"] * plan.scale(step)
        value, figures = loss(step, generator(plan, step))
        module.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        for name, figure in {"loss": float(value.detach()), **figures}.items():
            mean[name] = figure if name not in mean else mean[name] + 0.03 * (figure - mean[name])
        now = time.monotonic()
        if now - said > _REPORT_SECONDS or step == plan.steps - 1:
            left = (now - began) / (step + 1 - start) * (plan.steps - step - 1)
            line = " ".join(f"{name} {figure:.3f}" for name, figure in mean.items())
            print(f"{plan.name} {step + 1}/{plan.steps} {line} | {now - began:.0f} s, {left:.0f} s left", flush=True)
            said = now
        if report is not None and ((step + 1) % report_every == 0 or step == plan.steps - 1):
            print(f"{plan.name} {step + 1}: {report(step + 1)}", flush=True)
        if now - saved > _SAVE_SECONDS or step == plan.steps - 1:
            _save(path, step + 1, module, optimisers)
            saved = now


def finished(plan: Plan, work: Path) -> bool:
    """Whether the stage has run to its end."""
    path = work / f"{plan.name}.pt"
    return path.exists() and torch.load(path, weights_only=True, mmap=True)["step"] >= plan.steps


def weights(name: str, work: Path) -> dict[str, Tensor]:
    """The weights of the stage of that name, as far as it has come.

    Raises:
        MissingFileError: it has not begun.
    """
    path = work / f"{name}.pt"
    if not path.exists():
        raise MissingFileError(f"{path}: not there yet; run the stage `{name}` first")
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["module"]
    return state


def _optimisers(plan: Plan, module: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest, each with a group for what learns slowly."""
    matrices: dict[float, list[nn.Parameter]] = {}
    others: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            factor = plan.slow[1] if plan.slow[0] and name.startswith(plan.slow[0]) else 1.0
            block = any(mark in name for mark in (".layer.", ".blocks.", ".layers."))
            kind = matrices if plan.muon and block and parameter.ndim == 2 else others
            kind.setdefault(factor, []).append(parameter)
    found: list[torch.optim.Optimizer] = []
    for kind in (others, matrices):
        groups = [{"params": listed, "full": plan.rate * factor} for factor, listed in sorted(kind.items())]
        if groups and kind is others:
            found.append(torch.optim.AdamW(groups, plan.rate, (0.9, 0.98), weight_decay=plan.decay))
        elif groups:
            found.append(torch.optim.Muon(groups, plan.rate, weight_decay=plan.decay, adjust_lr_fn="match_rms_adamw"))
    return found


def _resume(path: Path, module: nn.Module, optimisers: Iterable[torch.optim.Optimizer]) -> int:
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    module.load_state_dict(saved["module"], strict=False)  # frozen parts are not saved
    for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
        optimiser.load_state_dict(state)
    return int(saved["step"])


def _save(path: Path, step: int, module: nn.Module, optimisers: Iterable[torch.optim.Optimizer]) -> None:
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    state = {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".part")
    torch.save({"step": step, "module": state, "optimisers": [o.state_dict() for o in optimisers]}, fresh)
    fresh.replace(path)  # a stop while writing leaves the old one
