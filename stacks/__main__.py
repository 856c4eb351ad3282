"""One stack, one environment, one layer: ``plane`` (streams, databases) or ``clusters`` (the servers on Kubernetes)."""

import os
import sys
from pathlib import Path

import clusters
import planes
import pulumi

# Pulumi interrupts the program when a resource fails. Its own message says why; a traceback would hide it, and the
# threads that still wait for other resources would hold the end up for seconds.
sys.excepthook = lambda kind, *rest: os._exit(1) if kind is KeyboardInterrupt else sys.__excepthook__(kind, *rest)

LAYERS = {"plane": planes.register, "clusters": clusters.register}

config = pulumi.Config("holdfast")
layer = config.get("layer") or "plane"
if layer not in LAYERS:
    raise pulumi.RunError(f"holdfast:layer is {layer}; it must be one of {', '.join(LAYERS)}")
specs = Path(__file__).resolve().parent.parent / (config.get("specs") or "specs")
LAYERS[layer](config, specs, config.get("env") or pulumi.get_stack())
