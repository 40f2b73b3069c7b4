"""Networks as a person at a terminal has them: names, links, modes, published ports, isolation, the way out."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.conftest import Daemon, make_daemon, running
from tests.system.outside import Outside, outside
from tests.system.ports import free_ports
from tests.system.talk import ask
from tests.system.waiting import until

from wherry.networks import bridge, namespace

pytestmark = [pytest.mark.root, pytest.mark.slow]

SERVER = "mkdir -p /tmp/cgi-bin; echo %s > /tmp/index.html; printf '#!/bin/sh\\necho; echo $REMOTE_ADDR\\n' > /tmp/cgi-bin/me; \
chmod +x /tmp/cgi-bin/me; exec httpd -f -h /tmp"


class Stage:
    """Containers and networks of one test, all named after it and taken away at its end."""

    def __init__(self, engine: Daemon, name: str) -> None:
        self.engine = engine
        self.name = name
        self.containers: list[str] = []
        self.networks: list[str] = []

    def network(self, short: str, *options: str) -> str:
        name = f"{self.name}-{short}"
        self.engine.run("network", "create", *options, name)
        self.networks.append(name)
        return name

    def idle(self, short: str, *options: str) -> str:
        """A container that only waits."""
        name = f"{self.name}-{short}"
        self.containers.append(name)
        self.engine.run("run", "-d", "--name", name, *options, "bb", "sleep", "1000")
        return name

    def server(self, short: str, *options: str) -> str:
        """A container whose port 80 answers with its name; ``/cgi-bin/me`` tells the caller's address."""
        name = f"{self.name}-{short}"
        self.containers.append(name)
        self.engine.run("run", "-d", "--name", name, *options, "bb", "sh", "-c", SERVER % short)
        until(lambda: self.fetch(name, "127.0.0.1") == short)
        return name

    def fetch(self, container: str, host: str, path: str = "/index.html", port: int = 80, *, seconds: int = 30) -> str:
        """The body's last line as the container gets it; empty when there is no answer."""
        script = f"printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' | nc -w {seconds} {host} {port} | tail -n 1"
        return self.engine.run("exec", container, "sh", "-c", script, check=False).out.strip()

    def addresses(self, container: str, name: str) -> list[str]:
        """What the container's resolver knows of a name."""
        found = self.engine.run("exec", container, "nslookup", name, check=False).out.split("\n")
        return sorted(line.split()[1] for line in found[2:] if line.startswith("Address: "))

    def ip(self, container: str, network: str = "bridge") -> str:
        form = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
        return self.engine.out("inspect", container, "-f", form)

    def clear(self) -> None:
        if self.containers:
            self.engine.run("rm", "-f", *self.containers, check=False)
        if self.networks:
            self.engine.run("network", "rm", *self.networks, check=False)


@pytest.fixture
def stage(engine: Daemon, request: pytest.FixtureRequest) -> Iterator[Stage]:
    made = Stage(engine, f"t{abs(hash(request.node.name)) % 10**8}")
    yield made
    made.clear()


@pytest.fixture(scope="module")
def far() -> Iterator[Outside]:
    with ExitStack() as stack:
        yield stack.enter_context(outside())


def page(host: str, port: str | int, path: str = "/index.html") -> str:
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=20) as answer:
        return str(answer.read().decode()).strip()


def host_port(engine: Daemon, container: str, port: str = "80") -> int:
    return int(engine.out("port", container, port).split("\n")[0].rpartition(":")[2])


# --- names


def test_container_is_found_by_its_name_short_id_and_alias(stage: Stage) -> None:
    network = stage.network("n")
    server = stage.server("web", "--network", network, "--network-alias", "site", "--hostname", "own.host.name")
    client = stage.idle("client", "--network", network)
    address = stage.ip(server, network)
    short = stage.engine.out("inspect", server, "-f", "{{slice .Id 0 12}}")
    for name in (server, "site", short, server.upper()):
        assert stage.addresses(client, name) == [address], name
        assert stage.fetch(client, name) == "web"
    assert stage.addresses(client, "own.host.name") == [address]  # Docker 28 answers for the hostname too
    assert stage.addresses(client, "nobody") == []
    reverse = stage.engine.out("exec", client, "nslookup", address)
    assert f"{server}.{network}" in reverse


