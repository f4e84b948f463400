"""The console: pages for people at /console. It knows the API only by its paths.

How to add a page:

1. `pages/NAME.py` with `async def page(visit: Visit) -> Response`. It reads the API with
   `visit.get` (a problem becomes the page) and `visit.figure` (a missing scope leaves the figure
   out), and ends with `visit.page("NAME.html", ...)`.
2. `templates/NAME.html`, which extends `base.html` and uses the macros of `macros.html`.
3. `catalogues/en/NAME.json` and `catalogues/de/NAME.json`: its texts, as `t("NAME.key")`.
4. Its row in `ROUTES` of `application.py`, and in `SECTIONS` of `visits.py` if the navigation shows
   it.
5. A test in `tests/console`, with the fixtures `visited` (a page that reports every complaint of
   the browser) and `console` (a service).
"""
