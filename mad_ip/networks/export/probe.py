"""Run a standalone source in an interpreter of its own: ``probe.py SOURCE FACTORY GIVEN FOUND``.

GIVEN holds the weights, the images and the number of threads; FOUND gets the outputs in eval mode.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import torch

if __name__ == "__main__":
    source, factory, given, found = sys.argv[1:]
    blocked: dict[str, Any] = {"mad_ip": None}
    sys.modules.update(blocked)
    spec = importlib.util.spec_from_file_location("network", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    content = torch.load(given)
    torch.set_num_threads(content["threads"])
    network = getattr(module, factory)().eval()
    network.load_state_dict(content["weights"])
    with torch.no_grad():
        torch.save(network(content["images"]), found)
