"""Source files as a page names them."""

from __future__ import annotations

import re

_FOLDERS = re.compile(r"(?:[A-Za-z]:)?[/\\](?:[^\s/\\:]+[/\\])+(?=[^\s/\\:]+[/\\][^\s/\\:]+:\d)")


def without_folders(text: str) -> str:
    """Text in which files are named by themselves and the folder that they are in: a page is for others too.

    >>> without_folders("output, at /home/me/site-packages/torchvision/models/resnet.py:268: x = self.conv1(x)")
    'output, at models/resnet.py:268: x = self.conv1(x)'
    """
    return _FOLDERS.sub("", text)
