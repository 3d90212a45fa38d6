"""What an export is asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vllama.runtime.errors import MissingFileError, SpecError
from vllama.runtime.files import check_permission
from vllama.runtime.llm.quants import check_quant
from vllama.runtime.manifest import MANIFEST
from vllama.runtime.precision import Precision, check_precision
from vllama.runtime.spec import ModelSpec

from .to_tensorrt import EngineOptions


@dataclass(frozen=True)
class Request:
    """One export; None stands for what was not asked for. The arguments of `export_model`."""

    spec: ModelSpec
    weights: Path
    out: Path
    quant: str | None
    precision: str | None
    engines: EngineOptions | None
    threads: int | None

    @property
    def llm_type(self) -> str:
        """The quantisation of the language model."""
        return self.quant or self.spec.llm.quantization

    @property
    def encoder_type(self) -> Precision:
        """The precision of the encoders.

        Raises:
            SpecError: there is none of that name.
        """
        return check_precision(self.precision or ("fp16" if self.engines else "int8"))

    @property
    def adds_engines(self) -> bool:
        """Whether the bundle is there already and is only given engines."""
        return self.engines is not None and os.path.isfile(self.out / MANIFEST)

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises: as `export_model` does before anything is written.
        """
        check_quant(self.llm_type)
        if self.encoder_type == "int8" and self.engines:
            raise SpecError("--precision int8 is for CPUs, and TensorRT takes none of it; use fp16 or w8a16")
        if not self.adds_engines:
            check_folder(self.weights)


def check_folder(weights: Path) -> None:
    """Whether published files can be looked for there.

    Raises:
        MissingFileError: it is no folder.
        FileError: the system does not let it be looked into.
    """
    if not os.path.isdir(weights):
        raise MissingFileError(f"{weights}: not a folder; give the one with the published files as --weights")
    check_permission(weights)
