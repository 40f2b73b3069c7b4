"""The table from words to commands.

Only the module of the command asked for is imported. To add a command: a row in ``COMMANDS``, and a module ``cli/commands/NAME.py`` with
``COMMAND = Command(...)`` (or another name after a colon: ``"network ls": "network:LS"``).
"""

from __future__ import annotations

import sys

from wherry.cli.flags import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.flags import Command

_CONTAINER = (
    "attach commit cp create diff exec export kill logs pause port rename restart rm run start stats stop top unpause update wait"
).split()

# words -> module in cli/commands, optionally with the name of the Command in it
COMMANDS: dict[str, str] = {
    **{verb: verb for verb in _CONTAINER},
    **{f"container {verb}": verb for verb in _CONTAINER},
    "ps": "ps",
    "container ls": "ps",
    "container inspect": "inspection:CONTAINER",
    "container prune": "container_prune",
    "inspect": "inspection",
    "events": "events",
    "system events": "events",
    "info": "info",
    "system info": "info",
    "version": "version",
    "system df": "system_df",
    "system fsck": "system_fsck",
    "system prune": "system_prune",
    "prune": "system_prune",
    "daemon": "daemon",
    **{verb: verb for verb in ("build", "history", "images", "load", "login", "pull", "push", "rmi", "save", "search", "tag")},
    **{f"image {verb}": verb for verb in ("build", "history", "load", "pull", "push", "save", "tag")},
    "bootstrap": "bootstrap",
    **{f"registry {verb}": f"registry:{verb.upper()}" for verb in ("serve", "gc", "passwd")},
    **{f"manifest {verb}": f"manifest:{verb.upper()}" for verb in ("annotate", "create", "inspect", "push", "rm")},
    "logout": "login:LOGOUT",
    "import": "image_import",
    "image import": "image_import",
    "image diff": "image_diff",
    "image files": "image_files",
    "image inspect": "image_inspect",
    "image layers": "image_layers",
    "image ls": "images",
    "image prune": "image_prune",
    "image rm": "rmi",
    "builder build": "build",
    "buildx build": "build",
    "builder prune": "builder:PRUNE",
    "buildx prune": "builder:PRUNE",
    "builder du": "builder:DU",
    "buildx du": "builder:DU",
    **{f"volume {verb}": f"volume:{verb.upper()}" for verb in ("create", "inspect", "ls", "prune", "rm")},
    **{f"network {verb}": f"network:{verb.upper()}" for verb in ("connect", "create", "disconnect", "inspect", "ls", "prune", "rm")},
    **{
        f"context {verb}": f"context:{verb.upper()}"
        for verb in ("create", "export", "import", "inspect", "ls", "rm", "show", "update", "use")
    },
}

# other spellings of a path in COMMANDS
ALIASES: dict[str, str] = {
    "container list": "container ls",
    "container ps": "container ls",
    "container remove": "container rm",
    "image list": "image ls",
    "image remove": "image rm",
    "volume list": "volume ls",
    "volume remove": "volume rm",
    "network list": "network ls",
    "network remove": "network rm",
    "context list": "context ls",
    "context remove": "context rm",
    "buildx b": "buildx build",
}

GROUPS: dict[str, str] = {
    "container": "Manage containers",
    "system": "Manage the engine",
    "image": "Manage images",
    "builder": "Manage builds",
    "buildx": "Manage builds (the same as builder)",
    "volume": "Manage volumes",
    "network": "Manage networks",
    "context": "Manage contexts",
    "manifest": "Manage image manifests and manifest lists",
    "registry": "Serve a registry of your own",
}

# commands of Docker's that are not there, and what to do instead
_SWARM = "swarm is not supported"
_BUILDX = "BuildKit's protocol is not spoken: use wherry build"
ABSENT: dict[str, str] = {
    "compose": "use Docker's: DOCKER_HOST=unix:///run/wherry/wherry.sock docker compose",
    **dict.fromkeys(("config", "node", "secret", "service", "stack", "swarm", "volume update"), _SWARM),
    "checkpoint": "checkpoints are not supported",
    "plugin": "plugins are not supported",
    "trust": "content trust (Notary) is not supported",
    **{
        f"{group} {verb}": _BUILDX
        for group in ("builder", "buildx")
        for verb in ("bake", "create", "dial-stdio", "f", "history", "imagetools", "inspect", "ls", "rm", "stop", "use", "version")
    },
}

COMMON = ("run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version", "info")

GLOBAL_FLAGS = (
    Flag("config", "string", "Directory of the client's config.json and contexts (default ~/.docker)"),
    Flag("context", "string", "Named context of the daemon to use; wins over DOCKER_HOST", short="c"),
    Flag("debug", "bool", "Turn on debug output", short="D"),
    Flag("host", "string", "Address of the daemon", short="H"),
    Flag("log-level", "string", "Least severe message shown: debug, info, warn, error, fatal", short="l", default="info"),
    Flag("tls", "bool", "Use TLS; implied by --tlsverify"),
    Flag("tlscacert", "string", "Trust certificates signed by this CA only"),
    Flag("tlscert", "string", "The client's TLS certificate"),
    Flag("tlskey", "string", "The client's TLS key"),
    Flag("tlsverify", "bool", "Use TLS and verify the daemon"),
    Flag("version", "bool", "Print the program's version", short="v"),
)


def resolve(words: list[str]) -> tuple[str, list[str]]:
    """The command or group that ``words`` begin with (aliases resolved), and the words after it."""
    path = ""
    position = 0
    while position < len(words):
        longer = f"{path} {words[position]}".strip()
        longer = ALIASES.get(longer, longer)
        if longer in COMMANDS:
            return longer, words[position + 1 :]
        if longer not in GROUPS:
            break
        path = longer
        position += 1
    return path, words[position:]


def load(path: str) -> Command:
    """Import the module of a command of the table, and only that."""
    module_name, _, attribute = COMMANDS[path].partition(":")
    name = f"wherry.cli.commands.{module_name}"
    __import__(name)
    command: Command = getattr(sys.modules[name], attribute or "COMMAND")
    return command
