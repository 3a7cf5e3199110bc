"""The OpenAPI document of the gateway, made from the types that it reads and answers with."""
