"""The server's OpenAPI page, from the models that check its requests."""

from __future__ import annotations

from pydantic import BaseModel

from armor_model.base.jsons import JsonObject
from armor_model.serve.protocol import ChatRequest, ImageRequest

REFUSALS = {
    "400": "Not to be answered; error.param names the field.",
    "401": "A bearer token is needed.",
    "403": "Another Host.",
    "404": "No such model.",
    "408": "The body did not come.",
    "413": "The body is too large.",
    "415": "The body is no JSON.",
    "429": "Too many requests wait.",
    "500": "The model failed.",
    "503": "The server is ending.",
    "504": "It took too long.",
}
BY_NAME = ("401", "403", "404")
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def openapi(name: str, side: int, most_tokens: int, with_token: bool) -> JsonObject:
    """The page of a server of the model `name`, which draws `side` pixels a side and says at most `most_tokens`."""
    schemas: JsonObject = {"Error": ERROR}

    def post(kind: type[BaseModel], summary: str, required: list[str], more: JsonObject) -> JsonObject:
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[kind.__name__] = schema
        asked = schema["properties"]
        asked["model"] = {"enum": [name] if "model" in schema["required"] else [name, None]}
        for tokens in {"max_tokens", "max_completion_tokens"} & set(asked):
            asked[tokens]["anyOf"][0]["maximum"] = most_tokens
        if "size" in asked:
            asked["size"] = {"enum": [f"{side}x{side}", "auto", None]}
        whole = {"application/json": {"schema": {"type": "object", "required": required}}, **more}
        return {
            "post": {
                "operationId": kind.__name__,
                "summary": summary,
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}},
                },
                "responses": {"200": {"description": "Done.", "content": whole}, **_refusals(REFUSALS)},
            }
        }

    stream: JsonObject = {"text/event-stream": {}}  # OpenAPI 3.1 cannot say what an event of it is
    one = _get("model", "The model, by its name.", "application/json", {"type": "object", "required": ["id"]}, BY_NAME)
    one["get"]["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"enum": [name]}}]
    paths = {
        "/v1/chat/completions": post(ChatRequest, "Answer with text and images.", ["choices", "usage"], stream),
        "/v1/images/generations": post(ImageRequest, "Draw.", ["created", "data"], {}),
        "/v1/models": _get("models", "The model.", "application/json", {"type": "object", "required": ["data"]}),
        "/v1/models/{name}": one,
        "/health": _get("health", "Whether it serves.", "application/json", {"type": "object"}, ("503",)),
        "/metrics": _get("metrics", "For Prometheus.", "text/plain", {"type": "string"}),
    }
    page: JsonObject = {
        "openapi": "3.1.0",
        "info": {"title": "armor-model serve", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if with_token:
        page["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        page["security"] = [{"bearer": []}]
        paths["/health"]["get"]["security"] = []
    return page


def _get(name: str, summary: str, media: str, schema: JsonObject, more: tuple[str, ...] = ("401", "403")) -> JsonObject:
    done = {"200": {"description": "Done.", "content": {media: {"schema": schema}}}}
    refused = _refusals({code: REFUSALS[code] for code in more})
    return {"get": {"operationId": name, "summary": summary, "responses": {**done, **refused}}}


def _refusals(said: dict[str, str]) -> JsonObject:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {code: {"description": what, "content": content} for code, what in said.items()}
