"""inspect: Docker's two views of an object, and what is printed when some are absent."""

from __future__ import annotations

import pytest

from wherry.cli.flags import Failure
from wherry.cli.inspection import Inspector, run_inspect
from wherry.cli.template import TemplateError
from wherry.client.engine import ApiError

CONTAINER = {
    "State": {"Status": "running"}, "HostConfig": {"NanoCpus": 5, "Dns": ["1.1.1.1"]},
    "Config": {"Labels": {"a": "b"}, "Entrypoint": None, "Volumes": None},
    "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.2"}}, "Ports": {"80/tcp": [{"HostPort": "8080"}]}},
}  # fmt: skip


def text(layout: str) -> str:
    inspector = Inspector(layout)
    inspector.add(CONTAINER)
    return inspector.text()


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("{{if .State.Health}}x{{else}}no health{{end}}", "no health\n"),
        ("{{.State.Health}} {{.Config.Entrypoint}} {{.Config.Volumes}}", "<nil> [] map[]\n"),
        ("{{range $name, $n := .NetworkSettings.Networks}}{{$name}}={{$n.IPAddress}}{{end}}", "bridge=172.17.0.2\n"),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080\n"),
        ("{{json .Config.Entrypoint}}", "null\n"),
        (
            "{{.HostConfig.NanoCPUs}} {{.HostConfig.DNS}} {{.SizeRw}} {{json .HostConfig}}",
            '5 [1.1.1.1] <nil> {"NanoCpus":5,"Dns":["1.1.1.1"]}\n',
        ),
    ],
)
def test_fields_read_as_from_docker_structs(layout: str, expected: str) -> None:
    assert text(layout) == expected


def test_what_is_empty_is_left_out_of_the_json_and_there_for_a_template() -> None:
    """Recorded of a network with a subnet alone, and of a volume."""
    inspector = Inspector("{{range .IPAM.Config}}{{.Subnet}}|{{.Gateway}}|{{.IPRange}}|{{.AuxAddress}}{{end}} {{.Peers}} {{.Services}}")
    inspector.add({"Name": "n", "Id": "1", "IPAM": {"Driver": "default", "Options": {}, "Config": [{"Subnet": "198.51.100.0/24"}]}})
    assert inspector.text() == "198.51.100.0/24|||map[] [] map[]\n"
    inspector = Inspector("{{.ClusterVolume}}|{{.Status}}|{{.UsageData}}|{{.Labels}}")
    inspector.add({"Name": "v", "Mountpoint": "/v", "Labels": None})
    assert inspector.text() == "<nil>|map[]|<nil>|map[]\n"


@pytest.mark.parametrize(
    ("layout", "place"),
    [("{{.Bogus}}", '2: executing "" at <.Bogus>'), ("{{.State.Health.Status}}", '8: executing "" at <.State.Health.Status>')],
)
def test_missing_field_is_told_from_the_plain_json(layout: str, place: str) -> None:
    key = "Bogus" if "Bogus" in layout else "Health"
    with pytest.raises(TemplateError) as caught:
        text(layout)
    assert str(caught.value) == f'template parsing error: template: :1:{place}: map has no entry for key "{key}"'


def test_found_ones_are_printed_and_absent_ones_told(capsys: pytest.CaptureFixture[str]) -> None:
    def fetch(name: str) -> object:
        if name == "nosuch":
            raise ApiError(404, "No such image: nosuch:latest")
        return {"Id": name}

    assert run_inspect("", ["a", "nosuch"], fetch) == 1
    captured = capsys.readouterr()
    assert captured.out == '[\n    {\n        "Id": "a"\n    }\n]\n'
    assert captured.err == "Error response from daemon: No such image: nosuch:latest\n"


def test_bad_template_ends_with_64() -> None:
    with pytest.raises(Failure) as caught:
        run_inspect("{{", ["a"], lambda name: {})
    assert caught.value.status == 64
