"""``wherry context ...``: named daemons."""

from __future__ import annotations

import os
import sys

from wherry.cli.contexts import DEFAULT, TLS_FILES, Context, ContextFault, Contexts, check_name
from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.output import Listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LISTING = Listing(
    "*formatter.clientContextContext",
    {"Name": "NAME", "Description": "DESCRIPTION", "DockerEndpoint": "DOCKER ENDPOINT", "Error": "ERROR", "Current": "CURRENT"},
    ("Name", "Description", "DockerEndpoint", "Error"),
)
OVERRIDE = (
    "Warning: {variable} environment variable overrides the active context. To use {what}, either set the global --context flag, "
    "or unset {variable} environment variable.\n"
)
SCHEMES = ("unix", "tcp", "http", "https")
OPTIONS = ("from", "host", "ca", "cert", "key", "skip-tls-verify")


def _kept(invocation: Invocation) -> Contexts:
    return Contexts(invocation.program.config_dir)


def _current(invocation: Invocation) -> str:
    return invocation.program.context_name


def _default(invocation: Invocation) -> Context:
    from wherry.cli.program import DEFAULT_HOST

    host = os.environ.get("WHERRY_HOST") or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    return Context(DEFAULT, host)


def _named(invocation: Invocation, name: str) -> Context:
    return _default(invocation) if name == DEFAULT else _kept(invocation).get(name)


def _warn_override(what: str) -> None:
    variable = next((name for name in ("WHERRY_HOST", "DOCKER_HOST") if os.environ.get(name)), "")
    if variable:
        sys.stdout.flush()
        sys.stderr.write(OVERRIDE.format(variable=variable, what=what))


def run_list(invocation: Invocation) -> int:
    current = _current(invocation)
    default = _default(invocation)
    default.description = "Current DOCKER_HOST based configuration"
    found = sorted([default, *_kept(invocation).all()], key=lambda context: context.name)
    layout = invocation.text("format")
    if invocation.flag("quiet"):
        sys.stdout.write("".join(context.name + "\n" for context in found))
    else:
        rows: list[dict[str, Any]] = [{**_row(context), "Current": context.name == current} for context in found]
        for row in rows:
            if row["Current"] and (layout in ("", "table") or layout.startswith("table ")):
                row["Name"] += " *"
        sys.stdout.write(LISTING.text(rows, layout))
    _warn_override("a context")
    return 0


def _row(context: Context) -> dict[str, str]:
    return {"Name": context.name, "Description": context.description, "DockerEndpoint": context.host, "Error": ""}


def run_create(invocation: Invocation) -> int:
    name = invocation.arguments[0]
    check_name(name)
    kept = _kept(invocation)
    if any(context.name == name for context in kept.all()):
        raise Failure(f'context "{name}" already exists')
    options = _endpoint_options(invocation)
    source = invocation.text("from")
    if source and options:
        raise Failure("cannot use --docker flag when --from is set")
    if not options:
        origin = _named(invocation, source or _current(invocation))
        made = Context(name, origin.host, skip_tls_verify=origin.skip_tls_verify)
        made.description = invocation.text("description") or (origin.description if source else "")
        kept.save(made, kept.tls_content(origin))
    else:
        made, tls = _from_options(invocation, name, options)
        made.description = invocation.text("description")
        kept.save(made, tls)
    print(name)
    sys.stdout.flush()
    sys.stderr.write(f'Successfully created context "{name}"\n')
    return 0


def run_update(invocation: Invocation) -> int:
    name = invocation.arguments[0]
    check_name(name)
    kept = _kept(invocation)
    old = kept.get(name)
    tls = kept.tls_content(old)
    options = _endpoint_options(invocation)
    new = old
    if options:
        new, tls = _from_options(invocation, name, options)
        new.description = old.description
    if "description" in invocation.given:
        new.description = invocation.text("description")
    kept.save(new, tls)
    print(name)
    sys.stdout.flush()
    sys.stderr.write(f'Successfully updated context "{name}"\n')
    return 0


