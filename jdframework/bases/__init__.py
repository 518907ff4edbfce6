"""Base classes that leave a plugin's author only the mathematics."""

from jdframework.bases.aggregator import Aggregator, WeightedSum
from jdframework.bases.conformity import mistakes
from jdframework.bases.device import initial_device
from jdframework.bases.dual_cone import DualConeConfig, DualConeWeighting
from jdframework.bases.engine import Engine, EngineConfig
from jdframework.bases.jacobian_engine import JacobianEngine
from jdframework.bases.losses import losses_for
from jdframework.bases.method import BaseMethod, Randomised, SeededConfig
from jdframework.bases.preference import PreferenceConfig, Preferring
from jdframework.bases.remembered_state import Remembering
from jdframework.bases.scalarizer import Scalarizer, TrainableScalarizer
from jdframework.bases.shaped import Shaped, ShapedConfig
from jdframework.bases.tracking import Tracking
from jdframework.bases.weighting import GramianWeighting, JacobianWeighting, Weighting
from jdframework.bases.wrapper import WeightingWrapper, Wrapper, WrapperConfig
from jdframework.linearization import Linearization

__all__ = [
    "Aggregator",
    "BaseMethod",
    "DualConeConfig",
    "DualConeWeighting",
    "Engine",
    "EngineConfig",
    "GramianWeighting",
    "JacobianEngine",
    "JacobianWeighting",
    "Linearization",
    "PreferenceConfig",
    "Preferring",
    "Randomised",
    "Remembering",
    "Scalarizer",
    "SeededConfig",
    "Shaped",
    "ShapedConfig",
    "Tracking",
    "TrainableScalarizer",
    "WeightedSum",
    "Weighting",
    "WeightingWrapper",
    "Wrapper",
    "WrapperConfig",
    "initial_device",
    "losses_for",
    "mistakes",
]
