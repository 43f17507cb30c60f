"""What moves: velocities, steppers, carriers of a measure, and the one loop."""

from skwgf.flows.affine import affine_start
from skwgf.flows.carriers import NetworkCarrier, ParticleCarrier, Velocity, VelocityField
from skwgf.flows.loop import Carrier, FlowResult, plateau, run_flow, settled, small_step
from skwgf.flows.newton import MinimizeResult, NewtonDirection, minimize, wsfn_direction
from skwgf.flows.regression import pair_update, persistent_update
from skwgf.flows.residual import ResidualVelocity
from skwgf.flows.sinkhorn import SinkhornVelocity, debiased_map
from skwgf.flows.sliced import random_directions, sliced_velocity
from skwgf.flows.spectral import solve_mean_field
from skwgf.flows.stein import SteinVelocity, ksd_plateau, resolvent
from skwgf.flows.steppers import Adagrad, Adam, Cooling, Heun, euler, projected_euler
from skwgf.flows.torus import TorusVelocity
from skwgf.flows.transport import debiased_velocity, tracked_velocity, transport_velocity
from skwgf.flows.whitened import CautiousEuler, WhitenedStein, fisher_ratio

__all__ = [
    "Adagrad",
    "Adam",
    "Carrier",
    "CautiousEuler",
    "Cooling",
    "FlowResult",
    "Heun",
    "MinimizeResult",
    "NetworkCarrier",
    "NewtonDirection",
    "ParticleCarrier",
    "ResidualVelocity",
    "SinkhornVelocity",
    "SteinVelocity",
    "TorusVelocity",
    "Velocity",
    "VelocityField",
    "WhitenedStein",
    "affine_start",
    "debiased_map",
    "debiased_velocity",
    "euler",
    "fisher_ratio",
    "ksd_plateau",
    "minimize",
    "pair_update",
    "persistent_update",
    "plateau",
    "projected_euler",
    "random_directions",
    "resolvent",
    "run_flow",
    "settled",
    "sliced_velocity",
    "small_step",
    "solve_mean_field",
    "tracked_velocity",
    "transport_velocity",
    "wsfn_direction",
]
