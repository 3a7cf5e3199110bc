"""A command whose options are the fields of a dataclass, so that each is written down once."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_type_hints


def takes(options: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a function `(asked, **rest)` the fields of a dataclass for its first argument.

    Args:
        options: the dataclass; its fields are annotated as typer wants parameters.
    """
    hints = get_type_hints(options, include_extras=True)

    def wrap(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        asked = [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if one.default is MISSING else one.default,
                annotation=hints[one.name],
            )
            for one in fields(options)
        ]

        def command(**given: Any) -> None:
            mine = {one.name: given.pop(one.name) for one in asked}
            function(options(**mine), **given)

        parameters = [*asked, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        setattr(command, "__signature__", inspect.Signature(parameters))  # noqa: B010 - no function has it by itself
        return command

    return wrap
