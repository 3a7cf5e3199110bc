"""What is handed around for any task, taken as one task's own."""

from typing import TypeVar

Own = TypeVar("Own")


def narrow(value: object, kind: type[Own], where: str) -> Own:
    """The value, which must be of this kind.

    Args:
        value: of any task.
        kind: the one task's.
        where: it was met, for the message

    Raises:
        TypeError: it is another task's: what belongs to two lanes is mixed up.
    """
    if not isinstance(value, kind):
        message = f"a {type(value).__name__} in {where}"
        raise TypeError(message)
    return value
