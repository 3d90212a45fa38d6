"""What libraries read from the environment, decided before anything loads them: each package imports this first."""

from __future__ import annotations

import os

# Threads of OpenMP that spin while they wait make decoding several times slower once anything else needs a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# From 1.29 on, ONNX Runtime's packages send to Microsoft which processor, system and kinds of graphs they run on, under
# a number of the machine that they keep on disk. What is asked here stays here. Versions differ in the name.
for _name in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):
    os.environ[_name] = "1"
