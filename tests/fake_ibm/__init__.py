"""A small server of our own that speaks IBM's identity, search, catalog and quantum REST, for tests.

Its devices are those that qiskit-ibm-runtime describes; jobs run on Aer. Times are scripted, faults come on demand, and
it counts by itself what would have been billed. Nothing of the real service's code is in it, and it knows no broker.
"""

from fake_ibm.faults import Fault, How
from fake_ibm.server import FakeIbm
from fake_ibm.state import Instance, UpstreamJob, UpstreamSession

__all__ = ["FakeIbm", "Fault", "How", "Instance", "UpstreamJob", "UpstreamSession"]
