"""Luigi's settings as this package recommends them."""

from __future__ import annotations

import configparser
from collections.abc import Iterable
from importlib.resources import files

from luigi.configuration import get_config

# Without these a pipeline does not run wherever it is started.
NEEDED = [("core", "no_lock")]


def apply_settings(only: Iterable[tuple[str, str]] | None = None) -> None:
    """Set what ``luigi.cfg`` beside this module says, wherever the user's own says nothing.

    Parameters
    ----------
    only
        Sections and options to set; by default all.
    """
    recommended = configparser.ConfigParser()
    recommended.read_string(files("workflows").joinpath("luigi.cfg").read_text())
    options = [(each, option) for each in recommended.sections() for option in recommended[each]]
    config = get_config()
    for section, option in options if only is None else only:
        if not config.has_option(section, option):
            config.set(section, option, recommended[section][option])
