"""What torch and Python lack: walks over modules and nested data, copies, contexts, whole files, random state.

Words: docs/glossary.md.
"""