def test_alias_of_several_containers_leads_to_all_of_them(stage: Stage) -> None:
    network = stage.network("n")
    servers = [stage.idle(f"s{number}", "--network", network, "--network-alias", "all") for number in range(3)]
    assert stage.addresses(servers[0], "all") == sorted(stage.ip(one, network) for one in servers)
    stage.engine.run("stop", "-t", "0", servers[1])
    assert len(stage.addresses(servers[0], "all")) == 2


def test_names_are_those_of_the_shared_networks_only(stage: Stage) -> None:
    here, there = stage.network("here"), stage.network("there")
    one, other = stage.idle("one", "--network", here), stage.idle("other", "--network", there)
    assert stage.addresses(one, other) == []
    both = stage.idle("both", "--network", here, "--network", there)
    assert stage.addresses(both, one) == [stage.ip(one, here)]
    assert stage.addresses(both, other) == [stage.ip(other, there)]
    assert stage.addresses(one, both) == [stage.ip(both, here)]
    assert stage.addresses(other, both) == [stage.ip(both, there)]


def test_default_bridge_has_no_names_and_the_hosts_servers(stage: Stage) -> None:
    one = stage.idle("one")
    assert "127.0.0.11" not in stage.engine.out("exec", one, "cat", "/etc/resolv.conf")


def test_renamed_container_is_found_by_its_new_name(stage: Stage) -> None:
    network = stage.network("n")
    server, client = stage.idle("old", "--network", network), stage.idle("client", "--network", network)
    new = f"{stage.name}-new"
    stage.containers.append(new)
    stage.engine.run("rename", server, new)
    assert stage.addresses(client, new) == [stage.ip(new, network)]
    assert stage.addresses(client, server) == []


def test_hosts_file_has_the_containers_own_name_and_what_was_added(stage: Stage) -> None:
    network = stage.network("n", "--subnet", f"10.{os.getpid() % 200}.254.0/24")
    box = stage.idle(
        "box",
        "--network",
        network,
        "-h",
        "box.example.org",
        "--add-host",
        "db:10.1.2.3",
        "--add-host=up=host-gateway",
        "--add-host",
        "six:::2",
    )
    lines = stage.engine.out("exec", box, "cat", "/etc/hosts").split("\n")
    gateway = stage.engine.out("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}")
    for line in ("10.1.2.3\tdb", f"{gateway}\tup", "::2\tsix", f"{stage.ip(box, network)}\tbox.example.org box"):
        assert line in lines


def test_dns_flags_are_in_resolv_conf(stage: Stage) -> None:
    network = stage.network("n")
    flags = ("--dns", "192.0.2.53", "--dns-search", "a.example", "--dns-option", "ndots:3")
    on_bridge = stage.idle("bridge", *flags)
    text = stage.engine.out("exec", on_bridge, "cat", "/etc/resolv.conf").split("\n")
    assert text[4:7] == ["nameserver 192.0.2.53", "search a.example", "options ndots:3"]
    on_network = stage.idle("network", "--network", network, *flags)
    text = stage.engine.out("exec", on_network, "cat", "/etc/resolv.conf").split("\n")
    assert text[4:6] == ["nameserver 127.0.0.11", "search a.example"]
    assert "192.0.2.53" in "\n".join(text)


# --- links


def test_link_gives_a_hosts_line_and_the_others_environment(stage: Stage) -> None:
    server = stage.server("db", "--expose", "5432", "-e", "COLOUR=blue")
    client = stage.idle("client", "--link", f"{server}:db")
    address = stage.ip(server)
    ident = stage.engine.out("inspect", server, "-f", "{{slice .Id 0 12}}")
    assert f"{address}\tdb {ident} {server}" in stage.engine.out("exec", client, "cat", "/etc/hosts").split("\n")
    assert stage.fetch(client, "db") == "db"
    environment = stage.engine.out("exec", client, "cat", "/proc/1/environ").split("\0")
    assert f"DB_PORT=tcp://{address}:5432" in environment
    assert f"DB_PORT_5432_TCP_ADDR={address}" in environment
    assert "DB_ENV_COLOUR=blue" in environment
    assert f"DB_NAME=/{client}/db" in environment


