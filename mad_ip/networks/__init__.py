"""PyTorch networks decoded from a :class:`mad_ip.design.Design`; the one package of mad-ip that imports torch."""

from mad_ip.networks.measure import measure, verify_cost
from mad_ip.networks.network import Network
from mad_ip.networks.weights import save_weights

__all__ = ["Network", "measure", "save_weights", "verify_cost"]
