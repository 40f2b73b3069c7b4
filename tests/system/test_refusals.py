"""What is refused, with the exit code and the words that Docker 28.5 gave for the same command line (its names replaced by ours)."""

from __future__ import annotations

import shlex
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.conftest import Daemon

CREATE = """
--name a                                  | Invalid container name (a), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed
--memory 1m                               | Minimum memory limit allowed is 6MB
--memory-swap 5m                          | You should always set the Memory limit when using Memoryswap limit, see usage
--memory-reservation 20m --memory 10m     | Minimum memory limit can not be less than memory reservation limit, see usage
--cpus -1                                 | range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available
--cpus 1 --cpu-quota 1000                 | Conflicting options: Nano CPUs and CPU Quota cannot both be set
--cpuset-cpus 1-0                         | Invalid value 1-0 for cpuset cpus: invalid format: 1-0
--cpuset-cpus 0,                          | Invalid value 0, for cpuset cpus: invalid format: 0,
--cpuset-cpus " 0"                        | Invalid value  0 for cpuset cpus: invalid format:  0
--oom-score-adj 2000                      | Invalid value 2000, range for oom score adj is [-1000, 1000]
--security-opt bogus=1                    | invalid --security-opt 2: "bogus=1"
--cap-add BOGUS                           | invalid CapAdd: unknown capability: "CAP_BOGUS"
--pid container:nosuch                    | No such container: nosuch
--ipc container:nosuch                    | No such container: nosuch
--device vendor.com/class=name            | CDI device injection failed: unresolvable CDI devices vendor.com/class=name
--ipc bogus                               | invalid IPC mode: bogus
--uts host --hostname x                   | conflicting options: hostname and the UTS mode
--runtime bogus                           | unknown or invalid runtime name: bogus
--isolation bogus                         | invalid isolation (bogus): linux only supports 'default'
--stop-signal BOGUS                       | invalid signal: BOGUS
--restart always:3                        | invalid restart policy: maximum retry count can only be used with 'on-failure'
--health-interval 1us                     | Interval in Healthcheck cannot be less than 1ms
--annotation =x                           | invalid Annotations: the empty string is not permitted as an annotation key
--mount type=bind,src=/nope,dst=/x        | invalid mount config for type "bind": bind source path does not exist: /nope
--mount type=npipe,src=a,dst=/x           | invalid mount config for type "npipe": mount type unknown
--volumes-from x:nocopy                   | invalid mode: nocopy
--volumes-from x:ro,z                     | No such container: x
--volumes-from nosuch                     | No such container: nosuch
--link nosuch                             | could not get container for nosuch: No such container: nosuch
--log-driver bogus                        | error looking up logging plugin bogus: plugin "bogus" not found
"""
COMMANDS = """
create --sysctl kernel.foo=1 bb              | 125 | invalid argument "kernel.foo=1" for "--sysctl" flag: sysctl 'kernel.foo=1' is not
create --device /dev/null:/x:q bb            | 125 | wherry: bad mode specified: q
create --device :/dev/x bb                   | 125 | wherry: bad format for path: :/dev/x
create --gpus= bb                            | 125 | invalid argument "" for "--gpus" flag: EOF
create --mount type=,dst=/x bb               | 125 | invalid argument "type=,dst=/x" for "--mount" flag: type is required
create --mount 'type=bind,"src=/a' bb        | 125 | invalid argument "type=bind,\\"src=/a" for "--mount" flag: parse error on line 1,
create --mount 'type=bind, src=/a' bb        | 125 | invalid argument "type=bind, src=/a" for "--mount" flag: unexpected key ' src' in
update --restart bogus nosuch                | 1   | Error response from daemon: invalid restart policy: unknown policy 'bogus'; use one of
update --memory 5m nosuch                    | 1   | Error response from daemon: Minimum memory limit allowed is 6MB
exec --env-file /nosuch x true               | 1   | open /nosuch: no such file or directory
create --expose 82-80 bb                     | 125 | wherry: invalid range format for --expose: 82-80, error: invalid range specified
create --expose 70000 bb                     | 125 | wherry: invalid range format for --expose: 70000, error: strconv.ParseUint: parsing
create -p ::1:80:80 bb                       | 125 | wherry: invalid IP address ::1: address ::1:: too many colons in address
create --env-file / bb                       | 125 | wherry: invalid env file (/): read /: is a directory
ps --filter expose=70000                     | 1   | Error response from daemon: error while looking up for expose 70000:
create --storage-opt foo bb                  | 125 | wherry: invalid storage option
create --pull bogus bb                       | 125 | wherry: invalid pull option: 'bogus': must be one of "always", "missing" or "never"
create --cidfile /etc/passwd bb              | 1   | container ID file found, make sure the other container isn't running or delete
create --cidfile /nodir/cid bb               | 1   | failed to create the container ID file: open /nodir/cid: no such file or directory
run --rm --ip 10.1.2.3 --network none bb true | 125 | wherry: Error response from daemon: invalid config for network none:
run -d -a stdout bb true                     | 1   | conflicting options: cannot specify both --attach and --detach
run --memory 1m bb true                      | 125 | wherry: Error response from daemon: Minimum memory limit allowed is 6MB
run --rm --restart always bb true            | 125 | wherry: conflicting options: cannot specify both --restart and --rm
inspect --type bogus x                       | 1   | unknown type: "bogus": must be one of "config", "container", "image", "network",
ps --filter publish=x                        | 1   | Error response from daemon: error while looking up for publish x: strconv.ParseUint:
container prune --force --filter until=bogus | 1   | Error response from daemon: failed to parse value as time or duration: "bogus"
start nosuch1 nosuch2                        | 1   | Error response from daemon: No such container: nosuch1
"""


@pytest.fixture(scope="module")
def cpus(engine: Daemon) -> str:
    return engine.out("info", "--format", "{{.NCPU}}")


def test_create_refuses_in_dockers_words(engine: Daemon, cpus: str) -> None:
    cases = [line.split("|", 1) for line in CREATE.strip().splitlines()]

    def ask(flags: str) -> tuple[int, str, str]:
        result = engine.run("create", *shlex.split(flags), "bb", "true", check=False)
        return result.code, result.out, result.err

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [flags for flags, _ in cases]))
    expected = [(1, "", f"Error response from daemon: {words.strip().replace('{cpus}', cpus)}\n") for _, words in cases]
    assert answers == expected


def test_commands_refuse_in_dockers_words(engine: Daemon) -> None:
    cases = [tuple(part.strip() for part in line.split("|", 2)) for line in COMMANDS.strip().splitlines()]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda line: engine.run(*shlex.split(line), check=False), [line for line, _, _ in cases]))
    for (line, code, words), answer in zip(cases, answers, strict=True):
        assert (answer.code, answer.err.splitlines()[0][: len(words)]) == (int(code), words), line