def test_link_on_a_network_is_a_name_for_this_container_alone(stage: Stage) -> None:
    network = stage.network("n")
    server = stage.idle("server", "--network", network)
    client = stage.idle("client", "--network", network, "--link", f"{server}:db")
    other = stage.idle("other", "--network", network)
    assert stage.addresses(client, "db") == [stage.ip(server, network)]
    assert stage.addresses(other, "db") == []


def test_a_link_on_a_network_follows_the_name_whoever_has_it(stage: Stage) -> None:
    network, name = stage.network("n"), f"{stage.name}-server"
    client = stage.idle("client", "--network", network, "--link", f"{name}:db", "--link", f"/{name}:/x/data")  # not there yet
    late = stage.idle("late")
    stage.engine.run("network", "connect", "--link", f"{name}:db", network, late)
    shown = "{{(index .NetworkSettings.Networks " + f'"{network}"' + ").Links}} {{json .HostConfig.Links}}"
    assert stage.engine.out("inspect", client, "-f", shown) == f"[{name}:db /{name}:/x/data] null"
    assert [stage.addresses(one, "db") for one in (client, late)] == [[], []]
    for _ in range(2):
        server = stage.idle("server", "--network", network)
        address = [stage.ip(server, network)]
        assert [stage.addresses(one, alias) for one, alias in ((client, "db"), (client, "data"), (late, "db"))] == [address] * 3
        assert stage.addresses(server, "db") == []
        stage.engine.run("rm", "-f", server)
    stage.engine.run("network", "disconnect", network, late)
    stage.engine.run("network", "connect", network, late)
    stage.idle("server", "--network", network)
    assert stage.addresses(late, "db") == []


def test_a_link_is_removed_by_the_containers_name_and_its_own(stage: Stage) -> None:
    server = stage.idle("server")
    client = stage.idle("client", "--link", f"{server}:one", "--link", f"{server}:two")
    for wrong in (f"{client}/three", f"{server}x/one"):
        assert f"No such container: {wrong}\n" in stage.engine.run("rm", "--link", wrong, check=False).err
    default = stage.engine.run("rm", "--link", client, check=False)
    assert (default.code, "cannot remove the default link name of the container" in default.err) == (1, True)
    assert stage.engine.out("rm", "--link", f"{client}/one") == f"{client}/one"
    assert stage.engine.out("inspect", client, "-f", "{{.State.Status}} {{.HostConfig.Links}}") == f"running [/{server}:/{client}/two]"
    stage.engine.run("rm", "-l", f"/{client}/two")
    stage.engine.run("restart", "-t", "0", client)
    assert stage.engine.out("inspect", client, "-f", "{{json .HostConfig.Links}}") == "null"
    assert "two" not in stage.engine.out("exec", client, "cat", "/etc/hosts")


# --- modes


def test_none_has_only_a_loopback(stage: Stage) -> None:
    assert stage.engine.out("run", "--rm", "--network", "none", "bb", "ls", "/sys/class/net") == "lo"


def test_host_mode_shares_everything(stage: Stage) -> None:
    box = stage.idle("box", "--network", "host")
    assert stage.engine.out("exec", box, "readlink", "/proc/1/ns/net") == os.readlink("/proc/self/ns/net")
    assert stage.engine.out("exec", box, "hostname") == socket.gethostname()
    assert stage.engine.out("inspect", box, "-f", "{{json .NetworkSettings.Ports}}") == "{}"


def test_container_mode_shares_interfaces_and_names(stage: Stage) -> None:
    network = stage.network("n")
    server = stage.server("web", "--network", network)
    guest = stage.idle("guest", "--network", f"container:{server}")
    assert stage.fetch(guest, "127.0.0.1") == "web"
    assert stage.addresses(guest, server) == [stage.ip(server, network)]
    assert stage.engine.out("exec", guest, "cat", "/etc/hosts") == stage.engine.out("exec", server, "cat", "/etc/hosts")
    assert stage.engine.out("exec", guest, "hostname") == stage.engine.out("exec", server, "hostname")
    done = stage.engine.run("run", "--rm", "--network", f"container:{server}", "-p", "80", "bb", "true", check=False)
    assert (done.code, "port publishing and the container type network mode" in done.err) == (125, True)


