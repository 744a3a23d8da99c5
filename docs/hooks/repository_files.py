"""A hook of MkDocs: pages may link to files of the repository, and the navigation may name folders.

Links such as ``../examples/prune_yolo.py`` work where Markdown is read in the repository. Here the files that they name
become part of the site, each at its path in the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
CODE = re.compile(r"^( *)(```+).*?^\1\2 *$|``.*?``|`[^`\n]*`", re.DOTALL | re.MULTILINE)
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
"""Files of the repository's root that are pages of the site."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder where the navigation names the folder."""
    config.nav = _expanded(config.nav or [], Path(config.docs_dir))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of ``docs``."""
    root = _root(config)
    named = {name for file in files.documentation_pages() for name in _outside(file, root)}
    for name in sorted(named | set(PAGES)):
        files.append(File.generated(config, name, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files of the repository lead to their copies in the site."""
    return rewrite_links(markdown, _path_in_repository(page.file, _root(config)), page.file.src_uri)


def rewrite_links(markdown: str, path: str, uri: str) -> str:
    """Markdown that stands at ``path`` in the repository, for a page of the site at ``uri`` (both posix, relative)."""

    def changed(found: re.Match[str]) -> str:
        target = _target(path, found[2])
        if target is None:
            return found[0]
        inside = target.removeprefix("docs/")
        return found[1] + posixpath.relpath(inside, posixpath.dirname(uri) or ".") + found[3]

    return _outside_code(markdown, lambda text: LINK.sub(changed, text))


def _outside_code(markdown: str, change: Any) -> str:
    parts, at = [], 0
    for code in CODE.finditer(markdown):
        parts += [change(markdown[at : code.start()]), code[0]]
        at = code.end()
    return "".join([*parts, change(markdown[at:])])


def _target(path: str, link: str) -> str | None:
    """What a relative link on the page at ``path`` names, as a path in the repository; None of others."""
    if "://" in link or link.startswith(("/", "mailto:")):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return "docs/index.md" if target == "README.md" else target


def _outside(file: File, root: Path) -> set[str]:
    """The files outside of ``docs`` that a page links to."""
    path = _path_in_repository(file, root)
    links = (_target(path, found[2]) for found in LINK.finditer(CODE.sub("", file.content_string)))
    return {link for link in links if link and not link.startswith("docs/") and (root / link).is_file()}


def _path_in_repository(file: File, root: Path) -> str:
    return PurePosixPath(Path(file.abs_src_path or "").resolve().relative_to(root)).as_posix()


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path or "").resolve().parent


def _expanded(nav: list[Any], docs: Path) -> list[Any]:
    """The navigation with the pages of folders, the page ``index.md`` first."""
    found: list[Any] = []
    for entry in nav:
        ((title, what),) = entry.items()
        if isinstance(what, list):
            found.append({title: _expanded(what, docs)})
        elif what.endswith("/"):
            names = sorted(path.relative_to(docs).as_posix() for path in (docs / what).glob("*.md"))
            found.append({title: sorted(names, key=lambda name: not name.endswith("/index.md"))})
        else:
            found.append(entry)
    return found
