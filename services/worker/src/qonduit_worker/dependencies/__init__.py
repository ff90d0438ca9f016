"""What a function depends on: layers of packages over the worker's own environment, built once and kept."""

from qonduit_worker.dependencies.building import Builder, BuildRules
from qonduit_worker.dependencies.layers import Layer, LayerStore
from qonduit_worker.dependencies.requirements import DependencyError

__all__ = ["BuildRules", "Builder", "DependencyError", "Layer", "LayerStore"]