# --- hot changes


def test_connect_and_disconnect_a_running_container(stage: Stage) -> None:
    network = stage.network("n")
    server = stage.server("web")
    client = stage.idle("client", "--network", network)
    assert stage.addresses(client, server) == []
    stage.engine.run("network", "connect", "--alias", "late", network, server)
    address = stage.ip(server, network)
    assert stage.addresses(client, "late") == [address]
    assert stage.fetch(client, "late") == "web"
    assert stage.addresses(server, client) == [stage.ip(client, network)]  # its resolv.conf leads to 127.0.0.11 now
    assert address in stage.engine.out("exec", server, "cat", "/etc/hosts")
    assert stage.engine.out("inspect", client, "-f", "{{.NetworkSettings.IPAddress}}") == ""
    assert stage.engine.out("inspect", server, "-f", "{{.NetworkSettings.IPAddress}}") == stage.ip(server)
    inspected = json.loads(stage.engine.out("network", "inspect", network, "-f", "{{json .Containers}}"))
    assert sorted(one["Name"] for one in inspected.values()) == sorted([client, server])
    stage.engine.run("network", "disconnect", network, server)
    assert stage.addresses(client, "late") == []
    assert stage.fetch(client, address, seconds=2) == ""
    assert stage.addresses(server, client) == []
    assert address not in stage.engine.out("exec", server, "cat", "/etc/hosts")
    assert stage.engine.out("exec", server, "ls", "/sys/class/net").split() == ["eth0", "lo"]


def test_connection_made_while_stopped_is_there_after_the_start(stage: Stage) -> None:
    network = stage.network("n")
    box = stage.idle("box")
    stage.engine.run("stop", "-t", "0", box)
    stage.engine.run("network", "connect", network, box)
    stage.engine.run("start", box)
    assert stage.engine.out("exec", box, "ls", "/sys/class/net").split() == ["eth0", "eth1", "lo"]
    stage.engine.run("restart", "-t", "0", box)
    assert stage.ip(box, network)
    stage.engine.run("network", "disconnect", "bridge", box)
    assert list(json.loads(stage.engine.out("inspect", box, "-f", "{{json .NetworkSettings.Networks}}"))) == [network]


# --- the way out, and what is kept apart


def test_container_reaches_another_machine_by_the_hosts_address(stage: Stage, far: Outside) -> None:
    box = stage.idle("box", "--network", stage.network("n"))
    for container in (box, stage.idle("default")):
        assert stage.fetch(container, far.own) == f"you are {far.host}"


def test_internal_network_has_no_way_out(stage: Stage, far: Outside) -> None:
    network = stage.network("n", "--internal")
    server, box = stage.server("web", "--network", network), stage.idle("box", "--network", network)
    assert stage.fetch(box, server) == "web"
    assert stage.fetch(box, far.own, seconds=2) == ""
    assert stage.engine.out("exec", box, "sh", "-c", "grep -c '^eth0' /proc/net/route") == "1"  # no default route


def test_networks_are_kept_apart(stage: Stage, far: Outside) -> None:
    server = stage.server("web", "--network", stage.network("one"))
    box = stage.idle("box", "--network", stage.network("two"))
    address = stage.ip(server, stage.networks[0])
    assert stage.fetch(box, address, seconds=2) == ""
    assert stage.fetch(stage.idle("default"), address, seconds=2) == ""
    with pytest.raises(OSError):
        far.dial(address, 80, timeout=0.5)


# --- published ports


def test_published_port_answers_on_every_address_of_the_host(stage: Stage, far: Outside) -> None:
    server = stage.server("web", "-p", "80")
    port = host_port(stage.engine, server)
    assert stage.engine.out("port", server) == f"80/tcp -> 0.0.0.0:{port}\n80/tcp -> [::]:{port}"
    assert [page(host, port) for host in ("127.0.0.1", "[::1]", far.host, "localhost")] == ["web"] * 4
    neighbour = stage.idle("neighbour", "--network", stage.network("n"))
    assert stage.fetch(neighbour, far.host, port=port) == "web"  # from another network, by the host's address
    assert stage.fetch(server, far.host, port=port) == "web"  # by itself


