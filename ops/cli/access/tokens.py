"""Commands on tokens: what a person shows to the console."""

from typing import Annotated, Final

import msgspec
import typer

from ops.access.tokens import ROLES, VALID_EACH, Role, Token, add_token, read_tokens, revoke_tokens
from ops.cli.options import EPILOG, Config, Output, open_site
from ops.cli.output import Format, emit_json, emit_table
from ops.exits import RefusedError
from ops.show.values import time_of
from store.event import wall_clock_s

tokens = typer.Typer(
    no_args_is_help=True,
    help="Tokens of the console: who may see texts there, and who may move lanes.",
    epilog=EPILOG,
)

TokenName = Annotated[str, typer.Argument(metavar="NAME", help="A person's name: letters, digits and . _ @ -")]
_OPENS: Final[dict[Role, str]] = {
    "view": "everything, texts too",
    "operate": "that, and moves: roll back, promote, pause, resume",
    "admin": "that, and a promotion against a warning",
}


class TokenMade(msgspec.Struct, frozen=True, kw_only=True):
    """A new token, shown this once."""

    name: str
    role: Role
    token: str


class TokensRevoked(msgspec.Struct, frozen=True, kw_only=True):
    """How many of a person's tokens were ended."""

    name: str
    revoked: int


@tokens.command("list", epilog=EPILOG)
def list_tokens(config: Config = None, output: Output = Format.table) -> None:
    """List who has a token, with its role; the tokens themselves are not kept.

    Example: understudy tokens list
    """
    found = read_tokens(open_site(config).settings.keys.tokens)
    if output is Format.json:
        emit_json([{"name": one.name, "role": one.role, "made_s": one.made_s, "id": _id(one)} for one in found])
    else:
        rows = [(one.name, one.role, time_of(one.made_s), _id(one)) for one in found]
        emit_table(["name", "role", "made", "id"], rows)


@tokens.command("add", epilog=EPILOG)
def add(
    name: TokenName,
    config: Config = None,
    role: Annotated[str, typer.Option("--role", help=f"One of {', '.join(ROLES)}.")] = "view",
    output: Output = Format.table,
) -> None:
    """Make a token for a person, and print it this once; their one before stays valid until it is revoked.

    view opens all pages, texts too; operate moves, as well; admin promotes against a warning, as well. A third token
    ends the oldest. It holds from the next request on: nothing needs a restart.

    Example: understudy tokens add ada --role operate
    """
    wanted = next((one for one in ROLES if one == role), None)
    if wanted is None:
        message = f"there is no role {role}; there is {', '.join(ROLES)}"
        raise typer.BadParameter(message, param_hint="--role")
    made = TokenMade(
        name=name,
        role=wanted,
        token=add_token(open_site(config).settings.keys.tokens, name, wanted, wall_clock_s()),
    )
    if output is Format.json:
        emit_json(made)
        return
    typer.echo(made.token)
    typer.echo(f"It opens {_OPENS[wanted]}. It is not kept, and cannot be shown again.", err=True)
    typer.echo(
        f"Of {name}'s tokens the newest {VALID_EACH} are valid: `understudy tokens revoke {name} --old`", err=True
    )


@tokens.command("revoke", epilog=EPILOG)
def revoke(
    name: TokenName,
    config: Config = None,
    *,
    old: Annotated[bool, typer.Option("--old", help="All but the newest: the end of a rotation.")] = False,
    output: Output = Format.table,
) -> None:
    """End a person's tokens, from the next request on.

    Example: understudy tokens revoke ada --old
    """
    ended = revoke_tokens(open_site(config).settings.keys.tokens, name, older=old)
    if not ended:
        message = f"{name} has no {'older ' if old else ''}token: `understudy tokens list` shows who has"
        raise RefusedError(message)
    if output is Format.json:
        emit_json(TokensRevoked(name=name, revoked=ended))
    else:
        typer.echo(f"{ended} of {name}'s tokens {'opens' if ended == 1 else 'open'} nothing any more")


def _id(token: Token) -> str:
    """By which two tokens of one person are told apart: the beginning of the hash."""
    return token.sha256[:8]
