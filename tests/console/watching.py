"""Pages that collect what the browser complains of."""

from playwright.sync_api import BrowserContext, Page, Request

VIOLATIONS = """addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP ${event.violatedDirective} ${event.blockedURI}`));"""


def _failed(request: Request) -> list[str]:
    """Nothing for what the next page has ended: a stream, or a file that was still on its way."""
    return [] if request.failure == "net::ERR_ABORTED" else [f"failed: {request.url}"]


def watched(context: BrowserContext, complaints: list[str]) -> Page:
    """A new page that collects whatever the browser complains of, CSP included."""
    page = context.new_page()
    page.add_init_script(VIOLATIONS)
    page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.extend(_failed(request)))
    return page