def test_callers_from_outside_are_seen_with_their_own_address(stage: Stage, far: Outside) -> None:
    server = stage.server("web", "-p", "80")
    answer = far.dial(far.host, host_port(stage.engine, server), b"GET /cgi-bin/me HTTP/1.0\r\n\r\n")
    assert answer.decode().split()[-1] == f"[::ffff:{far.own}]"


def test_port_on_one_address_is_not_on_the_others(stage: Stage, far: Outside) -> None:
    server = stage.server("web", "-p", "127.0.0.1::80", "-p", "[::1]::80")
    first, second = (line.rpartition(":") for line in stage.engine.out("port", server, "80").split("\n"))
    assert (first[0], second[0]) == ("127.0.0.1", "[::1]")
    assert page("127.0.0.1", first[2]) == "web"
    assert page("[::1]", second[2]) == "web"
    with pytest.raises(OSError):
        far.dial(far.host, int(first[2]), timeout=0.5)


def test_range_takes_the_first_free_and_a_parallel_range_goes_in_step(stage: Stage) -> None:
    first = free_ports(4)
    servers = [stage.server(f"s{number}", "-p", f"{first}-{first + 1}:80") for number in range(2)]
    assert [host_port(stage.engine, one) for one in servers] == [first, first + 1]
    done = stage.engine.run("run", "--rm", "-p", f"{first}-{first + 1}:80", "bb", "true", check=False)
    assert done.code == 125
    assert f"Bind for 0.0.0.0:{first + 1} failed: port is already allocated" in done.err
    parallel = stage.idle("parallel", "-p", f"{first + 2}-{first + 3}:81-82")
    assert (host_port(stage.engine, parallel, "81"), host_port(stage.engine, parallel, "82")) == (first + 2, first + 3)


def test_all_exposed_ports_are_published_by_P(stage: Stage) -> None:
    server = stage.server("web", "-P", "--expose", "80", "--expose", "90/udp")
    assert page("127.0.0.1", host_port(stage.engine, server)) == "web"
    assert host_port(stage.engine, server, "90/udp")
    listed = stage.engine.out("ps", "--filter", f"name={server}", "--format", "{{.Ports}}")
    assert "->80/tcp" in listed
    assert "->90/udp" in listed


