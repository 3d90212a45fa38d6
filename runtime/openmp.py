"""How the threads of OpenMP wait, decided before anything loads OpenMP: each house imports this first."""

from __future__ import annotations

import os

# Threads that spin while they wait make decoding several times slower as soon as anything else needs the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
