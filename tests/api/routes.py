"""The service's routes as the framework knows them, for what has to hold for each of them."""

from fastapi.routing import iter_route_contexts

from ledgerservice.api.application import create_api

API = create_api()


def _routes() -> dict[str, set[str]]:
    """The methods of each path, which is written without the slash that may end it."""
    found: dict[str, set[str]] = {}
    for route in iter_route_contexts(API.routes):
        if (
            route.methods is None or route.path == "/"
        ):  # the files of the docs, and what leads there
            continue
        path = (route.path or "").removesuffix("/").replace(":path}", "}").replace(":row}", "}")
        found.setdefault(path, set()).update(route.methods)
    return found


ROUTES = _routes()


DESCRIBED = {path.removesuffix("/"): methods for path, methods in API.openapi()["paths"].items()}
assert DESCRIBED.keys() <= ROUTES.keys()  # none is lost where the framework keeps them elsewhere


def queries_of(path: str) -> set[str]:
    """The parameters that the description names for a query of what GET answers."""
    given = DESCRIBED[path].get("get", {}).get("parameters", [])
    return {parameter["name"] for parameter in given if parameter["in"] == "query"}
