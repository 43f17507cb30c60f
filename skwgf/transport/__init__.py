"""Couplings and potentials between two measures. Tensors in, tensors out."""

from skwgf.transport.class_sides import ClassSides, class_sides
from skwgf.transport.cost import half_squared_distance, mean_cost
from skwgf.transport.exact import TransportPlan, exact_plan
from skwgf.transport.label_graph import neighbor_disagreement
from skwgf.transport.labelled import class_coordinates, transport_labels
from skwgf.transport.minibatch import MinibatchTransport, batch_map
from skwgf.transport.network import NetworkTransport
from skwgf.transport.proportions import ClassProportions, class_proportions
from skwgf.transport.semidiscrete import SemidiscreteTransport, cell_index, cell_probabilities
from skwgf.transport.sinkhorn import sinkhorn, sinkhorn_divergence
from skwgf.transport.sinkhorn_groups import sinkhorn_groups

__all__ = [
    "ClassProportions",
    "ClassSides",
    "MinibatchTransport",
    "NetworkTransport",
    "SemidiscreteTransport",
    "TransportPlan",
    "batch_map",
    "cell_index",
    "cell_probabilities",
    "class_coordinates",
    "class_proportions",
    "class_sides",
    "exact_plan",
    "half_squared_distance",
    "mean_cost",
    "neighbor_disagreement",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_groups",
    "transport_labels",
]
