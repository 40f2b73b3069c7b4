"""Containers are played by namespaces with listening threads: nothing here is faked but the program."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.networks.machines import dial, dial_from, ip, listen, outside, request, unplug

from wherry.errors import Conflict, EngineError, Forbidden, Internal, InvalidRequest, NotFound
from wherry.kernel import netns
from wherry.netlink import address, link, nftables, route
from wherry.netlink.nftables import Table
from wherry.netlink.request import Netlink
from wherry.networks import namespace
from wherry.networks.files import LinkTarget
from wherry.networks.ports import Binding
from wherry.networks.service import Networks
from wherry.spec.docker.network import AddressPool, EndpointIPAM, EndpointSettings, NetworkAddresses, NetworkCreate
from wherry.spec.settings import Settings
from wherry.store.records import Records

pytestmark = pytest.mark.root


def fixed(port: int = 80, first: int = 8080, host_ip: str = "", protocol: str = "tcp") -> list[Binding]:
    return [Binding(port=port, protocol=protocol, first=first, last=first, host_ip=host_ip)]


def refused(action: Callable[[], object], kind: type[EngineError]) -> str:
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


def elements(networks_tag: str, name: str) -> int:
    with nftables.connect() as netlink:
        return len(nftables.elements(netlink, Table(nftables.NFPROTO_INET, networks_tag), name))


def test_first_container_gets_the_second_address_of_the_bridge_and_a_local_mac(networks: Networks) -> None:
    sandbox = networks.attach(request(1))
    endpoint = sandbox.endpoints["bridge"]
    assert (endpoint.ip_address, endpoint.gateway, endpoint.ip_prefix_len) == ("172.17.0.2", "172.17.0.1", 16)
    assert endpoint.mac_address == "02:42:ac:11:00:02"
    assert endpoint.dns_names is None
    networks.release(sandbox.container_id)


def test_two_containers_talk_over_the_bridge(networks: Networks) -> None:
    server, client = networks.attach(request(1)), networks.attach(request(2))
    listen(server)
    assert dial_from(client, ip(server), 80) == ip(client)
    networks.release(server.container_id)
    networks.release(client.container_id)


def test_published_port_is_reached_by_every_address_of_the_host(networks: Networks) -> None:
    server, client = networks.attach(request(1, bindings=fixed())), networks.attach(request(2))
    server.close_forwards()
    listen(server)
    far = outside(networks)
    assert dial("127.0.0.1", 8080) == "172.17.0.1"
    assert dial("172.17.0.1", 8080)
    assert dial("198.51.100.254", 8080)
    assert dial_from(client, "198.51.100.254", 8080)
    assert dial_from(server, "172.17.0.1", 8080)  # to itself, by the host
    assert dial_from(far, "198.51.100.254", 8080) == "198.51.100.1"  # the caller's own address is seen
    networks.release(server.container_id)
    networks.release(client.container_id)
    unplug(networks, far)


def test_ipv6_loopback_is_served_by_the_forward_sockets(networks: Networks) -> None:
    sandbox = networks.attach(request(1, bindings=fixed()))
    listen(sandbox)
    families = {holder.family: (holder, forward) for holder, forward in sandbox.forwards}
    assert set(families) == {socket.AF_INET, socket.AF_INET6}
    holder, forward = families[socket.AF_INET6]
    assert (forward.target_ip, forward.target_port, forward.protocol) == (ip(sandbox), 80, "tcp")

    def relay() -> None:
        holder.setblocking(True)
        client, _ = holder.accept()
        with client, socket.create_connection((forward.target_ip, forward.target_port), timeout=20) as target:
            client.sendall(target.recv(100))

    thread = threading.Thread(target=relay)
    thread.start()
    assert dial("::1", 8080) == "172.17.0.1"
    thread.join()
    networks.release(sandbox.container_id)


def test_port_published_on_one_address_is_not_reached_by_others(networks: Networks) -> None:
    sandbox = networks.attach(request(1, bindings=fixed(host_ip="127.0.0.1")))
    listen(sandbox)
    sandbox.close_forwards()
    assert sandbox.ports == {"80/tcp": sandbox.ports["80/tcp"]}
    assert dial("127.0.0.1", 8080)
    with pytest.raises(OSError):
        dial("172.17.0.1", 8080)
    networks.release(sandbox.container_id)


def test_next_container_with_the_same_address_is_reached_at_once(networks: Networks) -> None:
    for number in (1, 2, 3):
        sandbox = networks.attach(request(number, bindings=fixed()))
        sandbox.close_forwards()
        assert ip(sandbox) == "172.17.0.2"
        listen(sandbox)
        assert dial("127.0.0.1", 8080, timeout=0.8) == "172.17.0.1"
        networks.release(sandbox.container_id)
        networks.settle()


def test_udp_port_is_published(networks: Networks) -> None:
    sandbox = networks.attach(request(1, bindings=fixed(53, 5353, protocol="udp")))
    assert sandbox.netns_fd is not None

    def bound() -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", 53))
        return server

    with namespace.inside(sandbox.netns_fd, bound) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.sendto(b"ping", ("127.0.0.1", 5353))
        data, caller = server.recvfrom(100)
        server.sendto(data + b"!", caller)
        assert client.recv(100) == b"ping!"
    networks.release(sandbox.container_id)


def test_container_reaches_the_outside_through_the_hosts_address(networks: Networks) -> None:
    far, sandbox = outside(networks), networks.attach(request(1))
    listen(far)
    assert dial_from(sandbox, "198.51.100.1", 80) == "198.51.100.254"
    networks.release(sandbox.container_id)
    unplug(networks, far)


def test_outside_cannot_route_to_an_unpublished_port(networks: Networks) -> None:
    far, sandbox = outside(networks), networks.attach(request(1))
    listen(sandbox)
    with pytest.raises(OSError):
        dial_from(far, ip(sandbox), 80, timeout=0.3)
    networks.release(sandbox.container_id)
    unplug(networks, far)


def test_container_cannot_reach_the_hosts_loopback(networks: Networks) -> None:
    sandbox = networks.attach(request(1, guarded=False))
    assert sandbox.netns_fd is not None
    with socket.create_server(("127.0.0.1", 8099)) as server:

        def attack() -> None:
            # A container with NET_ADMIN gives 127.0.0.1 of the host by way of the bridge.
            namespace.write_setting("ipv4/conf/eth0/route_localnet", "1")
            with Netlink() as inner:
                found = link.find(inner, "eth0")
                assert found is not None
                lo = address.IPv4Interface("127.0.0.1/8")
                inner.ask(address.remove(link.LOOPBACK_INDEX, lo))
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
                client.bind((ip(sandbox), 0))
                client.settimeout(0.3)
                client.connect(("127.0.0.1", 8099))

        with pytest.raises(OSError):
            namespace.inside(sandbox.netns_fd, attack)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    networks.release(sandbox.container_id)


def test_guarded_port_cannot_send_from_a_foreign_address(networks: Networks) -> None:
    liar, honest = networks.attach(request(1)), networks.attach(request(2))
    listen(honest)
    assert liar.netns_fd is not None

    def lie() -> str:
        with Netlink() as inner:
            found = link.find(inner, "eth0")
            assert found is not None
            inner.ask(address.add(found.index, address.IPv4Interface("172.17.0.77/16")))
        with socket.create_connection((ip(honest), 80), timeout=0.3, source_address=("172.17.0.77", 0)) as connection:
            return connection.recv(100).decode()

    with pytest.raises(OSError):
        namespace.inside(liar.netns_fd, lie)
    networks.release(liar.container_id)
    networks.release(honest.container_id)


def test_networks_are_kept_apart_but_published_ports_are_shared(networks: Networks) -> None:
    networks.create(NetworkCreate(name="red"))
    networks.create(NetworkCreate(name="blue"))
    server = networks.attach(request(1, mode="red", bindings=fixed()))
    client = networks.attach(request(2, mode="blue"))
    listen(server)
    with pytest.raises(OSError):
        dial_from(client, ip(server, "red"), 80, timeout=0.3)
    assert dial_from(client, client.endpoints["blue"].gateway, 8080)
    networks.release(server.container_id)
    networks.release(client.container_id)


def test_internal_network_has_no_way_out_and_publishes_nothing(networks: Networks) -> None:
    far = outside(networks)
    listen(far)
    networks.create(NetworkCreate(name="inner", internal=True))
    first, second = networks.attach(request(1, mode="inner", bindings=fixed())), networks.attach(request(2, mode="inner"))
    listen(first)
    assert dial_from(second, ip(first, "inner"), 80) == ip(second, "inner")
    assert first.ports == {}
    assert first.endpoints["inner"].gateway == ""
    with pytest.raises(OSError):
        dial_from(first, "198.51.100.1", 80, timeout=0.3)
    networks.release(first.container_id)
    networks.release(second.container_id)
    unplug(networks, far)


def test_no_icc_keeps_containers_of_one_bridge_apart(networks: Networks) -> None:
    networks.create(NetworkCreate(name="apart", options={"com.docker.network.bridge.enable_icc": "false"}))
    server, client = networks.attach(request(1, mode="apart", bindings=fixed())), networks.attach(request(2, mode="apart"))
    listen(server)
    with pytest.raises(OSError):
        dial_from(client, ip(server, "apart"), 80, timeout=0.3)
    assert dial("127.0.0.1", 8080)
    networks.release(server.container_id)
    networks.release(client.container_id)


def test_settings_inside_are_dockers(networks: Networks) -> None:
    sandbox = networks.attach(request(1))
    assert sandbox.netns_fd is not None

    def look() -> tuple[str, ...]:
        paths = ("ipv4/ip_unprivileged_port_start", "ipv4/ping_group_range", "ipv6/conf/eth0/disable_ipv6", "ipv6/conf/lo/disable_ipv6")
        return tuple(Path(f"/proc/sys/net/{path}").read_text().strip() for path in paths)

    assert namespace.inside(sandbox.netns_fd, look) == ("0", "0\t2147483647", "1", "0")
    networks.release(sandbox.container_id)


def test_none_host_and_joined_modes(networks: Networks) -> None:
    alone = networks.attach(request(1, mode="none"))
    assert alone.netns_fd is not None
    assert alone.endpoints == {}
    assert namespace.inside(alone.netns_fd, lambda: [name for _, name in socket.if_nameindex() if name == "eth0"]) == []
    assert networks.attach(request(2, mode="host")).netns_fd is None
    with open("/proc/self/ns/net") as own:
        joined = networks.attach(request(3, mode="container:x", join_fd=own.fileno()))
    assert joined.netns_fd is not None
    assert os.fstat(joined.netns_fd).st_ino == os.stat("/proc/self/ns/net").st_ino
    for number in (1, 2, 3):
        networks.release(f"{number:064x}")


def test_release_returns_ports_addresses_and_rules(networks: Networks, settings: Settings) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(1, 6):
        networks.attach(request(number, bindings=fixed(first=8000 + number))).close_forwards()
    assert elements(settings.tag, "ports") == 5
    for number in range(1, 6):
        networks.release(f"{number:064x}")
    networks.settle()
    assert elements(settings.tag, "ports") == 0
    with Netlink() as host:
        assert [one.name for one in link.links(host) if one.kind == "veth"] == []
    again = networks.attach(request(9, bindings=fixed(first=8001)))
    assert ip(again) == "172.17.0.2"
    networks.release(again.container_id)
    networks.release(again.container_id)  # twice is success
    networks.settle()
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 4  # two spare namespaces of two descriptors may have been made since


def test_twenty_containers_that_want_one_port_have_one_winner(networks: Networks, settings: Settings) -> None:
    def attempt(number: int) -> str:
        try:
            networks.attach(request(number, bindings=fixed()))
        except Internal as error:
            return str(error)
        return "won"

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(attempt, range(1, 21)))
    assert results.count("won") == 1
    assert all(one == "won" or one.endswith("Bind for 0.0.0.0:8080 failed: port is already allocated") for one in results)
    winner = results.index("won") + 1
    assert elements(settings.tag, "ports") == 1
    networks.release(f"{winner:064x}")
    assert networks.inspect("bridge").containers == {}


def test_port_taken_by_another_program_is_named_and_nothing_is_left(networks: Networks) -> None:
    with socket.create_server(("0.0.0.0", 8777)):
        message = refused(lambda: networks.attach(request(1, bindings=fixed(first=8777))), Internal)
    assert message.startswith("driver failed programming external connectivity on endpoint c1 (")
    assert message.endswith("): failed to bind host port for 0.0.0.0:8777:172.17.0.2:80/tcp: address already in use")
    networks.settle()
    assert ip(networks.attach(request(2))) == "172.17.0.2"
    networks.release(request(2).container_id)


def test_create_inspect_list_and_remove(networks: Networks) -> None:
    assert [one.name for one in networks.list()] == ["bridge", "host", "none"]
    made = networks.create(NetworkCreate(name="n1", labels={"a": "b"}))
    assert made.ipam.config is not None
    assert (made.ipam.config[0].subnet, made.ipam.config[0].gateway) == ("172.18.0.0/16", "172.18.0.1")
    assert networks.inspect(made.id[:7]).name == "n1"
    assert [one.name for one in networks.list({"type": ["custom"]})] == ["n1"]
    assert [one.name for one in networks.list({"label": ["a=c"]})] == []
    assert [one.name for one in networks.list({"dangling": ["true"]})] == ["n1"]
    assert refused(lambda: networks.create(NetworkCreate(name="n1")), Conflict) == "network with name n1 already exists"
    sandbox = networks.attach(request(1, mode="n1"))
    shown = networks.inspect("n1").containers[sandbox.container_id]
    assert (shown.name, shown.ipv4_address) == ("c1", "172.18.0.2/16")
    message = refused(lambda: networks.remove("n1"), Forbidden)
    assert message == f'error while removing network: network n1 has active endpoints (name:"c1" id:"{shown.endpoint_id[:12]}")'
    networks.release(sandbox.container_id)
    networks.remove("n1")
    assert refused(lambda: networks.remove("n1"), NotFound) == "network n1 not found"
    assert refused(lambda: networks.remove("bridge"), Forbidden) == "bridge is a pre-defined network and cannot be removed"


def test_prune_removes_only_unused_networks(networks: Networks) -> None:
    networks.create(NetworkCreate(name="used"))
    networks.create(NetworkCreate(name="idle"))
    networks.create(NetworkCreate(name="kept", labels={"keep": ""}))
    sandbox = networks.attach(request(1, mode="used"))
    assert [one.name for one in networks.prune({"label!": ["keep"]})] == ["idle"]
    assert networks.prune({"until": ["1h"]}) == []
    networks.release(sandbox.container_id)


def test_address_pool_skips_what_the_host_uses(own_host: None, settings: Settings, records: Records) -> None:
    with Netlink() as host:
        host.ask(link.create_bridge("docker0"), link.set_up(name="docker0"))
        host.ask(address.add(socket.if_nametoindex("docker0"), address.IPv4Interface("172.17.0.1/16")))
    service = Networks(settings, records)
    service.start()
    try:
        pools = service.inspect("bridge").ipam.config
        assert pools is not None
        assert pools[0].subnet == "172.18.0.0/16"
    finally:
        service.close()
        service.destroy()
    with Netlink() as host:
        assert link.find(host, "docker0") is not None  # somebody else's


def test_foreign_bridge_of_the_wanted_name_is_refused_and_kept(networks: Networks) -> None:
    with Netlink() as host:
        host.ask(link.create_bridge("theirs"))
        options = {"com.docker.network.bridge.name": "theirs"}
        message = refused(lambda: networks.create(NetworkCreate(name="n1", options=options)), Forbidden)
        assert "theirs" in message
        assert link.find(host, "theirs") is not None
        assert [one.name for one in networks.list({"type": ["custom"]})] == []
        host.ask(link.delete("theirs"))


def test_fixed_address_and_mac_are_given(networks: Networks) -> None:
    pool = AddressPool(subnet="10.77.0.0/24", ip_range="10.77.0.128/25", gateway="10.77.0.9")
    networks.create(NetworkCreate(name="n1", ipam=NetworkAddresses(config=[pool])))
    wish = EndpointSettings(ipam_config=EndpointIPAM(ipv4_address="10.77.0.50"), mac_address="02:42:AC:11:00:09", aliases=["db"])
    sandbox = networks.attach(request(1, mode="n1", networks={"n1": wish}))
    endpoint = sandbox.endpoints["n1"]
    assert (endpoint.ip_address, endpoint.mac_address, endpoint.gateway) == ("10.77.0.50", "02:42:ac:11:00:09", "10.77.0.9")
    assert endpoint.dns_names == ["c1", "db", "0" * 12]
    second = networks.attach(request(2, mode="n1"))
    assert ip(second, "n1") == "10.77.0.128"
    assert refused(lambda: networks.attach(request(3, networks={"n1": wish})), Forbidden) == "Address already in use"
    networks.release(sandbox.container_id)
    networks.release(second.container_id)


def test_wishes_that_the_default_network_cannot_grant_are_refused(networks: Networks) -> None:
    wish = EndpointSettings(ipam_config=EndpointIPAM(ipv4_address="172.17.0.9"))
    assert refused(lambda: networks.check("bridge", {"bridge": wish}), InvalidRequest) == (
        "invalid config for network bridge: invalid endpoint settings:\n"
        "* user specified IP address is supported on user defined networks only\n"
        "* user specified IP address is supported only when connecting to networks with user configured subnets"
    )
    alias = EndpointSettings(aliases=["x"])
    assert refused(lambda: networks.check("bridge", {"bridge": alias}), InvalidRequest) == (
        "invalid config for network bridge: invalid endpoint settings:\n"
        "network-scoped alias is supported only for containers in user defined networks"
    )
    networks.check("nowhere", {"nowhere": alias})  # may be made before the start
    option = EndpointSettings(driver_opts={"com.docker.network.endpoint.sysctls": "x"})
    assert "unrecognised network interface sysctl 'x'; represent" in refused(
        lambda: networks.check("bridge", {"bridge": option}), InvalidRequest
    )


def test_an_address_that_is_just_leaving_is_waited_for(networks: Networks) -> None:
    room_for_one = NetworkAddresses(config=[AddressPool(subnet="10.60.0.0/30")])
    networks.create(NetworkCreate(name="one", ipam=room_for_one))
    fixed_address = EndpointSettings(ipam_config=EndpointIPAM(ipv4_address="10.60.0.2"))
    for wish in (fixed_address, fixed_address, EndpointSettings(), fixed_address):
        assert ip(networks.attach(request(1, mode="one", networks={"one": wish})), "one") == "10.60.0.2"
        with pytest.raises(Forbidden, match="Address already in use"):
            networks.attach(request(2, mode="one", networks={"one": fixed_address}))
        networks.release(request(1).container_id)


def test_connect_and_disconnect_a_running_container(networks: Networks) -> None:
    networks.create(NetworkCreate(name="aside"))
    first, second = networks.attach(request(1)), networks.attach(request(2, mode="aside"))
    listen(second)
    given = networks.connect(first.container_id, "aside", EndpointSettings(aliases=["uno"]))
    assert given.dns_names == ["c1", "uno", "0" * 12]
    assert first.netns_fd is not None
    names = namespace.inside(first.netns_fd, lambda: [name for _, name in socket.if_nameindex()])
    assert {"eth0", "eth1"} <= set(names)
    assert dial_from(first, ip(second, "aside"), 80) == given.ip_address
    assert (
        refused(lambda: networks.connect(first.container_id, "aside"), Forbidden) == "endpoint with name c1 already exists in network aside"
    )
    networks.disconnect(first.container_id, "aside")
    assert set(first.endpoints) == {"bridge"}
    assert "eth1" not in namespace.inside(first.netns_fd, lambda: [name for _, name in socket.if_nameindex()])
    message = refused(lambda: networks.disconnect(first.container_id, "aside"), Forbidden)
    assert message == f"container {first.container_id} is not connected to network aside"
    far = outside(networks)
    listen(far)
    assert dial_from(first, "198.51.100.1", 80)  # the default route is back
    networks.release(first.container_id)
    networks.release(second.container_id)
    unplug(networks, far)


def test_container_on_two_networks_has_its_interfaces_in_order_and_one_default_route(networks: Networks) -> None:
    networks.create(NetworkCreate(name="zwei"))
    networks.create(NetworkCreate(name="eins"))
    wishes = {"zwei": EndpointSettings(), "eins": EndpointSettings()}
    sandbox = networks.attach(request(1, mode="zwei", networks=wishes, bindings=fixed()))
    assert sandbox.namespace is not None
    found = [one for one in route.routes(sandbox.namespace.netlink) if one.destination.prefixlen == 0]
    assert [str(one.gateway) for one in found] == [sandbox.endpoints["eins"].gateway]
    listen(sandbox)
    assert dial("127.0.0.1", 8080)
    networks.release(sandbox.container_id)


def test_restart_of_the_daemon_keeps_live_containers_and_sweeps_dead_ones(networks: Networks, settings: Settings, records: Records) -> None:
    networks.create(NetworkCreate(name="n1"))
    live, dead = networks.attach(request(1, mode="n1", bindings=fixed())), networks.attach(request(2, bindings=fixed(first=8081)))
    live.close_forwards()
    dead.close_forwards()
    listen(live)
    networks.close()
    successor = Networks(settings, records)
    successor.start([live.container_id])
    assert dial("127.0.0.1", 8080)
    assert elements(settings.tag, "ports") == 1
    with Netlink() as host:
        assert len([one for one in link.links(host) if one.kind == "veth"]) == 1
    assert "port is already allocated" in refused(lambda: successor.attach(request(3, bindings=fixed())), Internal)
    again = successor.attach(request(4, mode="n1"))
    assert ip(again, "n1") == "172.18.0.3"
    assert [one.name for one in successor.inspect("n1").containers.values()] == ["c1", "c4"]
    for ident in (live.container_id, again.container_id):
        successor.release(ident)
    successor.settle()
    successor.close()
    networks.release(live.container_id)
    networks.release(dead.container_id)


def test_flushed_tables_are_built_again(networks: Networks, settings: Settings) -> None:
    first = networks.attach(request(1, bindings=fixed()))
    listen(first)
    work = nftables.Transaction()
    work.delete_table(Table(nftables.NFPROTO_INET, settings.tag))
    with nftables.connect() as netlink:
        work.commit(netlink)
    second = networks.attach(request(2, bindings=fixed(first=8081)))
    listen(second)
    for sandbox in (first, second):
        sandbox.close_forwards()
    assert dial("127.0.0.1", 8080)
    assert dial("127.0.0.1", 8081)
    networks.release(first.container_id)
    networks.release(second.container_id)


def test_flushed_tables_come_back_by_themselves(networks: Networks, settings: Settings) -> None:
    sandbox = networks.attach(request(1, bindings=fixed()))
    sandbox.close_forwards()
    listen(sandbox)
    table = Table(nftables.NFPROTO_INET, settings.tag)
    work = nftables.Transaction()
    work.delete_table(table)
    with nftables.connect() as netlink, nftables.subscribe() as notices:
        work.commit(netlink)
        while not any(nftables.table_name(one) == settings.tag and one.sender != netlink.port for one in notices.notices()):
            pass
        assert table in nftables.tables(netlink)
    assert dial("127.0.0.1", 8080)
    networks.release(sandbox.container_id)


def test_a_guard_stays_until_the_interface_is_gone_also_in_tables_that_are_built_again(
    networks: Networks, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    gone = networks.attach(request(1))
    bridge = Table(nftables.NFPROTO_BRIDGE, settings.tag)

    def guarded() -> int:
        with nftables.connect() as netlink:
            return len(nftables.elements(netlink, bridge, "guarded"))

    assert guarded() == 1
    with networks._lock:  # who takes guards away waits for it
        networks.release(gone.container_id)
        networks._firewall.build()  # as after a flush
        assert guarded() == 1
    networks.settle()
    assert guarded() == 0
    assert not caplog.records


def test_legacy_link_is_a_name_on_a_user_defined_network(networks: Networks) -> None:
    networks.create(NetworkCreate(name="n1"))
    target = networks.attach(request(1, mode="n1"))
    wanted = LinkTarget(container_id=target.container_id, name="c1", alias="database", address=ip(target, "n1"))
    viewer = networks.attach(request(2, mode="n1", links=[wanted]))
    assert viewer.internal_resolver
    assert viewer.record.links == {"database": "c1"}
    networks.release(target.container_id)
    networks.release(viewer.container_id)


def test_the_daemons_thread_never_leaves_its_namespace(networks: Networks) -> None:
    fd = netns.current_network()
    before = os.fstat(fd).st_ino
    os.close(fd)
    networks.attach(request(1))
    assert os.stat("/proc/thread-self/ns/net").st_ino == before
    networks.release(request(1).container_id)
