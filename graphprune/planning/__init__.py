"""How many units of each group stay: options, budgets, allocation, validation, the plan.

Words: docs/glossary.md.
"""
