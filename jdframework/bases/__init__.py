"""Base classes that leave a plugin's author only the mathematics."""

from jdframework.bases.aggregator import Aggregator, WeightedSum
from jdframework.bases.conformity import mistakes
from jdframework.bases.engine import Engine, EngineConfig
from jdframework.bases.method import BaseMethod, Randomised, SeededConfig
from jdframework.bases.scalarizer import Scalarizer, ShapedConfig, TrainableScalarizer
from jdframework.bases.weighting import GramianWeighting, JacobianWeighting, Weighting

__all__ = [
    "Aggregator",
    "BaseMethod",
    "Engine",
    "EngineConfig",
    "GramianWeighting",
    "JacobianWeighting",
    "Randomised",
    "Scalarizer",
    "SeededConfig",
    "ShapedConfig",
    "TrainableScalarizer",
    "WeightedSum",
    "Weighting",
    "mistakes",
]
