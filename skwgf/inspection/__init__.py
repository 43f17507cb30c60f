"""Pictures of fitted estimators, as scikit-learn's displays; they need matplotlib."""

from skwgf.inspection._density import DensityDisplay
from skwgf.inspection._flow import FlowDisplay
from skwgf.inspection._history import HistoryDisplay
from skwgf.inspection._trajectory import TrajectoryDisplay

__all__ = ["DensityDisplay", "FlowDisplay", "HistoryDisplay", "TrajectoryDisplay"]
