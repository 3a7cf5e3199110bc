"""LiteLLM's callback: what its proxy or its library asks a lane's teacher goes into the lane's topic.

In the file that LiteLLM's `callbacks` names:

    from ops.producing.litellm import UnderstudyLogger
    understudy = UnderstudyLogger(config="understudy.toml", lane="acme/support")
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from litellm.integrations.custom_logger import CustomLogger

from ops.producing.producer import Producer, producer_for

_LEFT_OUT: Final = "redacted-by-litellm"


class UnderstudyLogger(CustomLogger):  # type: ignore[misc,unused-ignore]  # without the package its base is anything
    """Publishes successful calls of a lane's teacher."""

    def __init__(
        self,
        *,
        config: str | Path | None = None,
        lane: str | None = None,
        models: Collection[str] = (),
        tag: str | None = None,
        producer: Producer | None = None,
    ) -> None:
        """Read the settings; nothing is opened before the first call.

        Args:
            config: the settings file; None: where the command line looks for it.
            lane: tenant/use_case; None: the only one.
            models: LiteLLM's names of the lane's teacher, where they are others than `lanes.teacher.model`.
            tag: only calls with this tag (`metadata.tags`) are the lane's.
            producer: instead of one for config and lane.

        Raises:
            SettingsError: the settings cannot be read, or nobody may train on the lane's answers.
        """
        super().__init__()
        self._models = frozenset(models)
        self._tag = tag
        self.producer = producer or producer_for(None if config is None else Path(config), lane)

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """A call that was made without asyncio."""
        del response_obj, start_time, end_time
        self._offer(kwargs)

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        """A call that was made with asyncio, the proxy's all."""
        del response_obj, start_time, end_time
        self._offer(kwargs)

    def _offer(self, kwargs: Mapping[str, Any]) -> None:
        logged = kwargs.get("standard_logging_object")
        if not isinstance(logged, Mapping):  # a stream that goes on
            return
        if self._tag is not None and self._tag not in (logged.get("request_tags") or ()):
            return
        named = [name for name in (logged.get("model_group"), logged.get("model")) if name]
        call = call_of(logged)
        if call is not None:
            self.producer.offer(call, () if self._models.intersection(named) else named)


def call_of(logged: Mapping[str, Any]) -> dict[str, Any] | None:
    """LiteLLM's `StandardLoggingPayload` as a call; None: its contents were left out (`turn_off_message_logging`)."""
    messages, response = logged.get("messages"), logged.get("response")
    if not messages or not isinstance(response, Mapping) or _LEFT_OUT in str(messages)[:1000]:
        return None
    asked = logged.get("model_parameters")
    return {
        "id": logged.get("id"),
        "time": logged.get("startTime"),
        "request": {"messages": messages, **(asked if isinstance(asked, Mapping) else {})},
        "response": response,
    }
