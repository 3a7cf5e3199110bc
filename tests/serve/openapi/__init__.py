"""The gateway's OpenAPI document, and the gateway held against it."""
