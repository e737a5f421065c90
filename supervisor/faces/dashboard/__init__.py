"""Serves the dashboard: one page at `/` with its files, and the sessions of the browsers that use it.

Guarantees that all of the page comes from this daemon, that a token is typed once and never kept by the page, and that a
session has the rights of its token and nothing beyond its end. A request that changes something has to come from the page itself.

The page knows the daemon by the method table alone (`/api/v1`), so that each figure is the one of the command. This room must
not know a method, an agent or a task. Begin with `face`; `page/main.js` is the beginning of the page.
"""