def test_an_exposed_port_without_a_protocol_is_one_of_tcp(stage: Stage) -> None:
    box = f"{stage.name}-box"  # Compose's `expose: ["99"]`
    stage.containers.append(box)
    body = {"Image": "bb", "Cmd": ["sleep", "1000"], "ExposedPorts": {"99": {}, "98/udp": {}}}
    assert ask(stage.engine, "POST", f"/containers/create?name={box}", body)[0] == 201
    stage.engine.run("start", box)
    assert stage.engine.out("ps", "--filter", f"name={box}", "--format", "{{.Ports}}") == "98/udp, 99/tcp"
    assert stage.engine.out("inspect", box, "-f", "{{json .NetworkSettings.Ports}}") == '{"98/udp":null,"99/tcp":null}'


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_udp_port_is_published(stage: Stage, host: str) -> None:
    box = stage.idle("box", "-p", "53/udp")
    inner = os.open(f"/proc/{stage.engine.out('inspect', box, '-f', '{{.State.Pid}}')}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    server = namespace.inside(inner, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    os.close(inner)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with server, socket.socket(family, socket.SOCK_DGRAM) as client:
        server.bind(("0.0.0.0", 53))
        server.settimeout(20)
        client.settimeout(20)
        client.connect((host, host_port(stage.engine, box, "53/udp")))
        for word in (b"one", b"two"):
            client.send(word)
            heard, caller = server.recvfrom(100)
            server.sendto(heard.upper(), caller)
            assert client.recv(100) == word.upper()


@pytest.mark.parametrize(("options", "arrives"), [((), False), (("--cap-add", "NET_ADMIN"), True)])
def test_a_container_sends_only_from_its_own_address_unless_it_may_configure_interfaces(
    stage: Stage, options: tuple[str, ...], arrives: bool
) -> None:
    honest, liar = stage.idle("honest"), stage.idle("liar", *options)
    places = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}} {{.State.Pid}}"
    target, pid = stage.engine.out("inspect", honest, "-f", places).split()
    with ExitStack() as ends:
        inners = []
        for box in (int(pid), int(stage.engine.out("inspect", liar, "-f", "{{.State.Pid}}"))):
            inners.append(os.open(f"/proc/{box}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            ends.callback(os.close, inners[-1])
        server = ends.enter_context(namespace.inside(inners[0], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        raw = ends.enter_context(namespace.inside(inners[1], lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)))
        plain = ends.enter_context(namespace.inside(inners[1], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        server.bind(("0.0.0.0", 5353))
        server.settimeout(20)
        false = socket.inet_aton(target.rpartition(".")[0] + ".251")
        datagram = struct.pack(">4H", 5, 5353, 12, 0) + b"lies"
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, socket.IPPROTO_UDP, 0)
        raw.sendto(head + false + socket.inet_aton(target) + datagram, (target, 0))
        plain.sendto(b"truth", (target, 5353))
        heard = [server.recv(100)]
        if heard == [b"lies"]:
            heard.append(server.recv(100))
    assert heard == ([b"lies", b"truth"] if arrives else [b"truth"])


def test_taken_port_is_told_and_nothing_is_left(stage: Stage) -> None:
    server = stage.server("web", "-p", "80")
    port = host_port(stage.engine, server)
    name = f"{stage.name}-second"
    stage.containers.append(name)
    done = stage.engine.run("run", "-d", "--name", name, "-p", f"{port}:80", "bb", "sleep", "9", check=False)
    assert done.code == 125
    assert "failed to set up container networking: driver failed programming external connectivity on endpoint" in done.err
    assert f"Bind for 0.0.0.0:{port} failed: port is already allocated" in done.err
    assert stage.engine.out("inspect", name, "-f", "{{.State.Status}} {{len .NetworkSettings.Networks}}") == "created 1"
    members = json.loads(stage.engine.out("network", "inspect", "bridge", "-f", "{{json .Containers}}"))
    assert name not in {one["Name"] for one in members.values()}
    stage.engine.run("rm", "-f", server)
    stage.engine.run("start", name)
    assert host_port(stage.engine, name) == port


def test_port_of_another_program_is_told(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = stage.engine.run("run", "--rm", "-p", f"127.0.0.1:{port}:80", "bb", "true", check=False)
    assert done.code == 125
    assert f"failed to bind host port for 127.0.0.1:{port}:" in done.err
    assert ":80/tcp: address already in use" in done.err


def test_ports_of_a_daemon_with_an_address_are_published_there() -> None:
    with running(make_daemon("--ip", "127.0.0.1")) as daemon:
        daemon.run("run", "-d", "--name", "box", "-p", "80", "-p", "0.0.0.0::81", "bb", "sleep", "100")
        assert daemon.out("port", "box", "80").startswith("127.0.0.1:")
        assert daemon.out("port", "box", "81").startswith("0.0.0.0:")


# --- in use, prune


def test_network_in_use_is_kept_until_it_is_not(stage: Stage) -> None:
    network = stage.network("n")
    box = stage.idle("box", "--network", network)
    ident = stage.engine.out("inspect", box, "-f", "{{range .NetworkSettings.Networks}}{{slice .EndpointID 0 12}}{{end}}")
    done = stage.engine.run("network", "rm", network, check=False)
    assert done.code == 1
    message = f'error while removing network: network {network} has active endpoints (name:"{box}" id:"{ident}")'
    assert done.err == f"Error response from daemon: {message}\nexit status 1\n"
    stage.engine.run("network", "prune", "-f", "--filter", "label!=keep")
    assert network in stage.engine.out("network", "ls", "--format", "{{.Name}}").split()
    stage.engine.run("rm", "-f", box)
    assert stage.engine.out("network", "rm", network) == network
    done = stage.engine.run("network", "rm", network, check=False)
    assert done.err == f"Error response from daemon: network {network} not found\nexit status 1\n"


def test_prune_takes_unused_networks_with_the_label(stage: Stage) -> None:
    used = stage.network("used", "--label", stage.name)
    unused = stage.network("unused", "--label", stage.name)
    other = stage.network("other")
    stage.idle("box", "--network", used)
    assert stage.engine.out("network", "prune", "-f", "--filter", f"label={stage.name}") == f"Deleted Networks:\n{unused}"
    names = stage.engine.out("network", "ls", "--format", "{{.Name}}").split()
    assert (used in names, unused in names, other in names) == (True, False, True)


def test_a_container_with_an_address_of_its_own_restarts_at_once_and_another_follows_it(stage: Stage) -> None:
    ours = f"10.{os.getpid() % 200}.253"  # of this daemon's own range: another's might have any other
    network = stage.network("fixed", "--subnet", f"{ours}.0/24")
    for short in ("one", "two"):
        box = stage.idle(short, "--network", network, "--ip", f"{ours}.9")
        stage.engine.run("restart", "-t", "0", box)
        assert stage.ip(box, network) == f"{ours}.9"
        stage.engine.run("rm", "-f", box)


def test_interfaces_have_the_names_and_settings_they_ask_for_or_the_container_does_not_start(stage: Stage) -> None:
    network, other = stage.network("named"), stage.network("other")
    key = "driver-opt=com.docker.network.endpoint"
    box = stage.idle("box", "--network", f'name={network},{key}.ifname=boat%d,"{key}.sysctls=net.ipv4.conf.IFNAME.log_martians=1"')
    assert stage.engine.out("exec", box, "cat", "/proc/sys/net/ipv4/conf/boat0/log_martians") == "1"
    stage.engine.run("network", "connect", "--driver-opt", "com.docker.network.endpoint.ifname=oar", other, box)
    assert stage.engine.out("exec", box, "ls", "/sys/class/net").split() == ["boat0", "lo", "oar"]
    stage.engine.run("network", "disconnect", other, box)
    taken = stage.engine.run("network", "connect", "--driver-opt", "com.docker.network.endpoint.ifname=boat0", other, box, check=False)
    assert re.search(r'failed to add interface \w+ to sandbox: error renaming interface "\w+" to "boat0": file exists', taken.err)
    for option, words in (
        ("ifname=a b", "invalid argument"),
        ("sysctls=net.ipv4.conf.IFNAME.nope=1", "conf/eth0/nope is not a sysctl file"),
    ):
        refused = stage.engine.run("run", "--rm", "--network", f"name={network},{key}.{option}", "bb", "true", check=False)
        assert refused.code == 125
        assert "failed to set up container networking: failed to add interface" in refused.err
        assert words in refused.err


def test_container_of_a_vanished_network_cannot_start_and_says_why(stage: Stage) -> None:
    network = stage.network("n")
    box = stage.idle("box", "--network", network)
    stage.engine.run("stop", "-t", "0", box)
    stage.engine.run("network", "rm", network)
    done = stage.engine.run("start", box, check=False)
    assert done.code == 1
    assert f"network {network} not found" in done.err


def test_a_program_whose_network_cannot_be_made_does_not_run(stage: Stage, tmp_path: Path) -> None:
    name = stage.network("gone")
    ident = stage.engine.out("network", "inspect", name, "-f", "{{.Id}}")
    bridge.remove_by_name(next(one for one in os.listdir("/sys/class/net") if one.endswith(f"-{ident[:8]}")))
    container = f"{stage.name}-runs"
    stage.containers.append(container)
    options = ("--name", container, "--network", name, "-v", f"{tmp_path}:/out", "-p", "127.0.0.1::80")
    failed = stage.engine.run("run", "-d", *options, "bb", "touch", "/out/ran", check=False)
    assert "failed to set up container networking: failed to connect to network" in failed.err
    assert not list(tmp_path.iterdir())
    assert stage.engine.out("inspect", container, "-f", "{{.State.Status}} {{.NetworkSettings.IPAddress}}") == "created"
