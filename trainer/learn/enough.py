"""When there is too little to learn from."""

from store.errors import UnderstudyError


class NotEnoughLabelsError(UnderstudyError):
    """Too few training items have answers that can be told apart. Wait for more: there is nothing to learn yet."""
