from __future__ import annotations

import pytest
from qonduit_qpu_broker.local.catalog import DeviceCatalog, UnknownDeviceError


def test_every_described_device_is_there_under_its_real_name() -> None:
    catalog = DeviceCatalog()
    names = [device.name for device in catalog.devices()]
    assert {"ibm_torino", "ibm_fez", "ibm_auckland", "ibmq_manila"} <= set(names)
    assert len(names) == len(set(names)) > 60
    assert not any(name.startswith(("fake_", "alt_")) for name in names)


def test_configuration_and_properties_carry_the_real_name() -> None:
    catalog = DeviceCatalog()
    for name in ("ibm_torino", "ibm_auckland"):
        assert catalog.configuration(name)["backend_name"] == name
        properties = catalog.properties(name)
        assert properties is not None
        assert properties["backend_name"] == name


def test_a_device_with_control_flow_says_so_in_its_features() -> None:
    assert "dynamic_circuits" in DeviceCatalog().configuration("ibm_torino")["supported_features"]


def test_an_unknown_device() -> None:
    with pytest.raises(UnknownDeviceError):
        DeviceCatalog().configuration("../../etc")
