"""Who looks at the console, and what they may do there."""

from dataclasses import dataclass

from ops.access.tokens import Role, allows, holder_of, read_tokens
from ops.console.web import Asked
from ops.site import Site


class NotOpenError(Exception):
    """What was asked for is not open to who asks; the message says what would open it."""

    def __init__(self, message: str, *, known: bool) -> None:
        """Say so to one whose token is `known`, or to one without."""
        super().__init__(message)
        self.known = known


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A person, or nobody in particular."""

    name: str | None = None
    role: Role | None = None
    here: bool = False  # on this machine: numbers are shown without a token

    @property
    def sees_numbers(self) -> bool:
        """Lanes, versions, moves, cycles and counts."""
        return self.here or self.may("view")

    def may(self, role: Role) -> bool:
        """Whether a role's doings are open to them."""
        return allows(self.role, role)

    def need(self, role: Role) -> None:
        """See that a role's doings are open to them.

        Raises:
            NotOpenError: they are not.
        """
        if not self.may(role):
            own = f"the one that was shown has the role {self.role}" if self.role else "none was shown"
            message = f"A token with the role {role} opens this; {own}."
            raise NotOpenError(message, known=self.role is not None)


def visitor_of(site: Site, asked: Asked) -> Visitor:
    """Who asks.

    Raises:
        NotOpenError: the token that is shown is nobody's.
        SettingsError: the file of tokens cannot be read.
    """
    shown = asked.token
    if shown is None:
        return Visitor(here=asked.from_this_machine)
    token = holder_of(shown, read_tokens(site.settings.keys.tokens))
    if token is None:
        message = "The token that was shown opens nothing: it was mistyped, or it has been revoked."
        raise NotOpenError(message, known=False)
    return Visitor(name=token.name, role=token.role, here=asked.from_this_machine)
