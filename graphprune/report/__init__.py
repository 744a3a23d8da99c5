"""One HTML page about a model, what can be removed from it, and what a plan did.

In reading order: ``writing`` (the public function), ``page_data`` (everything that the page knows), ``ratio_costs``
(what every ratio removes and costs, which the page's slider evaluates), ``module_tree``, ``page_groups``,
``frozen_shares``, ``measured``,
``short_paths``; then the page itself: ``page.html``, ``page.css`` and ``page.js``.

Words: docs/glossary.md.
"""