def _endpoint_options(invocation: Invocation) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in invocation.texts("docker"):
        for word in text.split(","):
            key, equals, value = word.partition("=")
            if not equals:
                raise Failure(f'invalid argument "{text}" for "--docker" flag: {word} must be formatted as key=value', 125)
            found[key] = value
    return found


def _from_options(invocation: Invocation, name: str, options: dict[str, str]) -> tuple[Context, dict[str, bytes]]:
    problem = "unable to create docker endpoint config: "
    for key in options:
        if key not in OPTIONS:
            raise Failure(f"{problem}unrecognized config key: {key}")
    kept = _kept(invocation)
    if "from" in options:
        try:
            origin = _named(invocation, options["from"])
        except ContextFault as fault:
            raise Failure(f"{problem}{fault}") from None
        return Context(name, origin.host, skip_tls_verify=origin.skip_tls_verify), kept.tls_content(origin)
    host = options.get("host", "")
    scheme, separator, rest = host.partition("://")
    if not host:
        raise Failure(f"{problem}invalid endpoint: host is not set")
    if not separator or scheme not in SCHEMES or not rest:
        raise Failure(f"{problem}unable to apply docker endpoint options: unable to parse docker host `{host}`")
    tls: dict[str, bytes] = {}
    for key, file_name in zip(("ca", "cert", "key"), TLS_FILES, strict=True):
        if key in options:
            try:
                with open(options[key], "rb") as file:
                    tls[file_name] = file.read()
            except OSError as error:
                raise Failure(f"{problem}open {options[key]}: {(error.strerror or '').lower()}") from None
    skip = options.get("skip-tls-verify", "").lower() in ("1", "t", "true")
    return Context(name, host, skip_tls_verify=skip), tls


def run_use(invocation: Invocation) -> int:
    name = invocation.arguments[0]
    if name != DEFAULT:
        _kept(invocation).get(name)
    config = invocation.program.stored_config()
    config.values.pop("currentContext", None)
    if name != DEFAULT:
        config.values["currentContext"] = name
    config.save()
    print(name)
    sys.stdout.flush()
    sys.stderr.write(f'Current context is now "{name}"\n')
    if name != DEFAULT:
        _warn_override(f'"{name}"')
    return 0


def run_show(invocation: Invocation) -> int:
    name = _current(invocation)
    _named(invocation, name)
    print(name)
    return 0


def run_remove(invocation: Invocation) -> int:
    kept = _kept(invocation)
    known = {context.name for context in kept.all()}
    problems = []
    for name in invocation.arguments:
        if name == DEFAULT:
            problems.append('context "default" cannot be removed')
        elif name not in known and not invocation.flag("force"):
            problems.append(f'context "{name}" does not exist')
        elif name == _current(invocation) and not invocation.flag("force"):
            problems.append(f'context "{name}" is in use, set -f flag to force remove')
        else:
            kept.remove(name)
            _forget_current(invocation, name)
            print(name)
    sys.stdout.flush()
    if problems:
        raise Failure("\n".join(problems))
    return 0


def _forget_current(invocation: Invocation, name: str) -> None:
    config = invocation.program.stored_config()
    if config.values.get("currentContext") == name:
        del config.values["currentContext"]
        config.save()


def run_inspect_contexts(invocation: Invocation) -> int:
    from wherry.cli.inspection import run_inspect

    kept = _kept(invocation)

    def fetch(name: str) -> dict[str, Any]:
        context = _named(invocation, name)
        memory = name == DEFAULT
        return {
            **context.metadata(),
            "TLSMaterial": {"docker": context.tls_files()} if context.tls_files() else {},
            "Storage": {
                "MetadataPath": "<IN MEMORY>" if memory else kept.meta_dir(name),
                "TLSPath": "<IN MEMORY>" if memory else kept.tls_dir(name),
            },
        }

    return run_inspect(invocation.text("format"), invocation.arguments or [_current(invocation)], fetch)


