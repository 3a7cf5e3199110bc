"""The OpenAPI documents of the gateway and of the admin ports, as a site with the default settings serves them."""

import json
from typing import Any

from ops.processes import told
from serve.openapi.document import document
from serve.settings import GatewaySettings
from serve.tasks.face import RequestLimits


def gateway_document() -> str:
    """What `GET /openapi.json` answers on the gateway's port."""
    settings = GatewaySettings()
    return _written(
        document(
            RequestLimits(
                max_inputs=settings.max_inputs,
                max_documents=settings.max_documents,
                max_text_chars=settings.max_text_chars,
                max_message_chars=settings.max_message_chars,
            )
        )
    )


def admin_document() -> str:
    """What `GET /openapi.json` answers on an admin port."""
    return _written(told.document())


def _written(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
