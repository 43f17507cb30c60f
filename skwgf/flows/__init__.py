"""What moves: velocities, steppers, carriers of a measure, and the one loop."""

from skwgf.flows.carriers import NetworkCarrier, ParticleCarrier, Velocity, VelocityField
from skwgf.flows.loop import Carrier, FlowResult, plateau, run_flow, settled, small_step
from skwgf.flows.regression import pair_update, persistent_update
from skwgf.flows.sinkhorn import SinkhornVelocity, debiased_map
from skwgf.flows.sliced import random_directions, sliced_velocity
from skwgf.flows.steppers import euler, projected_euler
from skwgf.flows.transport import debiased_velocity, tracked_velocity, transport_velocity

__all__ = [
    "Carrier",
    "FlowResult",
    "NetworkCarrier",
    "ParticleCarrier",
    "SinkhornVelocity",
    "Velocity",
    "VelocityField",
    "debiased_map",
    "debiased_velocity",
    "euler",
    "pair_update",
    "persistent_update",
    "plateau",
    "projected_euler",
    "random_directions",
    "run_flow",
    "settled",
    "sliced_velocity",
    "small_step",
    "tracked_velocity",
    "transport_velocity",
]
