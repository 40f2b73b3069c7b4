"""``wherry login`` and ``wherry logout``."""

from __future__ import annotations

import os
import sys

from wherry.cli.config import AUTH_VARIABLE, HUB, Config, ConfigError, Credentials, hostname
from wherry.cli.flags import Command, Failure, Flag, Invocation
from wherry.cli.registry_auth import known_credentials
from wherry.client.engine import ApiError

EXISTING = """Authenticating with existing credentials... [Username: {user}]

 Info -> To login with a different account, run 'wherry logout' followed by 'wherry login'


"""
UNENCRYPTED = """
WARNING! Your credentials are stored unencrypted in '{path}'.
Configure a credential helper to remove this warning. See
https://docs.docker.com/go/credential-store/
"""

TAKES_PRECEDENCE = f"""
 Warn -> {AUTH_VARIABLE} is set and takes precedence.
         Unset {AUTH_VARIABLE} to restore the CLI auth behaviour.
         {""}
"""


def run(invocation: Invocation) -> int:
    user, password = invocation.text("username"), invocation.text("password")
    if "password" in invocation.given and invocation.flag("password-stdin"):
        raise Failure("conflicting options: cannot specify both --password and --password-stdin")
    for name in ("username", "password"):
        if name in invocation.given and not invocation.text(name):
            raise Failure(f"{name} is empty")
    if "password" in invocation.given:
        sys.stderr.write("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n")
    if invocation.flag("password-stdin"):
        if not user:
            raise Failure("the --password-stdin option requires --username to be set")
        password = sys.stdin.read()
    user, password = user.strip(), password.strip()  # as Docker does
    _tell_of_environment()
    server = server_name(invocation.arguments[0] if invocation.arguments else "")
    config = invocation.program.stored_config()
    if not user and not password:
        known = known_credentials(invocation.program, server)
        if known is not None and (known.username or known.identity_token):
            sys.stderr.write(EXISTING.format(user=known.username))
            try:
                return _log_in(invocation, config, known)
            except ApiError as error:
                if error.status != 401:
                    raise
                sys.stderr.write(f"Login did not succeed, error: Error response from daemon: {error}\n")
    if not user or not password:
        user, password = _ask(server, user, password)
    return _log_in(invocation, config, Credentials(server, user, password))


def server_name(text: str) -> str:
    """The key of a registry as a person names it; Docker Hub when empty."""
    if text in ("", "docker.io", "index.docker.io", "registry-1.docker.io", HUB):
        return HUB
    return hostname(text)


def _ask(server: str, user: str, password: str) -> tuple[str, str]:
    if not sys.stdin.isatty():
        raise Failure("Error: Cannot perform an interactive login from a non TTY device")
    if not user:
        if server == HUB:
            print("Log in to Docker Hub with your user name and password.")
        sys.stdout.write("Username: ")
        sys.stdout.flush()
        user = sys.stdin.readline().strip()
        if not user:
            raise Failure("Error: Non-null Username Required")
    if not password:
        import getpass

        password = getpass.getpass("Password: ")
        if not password:
            raise Failure("Error: Password Required")
    return user, password


def _log_in(invocation: Invocation, config: Config, credentials: Credentials) -> int:
    answer = invocation.program.engine.post("/auth", None, credentials.body()) or {}
    token = str(answer.get("IdentityToken") or "")
    if token:
        credentials = Credentials(credentials.server, credentials.username, "", token)
    try:
        is_new = config.store(credentials)
    except ConfigError as error:
        raise Failure(f"Error saving credentials: {error}") from error
    if is_new and not config.helper(credentials.server):
        sys.stderr.write(UNENCRYPTED.format(path=config.path) + "\n")
    print(answer.get("Status") or "Login Succeeded")
    return 0


def run_logout(invocation: Invocation) -> int:
    server = server_name(invocation.arguments[0] if invocation.arguments else "")
    _tell_of_environment()
    print("Removing login credentials for " + server, flush=True)
    config = invocation.program.stored_config()
    failures = []
    for key in (server,) if server == HUB else (server, f"http://{server}", f"https://{server}"):  # as a helper may have it
        try:
            config.erase(key)
        except ConfigError as error:
            failures.append(f"{key}: {error}\n")
    if failures:
        sys.stderr.write("WARNING: could not erase credentials:\n" + "".join(failures))
    return 0


def _tell_of_environment() -> None:
    if os.environ.get(AUTH_VARIABLE):
        sys.stderr.write(TAKES_PRECEDENCE)


COMMAND = Command(
    "[OPTIONS] [SERVER]",
    "Authenticate to a registry",
    run,
    flags=(
        Flag("password", "string", "Password or Personal Access Token (PAT)", short="p"),
        Flag("password-stdin", "bool", "Take the Password or Personal Access Token (PAT) from stdin"),
        Flag("username", "string", "Username", short="u"),
    ),
    maximum=1,
)
LOGOUT = Command("[SERVER]", "Log out from a registry", run_logout, maximum=1)
