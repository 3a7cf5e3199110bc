"""Commands on keys: who is trusted, a key for each person, and a new key in an old one's place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from ops.cli.options import EPILOG, Config, Output, open_site
from ops.cli.output import Format, emit_json, emit_table
from ops.exits import RefusedError
from ops.sections import KeysSection
from store.registry.files.durable import sync_folder
from store.registry.signing import PUBLIC_SUFFIX, SigningKey, check_key_name, public_path, read_public

keys = typer.Typer(no_args_is_help=True, help="Keys: who may publish versions and move the champion.", epilog=EPILOG)

_PARTS: Final = ("trainer", "operator")

KeyName = Annotated[str, typer.Argument(metavar="NAME", help="A person's name: letters, digits and . _ @ -")]


class KeyShown(msgspec.Struct, frozen=True, kw_only=True):
    """One trusted key."""

    name: str  # as `history` shows it under `who`
    key_id: str
    file: str


class KeyMade(msgspec.Struct, frozen=True, kw_only=True):
    """What was made, and what a person has to do with it."""

    name: str
    private: str
    trusted: str
    retired: str | None  # the private key that was in its place


@keys.command("list", epilog=EPILOG)
def list_keys(config: Config = None, output: Output = Format.table) -> None:
    """List the trusted keys.

    Example: understudy keys list
    """
    found = list(_trusted(open_site(config).settings.keys))
    if output is Format.json:
        emit_json(found)
    else:
        emit_table(["name", "key", "file"], [(one.name, one.key_id, one.file) for one in found])


@keys.command("add", epilog=EPILOG)
def add(name: KeyName, config: Config = None, output: Output = Format.table) -> None:
    """Make a key for a person and trust it, so that `history` says who moved what.

    The private half is that person's: UNDERSTUDY_KEYS__OPERATOR names it. Gateways and the trainer on other machines
    need the public half before they follow a move that it signed; a restart makes them read it.

    Example: understudy keys add ada
    """
    check_key_name(name)
    section = open_site(config).settings.keys
    private, trusted = section.operator.with_name(name), section.trusted / f"{name}{PUBLIC_SUFFIX}"
    if trusted.exists():
        message = f"a key of {name} is trusted already: `understudy keys rotate {name}` makes a new one"
        raise RefusedError(message)
    try:
        SigningKey.create(private, name).write_public(trusted)
    except FileExistsError as error:
        message = f"{error.filename} is there already: move it away first"
        raise RefusedError(message) from error
    _report(_made(section, name, private, None), output)


@keys.command("rotate", epilog=EPILOG)
def rotate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="trainer, operator, or a person's.")],
    config: Config = None,
    output: Output = Format.table,
) -> None:
    """Put a new key in an old one's place; the old public half stays trusted, for all that it has signed.

    Where the old key may have leaked that is not enough: see docs/how-to/rotate-keys.md.

    Example: understudy keys rotate operator
    """
    check_key_name(name)
    section = open_site(config).settings.keys
    private = {"trainer": section.trainer, "operator": section.operator}.get(name, section.operator.with_name(name))
    old = SigningKey.load(private)
    kept = section.trusted / f"{name}-{old.key_id}{PUBLIC_SUFFIX}"
    if not kept.exists():
        old.write_public(kept)
    retired = private.with_name(f"{name}-{old.key_id}.retired")
    fresh, aside = private.with_name(f".{name}.new"), kept.with_name(f".{name}.new")
    for leftover in (fresh, public_path(fresh), aside):
        leftover.unlink(missing_ok=True)  # of a rotation that was cut short
    SigningKey.create(fresh, old.name).write_public(aside)
    retired.unlink(missing_ok=True)
    retired.hardlink_to(private)
    aside.replace(section.trusted / f"{name}{PUBLIC_SUFFIX}")  # first trusted, then used: each step leaves a whole key
    sync_folder(section.trusted)
    public_path(fresh).replace(public_path(private))
    fresh.replace(private)
    sync_folder(private.parent)
    _report(_made(section, old.name, private, retired), output)


def _made(section: KeysSection, name: str, private: Path, retired: Path | None) -> KeyMade:
    return KeyMade(
        name=name,
        private=str(private),
        trusted=str(section.trusted / f"{private.name}{PUBLIC_SUFFIX}"),
        retired=None if retired is None else str(retired),
    )


def _trusted(section: KeysSection) -> Iterator[KeyShown]:
    for path in sorted(section.trusted.glob(f"*{PUBLIC_SUFFIX}")):
        public = read_public(path)
        yield KeyShown(name=public.name, key_id=public.key_id, file=str(path))


def _report(made: KeyMade, output: Format) -> None:
    if output is Format.json:
        emit_json(made)
        return
    typer.echo(f"private key: {made.private} (mode 0600: give it to {made.name} alone)")
    typer.echo(f"trusted:     {made.trusted} (copy it to every machine's keys.trusted, then restart there)")
    if made.retired is not None:
        typer.echo(f"retired:     {made.retired} (no longer used; its public half stays trusted)")
    if made.name not in _PARTS:
        typer.echo(f"to sign as {made.name}: export UNDERSTUDY_KEYS__OPERATOR={made.private}")
