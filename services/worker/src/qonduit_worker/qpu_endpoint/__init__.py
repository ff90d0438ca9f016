"""The HTTP endpoint inside a sandbox that the real qiskit-ibm-runtime client talks to."""

from qonduit_worker.qpu_endpoint.device_cache import DeviceCache
from qonduit_worker.qpu_endpoint.endpoint import Blobs, ProgramContext, QpuEndpoint

__all__ = ["Blobs", "DeviceCache", "ProgramContext", "QpuEndpoint"]
