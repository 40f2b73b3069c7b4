"""Each test plays the host in a network namespace of its own, so foreign rules and other tests cannot interfere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netlink.conftest import own_network
from tests.networks.machines import stop_servers

from wherry.netlink import link, nftables
from wherry.netlink.request import Netlink
from wherry.networks.service import Networks
from wherry.spec.settings import Settings
from wherry.store.records import Records


@pytest.fixture
def own_host() -> Iterator[None]:
    """The test's thread in a fresh network namespace with ``lo`` up; threads it starts are born there."""
    with own_network():
        yield


@pytest.fixture(autouse=True)
def _no_server_outlives_its_test() -> Iterator[None]:
    yield
    stop_servers()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_root=str(tmp_path), run_root=str(tmp_path))


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    opened = Records(str(tmp_path / "state.db"))
    yield opened
    opened.close()


@pytest.fixture
def networks(own_host: None, settings: Settings, records: Records, tmp_path: Path) -> Iterator[Networks]:
    """Started networks; afterwards nothing of them is left in the kernel."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    service = Networks(settings, records, resolv_conf_path=str(tmp_path / "resolv.conf"))
    service.start()
    yield service
    service.settle()
    service.close()
    service.destroy()
    with Netlink() as netlink:
        assert [one.name for one in link.links(netlink) if one.kind in ("bridge", "veth")] == []
    with nftables.connect() as netlink:
        assert [one for one in nftables.tables(netlink) if one.name == settings.tag] == []