def run_export(invocation: Invocation) -> int:
    import io
    import tarfile

    name = invocation.arguments[0]
    target = invocation.arguments[1] if len(invocation.arguments) > 1 else f"{name}.dockercontext"
    if target == "-" and sys.stdout.isatty():
        raise Failure("cowardly refusing to export to a terminal, specify a file path")
    context = _named(invocation, name)
    from wherry.client import jsontext

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        members = [("meta.json", jsontext.dump(context.metadata()).encode(), 0o644), ("tls", None, 0o700)]
        tls = _kept(invocation).tls_content(context)
        members += [("tls/docker", None, 0o700)] if tls else []
        members += [(f"tls/docker/{file_name}", content, 0o600) for file_name, content in tls.items()]
        for path, content, mode in members:
            member = tarfile.TarInfo(path)
            member.mode = mode
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.size = len(content or b"")
            tar.addfile(member, io.BytesIO(content or b""))
    if target == "-":
        sys.stdout.buffer.write(buffer.getvalue())
        return 0
    try:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(buffer.getvalue())
    except OSError as error:
        raise Failure(f"open {target}: {(error.strerror or '').lower()}") from None
    sys.stderr.write(f'Written file "{target}"\n')
    return 0


MAX_IMPORT = 10 << 20


def run_import(invocation: Invocation) -> int:
    import io
    import tarfile

    from wherry.client import jsontext

    name, source = invocation.arguments
    check_name(name)
    kept = _kept(invocation)
    if any(context.name == name for context in kept.all()):
        raise Failure(f'context "{name}" already exists')
    try:
        data = sys.stdin.buffer.read(MAX_IMPORT) if source == "-" else _read_some(source)
        found: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None:
                    found[member.name] = content.read()
        meta = jsontext.parse(found["meta.json"])
        endpoint = meta["Endpoints"]["docker"]
    except OSError as error:
        raise Failure(f"open {source}: {(error.strerror or '').lower()}") from None
    except (tarfile.TarError, KeyError, TypeError, ValueError):
        raise Failure(f"{source} is not an exported context: no meta.json with a docker endpoint") from None
    made = Context(name, str(endpoint.get("Host", "")), skip_tls_verify=bool(endpoint.get("SkipTLSVerify")))
    made.description = str((meta.get("Metadata") or {}).get("Description", ""))
    kept.save(made, {file: found[f"tls/docker/{file}"] for file in TLS_FILES if f"tls/docker/{file}" in found})
    print(name)
    sys.stdout.flush()
    sys.stderr.write(f'Successfully imported context "{name}"\n')
    return 0


def _read_some(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_IMPORT)


_DESCRIPTION = Flag("description", "string", "Description of the context")
_DOCKER = Flag("docker", "stringToString", "set the docker endpoint (from=, host=, ca=, cert=, key=, skip-tls-verify=)")
CREATE = Command(
    "[OPTIONS] CONTEXT",
    "Create a context",
    run_create,
    flags=(_DESCRIPTION, _DOCKER, Flag("from", "string", "create context from a named context")),
    minimum=1,
    maximum=1,
)
UPDATE = Command("[OPTIONS] CONTEXT", "Update a context", run_update, flags=(_DESCRIPTION, _DOCKER), minimum=1, maximum=1)
LS = Command(
    "[OPTIONS]",
    "List contexts",
    run_list,
    flags=(
        Flag("format", "string", "table, table TEMPLATE, json, or a Go template"),
        Flag("quiet", "bool", "Only show context names", short="q"),
    ),
    maximum=0,
)
USE = Command("CONTEXT", "Set the current docker context", run_use, minimum=1, maximum=1)
SHOW = Command("", "Print the name of the current context", run_show, maximum=0)
RM = Command(
    "CONTEXT [CONTEXT...]",
    "Remove one or more contexts",
    run_remove,
    flags=(Flag("force", "bool", "Force the removal of a context in use", short="f"),),
    minimum=1,
)
INSPECT = Command(
    "[OPTIONS] [CONTEXT] [CONTEXT...]",
    "Display detailed information on one or more contexts",
    run_inspect_contexts,
    flags=(Flag("format", "string", "json, or a Go template", short="f"),),
)
EXPORT = Command(
    "[OPTIONS] CONTEXT [FILE|-]", "Export a context to a tar archive FILE or a tar stream on STDOUT.", run_export, minimum=1, maximum=2
)
IMPORT = Command("CONTEXT FILE|-", "Import a context from a tar file", run_import, minimum=2, maximum=2)
